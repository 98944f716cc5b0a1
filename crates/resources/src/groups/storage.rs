//! Networking, discovery, nodes, scheduling, storage, devices.

use crate::kinds::{addressing, endpoints, network, priorityclass, storage as kinds};
use crate::{Row, tables};

fn networking(kind: &str, plural: &str) -> Row {
    Row::new("networking.k8s.io", "v1", kind, plural)
}

fn storage(kind: &str, plural: &str) -> Row {
    Row::new("storage.k8s.io", "v1", kind, plural).cluster()
}

fn resource(kind: &str, plural: &str) -> Row {
    Row::new("resource.k8s.io", "v1", kind, plural)
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        networking("Ingress", "ingresses")
            .strategy(network::Ingress)
            .table(tables::network::ingress())
            .at("ingress")
            .fault_group("extensions")
            .short(&["ing"])
            .status()
            .generation(),
        networking("IngressClass", "ingressclasses")
            .strategy(network::IngressClass)
            .table(tables::network::ingress_class())
            .cluster()
            .generation(),
        networking("IPAddress", "ipaddresses")
            .strategy(addressing::Address)
            .table(tables::network::ip_address())
            .cluster()
            .short(&["ip"])
            .fields(&["spec.parentRef"]),
        networking("NetworkPolicy", "networkpolicies")
            .strategy(network::NetworkPolicy)
            .fault_group("extensions")
            .table(tables::network::network_policy())
            .short(&["netpol"])
            .generation(),
        networking("ServiceCIDR", "servicecidrs")
            .strategy(addressing::Cidr)
            .table(tables::network::service_cidr())
            .cluster()
            .status(),
        Row::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
            .table(tables::network::endpoint_slice())
            .generation()
            .strategy(endpoints::EndpointSlice),
        Row::new("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses")
            .strategy(kinds::RuntimeClass)
            .table(tables::node::runtime_class())
            .cluster(),
        Row::new("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
            .strategy(priorityclass::PriorityClass)
            .table(tables::node::priority_class())
            .cluster()
            .short(&["pc"]),
        storage("CSIDriver", "csidrivers")
            .strategy(kinds::CsiDriver)
            .table(tables::storage::csi_driver())
            .answers_deleted(),
        storage("CSINode", "csinodes")
            .strategy(kinds::CsiNode)
            .table(tables::storage::csi_node())
            .answers_deleted(),
        Row::new("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities")
            .strategy(kinds::CsiStorageCapacity)
            .table(tables::storage::csi_storage_capacity()),
        storage("StorageClass", "storageclasses")
            .strategy(kinds::StorageClass)
            .table(tables::storage::storage_class())
            .short(&["sc"])
            .answers_deleted(),
        storage("VolumeAttachment", "volumeattachments")
            .strategy(kinds::VolumeAttachment)
            .table(tables::storage::volume_attachment())
            .status()
            .answers_deleted(),
        storage("VolumeAttributesClass", "volumeattributesclasses")
            .strategy(kinds::VolumeAttributesClass)
            .table(tables::storage::volume_attributes_class())
            .short(&["vac"])
            .answers_deleted(),
        resource("DeviceClass", "deviceclasses")
            .table(tables::storage::plain_age())
            .cluster()
            .generation()
            .answers_deleted(),
        resource("DeviceTaintRule", "devicetaintrules")
            .table(tables::storage::device_taint_rule())
            .cluster()
            .status()
            .generation()
            .answers_deleted(),
        resource("ResourceClaim", "resourceclaims")
            .table(tables::storage::resource_claim())
            .status()
            .answers_deleted(),
        resource("ResourceClaimTemplate", "resourceclaimtemplates")
            .table(tables::storage::plain_age())
            .answers_deleted(),
        resource("ResourceSlice", "resourceslices")
            .table(tables::storage::resource_slice())
            .cluster()
            .fields(&["spec.driver", "spec.nodeName"])
            .generation()
            .answers_deleted(),
    ]
}

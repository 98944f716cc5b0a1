//! Networking, discovery, nodes, scheduling, storage, devices.

use crate::Row;

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
        networking("Ingress", "ingresses").at("ingress").short(&["ing"]).status().generation(),
        networking("IngressClass", "ingressclasses").cluster().generation(),
        networking("IPAddress", "ipaddresses").cluster().short(&["ip"]).fields(&["spec.parentRef"]),
        networking("NetworkPolicy", "networkpolicies").short(&["netpol"]).generation(),
        networking("ServiceCIDR", "servicecidrs").cluster().status(),
        Row::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
            .generation()
            .strategy(crate::kinds::endpointslice::Strategy),
        Row::new("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").cluster(),
        Row::new("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses").cluster().short(&["pc"]),
        storage("CSIDriver", "csidrivers").answers_deleted(),
        storage("CSINode", "csinodes").answers_deleted(),
        Row::new("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities").answers_deleted(),
        storage("StorageClass", "storageclasses").short(&["sc"]).answers_deleted(),
        storage("VolumeAttachment", "volumeattachments").status().answers_deleted(),
        storage("VolumeAttributesClass", "volumeattributesclasses").short(&["vac"]).answers_deleted(),
        resource("DeviceClass", "deviceclasses").cluster().generation().answers_deleted(),
        resource("ResourceClaim", "resourceclaims").status().answers_deleted(),
        resource("ResourceClaimTemplate", "resourceclaimtemplates").answers_deleted(),
        resource("ResourceSlice", "resourceslices")
            .cluster()
            .fields(&["spec.driver", "spec.nodeName"])
            .generation()
            .answers_deleted(),
    ]
}

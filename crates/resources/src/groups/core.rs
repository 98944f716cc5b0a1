//! The core group, and events.

use std::sync::Arc;

use registry::Verb;

use super::gvk;
use crate::kinds::{
    binding, configmap, endpoints, event, eviction, limits, namespace, node, pod, podresize, scale, secret,
    service, serviceaccount, volumeclaim, workload,
};
use crate::{Injected, Row, Settings, tables};

fn core(kind: &str, plural: &str) -> Row {
    Row::new("", "v1", kind, plural)
}

pub(super) fn rows(settings: &Settings, injected: &Injected) -> Vec<Row> {
    let mut rows = vec![
        core("ComponentStatus", "componentstatuses")
            .table(tables::core::component_status())
            .cluster()
            .short(&["cs"])
            .deprecated("v1.19", "")
            .verbs(&[Verb::Get, Verb::List]),
        core("ConfigMap", "configmaps")
            .table(tables::core::config_map())
            .short(&["cm"])
            .strategy(configmap::Strategy),
        core("Endpoints", "endpoints")
            .strategy(endpoints::Endpoints)
            .table(tables::network::endpoints())
            .short(&["ep"])
            .deprecated("v1.33", "discovery.k8s.io/v1 EndpointSlice")
            .at("services/endpoints"),
        core("LimitRange", "limitranges").strategy(limits::LimitRange).short(&["limits"]),
        namespaces(),
        core("Node", "nodes")
            .table(tables::node::node())
            .cluster()
            .at("minions")
            .short(&["no"])
            .field("spec.unschedulable", &["spec", "unschedulable"], "false")
            .status()
            .connect("proxy", Some(gvk("", "v1", "NodeProxyOptions")), Arc::new(node::Proxy))
            .strategy(node::Strategy),
        core("PersistentVolumeClaim", "persistentvolumeclaims")
            .strategy(volumeclaim::Claim)
            .table(tables::storage::persistent_volume_claim())
            .short(&["pvc"])
            .status()
            .answers_deleted(),
        core("PersistentVolume", "persistentvolumes")
            .strategy(volumeclaim::Volume)
            .table(tables::storage::persistent_volume())
            .cluster()
            .short(&["pv"])
            .status()
            .answers_deleted(),
        core("PodTemplate", "podtemplates")
            .strategy(workload::PodTemplate)
            .table(tables::core::pod_template())
            .generation()
            .answers_deleted(),
        core("ReplicationController", "replicationcontrollers")
            .strategy(workload::ReplicationController)
            .table(tables::workload::replication_controller())
            .at("controllers")
            .short(&["rc"])
            .categories(&["all"])
            .field("status.replicas", &["status", "replicas"], "0")
            .status()
            .generation()
            .view("scale", scale::gvk(), Arc::new(scale::Scale::ReplicationController)),
        core("ResourceQuota", "resourcequotas")
            .strategy(limits::ResourceQuota)
            .table(tables::core::resource_quota())
            .short(&["quota"])
            .status()
            .answers_deleted(),
        core("Secret", "secrets").table(tables::core::secret()).fields(&["type"]).strategy(secret::Strategy),
        core("ServiceAccount", "serviceaccounts")
            .strategy(serviceaccount::Strategy)
            .table(tables::core::service_account())
            .short(&["sa"])
            .answers_deleted()
            .create(
                "token",
                gvk("authentication.k8s.io", "v1", "TokenRequest"),
                injected.token_request.clone(),
            ),
        core("Service", "services")
            .table(tables::network::service())
            .at("services/specs")
            .short(&["svc"])
            .categories(&["all"])
            .fields(&["spec.clusterIP", "spec.type"])
            .status()
            .answers_deleted()
            .connect("proxy", Some(gvk("", "v1", "ServiceProxyOptions")), Arc::new(service::Proxy))
            .strategy(service::Strategy::new(settings)),
        core("Binding", "bindings").acts(Arc::new(binding::Bind)),
        pods(),
    ];
    rows.extend(event::rows());
    rows
}

fn namespaces() -> Row {
    core("Namespace", "namespaces")
        .table(tables::core::namespace())
        .cluster()
        .short(&["ns"])
        .fields(&["status.phase"])
        .status()
        .part("finalize", Arc::new(namespace::Finalize))
        .verbs(&[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch])
        .strategy(namespace::Strategy)
}

fn pods() -> Row {
    core("Pod", "pods")
        .table(tables::pod::table())
        .short(&["po"])
        .categories(&["all"])
        .fields(&["spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName"])
        .field("spec.hostNetwork", &["spec", "hostNetwork"], "false")
        .fields(&["status.phase", "status.podIP", "status.nominatedNodeName"])
        .status()
        .generation()
        .answers_deleted()
        .connect("attach", Some(gvk("", "v1", "PodAttachOptions")), Arc::new(pod::Stream("attach")))
        .create("binding", gvk("", "v1", "Binding"), Arc::new(binding::Bind))
        .part("ephemeralcontainers", Arc::new(pod::EphemeralContainers))
        .create("eviction", gvk("policy", "v1", "Eviction"), Arc::new(eviction::Evict))
        .connect("exec", Some(gvk("", "v1", "PodExecOptions")), Arc::new(pod::Stream("exec")))
        .connect("log", None, Arc::new(pod::Log))
        .connect(
            "portforward",
            Some(gvk("", "v1", "PodPortForwardOptions")),
            Arc::new(pod::Stream("portForward")),
        )
        .connect("proxy", Some(gvk("", "v1", "PodProxyOptions")), Arc::new(pod::Proxy))
        .part("resize", Arc::new(podresize::Resize))
        .strategy(pod::Strategy)
}

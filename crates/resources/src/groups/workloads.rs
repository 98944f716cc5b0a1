//! apps, batch, autoscaling, policy: what runs pods.

use std::sync::Arc;

use crate::Row;
use crate::kinds::{scale, workload};

fn apps(kind: &str, plural: &str) -> Row {
    Row::new("apps", "v1", kind, plural)
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        apps("ControllerRevision", "controllerrevisions"),
        apps("DaemonSet", "daemonsets").short(&["ds"]).categories(&["all"]).status().generation(),
        apps("Deployment", "deployments")
            .short(&["deploy"])
            .categories(&["all"])
            .status()
            .generation()
            .view("scale", scale::gvk(), Arc::new(scale::Scale::Selector))
            .strategy(workload::Deployment),
        apps("ReplicaSet", "replicasets")
            .short(&["rs"])
            .categories(&["all"])
            .field("status.replicas", &["status", "replicas"], "0")
            .status()
            .generation()
            .view("scale", scale::gvk(), Arc::new(scale::Scale::Selector)),
        apps("StatefulSet", "statefulsets").short(&["sts"]).categories(&["all"]).status().generation().view(
            "scale",
            scale::gvk(),
            Arc::new(scale::Scale::Selector),
        ),
        Row::new("batch", "v1", "CronJob", "cronjobs")
            .short(&["cj"])
            .categories(&["all"])
            .status()
            .generation(),
        Row::new("batch", "v1", "Job", "jobs")
            .categories(&["all"])
            .field("status.successful", &["status", "succeeded"], "0")
            .status()
            .generation()
            .strategy(workload::Job),
        Row::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .short(&["hpa"])
            .categories(&["all"])
            .status(),
        Row::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .short(&["pdb"])
            .status()
            .generation(),
    ]
}

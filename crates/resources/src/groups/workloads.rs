//! apps, batch, autoscaling, policy: what runs pods.

use std::sync::Arc;

use crate::kinds::{disruption, hpa, job, scale, workload};
use crate::{Row, tables};

fn apps(kind: &str, plural: &str) -> Row {
    Row::new("apps", "v1", kind, plural)
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        apps("ControllerRevision", "controllerrevisions")
            .strategy(workload::ControllerRevision)
            .table(tables::workload::controller_revision()),
        apps("DaemonSet", "daemonsets")
            .strategy(workload::DaemonSet)
            .versioned_annotations(&[workload::TEMPLATE_GENERATION])
            .table(tables::workload::daemon_set())
            .short(&["ds"])
            .categories(&["all"])
            .status()
            .generation(),
        apps("Deployment", "deployments")
            .table(tables::workload::deployment())
            .short(&["deploy"])
            .categories(&["all"])
            .status()
            .generation()
            .view("scale", scale::gvk(), Arc::new(scale::Scale::Selector))
            .strategy(workload::Deployment),
        apps("ReplicaSet", "replicasets")
            .strategy(workload::ReplicaSet)
            .table(tables::workload::replica_set())
            .short(&["rs"])
            .categories(&["all"])
            .status()
            .generation()
            .view("scale", scale::gvk(), Arc::new(scale::Scale::Selector)),
        apps("StatefulSet", "statefulsets")
            .strategy(workload::StatefulSet)
            .table(tables::workload::stateful_set())
            .short(&["sts"])
            .categories(&["all"])
            .status()
            .generation()
            .view("scale", scale::gvk(), Arc::new(scale::Scale::Selector)),
        Row::new("batch", "v1", "CronJob", "cronjobs")
            .strategy(job::CronJob)
            .table(tables::workload::cron_job())
            .short(&["cj"])
            .categories(&["all"])
            .status()
            .generation(),
        Row::new("batch", "v1", "Job", "jobs")
            .table(tables::workload::job())
            .categories(&["all"])
            .field("status.successful", &["status", "succeeded"], "0")
            .status()
            .generation()
            .strategy(job::Job),
        Row::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .strategy(hpa::Strategy)
            .also("v1", Arc::new(hpa::V1))
            .table(tables::workload::horizontal_pod_autoscaler())
            .short(&["hpa"])
            .categories(&["all"])
            .status(),
        Row::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .strategy(disruption::PodDisruptionBudget)
            .table(tables::workload::pod_disruption_budget())
            .short(&["pdb"])
            .status()
            .generation(),
    ]
}

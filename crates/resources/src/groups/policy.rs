//! Who may do what, and what may pass: rbac, admission registration, certificates, flow control,
//! coordination, custom and aggregated APIs.

use crate::{Row, tables};

fn rbac(kind: &str, plural: &str, cluster: bool) -> Row {
    Row::new("rbac.authorization.k8s.io", "v1", kind, plural)
        .strategy(crate::kinds::rbac::Strategy { cluster })
}

fn admission(kind: &str, plural: &str) -> Row {
    Row::new("admissionregistration.k8s.io", "v1", kind, plural)
        .cluster()
        .categories(&["api-extensions"])
        .generation()
}

fn flow(kind: &str, plural: &str) -> Row {
    Row::new("flowcontrol.apiserver.k8s.io", "v1", kind, plural).cluster().status().generation()
}

fn extension(kind: &str, plural: &str) -> Row {
    Row::new("apiextensions.k8s.io", "v1", kind, plural)
        .strategy(crate::kinds::crd::Strategy)
        .cluster()
        .at(&format!("apiextensions.k8s.io/{plural}"))
        .hashed_as("apiextensions.k8s.io/v1beta1")
        .short(&["crd", "crds"])
        .categories(&["api-extensions"])
        .status()
        .generation()
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        rbac("ClusterRole", "clusterroles", true).cluster(),
        rbac("ClusterRoleBinding", "clusterrolebindings", true)
            .table(tables::access::cluster_role_binding())
            .cluster(),
        rbac("Role", "roles", false),
        rbac("RoleBinding", "rolebindings", false).table(tables::access::role_binding()),
        admission("MutatingAdmissionPolicy", "mutatingadmissionpolicies")
            .table(tables::access::mutating_admission_policy()),
        admission("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
            .table(tables::access::policy_binding()),
        admission("MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
            .strategy(crate::kinds::webhook::Configuration)
            .table(tables::access::webhook_configuration()),
        admission("ValidatingAdmissionPolicy", "validatingadmissionpolicies")
            .table(tables::access::validating_admission_policy())
            .status(),
        admission("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
            .table(tables::access::policy_binding()),
        admission("ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
            .strategy(crate::kinds::webhook::Configuration)
            .table(tables::access::webhook_configuration()),
        Row::new("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
            .strategy(crate::kinds::csr::Strategy)
            .table(tables::access::certificate_signing_request())
            .cluster()
            .short(&["csr"])
            .fields(&["spec.signerName"])
            .status()
            .part("approval", std::sync::Arc::new(crate::kinds::csr::Approval)),
        Row::new("certificates.k8s.io", "v1", "ClusterTrustBundle", "clustertrustbundles")
            .strategy(crate::kinds::csr::TrustBundle)
            .table(tables::access::cluster_trust_bundle())
            .cluster()
            .fields(&["spec.signerName"]),
        Row::new("certificates.k8s.io", "v1", "PodCertificateRequest", "podcertificaterequests")
            .table(tables::access::pod_certificate_request())
            .fields(&["spec.signerName", "spec.podName", "spec.nodeName"])
            .status(),
        extension("CustomResourceDefinition", "customresourcedefinitions"),
        Row::new("apiregistration.k8s.io", "v1", "APIService", "apiservices")
            .strategy(crate::kinds::apiservice::Strategy)
            .table(tables::access::api_service())
            .cluster()
            .at("apiregistration.k8s.io/apiservices")
            .categories(&["api-extensions"])
            .status(),
        Row::new("storagemigration.k8s.io", "v1", "StorageVersionMigration", "storageversionmigrations")
            .table(tables::access::storage_version_migration())
            .cluster()
            .status(),
        flow("FlowSchema", "flowschemas")
            .strategy(crate::kinds::flowcontrol::FlowSchema)
            .table(tables::access::flow_schema()),
        flow("PriorityLevelConfiguration", "prioritylevelconfigurations")
            .strategy(crate::kinds::flowcontrol::PriorityLevel)
            .table(tables::access::priority_level_configuration()),
        Row::new("coordination.k8s.io", "v1", "Lease", "leases")
            .table(tables::node::lease())
            .strategy(crate::kinds::lease::Strategy),
    ]
}

//! Who may do what, and what may pass: rbac, admission registration, certificates, flow control,
//! coordination, custom and aggregated APIs.

use crate::{Row, tables};

fn rbac(kind: &str, plural: &str) -> Row {
    Row::new("rbac.authorization.k8s.io", "v1", kind, plural).strategy(crate::kinds::rbac::Strategy)
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

pub(super) fn rows() -> Vec<Row> {
    vec![
        rbac("ClusterRole", "clusterroles").cluster(),
        rbac("ClusterRoleBinding", "clusterrolebindings")
            .table(tables::access::cluster_role_binding())
            .cluster(),
        rbac("Role", "roles"),
        rbac("RoleBinding", "rolebindings").table(tables::access::role_binding()),
        admission("MutatingAdmissionPolicy", "mutatingadmissionpolicies")
            .table(tables::access::mutating_admission_policy()),
        admission("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
            .table(tables::access::policy_binding()),
        admission("MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
            .table(tables::access::webhook_configuration()),
        admission("ValidatingAdmissionPolicy", "validatingadmissionpolicies")
            .table(tables::access::validating_admission_policy())
            .status(),
        admission("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
            .table(tables::access::policy_binding()),
        admission("ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
            .table(tables::access::webhook_configuration()),
        Row::new("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
            .table(tables::access::certificate_signing_request())
            .cluster()
            .short(&["csr"])
            .fields(&["spec.signerName"])
            .status()
            .part("approval", std::sync::Arc::new(crate::kinds::csr::Approval)),
        flow("FlowSchema", "flowschemas").table(tables::access::flow_schema()),
        flow("PriorityLevelConfiguration", "prioritylevelconfigurations")
            .table(tables::access::priority_level_configuration()),
        Row::new("coordination.k8s.io", "v1", "Lease", "leases")
            .table(tables::node::lease())
            .strategy(crate::kinds::lease::Strategy),
    ]
}

//! Who may do what, and what may pass: rbac, admission registration, certificates, flow control,
//! coordination, custom and aggregated APIs.

use crate::Row;

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
        rbac("ClusterRoleBinding", "clusterrolebindings").cluster(),
        rbac("Role", "roles"),
        rbac("RoleBinding", "rolebindings"),
        admission("MutatingAdmissionPolicy", "mutatingadmissionpolicies"),
        admission("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings"),
        admission("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
        admission("ValidatingAdmissionPolicy", "validatingadmissionpolicies").status(),
        admission("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
        admission("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
        Row::new("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
            .cluster()
            .short(&["csr"])
            .fields(&["spec.signerName"])
            .status()
            .part("approval", std::sync::Arc::new(crate::kinds::csr::Approval)),
        flow("FlowSchema", "flowschemas"),
        flow("PriorityLevelConfiguration", "prioritylevelconfigurations"),
        Row::new("coordination.k8s.io", "v1", "Lease", "leases").strategy(crate::kinds::lease::Strategy),
    ]
}

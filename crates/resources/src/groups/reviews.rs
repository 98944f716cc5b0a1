//! Questions that are posted and answered, and kept nowhere.

use crate::{Injected, Row};

fn authentication(kind: &str, plural: &str) -> Row {
    Row::new("authentication.k8s.io", "v1", kind, plural).cluster()
}

fn authorization(kind: &str, plural: &str) -> Row {
    Row::new("authorization.k8s.io", "v1", kind, plural)
}

pub(super) fn rows(injected: &Injected) -> Vec<Row> {
    vec![
        authentication("SelfSubjectReview", "selfsubjectreviews").acts(injected.self_subject_review.clone()),
        authentication("TokenReview", "tokenreviews").acts(injected.token_review.clone()),
        authorization("LocalSubjectAccessReview", "localsubjectaccessreviews")
            .acts(injected.local_subject_access_review.clone()),
        authorization("SelfSubjectAccessReview", "selfsubjectaccessreviews")
            .cluster()
            .acts(injected.self_subject_access_review.clone()),
        authorization("SelfSubjectRulesReview", "selfsubjectrulesreviews")
            .cluster()
            .acts(injected.self_subject_rules_review.clone()),
        authorization("SubjectAccessReview", "subjectaccessreviews")
            .cluster()
            .acts(injected.subject_access_review.clone()),
    ]
}

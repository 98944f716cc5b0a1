//! Reviews and token requests: questions about access, answered by [`Access`] and [`Tokens`].

use std::sync::Arc;

use api::field::{Errors, Path};
use api::{Object, Status, User};
use async_trait::async_trait;
use registry::resource::Act;
use registry::{Engine, RequestContext};
use resources::Injected;
use serde_json::{Value, json};

use crate::access::Access;
use crate::authorize::Attributes;
use crate::bound::{self, Tokens};

/// The acts that the table of resources is given.
pub fn injected(access: &Arc<Access>, tokens: &Arc<Tokens>) -> Injected {
    let review = |question| -> Arc<dyn Act> { Arc::new(Review { question, access: access.clone() }) };
    Injected {
        token_request: Arc::new(TokenRequest(tokens.clone())),
        token_review: Arc::new(TokenReview(access.clone())),
        self_subject_review: review(Question::WhoAmI),
        subject_access_review: review(Question::Subject),
        self_subject_access_review: review(Question::SelfSubject),
        local_subject_access_review: review(Question::LocalSubject),
        self_subject_rules_review: review(Question::Rules),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    WhoAmI,
    Subject,
    SelfSubject,
    LocalSubject,
    Rules,
}

struct Review {
    question: Question,
    access: Arc<Access>,
}

#[async_trait]
impl Act for Review {
    fn type_name(&self) -> &'static str {
        match self.question {
            Question::WhoAmI => "io.k8s.api.authentication.v1.SelfSubjectReview",
            Question::Subject => "io.k8s.api.authorization.v1.SubjectAccessReview",
            Question::SelfSubject => "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
            Question::LocalSubject => "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
            Question::Rules => "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        }
    }

    fn answers_posted(&self) -> bool {
        self.question != Question::Rules
    }

    async fn act(
        &self,
        engine: &Arc<Engine>,
        cx: &RequestContext,
        (namespace, _): (&str, &str),
        mut posted: Object,
    ) -> Result<Object, Status> {
        let status = match self.question {
            Question::WhoAmI => {
                let now = engine.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                posted.set_meta("creationTimestamp", now);
                json!({"userInfo": user_info(&cx.user)})
            }
            Question::SelfSubject => {
                check(&posted, self.question, namespace)?;
                self.judge(&cx.user, &posted)
            }
            Question::Subject => {
                check(&posted, self.question, namespace)?;
                self.judge(&subject(&posted), &posted)
            }
            Question::LocalSubject => {
                check(&posted, self.question, namespace)?;
                posted.set_meta("namespace", namespace);
                self.judge(&subject(&posted), &posted)
            }
            Question::Rules => {
                // Upstream's answer says no more for which namespace it is.
                let asked = posted.remove(&["spec", "namespace"]);
                let namespace = asked.as_ref().and_then(Value::as_str).unwrap_or_default();
                if namespace.is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                self.access.rules(&cx.user, namespace)
            }
        };
        posted.0.insert("status".into(), status);
        typed(&mut posted, self.type_name());
        Ok(posted)
    }
}

/// Sets the type where the client left it out.
fn typed(object: &mut Object, type_name: &str) {
    let mut parts = type_name.rsplit('.');
    let (kind, version, group) = (parts.next(), parts.next(), parts.next());
    let group = group.unwrap_or_default();
    let api_version = format!("{group}.k8s.io/{}", version.unwrap_or_default());
    object.set_type(&api_version, kind.unwrap_or_default());
}

pub(crate) fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] =
            user.extra.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<serde_json::Map<_, _>>().into();
    }
    info
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn subject(review: &Object) -> User {
    User {
        name: review.get_str(&["spec", "user"]).to_owned(),
        uid: review.get_str(&["spec", "uid"]).to_owned(),
        groups: texts(review.get(&["spec", "groups"])),
        extra: review
            .get(&["spec", "extra"])
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), texts(Some(v))))
            .collect(),
    }
}

/// Metadata that the server drops or writes itself: no client has said them.
const UNSAID: &[&str] = &[
    "managedFields",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
];

/// Whether a review can be judged: it asks one thing about somebody, and a local one asks it of its own
/// namespace's resources alone.
///
/// # Errors
/// 422 with every fault. Upstream's names no kind.
fn check(review: &Object, question: Question, namespace: &str) -> Result<(), Status> {
    let mut errors = Errors::default();
    let resource = review.get(&["spec", "resourceAttributes"]);
    let paths = review.get(&["spec", "nonResourceAttributes"]);
    match (resource, paths) {
        (Some(_), Some(paths)) => errors.invalid(
            &Path::new("spec.nonResourceAttributes"),
            paths,
            "cannot be specified in combination with resourceAttributes",
        ),
        (None, None) => errors.invalid(
            &Path::new("spec.resourceAttributes"),
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    let groups = review.get(&["spec", "groups"]).and_then(Value::as_array);
    let nobody = review.get_str(&["spec", "user"]).is_empty() && groups.is_none_or(Vec::is_empty);
    if question != Question::SelfSubject && nobody {
        errors.invalid(&Path::new("spec.user"), "", "at least one of user or group must be specified");
    }
    let local = question == Question::LocalSubject;
    let said = |(name, value): (&String, &Value)| {
        !(value.is_null() || UNSAID.contains(&name.as_str()) || local && name == "namespace")
    };
    if let Some(metadata) = review.metadata()
        && metadata.iter().any(said)
    {
        let why = if local { "must be empty except for namespace" } else { "must be empty" };
        errors.invalid(&Path::new("metadata"), Value::Object(metadata.clone()), why);
    }
    if local {
        let asked = review.get_str(&["spec", "resourceAttributes", "namespace"]);
        if resource.is_some() && asked != namespace {
            let path = Path::new("spec.resourceAttributes.namespace");
            errors.invalid(&path, asked, "must match metadata.namespace");
        }
        if let Some(paths) = paths {
            let path = Path::new("spec.nonResourceAttributes");
            errors.invalid(&path, paths, "disallowed on this kind of request");
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let nameless = api::GroupKind { group: "authorization.k8s.io".into(), kind: String::new() };
    Err(Status::invalid(&nameless, "", &errors))
}

impl Review {
    fn judge(&self, user: &User, review: &Object) -> Value {
        let resource = review.get(&["spec", "resourceAttributes"]);
        let path = review.get(&["spec", "nonResourceAttributes"]);
        let text = |of: Option<&Value>, field: &str| -> String {
            of.and_then(|o| o.get(field)).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let at = resource.or(path);
        let fields = ["verb", "group", "version", "resource", "subresource", "namespace", "name", "path"]
            .map(|f| text(at, f));
        let [verb, group, version, plural, subresource, namespace, name, path] = &fields;
        let attributes = Attributes {
            user,
            fields: &[],
            verb,
            group,
            version,
            resource: plural,
            subresource,
            namespace,
            name,
            path,
            is_resource: resource.is_some(),
        };
        let (allowed, reason) = self.access.allows(&attributes);
        let mut status = json!({"allowed": allowed});
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        status
    }
}

struct TokenRequest(Arc<Tokens>);

#[async_trait]
impl Act for TokenRequest {
    fn type_name(&self) -> &'static str {
        "io.k8s.api.authentication.v1.TokenRequest"
    }

    async fn act(
        &self,
        engine: &Arc<Engine>,
        _: &RequestContext,
        (namespace, name): (&str, &str),
        mut posted: Object,
    ) -> Result<Object, Status> {
        own(&posted, name)?;
        let listed = posted.get(&["spec", "audiences"]).and_then(Value::as_array);
        if listed.is_none_or(Vec::is_empty) {
            posted.set(&["spec", "audiences"], self.0.audiences.clone());
        }
        let status = self.0.request(engine, (namespace, name), &posted).await?;
        let now = engine.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        posted.set_meta("name", name);
        posted.set_meta("namespace", namespace);
        posted.set_meta("creationTimestamp", now);
        posted.0.insert("status".into(), status);
        typed(&mut posted, self.type_name());
        Ok(posted)
    }
}

/// A request for a token names no account but the path's; that it names no other namespace has been seen to.
fn own(request: &Object, account: &str) -> Result<(), Status> {
    let given = request.name();
    if given.is_empty() || given == account {
        return Ok(());
    }
    let mut errors = Errors::default();
    let why = "must match the service account name if specified";
    errors.invalid(&Path::new("metadata.name"), given, why);
    let kind = api::GroupKind { group: "authentication.k8s.io".into(), kind: "TokenRequest".into() };
    Err(Status::invalid(&kind, account, &errors))
}

struct TokenReview(Arc<Access>);

#[async_trait]
impl Act for TokenReview {
    fn type_name(&self) -> &'static str {
        "io.k8s.api.authentication.v1.TokenReview"
    }

    async fn act(
        &self,
        _: &Arc<Engine>,
        _: &RequestContext,
        _: (&str, &str),
        mut posted: Object,
    ) -> Result<Object, Status> {
        let token = posted.get_str(&["spec", "token"]).to_owned();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = texts(posted.get(&["spec", "audiences"]));
        let status = bound::review(&self.0, &token, &audiences);
        posted.0.insert("status".into(), status);
        typed(&mut posted, self.type_name());
        Ok(posted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        let Value::Object(map) = value else { panic!("an object is a map") };
        Object(map)
    }

    fn fails(review: Value, question: Question, message: &str) {
        assert_eq!(check(&object(review), question, "ns").unwrap_err().message, message);
    }

    #[test]
    fn reviews_ask_one_thing_about_somebody() {
        let pods = json!({"verb": "get", "resource": "pods", "namespace": "ns"});
        let path = json!({"verb": "get", "path": "/healthz"});
        fails(
            json!({"spec": {}}),
            Question::Subject,
            r#".authorization.k8s.io "" is invalid: [spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified, spec.user: Invalid value: "": at least one of user or group must be specified]"#,
        );
        fails(
            json!({"spec": {"resourceAttributes": pods, "nonResourceAttributes": path}}),
            Question::SelfSubject,
            r#".authorization.k8s.io "" is invalid: spec.nonResourceAttributes: Invalid value: {"path":"/healthz","verb":"get"}: cannot be specified in combination with resourceAttributes"#,
        );
        fails(
            json!({"metadata": {"name": "x"}, "spec": {"user": "a", "resourceAttributes": pods}}),
            Question::Subject,
            r#".authorization.k8s.io "" is invalid: metadata: Invalid value: {"name":"x"}: must be empty"#,
        );
        fails(
            json!({"spec": {"user": "a", "resourceAttributes": {"verb": "get"}}}),
            Question::LocalSubject,
            r#".authorization.k8s.io "" is invalid: spec.resourceAttributes.namespace: Invalid value: "": must match metadata.namespace"#,
        );
        let sent = json!({"metadata": {"creationTimestamp": null, "managedFields": [], "namespace": "ns"},
            "spec": {"groups": ["g"], "resourceAttributes": pods}});
        assert!(check(&object(sent), Question::LocalSubject, "ns").is_ok());
    }

    #[test]
    fn tokens_are_asked_for_under_the_accounts_own_name() {
        let request = object(json!({"metadata": {"name": "other"}}));
        assert!(own(&request, "other").is_ok());
        assert!(own(&object(json!({})), "sa").is_ok());
        assert_eq!(
            own(&request, "sa").unwrap_err().message,
            r#"TokenRequest.authentication.k8s.io "sa" is invalid: metadata.name: Invalid value: "other": must match the service account name if specified"#
        );
    }
}

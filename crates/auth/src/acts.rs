//! Reviews and token requests: questions about access, answered by [`Access`] and [`Tokens`].

use std::sync::Arc;

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
            Question::SelfSubject => self.judge(&cx.user, &posted)?,
            Question::Subject => self.judge(&subject(&posted)?, &posted)?,
            Question::LocalSubject => {
                local(&posted, namespace)?;
                posted.set_meta("namespace", namespace);
                self.judge(&subject(&posted)?, &posted)?
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

fn subject(review: &Object) -> Result<User, Status> {
    let user = User {
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
    };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(invalid(review, "spec.user", "", "at least one of user or group must be specified"));
    }
    Ok(user)
}

/// A local review is about its own namespace's resources alone.
fn local(review: &Object, namespace: &str) -> Result<(), Status> {
    // Upstream's faults of it name no kind.
    let nameless = Object::default();
    if let Some(paths) = review.get(&["spec", "nonResourceAttributes"]) {
        return Err(invalid(
            &nameless,
            "spec.nonResourceAttributes",
            paths,
            "disallowed on this kind of request",
        ));
    }
    let asked = review.get_str(&["spec", "resourceAttributes", "namespace"]);
    if asked != namespace {
        let field = "spec.resourceAttributes.namespace";
        return Err(invalid(&nameless, field, asked, "must match metadata.namespace"));
    }
    Ok(())
}

fn invalid(review: &Object, field: &str, value: impl api::field::Shown, why: &str) -> Status {
    let mut errors = api::field::Errors::default();
    errors.invalid(&api::field::Path::new(field), value, why);
    let kind = api::GroupKind { group: "authorization.k8s.io".into(), kind: review.kind().to_owned() };
    Status::invalid(&kind, "", &errors)
}

impl Review {
    fn judge(&self, user: &User, review: &Object) -> Result<Value, Status> {
        let resource = review.get(&["spec", "resourceAttributes"]);
        let path = review.get(&["spec", "nonResourceAttributes"]);
        let text = |of: Option<&Value>, field: &str| -> String {
            of.and_then(|o| o.get(field)).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        if resource.is_some() == path.is_some() {
            return Err(invalid(
                review,
                if resource.is_some() { "spec.nonResourceAttributes" } else { "spec.resourceAttributes" },
                "",
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
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
        Ok(status)
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

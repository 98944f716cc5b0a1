//! Service account tokens: asked for, and asked about.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use crate::token::{Binding, Found, Issuer, Kind, Lookup, Reference};
use api::{Object, Status};
use jiff::Timestamp;
use registry::Engine;
use serde_json::{Value, json};

use crate::access::Access;

const SHORTEST: i64 = 600;
const USUAL: i64 = 3600;
const LONGEST: i64 = 1 << 32;

/// Where the objects that vouch for tokens are kept: group and plural by the token's word for them.
const VOUCHERS: &[(Kind, &str)] = &[
    (Kind::ServiceAccount, "serviceaccounts"),
    (Kind::Pod, "pods"),
    (Kind::Secret, "secrets"),
    (Kind::Node, "nodes"),
];

/// Answers look-ups from the watch cache of an engine that is made later.
#[derive(Default)]
pub struct CacheLookup(OnceLock<Weak<Engine>>);

impl CacheLookup {
    pub fn attach(&self, engine: &Arc<Engine>) {
        // A second engine would be a second server: the first stays.
        let _ = self.0.set(Arc::downgrade(engine));
    }
}

impl Lookup for CacheLookup {
    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<Found> {
        let engine = self.0.get()?.upgrade()?;
        let (_, plural) = VOUCHERS.iter().find(|(k, _)| *k == kind)?;
        let key = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        let object = engine.cache("", plural)?.get(&key)?.object().ok()?;
        let deleted_at = object.meta_str("deletionTimestamp").parse::<Timestamp>().ok().map(SystemTime::from);
        Some(Found { uid: object.uid().to_owned(), deleted_at })
    }
}

/// Signs and reads tokens.
pub struct Tokens {
    pub issuer: Issuer,
    /// The audiences of a token that asks for none.
    pub audiences: Vec<String>,
}

impl Tokens {
    /// A TokenRequest's status.
    ///
    /// # Errors
    /// There is no such account, or what the token is to be bound to; a lifetime out of bounds.
    pub async fn request(
        &self,
        engine: &Engine,
        (namespace, name): (&str, &str),
        request: &Object,
    ) -> Result<Value, Status> {
        let accounts = engine.resource("", "serviceaccounts").ok_or_else(Status::path_not_found)?.clone();
        let account = engine.get(&accounts, namespace, name, None).await?.object()?;
        // What is left out arrives as 0.
        let asked = request.get(&["spec", "expirationSeconds"]).and_then(Value::as_i64);
        let asked = asked.filter(|seconds| *seconds != 0).unwrap_or(USUAL);
        let mut errors = api::field::Errors::default();
        let path = api::field::Path::new("spec.expirationSeconds");
        if asked < SHORTEST {
            errors.invalid(&path, asked, "may not specify a duration less than 10 minutes");
        }
        if asked > LONGEST {
            errors.invalid(&path, asked, "may not specify a duration larger than 2^32 seconds");
        }
        if !errors.is_empty() {
            let kind = api::GroupKind { group: "authentication.k8s.io".into(), kind: "TokenRequest".into() };
            return Err(Status::invalid(&kind, "", &errors));
        }
        let mut binding = Binding {
            namespace: namespace.to_owned(),
            serviceaccount: Reference { name: name.to_owned(), uid: account.uid().to_owned() },
            ..Binding::default()
        };
        self.bind(engine, namespace, name, request, &mut binding).await?;
        let listed = request.get(&["spec", "audiences"]).and_then(Value::as_array);
        let audiences: Vec<String> =
            listed.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let lifetime = Duration::from_secs(asked.unsigned_abs());
        let id = engine.new_uid();
        let now = engine.now();
        let token = self
            .issuer
            .issue(binding, audiences, lifetime, id, now.into())
            .map_err(|e| Status::internal(e.to_string()))?;
        let expires = now.checked_add(lifetime).map_err(Status::internal)?;
        Ok(json!({"token": token, "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}))
    }

    /// What the token is bound to besides its account.
    async fn bind(
        &self,
        engine: &Engine,
        namespace: &str,
        account: &str,
        request: &Object,
        binding: &mut Binding,
    ) -> Result<(), Status> {
        let Some(bound) = request.get(&["spec", "boundObjectRef"]) else { return Ok(()) };
        let text = |field: &str| bound.get(field).and_then(Value::as_str).unwrap_or_default();
        let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        // Nothing outside of the core group is bound to.
        let of_core = if group.is_empty() { kind } else { "" };
        let (plural, scope, slot) = match of_core {
            "Pod" => ("pods", namespace, &mut binding.pod),
            "Secret" => ("secrets", namespace, &mut binding.secret),
            "Node" => ("nodes", "", &mut binding.node),
            _ => {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {} to object of type {group}/{version}, Kind={kind}",
                    api::field::quote(account)
                )));
            }
        };
        let resource = engine.resource("", plural).ok_or_else(Status::path_not_found)?.clone();
        let object = engine.get(&resource, scope, name, None).await?.object()?;
        if !uid.is_empty() && uid != object.uid() {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            // Upstream names the kind here where it names the resource everywhere else.
            return Err(Status::conflict(&api::GroupResource::new("", kind), name, &why));
        }
        if kind == "Pod" && object.get_str(&["spec", "serviceAccountName"]) != account {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
                api::field::quote(account)
            )));
        }
        *slot = Some(Reference { name: name.to_owned(), uid: object.uid().to_owned() });
        let node = object.get_str(&["spec", "nodeName"]);
        if kind == "Pod"
            && !node.is_empty()
            && let Some(found) = engine.cache("", "nodes").and_then(|c| c.get(node))
        {
            binding.node = Some(Reference { name: node.to_owned(), uid: found.object()?.uid().to_owned() });
        }
        Ok(())
    }
}

/// A TokenReview's status.
pub(crate) fn review(access: &Access, token: &str, audiences: &[String]) -> Value {
    match access.authenticator.token(token, audiences, SystemTime::now()) {
        Ok((user, audiences)) => {
            let mut status = json!({"authenticated": true, "user": crate::acts::user_info(&user)});
            if !audiences.is_empty() {
                status["audiences"] = json!(audiences);
            }
            status
        }
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    }
}

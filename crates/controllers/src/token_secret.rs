//! Secrets of type `kubernetes.io/service-account-token`: filled with a token of the account that they
//! name, and taken away with it.

use std::sync::Arc;
use std::time::Duration;

use client::{Index, Informer, ObjectKey, Reconcile, Selection, WorkQueue, Workers, write};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::context::{Context, Error};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The longest life that may be asked for, in seconds: what the secret holds ends with the secret.
const LIFETIME: i64 = 1 << 32;

struct Controller {
    context: Context,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret.metadata.annotations.as_ref()?.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

/// The account that a secret names.
fn account_of(secret: &Secret) -> Option<ObjectKey> {
    let name = annotation(secret, ACCOUNT)?;
    Some(ObjectKey::new(secret.metadata.namespace.clone().unwrap_or_default(), name))
}

fn by_account() -> Index<Secret> {
    Index {
        name: "service account",
        values: |secret| account_of(secret).map(|key| key.to_string()).into_iter().collect(),
    }
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let selection = Selection { fields: Some(format!("type={TYPE}")), ..Selection::default() };
    let secrets = context.informers.select::<Secret>(selection);
    let accounts = context.informers.of::<ServiceAccount>();
    secrets.enqueue(&queue, |change| (!change.is_deleted()).then(|| ObjectKey::of(&**change.object())));
    let held = secrets.clone();
    accounts.enqueue(&queue, move |change| {
        let held = held.by(by_account(), &ObjectKey::of(&**change.object()).to_string());
        held.iter().map(|secret| ObjectKey::of(&**secret)).collect::<Vec<_>>()
    });
    secrets.synced().await;
    accounts.synced().await;
    let (workers, cancel) = (Workers(context.config.workers), context.cancel.clone());
    let controller = Arc::new(Controller { context, secrets, accounts });
    client::run("token-secret", queue, workers, controller, cancel).await;
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(secret) = self.secrets.get(key) else { return Ok(None) };
        let Some(account_key) = account_of(&secret).filter(|_| secret.metadata.deletion_timestamp.is_none())
        else {
            return Ok(None);
        };
        let account = match self.accounts.get(&account_key) {
            Some(account) => Some(account),
            // The cache may be behind.
            None => self.live(&account_key).await?.map(Arc::new),
        };
        let uid = account.as_ref().and_then(|account| account.metadata.uid.clone());
        let (Some(account), Some(uid)) = (account, uid.filter(|uid| fits(&secret, uid))) else {
            return self.remove(&secret, key).await;
        };
        let mut wanted = Secret::clone(&secret);
        fill(&mut wanted, &uid, &self.context.config.root_ca);
        if needs_token(&secret) {
            let token = self.token(&account, &account_key, &secret).await?;
            wanted.data.get_or_insert_default().insert("token".into(), ByteString(token.into_bytes()));
        }
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match write::found(write::replace(&api, &*secret, &wanted).await) {
            Err(error) if write::namespace_terminating(&error) => Ok(None),
            other => other.map(|_| None).map_err(Error::api(format!("filling secret {key}"))),
        }
    }
}

/// Whether a secret was not made for another account of the same name.
fn fits(secret: &Secret, uid: &str) -> bool {
    annotation(secret, ACCOUNT_UID).is_none_or(|made_for| made_for == uid)
}

fn needs_token(secret: &Secret) -> bool {
    secret.data.as_ref().and_then(|data| data.get("token")).is_none_or(|token| token.0.is_empty())
}

/// What a token is used with: whose it is, where, and who signs the server's certificate.
fn fill(secret: &mut Secret, uid: &str, root_ca: &str) {
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    secret.metadata.annotations.get_or_insert_default().insert(ACCOUNT_UID.into(), uid.into());
    let data = secret.data.get_or_insert_default();
    if !root_ca.is_empty() {
        data.insert("ca.crt".into(), ByteString(root_ca.as_bytes().to_vec()));
    }
    data.insert("namespace".into(), ByteString(namespace.into_bytes()));
}

impl Controller {
    async fn live(&self, key: &ObjectKey) -> Result<Option<ServiceAccount>, Error> {
        let api: Api<ServiceAccount> = Api::namespaced(self.context.client.clone(), &key.namespace);
        api.get_opt(&key.name).await.map_err(Error::api(format!("reading service account {key}")))
    }

    async fn remove(&self, secret: &Secret, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let same = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        let deleted = write::found(api.delete(&key.name, &params).await.map(drop));
        deleted.map_err(Error::api(format!("deleting secret {key}")))?;
        Ok(None)
    }

    /// A token that is good as long as the secret is there.
    async fn token(
        &self,
        account: &ServiceAccount,
        key: &ObjectKey,
        secret: &Secret,
    ) -> Result<String, Error> {
        let api: Api<ServiceAccount> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Secret".into()),
            name: secret.metadata.name.clone(),
            uid: secret.metadata.uid.clone(),
        };
        let request = TokenRequest {
            metadata: kube::api::ObjectMeta { uid: account.metadata.uid.clone(), ..Default::default() },
            spec: Some(TokenRequestSpec {
                bound_object_ref: Some(bound),
                expiration_seconds: Some(LIFETIME),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let made = api.create_token_request(&key.name, &PostParams::default(), &request).await;
        let made = made.map_err(Error::api(format!("asking for a token of {key}")))?;
        let token = made.status.and_then(|status| status.token).filter(|token| !token.is_empty());
        token.ok_or_else(|| Error::Waiting(format!("the token of {key} is empty")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(annotations: serde_json::Value, data: serde_json::Value) -> Secret {
        let value = json!({"metadata": {"name": "s", "namespace": "ns", "annotations": annotations},
            "data": data, "type": TYPE});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_secret_is_its_accounts_and_no_namesakes() {
        let new = secret(json!({ACCOUNT: "robot"}), json!(null));
        assert_eq!(account_of(&new).unwrap().to_string(), "ns/robot");
        assert!(fits(&new, "u1") && needs_token(&new));
        let mut filled = new;
        fill(&mut filled, "u1", "PEM");
        assert!(fits(&filled, "u1") && !fits(&filled, "u2") && needs_token(&filled));
        let data = serde_json::to_value(&filled.data).unwrap();
        assert_eq!(data, json!({"ca.crt": "UEVN", "namespace": "bnM="}));
        assert!(!needs_token(&secret(json!({}), json!({"token": "eA=="}))));
        assert_eq!(account_of(&secret(json!({}), json!({}))), None);
    }
}

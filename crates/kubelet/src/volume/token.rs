//! Service account tokens bound to pods, kept until they are due for renewal.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::names;
use crate::pod::spec;

/// Tokens by pod, audience and lifetime.
pub struct Tokens {
    client: Client,
    known: Mutex<HashMap<Key, Token>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    audience: String,
    seconds: i64,
}

#[derive(Debug, Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
}

/// The longest a token is used before it is renewed, however long it lasts.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl Tokens {
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// A token as `source` asks for, no older than four fifths of its life.
    ///
    /// # Errors
    /// Upstream's words around the API's.
    pub async fn get(&self, pod: &Pod, source: &ServiceAccountTokenProjection) -> Result<String, String> {
        let key = Key {
            uid: names::uid(pod).to_owned(),
            audience: source.audience.clone().unwrap_or_default(),
            seconds: source.expiration_seconds.unwrap_or(3600),
        };
        let now = Timestamp::now();
        let known = self.known.lock().get(&key).filter(|token| token.renew_at > now).cloned();
        if let Some(token) = known {
            return Ok(token.text);
        }
        let account = spec::spec(pod).service_account_name.clone().unwrap_or_else(|| "default".into());
        let token = self.request(pod, &account, &key, now).await;
        let token =
            token.map_err(|error| format!("failed to fetch token: {}", client::write::message(&error)))?;
        let text = token.text.clone();
        self.known.lock().insert(key, token);
        Ok(text)
    }

    async fn request(
        &self,
        pod: &Pod,
        account: &str,
        key: &Key,
        now: Timestamp,
    ) -> Result<Token, kube::Error> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(key.audience.clone())
                    .filter(|audience| !audience.is_empty())
                    .map(|audience| vec![audience]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(names::name(pod).into()),
                    uid: Some(key.uid.clone()),
                }),
                expiration_seconds: Some(key.seconds),
                ..Default::default()
            }),
            ..Default::default()
        };
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), names::namespace(pod));
        let made = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        let status = made.status.unwrap_or_default();
        // A token that does not say when it ends is asked for again in an hour.
        let hour = now.checked_add(Duration::from_secs(3600)).unwrap_or(now);
        let expires = status.expiration_timestamp.map_or(hour, |at| at.0);
        let life = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
        let used = (life * 4 / 5).min(LONGEST);
        Ok(Token {
            text: status.token.unwrap_or_default(),
            renew_at: now.checked_add(used).unwrap_or(expires),
        })
    }

    /// When the first of a pod's tokens is due for renewal.
    pub fn renew_at(&self, uid: &str) -> Option<Timestamp> {
        self.known.lock().iter().filter(|(key, _)| key.uid == uid).map(|(_, token)| token.renew_at).min()
    }

    /// Forgets a pod's tokens.
    pub fn forget(&self, uid: &str) {
        self.known.lock().retain(|key, _| key.uid != uid);
    }
}

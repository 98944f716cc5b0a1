//! Service account tokens: JWTs bound to an account and, if wanted, to a pod, a node or a secret
//! (KEP-1205), and static tokens from a file.

mod keys;

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Header, Validation};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::user::{User, service_account_name};

pub use keys::{Error as KeyError, SigningKey, VerifyingKey, jwks, openid_configuration};

/// Tokens whose signature has been checked are remembered, up to this many.
const REMEMBERED: usize = 4096;
/// An object that is being deleted still vouches for its tokens for this long.
const DELETION_LEEWAY: Duration = Duration::from_secs(60);
/// Clocks may differ by this much.
const CLOCK_LEEWAY: u64 = 60;

/// An object that a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claims of Kubernetes' own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub namespace: String,
    pub serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// When a client that still uses the token has missed a rotation, in seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<u64>,
}

/// The whole payload of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: u64,
    pub iat: u64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Binding,
    pub nbf: u64,
    pub sub: String,
}

/// Signs tokens.
#[derive(Clone)]
pub struct Issuer {
    pub issuer: String,
    pub key: SigningKey,
}

impl Issuer {
    /// A token for an account; `id` is its `jti`, new for each token.
    ///
    /// # Errors
    /// [`KeyError::Signing`].
    pub fn issue(
        &self,
        binding: Binding,
        audiences: Vec<String>,
        lifetime: Duration,
        id: String,
        now: SystemTime,
    ) -> Result<String, KeyError> {
        let now = seconds(now);
        let claims = Claims {
            aud: audiences,
            exp: now + lifetime.as_secs(),
            iat: now,
            iss: self.issuer.clone(),
            jti: id,
            sub: service_account_name(&binding.namespace, &binding.serviceaccount.name),
            nbf: now,
            kubernetes: binding,
        };
        let mut header = Header::new(self.key.public.algorithm);
        header.typ = None;
        header.kid = Some(self.key.public.id.clone());
        Ok(jsonwebtoken::encode(&header, &claims, &self.key.key)?)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The kinds of objects that vouch for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ServiceAccount,
    Pod,
    Secret,
    Node,
}

/// An object as the cache has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub uid: String,
    pub deleted_at: Option<SystemTime>,
}

/// Whether the objects that a token names still exist; answered from the watch cache.
pub trait Lookup: Send + Sync {
    /// `namespace` is empty for nodes.
    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<Found>;
}

/// Why a token is nobody's; the text that a TokenReview shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("invalid bearer token")]
    NotOurs,
    #[error("[invalid bearer token, {0}]")]
    Signature(String),
    #[error("[invalid bearer token, service account token has expired]")]
    Expired,
    #[error("[invalid bearer token, service account token is not valid yet]")]
    NotYet,
    #[error(
        "[invalid bearer token, token audiences {given:?} is invalid for the target audiences {wanted:?}]"
    )]
    Audience { given: Vec<String>, wanted: Vec<String> },
    #[error("[invalid bearer token, service account token has been invalidated]")]
    Invalidated,
}

/// Checks tokens.
pub struct Verifier {
    /// The first is the one that new tokens carry.
    issuers: Vec<String>,
    audiences: Vec<String>,
    keys: Vec<VerifyingKey>,
    /// Claims of tokens with a good signature, by the token's digest.
    seen: Mutex<HashMap<[u8; 32], Claims>>,
}

impl Verifier {
    /// `audiences` are the server's own, for requests that name none.
    pub fn new(issuers: Vec<String>, audiences: Vec<String>, keys: Vec<VerifyingKey>) -> Verifier {
        Verifier { issuers, audiences, keys, seen: Mutex::default() }
    }

    pub fn keys(&self) -> &[VerifyingKey] {
        &self.keys
    }

    /// The user of a token, and those of `audiences` (empty: the server's own) that it is meant for.
    ///
    /// # Errors
    /// [`Error`].
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        lookup: &dyn Lookup,
        now: SystemTime,
    ) -> Result<(User, Vec<String>), Error> {
        let claims = self.claims(token, seconds(now))?;
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let common: Vec<String> = wanted.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if common.is_empty() {
            return Err(Error::Audience { given: claims.aud, wanted: wanted.to_vec() });
        }
        vouched(&claims.kubernetes, lookup, now)?;
        Ok((user(&claims), common))
    }

    /// The claims of a token with a good signature that is valid now.
    fn claims(&self, token: &str, now: u64) -> Result<Claims, Error> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let seen = self.seen.lock().get(&digest).cloned();
        let claims = match seen {
            Some(claims) => claims,
            None => {
                let claims = self.decode(token)?;
                let mut seen = self.seen.lock();
                if seen.len() >= REMEMBERED {
                    seen.retain(|_, claims| claims.exp > now);
                }
                if seen.len() >= REMEMBERED {
                    seen.clear();
                }
                seen.insert(digest, claims.clone());
                claims
            }
        };
        if claims.exp < now {
            return Err(Error::Expired);
        }
        if claims.nbf > now + CLOCK_LEEWAY {
            return Err(Error::NotYet);
        }
        Ok(claims)
    }

    fn decode(&self, token: &str) -> Result<Claims, Error> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Error::NotOurs)?;
        let claimed: Claims =
            jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| Error::NotOurs)?;
        if !self.issuers.contains(&claimed.iss) {
            return Err(Error::NotOurs);
        }
        let named = header.kid.as_deref();
        let mut last = Error::Signature("no key verifies the token".into());
        let candidates = self.keys.iter().filter(|k| named.is_none_or(|id| id == k.id));
        for key in candidates.filter(|k| k.algorithm == header.alg) {
            let mut validation = Validation::new(key.algorithm);
            // Times and audiences are ours to judge, by the caller's clock.
            validation.validate_exp = false;
            validation.validate_aud = false;
            match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) => last = Error::Signature(error.to_string()),
            }
        }
        Err(last)
    }
}

/// Every object that the token is bound to must still be the same.
fn vouched(binding: &Binding, lookup: &dyn Lookup, now: SystemTime) -> Result<(), Error> {
    let same = |kind, namespace: &str, reference: &Reference| {
        let found = lookup.find(kind, namespace, &reference.name);
        let alive = |found: Found| {
            (reference.uid.is_empty() || found.uid == reference.uid)
                && found.deleted_at.is_none_or(|at| at + DELETION_LEEWAY > now)
        };
        if found.is_some_and(alive) { Ok(()) } else { Err(Error::Invalidated) }
    };
    same(Kind::ServiceAccount, &binding.namespace, &binding.serviceaccount)?;
    if let Some(pod) = &binding.pod {
        same(Kind::Pod, &binding.namespace, pod)?;
    }
    if let Some(secret) = &binding.secret {
        same(Kind::Secret, &binding.namespace, secret)?;
    }
    // The node of a pod is told, not checked: the pod vouches for it.
    match (&binding.node, &binding.pod) {
        (Some(node), None) => same(Kind::Node, "", node),
        _ => Ok(()),
    }
}

fn user(claims: &Claims) -> User {
    let binding = &claims.kubernetes;
    let account = &binding.serviceaccount;
    let mut user = User::service_account(&binding.namespace, &account.name, &account.uid);
    let mut tell = |key: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    for (kind, reference) in [("pod", &binding.pod), ("node", &binding.node)] {
        if let Some(reference) = reference {
            tell(&format!("{kind}-name"), reference.name.clone());
            if !reference.uid.is_empty() {
                tell(&format!("{kind}-uid"), reference.uid.clone());
            }
        }
    }
    if !claims.jti.is_empty() {
        tell("credential-id", format!("JTI={}", claims.jti));
    }
    user
}

/// Tokens that stand in a file: `token,user,uid,"group,group"` (`--token-auth-file`), and those that
/// let an agent join.
#[derive(Clone, Default)]
pub struct StaticTokens(HashMap<[u8; 32], User>);

impl StaticTokens {
    pub fn add(&mut self, token: &str, user: User) {
        self.0.insert(Sha256::digest(token).into(), user);
    }

    /// Looked up by digest, so that time tells nothing of the token.
    pub fn find(&self, token: &str) -> Option<&User> {
        self.0.get(&<[u8; 32]>::from(Sha256::digest(token)))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

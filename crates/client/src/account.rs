//! Clients that act as service accounts, each with tokens of its own that are renewed in time: what
//! upstream's `--use-service-account-credentials` gives every controller.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, header};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ObjectMeta, PostParams};
use kube::client::Body;
use kube::{Api, Client};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::BoxError;

use crate::remote::{self, Credentials, Server};
use crate::write;

/// How long a token is asked to last.
const LASTS: Duration = Duration::from_secs(3600);

/// Makes the clients.
#[derive(Clone)]
pub struct Accounts {
    /// Asks for the tokens, and makes accounts that are missing.
    asking: Client,
    server: Server,
    namespace: String,
    agent: &'static str,
}

struct Token {
    header: HeaderValue,
    renew: Instant,
}

impl Accounts {
    /// Of service accounts in `namespace` on `server`; `asking` may request their tokens. `agent` is the
    /// User-Agent of all.
    pub fn new(asking: Client, server: Server, namespace: impl Into<String>, agent: &'static str) -> Self {
        Self { asking, server, namespace: namespace.into(), agent }
    }

    /// A client that acts as the service account of this name. The first token is asked for with the first
    /// request.
    ///
    /// # Errors
    /// The server's certificates or URL are not fit.
    pub fn client(&self, account: &str) -> Result<Client, remote::Error> {
        let anonymous = remote::connect(&self.server, &Credentials::default(), &self.namespace, self.agent)?;
        let (accounts, account) = (self.clone(), account.to_owned());
        let held = Arc::new(Mutex::new(None::<Token>));
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let (accounts, account) = (accounts.clone(), account.clone());
            let (held, anonymous) = (held.clone(), anonymous.clone());
            async move {
                let header = {
                    // Whoever comes meanwhile waits for the one token.
                    let mut held = held.lock().await;
                    match &*held {
                        Some(token) if token.renew > Instant::now() => token.header.clone(),
                        _ => held.insert(accounts.token(&account).await?).header.clone(),
                    }
                };
                request.headers_mut().insert(header::AUTHORIZATION, header);
                anonymous.send(request).await.map_err(BoxError::from)
            }
        });
        Ok(Client::new(service, &self.namespace))
    }

    async fn token(&self, account: &str) -> Result<Token, BoxError> {
        let api: Api<ServiceAccount> = Api::namespaced(self.asking.clone(), &self.namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: i64::try_from(LASTS.as_secs()).ok(),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let post = PostParams::default();
        let answered = match api.create_token_request(account, &post, &request).await {
            Err(error) if write::is_not_found(&error) => {
                let metadata = ObjectMeta { name: Some(account.to_owned()), ..ObjectMeta::default() };
                let missing = ServiceAccount { metadata, ..ServiceAccount::default() };
                match api.create(&post, &missing).await {
                    Err(error) if !write::already_exists(&error) => return Err(error.into()),
                    _ => api.create_token_request(account, &post, &request).await?,
                }
            }
            answered => answered?,
        };
        let token = answered.status.and_then(|status| status.token);
        let token = token.ok_or("the token request was answered without a token")?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))?;
        header.set_sensitive(true);
        Ok(Token { header, renew: Instant::now() + LASTS.mul_f64(0.8) })
    }
}

//! From a connection and its requests to a [`User`].

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::certificate::{ClientCertificates, expiry};
use crate::token::{self, Lookup, StaticTokens, Verifier};
use crate::user::User;

/// A front proxy's word for who asks: `X-Remote-User` and its kin, trusted from those whose
/// certificate comes from the request header authority.
#[derive(Clone, Debug)]
pub struct FrontProxy {
    pub certificates: ClientCertificates,
    /// The common names that may speak for others; empty: all.
    pub allowed_names: Vec<String>,
}

/// What a connection's certificate says, found out once per connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    user: Option<User>,
    refused: bool,
    front_proxy: bool,
    /// The certificate counts up to here, also for a connection that is open for longer.
    until: Option<SystemTime>,
}

impl Connection {
    fn is_over(&self, now: SystemTime) -> bool {
        self.until.is_some_and(|until| now > until)
    }
}

/// No credential was good; the answer is a 401.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unauthorized")]
pub struct Unauthorized;

impl From<Unauthorized> for api::Status {
    fn from(_: Unauthorized) -> api::Status {
        api::Status::unauthorized()
    }
}

/// Everybody who can say who asks.
#[derive(Clone)]
pub struct Authenticator {
    pub certificates: Option<ClientCertificates>,
    pub front_proxy: Option<FrontProxy>,
    pub static_tokens: Arc<StaticTokens>,
    pub service_accounts: Option<Arc<Verifier>>,
    pub lookup: Arc<dyn Lookup>,
    /// Whether requests without credentials are let in as `system:anonymous`.
    pub anonymous: bool,
}

impl Authenticator {
    /// Looks at the certificates of a new connection (empty: none were shown).
    pub fn connection(&self, chain: &[CertificateDer], now: UnixTime) -> Connection {
        let Some(leaf) = chain.first() else { return Connection::default() };
        let front_proxy = self.front_proxy.as_ref().is_some_and(|proxy| {
            let name = proxy.certificates.identify(chain, now).map(|user| user.name);
            name.is_ok_and(|n| proxy.allowed_names.is_empty() || proxy.allowed_names.contains(&n))
        });
        let user = self.certificates.as_ref().and_then(|known| known.identify(chain, now).ok());
        Connection { refused: user.is_none() && !front_proxy, user, front_proxy, until: expiry(leaf).ok() }
    }

    /// Who sends a request.
    ///
    /// # Errors
    /// Where credentials were given but none is good, or none were given and nobody is let in so.
    pub fn authenticate(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<User, Unauthorized> {
        let over = connection.is_over(now);
        if let Some(user) = Some(headers).filter(|_| connection.front_proxy && !over).and_then(remote_user) {
            return Ok(user);
        }
        if let Some(user) = connection.user.as_ref().filter(|_| !over) {
            return Ok(user.clone());
        }
        match bearer(headers) {
            Some(token) => self.token(&token, &[], now).map(|(user, _)| user).map_err(|_| Unauthorized),
            None if connection.refused || over || !self.anonymous => Err(Unauthorized),
            None => Ok(User::anonymous()),
        }
    }

    /// Who a token stands for, and for which of the audiences (empty: the server's own). Also what a
    /// TokenReview asks.
    ///
    /// # Errors
    /// [`token::Error`], as a TokenReview shows it.
    pub fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: SystemTime,
    ) -> Result<(User, Vec<String>), token::Error> {
        if let Some(user) = self.static_tokens.find(token) {
            return Ok((user.clone(), audiences.to_vec()));
        }
        let verifier = self.service_accounts.as_ref().ok_or(token::Error::NotOurs)?;
        verifier.verify(token, audiences, &*self.lookup, now)
    }
}

/// The token of `Authorization: Bearer …`, or of a WebSocket's subprotocol, which is all that a
/// browser can send.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let given = authorization.and_then(|text| {
        let (scheme, token) = text.trim().split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
    });
    given.or_else(|| {
        let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
        let mut protocols = offered.split(',').map(str::trim);
        let encoded = protocols.find_map(|p| p.strip_prefix("base64url.bearer.authorization.k8s.io."))?;
        String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
    })
}

fn remote_user(headers: &HeaderMap) -> Option<User> {
    let text = |name: &str| {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect::<Vec<_>>()
    };
    let name = text("x-remote-user").into_iter().next().filter(|n| !n.is_empty())?;
    let mut user = User { name, groups: text("x-remote-group"), ..User::default() };
    user.uid = text("x-remote-uid").into_iter().next().unwrap_or_default();
    for header in headers.keys().map(http::HeaderName::as_str) {
        if let Some(key) = header.strip_prefix("x-remote-extra-") {
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
            user.extra.insert(key, text(header));
        }
    }
    Some(user.authenticated())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Found, Kind};

    struct Nothing;
    impl Lookup for Nothing {
        fn find(&self, _: Kind, _: &str, _: &str) -> Option<Found> {
            None
        }
    }

    fn authenticator(certificates: Option<ClientCertificates>) -> Authenticator {
        let mut tokens = StaticTokens::default();
        tokens.add("secret", User::new("agent", ["joiners"]));
        Authenticator {
            certificates,
            front_proxy: None,
            static_tokens: Arc::new(tokens),
            service_accounts: None,
            lookup: Arc::new(Nothing),
            anonymous: true,
        }
    }

    #[test]
    fn a_certificate_that_runs_out_ends_what_its_connection_may() {
        let (roots, leaf) = crate::certificate::tests::node();
        let certificates = ClientCertificates::new(roots).unwrap();
        let mut authenticator = authenticator(Some(certificates.clone()));
        let end = expiry(&leaf).unwrap();
        let late = end + std::time::Duration::from_secs(1);
        let headers = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        let chain = [leaf];
        let who = |authenticator: &Authenticator, headers: &HeaderMap, now| {
            let connection = authenticator.connection(&chain, UnixTime::now());
            authenticator.authenticate(&connection, headers, now).map(|user| user.name)
        };
        let (none, bearer) = (HeaderMap::new(), headers("authorization", "Bearer secret"));
        assert_eq!(who(&authenticator, &none, SystemTime::now()), Ok("system:node:n1".into()));
        assert_eq!(who(&authenticator, &none, end), Ok("system:node:n1".into()));
        assert_eq!(who(&authenticator, &none, late), Err(Unauthorized));
        assert_eq!(who(&authenticator, &bearer, late), Ok("agent".into()));
        authenticator.front_proxy = Some(FrontProxy { certificates, allowed_names: Vec::new() });
        let remote = headers("x-remote-user", "root");
        assert_eq!(who(&authenticator, &remote, end), Ok("root".into()));
        assert_eq!(who(&authenticator, &remote, late), Err(Unauthorized));
    }

    fn check(header: (&'static str, &'static str), expect: Option<&str>) {
        let authenticator = authenticator(None);
        let mut headers = HeaderMap::new();
        headers.insert(header.0, header.1.parse().unwrap());
        let user = authenticator.authenticate(&Connection::default(), &headers, SystemTime::UNIX_EPOCH);
        assert_eq!(user.ok().map(|u| u.name).as_deref(), expect, "{header:?}");
    }

    #[test]
    fn bearers() {
        check(("authorization", "Bearer secret"), Some("agent"));
        check(("authorization", "bearer secret"), Some("agent"));
        check(
            ("sec-websocket-protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0"),
            Some("agent"),
        );
        check(("authorization", "Bearer bad"), None);
        check(("authorization", "Bearer "), Some("system:anonymous"));
        check(("authorization", "Basic YTpi"), Some("system:anonymous"));
        // Nobody vouches for a proxy's headers on a connection without its certificate.
        check(("x-remote-user", "root"), Some("system:anonymous"));
    }
}

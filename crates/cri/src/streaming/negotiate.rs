//! Choosing a transport and a protocol.

use base64::Engine;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};

/// Header by which SPDY clients offer protocols and servers choose one.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const WEBSOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const SPDY: &str = "SPDY/3.1";

/// What the connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Exec or attach.
    Command,
    /// Port-forward.
    PortForward,
}

/// How the connection will be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// SPDY, with the remote command protocol's version (1 to 4); any number for port-forward.
    Spdy(u8),
    /// Channels in WebSocket messages, with the protocol's version (0, 4 or 5), as base64 text or not.
    WebSocket(u8, bool),
    /// SPDY in WebSocket messages.
    Tunnel,
}

/// A request that can be served: the headers of its `101 Switching Protocols`, and what follows.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The answer's headers.
    pub headers: HeaderMap,
    pub(crate) transport: Transport,
}

/// A request that cannot: answer `400 Bad Request`, or `403 Forbidden` for no common protocol, as upstream
/// does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The request does not ask for an upgrade to anything known.
    #[error("unable to upgrade: missing upgrade headers in request")]
    NoUpgrade,
    /// Client and server have no protocol in common.
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {accepted:?}"
    )]
    NoProtocol {
        /// What the client offers.
        offered: Vec<String>,
        /// What is spoken here.
        accepted: Vec<&'static str>,
    },
}

fn tokens(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|token| token.trim().to_owned()).collect()
}

/// Protocols over SPDY, and what each means.
fn spdy_protocols(purpose: Purpose) -> &'static [(&'static str, Transport)] {
    match purpose {
        Purpose::Command => &[
            ("v4.channel.k8s.io", Transport::Spdy(4)),
            ("v3.channel.k8s.io", Transport::Spdy(3)),
            ("v2.channel.k8s.io", Transport::Spdy(2)),
            ("channel.k8s.io", Transport::Spdy(1)),
        ],
        Purpose::PortForward => &[("portforward.k8s.io", Transport::Spdy(1))],
    }
}

fn websocket_protocols(purpose: Purpose) -> &'static [(&'static str, Transport)] {
    match purpose {
        Purpose::Command => &[
            ("v5.channel.k8s.io", Transport::WebSocket(5, false)),
            ("v4.channel.k8s.io", Transport::WebSocket(4, false)),
            ("v4.base64.channel.k8s.io", Transport::WebSocket(4, true)),
            ("channel.k8s.io", Transport::WebSocket(0, false)),
            ("base64.channel.k8s.io", Transport::WebSocket(0, true)),
        ],
        Purpose::PortForward => &[("SPDY/3.1+portforward.k8s.io", Transport::Tunnel)],
    }
}

/// Chooses the transport and the protocol for a request with these headers.
///
/// # Errors
/// Where the request asks for nothing that is spoken here.
pub fn negotiate(headers: &HeaderMap, purpose: Purpose) -> Result<Accepted, Rejected> {
    let upgrades = tokens(headers, &UPGRADE);
    let asks = |what: &str| upgrades.iter().any(|token| token.eq_ignore_ascii_case(what));
    let connects = tokens(headers, &CONNECTION).iter().any(|token| token.eq_ignore_ascii_case("upgrade"));
    let mut answer = HeaderMap::new();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let (offered, known, header) = if connects && asks(SPDY) {
        answer.insert(UPGRADE, HeaderValue::from_static(SPDY));
        (tokens(headers, &STREAM_PROTOCOL), spdy_protocols(purpose), STREAM_PROTOCOL)
    } else if connects && asks("websocket") {
        let key = headers.get(WEBSOCKET_KEY).ok_or(Rejected::NoUpgrade)?;
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
        answer.insert(WEBSOCKET_ACCEPT, HeaderValue::try_from(accept).map_err(|_| Rejected::NoUpgrade)?);
        (tokens(headers, &WEBSOCKET_PROTOCOL), websocket_protocols(purpose), WEBSOCKET_PROTOCOL)
    } else {
        return Err(Rejected::NoUpgrade);
    };
    // Who offers nothing speaks the first version.
    let chosen = if offered.is_empty() {
        known.iter().rev().find(|(name, _)| !name.contains("base64"))
    } else {
        offered.iter().find_map(|offer| known.iter().find(|(name, _)| name == offer))
    };
    let Some((name, transport)) = chosen else {
        return Err(Rejected::NoProtocol {
            offered,
            accepted: known.iter().map(|(name, _)| *name).collect(),
        });
    };
    if !offered.is_empty() {
        answer.insert(header, HeaderValue::from_static(name));
    }
    Ok(Accepted { headers: answer, transport: *transport })
}

/// Base64 as the `base64.` protocols have it.
pub(super) const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

/// Decodes one message of a `base64.` protocol.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(purpose: Purpose, headers: &[(&str, &str)], want: Result<(Transport, Option<&str>), &str>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        match (negotiate(&map, purpose), want) {
            (Ok(got), Ok((transport, protocol))) => {
                assert_eq!(got.transport, transport);
                let chosen = got.headers.get(STREAM_PROTOCOL).or(got.headers.get(WEBSOCKET_PROTOCOL));
                assert_eq!(chosen.map(|it| it.to_str().unwrap()), protocol);
            }
            (Err(got), Err(want)) => assert!(got.to_string().contains(want), "{got}"),
            (got, want) => panic!("{got:?} instead of {want:?}"),
        }
    }

    #[test]
    fn protocols_are_chosen_by_the_clients_order() {
        use Purpose::{Command, PortForward};
        let spdy = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        let offer = |name, value| [spdy[0], spdy[1], (name, value)];
        check(Command, &spdy, Ok((Transport::Spdy(1), None)));
        let all = offer("x-stream-protocol-version", "v4.channel.k8s.io, v3.channel.k8s.io,channel.k8s.io");
        check(Command, &all, Ok((Transport::Spdy(4), Some("v4.channel.k8s.io"))));
        let unknown = offer("x-stream-protocol-version", "v9.channel.k8s.io");
        check(Command, &unknown, Err("unable to negotiate"));
        check(Command, &[], Err("missing upgrade headers"));
        let websocket = |protocol| {
            [
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-protocol", protocol),
            ]
        };
        let five = Transport::WebSocket(5, false);
        check(Command, &websocket("v5.channel.k8s.io"), Ok((five, Some("v5.channel.k8s.io"))));
        let tunnel = "SPDY/3.1+portforward.k8s.io";
        check(PortForward, &websocket(tunnel), Ok((Transport::Tunnel, Some(tunnel))));
    }
}

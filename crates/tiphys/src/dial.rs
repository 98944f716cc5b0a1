//! How the API server reaches kubelets, pods and services.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use apiserver::Dialer;
use async_trait::async_trait;
use registry::Target;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long it may take to connect, and again until TLS stands.
const PATIENCE: Duration = Duration::from_secs(30);

/// Direct connections. Kubelets are known by their authority and shown the server's own client certificate;
/// whatever else a client asks for by `https:NAME:PORT` is neither: the client vouches for it, and it is to
/// learn nothing of the server's (upstream's proxy transport).
pub struct Direct {
    pub kubelet: Option<Arc<ClientConfig>>,
}

#[async_trait]
impl Dialer for Direct {
    async fn dial(&self, target: &Target) -> std::io::Result<Box<dyn apiserver::Wire>> {
        let addresses = addresses(target).await?;
        let socket = in_time(TcpStream::connect(&*addresses)).await?;
        socket.set_nodelay(true)?;
        if target.scheme != "https" {
            return Ok(Box::new(socket));
        }
        let name = ServerName::try_from(target.host.clone()).map_err(Error::other)?;
        let connector = TlsConnector::from(self.config(target)?);
        Ok(Box::new(in_time(connector.connect(name, socket)).await?))
    }
}

impl Direct {
    fn config(&self, target: &Target) -> std::io::Result<Arc<ClientConfig>> {
        if target.kubelet {
            return self.kubelet.clone().ok_or_else(|| Error::other("no client certificate for kubelets"));
        }
        client::unverified::config().map_err(Error::other)
    }
}

async fn in_time<T>(what: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    timeout(PATIENCE, what).await.unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, "i/o timeout")))
}

/// Where a target is. Resolved once, so that what was looked at is what is dialled.
async fn addresses(target: &Target) -> std::io::Result<Vec<SocketAddr>> {
    let found = in_time(tokio::net::lookup_host((target.host.as_str(), target.port))).await?;
    let found: Vec<SocketAddr> = found.collect();
    // A node is where it says: its address was told by a node, and only a kubelet's key gets an answer.
    if !target.kubelet && !found.iter().all(|address| may_be_reached(address.ip())) {
        return Err(Error::new(ErrorKind::PermissionDenied, "address not allowed"));
    }
    Ok(found)
}

/// Whether pods and services may be at an address. Others are the server's own host, its link's (a cloud's
/// metadata are at 169.254.169.254) or nobody's; upstream asks Go's `IsGlobalUnicast`.
fn may_be_reached(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let link = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use lifecycle::pki::{Pki, Request};

    use super::*;
    use crate::tls;

    fn target(scheme: &'static str, kubelet: bool, host: &str, port: u16) -> Target {
        Target { scheme, host: host.into(), port, path: "/".into(), kubelet }
    }

    #[test]
    fn pods_are_not_at_every_address() {
        for yes in ["10.1.2.3", "192.168.0.1", "8.8.8.8", "fd00::1", "2001:db8::1", "::ffff:10.0.0.1"] {
            assert!(may_be_reached(yes.parse().unwrap()), "{yes}");
        }
        let no = ["0.0.0.0", "127.0.0.1", "127.1.2.3", "169.254.169.254", "224.0.0.1", "255.255.255.255"];
        let also = ["::", "::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"];
        for no in no.into_iter().chain(also) {
            assert!(!may_be_reached(no.parse().unwrap()), "{no}");
        }
    }

    #[tokio::test]
    async fn only_kubelets_are_reached_on_this_host() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let direct = Direct { kubelet: None };
        for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
            let refused = direct.dial(&target("http", false, host, port)).await.err().unwrap();
            assert_eq!(refused.to_string(), "address not allowed", "{host}");
        }
        assert!(direct.dial(&target("http", true, "127.0.0.1", port)).await.is_ok());
    }

    /// Whether TLS stands with a server of `serving`'s authority, and whether it was shown a certificate.
    async fn shown(direct: &Direct, kubelet: bool, serving: &Pki) -> Option<bool> {
        let host = "10.1.2.3";
        let request = Request::kubelet_serving("n", &[host.parse().unwrap()]);
        let pair = serving.cluster.issue(&request, SystemTime::now()).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(tls::server(&pair.certificate, &pair.key).unwrap());
        let (near, far) = tokio::io::duplex(1 << 16);
        let config = direct.config(&target("https", kubelet, host, 443)).unwrap();
        let name = ServerName::try_from(host).unwrap();
        let (here, there) =
            tokio::join!(TlsConnector::from(config).connect(name, near), acceptor.accept(far));
        here.ok()?;
        Some(there.unwrap().get_ref().1.peer_certificates().is_some())
    }

    #[tokio::test]
    async fn the_servers_certificate_is_for_kubelets() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = Pki::open(own.path(), SystemTime::now()).unwrap();
        let other = Pki::open(other.path(), SystemTime::now()).unwrap();
        let pair = own.cluster.issue(&Request::api_server_kubelet_client(), SystemTime::now()).unwrap();
        let kubelet = tls::client(&own.cluster.certificate, &pair.certificate, &pair.key).unwrap();
        let direct = Direct { kubelet: Some(kubelet) };
        assert_eq!(shown(&direct, true, &own).await, Some(true));
        assert_eq!(shown(&direct, true, &other).await, None);
        assert_eq!(shown(&direct, false, &own).await, Some(false));
        assert_eq!(shown(&direct, false, &other).await, Some(false));
    }
}

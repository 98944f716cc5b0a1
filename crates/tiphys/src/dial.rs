//! How the API server reaches kubelets, pods and services.

use std::sync::Arc;

use apiserver::Dialer;
use async_trait::async_trait;
use registry::Target;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Direct connections; TLS to kubelets with the server's own client certificate.
pub struct Direct {
    pub kubelet: Option<Arc<rustls::ClientConfig>>,
}

#[async_trait]
impl Dialer for Direct {
    async fn dial(&self, target: &Target) -> std::io::Result<Box<dyn apiserver::Wire>> {
        let socket = TcpStream::connect((target.host.as_str(), target.port)).await?;
        socket.set_nodelay(true)?;
        if target.scheme != "https" {
            return Ok(Box::new(socket));
        }
        let config = self
            .kubelet
            .clone()
            .ok_or_else(|| std::io::Error::other("no client certificate for kubelets"))?;
        let name = ServerName::try_from(target.host.clone()).map_err(std::io::Error::other)?;
        Ok(Box::new(TlsConnector::from(config).connect(name, socket).await?))
    }
}

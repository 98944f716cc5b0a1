//! TLS configurations out of PEM texts.

use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WantsServerCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};

pub fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().context("reading a certificate")
}

fn key(pem: &str) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).context("reading a key")
}

pub fn roots(pem: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).context("reading an authority's certificate")?;
    }
    Ok(roots)
}

/// Serves with a certificate; asks clients for theirs, and leaves judging them to authentication.
pub fn server(certificate: &str, private: &str) -> anyhow::Result<Arc<ServerConfig>> {
    let builder =
        ServerConfig::builder().with_client_cert_verifier(auth::certificate::RequestCertificate::new());
    with_certificate(builder, certificate, private)
}

/// Shows a certificate, and speaks HTTP/2 and HTTP/1.1.
pub fn with_certificate(
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
    certificate: &str,
    private: &str,
) -> anyhow::Result<Arc<ServerConfig>> {
    let mut config = builder
        .with_single_cert(certificates(certificate)?, key(private)?)
        .context("the serving certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Trusts an authority and shows a certificate.
pub fn client(authority: &str, certificate: &str, private: &str) -> anyhow::Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder()
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(certificates(certificate)?, key(private)?)
        .context("the client certificate")?;
    Ok(Arc::new(config))
}

/// Shows one certificate to whoever asks.
pub fn resolver(
    certificate: &str,
    private: &str,
) -> anyhow::Result<Arc<dyn rustls::server::ResolvesServerCert>> {
    let signing = rustls::crypto::ring::sign::any_supported_type(&key(private)?).context("reading a key")?;
    let certified = rustls::sign::CertifiedKey::new(certificates(certificate)?, signing);
    Ok(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
}

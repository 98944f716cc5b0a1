//! Client certificates: the subject's common name is the user, its organisations are the groups.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::user::User;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("client certificate: {0}")]
    Chain(#[from] rustls::Error),
    #[error("client certificate: {0}")]
    Parse(String),
    #[error("client certificate: no common name")]
    NoName,
    #[error("certificate authority: {0}")]
    Roots(#[from] rustls::server::VerifierBuilderError),
    #[error("no certificate was given")]
    Empty,
}

/// Knows whom the certificates of one authority stand for.
#[derive(Clone, Debug)]
pub struct ClientCertificates {
    chain: Arc<dyn ClientCertVerifier>,
}

impl ClientCertificates {
    /// # Errors
    /// Where `roots` is empty.
    pub fn new(roots: RootCertStore) -> Result<ClientCertificates, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(ClientCertificates { chain })
    }

    /// The user that a connection's certificates stand for, until [`expiry`]. To be asked once per
    /// connection.
    ///
    /// # Errors
    /// A chain that does not lead to our authority, is out of date or names nobody.
    pub fn identify(&self, chain: &[CertificateDer], now: UnixTime) -> Result<User, Error> {
        let (leaf, rest) = chain.split_first().ok_or(Error::Empty)?;
        self.chain.verify_client_cert(leaf, rest, now)?;
        user(leaf)
    }
}

/// When a certificate is no longer good.
///
/// # Errors
/// [`Error::Parse`].
pub fn expiry(certificate: &[u8]) -> Result<SystemTime, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| Error::Parse(e.to_string()))?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The user of a certificate that somebody has verified.
///
/// # Errors
/// [`Error::Parse`] and [`Error::NoName`].
pub fn user(certificate: &[u8]) -> Result<User, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| Error::Parse(e.to_string()))?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().find_map(|n| n.as_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return Err(Error::NoName);
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok());
    let mut user = User::new(name, groups);
    let digest = Sha256::digest(certificate);
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("X509SHA256={hex}")]);
    Ok(user)
}

/// What a TLS server asks its clients: to show a certificate if they have one. Whether it leads to a
/// user is [`ClientCertificates::identify`]'s to say, so that a bad one is answered by a 401 and not
/// by a broken handshake; possession of the key is proved here.
#[derive(Debug)]
pub struct RequestCertificate {
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl RequestCertificate {
    pub fn new() -> Arc<RequestCertificate> {
        Arc::new(RequestCertificate { provider: Arc::new(rustls::crypto::ring::default_provider()) })
    }
}

impl ClientCertVerifier for RequestCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    fn authority(name: &str) -> (Issuer<'static, KeyPair>, CertificateDer<'static>) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        (Issuer::new(params, key), certificate)
    }

    /// An authority, and a node's certificate of it.
    pub fn node() -> (RootCertStore, CertificateDer<'static>) {
        let (issuer, root) = authority("kubernetes");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        (roots, leaf)
    }

    #[test]
    fn the_subject_is_the_user() {
        let (roots, leaf) = node();
        let known = ClientCertificates::new(roots).unwrap();
        let user = known.identify(std::slice::from_ref(&leaf), UnixTime::now()).unwrap();
        assert_eq!(user.node(), Some("n1"));
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);

        let mut roots = RootCertStore::empty();
        roots.add(authority("other").1).unwrap();
        let stranger = ClientCertificates::new(roots).unwrap();
        assert!(matches!(stranger.identify(&[leaf], UnixTime::now()), Err(Error::Chain(_))));
    }
}

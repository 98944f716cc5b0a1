//! The cluster's keys and certificates, in one directory under kubeadm's names: `ca.crt`, `ca.key`,
//! `front-proxy-ca.crt`, `apiserver.crt`, `sa.key`, `sa.pub`, … Keys are ECDSA on P-256.
//!
//! What is on disk is used again as long as it is good: a certificate is made anew where it is absent,
//! has less than a third of its life left, belongs to another authority or key, or names other names
//! than are asked for. An authority is never replaced by itself: that would lock out every client.

mod request;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files;

pub use request::{ApiServerNames, Request, Usage};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// As kubeadm's.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks of other machines may be behind.
const BACKDATED: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    /// Half of an authority is there.
    #[error("{present} is there but {absent} is not; restore it, or remove both to start anew")]
    Half { present: PathBuf, absent: PathBuf },
    #[error("{path}: the certificate authority has expired; remove it and its key to start anew")]
    Expired { path: PathBuf },
    #[error("making {what}: {source}")]
    Make { what: String, source: rcgen::Error },
}

/// A certificate and its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
    pub expires: SystemTime,
}

impl std::fmt::Debug for Pair {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// A certificate authority.
pub struct Authority {
    /// PEM.
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
    key_id: Option<Vec<u8>>,
}

/// Which authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// `ca`: everybody in the cluster.
    Cluster,
    /// `front-proxy-ca`: those whose `X-Remote-*` headers are believed.
    FrontProxy,
}

/// The key of service account tokens, both halves PEM.
pub struct ServiceAccountKey {
    pub private: String,
    pub public: String,
}

/// The directory with its authorities open.
pub struct Pki {
    directory: PathBuf,
    pub cluster: Authority,
    pub front_proxy: Authority,
    pub service_accounts: ServiceAccountKey,
}

impl Pki {
    /// Opens a directory, making what is absent: the directory, the authorities, the service account
    /// key.
    ///
    /// # Errors
    /// [`Error`]: unreadable or half-present files are refused, never replaced.
    pub fn open(directory: &Path, now: SystemTime) -> Result<Pki, Error> {
        std::fs::create_dir_all(directory)
            .map_err(|source| Error::Io { path: directory.to_owned(), source })?;
        Ok(Pki {
            cluster: Authority::open(directory, "ca", "kubernetes", now)?,
            front_proxy: Authority::open(directory, "front-proxy-ca", "front-proxy-ca", now)?,
            service_accounts: ServiceAccountKey::open(directory)?,
            directory: directory.to_owned(),
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn authority(&self, signer: Signer) -> &Authority {
        match signer {
            Signer::Cluster => &self.cluster,
            Signer::FrontProxy => &self.front_proxy,
        }
    }

    /// The certificate for a request, from the directory or made anew into it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn ensure(&self, request: &Request, now: SystemTime) -> Result<Pair, Error> {
        let (certificate, key) = self.paths(&request.file);
        let authority = self.authority(request.signer);
        if let (Some(certificate), Some(key)) = (read(&certificate)?, read(&key)?)
            && let Some(expires) = request.satisfied_by(&certificate, &key, authority.key_id.as_deref(), now)
        {
            return Ok(Pair { certificate, key, expires });
        }
        let pair = authority.issue(request, now)?;
        // The key first: a certificate without its key would be of no use to anybody.
        write(&key, &pair.key, 0o600)?;
        write(&certificate, &pair.certificate, 0o644)?;
        Ok(pair)
    }

    /// The files of a request's certificate and key.
    pub fn paths(&self, file: &str) -> (PathBuf, PathBuf) {
        (self.directory.join(format!("{file}.crt")), self.directory.join(format!("{file}.key")))
    }
}

impl Authority {
    fn open(directory: &Path, file: &str, name: &str, now: SystemTime) -> Result<Authority, Error> {
        let (certificate_path, key_path) =
            (directory.join(format!("{file}.crt")), directory.join(format!("{file}.key")));
        match (read(&certificate_path)?, read(&key_path)?) {
            (Some(certificate), Some(key)) => {
                let key = KeyPair::from_pem(&key)
                    .map_err(|e| Error::Malformed { path: key_path, reason: e.to_string() })?;
                let malformed = |reason: String| Error::Malformed { path: certificate_path.clone(), reason };
                let (key_id, expires) = read_authority(&certificate, &key).map_err(malformed)?;
                if expires <= now {
                    return Err(Error::Expired { path: certificate_path });
                }
                let issuer =
                    Issuer::from_ca_cert_pem(&certificate, key).map_err(|e| malformed(e.to_string()))?;
                Ok(Authority { certificate, issuer, key_id })
            }
            (None, None) => Authority::make(&certificate_path, &key_path, name, now),
            (Some(_), None) => Err(Error::Half { present: certificate_path, absent: key_path }),
            (None, Some(_)) => Err(Error::Half { present: key_path, absent: certificate_path }),
        }
    }

    fn make(
        certificate_path: &Path,
        key_path: &Path,
        name: &str,
        now: SystemTime,
    ) -> Result<Authority, Error> {
        let failed = |source| Error::Make { what: format!("authority {name}"), source };
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + AUTHORITY_LIFE).into();
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        write(key_path, &key.serialize_pem(), 0o600)?;
        write(certificate_path, &certificate, 0o644)?;
        let key_id = Some(params.key_identifier(&key));
        Ok(Authority { certificate, issuer: Issuer::new(params, key), key_id })
    }

    /// Signs a certificate for a new key, without writing it anywhere.
    ///
    /// # Errors
    /// [`Error::Make`].
    pub fn issue(&self, request: &Request, now: SystemTime) -> Result<Pair, Error> {
        let failed = |source| Error::Make { what: request.file.clone(), source };
        let expires = now + LEAF_LIFE;
        let params = request.params(now - BACKDATED, expires).map_err(failed)?;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem(), expires })
    }
}

/// The key identifier and the end of an authority's certificate, which must be `key`'s.
fn read_authority(pem: &str, key: &KeyPair) -> Result<(Option<Vec<u8>>, SystemTime), String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| e.to_string())?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).map_err(|e| e.to_string())?;
    if !certificate.is_ca() {
        return Err("not a certificate authority".into());
    }
    if *certificate.public_key().subject_public_key.data != *key.public_key_raw() {
        return Err("the certificate is of another key".into());
    }
    let key_id = request::subject_key_id(&certificate);
    Ok((key_id, request::time(certificate.validity().not_after)))
}

impl ServiceAccountKey {
    fn open(directory: &Path) -> Result<ServiceAccountKey, Error> {
        let (private_path, public_path) = (directory.join("sa.key"), directory.join("sa.pub"));
        if let Some(private) = read(&private_path)? {
            let public = match read(&public_path)? {
                Some(public) => public,
                None => {
                    let key = KeyPair::from_pem(&private)
                        .map_err(|e| Error::Malformed { path: private_path, reason: e.to_string() })?;
                    let public = key.public_key_pem();
                    write(&public_path, &public, 0o644)?;
                    public
                }
            };
            return Ok(ServiceAccountKey { private, public });
        }
        let key = KeyPair::generate().map_err(|source| Error::Make { what: "sa.key".into(), source })?;
        let made = ServiceAccountKey { private: key.serialize_pem(), public: key.public_key_pem() };
        write(&private_path, &made.private, 0o600)?;
        write(&public_path, &made.public, 0o644)?;
        Ok(made)
    }
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    files::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), Error> {
    files::write_atomically(path, content.as_bytes(), mode)
        .map_err(|source| Error::Io { path: path.to_owned(), source })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

//! The keys of service account tokens: one that signs, any number that verify.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rcgen::PublicKeyData;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, Pem, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("service account key: {0}")]
    Malformed(String),
    #[error("service account key: neither RSA nor ECDSA on P-256")]
    Unsupported,
    #[error("service account key: {0}")]
    Signing(#[from] jsonwebtoken::errors::Error),
}

/// A key that verifies tokens, published in the JWKS document.
#[derive(Clone)]
pub struct VerifyingKey {
    pub(super) id: String,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
    jwk: Value,
}

impl VerifyingKey {
    /// Reads a PEM file of a public key, a certificate, or a private key in PKCS #8.
    ///
    /// # Errors
    /// [`Error::Malformed`] and [`Error::Unsupported`].
    pub fn from_pem(text: &str) -> Result<VerifyingKey, Error> {
        let malformed = |e: &dyn std::fmt::Display| Error::Malformed(e.to_string());
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|e| malformed(&e))?;
        let Pem { label, contents } = pem;
        match label.as_str() {
            "PUBLIC KEY" => VerifyingKey::from_spki(&contents),
            "CERTIFICATE" => {
                let (_, certificate) = X509Certificate::from_der(&contents).map_err(|e| malformed(&e))?;
                VerifyingKey::from_spki(certificate.public_key().raw)
            }
            _ => {
                let pair = rcgen::KeyPair::from_pem(text).map_err(|e| malformed(&e))?;
                VerifyingKey::from_spki(&pair.subject_public_key_info())
            }
        }
    }

    fn from_spki(spki: &[u8]) -> Result<VerifyingKey, Error> {
        let malformed = |e: &dyn std::fmt::Display| Error::Malformed(e.to_string());
        let (_, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|e| malformed(&e))?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(spki));
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match info.parsed().map_err(|e| malformed(&e))? {
            PublicKey::RSA(rsa) => {
                let strip =
                    |bytes: &[u8]| -> Vec<u8> { bytes.iter().skip_while(|b| **b == 0).copied().collect() };
                let (n, e) = (encode(&strip(rsa.modulus)), encode(&strip(rsa.exponent)));
                let key = DecodingKey::from_rsa_components(&n, &e)?;
                let jwk = json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": n, "e": e});
                Ok(VerifyingKey { id, algorithm: Algorithm::RS256, key, jwk })
            }
            // An uncompressed point: 4, then x and y of 32 bytes each.
            PublicKey::EC(point) if point.data().len() == 65 => {
                let (x, y) = (encode(&point.data()[1..33]), encode(&point.data()[33..]));
                let key = DecodingKey::from_ec_components(&x, &y)?;
                let jwk = json!({"use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256",
                    "x": x, "y": y});
                Ok(VerifyingKey { id, algorithm: Algorithm::ES256, key, jwk })
            }
            _ => Err(Error::Unsupported),
        }
    }
}

/// The key that signs tokens.
#[derive(Clone)]
pub struct SigningKey {
    pub(super) key: EncodingKey,
    /// Its public half.
    pub public: VerifyingKey,
}

impl SigningKey {
    /// Reads a private key in PKCS #8 (RSA, or ECDSA on P-256).
    ///
    /// # Errors
    /// [`Error`].
    pub fn from_pem(text: &str) -> Result<SigningKey, Error> {
        let public = VerifyingKey::from_pem(text)?;
        let key = match public.algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(text.as_bytes())?,
            _ => EncodingKey::from_rsa_pem(text.as_bytes())?,
        };
        Ok(SigningKey { key, public })
    }
}

/// The document at `/openid/v1/jwks`.
pub fn jwks(keys: &[VerifyingKey]) -> Value {
    json!({"keys": keys.iter().map(|k| &k.jwk).collect::<Vec<_>>()})
}

/// The document at `/.well-known/openid-configuration`.
pub fn openid_configuration(issuer: &str, jwks_uri: &str, keys: &[VerifyingKey]) -> Value {
    let mut algorithms: Vec<String> = keys.iter().map(|k| format!("{:?}", k.algorithm)).collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    json!({
        "issuer": issuer,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

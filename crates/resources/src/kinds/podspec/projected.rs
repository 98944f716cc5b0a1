//! Faults of volumes that are put together from others.

use std::collections::BTreeSet;

use api::field::{Errors, Path};
use api::names;

use super::sources::{downward, keys_to_paths, mode, path_in_volume};
use crate::at::{At, label_selector};

const KEYS: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const KINDS: &[&str] =
    &["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

/// Paths that are taken by sources before.
struct Paths<'a> {
    taken: BTreeSet<&'a str>,
    /// The volume's: where a path that is taken is told of.
    at: Path,
}

impl<'a> Paths<'a> {
    fn take(&mut self, path: &'a str, shown: &str, errors: &mut Errors) {
        if !self.taken.insert(path) {
            errors.invalid(&self.at, shown, "conflicting duplicate paths");
        }
    }
}

/// Faults of a `projected` source.
pub(super) fn validate(at: &At<'_>, errors: &mut Errors) {
    mode(at, "defaultMode", errors);
    let mut paths = Paths { taken: BTreeSet::new(), at: at.path.clone() };
    for source in at.items("sources") {
        let mut found = 0;
        for kind in KINDS {
            let Some(part) = source.some(kind) else { continue };
            found += 1;
            match *kind {
                "secret" | "configMap" => {
                    part.required("name", errors);
                    keys_to_paths(&part, errors);
                    take_items(&part, Some(part.str("name")), &mut paths, errors);
                }
                "downwardAPI" => {
                    downward(&part, errors);
                    take_items(&part, None, &mut paths, errors);
                }
                "serviceAccountToken" => token(&part, at, errors),
                "clusterTrustBundle" => trust(&part, &mut paths, errors),
                _ => certificate(&part, &mut paths, errors),
            }
        }
        if found > 1 {
            errors.forbidden(&source.path, "may not specify more than 1 volume type per source");
        }
    }
}

/// Of a path that is taken the source is told, if it has a name.
fn take_items<'a>(part: &At<'a>, name: Option<&str>, paths: &mut Paths<'a>, errors: &mut Errors) {
    for item in part.items("items") {
        let path = item.str("path");
        if !path.is_empty() {
            paths.take(path, name.unwrap_or(path), errors);
        }
    }
}

fn token(part: &At<'_>, volume: &At<'_>, errors: &mut Errors) {
    let seconds = part.i64("expirationSeconds").unwrap_or(3600);
    if seconds < 600 {
        let words = "may not specify a duration less than 10 minutes";
        part.invalid("expirationSeconds", seconds, words, errors);
    }
    if seconds > 1 << 32 {
        let words = "may not specify a duration larger than 2^32 seconds";
        part.invalid("expirationSeconds", seconds, words, errors);
    }
    // These faults stand at the volume.
    match part.str("path") {
        "" => errors.required(&volume.path.child("path"), ""),
        path => path_in_volume(&volume.path.child("path"), path, errors),
    }
}

fn trust<'a>(part: &At<'a>, paths: &mut Paths<'a>, errors: &mut Errors) {
    match (part.has("name"), part.has("signerName")) {
        (true, true) => {
            errors.invalid(&part.path, part.value, "only one of name and signerName may be used");
        }
        (true, false) => {
            if part.str("name").is_empty() {
                errors.required(&part.path.child("name"), "must be a valid object name");
            }
            // Bundles of a signer are named by it: `example.com:signer:name`.
            let name = part.str("name").rsplit(':').next().unwrap_or_default();
            for fault in names::dns1123_subdomain(name) {
                let words = format!("not a valid clustertrustbundlename: {fault}");
                part.invalid("name", part.str("name"), &words, errors);
            }
            if let Some(selector) = part.some("labelSelector") {
                let words = "labelSelector must be unset if name is specified";
                errors.invalid(&selector.path, selector.value, words);
            }
        }
        (false, true) => {
            if part.str("signerName").is_empty() {
                errors.required(&part.path.child("signerName"), "must be a valid signer name");
            }
            part.check("signerName", names::domain_prefixed_path, errors);
            label_selector(&part.field("labelSelector"), errors);
        }
        (false, false) => errors.required(&part.path, "either name or signerName must be specified"),
    }
    part.required("path", errors);
    path_in_volume(&part.path.child("path"), part.str("path"), errors);
    paths.take(part.str("path"), part.str("path"), errors);
}

fn certificate<'a>(part: &At<'a>, paths: &mut Paths<'a>, errors: &mut Errors) {
    part.check("signerName", names::domain_prefixed_path, errors);
    if !KEYS.contains(&part.str("keyType")) {
        errors.not_supported(&part.path.child("keyType"), part.str("keyType"), KEYS);
    }
    if let Some(seconds) = part.i64("maxExpirationSeconds") {
        // A day for the signers of the system itself, 91 days for others.
        let most = if part.str("signerName").starts_with("kubernetes.io/") { 86_400 } else { 7_862_400 };
        if seconds < 3600 {
            let words = "if provided, maxExpirationSeconds must be >= 3600";
            part.invalid("maxExpirationSeconds", seconds, words, errors);
        }
        if seconds > most {
            let words = format!("if provided, maxExpirationSeconds must be <= {most}");
            part.invalid("maxExpirationSeconds", seconds, &words, errors);
        }
    }
    let fields = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    for field in fields {
        let path = part.str(field);
        if !path.is_empty() {
            path_in_volume(&part.path.child(field), path, errors);
            paths.take(path, path, errors);
        }
    }
    if fields.iter().all(|field| part.str(field).is_empty()) {
        let words = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.required(&part.path, words);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn sources_are_one_each_and_share_no_path() {
        let table: &[(&str, &[&str])] = &[
            (r#"[{}]"#, &[]),
            (r#"[{"secret": {"name": "a"}, "configMap": {"name": "b"}}]"#, &["p.sources[0]"]),
            (
                r#"[{"secret": {"name": "a", "items": [{"key": "k", "path": "x"}]}},
                    {"configMap": {"name": "b", "items": [{"key": "k", "path": "x"}]}}]"#,
                &["p"],
            ),
            (
                r#"[{"serviceAccountToken": {"expirationSeconds": 1, "path": "../x"}}]"#,
                &["p.sources[0].serviceAccountToken.expirationSeconds", "p.path"],
            ),
            (
                r#"[{"clusterTrustBundle": {}}]"#,
                &["p.sources[0].clusterTrustBundle", "p.sources[0].clusterTrustBundle.path"],
            ),
        ];
        for (text, faults) in table {
            let value: Value = serde_json::from_str(&format!(r#"{{"sources": {text}}}"#)).unwrap();
            let mut errors = Errors::default();
            validate(&At::new(&value, Path::new("p")), &mut errors);
            let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
            assert_eq!(&fields, faults, "{text}: {errors:?}");
        }
    }
}

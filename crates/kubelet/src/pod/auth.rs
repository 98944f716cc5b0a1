//! Credentials for registries, from `imagePullSecrets`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use std::collections::BTreeMap;

use super::spec;
use crate::source::objects::Held;

#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// Credentials that fit `image`, those for the longest prefix of its name first.
pub async fn credentials(held: &Held, pod: &Pod, image: &str) -> Vec<AuthConfig> {
    let mut found = Vec::new();
    for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
        let Ok(Some(secret)) = held.secret(&reference.name).await else { continue };
        let data = secret.data.as_ref();
        let read = |key: &str| data.and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
        let auths = match (read(".dockerconfigjson"), read(".dockercfg")) {
            (Some(json), _) => serde_json::from_slice::<DockerConfig>(json).map(|config| config.auths),
            (None, Some(json)) => serde_json::from_slice(json),
            (None, None) => continue,
        };
        match auths {
            Ok(auths) => found.extend(auths),
            Err(error) => tracing::warn!(secret = reference.name, %error, "not a docker configuration"),
        }
    }
    select(found, image)
}

fn select(auths: Vec<(String, Entry)>, image: &str) -> Vec<AuthConfig> {
    let image = qualified(image);
    let mut fitting: Vec<(String, Entry)> = auths
        .into_iter()
        .map(|(registry, entry)| (normal(&registry), entry))
        .filter(|(registry, _)| fits(registry, &image))
        .collect();
    fitting.sort_by_key(|(registry, _)| std::cmp::Reverse(registry.len()));
    fitting.into_iter().map(|(registry, entry)| config(registry, entry)).collect()
}

fn config(registry: String, entry: Entry) -> AuthConfig {
    let decoded = STANDARD.decode(&entry.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (username, password) = pair
        .map_or((entry.username, entry.password), |(user, password)| (user.to_owned(), password.to_owned()));
    AuthConfig {
        username,
        password,
        server_address: registry,
        identity_token: entry.identitytoken,
        registry_token: entry.registrytoken,
        ..Default::default()
    }
}

/// The registry and path that an image's short name stands for.
fn qualified(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

fn normal(registry: &str) -> String {
    let bare = registry.trim_start_matches("https://").trim_start_matches("http://");
    let bare =
        bare.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2").trim_end_matches('/');
    if bare == "index.docker.io" { "docker.io".to_owned() } else { bare.to_owned() }
}

/// Whether `registry` is the image's registry, with `*` for any part of its host, and a prefix of its path.
fn fits(registry: &str, image: &str) -> bool {
    let (host, path) = registry.split_once('/').unwrap_or((registry, ""));
    let (image_host, image_path) = image.split_once('/').unwrap_or((image, ""));
    let parts = |host: &str| host.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (want, have) = (parts(host), parts(image_host));
    let same_host = want.len() == have.len() && want.iter().zip(&have).all(|(want, have)| glob(want, have));
    same_host && image_path.starts_with(path)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| rest.ends_with(after)),
        None => pattern == text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(registries: &[&str], image: &str, want: &[&str]) {
        let auths = registries.iter().map(|registry| ((*registry).to_owned(), Entry::default())).collect();
        let got: Vec<_> = select(auths, image).into_iter().map(|auth| auth.server_address).collect();
        assert_eq!(got, want, "{image}");
    }

    #[test]
    fn credentials_fit_by_host_and_path() {
        check(&["https://index.docker.io/v1/"], "nginx", &["docker.io"]);
        check(&["registry.example:5000"], "registry.example:5000/a/b:1", &["registry.example:5000"]);
        check(&["*.example.com"], "eu.example.com/a", &["*.example.com"]);
        check(&["*.example.com"], "example.com/a", &[]);
        check(&["r.io", "r.io/team"], "r.io/team/app", &["r.io/team", "r.io"]);
        check(&["r.io/other"], "r.io/team/app", &[]);
    }
}

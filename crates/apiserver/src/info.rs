//! What a path asks for.

use http::Method;
use percent_encoding::percent_decode_str;

/// A path under `/api` or `/apis` taken apart. Empty texts for what is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub name: String,
    pub subresource: String,
    /// Behind the subresource: `/nodes/a/proxy/REST`, as it was sent: whom it is handed on to decodes it.
    pub rest: String,
    /// An old-style `/watch/` path.
    pub watch: bool,
}

/// Where a namespace's own paths begin.
const NAMESPACES: &str = "namespaces";

impl Info {
    /// `None` for a path that names no resource.
    pub fn parse(path: &str) -> Option<Info> {
        let raw: Vec<&str> = path.trim_matches('/').split('/').collect();
        let mut parts: Vec<String> =
            raw.iter().map(|p| percent_decode_str(p).decode_utf8_lossy().into_owned()).collect();
        let mut info = Info::default();
        let used = match parts.first().map(String::as_str) {
            Some("api") => {
                info.version = parts.get(1)?.clone();
                2
            }
            Some("apis") => {
                info.group = parts.get(1)?.clone();
                info.version = parts.get(2)?.clone();
                3
            }
            _ => return None,
        };
        parts.drain(..used);
        if parts.first().is_some_and(|p| p == "watch") {
            info.watch = true;
            parts.remove(0);
        }
        if parts.first().is_some_and(|p| p == NAMESPACES) {
            if let Some(namespace) = parts.get(1) {
                info.namespace = namespace.clone();
            }
            if parts.len() > 2 && !matches!(parts[2].as_str(), "status" | "finalize") {
                parts.drain(..2);
            }
        }
        let mut parts = parts.into_iter();
        info.resource = parts.next().filter(|p| !p.is_empty())?;
        info.name = parts.next().unwrap_or_default();
        info.subresource = parts.next().unwrap_or_default();
        info.rest = raw[raw.len() - parts.len()..].join("/");
        if !info.rest.is_empty() && path.ends_with('/') {
            info.rest.push('/');
        }
        Some(info)
    }

    /// The verb that authorisation judges.
    pub fn verb(&self, method: &Method, watching: bool) -> &'static str {
        match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if self.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            // One object is watched through the list of it alone, or an old-style path.
            _ if self.watch || (watching && self.name.is_empty()) => "watch",
            _ if self.name.is_empty() => "list",
            _ => "get",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: [&str; 7]) {
        let i = Info::parse(path).unwrap();
        let found = [&i.group, &i.version, &i.namespace, &i.resource, &i.name, &i.subresource, &i.rest];
        assert_eq!(found.map(String::as_str), expected, "{path}");
    }

    #[test]
    fn paths() {
        check("/api/v1/pods", ["", "v1", "", "pods", "", "", ""]);
        check("/api/v1/namespaces/a", ["", "v1", "a", "namespaces", "a", "", ""]);
        check("/api/v1/namespaces/a/finalize", ["", "v1", "a", "namespaces", "a", "finalize", ""]);
        check("/api/v1/namespaces/a/pods/b/log", ["", "v1", "a", "pods", "b", "log", ""]);
        check("/apis/apps/v1/namespaces/a/deployments/b", ["apps", "v1", "a", "deployments", "b", "", ""]);
        check("/api/v1/nodes/n/proxy/x/y/", ["", "v1", "", "nodes", "n", "proxy", "x/y/"]);
        check(
            "/api/v1/namespaces/a/pods/p/proxy/x%20y%3F/%2e",
            ["", "v1", "a", "pods", "p", "proxy", "x%20y%3F/%2e"],
        );
        check("/api/v1/namespaces/a/pods/p%2d/proxy//x", ["", "v1", "a", "pods", "p-", "proxy", "/x"]);
        assert!(Info::parse("/api/v1/watch/namespaces/a/pods").unwrap().watch);
        assert_eq!(Info::parse("/healthz"), None);
        assert_eq!(Info::parse("/api/v1"), None);
    }
}

//! Discovery: which groups, versions and resources there are; plain and aggregated.

use std::sync::Arc;

use api::Status;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use codec::MediaType;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, Method, Response, StatusCode};
use registry::{Resource, Subresource, Verb};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::answer::encode;
use crate::body::Body;
use crate::negotiate::{self, Accepted, Form};
use crate::respond;
use crate::server::{Call, Server};

/// Upstream's order of its own groups; others follow by name.
const ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

struct Group {
    name: String,
    /// Best first.
    versions: Vec<Version>,
}

struct Version {
    name: String,
    /// APIResource objects, by name.
    resources: Vec<Value>,
    /// For the aggregated form.
    aggregated: Vec<Value>,
}

/// The documents of one table.
pub(crate) struct Discovery {
    groups: Vec<Group>,
}

impl Discovery {
    pub(crate) fn new(resources: &[Arc<Resource>]) -> Discovery {
        let mut groups: Vec<Group> = Vec::new();
        for resource in resources {
            for (i, version) in resource.versions.iter().enumerate() {
                let at = groups.iter().position(|g| g.name == resource.group).unwrap_or_else(|| {
                    groups.push(Group { name: resource.group.clone(), versions: Vec::new() });
                    groups.len() - 1
                });
                let versions = &mut groups[at].versions;
                let at = versions.iter().position(|v| v.name == version.name).unwrap_or_else(|| {
                    versions.push(Version {
                        name: version.name.clone(),
                        resources: Vec::new(),
                        aggregated: Vec::new(),
                    });
                    versions.len() - 1
                });
                versions[at].resources.extend(plain(resource));
                versions[at].aggregated.push(aggregated(resource, i));
            }
        }
        let rank = |g: &Group| ORDER.iter().position(|o| *o == g.name).unwrap_or(ORDER.len());
        groups.sort_by_key(|g| (rank(g), g.name.clone()));
        for version in groups.iter_mut().flat_map(|g| &mut g.versions) {
            version.resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
            version.aggregated.sort_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
        }
        Discovery { groups }
    }
}

/// The first eight bytes of the hash of `group/version/Kind` as stored.
fn storage_hash(resource: &Resource) -> String {
    let version = &resource.versions[resource.stored].name;
    let named = resource.hashed_api_version.as_ref().or(resource.stored_api_version.as_ref());
    let (group, version) = match named {
        Some(other) => other.split_once('/').unwrap_or(("", other)),
        None => (resource.group.as_str(), version.as_str()),
    };
    let digest = Sha256::digest(format!("{group}/{version}/{}", resource.kind));
    BASE64_STANDARD.encode(&digest[..8])
}

fn verbs(resource: &Resource) -> Vec<&'static str> {
    resource.verbs.iter().map(|v| v.as_str()).collect()
}

fn plain(resource: &Resource) -> Vec<Value> {
    let mut main = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced(),
        "kind": resource.kind,
        "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        main["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        main["categories"] = json!(resource.categories);
    }
    // What nobody can make is not stored.
    if resource.act.is_none() && resource.verbs.contains(&Verb::Create) {
        main["storageVersionHash"] = storage_hash(resource).into();
    }
    let mut all = vec![main];
    all.extend(resource.subresources.iter().map(|sub| plain_sub(resource, sub)));
    all
}

fn plain_sub(resource: &Resource, sub: &Subresource) -> Value {
    let mut value = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced(),
        "kind": sub.kind.as_ref().map_or(resource.kind.as_str(), |k| k.kind.as_str()),
        "verbs": sub.verbs(),
    });
    if let Some(kind) = sub.kind.as_ref().filter(|k| !k.group.is_empty()) {
        value["group"] = kind.group.as_str().into();
        value["version"] = kind.version.as_str().into();
    }
    value
}

fn aggregated(resource: &Resource, version: usize) -> Value {
    let own =
        json!({"group": resource.group, "version": resource.versions[version].name, "kind": resource.kind});
    let scope = if resource.namespaced() { "Namespaced" } else { "Cluster" };
    let mut value = json!({
        "resource": resource.plural,
        "responseKind": own,
        "scope": scope,
        "singularResource": resource.singular,
        "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    let subs: Vec<Value> = resource
        .subresources
        .iter()
        .map(|sub| {
            let kind = sub.kind.as_ref().map_or_else(
                || own.clone(),
                |k| json!({"group": k.group, "version": k.version, "kind": k.kind}),
            );
            json!({"subresource": sub.name, "responseKind": kind, "verbs": sub.verbs()})
        })
        .collect();
    if !subs.is_empty() {
        value["subresources"] = json!(subs);
    }
    value
}

impl Group {
    fn version_entries(&self) -> Vec<Value> {
        let entry =
            |v: &Version| json!({"groupVersion": format!("{}/{}", self.name, v.name), "version": v.name});
        self.versions.iter().map(entry).collect()
    }

    /// The resources of one version.
    fn resource_list(&self, version: &str) -> Option<Value> {
        let version = self.versions.iter().find(|v| v.name == version)?;
        let mut list = json!({"kind": "APIResourceList", "resources": version.resources});
        if self.name.is_empty() {
            list["groupVersion"] = version.name.as_str().into();
        } else {
            list["apiVersion"] = "v1".into();
            list["groupVersion"] = format!("{}/{}", self.name, version.name).into();
        }
        Some(list)
    }

    fn api_group(&self) -> Value {
        let versions = self.version_entries();
        json!({"name": self.name, "versions": versions, "preferredVersion": versions.first()})
    }
}

fn aggregated_list(groups: &[&Group]) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|v| json!({"version": v.name, "resources": v.aggregated, "freshness": "Current"}))
                .collect();
            let metadata = if group.name.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group.name, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// Whether the aggregated form comes first among what is accepted.
fn wants_aggregated(call: &Call) -> bool {
    let header = call.parts.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let first = MediaType::accepted(header)
        .into_iter()
        .find(|m| m.takes("application/json") && (m.parameter("as").is_none() || is_aggregated(m)));
    first.is_some_and(|m| is_aggregated(&m))
}

fn is_aggregated(media: &MediaType) -> bool {
    media.parameter("as") == Some("APIGroupDiscoveryList")
        && media.parameter("g") == Some("apidiscovery.k8s.io")
        && media.parameter("v") == Some("v2")
}

/// The document at a path; `None` where the path is not discovery's.
pub(crate) fn answer(server: &Server, call: &Call, path: &str) -> Result<Option<Response<Body>>, Status> {
    let groups = &server.discovery.groups;
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (core, named): (Vec<&Group>, Vec<&Group>) = groups.iter().partition(|g| g.name.is_empty());
    let document = match parts.as_slice() {
        ["api" | "apis"] if wants_aggregated(call) => {
            let chosen = if parts == ["api"] { &core } else { &named };
            return Ok(Some(aggregated_response(call, &aggregated_list(chosen))));
        }
        ["api"] => api_versions(&core, &server.address),
        ["api", version] => {
            core.first().and_then(|g| g.resource_list(version)).ok_or_else(Status::path_not_found)?
        }
        ["apis"] => {
            let all: Vec<Value> = named.iter().map(|g| g.api_group()).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": all})
        }
        ["apis", group, rest @ ..] if rest.len() < 2 => {
            let Some(group) = named.iter().find(|g| g.name == *group) else { return Ok(None) };
            match rest {
                [version] => group.resource_list(version).ok_or_else(Status::path_not_found)?,
                _ => {
                    let mut value = group.api_group();
                    value["kind"] = "APIGroup".into();
                    value["apiVersion"] = "v1".into();
                    value
                }
            }
        }
        [""] => root(&named, server.health.paths()),
        ["index.html"] if path == "/index.html" => root(&named, server.health.paths()),
        ["api" | "apis", ..] if parts.len() > 2 && named.iter().any(|g| g.name == parts[1]) => {
            return Err(Status::path_not_found());
        }
        _ => return Ok(None),
    };
    // Upstream's list of groups and its list of paths take any method.
    let any = matches!(parts.as_slice(), ["apis" | "" | "index.html"]);
    if call.parts.method != Method::GET && !any {
        return Err(Status::method_not_allowed());
    }
    let accepted = match negotiate::accepted(&call.parts.headers, false) {
        Ok(accepted) => Accepted { form: Form::Object, ..accepted },
        Err(_) if mentions_aggregated(call) => Accepted::PLAIN,
        Err(refused) => return Err(refused),
    };
    Ok(Some(encode(StatusCode::OK, &document, accepted)))
}

fn api_versions(core: &[&Group], address: &str) -> Value {
    let versions = core.first().map(|g| g.versions.iter().map(|v| &v.name).collect::<Vec<_>>());
    json!({
        "kind": "APIVersions",
        "versions": versions,
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// The paths there are.
fn root(named: &[&Group], health: impl Iterator<Item = String>) -> Value {
    const PATHS: &[&str] = &[
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/version",
    ];
    let mut paths: Vec<String> = PATHS.iter().map(|p| (*p).to_owned()).chain(health).collect();
    for group in named {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|v| format!("/apis/{}/{}", group.name, v.name)));
    }
    paths.sort();
    json!({"paths": paths})
}

fn mentions_aggregated(call: &Call) -> bool {
    let header = call.parts.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    header.contains("APIGroupDiscoveryList") && header.contains(',')
}

fn aggregated_response(call: &Call, document: &Value) -> Response<Body> {
    let bytes = match serde_json::to_vec(document) {
        Ok(bytes) => bytes,
        Err(error) => return respond::status(&Status::internal(error)),
    };
    let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02X}")).collect();
    let tag = format!("\"{hash}\"");
    let same = call.parts.headers.get(IF_NONE_MATCH).is_some_and(|t| t.as_bytes() == tag.as_bytes());
    let mut response = if same {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::json_bytes(StatusCode::OK, bytes.into())
    };
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
    );
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    headers.insert("vary", HeaderValue::from_static("Accept"));
    response
}

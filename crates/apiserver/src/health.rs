//! `/healthz`, `/livez`, `/readyz`, `/version`.

use http::{Response, StatusCode};
use serde_json::json;

use crate::body::Body;
use crate::options::Query;
use crate::respond;
use crate::server::Server;

/// What the checks look at; each answers by the caches having been filled before the server began.
const CHECKS: &[&str] = &["ping", "log", "etcd", "informer-sync"];

pub(crate) fn answer(server: &Server, path: &str, query: &Query) -> Option<Response<Body>> {
    if path == "/version" || path == "/version/" {
        return Some(version(server));
    }
    let (root, check) = ["/healthz", "/livez", "/readyz"]
        .iter()
        .find_map(|root| path.strip_prefix(root).map(|rest| (*root, rest.trim_start_matches('/'))))?;
    if !check.is_empty() {
        return CHECKS.contains(&check).then(|| respond::text(StatusCode::OK, "ok"));
    }
    if !query.flag("verbose") {
        return Some(respond::text(StatusCode::OK, "ok"));
    }
    let mut text: String = CHECKS.iter().map(|c| format!("[+]{c} ok\n")).collect();
    text.push_str(&format!("{} check passed\n", root.trim_start_matches('/')));
    Some(respond::text(StatusCode::OK, text))
}

fn version(server: &Server) -> Response<Body> {
    let full = &server.version;
    let mut numbers = full.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    respond::json(
        StatusCode::OK,
        &json!({
            "major": major,
            "minor": minor,
            "emulationMajor": major,
            "emulationMinor": minor,
            "minCompatibilityMajor": major,
            "minCompatibilityMinor": minor.parse::<u32>().map_or_else(|_| minor.to_owned(), |m| (m - 1).to_string()),
            "gitVersion": format!("{full}+tiphys"),
            "gitCommit": option_env!("TIPHYS_COMMIT").unwrap_or("unknown"),
            "gitTreeState": "clean",
            "buildDate": option_env!("TIPHYS_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
            "goVersion": concat!("rust ", env!("CARGO_PKG_RUST_VERSION")),
            "compiler": "rustc",
            "platform": concat!("linux/", "amd64"),
        }),
    )
}

//! `/version`.

use http::{Response, StatusCode};
use serde_json::json;

use crate::body::Body;
use crate::respond;

/// When this program was built: what the build said, else when its file was written.
fn build_date() -> String {
    if let Some(date) = option_env!("TIPHYS_BUILD_DATE") {
        return date.to_owned();
    }
    let written = std::env::current_exe().and_then(|path| path.metadata()?.modified());
    let time = written.ok().and_then(|at| jiff::Timestamp::try_from(at).ok());
    // A program whose file is gone cannot tell.
    let Some(time) = time else { return String::new() };
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What `gitVersion` says: `v1.37.0` with the build's own name behind it.
pub(crate) fn answer(version: &str) -> Response<Body> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let before = minor.parse::<u32>().map_or_else(|_| minor.to_owned(), |m| m.saturating_sub(1).to_string());
    let commit = option_env!("TIPHYS_COMMIT").unwrap_or_default();
    let document = json!({
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": before,
        "gitVersion": format!("{version}+tiphys"),
        "gitCommit": commit,
        "gitTreeState": if commit.is_empty() { "" } else { "clean" },
        "buildDate": build_date(),
        "goVersion": concat!("rust ", env!("CARGO_PKG_RUST_VERSION")),
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    });
    respond::json(StatusCode::OK, &document)
}

/// The architecture under Go's name.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

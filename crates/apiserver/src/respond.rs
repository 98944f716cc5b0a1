//! Answers. The one place where a `Status` becomes HTTP.

use std::collections::HashSet;

use api::Status;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;

use crate::body::Body;

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub const WARNING: HeaderName = HeaderName::from_static("warning");

pub fn json_bytes(code: StatusCode, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A value as JSON.
pub fn json<T: Serialize>(code: StatusCode, value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => json_bytes(code, bytes.into()),
        Err(error) => status(&Status::internal(error)),
    }
}

pub fn status(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let bytes = serde_json::to_vec(status).expect("a Status serialises");
    let mut response = json_bytes(code, bytes.into());
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if code == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"kubernetes\""));
    }
    response
}

pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// No such path, as upstream's router tells it where no group is meant.
pub fn not_found_text() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// A fault before a request is understood, as upstream tells it: in plain text.
pub fn internal_text(uri: &http::Uri, why: &dyn std::fmt::Display) -> Response<Body> {
    let asked = uri.path_and_query().map_or_else(|| uri.path(), |p| p.as_str());
    let shown = api::field::quote(&asked.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"));
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Server Error: {shown}: {why}\n"))
}

/// A document that anybody may keep for an hour.
pub fn public(document: &serde_json::Value, kind: &'static str) -> Response<Body> {
    let mut response = json(StatusCode::OK, document);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

/// Adds a warning before those that are there.
pub fn warn_first(headers: &mut HeaderMap, warning: String) {
    let others: Vec<HeaderValue> = headers.get_all(WARNING).into_iter().cloned().collect();
    headers.remove(WARNING);
    warn(headers, &[warning]);
    for other in others {
        headers.append(WARNING, other);
    }
}

/// Characters of all warnings together; where there are more each is cut to [`WARNING_CUT`], as upstream cuts.
const WARNINGS_MAX: usize = 4096;
const WARNING_CUT: usize = 256;

/// Adds `Warning: 299 - "…"`, one a text; repeated ones once, and no more than clients read.
pub fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    let mut told = HashSet::new();
    let once: Vec<&String> = warnings.iter().filter(|w| told.insert(w.as_str())).collect();
    let cut = once.iter().map(|w| w.chars().count()).sum::<usize>() > WARNINGS_MAX;
    let mut written = 0;
    for warning in once {
        let length = warning.chars().count();
        let (warning, length) = if cut && length > WARNING_CUT {
            (
                &warning[..warning.char_indices().nth(WARNING_CUT).map_or(warning.len(), |(at, _)| at)],
                WARNING_CUT,
            )
        } else {
            (warning.as_str(), length)
        };
        if written >= WARNINGS_MAX {
            break;
        }
        written += length;
        let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
            headers.append(WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(warnings: &[String], expected: (usize, usize)) {
        let mut headers = HeaderMap::new();
        warn(&mut headers, warnings);
        let all: Vec<_> = headers.get_all(WARNING).into_iter().collect();
        assert_eq!((all.len(), all.iter().map(|value| value.len()).max().unwrap_or_default()), expected);
    }

    #[test]
    fn warnings_are_told_once_and_within_bounds() {
        check(&["a".into(), "b".into(), "a".into()], (2, "299 - \"a\"".len()));
        check(&["x".repeat(3000)], (1, 3000 + 8));
        let many: Vec<String> = (0..300).map(|i| format!("{i:01000}")).collect();
        check(&many, (WARNINGS_MAX / WARNING_CUT, WARNING_CUT + 8));
    }
}

//! Answers. The one place where a `Status` becomes HTTP.

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

/// Adds `Warning: 299 - "…"`, one a text; repeated ones once.
pub fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    for (i, warning) in warnings.iter().enumerate() {
        if warnings[..i].contains(warning) {
            continue;
        }
        let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
            headers.append(WARNING, value);
        }
    }
}

//! `/logs/`: the host's `/var/log`, to look at.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use tokio::io::AsyncReadExt;

use super::Server;
use super::route::{self, Body, Refusal};

const ROOT: &str = "/var/log";
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

impl Server {
    /// The file or directory at `path` below `/var/log`; links lead nowhere outside.
    pub(super) async fn host_logs(&self, path: &str) -> Result<Response<Body>, Refusal> {
        let inside = path.trim_start_matches("/logs").trim_start_matches('/').to_owned();
        let wanted = inside.clone();
        let opened = tokio::task::spawn_blocking(move || open(&wanted)).await;
        match opened.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?? {
            Found::Directory(_) if !path.ends_with('/') => {
                let mut response = route::text(StatusCode::MOVED_PERMANENTLY, "");
                let name = path.rsplit('/').next().unwrap_or_default();
                if let Ok(location) = HeaderValue::from_str(&format!("{name}/")) {
                    response.headers_mut().insert(LOCATION, location);
                }
                Ok(response)
            }
            Found::Directory(names) => {
                let lines = names.iter().map(|name| format!("<a href=\"{0}\">{0}</a>\n", escape(name)));
                let text = format!("<pre>\n{}</pre>\n", lines.collect::<String>());
                Ok(route::body(StatusCode::OK, "text/html; charset=utf-8", text.into()))
            }
            Found::File(file) => Ok(stream(file)),
        }
    }
}

enum Found {
    File(File),
    /// Names in order, those of directories with a slash.
    Directory(Vec<String>),
}

fn open(path: &str) -> Result<Found, Refusal> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain {
        return Err((StatusCode::BAD_REQUEST, "invalid URL path".into()));
    }
    let refuse = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
        _ => (StatusCode::FORBIDDEN, format!("{error}\n")),
    };
    let errno = |error: rustix::io::Errno| refuse(error.into());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let root = openat2(CWD, ROOT, flags | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::empty());
    let root = root.map_err(errno)?;
    let path = if path.is_empty() { "." } else { path };
    let opened =
        openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS);
    let file = File::from(opened.map_err(errno)?);
    let metadata = file.metadata().map_err(refuse)?;
    if metadata.is_file() {
        return Ok(Found::File(file));
    }
    if !metadata.is_dir() {
        return Err((StatusCode::FORBIDDEN, "neither a file nor a directory\n".into()));
    }
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&file).map_err(errno)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let slash = if entry.file_type() == rustix::fs::FileType::Directory { "/" } else { "" };
        if name != "." && name != ".." {
            names.push(format!("{name}{slash}"));
        }
    }
    names.sort();
    Ok(Found::Directory(names))
}

fn escape(name: &str) -> String {
    name.replace('&', "&amp;").replace('"', "&#34;").replace('<', "&lt;").replace('>', "&gt;")
}

fn stream(mut file: File) -> Response<Body> {
    // What is shown first decides how the rest is: text, unless it holds a zero byte.
    let mut first = vec![0; CHUNK];
    let count = file.read(&mut first).unwrap_or(0);
    first.truncate(count);
    let kind = if first.contains(&0) { "application/octet-stream" } else { "text/plain; charset=utf-8" };
    if count < CHUNK {
        let mut response = Response::new(Full::new(Bytes::from(first)).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        return response;
    }
    let start = (Some(Bytes::from(first)), tokio::fs::File::from_std(file));
    let frames = futures::stream::unfold(start, |(first, mut file)| async move {
        let bytes = match first {
            Some(first) => first,
            None => {
                let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
                // A file that cannot be read on ends there: its length was never promised.
                match file.read_buf(&mut chunk).await {
                    Ok(1..) => chunk.freeze(),
                    _ => return None,
                }
            }
        };
        Some((Ok::<_, std::convert::Infallible>(Frame::data(bytes)), (None, file)))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_shown() {
        for path in ["../etc/passwd", "a/../../b", "/etc/passwd"] {
            assert!(matches!(open(path), Err((StatusCode::BAD_REQUEST, _))), "{path}");
        }
        assert!(matches!(open("nothing-of-this-name"), Err((StatusCode::NOT_FOUND, _))));
        assert!(matches!(open(""), Ok(Found::Directory(_))));
    }
}

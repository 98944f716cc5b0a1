//! A registry of images inside the test's process, for tests of pulling.
//!
//! Serves the reading half of the OCI distribution specification 1.1 over HTTP on a free loopback port,
//! open, with a password, or with the token exchange that public registries ask for. It keeps the list of
//! requests it saw, so that a test can say what was fetched and what wasn't.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Image;
use crate::image::Content;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Who may pull.
#[derive(Clone, Debug)]
pub enum Access {
    /// Everybody.
    Anyone,
    /// Who sends this name and password with each request.
    Basic { user: String, password: String },
    /// Who fetched a token with this name and password.
    Bearer { user: String, password: String },
}

/// A running registry; it ends when dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
}

impl Registry {
    /// Serves some images under `library/NAME:TAG`.
    ///
    /// # Errors
    /// An archive can't be read, or no port is free.
    pub async fn start(images: &[Image], access: Access) -> Result<Registry> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let shelf = Arc::new(Shelf::new(images, access, address, requests.clone())?);
        tokio::spawn(serve(listener, shelf, stop.clone()));
        Ok(Registry { address, requests, stop })
    }

    /// Host and port, as an image's name starts with.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The name by which one of the images is pulled from here.
    pub fn reference(&self, image: &Image) -> String {
        format!("{}/library/{}", self.address, image.name)
    }

    /// What was asked so far: `GET /v2/… 200`, in order of answering.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Owns every connection of one registry.
async fn serve(listener: TcpListener, shelf: Arc<Shelf>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue, // the peer gave up between connecting and being accepted
            },
        };
        let (shelf, stop) = (shelf.clone(), stop.clone());
        connections.spawn(async move {
            let service = hyper::service::service_fn(|request| {
                let answer = shelf.answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                _ = connection => {} // how a client hangs up is its own affair
            }
        });
    }
    connections.close();
    connections.wait().await;
}

/// What a registry has, and whom it shows it to.
struct Shelf {
    blobs: HashMap<String, Bytes>,
    /// `library/nginx:1.22` to a manifest's digest.
    tags: HashMap<String, String>,
    access: Access,
    address: SocketAddr,
    /// What a fetched token reads: fresh in each registry.
    token: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Shelf {
    fn new(
        images: &[Image],
        access: Access,
        address: SocketAddr,
        requests: Arc<Mutex<Vec<String>>>,
    ) -> Result<Shelf> {
        let (mut blobs, mut tags) = (HashMap::new(), HashMap::new());
        for image in images {
            let content = Content::read(image)?;
            tags.insert(format!("library/{}", image.name), content.manifest.clone());
            blobs.extend(content.blobs.into_iter().map(|(digest, data)| (digest, Bytes::from(data))));
        }
        let token = crate::image::hex(format!("{address} {:?}", std::time::Instant::now()).as_bytes());
        Ok(Shelf { blobs, tags, access, address, token, requests })
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method(), request.uri().path());
        let mut response = if path == "/token" {
            self.hand_out_token(request.headers())
        } else if !self.admits(request.headers()) {
            self.challenge()
        } else {
            self.content(path)
        };
        self.requests.lock().push(format!("{method} {path} {}", response.status().as_u16()));
        if method == Method::HEAD {
            *response.body_mut() = Full::default();
        }
        response
    }

    fn content(&self, path: &str) -> Response<Full<Bytes>> {
        let Some(rest) = path.strip_prefix("/v2/") else {
            return fault(StatusCode::NOT_FOUND, "UNSUPPORTED");
        };
        if rest.is_empty() {
            return reply(StatusCode::OK, "application/json", None, Bytes::from_static(b"{}"));
        }
        if let Some((repository, reference)) = rest.split_once("/manifests/") {
            let tagged = self.tags.get(&format!("{repository}:{reference}"));
            let digest = tagged.map_or(reference, String::as_str);
            return match self.blobs.get(digest) {
                Some(data) => reply(StatusCode::OK, MANIFEST, Some(digest), data.clone()),
                None => fault(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            };
        }
        match rest.split_once("/blobs/").and_then(|(_, digest)| Some((digest, self.blobs.get(digest)?))) {
            Some((digest, data)) => {
                reply(StatusCode::OK, "application/octet-stream", Some(digest), data.clone())
            }
            None => fault(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match &self.access {
            Access::Anyone => true,
            Access::Basic { user, password } => sent == Some(&basic(user, password)),
            Access::Bearer { .. } => sent == Some(&format!("Bearer {}", self.token)),
        }
    }

    fn challenge(&self) -> Response<Full<Bytes>> {
        let how = match self.access {
            Access::Bearer { .. } => {
                format!(
                    r#"Bearer realm="http://{}/token",service="testkit",scope="repository:pull""#,
                    self.address
                )
            }
            Access::Basic { .. } | Access::Anyone => r#"Basic realm="testkit""#.to_owned(),
        };
        let mut response = fault(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
        if let Ok(how) = how.parse() {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, how);
        }
        response
    }

    fn hand_out_token(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match &self.access {
            Access::Bearer { user, password } if sent == Some(&basic(user, password)) => {
                let body = json!({"token": self.token, "access_token": self.token, "expires_in": 300});
                reply(StatusCode::OK, "application/json", None, Bytes::from(body.to_string()))
            }
            _ => fault(StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn reply(status: StatusCode, kind: &str, digest: Option<&str>, body: Bytes) -> Response<Full<Bytes>> {
    let mut builder = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_LENGTH, body.len())
        .header("Docker-Distribution-API-Version", "registry/2.0");
    if let Some(digest) = digest {
        builder = builder.header("Docker-Content-Digest", digest);
    }
    builder.body(Full::new(body)).expect("a status and plain headers make a response")
}

/// An error as the distribution specification words it.
fn fault(status: StatusCode, code: &str) -> Response<Full<Bytes>> {
    let body = json!({"errors": [{"code": code, "message": code.to_lowercase().replace('_', " ")}]});
    reply(status, "application/json", None, Bytes::from(body.to_string()))
}

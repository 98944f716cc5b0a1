//! A small HTTPS client over one connection, for load and for reading answers byte by byte.
//!
//! Measurements and tests of the wire must not go through the product's own client, nor through one that
//! decodes, retries or pools.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// An API server and the identity to use with it.
#[derive(Clone)]
pub struct Target {
    host: String,
    port: u16,
    tls: Arc<rustls::ClientConfig>,
}

impl Target {
    /// The current context of a kubeconfig. Data within it and files beside it are understood; tokens and
    /// credential programs aren't.
    ///
    /// # Errors
    /// The file can't be read, isn't a kubeconfig, or speaks of anything but HTTPS with a certificate.
    pub fn from_kubeconfig(path: &Path) -> Result<Target> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("couldn't read {}", path.display()))?;
        Target::from_document(&text, path.parent().unwrap_or(Path::new(".")))
            .with_context(|| format!("in {}", path.display()))
    }

    fn from_document(text: &str, dir: &Path) -> Result<Target> {
        let document: Value = serde_saphyr::from_str(text)?;
        let current = document["current-context"].as_str().context("no current-context")?;
        let context = named(&document, "contexts", "context", current)?;
        let cluster =
            named(&document, "clusters", "cluster", context["cluster"].as_str().unwrap_or_default())?;
        let user = named(&document, "users", "user", context["user"].as_str().unwrap_or_default())?;
        let server = cluster["server"].as_str().context("the cluster has no server")?;
        let uri: http::Uri = server.parse().with_context(|| format!("server {server:?}"))?;
        ensure!(uri.scheme_str() == Some("https"), "server {server} isn't HTTPS");

        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem(cluster, "certificate-authority", dir)?) {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pem(user, "client-certificate", dir)?)
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem(user, "client-key", dir)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Target {
            host: uri.host().context("the server has no host")?.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(443),
            tls: Arc::new(tls),
        })
    }

    /// Opens a connection of HTTP/1.1.
    ///
    /// # Errors
    /// Nobody listens there, or TLS fails.
    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone())?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // What ends a connection shows at whoever uses it.
            let _ended = connection.await;
        }));
        Ok(Connection { authority: format!("{}:{}", self.host, self.port), sender, _driver: driver })
    }
}

/// The entry of a kubeconfig's list that has some name.
fn named<'a>(document: &'a Value, list: &str, part: &str, name: &str) -> Result<&'a Value> {
    let entries = document[list].as_array().with_context(|| format!("no {list}"))?;
    let entry = entries.iter().find(|entry| entry["name"].as_str() == Some(name));
    Ok(&entry.with_context(|| format!("{list} has no {name:?}"))?[part])
}

/// A PEM text, from the document itself or from the file it names.
fn pem(part: &Value, key: &str, dir: &Path) -> Result<Vec<u8>> {
    if let Some(data) = part[format!("{key}-data")].as_str() {
        return STANDARD.decode(data.trim()).with_context(|| format!("{key}-data isn't base64"));
    }
    let Some(file) = part[key].as_str() else { bail!("neither {key}-data nor {key}") };
    std::fs::read(dir.join(file)).with_context(|| format!("couldn't read {key} {file}"))
}

/// One connection, one request at a time.
pub struct Connection {
    authority: String,
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// The connection broke. A status that says no is an answer.
    pub async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let response = self.start(method, path, body).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// The JSON answer to a GET that must succeed.
    ///
    /// # Errors
    /// The connection broke, or the answer isn't 200 with JSON.
    pub async fn get(&mut self, path: &str) -> Result<Value> {
        let (status, body) = self.send(Method::GET, path, Bytes::new()).await?;
        ensure!(status == StatusCode::OK, "GET {path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }

    /// Sends a request that must succeed, with a JSON body.
    ///
    /// # Errors
    /// The connection broke, or the answer isn't a 2xx.
    pub async fn put_json(&mut self, method: Method, path: &str, body: &Value) -> Result<Bytes> {
        let (status, answer) = self.send(method.clone(), path, Bytes::from(body.to_string())).await?;
        ensure!(status.is_success(), "{method} {path}: {status}: {}", String::from_utf8_lossy(&answer));
        Ok(answer)
    }

    /// Turns the connection into a watch on `path`, which carries its own `watch=true`.
    ///
    /// # Errors
    /// The connection broke, or the server doesn't start a watch.
    pub async fn watch(mut self, path: &str) -> Result<Watch> {
        let response = self.start(Method::GET, path, Bytes::new()).await?;
        ensure!(response.status() == StatusCode::OK, "watch {path}: {}", response.status());
        Ok(Watch { body: response.into_body(), rest: BytesMut::new(), _connection: self })
    }

    async fn start(&mut self, method: Method, path: &str, body: Bytes) -> Result<http::Response<Incoming>> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::ACCEPT, "application/json");
        if !body.is_empty() {
            let kind =
                if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
            request = request.header(header::CONTENT_TYPE, kind);
        }
        self.sender.ready().await?;
        Ok(self.sender.send_request(request.body(Full::new(body))?).await?)
    }
}

/// A watch: one line an event, undecoded.
pub struct Watch {
    body: Incoming,
    rest: BytesMut,
    _connection: Connection,
}

impl Watch {
    /// The next event's bytes; `None` when the server ends the watch.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn next_line(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let mut line = self.rest.split_to(end + 1);
                line.truncate(end);
                return Ok(Some(line.freeze()));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }

    /// The next event, decoded.
    ///
    /// # Errors
    /// The connection broke, the watch ended, or a line isn't JSON.
    pub async fn next(&mut self) -> Result<Value> {
        let line = self.next_line().await?.context("the watch ended")?;
        Ok(serde_json::from_slice(&line)?)
    }
}

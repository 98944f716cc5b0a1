//! Fetching images from registries (OCI distribution spec).

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes};
use cri::{PullFailure, PullProgress};
use futures::{StreamExt, TryStreamExt, stream};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use oci_spec::image::ImageConfiguration;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::archive::{digest, layer};
use super::store::parse;
use super::{AGAIN, Error, Image, Images};

/// Layers fetched at once.
const PARALLEL: usize = 3;
/// Pieces of a layer received before they are unpacked.
const AHEAD: usize = 32;
/// How long a registry may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// Which registries are spoken to, and how.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Registries (`host` or `host:port`) that speak plain HTTP. Those on loopback addresses always do.
    pub plain_http: Vec<String>,
}

/// The pulls under way: a second one of the same image waits for the first and finds its layers.
#[derive(Default)]
pub struct Pull {
    under_way: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Pull {
    /// Fetches the image that `name` refers to, unless what the registry has is present already.
    ///
    /// # Errors
    /// Whatever the registry or the host refuses.
    pub async fn image(
        &self,
        images: &Arc<Images>,
        registries: &Registries,
        name: &str,
        auth: &RegistryAuth,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<Image, Error> {
        let reference = parse(name)?;
        let turn = {
            let mut under_way = self.under_way.lock();
            under_way.retain(|_, turn| turn.strong_count() > 0);
            let known = under_way.get(&reference.whole()).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::default();
                under_way.insert(reference.whole(), Arc::downgrade(&turn));
                turn
            })
        };
        let _turn = turn.lock().await;
        let progress = progress.unwrap_or_default();
        attempts(|| fetch(images, registries, &reference, auth, &progress)).await
    }
}

/// Tries once more where a layer was removed meanwhile.
async fn attempts<F>(mut fetch: impl FnMut() -> F) -> Result<Image, Error>
where
    F: Future<Output = Result<Image, Error>>,
{
    for _ in 0..AGAIN {
        match fetch().await {
            Err(Error::LayerGone(layer)) => {
                tracing::debug!(layer, "removed during a pull, which begins again")
            }
            result => return result,
        }
    }
    fetch().await
}

async fn fetch(
    images: &Arc<Images>,
    registries: &Registries,
    reference: &Reference,
    auth: &RegistryAuth,
    progress: &watch::Sender<PullProgress>,
) -> Result<Image, Error> {
    let client = client(registries, reference);
    let (manifest, digest_here, config, list) = client
        .pull_manifest_and_config_and_list_digest(reference, auth)
        .await
        .map_err(|error| failure(reference, &error))?;
    let id = digest(config.as_bytes());
    let settings: ImageConfiguration = serde_json::from_str(&config)
        .map_err(|error| Error::Format(format!("image configuration: {error}")))?;
    let diff_ids = settings.rootfs().diff_ids().clone();
    if diff_ids.len() != manifest.layers.len() {
        return Err(Error::Format("manifest and configuration differ in their layers".into()));
    }
    progress.send_modify(|it| {
        it.layers = u32::try_from(manifest.layers.len()).unwrap_or(u32::MAX);
        // Not for the first time, where a pull begins again.
        (it.layers_done, it.received) = (0, 0);
        it.total = manifest.layers.iter().map(|layer| u64::try_from(layer.size).unwrap_or(0)).sum();
    });
    let layers: Vec<(OciDescriptor, String)> = manifest.layers.into_iter().zip(diff_ids.clone()).collect();
    stream::iter(layers)
        .map(|(blob, diff_id)| fetch_layer(images, &client, reference, blob, diff_id, progress))
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;
    let tag = reference.digest().is_none().then(|| reference.whole());
    let by_digest =
        format!("{}/{}@{}", reference.registry(), reference.repository(), list.unwrap_or(digest_here));
    let images = Arc::clone(images);
    blocking(move || images.add(config.as_bytes(), &id, diff_ids, tag, Some(by_digest))).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(Error::Format(format!("a blocking task failed: {error}"))))
}

async fn fetch_layer(
    images: &Arc<Images>,
    client: &Client,
    reference: &Reference,
    blob: OciDescriptor,
    diff_id: String,
    progress: &watch::Sender<PullProgress>,
) -> Result<(), Error> {
    if images.has_layer(&diff_id) {
        progress.send_modify(|it| {
            it.received += u64::try_from(blob.size).unwrap_or(0);
            it.layers_done += 1;
        });
        return Ok(());
    }
    let mut pieces =
        client.pull_blob_stream(reference, &blob).await.map_err(|error| failure(reference, &error))?;
    let (send, receive) = mpsc::channel(AHEAD);
    let (store, want) = (Arc::clone(images), diff_id);
    let unpacking = blocking(move || layer(&store, Pieces { receive, now: Bytes::new() }, &want));
    let receiving = async move {
        while let Some(piece) = pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    let message = error.to_string();
                    // Whoever unpacks must not take this for the end.
                    let _ = send.send(Err(error)).await;
                    return Err(Error::Registry { failure: PullFailure::RegistryUnavailable, message });
                }
            };
            progress.send_modify(|it| it.received += piece.len() as u64);
            if send.send(Ok(piece)).await.is_err() {
                // Unpacking has failed, and says why.
                break;
            }
        }
        Ok(())
    };
    let (unpacked, received) = tokio::join!(unpacking, receiving);
    received?;
    unpacked?;
    progress.send_modify(|it| it.layers_done += 1);
    Ok(())
}

/// What arrives, as a reader.
struct Pieces {
    receive: mpsc::Receiver<io::Result<Bytes>>,
    now: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.receive.blocking_recv() {
                Some(piece) => self.now = piece?,
                None => return Ok(0),
            }
        }
        let count = self.now.len().min(buffer.len());
        self.now.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

fn client(registries: &Registries, reference: &Reference) -> Client {
    // Another part of the program may have installed one; either will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let registry = reference.resolve_registry().to_owned();
    let mut plain = registries.plain_http.clone();
    if is_loopback(&registry) {
        plain.push(registry);
    }
    Client::new(ClientConfig {
        protocol: ClientProtocol::HttpsExcept(plain),
        read_timeout: Some(SILENCE),
        connect_timeout: Some(Duration::from_secs(10)),
        user_agent: concat!("tiphys/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn failure(reference: &Reference, error: &OciDistributionError) -> Error {
    use OciDistributionError as E;
    let failure = match error {
        E::ImageManifestNotFoundError(_) => PullFailure::NotFound,
        E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => PullFailure::Unauthorized,
        E::ServerError { code: 404, .. } => PullFailure::NotFound,
        E::ServerError { code: 401 | 403, .. } => PullFailure::Unauthorized,
        E::RegistryError { envelope, .. } => match envelope.errors.first().map(|error| &error.code) {
            Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::BlobUnknown) => {
                PullFailure::NotFound
            }
            Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => PullFailure::Unauthorized,
            _ => PullFailure::RegistryUnavailable,
        },
        E::DigestError(_)
        | E::ManifestParsingError(_)
        | E::VersionedParsingError(_)
        | E::UnsupportedMediaTypeError(_)
        | E::UnsupportedSchemaVersionError(_)
        | E::JsonError(_) => PullFailure::BadContent,
        _ => PullFailure::RegistryUnavailable,
    };
    let mut message = format!("{}: {error}", reference.whole());
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        message = format!("{message}: {inner}");
        cause = inner.source();
    }
    Error::Registry { failure, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pull_begins_again_when_a_layer_was_removed() {
        for (gone, want) in [(0, Ok(1)), (AGAIN, Ok(AGAIN + 1)), (AGAIN + 1, Err(AGAIN + 1))] {
            let mut fetched = 0;
            let gone_or_here = || {
                fetched += 1;
                let here = fetched > gone;
                let result = here.then(Image::default).ok_or_else(|| Error::LayerGone("sha256:x".into()));
                std::future::ready(result)
            };
            let pulled = attempts(gone_or_here).await;
            assert_eq!(pulled.map(|_| fetched).map_err(|_| fetched), want, "{gone} removals");
        }
        let mut fetched = 0;
        let failed = attempts(|| {
            fetched += 1;
            std::future::ready(Err(Error::Format("no image".into())))
        });
        assert!(failed.await.is_err());
        assert_eq!(fetched, 1);
    }

    fn check(registry: &str, want: bool) {
        assert_eq!(is_loopback(registry), want, "{registry}");
    }

    #[test]
    fn loopback_registries_are_known() {
        check("localhost:5000", true);
        check("127.0.0.1:5000", true);
        check("127.0.0.9", true);
        check("[::1]:5000", true);
        check("registry.example:5000", false);
        check("10.0.0.1:5000", false);
    }
}

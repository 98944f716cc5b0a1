//! The image half of the contract.

use std::collections::BTreeSet;

use base64::Engine;
use cri::{Error, PullProgress, Result, v1};
use oci_client::secrets::RegistryAuth;
use tokio::sync::watch;

use super::{Service, blocking};
use crate::clock;
use crate::images::Image;

impl Service {
    fn cri_image(&self, image: Image) -> Result<v1::Image> {
        let config = self.inner.images.config(&image.id).map_err(|error| Error::Other(error.to_string()))?;
        let user = config.config().as_ref().and_then(|config| config.user().clone()).unwrap_or_default();
        let user = user.split(':').next().unwrap_or_default().to_owned();
        let uid = match user.as_str() {
            "" => Some(0),
            number => number.parse().ok(),
        };
        Ok(v1::Image {
            id: image.id,
            repo_tags: image.tags.into_iter().collect(),
            repo_digests: image.digests.into_iter().collect(),
            size: image.size,
            username: if uid.is_some() { String::new() } else { user },
            uid: uid.map(|value| v1::Int64Value { value }),
            spec: None,
            pinned: false,
        })
    }

    pub(super) fn all_images(&self, wanted: Option<&v1::ImageSpec>) -> Result<Vec<v1::Image>> {
        let images = match wanted.filter(|spec| !spec.image.is_empty()) {
            Some(spec) => self.inner.images.find(&spec.image).into_iter().collect(),
            None => self.inner.images.list(),
        };
        images.into_iter().map(|image| self.cri_image(image)).collect()
    }

    pub(super) async fn fetch_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<String> {
        let auth = credentials(auth)?;
        let (images, registries) = (&self.inner.images, &self.inner.config.registries);
        match self.inner.pulls.image(images, registries, &image.image, &auth, progress).await {
            Ok(pulled) => Ok(pulled.id),
            Err(error) => {
                let (failure, message) = (error.failure(), error.to_string());
                Err(Error::ImagePull { image: image.image, failure, message })
            }
        }
    }

    pub(super) async fn drop_image(&self, image: v1::ImageSpec) -> Result<()> {
        let Some(found) = self.inner.images.find(&image.image) else { return Ok(()) };
        let (users, in_use): (Vec<String>, BTreeSet<String>) = {
            let state = self.inner.state.lock();
            let containers = state.containers.values();
            let users = containers.clone().filter(|it| it.record.image == found.id);
            let users = users.map(|it| it.record.id.clone()).collect();
            (users, containers.flat_map(|it| it.record.layers.clone()).collect())
        };
        if let Some(user) = users.first() {
            let message = format!("is in use by container {user}");
            return Err(Error::FailedPrecondition { what: format!("image {}", image.image), message });
        }
        let service = self.clone();
        blocking(move || {
            let removed = service.inner.images.remove(&image.image, &in_use);
            removed.map_err(|error| Error::Other(error.to_string()))
        })
        .await
    }

    pub(super) fn filesystem_info(&self) -> v1::ImageFsInfoResponse {
        let (bytes, inodes) = self.inner.images.usage();
        let mountpoint = self.inner.images.root().to_string_lossy().into_owned();
        let usage = v1::FilesystemUsage {
            timestamp: clock::now(),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
            used_bytes: Some(v1::UInt64Value { value: bytes }),
            inodes_used: Some(v1::UInt64Value { value: inodes }),
        };
        v1::ImageFsInfoResponse { image_filesystems: vec![usage.clone()], container_filesystems: vec![usage] }
    }
}

/// What CRI's credentials mean to a registry.
fn credentials(auth: Option<v1::AuthConfig>) -> Result<RegistryAuth> {
    let Some(auth) = auth else { return Ok(RegistryAuth::Anonymous) };
    if !auth.registry_token.is_empty() {
        return Ok(RegistryAuth::Bearer(auth.registry_token));
    }
    if !auth.username.is_empty() {
        return Ok(RegistryAuth::Basic(auth.username, auth.password));
    }
    if auth.auth.is_empty() {
        return Ok(RegistryAuth::Anonymous);
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim());
    let decoded = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':')) {
        Some((user, password)) => Ok(RegistryAuth::Basic(user.to_owned(), password.to_owned())),
        None => {
            Err(Error::InvalidArgument { field: "auth", message: "is no base64 of user:password".into() })
        }
    }
}

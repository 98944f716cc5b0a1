//! The images that are present.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_client::Reference;
use oci_spec::image::ImageConfiguration;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Error;
use super::unpack::Unpacked;
use crate::file;

/// The images below one directory.
pub struct Images {
    root: PathBuf,
    index: Mutex<Index>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, Image>,
    layers: BTreeMap<String, Unpacked>,
}

/// One image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of its configuration.
    pub id: String,
    /// Full references by tag.
    pub tags: BTreeSet<String>,
    /// Full references by manifest digest.
    pub digests: BTreeSet<String>,
    /// The digests of its uncompressed layers, the lowest first.
    pub layers: Vec<String>,
    /// Bytes it takes, shared layers included.
    pub size: u64,
}

impl Image {
    /// What a container's status calls the image: by digest where a registry gave one.
    pub fn reference(&self) -> &str {
        self.digests.first().unwrap_or(&self.id)
    }
}

/// A full reference for what users write: `nginx` is `docker.io/library/nginx:latest`.
pub fn parse(name: &str) -> Result<Reference, Error> {
    name.parse().map_err(|error| Error::Reference { name: name.to_owned(), message: format!("{error}") })
}

impl Images {
    /// Opens the images below `root`, making it where it is missing, and removes what an interrupted
    /// import left. An index that makes no sense is set aside: images can be fetched again, and a node
    /// without any is better than none.
    ///
    /// # Errors
    /// Where the directory or its index cannot be read or made.
    pub fn open(root: &Path) -> Result<Self, Error> {
        for dir in ["layers", "configs", "incoming"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(Error::io(dir.display().to_string()))?;
        }
        let path = root.join("index.json");
        let index: Index = match fs::read(&path) {
            Ok(json) => match serde_json::from_slice(&json) {
                Ok(index) => index,
                Err(error) => {
                    set_aside(&path, &error)?;
                    Index::default()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Index::default(),
            Err(error) => return Err(Error::io(path.display().to_string())(error)),
        };
        let images = Self { root: root.to_owned(), index: Mutex::new(index) };
        let incoming = images.root.join("incoming");
        for entry in fs::read_dir(&incoming).map_err(Error::io(incoming.display().to_string()))?.flatten() {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io(path.display().to_string()))?;
        }
        Ok(images)
    }

    /// A fresh path for something not yet complete.
    pub(super) fn incoming(&self) -> PathBuf {
        self.root.join("incoming").join(uuid::Uuid::new_v4().simple().to_string())
    }

    /// Where the layer of digest `diff_id` is unpacked. Short, for the mount options of many layers must
    /// fit into one page.
    pub fn layer(&self, diff_id: &str) -> PathBuf {
        let hex = diff_id.split_once(':').map_or(diff_id, |(_, hex)| hex);
        self.root.join("layers").join(hex.get(..16).unwrap_or(hex))
    }

    fn config_path(&self, id: &str) -> PathBuf {
        self.root.join("configs").join(id.replace(':', "-"))
    }

    /// Whether the layer is present.
    pub(super) fn has_layer(&self, diff_id: &str) -> bool {
        self.index.lock().layers.contains_key(diff_id)
    }

    /// Takes in a layer unpacked at `from`. Where it has come meanwhile, `from` is removed.
    pub(super) fn add_layer(&self, diff_id: &str, from: &Path, unpacked: Unpacked) -> Result<(), Error> {
        let to = self.layer(diff_id);
        // Not under the lock, since it may take a while.
        file::sync_below(from).map_err(Error::io(from.display().to_string()))?;
        let mut index = self.index.lock();
        if index.layers.contains_key(diff_id) {
            return fs::remove_dir_all(from).map_err(Error::io(from.display().to_string()));
        }
        if to.exists() {
            // Of a crash between the rename and the index.
            fs::remove_dir_all(&to).map_err(Error::io(to.display().to_string()))?;
        }
        fs::rename(from, &to).map_err(Error::io(to.display().to_string()))?;
        let layers = self.root.join("layers");
        let synced = fs::File::open(&layers).and_then(|layers| layers.sync_all());
        synced.map_err(Error::io(layers.display().to_string()))?;
        index.layers.insert(diff_id.to_owned(), unpacked);
        self.save(&index)
    }

    /// Takes in an image whose layers are present. A tag that another image had moves.
    ///
    /// # Errors
    /// [`Error::LayerGone`] where a layer is not present any more.
    pub(super) fn add(
        &self,
        config: &[u8],
        id: &str,
        layers: Vec<String>,
        tag: Option<String>,
        digest: Option<String>,
    ) -> Result<Image, Error> {
        let mut index = self.index.lock();
        let mut size = 0;
        for layer in &layers {
            let present = index.layers.get(layer).ok_or_else(|| Error::LayerGone(layer.clone()))?;
            size += present.bytes;
        }
        let path = self.config_path(id);
        file::replace_durably(&path, config).map_err(Error::io(path.display().to_string()))?;
        if let Some(tag) = &tag {
            for image in index.images.values_mut() {
                image.tags.remove(tag);
            }
        }
        let image = index.images.entry(id.to_owned()).or_default();
        image.id = id.to_owned();
        image.layers = layers;
        image.size = size;
        image.tags.extend(tag);
        image.digests.extend(digest);
        let image = image.clone();
        self.save(&index)?;
        Ok(image)
    }

    /// All images.
    pub fn list(&self) -> Vec<Image> {
        self.index.lock().images.values().cloned().collect()
    }

    /// The image that `name`, a reference or an identifier with or without `sha256:`, means.
    pub fn find(&self, name: &str) -> Option<Image> {
        let index = self.index.lock();
        if let Some(image) = index.images.get(name).or_else(|| index.images.get(&format!("sha256:{name}"))) {
            return Some(image.clone());
        }
        let whole = parse(name).ok()?.whole();
        let found = index.images.values().find(|it| it.tags.contains(&whole) || it.digests.contains(&whole));
        found.cloned()
    }

    /// The configuration of image `id`.
    pub fn config(&self, id: &str) -> Result<ImageConfiguration, Error> {
        let path = self.config_path(id);
        let json = fs::read(&path).map_err(Error::io(path.display().to_string()))?;
        serde_json::from_slice(&json).map_err(|error| Error::Format(format!("{}: {error}", path.display())))
    }

    /// Removes what `name` means. By a tag, one of several, only the tag goes. Layers that no image needs
    /// any more go too, but for those `in_use`.
    pub fn remove(&self, name: &str, in_use: &BTreeSet<String>) -> Result<(), Error> {
        let Some(image) = self.find(name) else { return Ok(()) };
        let mut index = self.index.lock();
        if let Some(kept) = index.images.get_mut(&image.id)
            && let Ok(whole) = parse(name).map(|reference| reference.whole())
            && kept.tags.len() > 1
            && kept.tags.remove(&whole)
        {
            return self.save(&index);
        }
        index.images.remove(&image.id);
        let needed: BTreeSet<&String> =
            index.images.values().flat_map(|image| &image.layers).chain(in_use).collect();
        let gone: Vec<String> =
            image.layers.iter().filter(|layer| !needed.contains(layer)).cloned().collect();
        for layer in &gone {
            index.layers.remove(layer);
        }
        self.save(&index)?;
        for layer in &gone {
            let path = self.layer(layer);
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(path.display().to_string())(error));
                }
                _ => {}
            }
        }
        let path = self.config_path(&image.id);
        fs::remove_file(&path).map_err(Error::io(path.display().to_string()))
    }

    /// Bytes and inodes of all layers together.
    pub fn usage(&self) -> (u64, u64) {
        let index = self.index.lock();
        index.layers.values().fold((0, 0), |(bytes, inodes), it| (bytes + it.bytes, inodes + it.inodes))
    }

    /// The directory it is all in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn save(&self, index: &Index) -> Result<(), Error> {
        let path = self.root.join("index.json");
        let json = serde_json::to_vec(index).map_err(|error| Error::Format(error.to_string()))?;
        file::replace_durably(&path, &json).map_err(Error::io(path.display().to_string()))
    }
}

/// Renames a file that makes no sense, for whoever wants to know why.
fn set_aside(path: &Path, error: &serde_json::Error) -> Result<(), Error> {
    let aside = path.with_extension("json.damaged");
    tracing::warn!(path = %path.display(), aside = %aside.display(), %error, "no image is known any more");
    fs::rename(path, &aside).map_err(Error::io(aside.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(images: &Images, name: &str, layers: &[&str]) -> Result<Image, Error> {
        let layers = layers.iter().map(|&layer| layer.to_owned()).collect();
        let tag = parse(name).unwrap().whole();
        images.add(b"{}", &format!("sha256:{name}"), layers, Some(tag), None)
    }

    fn layer(images: &Images, digest: &str) {
        let from = images.incoming();
        fs::create_dir(&from).unwrap();
        images.add_layer(digest, &from, Unpacked { bytes: 10, inodes: 1 }).unwrap();
    }

    #[test]
    fn an_image_is_refused_whose_layer_went_with_another() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path()).unwrap();
        layer(&images, "sha256:shared");
        image(&images, "a", &["sha256:shared"]).unwrap();
        assert!(images.has_layer("sha256:shared"), "whoever brings b needs not fetch it");
        images.remove("a", &BTreeSet::new()).unwrap();
        let refused = image(&images, "b", &["sha256:shared"]).unwrap_err();
        assert!(matches!(&refused, Error::LayerGone(layer) if layer == "sha256:shared"), "{refused}");
        assert_eq!(images.list(), []);
        assert_eq!(fs::read_dir(dir.path().join("configs")).unwrap().count(), 0);
        layer(&images, "sha256:shared");
        assert_eq!(image(&images, "b", &["sha256:shared"]).unwrap().size, 10);
    }

    #[test]
    fn images_are_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path()).unwrap();
        layer(&images, "sha256:one");
        let added = image(&images, "a", &["sha256:one"]).unwrap();
        drop(images);
        assert_eq!(Images::open(dir.path()).unwrap().list(), [added]);
    }

    #[test]
    fn a_damaged_index_is_set_aside() {
        for damaged in ["", "{\"images\": {"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("index.json"), damaged).unwrap();
            let images = Images::open(dir.path()).unwrap();
            assert_eq!(images.list(), []);
            layer(&images, "sha256:one");
            image(&images, "a", &["sha256:one"]).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("index.json.damaged")).unwrap(), damaged);
        }
    }
}

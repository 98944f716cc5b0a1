//! Importing archives: OCI image layouts and what `docker save` writes, as `.tar`, with gzip or zstd.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::store::parse;
use super::unpack::unpack;
use super::{AGAIN, Error, Image, Images};

/// Imports every image in the archive at `path`.
///
/// # Errors
/// Where it is neither form of archive, damaged, or does not fit on the disk. Images imported before the
/// failure stay.
pub fn import(images: &Images, path: &Path) -> Result<Vec<Image>, Error> {
    let archive = Archive::open(images, path)?;
    for _ in 0..AGAIN {
        match once(images, &archive, path) {
            Err(Error::LayerGone(layer)) => {
                tracing::debug!(layer, "removed during an import, which begins again")
            }
            result => return result,
        }
    }
    once(images, &archive, path)
}

fn once(images: &Images, archive: &Archive, path: &Path) -> Result<Vec<Image>, Error> {
    if archive.entries.contains_key("index.json") {
        oci(images, archive)
    } else if archive.entries.contains_key("manifest.json") {
        docker(images, archive)
    } else {
        Err(no_archive(path))
    }
}

fn no_archive(path: &Path) -> Error {
    Error::Format(format!("{}: neither an OCI image layout nor a docker archive", path.display()))
}

/// `sha256:` and the digest of `bytes` in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(super) fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::from("sha256:"), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Passes bytes on and digests them.
pub(super) struct Digesting<R> {
    inner: R,
    sha256: Sha256,
}

impl<R: Read> Digesting<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, sha256: Sha256::new() }
    }

    pub(super) fn finish(self) -> String {
        hex(&self.sha256.finalize())
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.sha256.update(&buffer[..count]);
        Ok(count)
    }
}

/// `reader` without its compression, told by its first bytes.
pub(super) fn plain<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut magic)?;
    let whole = io::Cursor::new(magic.clone()).chain(reader);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

/// Unpacks a layer, compressed or not, unless it is present.
pub(super) fn layer(images: &Images, compressed: impl Read, diff_id: &str) -> Result<(), Error> {
    let to = images.incoming();
    let result = plain(compressed).and_then(|plain| {
        let mut plain = Digesting::new(BufReader::with_capacity(256 * 1024, plain));
        let unpacked = unpack(&mut plain, &to)?;
        Ok((unpacked, plain.finish()))
    });
    let checked = match result {
        Ok((unpacked, got)) if got == diff_id => return images.add_layer(diff_id, &to, unpacked),
        Ok((_, got)) => Error::Digest { what: "layer".into(), got, want: diff_id.to_owned() },
        Err(source) => Error::Io { what: format!("unpack layer {diff_id}"), source },
    };
    if to.exists() {
        std::fs::remove_dir_all(&to).map_err(Error::io(to.display().to_string()))?;
    }
    Err(checked)
}

/// An uncompressed archive and where its files are in it.
struct Archive {
    file: File,
    entries: HashMap<String, (u64, u64)>,
}

impl Archive {
    fn open(images: &Images, path: &Path) -> Result<Self, Error> {
        let fault = |error| Error::io(path.display().to_string())(error);
        let mut file = File::open(path).map_err(fault)?;
        let mut magic = [0; 4];
        let read = file.read(&mut magic).map_err(fault)?;
        file.rewind().map_err(fault)?;
        if read == 4 && (magic[..2] == [0x1f, 0x8b] || magic == [0x28, 0xb5, 0x2f, 0xfd]) {
            let plain_path = images.incoming();
            let mut to = File::options()
                .create_new(true)
                .read(true)
                .write(true)
                .open(&plain_path)
                .map_err(Error::io(plain_path.display().to_string()))?;
            // Gone with the last user of the file.
            std::fs::remove_file(&plain_path).map_err(Error::io(plain_path.display().to_string()))?;
            plain(file).and_then(|mut plain| io::copy(&mut plain, &mut to)).map_err(fault)?;
            to.rewind().map_err(fault)?;
            file = to;
        }
        let mut entries = HashMap::new();
        let mut links = Vec::new();
        let mut archive = tar::Archive::new(file);
        for entry in archive.entries_with_seek().map_err(fault)? {
            let entry = entry.map_err(|error| match error.kind() {
                // What begins with no header of an archive is none; the error would quote it.
                io::ErrorKind::Other if entries.is_empty() && links.is_empty() => no_archive(path),
                _ => fault(error),
            })?;
            let name = entry.path().map_err(fault)?.to_string_lossy().trim_start_matches("./").to_owned();
            if let Some(link) = entry.link_name().map_err(fault)? {
                links.push((name, link.to_string_lossy().into_owned()));
            } else {
                entries.insert(name, (entry.raw_file_position(), entry.size()));
            }
        }
        // Older `docker save` writes a layer shared by images once, and links to it.
        for (name, link) in links {
            let base = Path::new(&name).parent().unwrap_or(Path::new("")).join(&link);
            let target = entries.get(&link).or_else(|| entries.get(&normal(&base))).copied();
            entries.extend(target.map(|target| (name, target)));
        }
        Ok(Self { file: archive.into_inner(), entries })
    }

    fn reader(&self, name: &str) -> Result<impl Read + use<>, Error> {
        let missing = || Error::Format(format!("the archive has no {name}"));
        let (position, size) = *self.entries.get(name).ok_or_else(missing)?;
        let mut file = self.file.try_clone().map_err(Error::io(name))?;
        file.seek(SeekFrom::Start(position)).map_err(Error::io(name))?;
        Ok(file.take(size))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.reader(name)?.read_to_end(&mut bytes).map_err(Error::io(name))?;
        Ok(bytes)
    }

    /// A blob of an image layout, checked against its digest.
    fn blob(&self, want: &str) -> Result<Vec<u8>, Error> {
        let bytes = self.bytes(&blob_path(want))?;
        let got = digest(&bytes);
        if got == want {
            Ok(bytes)
        } else {
            Err(Error::Digest { what: "blob".into(), got, want: want.into() })
        }
    }
}

fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => {
                parts.pop();
            }
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn json<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Format(format!("{what}: {error}")))
}

/// The architecture's name in image indices.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn oci(images: &Images, archive: &Archive) -> Result<Vec<Image>, Error> {
    let bytes = archive.bytes("index.json")?;
    let index: ImageIndex = json("index.json", &bytes)?;
    let mut imported = Vec::new();
    for descriptor in index.manifests() {
        let name = descriptor.annotations().as_ref().and_then(|annotations| {
            let full = annotations.get("io.containerd.image.name");
            full.or_else(|| annotations.get("org.opencontainers.image.ref.name"))
        });
        let tag = name.map(|name| parse(name)).transpose()?.map(|reference| reference.whole());
        let mut want = descriptor.digest().to_string();
        let mut bytes = archive.blob(&want)?;
        // An index in the index: one manifest per platform.
        if let Ok(inner) = json::<ImageIndex>("index", &bytes) {
            let here = inner.manifests().iter().find(|manifest| {
                let platform = manifest.platform().as_ref();
                platform.is_none_or(|platform| platform.architecture().to_string() == architecture())
            });
            want = here.ok_or_else(|| Error::Platform(architecture().into()))?.digest().to_string();
            bytes = archive.blob(&want)?;
        }
        let manifest: ImageManifest = json("manifest", &bytes)?;
        let config_digest = manifest.config().digest().to_string();
        let config_bytes = archive.blob(&config_digest)?;
        let config: ImageConfiguration = json("image configuration", &config_bytes)?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != manifest.layers().len() {
            return Err(Error::Format("manifest and configuration differ in their layers".into()));
        }
        for (blob, diff_id) in manifest.layers().iter().zip(diff_ids) {
            if !images.has_layer(diff_id) {
                layer(images, archive.reader(&blob_path(blob.digest().as_ref()))?, diff_id)?;
            }
        }
        let by_digest = tag
            .as_deref()
            .map(parse)
            .transpose()?
            .map(|reference| format!("{}/{}@{want}", reference.registry(), reference.repository()));
        imported.push(images.add(&config_bytes, &config_digest, diff_ids.clone(), tag, by_digest)?);
    }
    Ok(imported)
}

/// One image in a docker archive.
#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

fn docker(images: &Images, archive: &Archive) -> Result<Vec<Image>, Error> {
    let bytes = archive.bytes("manifest.json")?;
    let saved: Vec<Saved> = json("manifest.json", &bytes)?;
    let mut imported = Vec::new();
    for saved in saved {
        let config_bytes = archive.bytes(&saved.config)?;
        let id = digest(&config_bytes);
        let config: ImageConfiguration = json(&saved.config, &config_bytes)?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != saved.layers.len() {
            return Err(Error::Format(format!("{}: layers differ from manifest.json", saved.config)));
        }
        for (name, diff_id) in saved.layers.iter().zip(diff_ids) {
            if !images.has_layer(diff_id) {
                layer(images, archive.reader(name)?, diff_id)?;
            }
        }
        let mut tags = saved.tags.unwrap_or_default().into_iter();
        let whole = |tag: String| parse(&tag).map(|reference| reference.whole());
        let first = tags.next().map(whole).transpose()?;
        let mut image = images.add(&config_bytes, &id, diff_ids.clone(), first, None)?;
        for tag in tags {
            image = images.add(&config_bytes, &id, diff_ids.clone(), Some(whole(tag)?), None)?;
        }
        imported.push(image);
    }
    Ok(imported)
}

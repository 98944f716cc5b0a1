//! OCI images, written as archives.
//!
//! The same tree always gives the same bytes: entries are sorted, times are zero, gzip carries no name. An
//! image therefore has the same digest on every machine that has the same packages.
//!
//! Formats: OCI image layout and image specification 1.1, packed as a tar (what `image import` of an OCI
//! archive reads), and what `docker save` writes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image on disk, in both formats.
#[derive(Clone, Debug)]
pub struct Image {
    /// The short name pods ask for, such as `nginx:1.22`.
    pub name: String,
    /// A tar of an OCI layout.
    pub oci: PathBuf,
    /// A tar as `docker save` writes it.
    pub docker: PathBuf,
}

/// The part of an image's configuration that a container starts from.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    /// Such as `80/tcp`.
    pub ports: Vec<String>,
    /// Empty for root.
    pub user: String,
    pub working_dir: String,
    /// Empty for `SIGTERM`.
    pub stop_signal: String,
}

#[derive(Clone, Debug)]
enum Node {
    Directory { mode: u32 },
    File { mode: u32, data: Vec<u8> },
    Link { target: PathBuf },
}

/// A layer in the making: a tree of files owned by root.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Layer {
    pub fn directory(&mut self, path: &str, mode: u32) -> &mut Layer {
        self.put(path, Node::Directory { mode })
    }

    pub fn file(&mut self, path: &str, mode: u32, data: impl Into<Vec<u8>>) -> &mut Layer {
        self.put(path, Node::File { mode, data: data.into() })
    }

    pub fn link(&mut self, path: &str, target: &str) -> &mut Layer {
        self.put(path, Node::Link { target: target.into() })
    }

    fn put(&mut self, path: &str, node: Node) -> &mut Layer {
        self.nodes.insert(PathBuf::from(path.trim_start_matches("./").trim_matches('/')), node);
        self
    }

    /// Adds the entries of a tar stream that `keep` accepts; it is shown paths such as `usr/sbin/nginx`.
    ///
    /// Hard links become copies; devices and the like, which packages don't carry, are left out.
    ///
    /// # Errors
    /// The stream isn't a tar, or a hard link names a file that isn't in it.
    pub fn unpack(&mut self, stream: impl Read, keep: impl Fn(&str) -> bool) -> Result<&mut Layer> {
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().trim_start_matches("./").trim_matches('/').to_owned();
            if path.is_empty() || !keep(&path) {
                continue;
            }
            let mode = entry.header().mode()? & 0o7777;
            let kind = entry.header().entry_type();
            if kind.is_dir() {
                self.directory(&path, mode);
            } else if kind.is_symlink() {
                let target = entry.link_name()?.context("a symbolic link without a target")?.into_owned();
                self.put(&path, Node::Link { target });
            } else if kind.is_hard_link() {
                let target = entry.link_name()?.context("a hard link without a target")?;
                let target = target.to_string_lossy().trim_start_matches("./").to_owned();
                let node = self.nodes.get(Path::new(&target)).cloned();
                self.put(
                    &path,
                    node.with_context(|| format!("{path} links to {target}, which isn't there"))?,
                );
            } else if kind.is_file() {
                let mut data = Vec::new();
                entry.read_to_end(&mut data)?;
                self.file(&path, mode, data);
            }
        }
        Ok(self)
    }

    /// The bytes of a file in the layer.
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        match self.nodes.get(Path::new(path)) {
            Some(Node::File { data, .. }) => Some(data),
            _ => None,
        }
    }

    /// The layer as a tar stream, with the directories that nobody named.
    fn tar(&self) -> Result<Vec<u8>> {
        let mut nodes = self.nodes.clone();
        for path in self.nodes.keys() {
            for dir in path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()) {
                nodes.entry(dir.to_owned()).or_insert(Node::Directory { mode: 0o755 });
            }
        }
        let mut out = tar::Builder::new(Vec::new());
        for (path, node) in &nodes {
            let mut header = tar::Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            match node {
                Node::Directory { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    out.append_data(&mut header, format!("{}/", path.display()), std::io::empty())?;
                }
                Node::File { mode, data } => {
                    header.set_mode(*mode);
                    header.set_size(data.len() as u64);
                    out.append_data(&mut header, path, data.as_slice())?;
                }
                Node::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    out.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(out.into_inner()?)
    }
}

/// `sha256:` and the digest in hexadecimal.
fn digest(data: &[u8]) -> String {
    format!("sha256:{}", hex(data))
}

/// The SHA-256 of some bytes in hexadecimal.
pub(crate) fn hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gzip(data: &[u8]) -> Result<Vec<u8>> {
    let mut out = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::new(6));
    out.write_all(data)?;
    Ok(out.finish()?)
}

/// Writes an image in both formats beside each other and renames them into place, so that a file that is
/// there is whole, however many processes make it at once.
pub(crate) fn write(name: &str, layers: &[Layer], config: &Config, oci: &Path, docker: &Path) -> Result<()> {
    let tars = layers.iter().map(Layer::tar).collect::<Result<Vec<_>>>()?;
    let diff_ids: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
    let config = serde_json::to_vec(&configuration(config, &diff_ids))?;
    save(oci, &oci_entries(name, &tars, &config)?)?;
    save(docker, &docker_entries(name, &tars, &config)?)
}

fn configuration(config: &Config, diff_ids: &[String]) -> Value {
    let mut process = json!({});
    let mut set = |key: &str, value: Value| {
        let empty = value.as_str().is_some_and(str::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !empty {
            process[key] = value;
        }
    };
    set("User", json!(config.user));
    set("ExposedPorts", config.ports.iter().map(|port| (port.clone(), json!({}))).collect());
    set("Env", json!(config.env));
    set("Entrypoint", json!(config.entrypoint));
    set("Cmd", json!(config.cmd));
    set("WorkingDir", json!(config.working_dir));
    set("StopSignal", json!(config.stop_signal));
    json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture(),
        "os": "linux",
        "config": process,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": diff_ids.iter().map(|_| json!({"created": "1970-01-01T00:00:00Z"})).collect::<Vec<_>>(),
    })
}

/// The machine's architecture by the name that Go and OCI give it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

type Entries = Vec<(String, Vec<u8>)>;

/// The name with the registry and the tag that an unqualified one stands for.
fn full_name(name: &str) -> String {
    format!("docker.io/library/{name}")
}

fn oci_entries(name: &str, tars: &[Vec<u8>], config: &[u8]) -> Result<Entries> {
    let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut blob = |kind: &str, data: Vec<u8>| {
        let descriptor = json!({"mediaType": kind, "digest": digest(&data), "size": data.len()});
        blobs.insert(format!("blobs/sha256/{}", hex(&data)), data);
        descriptor
    };
    let mut layers = Vec::new();
    for tar in tars {
        layers.push(blob(LAYER, gzip(tar)?));
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(CONFIG, config.to_vec()),
        "layers": layers,
    });
    let mut top = blob(MANIFEST, serde_json::to_vec(&manifest)?);
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    top["annotations"] =
        json!({"io.containerd.image.name": full_name(name), "org.opencontainers.image.ref.name": tag});
    top["platform"] = json!({"architecture": architecture(), "os": "linux"});
    let index = json!({"schemaVersion": 2, "manifests": [top]});
    let mut entries = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), serde_json::to_vec(&index)?),
    ];
    entries.extend(blobs);
    Ok(entries)
}

fn docker_entries(name: &str, tars: &[Vec<u8>], config: &[u8]) -> Result<Entries> {
    let config_name = format!("{}.json", hex(config));
    let layer_names: Vec<String> = tars.iter().map(|tar| format!("{}/layer.tar", hex(tar))).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": layer_names}]);
    let mut entries: Entries = layer_names.into_iter().zip(tars.iter().cloned()).collect();
    entries.push((config_name, config.to_vec()));
    entries.push(("manifest.json".to_owned(), serde_json::to_vec(&manifest)?));
    Ok(entries)
}

fn save(path: &Path, entries: &[(String, Vec<u8>)]) -> Result<()> {
    let dir = path.parent().context("an archive lies in a directory")?;
    let file = tempfile::NamedTempFile::new_in(dir)?;
    let mut out = tar::Builder::new(std::io::BufWriter::new(file));
    for (name, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        out.append_data(&mut header, name, data.as_slice())?;
    }
    let file = out.into_inner()?.into_inner().map_err(|error| error.into_error())?;
    file.persist(path).with_context(|| format!("couldn't write {}", path.display()))?;
    Ok(())
}

/// What is in an OCI archive: its blobs by digest, and its one manifest.
pub(crate) struct Content {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// The manifest's digest.
    pub(crate) manifest: String,
}

impl Content {
    pub(crate) fn read(image: &Image) -> Result<Content> {
        let file = std::fs::File::open(&image.oci)
            .with_context(|| format!("couldn't open {}", image.oci.display()))?;
        let mut content = Content { blobs: BTreeMap::new(), manifest: String::new() };
        for entry in tar::Archive::new(std::io::BufReader::new(file)).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().into_owned();
            let mut data = Vec::new();
            entry.read_to_end(&mut data)?;
            if path == "index.json" {
                let index: Value = serde_json::from_slice(&data)?;
                content.manifest = index["manifests"][0]["digest"]
                    .as_str()
                    .context("an index without manifests")?
                    .to_owned();
            } else if let Some(hex) = path.strip_prefix("blobs/sha256/") {
                content.blobs.insert(format!("sha256:{hex}"), data);
            }
        }
        Ok(content)
    }

    pub(crate) fn blob(&self, digest: &str) -> Result<&[u8]> {
        self.blobs.get(digest).map(Vec::as_slice).with_context(|| format!("no blob {digest}"))
    }
}

/// Shows each layer's tar stream, lowest first.
pub(crate) fn each_layer(image: &Image, mut visit: impl FnMut(&mut dyn Read) -> Result<()>) -> Result<()> {
    let content = Content::read(image)?;
    let manifest: Value = serde_json::from_slice(content.blob(&content.manifest)?)?;
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        let digest = layer["digest"].as_str().context("a layer without a digest")?;
        visit(&mut flate2::read::GzDecoder::new(content.blob(digest)?))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let mut one = Layer::default();
        one.file("etc/a", 0o644, "a").link("bin/b", "../etc/a").directory("tmp", 0o1777);
        let mut two = Layer::default();
        two.directory("/tmp/", 0o1777).link("./bin/b", "../etc/a").file("/etc/a", 0o644, "a");
        assert_eq!(one.tar().unwrap(), two.tar().unwrap());
        assert_eq!(gzip(&one.tar().unwrap()).unwrap(), gzip(&two.tar().unwrap()).unwrap());
    }

    #[test]
    fn a_layer_survives_its_own_tar() {
        let mut layer = Layer::default();
        let long = "d/".repeat(70) + "file";
        layer.file(&long, 0o4755, vec![7; 1000]).link("l", &long);
        let mut again = Layer::default();
        again.unpack(layer.tar().unwrap().as_slice(), |_| true).unwrap();
        assert_eq!(layer.tar().unwrap(), again.tar().unwrap());
        assert_eq!(again.nodes.len(), 72, "70 directories nobody named, the file, the link");
    }

    #[test]
    fn what_is_not_kept_stays_away() {
        let mut layer = Layer::default();
        layer.file("usr/share/doc/x", 0o644, "x").file("usr/bin/x", 0o755, "x");
        let mut kept = Layer::default();
        kept.unpack(layer.tar().unwrap().as_slice(), |path| !path.starts_with("usr/share")).unwrap();
        assert_eq!(
            kept.nodes.keys().map(|p| p.to_str().unwrap()).collect::<Vec<_>>(),
            ["usr", "usr/bin", "usr/bin/x"]
        );
    }
}

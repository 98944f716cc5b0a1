//! Images made here from Debian's `busybox-static`, for tests without a network.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Where Debian's `busybox-static` puts it.
const BUSYBOX: &str = "/bin/busybox";
/// What the image can run.
const APPLETS: &str = "[ awk cat chmod dd df echo env expr false grep head hostname httpd id ip kill ln ls \
                       mkdir mknod mount nc nproc nslookup pidof printf ps readlink rm sed seq sh sleep sort stat stty \
                       tail test touch tr true tty umount uname wc wget yes";

/// An image under construction.
pub struct Image {
    /// Its full reference.
    pub name: String,
    layers: Vec<Vec<u8>>,
    config: Value,
}

impl Image {
    /// An image with busybox and the files of a small system, running a shell.
    pub fn busybox(name: &str) -> Self {
        let mut binary = Vec::new();
        File::open(BUSYBOX)
            .and_then(|mut file| file.read_to_end(&mut binary))
            .unwrap_or_else(|error| panic!("{BUSYBOX}: {error}: install Debian's busybox-static"));
        let mut layer = Layer::default();
        layer
            .directory("bin", 0o755)
            .directory("etc", 0o755)
            .directory("tmp", 0o1777)
            .directory("root", 0o700);
        layer.file("bin/busybox", &binary, 0o755);
        for applet in APPLETS.split_whitespace() {
            layer.link(&format!("bin/{applet}"), "busybox");
        }
        layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/tmp:/bin/sh\n", 0o644);
        layer.file("etc/group", b"root:x:0:\nweb:x:34:\nlogs:x:40:web\n", 0o644);
        Self {
            name: name.to_owned(),
            layers: vec![layer.finish()],
            config: json!({ "Env": ["PATH=/bin", "IMAGE=yes"], "Cmd": ["sh"] }),
        }
    }

    /// Adds a layer.
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer.finish());
        self
    }

    /// Sets a field of the image's `config`.
    pub fn set(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// Its parts as a registry serves them: manifest, then every blob with its digest.
    pub fn blobs(&self) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": [],
        });
        let config = config.to_string().into_bytes();
        let descriptor = |kind: &str, bytes: &[u8]| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": digest(bytes),
                "size": bytes.len(),
            })
        };
        let mut blobs = Vec::new();
        let mut layers = Vec::new();
        for layer in &self.layers {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(layer).unwrap();
            let bytes = gzip.finish().unwrap();
            layers.push(descriptor("layer.v1.tar+gzip", &bytes));
            blobs.push((digest(&bytes), bytes));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &config),
            "layers": layers,
        });
        blobs.push((digest(&config), config));
        (manifest.to_string().into_bytes(), blobs)
    }

    /// Writes an OCI image layout in a tar archive into `dir`.
    pub fn oci_archive(&self, dir: &Path) -> PathBuf {
        let (manifest, blobs) = self.blobs();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(&manifest),
                "size": manifest.len(),
                "annotations": {
                    "io.containerd.image.name": self.name,
                    "org.opencontainers.image.ref.name": self.name,
                },
            }],
        });
        let mut archive = Layer::default();
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
        archive.file("index.json", index.to_string().as_bytes(), 0o644);
        archive.file(&blob_path(&digest(&manifest)), &manifest, 0o644);
        for (digest, bytes) in &blobs {
            archive.file(&blob_path(digest), bytes, 0o644);
        }
        write(dir, "oci.tar", &archive.finish())
    }

    /// Writes what `docker save` would, with zstd, into `dir`.
    pub fn docker_archive(&self, dir: &Path) -> PathBuf {
        let (_, blobs) = self.blobs();
        let (config_digest, config) = blobs.last().unwrap();
        let config_name = format!("{}.json", &config_digest[7..]);
        let layers: Vec<String> = (0..self.layers.len()).map(|index| format!("{index}/layer.tar")).collect();
        let manifest = json!([{ "Config": config_name, "RepoTags": [self.name], "Layers": layers }]);
        let mut archive = Layer::default();
        for (name, layer) in layers.iter().zip(&self.layers) {
            archive.file(name, layer, 0o644);
        }
        archive.file(&config_name, config, 0o644);
        archive.file("manifest.json", manifest.to_string().as_bytes(), 0o644);
        write(dir, "docker.tar.zst", &zstd::encode_all(archive.finish().as_slice(), 1).unwrap())
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// The digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A tar archive under construction.
pub struct Layer {
    archive: tar::Builder<Vec<u8>>,
}

impl Default for Layer {
    fn default() -> Self {
        Self { archive: tar::Builder::new(Vec::new()) }
    }
}

impl Layer {
    fn add(&mut self, path: &str, kind: tar::EntryType, mode: u32, content: &[u8], link: Option<&str>) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        // Written as they are: tests include paths that no sane archive has.
        let bytes = path.as_bytes();
        header.as_old_mut().name[..bytes.len()].copy_from_slice(bytes);
        if let Some(link) = link {
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        self.archive.append(&header, io::Cursor::new(content)).unwrap();
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.add(path, tar::EntryType::Directory, mode, &[], None);
        self
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, content: &[u8], mode: u32) -> &mut Self {
        self.add(path, tar::EntryType::Regular, mode, content, None);
        self
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) -> &mut Self {
        self.add(path, tar::EntryType::Symlink, 0o777, &[], Some(to));
        self
    }

    /// Adds a hard link.
    pub fn hard_link(&mut self, path: &str, to: &str) -> &mut Self {
        self.add(path, tar::EntryType::Link, 0o644, &[], Some(to));
        self
    }

    fn finish(self) -> Vec<u8> {
        self.archive.into_inner().unwrap()
    }
}

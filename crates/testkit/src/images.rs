//! The images that tests, examples and measurements run, made from Debian's packages.
//!
//! They are made once per set of package versions and kept in the tree's cache. All share one base layer
//! (a static busybox, so that each has a shell, `wget` and `tar`).
//!
//! ```no_run
//! let image = testkit::images::nginx()?;
//! println!("{} lies in {}", image.name, image.oci.display());
//! # anyhow::Ok(())
//! ```

use std::io::Read;
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian::{self, Package};
use crate::image::{self, Config, Image, Layer};
use crate::{place, process};

/// Part of every image's cache key: counts up when the making of images changes.
const MAKING: u32 = 1;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    redis:x:34:34:redis:/var/lib/redis:/bin/false\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nredis:x:34:\nnogroup:x:65534:\n";

/// Parts of packages that a container doesn't need: documentation, translations, service units, character
/// set converters.
const LEFT_OUT: [&str; 12] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/bash-completion",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/aarch64-linux-gnu/gconv",
    "etc/init.d",
    "lib/systemd/system",
    "usr/lib/systemd",
];

const NGINX_CONF: &str = "user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 512; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout;
    server {
        listen 80 default_server;
        root /usr/share/nginx/html;
        index index.html;
    }
}
";

/// `busybox:1.35`: a shell and its tools.
///
/// # Errors
/// The package can't be had, or the archive can't be written; so with the other images.
pub fn busybox() -> Result<Image> {
    let config = Config { cmd: vec!["sh".into()], ..Config::default() };
    make("busybox:1.35", &[], |_| (), config)
}

/// `pause:1`: does nothing, for runtimes that hold a pod's namespaces by a process. They start it without
/// a `PATH`.
///
/// # Errors
/// As [`busybox`].
pub fn pause() -> Result<Image> {
    let config = Config { entrypoint: words("/bin/sleep 2147483647"), ..Config::default() };
    make("pause:1", &[], |_| (), config)
}

/// `nginx:1.22`: Debian's nginx, which serves its default page on port 80 and logs to the container's
/// output.
///
/// # Errors
/// As [`busybox`].
pub fn nginx() -> Result<Image> {
    nginx_with("nginx:1.22", |_| ())
}

/// `nginx:1.22-green`: the same with another page, for updates that must be seen.
///
/// # Errors
/// As [`busybox`].
pub fn nginx_green() -> Result<Image> {
    nginx_with("nginx:1.22-green", |layer| {
        layer.file("usr/share/nginx/html/index.html", 0o644, "<h1>Green nginx</h1>\n");
    })
}

fn nginx_with(name: &str, change: impl Fn(&mut Layer)) -> Result<Image> {
    let config = Config {
        cmd: words("nginx -g").into_iter().chain(["daemon off;".into()]).collect(),
        ports: vec!["80/tcp".into()],
        // nginx finishes the requests it has on QUIT and drops them on TERM.
        stop_signal: "SIGQUIT".into(),
        ..Config::default()
    };
    let finish = |layer: &mut Layer| {
        layer
            .file("etc/nginx/nginx.conf", 0o644, NGINX_CONF)
            .link("var/log/nginx/error.log", "/dev/stderr")
            .link("var/log/nginx/access.log", "/dev/stdout")
            .directory("var/lib/nginx", 0o755)
            .directory("run", 0o755);
        change(layer);
    };
    make(name, &["nginx", "nginx-common"], finish, config)
}

/// `redis:7.0`: Debian's redis on port 6379, open to every address, keeping nothing.
///
/// # Errors
/// As [`busybox`].
pub fn redis() -> Result<Image> {
    // An empty word after --save: no snapshots.
    let config = Config {
        entrypoint: vec!["redis-server".into()],
        cmd: words("--bind 0.0.0.0 --protected-mode no --save "),
        ports: vec!["6379/tcp".into()],
        working_dir: "/var/lib/redis".into(),
        user: "redis".into(),
        ..Config::default()
    };
    let finish = |layer: &mut Layer| {
        layer.directory("var/lib/redis", 0o777);
    };
    make("redis:7.0", &["redis-server", "redis-tools"], finish, config)
}

/// Every image that is for pods.
///
/// # Errors
/// As [`busybox`].
pub fn all() -> Result<Vec<Image>> {
    Ok(vec![busybox()?, nginx()?, nginx_green()?, redis()?])
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(ToOwned::to_owned).collect()
}

/// Makes an image unless the cache has it. Where the package lists are older than what their sources
/// hold, with new ones.
fn make(name: &str, packages: &[&str], finish: impl Fn(&mut Layer), config: Config) -> Result<Image> {
    debian::with_lists(|| make_from_lists(name, packages, &finish, &config))
}

/// The base layer, one with the packages and the libraries they need, changed by `finish`.
fn make_from_lists(
    name: &str,
    packages: &[&str],
    finish: &impl Fn(&mut Layer),
    config: &Config,
) -> Result<Image> {
    let shell = Package::with_libraries(&["busybox-static"])?;
    let packages = if packages.is_empty() { Vec::new() } else { Package::with_libraries(packages)? };
    // `finish` is code: what it does to an empty layer stands for it in the key.
    let mut finished = Layer::default();
    finish(&mut finished);
    let key = format!("{MAKING} {shell:?} {packages:?} {finished:?} {config:?} {PASSWD} {LEFT_OUT:?}");
    let stem = format!("{}-{}", name.replace(':', "-"), &image::hex(key.as_bytes())[..12]);
    let dir = place::cache("images")?;
    let image = Image {
        name: name.to_owned(),
        oci: dir.join(format!("{stem}.tar")),
        docker: dir.join(format!("{stem}.docker.tar")),
    };
    if image.oci.is_file() && image.docker.is_file() {
        return Ok(image);
    }
    let mut layers = vec![base(&shell)?];
    if !packages.is_empty() {
        let mut layer = Layer::default();
        for package in &packages {
            layer
                .unpack(package.files()?.as_slice(), wanted)
                .with_context(|| format!("in package {}", package.name))?;
        }
        layers.extend([layer, finished]);
    }
    image::write(name, &layers, config, &image.oci, &image.docker)?;
    Ok(image)
}

fn wanted(path: &str) -> bool {
    !LEFT_OUT.iter().any(|left_out| {
        path.strip_prefix(left_out).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Busybox under each of its names, and the few files a program expects on a system.
fn base(shell: &[Package]) -> Result<Layer> {
    let mut layer = Layer::default();
    for package in shell {
        layer.unpack(package.files()?.as_slice(), |path| path == "bin/busybox")?;
    }
    for path in applets(&layer)? {
        layer.link(&path, "/bin/busybox");
    }
    layer
        .file("etc/passwd", 0o644, PASSWD)
        .file("etc/group", 0o644, GROUP)
        .directory("root", 0o700)
        .directory("tmp", 0o1777)
        .directory("home", 0o755)
        .directory("var/log", 0o755);
    Ok(layer)
}

/// Where this busybox would install itself: it is asked, since its list is fixed when it is built.
fn applets(layer: &Layer) -> Result<Vec<String>> {
    let program = layer.read("bin/busybox").context("the package has no bin/busybox")?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("busybox");
    std::fs::write(&path, program)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let list = process::read_text(Command::new(&path).arg("--list-full"))?;
    Ok(list.lines().filter(|line| *line != "bin/busybox").map(ToOwned::to_owned).collect())
}

/// The bytes of a file inside an image's OCI archive, from the topmost layer that has it.
///
/// # Errors
/// The archive can't be read, or no layer has the file.
pub fn file(image: &Image, path: &str) -> Result<Vec<u8>> {
    let mut found = None;
    image::each_layer(image, |tar| {
        for entry in tar::Archive::new(tar).entries()? {
            let mut entry = entry?;
            if entry.path()?.to_str() == Some(path) {
                let mut data = Vec::new();
                entry.read_to_end(&mut data)?;
                found = Some(data);
            }
        }
        Ok(())
    })?;
    found.with_context(|| format!("{} has no {path}", image.name))
}

/// Unpacks an image's layers over each other into a directory, for looking at it or for a chroot.
///
/// # Errors
/// The archive can't be read or the directory can't be written.
pub fn unpack(image: &Image, dir: &std::path::Path) -> Result<()> {
    image::each_layer(image, |tar| {
        let mut archive = tar::Archive::new(tar);
        archive.set_preserve_permissions(true);
        archive.unpack(dir)?;
        Ok(())
    })
}

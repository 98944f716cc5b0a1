//! The images are what they say: they are unpacked and run in namespaces of their own.

#![allow(clippy::unwrap_used, reason = "a test program")]

use std::path::Path;
use std::process::Command;

use testkit::{Image, images};

/// Unpacks an image and runs a script in it, in new mount, network and process namespaces; what it prints.
fn run(image: &Image, script: &str) -> String {
    let root = tempfile::tempdir().unwrap();
    images::unpack(image, root.path()).unwrap();
    let prepare = "mkdir -p /proc /dev && mount -t proc proc /proc && mount -t tmpfs none /dev && \
                   mknod /dev/null c 1 3 && ln -s /proc/self/fd/1 /dev/stdout && \
                   ln -s /proc/self/fd/2 /dev/stderr && ip link set lo up";
    let out = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "chroot"])
        .arg(root.path())
        .args(["/bin/sh", "-c", &format!("{prepare} && {script}")])
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn busybox_has_its_tools() {
    let image = images::busybox().unwrap();
    assert_eq!(
        run(&image, "echo $(whoami) $(nslookup 2>&1 | head -n 1 | cut -c 1-7) $(stat -c %a /tmp)"),
        "root BusyBox 1777\n"
    );
    assert!(size(&image.oci) < 2_000_000);
}

#[test]
fn nginx_serves_its_default_page() {
    let image = images::nginx().unwrap();
    // nginx returns from starting as a daemon when its socket listens.
    let page = run(&image, "nginx && wget -q -O - http://127.0.0.1/");
    assert!(page.contains("<title>Welcome to nginx!</title>"), "{page}");
    assert!(size(&image.oci) < 12_000_000, "{}", size(&image.oci));
    let green = images::nginx_green().unwrap();
    // The page, and the request's line in the log, which goes to the container's output.
    // The line is written after the answer: it is there once nginx has ended.
    let script = "true; nginx -g 'daemon off;' & until wget -q -O - http://127.0.0.1/; do :; done; kill -QUIT $!; wait $!";
    let printed = run(&green, script);
    assert!(
        printed.contains("<h1>Green nginx</h1>\n") && printed.contains("\"GET / HTTP/1.1\" 200"),
        "{printed}"
    );
}

#[test]
fn redis_keeps_a_value() {
    let image = images::redis().unwrap();
    let script = "redis-server --daemonize yes --save '' --unixsocket /tmp/redis >/dev/null && \
                  until [ -S /tmp/redis ]; do :; done && redis-cli -s /tmp/redis set a b && redis-cli -s /tmp/redis get a";
    assert_eq!(run(&image, script), "OK\nb\n");
}

#[test]
fn a_file_can_be_read_from_an_archive() {
    let image = images::nginx_green().unwrap();
    assert_eq!(images::file(&image, "usr/share/nginx/html/index.html").unwrap(), b"<h1>Green nginx</h1>\n");
    assert!(images::file(&image, "no/such/file").is_err());
}

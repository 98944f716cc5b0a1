//! What only the embedded runtime promises.

use std::time::Duration;

use cri::v1;
use tokio::io::AsyncWriteExt;

use crate::image::{Image, Layer, digest};
use crate::suite::Case;
use crate::world::{BUSYBOX, World};

/// All of it.
pub const CASES: &[Case] = crate::cases![
    a_restart_loses_neither_containers_nor_lines,
    a_dead_shim_is_noticed,
    layers_hide_link_and_stay_inside,
    docker_archives_are_images_too,
    a_registry_gives_images_and_says_no,
    an_image_in_use_stays,
    an_attached_process_tells_its_code,
];

async fn an_image_in_use_stays(world: &mut World) {
    let (_, container) = world.start("user", "sleep 1000").await;
    let image = v1::ImageSpec { image: BUSYBOX.into(), ..Default::default() };
    let in_use = world.runtime.remove_image(image.clone()).await.unwrap_err();
    assert!(matches!(in_use, cri::Error::FailedPrecondition { .. }), "{in_use}");
    assert!(world.runtime.image_status(image.clone()).await.unwrap().is_some());
    world.runtime.remove_container(&container).await.unwrap();
    world.runtime.remove_image(image).await.unwrap();
}

async fn an_attached_process_tells_its_code(world: &mut World) {
    let change = |config: &mut v1::ContainerConfig| {
        config.stdin = true;
        config.stdin_once = true;
    };
    let (_, container) = world.start_with("attached", "read line; exit 9", change).await;
    let options = cri::AttachOptions { stdin: true, ..Default::default() };
    let mut streams = world.runtime.attach(&container, options).await.unwrap();
    streams.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    assert_eq!(streams.exit.await.unwrap(), 9);
}

async fn a_restart_loses_neither_containers_nor_lines(world: &mut World) {
    let script = "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); sleep 0.005; done; exit 7";
    let (sandbox, container) = world.start("counter", script).await;
    let (_, idle) = world.start("idle", "sleep 1000").await;
    world.restart().await;
    let mut events = world.runtime.events().await.unwrap();
    let status = world.runtime.pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
    assert_eq!(world.exec(&idle, "echo here").await, (0, "here\n".into()));
    assert_eq!(world.exited(&container, &mut events).await.exit_code, 7);
    let want: String = (0..200).map(|line| format!("stdout F {line}\n")).collect();
    assert_eq!(world.log("counter"), want);
}

async fn a_dead_shim_is_noticed(world: &mut World) {
    let (sandbox, container) = world.start("orphan", "sleep 1000").await;
    let dir = world.dir.path().join("state/pods").join(&sandbox);
    let shim = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split('\0').any(|argument| argument == dir.to_str().unwrap())
        })
        .unwrap();
    let mut events = world.runtime.events().await.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(world.exited(&container, &mut events).await.exit_code, 255);
    let status = world.runtime.pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
}

fn import(world: &World, archive: &std::path::Path) {
    runtime::images::import(world.embedded.as_ref().unwrap().images(), archive).unwrap();
}

async fn layers_hide_link_and_stay_inside(world: &mut World) {
    let mut lower = Layer::default();
    lower.directory("data", 0o755).file("data/gone", b"1", 0o644).file("data/kept", b"2", 0o644);
    lower.directory("opaque", 0o755).file("opaque/gone", b"3", 0o644);
    let mut upper = Layer::default();
    upper.file("data/.wh.gone", b"", 0o644).file("data/new", b"4", 0o644).hard_link("data/same", "data/new");
    upper.file("opaque/.wh..wh..opq", b"", 0o644).file("opaque/new", b"5", 0o644);
    upper.link("out", "/").file("out/escaped", b"6", 0o644).file("../../dots", b"7", 0o644);
    let name = "docker.io/library/layers:test";
    let image = Image::busybox(name).layer(lower).layer(upper);
    import(world, &image.oci_archive(world.dir.path()));
    let script = "ls /data /opaque; stat -c %h /data/same; cat /escaped /dots; echo";
    let (_, log) =
        world.run_with("layers", script, |config| config.image.as_mut().unwrap().image = name.into()).await;
    let text: Vec<&str> = log.lines().map(|line| line.strip_prefix("stdout F ").unwrap_or(line)).collect();
    assert_eq!(text, ["/data:", "kept", "new", "same", "", "/opaque:", "new", "2", "67"]);
    assert!(!std::path::Path::new("/escaped").exists() && !std::path::Path::new("/dots").exists());
}

async fn docker_archives_are_images_too(world: &mut World) {
    let name = "docker.io/library/saved:1";
    let image = Image::busybox(name).set("Cmd", serde_json::json!(["echo", "saved"]));
    import(world, &image.docker_archive(world.dir.path()));
    let change = |config: &mut v1::ContainerConfig| {
        config.image.as_mut().unwrap().image = "saved:1".into();
        config.command.clear();
    };
    let (status, log) = world.run_with("saved", "", change).await;
    assert_eq!((status.exit_code, log.as_str()), (0, "stdout F saved\n"));
    let text = world.dir.path().join("text");
    std::fs::write(&text, "root:x:0:0:root:/root:/bin/bash\n".repeat(100)).unwrap();
    let error = runtime::images::import(world.embedded.as_ref().unwrap().images(), &text).unwrap_err();
    let want = format!("{}: neither an OCI image layout nor a docker archive", text.display());
    assert_eq!(error.to_string(), want);
}

/// Serves one image at `v2/library/pulled` to who says `user:secret`.
async fn registry(image: &Image) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    use tokio::io::AsyncReadExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (manifest, blobs) = image.blobs();
    let serving = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n")
                && socket.read_buf(&mut request).await.unwrap() > 0
            {}
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let allowed = request.to_lowercase().contains("authorization: basic dxnlcjpzzwnyzxq=");
            let manifest_type = "application/vnd.oci.image.manifest.v1+json";
            let found = match path.rsplit('/').next() {
                Some("latest") => Some((manifest_type, &manifest)),
                Some(wanted) => blobs
                    .iter()
                    .find(|(digest, _)| digest == wanted)
                    .map(|(_, bytes)| ("application/octet-stream", bytes)),
                None => None,
            };
            let (head, body) = match found {
                _ if !allowed => {
                    ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\"".to_owned(), &[][..])
                }
                Some((kind, bytes)) => {
                    let digest = digest(bytes);
                    (format!("200 OK\r\nContent-Type: {kind}\r\nDocker-Content-Digest: {digest}"), &bytes[..])
                }
                None => ("404 Not Found".to_owned(), &[][..]),
            };
            let head =
                format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // A client that has what it wants may go.
            let _ = socket.write_all(head.as_bytes()).await;
            let _ = socket.write_all(body).await;
        }
    });
    (address, serving)
}

async fn a_registry_gives_images_and_says_no(world: &mut World) {
    let (address, serving) = registry(&Image::busybox("pulled")).await;
    let spec = |name: &str| v1::ImageSpec { image: format!("{address}/{name}"), ..Default::default() };
    let auth = v1::AuthConfig { username: "user".into(), password: "secret".into(), ..Default::default() };
    let progress = tokio::sync::watch::Sender::new(cri::PullProgress::default());
    let seen = progress.subscribe();
    let pull = world.runtime.pull_image(spec("library/pulled"), Some(auth.clone()), None, Some(progress));
    let id = tokio::time::timeout(Duration::from_secs(20), pull).await.unwrap().unwrap();
    assert_eq!(seen.borrow().received, seen.borrow().total);
    assert_eq!((seen.borrow().layers, seen.borrow().layers_done), (1, 1));
    let image = world.runtime.image_status(spec("library/pulled")).await.unwrap().unwrap();
    assert_eq!(image.id, id);
    assert!(image.repo_digests[0].starts_with(&format!("{address}/library/pulled@sha256:")));
    let absent = world.runtime.pull_image(spec("library/pulled:absent"), Some(auth), None, None).await;
    assert!(
        matches!(&absent, Err(cri::Error::ImagePull { failure: cri::PullFailure::NotFound, .. })),
        "{absent:?}"
    );
    let denied = world.runtime.pull_image(spec("library/pulled"), None, None, None).await;
    assert!(
        matches!(&denied, Err(cri::Error::ImagePull { failure: cri::PullFailure::Unauthorized, .. })),
        "{denied:?}"
    );
    serving.abort();
}

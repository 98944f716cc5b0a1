//! A containerd of its own for each test, with Debian's `runc`, and networks that are namespaces and no more.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cri::{Remote, Runtime, v1};
use serde_json::json;
use testkit::Peer;
use tokio_util::sync::CancellationToken;

use crate::image::Image;
use crate::world::PATIENCE;

/// What keeps a sandbox's namespaces: sleeps.
const PAUSE: &str = "docker.io/library/pause:test";
/// The programs it takes.
const PROGRAMS: [&str; 3] = ["containerd", "runc", "ctr"];

/// The first of them that this machine lacks.
pub fn missing() -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    PROGRAMS.into_iter().find(|name| !found(name))
}

/// A running containerd; it ends with this.
pub struct Containerd {
    peer: Peer,
    pub remote: Remote,
    stop: CancellationToken,
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{dir}/cni/bin"
conf_dir = "{dir}/cni/conf"
"#
    )
}

impl Containerd {
    /// Starts one below `dir` that has `image`.
    pub async fn start(dir: &Path, image: &str) -> Self {
        let (bin, conf) = (dir.join("cni/bin"), dir.join("cni/conf"));
        for made in [&bin, &conf] {
            std::fs::create_dir_all(made).unwrap();
        }
        // This program is the network plugin, too.
        for name in ["loopback", "tiphys-test"] {
            std::os::unix::fs::symlink(std::env::current_exe().unwrap(), bin.join(name)).unwrap();
        }
        let list = json!({ "cniVersion": "0.4.0", "name": "test", "plugins": [{ "type": "tiphys-test" }] });
        std::fs::write(conf.join("10-test.conflist"), list.to_string()).unwrap();
        let config = dir.join("config.toml");
        std::fs::write(&config, configuration(dir)).unwrap();
        // The socket is there with the first, the CRI service with the second.
        let ready = ["containerd successfully booted", "Start streaming server"];
        // Its containers ignore what it was started with ignored.
        let mut command = Command::new("env");
        command.args(["--default-signal", "containerd", "--config"]).arg(&config);
        let starting = move || Peer::start(&mut command, &ready).unwrap();
        let peer = tokio::task::spawn_blocking(starting).await.unwrap();
        let socket = dir.join("containerd.sock");
        for (name, image) in [
            ("busybox", Image::busybox(image)),
            (
                "pause",
                Image::busybox(PAUSE).set("Entrypoint", json!(["sleep", "1000000"])).set("Cmd", json!([])),
            ),
        ] {
            let place = dir.join(name);
            std::fs::create_dir_all(&place).unwrap();
            let archive = image.oci_archive(&place);
            let import = tokio::process::Command::new("ctr")
                .args(["--address".as_ref(), socket.as_os_str()])
                .args(["--namespace", "k8s.io", "images", "import"])
                .arg(&archive)
                .output();
            let import = import.await.unwrap();
            assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
        }
        let stop = CancellationToken::new();
        let remote = Remote::connect(socket.to_str().unwrap(), stop.clone()).await.unwrap();
        let status = remote.status().await.unwrap().status.unwrap();
        assert!(status.conditions.iter().all(|condition| condition.status), "{status:?}");
        // The CRI side takes in what was imported a moment later, and tells nobody.
        let taken_in = async {
            for image in [image, PAUSE] {
                let spec = v1::ImageSpec { image: image.into(), ..Default::default() };
                while remote.image_status(spec.clone()).await.unwrap().is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        tokio::time::timeout(PATIENCE, taken_in).await.expect("imported images are not taken in");
        Self { peer, remote, stop }
    }

    pub fn end(self) {
        self.stop.cancel();
        drop(self.peer);
    }
}

/// Answers as a CNI plugin: the loopback interface is up, and an address is named that nobody has.
pub fn plugin() -> i32 {
    match std::env::var("CNI_COMMAND").as_deref() {
        Ok("ADD") => {
            let namespace = std::fs::File::open(std::env::var_os("CNI_NETNS").unwrap()).unwrap();
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            let result = json!({
                "cniVersion": "0.4.0",
                "interfaces": [{ "name": std::env::var("CNI_IFNAME").unwrap(), "sandbox": "" }],
                "ips": [{ "version": "4", "address": "10.1.2.3/24", "interface": 0 }],
            });
            println!("{result}");
            0
        }
        Ok("VERSION") => {
            println!("{}", json!({ "cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"] }));
            0
        }
        _ => 0,
    }
}

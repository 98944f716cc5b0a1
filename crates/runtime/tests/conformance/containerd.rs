//! A containerd of its own for each test, with Debian's `runc`, and networks that are namespaces and no more.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cri::{Remote, Runtime};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::image::Image;

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
    child: Child,
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
        let log = std::fs::File::create(dir.join("containerd.log")).unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let socket = dir.join("containerd.sock");
        let stop = CancellationToken::new();
        let remote = connect(&socket, &stop).await;
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
            let import = Command::new("ctr")
                .args(["--address".as_ref(), socket.as_os_str()])
                .args(["--namespace", "k8s.io", "images", "import"])
                .arg(&archive)
                .output();
            let import = import.await.unwrap();
            assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
        }
        Self { child, remote, stop }
    }

    pub async fn end(mut self) {
        self.stop.cancel();
        self.child.kill().await.unwrap();
    }
}

/// Connects as soon as it answers.
async fn connect(socket: &Path, stop: &CancellationToken) -> Remote {
    let ready = async {
        loop {
            if let Ok(remote) = Remote::connect(socket.to_str().unwrap(), stop.clone()).await
                && remote.status().await.is_ok()
            {
                return remote;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ready).await.expect("containerd never answers")
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

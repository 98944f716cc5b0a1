//! `tiphys up`, `down`, `status`, `kubeconfig`, `image`: a cluster on this host, as a user means it.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use lifecycle::kubeconfig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{Name, Settings};
use crate::control::{self, Answer, Ask};
use crate::server::{self, context_name};

/// How long a cluster may take to be ready before its log is pointed at.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server may take to end before it is ended by force.
const TERMINATION: Duration = Duration::from_secs(15);

#[derive(Args)]
pub struct DownFlags {
    /// The cluster's name.
    #[arg(long, default_value = "default")]
    name: Name,
    /// Remove its state too: objects, images, certificates.
    #[arg(long)]
    purge: bool,
}

#[derive(Args)]
pub struct NameFlag {
    /// The cluster's name.
    #[arg(long, default_value = "default")]
    name: Name,
}

#[derive(Args)]
pub struct ImageFlags {
    /// The cluster's name.
    #[arg(long, default_value = "default", global = true)]
    name: Name,
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Subcommand)]
enum ImageCommand {
    /// Takes in images from OCI or docker archives.
    Import {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Fetches an image from its registry.
    Pull { image: String },
    /// Lists the images that are present.
    Ls,
    /// Removes an image.
    Rm {
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// The process of a running server.
fn running(name: &Name) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(name.pid_path()).ok()?.trim().parse().ok()?;
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // A pid may have been given to another program since.
    let ours = exe.file_name().is_some_and(|f| f.to_string_lossy().starts_with("tiphys"));
    ours.then(|| Pid::from_raw(pid))
}

pub async fn up(flags: server::Flags) -> anyhow::Result<()> {
    let start = Instant::now();
    server::check_host()?;
    let name = &flags.name;
    if running(name).is_some() {
        println!("cluster {name} is up already");
        return status(&NameFlag { name: name.clone() }).await;
    }
    let settings = server::settings(&flags)?;
    launch(&flags, &settings)?;
    println!("cluster {name}: pods {}, services {}", settings.pod_cidr, settings.service_cidr);
    tokio::select! {
        ready = wait_ready(name, &settings) => ready?,
        () = tokio::time::sleep(PATIENCE) => {
            bail!("the node is not ready after {PATIENCE:?}; the reason should be in {}", name.log_path().display())
        }
    }
    let entry = kubeconfig::read(&name.kubeconfig(), None)?;
    let context = context_name(name);
    if let Some(path) = user_kubeconfig() {
        kubeconfig::merge(&path, &entry, true)?;
        println!(
            "node {} ready after {:.2} s; kubectl's context is {context}",
            settings.node_name,
            start.elapsed().as_secs_f64()
        );
    } else {
        println!("node {} ready after {:.2} s", settings.node_name, start.elapsed().as_secs_f64());
    }
    println!("API {}, kubeconfig {}", settings.api_url(), name.kubeconfig().display());
    Ok(())
}

/// `$KUBECONFIG`'s first file, else `~/.kube/config`.
fn user_kubeconfig() -> Option<PathBuf> {
    if let Some(list) = std::env::var_os("KUBECONFIG") {
        return std::env::split_paths(&list).find(|p| !p.as_os_str().is_empty());
    }
    std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"))
}

/// Starts the server in a session of its own, with its log in a file.
fn launch(flags: &server::Flags, settings: &Settings) -> anyhow::Result<()> {
    let name = &flags.name;
    let log =
        OpenOptions::new().create(true).append(true).open(name.log_path()).context("opening the log")?;
    // A kubeconfig of an earlier run would be taken for this one's sign of life.
    if let Err(error) = std::fs::remove_file(name.kubeconfig())
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).context("removing the old kubeconfig");
    }
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(["server", "--name", name.as_str()]);
    command.args(["--node-name", &settings.node_name]);
    command.args(["--insecure-port", &flags.insecure_port.to_string()]);
    command.args(["--etcd-port", &flags.etcd_port.to_string()]);
    if let Some(path) = &flags.pod_manifest_path {
        command.arg("--pod-manifest-path").arg(path);
    }
    for registry in &flags.plain_http_registry {
        command.args(["--plain-http-registry", registry]);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A process group of its own: what ends the terminal's programs does not end the cluster.
    command.process_group(0);
    command.spawn().context("starting the server")?;
    Ok(())
}

/// Waits for the server's kubeconfig, then for its node.
async fn wait_ready(name: &Name, settings: &Settings) -> anyhow::Result<()> {
    appears(&name.kubeconfig()).await?;
    let client = client_of(name)?;
    let nodes: Api<Node> = Api::all(client);
    kube::runtime::wait::await_condition(nodes, &settings.node_name, |node: Option<&Node>| {
        node.is_some_and(is_ready)
    })
    .await?;
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn client_of(name: &Name) -> anyhow::Result<kube::Client> {
    let path = name.kubeconfig();
    client::remote::from_kubeconfig(&path).map_err(|e| anyhow!("{}: {e}", path.display()))
}

/// Waits until a file is there, by inotify.
async fn appears(path: &Path) -> anyhow::Result<()> {
    use futures::StreamExt;
    use inotify::{Inotify, WatchMask};
    let directory = path.parent().context("a path with a directory")?;
    let inotify = Inotify::init().context("inotify")?;
    inotify
        .watches()
        .add(directory, WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE)
        .with_context(|| format!("watching {}", directory.display()))?;
    let mut events = inotify.into_event_stream(vec![0; 4096])?;
    while !path.exists() {
        events.next().await.context("inotify ended")??;
    }
    Ok(())
}

pub async fn status(flags: &NameFlag) -> anyhow::Result<()> {
    let name = &flags.name;
    let Some(settings) = Settings::read(&name.settings_path())? else {
        bail!("there is no cluster {name}; make one with `tiphys up`");
    };
    let Some(pid) = running(name) else {
        bail!("cluster {name} is down; start it with `tiphys up`");
    };
    let client = client_of(name)?;
    let nodes: Api<Node> = Api::all(client);
    println!("cluster {name}: server {pid}, API {}", settings.api_url());
    for node in nodes.list(&kube::api::ListParams::default()).await?.items {
        let ready = if is_ready(&node) { "Ready" } else { "NotReady" };
        println!("node {}: {ready}", node.metadata.name.unwrap_or_default());
    }
    Ok(())
}

pub fn kubeconfig(flags: &NameFlag) -> anyhow::Result<()> {
    let path = flags.name.kubeconfig();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{} cannot be read; is the cluster up?", path.display()))?;
    print!("{text}");
    Ok(())
}

pub async fn down(flags: DownFlags) -> anyhow::Result<()> {
    server::check_host()?;
    let name = &flags.name;
    let Some(settings) = Settings::read(&name.settings_path())? else {
        println!("there is no cluster {name}");
        return Ok(());
    };
    if let Some(pid) = running(name) {
        terminate(pid).await?;
    }
    crate::teardown::node(name, &settings).await?;
    if let Some(path) = user_kubeconfig().filter(|p| p.exists()) {
        kubeconfig::remove(&path, &context_name(name))?;
    }
    remove_dir(&name.run())?;
    if flags.purge {
        remove_dir(&name.state())?;
        println!("cluster {name} is gone, with its state");
    } else {
        println!("cluster {name} is down; its state stays in {}", name.state().display());
    }
    Ok(())
}

fn remove_dir(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Ends a server and waits for its end.
async fn terminate(pid: Pid) -> anyhow::Result<()> {
    let raw = rustix::process::Pid::from_raw(pid.as_raw()).context("a pid")?;
    let handle = match rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error).context("following the server"),
    };
    kill(pid, Signal::SIGTERM).context("ending the server")?;
    let exited = tokio::task::spawn_blocking(move || -> rustix::io::Result<bool> {
        let patience = rustix::time::Timespec { tv_sec: TERMINATION.as_secs().cast_signed(), tv_nsec: 0 };
        let mut polled = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
        Ok(rustix::event::poll(&mut polled, Some(&patience))? > 0)
    })
    .await??;
    if !exited {
        kill(pid, Signal::SIGKILL).context("ending the server by force")?;
    }
    Ok(())
}

pub async fn image(flags: ImageFlags) -> anyhow::Result<()> {
    let run = flags.name.run();
    match flags.command {
        ImageCommand::Import { archives } => {
            for archive in archives {
                let path = archive.canonicalize().with_context(|| format!("{}", archive.display()))?;
                if let Answer::Images(images) = control::ask(&run, &Ask::Import(path)).await? {
                    for image in images {
                        println!("imported {}", image.names.join(", "));
                    }
                }
            }
        }
        ImageCommand::Pull { image } => {
            control::ask(&run, &Ask::Pull(image.clone())).await?;
            println!("pulled {image}");
        }
        ImageCommand::Ls => {
            if let Answer::Images(images) = control::ask(&run, &Ask::List).await? {
                println!("{:<60} {:<15} {:>10}", "IMAGE", "ID", "SIZE");
                for image in images {
                    let id = image.id.trim_start_matches("sha256:");
                    let size = format!("{:.1}MB", image.size as f64 / 1e6);
                    for name in &image.names {
                        println!("{name:<60} {:<15} {size:>10}", id.get(..12).unwrap_or(id));
                    }
                }
            }
        }
        ImageCommand::Rm { images } => {
            for image in images {
                control::ask(&run, &Ask::Remove(image.clone())).await?;
                println!("removed {image}");
            }
        }
    }
    Ok(())
}

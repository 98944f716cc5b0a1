//! `tiphys up`, `down`, `status`, `kubeconfig`, `image`: a cluster on this host, as a user means it.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use client::{Informer, ObjectKey, Selection};
use k8s_openapi::api::core::v1::Node;
use kube::Resource;
use kube::api::Api;
use lifecycle::kubeconfig;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::task::JoinSet;

use crate::claim::holder;
use crate::cluster::{Name, Place, Settings};
use crate::control::{self, Answer, Ask};
use crate::nodes;
use crate::server::{self, context_name};

/// How long a cluster may take to be ready before its log is pointed at.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server may take to end before it is ended by force.
const TERMINATION: Duration = Duration::from_secs(15);

#[derive(Args)]
pub struct UpFlags {
    #[command(flatten)]
    server: server::Flags,
    /// How many nodes; each beyond the first has a network and a host name of its own.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=200))]
    nodes: Option<u8>,
}

#[derive(Args)]
pub struct ResetFlags {
    /// As it was given to the kubelet or agent.
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// As it was given to the kubelet or agent.
    #[arg(long, default_value = "/run/kubelet")]
    run_dir: PathBuf,
    /// As it was given to the kubelet or agent; the host's name where it was not.
    #[arg(long)]
    id: Option<String>,
    /// As it was given to the agent.
    #[arg(long)]
    network_namespace: Option<PathBuf>,
}

#[derive(Args)]
pub struct DownFlags {
    /// The cluster's name.
    #[arg(long, default_value = "default")]
    name: Name,
    /// Remove its state too: objects, images, certificates.
    #[arg(long)]
    purge: bool,
    /// Seconds that containers have to end by themselves before they are killed; 5 unless told, 0 with --purge.
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
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
    /// The --run-dir of one kubelet or agent, instead of a cluster's nodes.
    #[arg(long, global = true, conflicts_with = "name")]
    run_dir: Option<PathBuf>,
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

pub async fn up(flags: UpFlags) -> anyhow::Result<()> {
    let start = Instant::now();
    server::check_host()?;
    let (name, count) = (&flags.server.name, flags.nodes);
    let flags = &flags.server;
    let settings = server::settings(flags, count)?;
    let places: Vec<Place> = (0..settings.nodes.len()).map(|index| name.place(&settings, index)).collect();
    if all_run(&places)? {
        println!("cluster {name} is up already");
        return status(&NameFlag { name: name.clone() }).await;
    }
    println!("cluster {name}: pods {}, services {}", settings.pod_cidr, settings.service_cidr);
    let connected = (name.clone(), settings.clone());
    tokio::task::spawn_blocking(move || nodes::connect(&connected.0, &connected.1)).await??;
    let mut processes = JoinSet::new();
    let started = start_all(flags, &settings, &places, &mut processes);
    tokio::select! {
        ready = started => ready?,
        () = tokio::time::sleep(PATIENCE) => {
            let logs: Vec<String> = places.iter().map(|p| p.log_path().display().to_string()).collect();
            bail!("not every node is ready after {PATIENCE:?}; the reason should be in {}", logs.join(", "))
        }
    }
    let took = start.elapsed().as_secs_f64();
    let entry = kubeconfig::read(&name.kubeconfig(), None)?;
    let ready = match &settings.nodes[..] {
        [node] => format!("node {} ready after {took:.2} s", node.name),
        nodes => format!("{} nodes ready after {took:.2} s", nodes.len()),
    };
    match user_kubeconfig() {
        Some(path) => {
            kubeconfig::merge(&path, &entry, true)?;
            println!("{ready}; kubectl's context is {}", context_name(name));
        }
        None => println!("{ready}"),
    }
    println!("API {}, kubeconfig {}", settings.api_url(), name.kubeconfig().display());
    Ok(())
}

fn all_run(places: &[Place]) -> anyhow::Result<bool> {
    for place in places {
        if holder(place)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Starts what does not run, and waits until every node is ready.
async fn start_all(
    flags: &server::Flags,
    settings: &Settings,
    places: &[Place],
    processes: &mut JoinSet<anyhow::Error>,
) -> anyhow::Result<()> {
    let name = &flags.name;
    if holder(&places[0])?.is_none() {
        // A kubeconfig of an earlier run would be taken for this one's sign of life.
        match std::fs::remove_file(name.kubeconfig()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("removing the old kubeconfig");
            }
            _ => launch(server_command(flags, settings)?, &places[0], processes)?,
        }
    }
    unless_ended(processes, appears(&name.kubeconfig())).await??;
    for (index, place) in places.iter().enumerate().skip(1) {
        if holder(place)?.is_none() {
            launch(nodes::agent(name, settings, index, flags)?, place, processes)?;
        }
    }
    let all_ready = |nodes: &Informer<Node>| {
        let ready = |name: &str| nodes.get(&ObjectKey::cluster(name)).is_some_and(|node| is_ready(&node));
        settings.nodes.iter().all(|node| ready(&node.name)).then_some(())
    };
    let path = Node::url_path(&(), None);
    let ready = client::informer::until(client_of(name)?, path, Selection::default(), all_ready);
    unless_ended(processes, ready).await
}

/// `$KUBECONFIG`'s first file, else `~/.kube/config`.
fn user_kubeconfig() -> Option<PathBuf> {
    if let Some(list) = std::env::var_os("KUBECONFIG") {
        return std::env::split_paths(&list).find(|p| !p.as_os_str().is_empty());
    }
    std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"))
}

fn server_command(flags: &server::Flags, settings: &Settings) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(["server", "--name", flags.name.as_str()]);
    command.args(["--node-name", &settings.first().name]);
    command.args(["--insecure-port", &flags.insecure_port.to_string()]);
    command.args(["--etcd-port", &flags.etcd_port.to_string()]);
    if let Some(path) = &flags.pod_manifest_path {
        command.arg("--pod-manifest-path").arg(path);
    }
    for registry in &flags.plain_http_registry {
        command.args(["--plain-http-registry", registry]);
    }
    Ok(command)
}

/// What comes of `work`, unless one of the processes ends before.
async fn unless_ended<T>(
    processes: &mut JoinSet<anyhow::Error>,
    work: impl Future<Output = T>,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => Ok(done),
        Some(ended) = processes.join_next() => Err(ended?),
    }
}

/// Starts a part of the cluster apart from this terminal, with its log in a file. Its end, which `processes`
/// tell, is a fault as long as somebody waits for it to be ready.
fn launch(mut command: Command, place: &Place, processes: &mut JoinSet<anyhow::Error>) -> anyhow::Result<()> {
    let path = place.log_path();
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("opening {}", path.display()))?;
    let begins = log.metadata().map_or(0, |found| usize::try_from(found.len()).unwrap_or(usize::MAX));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A process group of its own: what ends the terminal's programs does not end the cluster.
    command.process_group(0);
    let mut child = tokio::process::Command::from(command).spawn().context("starting a server")?;
    processes.spawn(async move {
        let ended = child.wait().await;
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        match last_word(log.get(begins..).unwrap_or_default()) {
            Some(word) => anyhow!("{word}"),
            None => anyhow!("a server ended without a word: {ended:?}"),
        }
    });
    Ok(())
}

/// Why a server ended, by its log: its last error, which the ending of the rest may follow, else its last line.
fn last_word(log: &str) -> Option<String> {
    let error = log.lines().rev().find_map(|line| line.split_once(" ERROR ")?.1.split_once(": "));
    let last = || log.lines().last().map(|line| line.strip_prefix("tiphys: ").unwrap_or(line).to_owned());
    error.map(|(_, what)| what.to_owned()).or_else(last)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn client_of(name: &Name) -> anyhow::Result<kube::Client> {
    let path = name.kubeconfig();
    client::remote::from_kubeconfig(&path, "tiphys").map_err(|e| anyhow!("{}: {e}", path.display()))
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
    let Some(pid) = holder(&name.place(&settings, 0))? else {
        bail!("cluster {name} is down; start it with `tiphys up`");
    };
    let client = client_of(name)?;
    let nodes: Api<Node> = Api::all(client);
    println!("cluster {name}: server {pid}, API {}", settings.api_url());
    for node in nodes.list(&kube::api::ListParams::default()).await?.items {
        let ready = if is_ready(&node) { "Ready" } else { "NotReady" };
        let node = node.metadata.name.unwrap_or_default();
        let stopped = match settings.nodes.iter().position(|one| one.name == node) {
            Some(index) => holder(&name.place(&settings, index))?.is_none(),
            None => false,
        };
        // The API believes in a node for a while after it was last heard of.
        let ready = if stopped { "its agent has ended; start it with `tiphys up`" } else { ready };
        println!("node {node}: {ready}");
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

/// Takes what a kubelet or an agent left on this host away: pods, links, routes, rules and cgroups. What
/// is in its `--root-dir`, such as images, stays.
pub async fn reset(flags: ResetFlags) -> anyhow::Result<()> {
    server::check_host()?;
    let place = Place { state: flags.root_dir, run: flags.run_dir, namespace: flags.network_namespace };
    if let Some(pid) = holder(&place)? {
        bail!("--run-dir {}: process {pid} runs there; stop it first", place.run.display());
    }
    let id = match flags.id {
        Some(id) => id,
        None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
    };
    crate::teardown::pods(&place, Duration::ZERO).await?;
    crate::teardown::node(&id, place).await
}

pub async fn down(flags: DownFlags) -> anyhow::Result<()> {
    server::check_host()?;
    let name = &flags.name;
    let Some(settings) = Settings::read(&name.settings_path())? else {
        println!("there is no cluster {name}");
        return Ok(());
    };
    let places: Vec<Place> = (0..settings.nodes.len()).map(|index| name.place(&settings, index)).collect();
    futures::future::try_join_all(places.iter().map(terminate)).await?;
    let grace = Duration::from_secs(flags.grace_period.unwrap_or(if flags.purge { 0 } else { 5 }).into());
    futures::future::try_join_all(places.iter().map(|place| crate::teardown::pods(place, grace))).await?;
    for index in 0..settings.nodes.len() {
        crate::teardown::node(&settings.node_id(name, index), name.place(&settings, index)).await?;
    }
    let disconnected = (name.clone(), settings.clone());
    tokio::task::spawn_blocking(move || nodes::disconnect(&disconnected.0, &disconnected.1)).await??;
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

/// Ends the server or agent at a place, by force where it does not come to an end, and waits for its end.
async fn terminate(place: &Place) -> anyhow::Result<()> {
    let Some((pid, handle)) = follow(place)? else { return Ok(()) };
    let handle = Arc::new(handle);
    for signal in [Signal::TERM, Signal::KILL] {
        match rustix::process::pidfd_send_signal(&*handle, signal) {
            // It has ended by itself.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("ending process {pid}")),
        }
        let handle = handle.clone();
        if tokio::task::spawn_blocking(move || ends(&handle)).await?.context("following the server")? {
            return Ok(());
        }
    }
    bail!(
        "process {pid} did not end within {TERMINATION:?} of being killed; see what holds it, then try again"
    )
}

/// Waits for a process' end; whether it came in time.
fn ends(handle: &OwnedFd) -> rustix::io::Result<bool> {
    let patience = rustix::time::Timespec { tv_sec: TERMINATION.as_secs().cast_signed(), tv_nsec: 0 };
    let mut polled = [PollFd::new(handle, PollFlags::IN)];
    Ok(rustix::event::poll(&mut polled, Some(&patience))? > 0)
}

/// The process at a place, and a handle that means it and no other, even if its pid is given again.
fn follow(place: &Place) -> anyhow::Result<Option<(Pid, OwnedFd)>> {
    while let Some(pid) = holder(place)? {
        let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            // It has just ended.
            Err(Errno::SRCH) => continue,
            Err(error) => return Err(error).context("following the server"),
        };
        // As long as it holds the place it lives, so the handle is its own.
        if holder(place)? == Some(pid) {
            return Ok(Some((pid, handle)));
        }
    }
    Ok(None)
}

/// The runtimes of a cluster's nodes, by their local sockets' directories.
fn node_runs(name: &Name) -> anyhow::Result<Vec<PathBuf>> {
    let Some(settings) = Settings::read(&name.settings_path())? else {
        bail!("there is no cluster {name}; make one with `tiphys up`");
    };
    Ok((0..settings.nodes.len()).map(|index| name.place(&settings, index).run).collect())
}

/// Asks every node alike; what the first says is what is printed.
async fn ask_all(runs: &[PathBuf], ask: &Ask) -> anyhow::Result<Answer> {
    let answers = futures::future::try_join_all(runs.iter().map(|run| control::ask(run, ask))).await?;
    answers.into_iter().next().context("a cluster has a node")
}

pub async fn image(flags: ImageFlags) -> anyhow::Result<()> {
    let runs = match flags.run_dir {
        Some(dir) => vec![dir],
        None => node_runs(&flags.name)?,
    };
    match flags.command {
        ImageCommand::Import { archives } => {
            for archive in archives {
                let path = archive.canonicalize().with_context(|| format!("{}", archive.display()))?;
                if let Answer::Images(images) = ask_all(&runs, &Ask::Import(path)).await? {
                    for image in images {
                        println!("imported {}", image.names.join(", "));
                    }
                }
            }
        }
        ImageCommand::Pull { image } => {
            ask_all(&runs, &Ask::Pull(image.clone())).await?;
            println!("pulled {image}");
        }
        ImageCommand::Ls => {
            if let Answer::Images(images) = ask_all(&runs, &Ask::List).await? {
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
                ask_all(&runs, &Ask::Remove(image.clone())).await?;
                println!("removed {image}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::last_word;

    #[test]
    fn a_server_ends_with_its_error() {
        let log = "2026-11-21T20:07:24Z ERROR tiphys::node: kubelet: listen on 192.0.2.2:10250: in use\n\
                   2026-11-21T20:07:29Z  WARN tiphys::server: some tasks did not end in time left=1\n";
        assert_eq!(last_word(log).unwrap(), "kubelet: listen on 192.0.2.2:10250: in use");
        assert_eq!(last_word("a\ntiphys: no disk\n").unwrap(), "no disk");
        assert_eq!(last_word(""), None);
    }
}

//! Which command is meant, by the first argument or by the name the binary is called by.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::control_plane::VERSION;
use crate::{agent, apiserver, components, etcd, server, up};

#[derive(Parser)]
#[command(name = "tiphys", version, about = "Kubernetes in one small binary", propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log more: -v for debug, -vv for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster on this host and wait until it is ready.
    Up(Box<up::UpFlags>),
    /// Stop a cluster and take its traces off this host.
    Down(up::DownFlags),
    /// Take what a kubelet or an agent left on this host away; its processes must have ended.
    Reset(up::ResetFlags),
    /// Say how a cluster is.
    Status(up::NameFlag),
    /// Print a cluster's kubeconfig.
    Kubeconfig(up::NameFlag),
    /// The images of a cluster's node.
    Image(up::ImageFlags),
    /// Run a whole cluster's control plane and a node in the foreground.
    Server(Box<server::Flags>),
    /// Run a node of a cluster whose API is elsewhere, in the foreground.
    Agent(Box<agent::Flags>),
    /// Print the version.
    Version,
    /// The API server alone.
    #[command(version = VERSION, display_name = "Kubernetes")]
    KubeApiserver(Box<apiserver::Flags>),
    /// The controllers alone.
    #[command(version = VERSION, display_name = "Kubernetes")]
    KubeControllerManager(Box<components::ControllerManagerFlags>),
    /// The scheduler alone.
    #[command(version = VERSION, display_name = "Kubernetes")]
    KubeScheduler(Box<components::SchedulerFlags>),
    /// The kubelet with its runtime and pod network alone.
    #[command(version = VERSION, display_name = "Kubernetes")]
    Kubelet(Box<agent::KubeletFlags>),
    /// The service proxy alone.
    #[command(version = VERSION, display_name = "Kubernetes")]
    KubeProxy(Box<components::ProxyFlags>),
    /// The store alone, behind etcd's API.
    #[command(display_name = "tiphys etcd")]
    Etcd(Box<etcd::Flags>),
}

/// Names that a link to the binary may have.
const COMPONENTS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "etcd"];

/// Runs what the arguments ask for. Faults are one line on stderr.
pub fn run(mut args: Vec<OsString>) -> ExitCode {
    let called =
        args.first().map(Path::new).and_then(Path::file_name).and_then(|n| n.to_str()).unwrap_or_default();
    if COMPONENTS.contains(&called) {
        let name = called.to_owned();
        args.splice(..1, ["tiphys".into(), name.into()]);
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            // Help and version are no faults; clap knows where each goes.
            let alone = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            if alone {
                // Nothing was asked for: the commands there are.
                return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::FAILURE };
            }
            if code == 0 {
                return if error.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) };
            }
            eprintln!("tiphys: {}", one_line(&error.render().to_string()));
            return ExitCode::from(code);
        }
    };
    log(cli.verbose);
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tiphys: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A fault as clap words it, without the pages around it.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("For more information"));
    let fault = lines.clone().take_while(|line| !line.starts_with("Usage:") && !line.is_empty());
    let tips = lines.filter_map(|line| line.strip_prefix("tip: "));
    let fault = fault.collect::<Vec<_>>().join(" ");
    let fault = fault.strip_prefix("error: ").unwrap_or(&fault);
    let tips: Vec<&str> = tips.take(1).collect();
    match &tips[..] {
        [tip] => format!("{fault}; {tip}"),
        _ => format!("{fault}; --help lists the flags"),
    }
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("TIPHYS_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
}

fn execute(command: Command) -> anyhow::Result<()> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider was installed before ours");
    }
    match &command {
        Command::Agent(flags) => flags.kubelet.enter()?,
        Command::Kubelet(flags) => flags.enter()?,
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match command {
        Command::Up(flags) => runtime.block_on(up::up(*flags)),
        Command::Reset(flags) => runtime.block_on(up::reset(flags)),
        Command::Down(flags) => runtime.block_on(up::down(flags)),
        Command::Status(flags) => runtime.block_on(up::status(&flags)),
        Command::Kubeconfig(flags) => up::kubeconfig(&flags),
        Command::Image(flags) => runtime.block_on(up::image(flags)),
        Command::Server(flags) => runtime.block_on(server::run(*flags)),
        Command::Version => {
            println!("tiphys {} (Kubernetes {})", env!("CARGO_PKG_VERSION"), VERSION);
            Ok(())
        }
        Command::Agent(flags) => runtime.block_on(agent::run(*flags)),
        Command::KubeApiserver(flags) => runtime.block_on(apiserver::run(*flags)),
        Command::KubeControllerManager(flags) => runtime.block_on(components::controller_manager(*flags)),
        Command::KubeScheduler(flags) => runtime.block_on(components::scheduler(*flags)),
        Command::Kubelet(flags) => runtime.block_on(agent::run_kubelet(*flags)),
        Command::KubeProxy(flags) => runtime.block_on(components::proxy(*flags)),
        Command::Etcd(flags) => runtime.block_on(etcd::run(*flags)),
    }
}

/// Cancelled by SIGTERM or SIGINT.
pub fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    // Lives as long as the process.
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], want: &str) {
        let fault = Cli::try_parse_from(args).err().expect("a fault");
        assert_eq!(one_line(&fault.render().to_string()), want);
    }

    #[test]
    fn faults_take_one_line() {
        let similar = "unexpected argument '--node' found; a similar argument exists: '--nodes'";
        check(&["tiphys", "up", "--node", "3"], similar);
        let digit =
            "invalid value 'x' for '--nodes <NODES>': invalid digit found in string; --help lists the flags";
        check(&["tiphys", "up", "--nodes", "x"], digit);
    }
}

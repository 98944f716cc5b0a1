//! `tiphys etcd`: the embedded store behind etcd's API, with etcd's names of flags.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio_util::task::TaskTracker;

use crate::{apiserver, tls};

#[derive(Args)]
pub struct Flags {
    /// Where the data is kept.
    #[arg(long, default_value = "default.etcd")]
    data_dir: PathBuf,
    /// Where to listen: http:// or https:// with an address and a port, several with commas.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    listen_client_urls: Vec<String>,
    /// Certificate to serve https:// with.
    #[arg(long)]
    cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Authorities that client certificates must be signed by; without, nobody needs one.
    #[arg(long)]
    trusted_ca_file: Option<PathBuf>,
    /// The largest request, in bytes.
    #[arg(long, default_value_t = 1_572_864)]
    max_request_bytes: usize,
    /// How long history is kept without anybody compacting it, in hours; 0 keeps it.
    #[arg(long, default_value_t = 0)]
    auto_compaction_retention: u64,
}

/// A listen URL taken apart: where, and whether with TLS.
fn parse(url: &str) -> anyhow::Result<(SocketAddr, bool)> {
    let wrong = || format!("--listen-client-urls {url}: write it like https://127.0.0.1:2379");
    let (scheme, rest) = url.split_once("://").with_context(wrong)?;
    let rest = rest.trim_end_matches('/').replacen("localhost", &IpAddr::from([127, 0, 0, 1]).to_string(), 1);
    let address = rest.parse().with_context(wrong)?;
    match scheme {
        "http" => Ok((address, false)),
        "https" => Ok((address, true)),
        _ => bail!(wrong()),
    }
}

impl Flags {
    fn tls(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let (Some(certificate), Some(key)) = (&self.cert_file, &self.key_file) else {
            bail!("https:// needs --cert-file and --key-file");
        };
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
        };
        let builder = ServerConfig::builder();
        let builder = match &self.trusted_ca_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(tls::roots(&read(path)?)?);
                builder.with_client_cert_verifier(WebPkiClientVerifier::builder(roots).build()?)
            }
        };
        tls::with_certificate(builder, &read(certificate)?, &read(key)?)
    }
}

/// Serves until it is told to stop.
///
/// # Errors
/// Files, flags or ports that do not serve; a damaged store.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let stop = crate::cli::stop_on_signal()?;
    std::fs::create_dir_all(&flags.data_dir)
        .with_context(|| format!("making {}", flags.data_dir.display()))?;
    let retain = match flags.auto_compaction_retention {
        0 => None,
        hours => Some(Duration::from_secs(hours * 3600)),
    };
    let config = store::embedded::Config {
        request_limit: flags.max_request_bytes,
        retain,
        ..store::embedded::Config::default()
    };
    let engine = store::embedded::Engine::open(&flags.data_dir, config).await?;
    let tasks = TaskTracker::new();
    for url in &flags.listen_client_urls {
        let (address, secure) = parse(url)?;
        let tls = if secure { Some(flags.tls()?) } else { None };
        let listener = apiserver::bind(address, "--listen-client-urls").await?;
        println!("serving client requests on {}", listener.local_addr()?);
        let (engine, token) = (engine.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = store::front::serve(listener, tls, engine, token.clone()).await {
                tracing::error!(%error, "etcd's API ended");
                token.cancel();
            }
        });
    }
    stop.cancelled().await;
    tasks.close();
    tasks.wait().await;
    engine.close().await;
    Ok(())
}

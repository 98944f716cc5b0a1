//! `tiphys kube-apiserver`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use apiserver::{Identity, Server};
use clap::Args;
use ipnet::IpNet;
use registry::Engine;
use registry::admission::AdmitAll;
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::{access, dial};

/// What `/version` says.
pub const VERSION: &str = "v1.37.0";

#[derive(Args)]
pub struct Flags {
    /// Addresses of an etcd to keep everything in; without it the embedded store is used.
    #[arg(long, value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// Where service addresses come from.
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cluster_ip_range: IpNet,
    /// Address of the insecure local port.
    #[arg(long, default_value = "127.0.0.1")]
    insecure_bind_address: IpAddr,
    /// Port of the insecure local port; 0 for none.
    #[arg(long, default_value_t = 0)]
    insecure_port: u16,
}

/// Runs until it is told to stop.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let store: Arc<dyn Store> = store::memory::Engine::new();
    let access: Arc<dyn apiserver::Access> = Arc::new(access::Masters);
    let tokens: Arc<dyn apiserver::Tokens> = Arc::new(access::NoTokens);
    let settings = resources::Settings {
        service_cidr: flags.service_cluster_ip_range,
        node_ports: 30000..=32767,
    };
    let engine = Engine::open(registry::Config {
        store,
        resources: resources::table(&settings, &apiserver::injected(&access, &tokens)),
        admission: Arc::new(AdmitAll),
        clock: Arc::new(jiff::Timestamp::now),
    })
    .await
    .context("reading the store")?;
    let server = Server::new(apiserver::Config {
        engine: engine.clone(),
        access,
        dialer: Arc::new(dial::Direct { kubelet: None }),
        version: VERSION.into(),
    });
    let feed = tokio::spawn({
        let stop = stop.clone();
        async move { engine.run(stop).await }
    });
    let address = SocketAddr::new(flags.insecure_bind_address, flags.insecure_port);
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    println!("listening on http://{}", listener.local_addr()?);
    let identity = Identity::InProcess(Arc::new(access::admin()));
    let serving = tokio::spawn(apiserver::serve_plain(listener, identity, server, stop.clone()));
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    serving.await?;
    feed.await??;
    Ok(())
}

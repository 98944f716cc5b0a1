//! Store, engine and API server, put together: what `kube-apiserver` is, alone or in a whole server.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use api::User;
use apiserver::inprocess::InProcess;
use apiserver::{Health, Server};
use auth::bound::{CacheLookup, Tokens};
use auth::certificate::ClientCertificates;
use auth::token::{Issuer, StaticTokens, Verifier};
use auth::{Access, Authenticator, Authorizer, Chain, Identity, NodeAuthorizer, Rbac};
use lifecycle::pki::{Pki, Request};
use registry::Engine;
use store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{bootstrap, dial, policy, tls};

/// What `/version` says.
pub const VERSION: &str = "v1.37.0";
/// Who signs service account tokens, and whom they are for.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub struct Config {
    pub store: Arc<dyn Store>,
    pub pki: Arc<Pki>,
    pub service_cidr: ipnet::IpNet,
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// Where the API is reached by others: the endpoints of the service `kubernetes`.
    pub advertise: SocketAddr,
    pub kubernetes_ip: IpAddr,
    pub dns_ip: IpAddr,
    pub domain: String,
    /// Bound already.
    pub listeners: Vec<TcpListener>,
    /// Bound already; serves everybody as `system:masters`.
    pub insecure: Option<TcpListener>,
    /// Further names and addresses in the serving certificate.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// A running control plane. Ends with the token it was started with.
#[derive(Clone)]
pub struct ControlPlane {
    server: Arc<Server>,
}

impl ControlPlane {
    /// Starts serving; returns once requests are answered and the cluster's first objects are there.
    pub async fn start(
        config: Config,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> anyhow::Result<ControlPlane> {
        let now = SystemTime::now();
        let rbac = Arc::new(Rbac::default());
        let nodes = Arc::new(NodeAuthorizer::default());
        let lookup = Arc::new(CacheLookup::default());
        let (access, tokens, issuer) = access(&config, &rbac, &nodes, &lookup)?;
        let settings =
            resources::Settings { service_cidr: config.service_cidr, node_ports: config.node_ports.clone() };
        let engine = Engine::open(registry::Config {
            store: config.store.clone(),
            resources: resources::table(&settings, &auth::acts::injected(&access, &tokens)),
            admission: Arc::new(admission::Chain::built_in(access.clone())),
            clock: Arc::new(jiff::Timestamp::now),
        })
        .await
        .context("reading the store")?;
        lookup.attach(&engine);
        tasks.spawn({
            let (engine, stop) = (engine.clone(), stop.clone());
            async move {
                if let Err(error) = engine.run(stop.clone()).await {
                    tracing::error!(%error, "the store has forgotten what was not seen yet; stopping");
                    stop.cancel();
                }
            }
        });
        policy::feed(&engine, &rbac, &nodes, tasks, stop).await?;
        let kubelet = config.pki.ensure(&Request::api_server_kubelet_client(), now)?;
        let kubelet = tls::client(&config.pki.cluster.certificate, &kubelet.certificate, &kubelet.key)?;
        let mut health = Health::new(stop.clone());
        let hooks = bootstrap::Hooks::new(&mut health);
        let server = Server::new(apiserver::Config {
            engine,
            access,
            dialer: Arc::new(dial::Direct { kubelet: Some(kubelet) }),
            version: VERSION.into(),
            health,
            issuer,
            address: config.advertise.to_string(),
        });
        let plane = ControlPlane { server };
        plane.listen(&config, tasks, stop)?;
        let user = User::new("system:apiserver", ["system:masters"]);
        let client = plane.client(&user, "kube-apiserver");
        bootstrap::run(&client, &config, &hooks).await?;
        tasks.spawn(bootstrap::Published::of(&config).keep(client.clone(), stop.clone()));
        controllers::cluster_ip_repair::start(&client, config.service_cidr, tasks, stop);
        Ok(plane)
    }

    fn listen(&self, config: &Config, tasks: &TaskTracker, stop: &CancellationToken) -> anyhow::Result<()> {
        let names = lifecycle::pki::ApiServerNames {
            domain: config.domain.clone(),
            service_addresses: vec![config.kubernetes_ip],
            names: config.names.clone(),
            addresses: config.addresses.clone(),
        };
        let pair = config.pki.ensure(&Request::api_server(&names), SystemTime::now())?;
        let tls = tls::server(&pair.certificate, &pair.key)?;
        for listener in &config.listeners {
            let listener = duplicate(listener)?;
            tasks.spawn(apiserver::serve(listener, tls.clone(), self.server.clone(), stop.clone()));
        }
        if let Some(listener) = &config.insecure {
            let listener = duplicate(listener)?;
            let everybody = Identity::Trusted(Arc::new(User::new("system:unsecured", ["system:masters"])));
            tasks.spawn(apiserver::serve_plain(listener, everybody, self.server.clone(), stop.clone()));
        }
        Ok(())
    }

    /// A client of this process, with an identity of its own; managed fields name `component`.
    pub fn client(&self, user: &User, component: &'static str) -> kube::Client {
        kube::Client::new(InProcess::new(self.server.clone(), user.clone(), component), "default")
    }
}

/// The same socket for a task of its own.
fn duplicate(listener: &TcpListener) -> anyhow::Result<TcpListener> {
    use std::os::fd::AsFd;
    let owned = listener.as_fd().try_clone_to_owned().context("duplicating a socket")?;
    TcpListener::from_std(owned.into()).context("duplicating a socket")
}

fn access(
    config: &Config,
    rbac: &Arc<Rbac>,
    nodes: &Arc<NodeAuthorizer>,
    lookup: &Arc<CacheLookup>,
) -> anyhow::Result<(Arc<Access>, Arc<Tokens>, apiserver::Issuer)> {
    let pki = &config.pki;
    let key = auth::token::SigningKey::from_pem(&pki.service_accounts.private).map_err(|e| anyhow!("{e}"))?;
    let audiences = vec![ISSUER.to_owned()];
    let verifier = Verifier::new(vec![ISSUER.into()], audiences.clone(), vec![key.public.clone()]);
    let certificates =
        ClientCertificates::new(tls::roots(&pki.cluster.certificate)?).map_err(|e| anyhow!("{e}"))?;
    let authenticator = Authenticator {
        certificates: Some(certificates),
        front_proxy: None,
        static_tokens: Arc::new(StaticTokens::default()),
        service_accounts: Some(Arc::new(verifier)),
        lookup: lookup.clone(),
        anonymous: true,
    };
    let chain = Chain::new(vec![nodes.clone() as Arc<dyn Authorizer>, rbac.clone()]);
    let access = Access { authenticator, chain, rbac: rbac.clone() };
    let keys = [key.public.clone()];
    let published = apiserver::Issuer {
        configuration: auth::token::openid_configuration(
            ISSUER,
            &format!("https://{}/openid/v1/jwks", config.advertise),
            &keys,
        ),
        keys: auth::token::jwks(&keys),
    };
    let tokens = Tokens { issuer: Issuer { issuer: ISSUER.into(), key }, audiences };
    Ok((Arc::new(access), Arc::new(tokens), published))
}

//! The nodes of `up --nodes N` beyond the first: a network namespace and a process (`tiphys agent`) each.

use std::process::Command;
use std::time::SystemTime;

use anyhow::Context;
use lifecycle::kubeconfig::{self, Credentials, Entry};
use lifecycle::pki::{Pair, Pki, Request};
use network::hostns::HostNetwork;

use crate::cluster::{Name, RUN, Settings};
use crate::server;

/// Makes the bridge and the namespaces, or finds them. A cluster of one node needs none.
///
/// # Errors
/// The kernel refuses.
pub fn connect(name: &Name, settings: &Settings) -> anyhow::Result<()> {
    let Some(ranges) = settings.ranges() else { return Ok(()) };
    let directory = name.namespaces();
    let mut host =
        HostNetwork::open(name.as_str(), ranges, directory, RUN).context("the bridge of the nodes")?;
    for (index, node) in settings.nodes.iter().enumerate().skip(1) {
        let index = u8::try_from(index).context("a node's number")?;
        host.create_node(&node.name, index).with_context(|| format!("the network of node {}", node.name))?;
    }
    Ok(())
}

/// Takes bridge and namespaces away.
///
/// # Errors
/// The kernel refuses.
pub fn disconnect(name: &Name, settings: &Settings) -> anyhow::Result<()> {
    let Some(ranges) = settings.ranges() else { return Ok(()) };
    let host = HostNetwork::open(name.as_str(), ranges, name.namespaces(), RUN)
        .context("the bridge of the nodes")?;
    host.remove_all().context("removing the bridge of the nodes")
}

/// The command that runs node number `index`, whose credentials are written beside its state.
///
/// # Errors
/// Files cannot be written.
pub fn agent(
    name: &Name,
    settings: &Settings,
    index: usize,
    flags: &server::Flags,
) -> anyhow::Result<Command> {
    let (node, place) = (&settings.nodes[index], name.place(settings, index));
    let credentials = place.state.join("credentials");
    for directory in [&credentials, &place.run] {
        std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let pki = Pki::open(&name.state().join("pki"), SystemTime::now())?;
    let (kubelet, proxy) =
        (credentials.join("kubelet.kubeconfig"), credentials.join("kube-proxy.kubeconfig"));
    let write = |path, pair: Pair| {
        let entry = Entry {
            name: server::context_name(name),
            server: format!("https://{}:{}", settings.first().ip, settings.api_port),
            authority: Some(pki.cluster.certificate.clone()),
            credentials: Credentials::Certificate { certificate: pair.certificate, key: pair.key },
        };
        kubeconfig::write(path, &entry)
    };
    write(&kubelet, pki.ensure(&Request::kubelet_client(&node.name), SystemTime::now())?)?;
    write(&proxy, pki.ensure(&Request::proxy(), SystemTime::now())?)?;
    let serving = Request::kubelet_serving(&node.name, &[node.ip]);
    pki.ensure(&serving, SystemTime::now())?;
    let (certificate, key) = pki.paths(&serving.file);
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("agent").arg("--kubeconfig").arg(kubelet).arg("--kube-proxy-kubeconfig").arg(proxy);
    command.args(["--hostname-override", &node.name, "--id", &settings.node_id(name, index)]);
    command.args(["--node-ip", &node.ip.to_string(), "--port", &node.kubelet_port.to_string()]);
    command.arg("--client-ca-file").arg(pki.paths("ca").0);
    command.arg("--tls-cert-file").arg(certificate).arg("--tls-private-key-file").arg(key);
    command.args(["--cluster-dns", &settings.dns_ip()?.to_string(), "--cluster-domain", &settings.domain]);
    command.arg("--root-dir").arg(&place.state).arg("--run-dir").arg(&place.run);
    command.args(["--cluster-cidr", &settings.pod_cidr.to_string()]);
    command.args(["--service-cluster-ip-range", &settings.service_cidr.to_string()]);
    if let Some(namespace) = &place.namespace {
        command.arg("--network-namespace").arg(namespace);
    }
    for registry in &flags.plain_http_registry {
        command.args(["--plain-http-registry", registry]);
    }
    Ok(command)
}

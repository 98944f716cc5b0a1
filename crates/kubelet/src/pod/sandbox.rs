//! A pod's sandbox in the runtime's words, and the files every container of it sees.

use cri::v1;
use k8s_openapi::api::core::v1::{Container, HostAlias, Pod};

use super::{qos, security, spec};
use crate::config::Config;
use crate::names;

/// The pod's host name, and its domain where it has one.
pub fn hostname(config: &Config, pod: &Pod) -> (String, Option<String>) {
    let spec = spec::spec(pod);
    if let Some(name) = &spec.hostname_override {
        return (name.clone(), None);
    }
    if names::host_network(pod) {
        return (config.node_name.clone(), None);
    }
    let own = spec.hostname.as_deref().filter(|name| !name.is_empty());
    let mut name = own.unwrap_or_else(|| names::name(pod)).to_owned();
    name.truncate(63);
    let name = name.trim_end_matches(['-', '.']).to_owned();
    let subdomain = spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty());
    let domain = subdomain
        .map(|subdomain| format!("{subdomain}.{}.svc.{}", names::namespace(pod), config.cluster_domain));
    (name, domain)
}

/// The sandbox to run for `pod`, number `attempt`.
pub fn config(config: &Config, pod: &Pod, attempt: u32, dns: Option<v1::DnsConfig>) -> v1::PodSandboxConfig {
    let (name, domain) = hostname(config, pod);
    let as_fqdn = spec::spec(pod).set_hostname_as_fqdn.unwrap_or(false);
    let hostname = match domain {
        Some(domain) if as_fqdn => format!("{name}.{domain}"),
        _ => name,
    };
    let sysctls = spec::spec(pod).security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: names::name(pod).into(),
            uid: names::uid(pod).into(),
            namespace: names::namespace(pod).into(),
            attempt,
        }),
        hostname: if names::host_network(pod) { String::new() } else { hostname },
        log_directory: names::log_dir(&config.pod_logs_dir, pod).to_string_lossy().into_owned(),
        dns_config: dns,
        port_mappings: spec::containers(pod).flat_map(|(_, container)| port_mappings(container)).collect(),
        labels: names::sandbox_labels(pod).into_iter().collect(),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: qos::cgroup(&config.cgroup_root, pod),
            security_context: Some(security::sandbox(pod)),
            sysctls: sysctls
                .iter()
                .flat_map(|sysctls| sysctls.iter())
                .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
                .collect(),
            overhead: None,
            resources: Some(qos::pod_resources(pod)),
        }),
        ..Default::default()
    }
}

fn port_mappings(container: &Container) -> impl Iterator<Item = v1::PortMapping> {
    container.ports.iter().flatten().filter(|port| port.host_port.is_some_and(|port| port > 0)).map(|port| {
        v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        }
    })
}

/// `/etc/hosts` of a pod that has these addresses. With the host's network, `host` is the host's own file.
pub fn hosts_file(config: &Config, pod: &Pod, ips: &[String], host: Option<&str>) -> String {
    let aliases = aliases(spec::spec(pod).host_aliases.as_deref().unwrap_or_default());
    if let Some(host) = host {
        return format!("# Kubernetes-managed hosts file (host network).\n{host}{aliases}");
    }
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let (name, domain) = hostname(config, pod);
    for ip in ips {
        match &domain {
            Some(domain) => text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n")),
            None => text.push_str(&format!("{ip}\t{name}\n")),
        }
    }
    text + &aliases
}

fn aliases(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let lines = aliases
        .iter()
        .map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t")));
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

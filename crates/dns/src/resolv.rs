//! Resolver configuration: the node's `resolv.conf`, and what each pod gets (`dnsPolicy`, `dnsConfig`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

/// The most that resolvers take, as upstream's kubelet enforces it.
const NAMESERVERS: usize = 3;
const SEARCHES: usize = 32;
const SEARCH_CHARS: usize = 2048;

/// A resolver configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Resolvers, in order.
    pub nameservers: Vec<IpAddr>,
    /// Domains to try, in order.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

impl Config {
    /// Reads a `resolv.conf` (resolv.conf(5)): the last `search` or `domain` line counts.
    pub fn parse(text: &str) -> Self {
        let mut config = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A scope (`fe80::1%eth0`) means nothing outside this host.
                    let addr =
                        words.next().and_then(|w| w.split('%').next()).and_then(|w| w.parse::<IpAddr>().ok());
                    config.nameservers.extend(addr);
                }
                Some("search" | "domain") => config.searches = words.map(String::from).collect(),
                Some("options") => config.options.extend(words.map(String::from)),
                _ => {}
            }
        }
        config
    }

    /// The resolvers with their port, for forwarding.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.nameservers.iter().map(|addr| SocketAddr::new(*addr, 53)).collect()
    }
}

impl fmt::Display for Config {
    /// As a `resolv.conf`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.searches.is_empty() {
            writeln!(f, "search {}", self.searches.join(" "))?;
        }
        for addr in &self.nameservers {
            writeln!(f, "nameserver {addr}")?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

/// The cluster's part in a pod's configuration.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Addresses of the cluster DNS; without any, pods use the node's resolvers.
    pub dns: Vec<IpAddr>,
    /// The cluster's domain, e.g. `cluster.local`.
    pub domain: String,
}

/// A pod's configuration, and in words what had to be left out.
///
/// `Default` and `ClusterFirst` with host networking use the node's; `ClusterFirst` and
/// `ClusterFirstWithHostNet` the cluster's; `None` starts empty. `dnsConfig` is added to either.
pub fn pod_config(pod: &PodSpec, namespace: &str, cluster: &Cluster, node: &Config) -> (Config, Vec<String>) {
    let mut warnings = Vec::new();
    let host_network = pod.host_network.unwrap_or(false);
    let clustered = match pod.dns_policy.as_deref() {
        Some("None") => None,
        Some("Default") => Some(false),
        Some("ClusterFirstWithHostNet") => Some(true),
        _ => Some(!host_network),
    };
    let mut config = match clustered {
        None => Config::default(),
        Some(true) if !cluster.dns.is_empty() => {
            let domain = cluster.domain.trim_matches('.');
            let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_string()];
            Config {
                nameservers: cluster.dns.clone(),
                searches: own.into_iter().chain(node.searches.iter().cloned()).collect(),
                options: vec!["ndots:5".into()],
            }
        }
        Some(wanted) => {
            if wanted {
                warnings.push("no cluster DNS is configured; the pod uses the node's resolvers".into());
            }
            let mut config = node.clone();
            // A resolver on the node's loopback would be the pod's own loopback.
            if !host_network {
                config.nameservers.retain(|addr| !addr.is_loopback());
            }
            config
        }
    };
    if let Some(extra) = &pod.dns_config {
        add(&mut config, extra, &mut warnings);
    }
    fit(&mut config, &mut warnings);
    (config, warnings)
}

fn add(config: &mut Config, extra: &PodDNSConfig, warnings: &mut Vec<String>) {
    for text in extra.nameservers.iter().flatten() {
        match text.parse() {
            Ok(addr) => config.nameservers.push(addr),
            Err(_) => warnings.push(format!("nameserver {text:?} is no address")),
        }
    }
    config.searches.extend(extra.searches.iter().flatten().cloned());
    for option in extra.options.iter().flatten() {
        let Some(name) = option.name.as_deref().filter(|n| !n.is_empty()) else { continue };
        let own = |o: &String| o.split(':').next() == Some(name);
        config.options.retain(|o| !own(o));
        config.options.push(match option.value.as_deref() {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            _ => name.to_string(),
        });
    }
}

fn fit(config: &mut Config, warnings: &mut Vec<String>) {
    dedup(&mut config.nameservers);
    dedup(&mut config.searches);
    if config.nameservers.len() > NAMESERVERS {
        config.nameservers.truncate(NAMESERVERS);
        warnings.push(format!("only {NAMESERVERS} nameservers are used"));
    }
    let all = config.searches.len();
    let mut chars = 0;
    let mut room = |search: &String| {
        chars += search.len() + usize::from(chars > 0);
        chars <= SEARCH_CHARS
    };
    let fits = config.searches.iter().take(SEARCHES).take_while(|s| room(s)).count();
    if fits < all {
        config.searches.truncate(fits);
        warnings.push(format!("{} search domains are left out", all - fits));
    }
}

fn dedup<T: PartialEq + Clone>(list: &mut Vec<T>) {
    let mut seen: Vec<T> = Vec::with_capacity(list.len());
    list.retain(|item| {
        let new = !seen.contains(item);
        seen.extend(new.then(|| item.clone()));
        new
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check(pod: serde_json::Value, node: &str, expected: Expect) {
        let mut pod = pod;
        pod["containers"] = json!([]);
        let pod: PodSpec = serde_json::from_value(pod).unwrap();
        let cluster = Cluster { dns: vec!["10.96.0.10".parse().unwrap()], domain: "cluster.local".into() };
        let (config, warnings) = pod_config(&pod, "shop", &cluster, &Config::parse(node));
        expected.assert_eq(&format!(
            "{config}{}",
            warnings.iter().map(|w| format!("! {w}\n")).collect::<String>()
        ));
    }

    const NODE: &str = "# comment\ndomain old\nsearch lan corp.example\nnameserver 127.0.0.53\n\
                        nameserver 192.168.1.1 ; router\noptions edns0 trust-ad\n";

    #[test]
    fn policies() {
        check(
            json!({}),
            NODE,
            expect![[r#"
            search shop.svc.cluster.local svc.cluster.local cluster.local lan corp.example
            nameserver 10.96.0.10
            options ndots:5
        "#]],
        );
        check(
            json!({"dnsPolicy": "Default"}),
            NODE,
            expect![[r#"
            search lan corp.example
            nameserver 192.168.1.1
            options edns0 trust-ad
        "#]],
        );
        check(
            json!({"hostNetwork": true}),
            NODE,
            expect![[r#"
            search lan corp.example
            nameserver 127.0.0.53
            nameserver 192.168.1.1
            options edns0 trust-ad
        "#]],
        );
        check(
            json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
            NODE,
            expect![[r#"
            search shop.svc.cluster.local svc.cluster.local cluster.local lan corp.example
            nameserver 10.96.0.10
            options ndots:5
        "#]],
        );
    }

    #[test]
    fn a_pods_own_configuration() {
        let own = json!({
            "nameservers": ["1.1.1.1", "10.96.0.10", "2.2.2.2", "3.3.3.3"],
            "searches": ["lan", "example.org"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        });
        check(
            json!({"dnsConfig": own}),
            NODE,
            expect![[r#"
            search shop.svc.cluster.local svc.cluster.local cluster.local lan corp.example example.org
            nameserver 10.96.0.10
            nameserver 1.1.1.1
            nameserver 2.2.2.2
            options ndots:2 edns0
            ! only 3 nameservers are used
        "#]],
        );
        check(
            json!({"dnsPolicy": "None", "dnsConfig": own}),
            NODE,
            expect![[r#"
            search lan example.org
            nameserver 1.1.1.1
            nameserver 10.96.0.10
            nameserver 2.2.2.2
            options ndots:2 edns0
            ! only 3 nameservers are used
        "#]],
        );
    }

    #[test]
    fn too_many_searches_are_cut() {
        let many: Vec<String> = (0..40).map(|n| format!("s{n}.{}", "x".repeat(100))).collect();
        let config = json!({"nameservers": ["1.1.1.1"], "searches": many});
        let pod = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": config});
        let cluster = Cluster { dns: vec![], domain: "cluster.local".into() };
        let pod: PodSpec = serde_json::from_value(pod).unwrap();
        let (config, warnings) = pod_config(&pod, "shop", &cluster, &Config::default());
        assert_eq!(config.searches.len(), 19);
        assert!(config.searches.join(" ").len() <= SEARCH_CHARS);
        assert_eq!(warnings, ["21 search domains are left out"]);
    }
}

//! The node's own table: masquerading outwards, hairpins, host ports, and services answered on the node.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::nft::{
    Batch, Chain, Cmp, Data, Element, Family, Field, Flags, HookPoint, Key, Rule, Set, Table, Type, Value,
    Verdict,
};

/// A transport protocol that Services and host ports know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The API's word for it; TCP where absent.
    pub fn from_api(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// A port of the host that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// The one host address it is open on; all where absent.
    pub host_ip: Option<IpAddr>,
}

/// A service address answered by this very node instead of by endpoints (the cluster's DNS).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalService {
    /// Where clients think it is.
    pub service: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// Where it listens on this node.
    pub served_at: SocketAddr,
}

/// Before the service proxy, which sits at -100: what the node answers itself never gets there.
const BEFORE_PROXY: i32 = -105;
const SOURCE_NAT: i32 = 100;
const FILTER: i32 = 0;
/// `ct state new`.
const NEW: u32 = 1 << 3;

/// The sets and maps of the table.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    table: Table,
    cluster: Set,
    hairpin: Set,
    host_ports: Set,
    host_ip_ports: Set,
    local_services: Set,
}

impl Rules {
    pub(crate) fn new(table: String) -> Self {
        let (ip, port) = (Type::Ipv4, Type::Service);
        let target = || Data::Value(vec![ip, port]);
        Self {
            table: Table::new(Family::Ip, table),
            cluster: Set::new("cluster-cidrs", vec![ip]).with_intervals(),
            hairpin: Set::new("hairpin", vec![ip, ip]),
            host_ports: Set::map("host-ports", vec![Type::Proto, port], target()),
            host_ip_ports: Set::map("host-ip-ports", vec![ip, Type::Proto, port], target()),
            local_services: Set::map("local-services", vec![ip, Type::Proto, port], target()),
        }
    }

    fn sets(&self) -> [&Set; 5] {
        [&self.cluster, &self.hairpin, &self.host_ports, &self.host_ip_ports, &self.local_services]
    }

    /// The whole table anew, in one step, with what is attached now.
    pub(crate) fn plan<'a>(
        &self,
        pod_cidr: IpNet,
        cluster_cidrs: &[IpNet],
        attached: impl Iterator<Item = (IpAddr, &'a [HostPort])>,
        local: &[LocalService],
    ) -> Batch {
        let mut batch = Batch::new(self.table.clone());
        batch.remove_table();
        batch.add_table("");
        for set in self.sets() {
            batch.add_set(set);
        }
        batch.add_chain(Chain::nat("prerouting", HookPoint::Prerouting, BEFORE_PROXY));
        batch.add_chain(Chain::nat("output", HookPoint::Output, BEFORE_PROXY));
        batch.add_chain(Chain::nat("postrouting", HookPoint::Postrouting, SOURCE_NAT));
        batch.add_chain(Chain::filter("input", HookPoint::Input, FILTER));
        batch.add_chain(Chain::regular("arriving"));
        let rule = |chain| Rule::new(Family::Ip, chain);
        batch.add_rule(rule("prerouting").jump("arriving"));
        batch.add_rule(rule("output").jump("arriving"));
        for rule in self.arriving() {
            batch.add_rule(rule);
        }
        batch.add_rule(
            rule("postrouting")
                .load(&[Field::Saddr, Field::Daddr])
                .in_set(&self.hairpin)
                .masquerade(Flags::default()),
        );
        let loopback = IpNet::new(IpAddr::from([127, 0, 0, 0]), 8).expect("8 is a prefix length");
        // A pod could not answer to 127.0.0.1.
        batch.add_rule(
            rule("postrouting")
                .load(&[Field::Saddr])
                .in_network(Cmp::Eq, loopback)
                .load(&[Field::Daddr])
                .in_network(Cmp::Ne, loopback)
                .masquerade(Flags::default()),
        );
        // The kernel lets loopback addresses through for the sake of host ports: nobody else may use them.
        batch.add_rule(
            rule("input")
                .load(&[Field::CtState])
                .any_bit(NEW, true)
                .load(&[Field::Daddr])
                .in_network(Cmp::Eq, loopback)
                .load(&[Field::Saddr])
                .in_network(Cmp::Ne, loopback)
                .verdict(Verdict::Drop),
        );
        batch.add_rule(
            rule("postrouting")
                .load(&[Field::Saddr])
                .in_network(Cmp::Eq, pod_cidr)
                .load(&[Field::Daddr])
                .not_in_set(&self.cluster)
                .masquerade(Flags::FULLY_RANDOM),
        );
        batch.add_elements(&self.cluster, cluster_cidrs.iter().map(|net| Element::network(*net)).collect());
        for (ip, ports) in attached {
            batch.extend(self.attach(ip, ports));
        }
        batch.extend(self.serve(local));
        batch
    }

    fn arriving(&self) -> Vec<Rule> {
        let rule = || Rule::new(Family::Ip, "arriving");
        let target = [Field::Daddr, Field::L4Proto, Field::Dport];
        vec![
            rule().load(&target).map(&self.local_services).dnat(),
            rule().load(&target).map(&self.host_ip_ports).dnat(),
            rule().load(&[Field::FibDaddrType]).is(2).load(&target[1..]).map(&self.host_ports).dnat(),
        ]
    }

    fn port_elements(&self, ip: IpAddr, ports: &[HostPort]) -> (Vec<Element>, Vec<Element>) {
        let element = |port: &HostPort| {
            let key = port.host_ip.map_or(Key::new(), |host| Key::new().addr(host));
            let key = key.proto(port.protocol.number()).port(port.host_port);
            Element::mapped(key, Value::Fields(Key::new().addr(ip).port(port.container_port)))
        };
        let (own, any): (Vec<_>, Vec<_>) = ports.iter().partition(|p| p.host_ip.is_some());
        (any.into_iter().map(element).collect(), own.into_iter().map(element).collect())
    }

    fn hairpin_element(ip: IpAddr) -> Vec<Element> {
        vec![Element::new(Key::new().addr(ip).addr(ip))]
    }

    pub(crate) fn attach(&self, ip: IpAddr, ports: &[HostPort]) -> Batch {
        let mut batch = Batch::new(self.table.clone());
        let (any, own) = self.port_elements(ip, ports);
        batch.add_elements(&self.hairpin, Self::hairpin_element(ip));
        batch.add_elements(&self.host_ports, any);
        batch.add_elements(&self.host_ip_ports, own);
        batch
    }

    pub(crate) fn detach(&self, ip: IpAddr, ports: &[HostPort]) -> Batch {
        let mut batch = Batch::new(self.table.clone());
        let (any, own) = self.port_elements(ip, ports);
        batch.delete_elements(&self.hairpin, Self::hairpin_element(ip));
        batch.delete_elements(&self.host_ports, any);
        batch.delete_elements(&self.host_ip_ports, own);
        batch
    }

    /// Sends what clients ask of these service addresses to this node.
    pub(crate) fn serve(&self, local: &[LocalService]) -> Batch {
        let mut batch = Batch::new(self.table.clone());
        let element = |s: &LocalService| {
            let key = Key::new().addr(s.service.ip()).proto(s.protocol.number()).port(s.service.port());
            Element::mapped(key, Value::Fields(Key::new().addr(s.served_at.ip()).port(s.served_at.port())))
        };
        batch.flush_set(&self.local_services);
        batch.add_elements(&self.local_services, local.iter().map(element).collect());
        batch
    }

    pub(crate) fn remove(&self) -> Batch {
        let mut batch = Batch::new(self.table.clone());
        batch.remove_table();
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_table_of_a_node() {
        let port = |host_port, host_ip: Option<&str>| HostPort {
            protocol: Protocol::Tcp,
            host_port,
            container_port: 80,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let ports = [port(8080, None), port(8081, Some("192.168.1.7"))];
        let dns = LocalService {
            service: "10.96.0.10:53".parse().unwrap(),
            protocol: Protocol::Udp,
            served_at: "10.244.1.1:5353".parse().unwrap(),
        };
        let batch = Rules::new("tiphys-dev-n1".into()).plan(
            "10.244.1.0/24".parse().unwrap(),
            &["10.244.0.0/16".parse().unwrap()],
            [("10.244.1.2".parse().unwrap(), &ports[..])].into_iter(),
            &[dns],
        );
        expect![[r#"
            add table ip tiphys-dev-n1
            delete table ip tiphys-dev-n1
            add table ip tiphys-dev-n1
            add set ip tiphys-dev-n1 cluster-cidrs { type ipv4_addr ; flags interval ; }
            add set ip tiphys-dev-n1 hairpin { type ipv4_addr . ipv4_addr ; }
            add map ip tiphys-dev-n1 host-ports { type inet_proto . inet_service : ipv4_addr . inet_service ; }
            add map ip tiphys-dev-n1 host-ip-ports { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service ; }
            add map ip tiphys-dev-n1 local-services { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service ; }
            add chain ip tiphys-dev-n1 prerouting { type nat hook prerouting priority -105 ; }
            add chain ip tiphys-dev-n1 output { type nat hook output priority -105 ; }
            add chain ip tiphys-dev-n1 postrouting { type nat hook postrouting priority 100 ; }
            add chain ip tiphys-dev-n1 input { type filter hook input priority 0 ; }
            add chain ip tiphys-dev-n1 arriving
            add rule ip tiphys-dev-n1 prerouting jump arriving
            add rule ip tiphys-dev-n1 output jump arriving
            add rule ip tiphys-dev-n1 arriving dnat to ip daddr . meta l4proto . th dport map @local-services
            add rule ip tiphys-dev-n1 arriving dnat to ip daddr . meta l4proto . th dport map @host-ip-ports
            add rule ip tiphys-dev-n1 arriving fib daddr type local dnat to meta l4proto . th dport map @host-ports
            add rule ip tiphys-dev-n1 postrouting ip saddr . ip daddr @hairpin masquerade
            add rule ip tiphys-dev-n1 postrouting ip saddr 127/8 ip daddr != 127/8 masquerade
            add rule ip tiphys-dev-n1 input ct state & 0x8 != 0x0 ip daddr 127/8 ip saddr != 127/8 drop
            add rule ip tiphys-dev-n1 postrouting ip saddr 10.244.1/24 ip daddr != @cluster-cidrs masquerade fully-random
            add element ip tiphys-dev-n1 cluster-cidrs { 10.244.0.0-10.244.255.255 }
            add element ip tiphys-dev-n1 hairpin { 10.244.1.2 . 10.244.1.2 }
            add element ip tiphys-dev-n1 host-ports { tcp . 8080 : 10.244.1.2 . 80 }
            add element ip tiphys-dev-n1 host-ip-ports { 192.168.1.7 . tcp . 8081 : 10.244.1.2 . 80 }
            flush set ip tiphys-dev-n1 local-services
            add element ip tiphys-dev-n1 local-services { 10.96.0.10 . udp . 53 : 10.244.1.1 . 5353 }
        "#]].assert_eq(&batch.to_string());
    }
}

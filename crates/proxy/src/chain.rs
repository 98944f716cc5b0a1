//! Ways of choosing an endpoint, as chains. A chain's name says all about its rules, so a name that is in
//! the kernel already needs no second look.

use std::fmt;
use std::sync::Arc;

use network::nft::{
    Batch, Chain, Cmp, Data, Family, Field, Flags, HookPoint, Reject, Rule, Set, Table, Type, Verdict,
};

use crate::service::{Config, Masquerade};

/// First slot of a frontend's endpoints on this node, where they are kept apart.
pub const LOCAL_SLOTS: u32 = 1 << 16;

/// The chain that refuses.
pub const REJECT: &str = "reject";
/// The chain that drops.
pub const DROP: &str = "drop";
const ROUTE: &str = "route";
/// The chains every table has.
pub(crate) const FIXED: [&str; 7] =
    ["filter-prerouting", "nat-prerouting", "nat-output", "nat-postrouting", ROUTE, REJECT, DROP];
/// Where upstream and everybody else translate destinations.
const DESTINATION_NAT: i32 = -100;
const BEFORE_TRANSLATION: i32 = -110;
const SOURCE_NAT: i32 = 100;

/// The sets and maps of one table.
#[derive(Debug, Clone)]
pub struct Sets {
    /// The table.
    pub table: Table,
    /// Address, protocol, port → what to do.
    pub service_ips: Set,
    /// Protocol, port → what to do.
    pub node_ports: Set,
    /// Address, protocol, port, slot → endpoint.
    pub endpoints: Set,
    /// Protocol, port, slot → endpoint.
    pub node_port_endpoints: Set,
    /// Frontends that not everybody may use.
    pub restricted: Set,
    /// Who may use them.
    pub allowed: Set,
    cluster: Set,
    services: Set,
    /// An endpoint and itself, for pods that talk to themselves.
    pub hairpin: Set,
    node_port_addresses: Set,
}

impl Sets {
    /// The sets of a table.
    pub fn new(family: Family, table: &str) -> Self {
        let (ip, proto, port, slot) = (family.address_type(), Type::Proto, Type::Service, Type::Mark);
        let endpoint = || Data::Value(vec![ip, port]);
        Self {
            table: Table::new(family, table),
            service_ips: Set::map("service-ips", vec![ip, proto, port], Data::Verdict),
            node_ports: Set::map("node-ports", vec![proto, port], Data::Verdict),
            endpoints: Set::map("endpoints", vec![ip, proto, port, slot], endpoint()),
            node_port_endpoints: Set::map("node-port-endpoints", vec![proto, port, slot], endpoint()),
            restricted: Set::new("restricted", vec![ip, proto, port]),
            allowed: Set::new("allowed-sources", vec![ip, proto, port, ip]).with_intervals(),
            cluster: Set::new("cluster-cidrs", vec![ip]).with_intervals(),
            services: Set::new("service-cidrs", vec![ip]).with_intervals(),
            hairpin: Set::new("hairpin", vec![ip, ip]),
            node_port_addresses: Set::new("node-port-addresses", vec![ip]).with_intervals(),
        }
    }

    /// The table without any Service, replacing whatever has its name.
    pub fn skeleton(&self, config: &Config, comment: &str) -> Batch {
        let mut batch = Batch::new(self.table.clone());
        batch.remove_table();
        batch.add_table(comment);
        for set in [
            &self.service_ips,
            &self.node_ports,
            &self.endpoints,
            &self.node_port_endpoints,
            &self.restricted,
            &self.allowed,
            &self.cluster,
            &self.services,
            &self.hairpin,
            &self.node_port_addresses,
        ] {
            batch.add_set(set);
        }
        batch.add_chain(Chain::filter("filter-prerouting", HookPoint::Prerouting, BEFORE_TRANSLATION));
        batch.add_chain(Chain::nat("nat-prerouting", HookPoint::Prerouting, DESTINATION_NAT));
        batch.add_chain(Chain::nat("nat-output", HookPoint::Output, DESTINATION_NAT));
        batch.add_chain(Chain::nat("nat-postrouting", HookPoint::Postrouting, SOURCE_NAT));
        for chain in [ROUTE, REJECT, DROP] {
            batch.add_chain(Chain::regular(chain));
        }
        for rule in self.fixed_rules(config) {
            batch.add_rule(rule);
        }
        let networks = |nets: &[ipnet::IpNet]| {
            let of_family = |net: &&ipnet::IpNet| Family::of(net.addr()) == self.table.family;
            nets.iter().filter(of_family).map(|net| network::nft::Element::network(*net)).collect()
        };
        batch.add_elements(&self.cluster, networks(&config.cluster_cidrs));
        batch.add_elements(&self.services, networks(&config.service_cidrs));
        batch.add_elements(&self.node_port_addresses, networks(&config.node_port_addresses));
        batch
    }

    fn rule(&self, chain: &str) -> Rule {
        Rule::new(self.table.family, chain)
    }

    fn fixed_rules(&self, config: &Config) -> Vec<Rule> {
        /// `NF_CT_STATE_BIT(IP_CT_NEW)`
        const NEW: u32 = 8;
        let mark = 1 << config.masquerade_bit;
        let frontend = [Field::Daddr, Field::L4Proto, Field::Dport];
        let loopback: ipnet::IpNet = match self.table.family {
            Family::Ip => ipnet::Ipv4Net::new_assert([127, 0, 0, 0].into(), 8).into(),
            Family::Ip6 => ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128).into(),
        };
        let node_port = self.rule(ROUTE).load(&[Field::Daddr]).in_network(Cmp::Ne, loopback);
        let node_port = if config.node_port_addresses.is_empty() {
            node_port.load(&[Field::FibDaddrType]).is(2)
        } else {
            node_port.load(&[Field::Daddr]).in_set(&self.node_port_addresses)
        };
        vec![
            self.rule("filter-prerouting")
                .load(&[Field::CtState])
                .any_bit(NEW, true)
                .load(&frontend)
                .in_set(&self.restricted)
                .load(&[Field::Daddr, Field::L4Proto, Field::Dport, Field::Saddr])
                .not_in_set(&self.allowed)
                .verdict(Verdict::Drop),
            self.rule("nat-prerouting").jump(ROUTE),
            self.rule("nat-output").jump(ROUTE),
            self.rule(ROUTE).load(&frontend).vmap(&self.service_ips),
            node_port.load(&frontend[1..]).vmap(&self.node_ports),
            self.rule(ROUTE).load(&[Field::Daddr]).in_set(&self.services).goto(REJECT),
            self.rule(REJECT).load(&[Field::L4Proto]).cmp(Cmp::Eq, [6]).reject(Reject::TcpReset),
            self.rule(REJECT).reject(Reject::PortUnreachable),
            self.rule(DROP).verdict(Verdict::Drop),
            self.rule("nat-postrouting")
                .load(&[Field::Mark])
                .any_bit(mark, true)
                .clear_mark_bits(mark)
                .masquerade(Flags::FULLY_RANDOM),
            self.rule("nat-postrouting")
                .load(&[Field::Saddr, Field::Daddr])
                .in_set(&self.hairpin)
                .masquerade(Flags::default()),
        ]
    }
}

/// Among whom a chain chooses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pool {
    /// Slots of the frontend's own, so many from the first.
    Slots(u32),
    /// A chain that remembers clients.
    Sticky(Arc<str>),
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pool::Slots(n) => write!(f, "{n}"),
            Pool::Sticky(chain) => f.write_str(chain),
        }
    }
}

/// A way of choosing, shared by all frontends that choose alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Choice {
    /// For node ports: the address is no part of the key.
    pub node_port: bool,
    /// Whose source address is replaced.
    pub masquerade: Masquerade,
    /// Among whom.
    pub pool: Pool,
    /// For outsiders: only among those on this node, who see the client's own address.
    pub local: Option<Pool>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.node_port {
            f.write_str("node-port-")?;
        }
        match (&self.local, self.masquerade) {
            (Some(local), _) => write!(f, "local-{local}-of-{}", self.pool),
            (None, Masquerade::Outsiders) => write!(f, "cluster-{}", self.pool),
            (None, Masquerade::Everybody) => write!(f, "external-{}", self.pool),
        }
    }
}

impl Choice {
    /// The chain's rules.
    pub fn rules(&self, sets: &Sets, config: &Config) -> Vec<Rule> {
        let mark = 1 << config.masquerade_bit;
        let chain = self.to_string();
        let rule = || Rule::new(sets.table.family, chain.as_str());
        let Some(local) = &self.local else {
            return match self.masquerade {
                Masquerade::Everybody => vec![self.choose(rule().set_mark_bits(mark), &self.pool, 0, sets)],
                Masquerade::Outsiders => vec![
                    rule().load(&[Field::Saddr]).not_in_set(&sets.cluster).set_mark_bits(mark),
                    self.choose(rule(), &self.pool, 0, sets),
                ],
            };
        };
        // Pods and the node itself may go anywhere: for them nothing is gained by staying here.
        let pods = rule().load(&[Field::Saddr]).in_set(&sets.cluster);
        let node = rule().load(&[Field::FibSaddrType]).is(2).set_mark_bits(mark);
        vec![
            self.choose(pods, &self.pool, 0, sets),
            self.choose(node, &self.pool, 0, sets),
            match local {
                Pool::Slots(0) => rule().verdict(Verdict::Drop),
                some => self.choose(rule(), some, LOCAL_SLOTS, sets),
            },
        ]
    }

    fn choose(&self, rule: Rule, pool: &Pool, offset: u32, sets: &Sets) -> Rule {
        let modulus = match pool {
            Pool::Slots(n) => *n,
            Pool::Sticky(chain) => return rule.goto(chain.clone()),
        };
        let random = Field::Random { modulus, offset };
        if self.node_port {
            return rule.load(&[Field::L4Proto, Field::Dport, random]).map(&sets.node_port_endpoints).dnat();
        }
        rule.load(&[Field::Daddr, Field::L4Proto, Field::Dport, random]).map(&sets.endpoints).dnat()
    }
}

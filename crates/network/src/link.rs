//! Links, addresses, routes and neighbours over `NETLINK_ROUTE`, in batches.
//!
//! [`Changes`] collects what to do; [`Links::apply`] sends it in one call and reads one acknowledgement
//! for each step. The kernel works the steps off in order and goes on after a refused one, so each step
//! says whether it may find its work done already.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

use ipnet::IpNet;
use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use crate::netlink::{ACK, CREATE, DUMP, EXCL, Error, REPLACE, Socket, Writer};

/// The protocol number our routes carry, so that they can be told from everybody else's.
pub const ROUTE_PROTOCOL: u8 = 84;

/// A hardware address.
pub type Mac = [u8; 6];

/// One end of a veth pair.
#[derive(Debug, Clone)]
pub struct End {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its hardware address; the kernel's choice where absent.
    pub mac: Option<Mac>,
    /// The network namespace it is made in; the socket's where absent.
    pub namespace: Option<RawFd>,
}

/// A unicast route in the main table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// Through which neighbour.
    pub via: Option<IpAddr>,
    /// Over which link.
    pub link: Option<u32>,
    /// Source address of what this host sends.
    pub source: Option<IpAddr>,
    /// Largest packet, bytes.
    pub mtu: Option<u32>,
}

impl Route {
    /// To neighbours on a link.
    pub fn on_link(to: IpNet, link: u32) -> Self {
        Self { to, via: None, link: Some(link), source: None, mtu: None }
    }

    /// Through a neighbour.
    pub fn via(to: IpNet, via: IpAddr) -> Self {
        Self { to, via: Some(via), link: None, source: None, mtu: None }
    }

    fn message(&self) -> RouteMessage {
        let mut builder = RouteMessageBuilder::<IpAddr>::new().protocol(RouteProtocol::from(ROUTE_PROTOCOL));
        if self.via.is_none() && self.to.addr().is_ipv4() {
            builder = builder.scope(RouteScope::Link);
        }
        if let Some(link) = self.link {
            builder = builder.output_interface(link);
        }
        let mut message = builder.build();
        message.header.address_family = family(self.to.addr());
        message.header.destination_prefix_length = self.to.prefix_len();
        message.attributes.push(RouteAttribute::Destination(route_address(self.to.network())));
        if let Some(via) = self.via {
            message.attributes.push(RouteAttribute::Gateway(route_address(via)));
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(route_address(source)));
        }
        if let Some(mtu) = self.mtu {
            message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        message
    }
}

fn family(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_address(addr: IpAddr) -> RouteAddress {
    match addr {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

/// What a step may find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tolerates {
    Nothing,
    Existing,
    Absent,
}

/// Steps to send together.
#[derive(Debug, Default)]
pub struct Changes {
    writer: Writer,
    steps: Vec<(String, Tolerates)>,
}

impl Changes {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    fn step(&mut self, what: String, tolerates: Tolerates, message: &RouteNetlinkMessage, flags: u16) {
        write(&mut self.writer, message, flags | ACK);
        self.steps.push((what, tolerates));
    }

    /// A veth pair, the end here up; the peer cannot be before it is connected. Fails where a name is taken.
    pub fn veth(&mut self, here: &End, peer: &End, mtu: u32) {
        let mut other = LinkMessageBuilder::<LinkUnspec>::new().name(peer.name.clone()).mtu(mtu);
        if let Some(mac) = peer.mac {
            other = other.address(mac.to_vec());
        }
        if let Some(fd) = peer.namespace {
            other = other.setns_by_fd(fd);
        }
        let mut link = LinkVeth::new(&here.name, &peer.name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other.build())))
            .mtu(mtu)
            .up();
        if let Some(mac) = here.mac {
            link = link.address(mac.to_vec());
        }
        let message = RouteNetlinkMessage::NewLink(link.build());
        self.step(format!("create veth {}", here.name), Tolerates::Nothing, &message, CREATE | EXCL);
    }

    /// A bridge, up; one that exists stays.
    pub fn bridge(&mut self, name: &str, mtu: u32) {
        let message = RouteNetlinkMessage::NewLink(LinkBridge::new(name).mtu(mtu).build());
        self.step(format!("create bridge {name}"), Tolerates::Existing, &message, CREATE | EXCL);
    }

    /// Puts a link on a bridge.
    pub fn enslave(&mut self, link: u32, bridge: u32) {
        let message = LinkUnspec::new_with_index(link).controller(bridge).build();
        let message = RouteNetlinkMessage::SetLink(message);
        self.step(format!("put link {link} on bridge {bridge}"), Tolerates::Nothing, &message, 0);
    }

    /// Brings a link up.
    pub fn up(&mut self, link: u32) {
        let message = LinkUnspec::new_with_index(link).up().build();
        let message = RouteNetlinkMessage::SetLink(message);
        self.step(format!("bring link {link} up"), Tolerates::Nothing, &message, 0);
    }

    /// Removes a link by name; an absent one is no error.
    pub fn delete_link(&mut self, name: &str) {
        let message = LinkUnspec::new_with_name(name).build();
        let message = RouteNetlinkMessage::DelLink(message);
        self.step(format!("delete link {name}"), Tolerates::Absent, &message, 0);
    }

    /// Gives a link an address.
    pub fn address(&mut self, link: u32, address: IpNet) {
        let message = RouteNetlinkMessage::NewAddress(address_message(link, address));
        let what = format!("add address {address} to link {link}");
        self.step(what, Tolerates::Existing, &message, CREATE | EXCL);
    }

    /// Takes an address from a link; an absent one is no error.
    pub fn delete_address(&mut self, link: u32, address: IpNet) {
        let message = RouteNetlinkMessage::DelAddress(address_message(link, address));
        self.step(format!("remove address {address} from link {link}"), Tolerates::Absent, &message, 0);
    }

    /// Adds or replaces a route.
    pub fn route(&mut self, route: &Route) {
        let message = RouteNetlinkMessage::NewRoute(route.message());
        self.step(words("add route", route), Tolerates::Nothing, &message, CREATE | REPLACE);
    }

    /// Removes a route of ours; an absent one is no error.
    pub fn delete_route(&mut self, route: &Route) {
        let message = RouteNetlinkMessage::DelRoute(route.message());
        self.step(words("remove route", route), Tolerates::Absent, &message, 0);
    }

    /// Pins a neighbour's hardware address, so that nobody has to ask for it.
    pub fn neighbour(&mut self, link: u32, addr: IpAddr, mac: Mac) {
        let mut message = NeighbourMessage::default();
        message.header.family = family(addr);
        message.header.ifindex = link;
        message.header.state = NeighbourState::Permanent;
        let destination = match addr {
            IpAddr::V4(a) => NeighbourAddress::Inet(a),
            IpAddr::V6(a) => NeighbourAddress::Inet6(a),
        };
        message.attributes.push(NeighbourAttribute::Destination(destination));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let message = RouteNetlinkMessage::NewNeighbour(message);
        self.step(
            format!("pin neighbour {addr} on link {link}"),
            Tolerates::Nothing,
            &message,
            CREATE | REPLACE,
        );
    }
}

fn words(what: &str, route: &Route) -> String {
    match (route.via, route.link) {
        (Some(via), _) => format!("{what} {} via {via}", route.to),
        (None, link) => format!("{what} {} on link {}", route.to, link.unwrap_or_default()),
    }
}

fn address_message(link: u32, address: IpNet) -> rtnetlink::packet_route::address::AddressMessage {
    match address {
        IpNet::V4(net) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(link).address(net.addr(), net.prefix_len()).build()
        }
        IpNet::V6(net) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
            .index(link)
            .address(net.addr(), net.prefix_len())
            .build(),
    }
}

fn write(writer: &mut Writer, message: &RouteNetlinkMessage, flags: u16) {
    let start = writer.begin(message.message_type(), flags);
    message.serialize(writer.reserve(message.buffer_len()));
    writer.end(start);
}

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

/// A connection to the links of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

impl Links {
    /// Opens a socket in the calling thread's network namespace.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { socket: Socket::route()? })
    }

    /// Does all steps; fails with the first refusal that the step does not tolerate (later steps may
    /// have been done).
    pub fn apply(&mut self, changes: &Changes) -> Result<(), Error> {
        self.attempt(changes)?.into_iter().next().map_or(Ok(()), Err)
    }

    /// Does what it can of the steps; gives the refusals that the steps do not tolerate.
    pub fn attempt(&mut self, changes: &Changes) -> Result<Vec<Error>, Error> {
        let mut refused = Vec::new();
        if changes.is_empty() {
            return Ok(refused);
        }
        for refusal in self.socket.request(&changes.writer)? {
            let step = changes.steps.get(refusal.message as usize - 1);
            let (what, tolerates) = step.cloned().unwrap_or((String::new(), Tolerates::Nothing));
            let error = refusal.into_error(what);
            let tolerated = match tolerates {
                Tolerates::Nothing => false,
                Tolerates::Existing => error.exists(),
                Tolerates::Absent => error.absent(),
            };
            if !tolerated {
                refused.push(error);
            }
        }
        Ok(refused)
    }

    fn ask(&mut self, message: &RouteNetlinkMessage, what: &str) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut writer = Writer::default();
        write(&mut writer, message, ACK);
        self.socket.ask(&writer)?.map(parse).map_err(|refusal| refusal.into_error(what))
    }

    fn list(&mut self, message: &RouteNetlinkMessage, what: &str) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut writer = Writer::default();
        write(&mut writer, message, DUMP);
        self.socket.dump(&writer)?.map(parse).map_err(|refusal| refusal.into_error(what))
    }

    /// The link of a name.
    pub fn by_name(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let message = LinkUnspec::new_with_name(name).build();
        match self.ask(&RouteNetlinkMessage::GetLink(message), &format!("find link {name}")) {
            Ok(answers) => Ok(answers.iter().find_map(link)),
            Err(error) if error.absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The index of a link that has to be there.
    pub fn index_of(&mut self, name: &str) -> Result<u32, Error> {
        let absent = || crate::netlink::Refusal { message: 0, errno: libc::ENODEV, detail: String::new() };
        self.by_name(name)?.map(|l| l.index).ok_or_else(|| absent().into_error(format!("find link {name}")))
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let answers = self.list(&RouteNetlinkMessage::GetLink(LinkMessage::default()), "list links")?;
        Ok(answers.iter().filter_map(link).collect())
    }

    /// All addresses with the index of their link.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>, Error> {
        let message = RouteNetlinkMessage::GetAddress(Default::default());
        let answers = self.list(&message, "list addresses")?;
        Ok(answers
            .iter()
            .filter_map(|answer| {
                let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
                let address = |attribute: &AddressAttribute| match attribute {
                    AddressAttribute::Local(addr) => Some((0, *addr)),
                    AddressAttribute::Address(addr) => Some((1, *addr)),
                    _ => None,
                };
                let (_, addr) =
                    message.attributes.iter().filter_map(address).min_by_key(|(rank, _)| *rank)?;
                Some((message.header.index, IpNet::new(addr, message.header.prefix_len).ok()?))
            })
            .collect())
    }

    /// The unicast routes of the main table with the protocol that made each.
    pub fn routes(&mut self) -> Result<Vec<(Route, u8)>, Error> {
        let message = RouteNetlinkMessage::GetRoute(RouteMessageBuilder::<IpAddr>::new().build());
        let answers = self.list(&message, "list routes")?;
        Ok(answers.iter().filter_map(route).collect())
    }
}

fn parse(answers: Vec<crate::netlink::Answer>) -> Vec<RouteNetlinkMessage> {
    answers
        .into_iter()
        .filter_map(|answer| {
            let mut header = NetlinkHeader::default();
            header.message_type = answer.kind;
            // A kind of message that the library cannot read is none that we asked for.
            RouteNetlinkMessage::deserialize(&header, &answer.body).ok()
        })
        .collect()
}

fn link(answer: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let mut found = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            _ => {}
        }
    }
    Some(found)
}

fn route(answer: &RouteNetlinkMessage) -> Option<(Route, u8)> {
    /// `RT_TABLE_MAIN`
    const MAIN: u8 = 254;
    /// `RTN_UNICAST`
    const UNICAST: u8 = 1;
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    if message.header.table != MAIN || u8::from(message.header.kind) != UNICAST {
        return None;
    }
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let addr = |address: &RouteAddress| match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    };
    let (mut to, mut found) = (any, Route::via(IpNet::new(any, 0).ok()?, any));
    found.via = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(d) => to = addr(d)?,
            RouteAttribute::Gateway(g) => found.via = addr(g),
            RouteAttribute::Oif(index) => found.link = Some(*index),
            RouteAttribute::PrefSource(s) => found.source = addr(s),
            _ => {}
        }
    }
    found.to = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    Some((found, u8::from(message.header.protocol)))
}

//! Connection tracking over ctnetlink: forgetting UDP flows that still lead to endpoints that are gone.
//!
//! A translated UDP flow stays as long as packets keep coming, so a client that never changes its source
//! port would talk to a dead endpoint for ever. TCP and SCTP connections end by themselves.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::netlink::{ACK, DUMP, Error, Socket, Writer, attribute};
use crate::nft::Family;

const SUBSYS: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

/// A UDP flow as it was opened and where it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The address the client sent to.
    pub to: IpAddr,
    /// The port the client sent to.
    pub port: u16,
    /// The address that answers.
    pub answered_by: IpAddr,
    /// The port that answers.
    pub answering_port: u16,
}

/// A connection to the tracker of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens a socket in the calling thread's network namespace.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { socket: Socket::netfilter()? })
    }

    /// Forgets the UDP flows of a family that `stale` picks; gives how many.
    pub fn forget_udp(&mut self, family: Family, stale: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
        let mut list = Writer::default();
        let start = list.begin(SUBSYS | GET, DUMP);
        list.raw(&[family.number(), 0, 0, 0]);
        list.end(start);
        let entries =
            self.socket.dump(&list)?.map_err(|refusal| refusal.into_error("list tracked connections"))?;
        let mut removal = Writer::default();
        let mut seen = HashSet::new();
        for entry in &entries {
            let Some(attrs) = entry.body.get(4..) else { continue };
            let Some(flow) = flow(attrs) else { continue };
            let Some(original) = attribute(attrs, TUPLE_ORIG).filter(|_| stale(&flow)) else { continue };
            if seen.insert(original) {
                let start = removal.begin(SUBSYS | DELETE, ACK);
                removal.raw(&[family.number(), 0, 0, 0]);
                let nest = removal.open(TUPLE_ORIG);
                removal.raw(original);
                removal.close(nest);
                removal.end(start);
            }
        }
        if seen.is_empty() {
            return Ok(0);
        }
        // A flow that ended meanwhile is what was wanted.
        match self.socket.request(&removal)?.into_iter().find(|refusal| refusal.errno != libc::ENOENT) {
            Some(refusal) => Err(refusal.into_error("forget a tracked connection")),
            None => Ok(seen.len()),
        }
    }
}

fn flow(attrs: &[u8]) -> Option<Flow> {
    let (original, reply) = (attribute(attrs, TUPLE_ORIG)?, attribute(attrs, TUPLE_REPLY)?);
    if *attribute(attribute(original, TUPLE_PROTO)?, PROTO_NUM)?.first()? != UDP {
        return None;
    }
    Some(Flow {
        to: address(original, 2)?,
        port: port(original, PROTO_DST_PORT)?,
        answered_by: address(reply, 1)?,
        answering_port: port(reply, PROTO_SRC_PORT)?,
    })
}

/// Source (1) or destination (2) of a tuple; the IPv6 attributes are two further.
fn address(tuple: &[u8], which: u16) -> Option<IpAddr> {
    let ip = attribute(tuple, TUPLE_IP)?;
    if let Some(v4) = attribute(ip, which) {
        return Some(IpAddr::from(<[u8; 4]>::try_from(v4).ok()?));
    }
    Some(IpAddr::from(<[u8; 16]>::try_from(attribute(ip, which + 2)?).ok()?))
}

fn port(tuple: &[u8], which: u16) -> Option<u16> {
    let bytes = attribute(attribute(tuple, TUPLE_PROTO)?, which)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

//! Rules as data: expressions over registers, and the builder that hands the registers out.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::set::length;
use super::{Data, Family, Set};

/// What happens to the packet, or where its evaluation goes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// `accept`
    Accept,
    /// `drop`
    Drop,
    /// `return`
    Return,
    /// `jump`
    Jump(Arc<str>),
    /// `goto`
    Goto(Arc<str>),
}

/// How a register is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cmp {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
}

/// How a rejected packet is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// A TCP reset.
    TcpReset,
    /// ICMP port unreachable, in the packet's own family.
    PortUnreachable,
}

/// Flags of address translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub(super) u32);

impl Flags {
    /// `fully-random`: unpredictable source ports.
    pub const FULLY_RANDOM: Flags = Flags(16);
}

/// Something a rule can load into registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// Source address.
    Saddr,
    /// Destination address.
    Daddr,
    /// Transport protocol.
    L4Proto,
    /// Source port.
    Sport,
    /// Destination port.
    Dport,
    /// The packet's mark.
    Mark,
    /// What kind of address the source is (`RTN_*`).
    FibSaddrType,
    /// What kind of address the destination is (`RTN_*`).
    FibDaddrType,
    /// Connection tracking status bits.
    CtStatus,
    /// Connection tracking state bits.
    CtState,
    /// The destination the connection was opened to, before any translation.
    CtOriginalDaddr,
    /// The port the connection was opened to, before any translation.
    CtOriginalDport,
    /// A random number below `modulus`, plus `offset`.
    Random {
        /// How many different numbers.
        modulus: u32,
        /// The smallest.
        offset: u32,
    },
}

impl Field {
    pub(super) fn len(&self, family: Family) -> usize {
        match self {
            Field::Saddr | Field::Daddr | Field::CtOriginalDaddr => family.address_len(),
            Field::L4Proto => 1,
            Field::Sport | Field::Dport | Field::CtOriginalDport => 2,
            _ => 4,
        }
    }

    fn registers(&self, family: Family) -> u8 {
        self.len(family).div_ceil(4) as u8
    }
}

/// One nf_tables expression. Registers are numbered from 0 in units of four bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads a field.
    Load {
        /// The field.
        field: Field,
        /// First register written.
        to: u8,
    },
    /// Goes on only if the registers compare so.
    Cmp {
        /// How.
        op: Cmp,
        /// First register read.
        from: u8,
        /// With what.
        value: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`
    Bitwise {
        /// Register read.
        from: u8,
        /// Register written.
        to: u8,
        /// Mask, as loaded.
        mask: [u8; 4],
        /// Exclusive or, as loaded.
        xor: [u8; 4],
    },
    /// Looks a key up; goes on only where it is found (or is not, if inverted).
    Lookup {
        /// The set.
        set: Arc<str>,
        /// First register of the key.
        from: u8,
        /// Where the value goes, for maps.
        to: Option<u8>,
        /// The map gives a verdict.
        verdict: bool,
        /// Goes on where the key is absent.
        inverted: bool,
    },
    /// Adds an element, or begins its time anew.
    Remember {
        /// The set.
        set: Arc<str>,
        /// First register of the key.
        key: u8,
        /// When the element goes.
        timeout: Duration,
    },
    /// Puts bytes into registers.
    Constant {
        /// First register written.
        to: u8,
        /// The bytes, as they stand in a packet.
        value: Vec<u8>,
    },
    /// Sets the packet's mark from a register.
    SetMark {
        /// Register read.
        from: u8,
    },
    /// Destination translation to an address and a port in registers.
    Dnat {
        /// First register of the address.
        addr: u8,
        /// Register of the port.
        port: u8,
    },
    /// Source translation to the address of the interface the packet leaves by.
    Masquerade(Flags),
    /// Answers and drops.
    Reject(Reject),
    /// Counts.
    Counter,
    /// Goes on at most so often.
    Limit {
        /// Packets.
        rate: u64,
        /// Per this.
        per: Duration,
        /// Beyond the rate at once.
        burst: u32,
    },
    /// Writes to the kernel's log.
    Log {
        /// What each line begins with.
        prefix: String,
    },
    /// Ends the rule.
    Verdict(Verdict),
}

/// A rule under construction; built left to right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(super) family: Family,
    /// The chain it is appended to.
    pub chain: Arc<str>,
    /// Its expressions.
    pub exprs: Vec<Expr>,
    /// The registers the next step works on.
    current: Range<u8>,
    /// First register not handed out.
    free: u8,
}

impl Rule {
    /// An empty rule at the end of a chain.
    pub fn new(family: Family, chain: impl Into<Arc<str>>) -> Self {
        Self { family, chain: chain.into(), exprs: Vec::new(), current: 0..0, free: 0 }
    }

    /// The registers the next step works on.
    pub fn current(&self) -> Range<u8> {
        self.current.clone()
    }

    /// Loads fields side by side; they become the current key. Earlier registers are kept only by
    /// [`Rule::append`].
    #[must_use]
    pub fn load(mut self, fields: &[Field]) -> Self {
        self.free = 0;
        self.current = 0..0;
        self.append(fields)
    }

    /// Loads more fields behind the current key.
    #[must_use]
    pub fn append(mut self, fields: &[Field]) -> Self {
        for field in fields {
            self.exprs.push(Expr::Load { field: field.clone(), to: self.free });
            self.free += field.registers(self.family);
        }
        assert!(self.free <= 16, "a rule has sixteen registers");
        self.current.end = self.free;
        self
    }

    /// Makes other registers the current key.
    #[must_use]
    pub fn select(mut self, registers: Range<u8>) -> Self {
        self.current = registers;
        self
    }

    fn push(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    fn lookup(self, set: &Set, inverted: bool) -> Self {
        let from = self.current.start;
        self.push(Expr::Lookup { set: set.name.clone(), from, to: None, verdict: false, inverted })
    }

    /// Goes on where the current key is in the set.
    #[must_use]
    pub fn in_set(self, set: &Set) -> Self {
        self.lookup(set, false)
    }

    /// Goes on where the current key is not in the set.
    #[must_use]
    pub fn not_in_set(self, set: &Set) -> Self {
        self.lookup(set, true)
    }

    /// Looks the current key up in a map; the value becomes the current key. The rule ends where the
    /// key is absent.
    #[must_use]
    pub fn map(mut self, map: &Set) -> Self {
        let Data::Value(types) = &map.data else {
            panic!("{} is not a map of values", map.name);
        };
        let (from, to) = (self.current.start, self.free);
        self.free += length(types).div_ceil(4) as u8;
        assert!(self.free <= 16, "a rule has sixteen registers");
        self.current = to..self.free;
        self.push(Expr::Lookup { set: map.name.clone(), from, to: Some(to), verdict: false, inverted: false })
    }

    /// Looks the current key up in a verdict map and does what it says.
    #[must_use]
    pub fn vmap(self, map: &Set) -> Self {
        let from = self.current.start;
        self.push(Expr::Lookup { set: map.name.clone(), from, to: None, verdict: true, inverted: false })
    }

    /// Goes on where the current key compares so with these bytes (as loaded: network order for packet
    /// fields, host order for the rest).
    #[must_use]
    pub fn cmp(self, op: Cmp, value: impl Into<Vec<u8>>) -> Self {
        let from = self.current.start;
        self.push(Expr::Cmp { op, from, value: value.into() })
    }

    /// Goes on where the current number (host order) is this.
    #[must_use]
    pub fn is(self, value: u32) -> Self {
        self.cmp(Cmp::Eq, value.to_ne_bytes())
    }

    /// Goes on where the current address lies in the network (or outside, for [`Cmp::Ne`]).
    #[must_use]
    pub fn in_network(self, op: Cmp, net: ipnet::IpNet) -> Self {
        let whole = usize::from(net.prefix_len()) / 8;
        let bytes = match net.network() {
            std::net::IpAddr::V4(a) => a.octets().to_vec(),
            std::net::IpAddr::V6(a) => a.octets().to_vec(),
        };
        if usize::from(net.prefix_len()).is_multiple_of(8) {
            // The first bytes of the registers are the first bytes of the address.
            return self.cmp(op, &bytes[..whole]);
        }
        let from = self.current.start + (whole / 4) as u8;
        let mask = match net.netmask() {
            std::net::IpAddr::V4(a) => a.octets().to_vec(),
            std::net::IpAddr::V6(a) => a.octets().to_vec(),
        };
        let word = whole / 4 * 4;
        let mut last = [0; 4];
        last.copy_from_slice(&mask[word..word + 4]);
        let rule = self.push(Expr::Bitwise { from, to: from, mask: last, xor: [0; 4] });
        rule.cmp(op, &bytes[..word + 4])
    }

    /// Goes on where any of these bits of the current number (host order) is set, or none.
    #[must_use]
    pub fn any_bit(self, bits: u32, set: bool) -> Self {
        let reg = self.current.start;
        let mask = bits.to_ne_bytes();
        self.push(Expr::Bitwise { from: reg, to: reg, mask, xor: [0; 4] })
            .cmp(if set { Cmp::Ne } else { Cmp::Eq }, [0; 4])
    }

    /// Sets these bits of the packet's mark.
    #[must_use]
    pub fn set_mark_bits(self, bits: u32) -> Self {
        self.load(&[Field::Mark])
            .push(Expr::Bitwise { from: 0, to: 0, mask: (!bits).to_ne_bytes(), xor: bits.to_ne_bytes() })
            .push(Expr::SetMark { from: 0 })
    }

    /// Clears these bits of the packet's mark.
    #[must_use]
    pub fn clear_mark_bits(self, bits: u32) -> Self {
        self.load(&[Field::Mark])
            .push(Expr::Bitwise { from: 0, to: 0, mask: (!bits).to_ne_bytes(), xor: [0; 4] })
            .push(Expr::SetMark { from: 0 })
    }

    /// Adds the current key to a set filled by rules, or begins its time anew.
    #[must_use]
    pub fn remember(self, set: &Set, timeout: Duration) -> Self {
        let key = self.current.start;
        self.push(Expr::Remember { set: set.name.clone(), key, timeout })
    }

    /// Translates the destination to a fixed address and port.
    #[must_use]
    pub fn dnat_to(mut self, addr: std::net::IpAddr, port: u16) -> Self {
        let bytes = match addr {
            std::net::IpAddr::V4(a) => a.octets().to_vec(),
            std::net::IpAddr::V6(a) => a.octets().to_vec(),
        };
        let words = (bytes.len() / 4) as u8;
        self.exprs.push(Expr::Constant { to: 0, value: bytes });
        self.exprs.push(Expr::Constant { to: words, value: port.to_be_bytes().to_vec() });
        self.current = 0..words + 1;
        self.dnat()
    }

    /// Translates the destination to the address and port in the current registers.
    #[must_use]
    pub fn dnat(self) -> Self {
        let addr = self.current.start;
        let port = addr + (self.family.address_len() / 4) as u8;
        self.push(Expr::Dnat { addr, port })
    }

    /// Translates the source to the address of the interface the packet leaves by.
    #[must_use]
    pub fn masquerade(self, flags: Flags) -> Self {
        self.push(Expr::Masquerade(flags))
    }

    /// Answers with a refusal.
    #[must_use]
    pub fn reject(self, how: Reject) -> Self {
        self.push(Expr::Reject(how))
    }

    /// Counts packets and bytes.
    #[must_use]
    pub fn counter(self) -> Self {
        self.push(Expr::Counter)
    }

    /// Goes on at most `rate` times `per` second, minute or hour.
    #[must_use]
    pub fn limit(self, rate: u64, per: Duration, burst: u32) -> Self {
        self.push(Expr::Limit { rate, per, burst })
    }

    /// Writes to the kernel's log.
    #[must_use]
    pub fn log(self, prefix: impl Into<String>) -> Self {
        self.push(Expr::Log { prefix: prefix.into() })
    }

    /// Ends with a verdict.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.push(Expr::Verdict(verdict))
    }

    /// `goto`
    #[must_use]
    pub fn goto(self, chain: impl Into<Arc<str>>) -> Self {
        self.verdict(Verdict::Goto(chain.into()))
    }

    /// `jump`
    #[must_use]
    pub fn jump(self, chain: impl Into<Arc<str>>) -> Self {
        self.verdict(Verdict::Jump(chain.into()))
    }
}

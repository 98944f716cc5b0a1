//! Sets and maps: their types, keys and elements.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Verdict, sys};

/// What a field of a key or of a map's data is. The number is nft's own, so that `nft list` reads well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// An IP protocol number.
    Proto,
    /// A port.
    Service,
    /// A number in host byte order.
    Mark,
}

impl Type {
    pub(super) fn number(self) -> u32 {
        match self {
            Type::Ipv4 => 7,
            Type::Ipv6 => 8,
            Type::Proto => 12,
            Type::Service => 13,
            Type::Mark => 19,
        }
    }

    /// Bytes of a value.
    pub fn width(self) -> usize {
        match self {
            Type::Ipv4 | Type::Mark => 4,
            Type::Ipv6 => 16,
            Type::Proto => 1,
            Type::Service => 2,
        }
    }

    /// Bytes of a value inside a concatenation: whole registers.
    pub fn padded_len(self) -> usize {
        self.width().next_multiple_of(4)
    }

    pub(super) fn keyword(self) -> &'static str {
        match self {
            Type::Ipv4 => "ipv4_addr",
            Type::Ipv6 => "ipv6_addr",
            Type::Proto => "inet_proto",
            Type::Service => "inet_service",
            Type::Mark => "mark",
        }
    }
}

/// What a set gives for a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    /// Nothing: a plain set.
    None,
    /// A value: a map.
    Value(Vec<Type>),
    /// A verdict: a verdict map.
    Verdict,
}

/// A named set, map or verdict map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Set {
    /// Its name, unique within the table.
    pub name: Arc<str>,
    /// The fields of a key, concatenated where there is more than one.
    pub key: Vec<Type>,
    /// What a key gives.
    pub data: Data,
    /// Keys are ranges.
    pub interval: bool,
    /// Rules add elements, which expire; the number bounds them.
    pub dynamic: Option<u32>,
}

impl Set {
    /// A plain set of exact keys.
    pub fn new(name: impl Into<Arc<str>>, key: Vec<Type>) -> Self {
        Self { name: name.into(), key, data: Data::None, interval: false, dynamic: None }
    }

    /// A map of exact keys.
    pub fn map(name: impl Into<Arc<str>>, key: Vec<Type>, data: Data) -> Self {
        Self { data, ..Self::new(name, key) }
    }

    /// The same with ranges for keys.
    #[must_use]
    pub fn with_intervals(mut self) -> Self {
        self.interval = true;
        self
    }

    /// The same, filled by rules with elements that expire, at most `size`.
    #[must_use]
    pub fn filled_by_rules(mut self, size: u32) -> Self {
        self.dynamic = Some(size);
        self
    }

    pub(super) fn flags(&self) -> u32 {
        let mut flags = 0;
        if self.data != Data::None {
            flags |= sys::SET_F_MAP;
        }
        if self.interval {
            flags |= sys::SET_F_INTERVAL;
        }
        if self.key.len() > 1 {
            flags |= sys::SET_F_CONCAT;
        }
        if self.dynamic.is_some() {
            flags |= sys::SET_F_TIMEOUT | sys::SET_F_EVAL;
        }
        flags
    }

    pub(super) fn key_len(&self) -> usize {
        length(&self.key)
    }

    pub(super) fn data_len(&self) -> usize {
        match &self.data {
            Data::Value(types) => length(types),
            Data::None | Data::Verdict => 0,
        }
    }
}

/// Bytes of a tuple: a single field as it is, several each padded to whole registers.
pub(super) fn length(types: &[Type]) -> usize {
    match types {
        [one] => one.width(),
        many => many.iter().map(|t| t.padded_len()).sum(),
    }
}

/// nft's number for a tuple: six bits each.
pub(super) fn type_number(types: &[Type]) -> u32 {
    types.iter().fold(0, |number, t| number << 6 | t.number())
}

/// The bytes of a key or of a map's value, built field by field in the order of the set's types. Every
/// field takes whole registers, as in a concatenation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Vec<u8>);

impl Key {
    /// An empty key.
    pub fn new() -> Self {
        Self::default()
    }

    fn field(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// An address field.
    #[must_use]
    pub fn addr(self, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(a) => self.field(&a.octets()),
            IpAddr::V6(a) => self.field(&a.octets()),
        }
    }

    /// A protocol field.
    #[must_use]
    pub fn proto(self, number: u8) -> Self {
        self.field(&[number])
    }

    /// A port field.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.field(&port.to_be_bytes())
    }

    /// A number field in host byte order.
    #[must_use]
    pub fn mark(self, value: u32) -> Self {
        self.field(&value.to_ne_bytes())
    }

    /// A key as the kernel gave it.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self::new().field(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What an element maps to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// A tuple of fields.
    Fields(Key),
    /// A verdict.
    Verdict(Verdict),
}

/// One element of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The key, or the first key of a range.
    pub key: Key,
    /// The last key of a range, for interval sets.
    pub last: Option<Key>,
    /// The value, for maps.
    pub value: Option<Value>,
    /// When it goes by itself.
    pub timeout: Option<Duration>,
}

impl Element {
    /// An element of a plain set.
    pub fn new(key: Key) -> Self {
        Self { key, last: None, value: None, timeout: None }
    }

    /// An element of a map.
    pub fn mapped(key: Key, value: Value) -> Self {
        Self { key, last: None, value: Some(value), timeout: None }
    }

    /// All addresses of a network, for a set whose only field is an address.
    pub fn network(net: ipnet::IpNet) -> Self {
        let last = Key::new().addr(net.broadcast());
        Self { key: Key::new().addr(net.network()), last: Some(last), value: None, timeout: None }
    }
}

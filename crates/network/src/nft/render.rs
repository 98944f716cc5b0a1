//! A batch in nft's language, for people and golden files. Rules are read back from their expressions:
//! each register remembers the words for what was loaded into it.

use std::fmt::{self, Display, Formatter, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::batch::{HookPoint, Op};
use super::rule::{Expr, Field};
use super::{Batch, Cmp, Data, Element, Family, Key, Reject, Rule, Set, Type, Value, Verdict};

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Return => f.write_str("return"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Display for Batch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let table = format!("{} {}", self.table.family.keyword(), self.table.name);
        for op in &self.ops {
            match op {
                Op::AddTable { comment } if comment.is_empty() => writeln!(f, "add table {table}")?,
                Op::AddTable { comment } => writeln!(f, "add table {table} {{ comment {comment:?} ; }}")?,
                Op::DeleteTable => writeln!(f, "delete table {table}")?,
                Op::AddChain(chain) => match &chain.hook {
                    None => writeln!(f, "add chain {table} {}", chain.name)?,
                    Some(hook) => writeln!(
                        f,
                        "add chain {table} {} {{ type {} hook {} priority {} ; }}",
                        chain.name,
                        hook.kind,
                        point(hook.point),
                        hook.priority
                    )?,
                },
                Op::DeleteChain(name) => writeln!(f, "delete chain {table} {name}")?,
                Op::FlushChain(name) => writeln!(f, "flush chain {table} {name}")?,
                Op::AddRule(rule) => writeln!(f, "add rule {table} {} {rule}", rule.chain)?,
                Op::AddSet(set) => writeln!(f, "add {} {table} {} {set}", kind(set), set.name)?,
                Op::DeleteSet(name) => writeln!(f, "delete set {table} {name}")?,
                Op::FlushSet(name) => writeln!(f, "flush set {table} {name}")?,
                Op::AddElements { set, elements } => {
                    writeln!(f, "add element {table} {} {}", set.name, list(set, elements, true))?;
                }
                Op::DeleteElements { set, elements } => {
                    writeln!(f, "delete element {table} {} {}", set.name, list(set, elements, false))?;
                }
            }
        }
        Ok(())
    }
}

fn point(point: HookPoint) -> &'static str {
    match point {
        HookPoint::Prerouting => "prerouting",
        HookPoint::Input => "input",
        HookPoint::Forward => "forward",
        HookPoint::Output => "output",
        HookPoint::Postrouting => "postrouting",
    }
}

fn kind(set: &Set) -> &'static str {
    if set.data == Data::None { "set" } else { "map" }
}

fn types(types: &[Type]) -> String {
    types.iter().map(|t| t.keyword()).collect::<Vec<_>>().join(" . ")
}

impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{{ type {}", types(&self.key))?;
        match &self.data {
            Data::None => {}
            Data::Value(data) => write!(f, " : {}", types(data))?,
            Data::Verdict => f.write_str(" : verdict")?,
        }
        f.write_str(" ;")?;
        if let Some(size) = self.dynamic {
            write!(f, " size {size} ; flags dynamic,timeout ;")?;
        }
        if self.interval {
            f.write_str(" flags interval ;")?;
        }
        f.write_str(" }")
    }
}

/// At most this many elements are worth a single line.
const ONE_LINE: usize = 3;

fn list(set: &Set, elements: &[Element], adding: bool) -> String {
    let words: Vec<String> = elements.iter().map(|e| words(set, e, adding)).collect();
    if words.len() <= ONE_LINE {
        return format!("{{ {} }}", words.join(", "));
    }
    format!("{{\n    {}\n}}", words.join(",\n    "))
}

fn words(set: &Set, element: &Element, adding: bool) -> String {
    let mut out = tuple(&set.key, &element.key);
    if let Some(last) = &element.last {
        let _ = write!(out, "-{}", tuple(&set.key, last));
    }
    if let (Some(timeout), true) = (element.timeout, adding) {
        let _ = write!(out, " timeout {}s", timeout.as_secs());
    }
    match (&element.value, &set.data) {
        (Some(Value::Verdict(verdict)), _) if adding => {
            let _ = write!(out, " : {verdict}");
        }
        (Some(Value::Fields(value)), Data::Value(data)) if adding => {
            let _ = write!(out, " : {}", tuple(data, value));
        }
        _ => {}
    }
    out
}

/// A tuple's fields in words. A tuple that is too short shows as `?`.
fn tuple(types: &[Type], key: &Key) -> String {
    let mut rest = key.bytes();
    let mut parts = Vec::new();
    for kind in types {
        parts.push(rest.get(..kind.width()).map_or("?".into(), |bytes| field(*kind, bytes)));
        rest = rest.get(kind.padded_len()..).unwrap_or_default();
    }
    parts.join(" . ")
}

fn field(kind: Type, bytes: &[u8]) -> String {
    match (kind, bytes) {
        (Type::Ipv4, &[a, b, c, d]) => Ipv4Addr::new(a, b, c, d).to_string(),
        (Type::Ipv6, bytes) => {
            bytes.try_into().map_or("?".into(), |b: [u8; 16]| Ipv6Addr::from(b).to_string())
        }
        (Type::Proto, &[n]) => protocol(n),
        (Type::Service, &[a, b]) => u16::from_be_bytes([a, b]).to_string(),
        (Type::Mark, &[a, b, c, d]) => u32::from_ne_bytes([a, b, c, d]).to_string(),
        _ => "?".into(),
    }
}

fn protocol(number: u8) -> String {
    match i32::from(number) {
        libc::IPPROTO_TCP => "tcp".into(),
        libc::IPPROTO_UDP => "udp".into(),
        libc::IPPROTO_SCTP => "sctp".into(),
        libc::IPPROTO_ICMP => "icmp".into(),
        other => other.to_string(),
    }
}

/// What a register holds, in words, and how many registers the value takes.
#[derive(Clone, Default)]
struct Slot {
    words: String,
    len: u8,
}

struct Registers {
    slots: Vec<Slot>,
}

impl Registers {
    fn put(&mut self, at: u8, words: String, len: u8) {
        self.slots[usize::from(at)] = Slot { words, len };
    }

    /// The words of what starts at `from`, up to the last register in use.
    fn from(&self, from: u8) -> String {
        let mut parts = Vec::new();
        let mut at = from;
        while let Some(slot) = self.slots.get(usize::from(at)).filter(|s| s.len > 0) {
            parts.push(slot.words.as_str());
            at += slot.len;
        }
        parts.join(" . ")
    }

    fn one(&self, at: u8) -> &str {
        &self.slots[usize::from(at)].words
    }

    /// Nothing is held any more: what follows is about other values.
    fn clear(&mut self) {
        self.slots.fill(Slot::default());
    }
}

fn load_words(family: Family, field: &Field) -> String {
    let ip = family.keyword();
    match field {
        Field::Saddr => format!("{ip} saddr"),
        Field::Daddr => format!("{ip} daddr"),
        Field::L4Proto => "meta l4proto".into(),
        Field::Sport => "th sport".into(),
        Field::Dport => "th dport".into(),
        Field::Mark => "meta mark".into(),
        Field::FibSaddrType => "fib saddr type".into(),
        Field::FibDaddrType => "fib daddr type".into(),
        Field::CtStatus => "ct status".into(),
        Field::CtState => "ct state".into(),
        Field::CtOriginalDaddr => format!("ct original {ip} daddr"),
        Field::CtOriginalDport => "ct original proto-dst".into(),
        Field::Random { modulus, offset: 0 } => format!("numgen random mod {modulus}"),
        Field::Random { modulus, offset } => format!("numgen random mod {modulus} offset {offset}"),
    }
}

/// A compared value in words: as an address, a protocol, a port or a number, by what it is compared with.
fn value_words(subject: &str, value: &[u8]) -> String {
    match value {
        [a, b, c, d] if subject.ends_with("addr") => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
        bytes if subject.ends_with("addr") => {
            let hex: Vec<String> = bytes.iter().map(u8::to_string).collect();
            format!("{}/{}", hex.join("."), bytes.len() * 8)
        }
        [n] => protocol(*n),
        [a, b] => u16::from_be_bytes([*a, *b]).to_string(),
        [a, b, c, d] => match (subject, u32::from_ne_bytes([*a, *b, *c, *d])) {
            ("fib saddr type" | "fib daddr type", 2) => "local".into(),
            (_, number) => format!("{number:#x}"),
        },
        other => format!("{other:02x?}"),
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut regs = Registers { slots: vec![Slot::default(); 17] };
        let mut parts: Vec<String> = Vec::new();
        // Loads at register 0 begin a new key.
        for expr in &self.exprs {
            match expr {
                Expr::Load { field, to } => {
                    if *to == 0 {
                        regs.clear();
                    }
                    let len = field.len(self.family).div_ceil(4) as u8;
                    regs.put(*to, load_words(self.family, field), len);
                }
                other => parts.extend(step(other, &mut regs)),
            }
        }
        f.write_str(&parts.join(" "))
    }
}

/// One expression in words, where it has any of its own.
fn step(expr: &Expr, regs: &mut Registers) -> Option<String> {
    Some(match expr {
        Expr::Load { .. } => return None,
        Expr::Cmp { op, from, value } => {
            let subject = regs.one(*from).to_string();
            let op = if *op == Cmp::Ne { "!= " } else { "" };
            format!("{subject} {op}{}", value_words(&subject, value))
        }
        Expr::Bitwise { from, to, mask, xor } => {
            let (mask, xor) = (u32::from_ne_bytes(*mask), u32::from_ne_bytes(*xor));
            let held = regs.one(*from);
            let words = match (mask, xor) {
                (mask, 0) if held.ends_with("addr") => format!("{held} & {}", Ipv4Addr::from(mask.to_be())),
                (mask, 0) => format!("{held} & {mask:#x}"),
                (mask, bits) if mask == !bits => format!("{held} | {bits:#x}"),
                (mask, xor) => format!("{held} & {mask:#x} ^ {xor:#x}"),
            };
            regs.put(*to, words, 1);
            return None;
        }
        Expr::Lookup { set, from, to: Some(to), .. } => {
            let words = format!("{} map @{set}", regs.from(*from));
            regs.put(*to, words, 1);
            return None;
        }
        Expr::Lookup { set, from, verdict: true, .. } => format!("{} vmap @{set}", regs.from(*from)),
        Expr::Lookup { set, from, inverted, .. } => {
            format!("{} {}@{set}", regs.from(*from), if *inverted { "!= " } else { "" })
        }
        Expr::Remember { set, key, timeout } => {
            format!("update @{set} {{ {} timeout {}s }}", regs.from(*key), timeout.as_secs())
        }
        Expr::Constant { to, value } => {
            if *to == 0 {
                regs.clear();
            }
            let subject = if value.len() == 2 { "port" } else { "addr" };
            regs.put(*to, value_words(subject, value), value.len().div_ceil(4) as u8);
            return None;
        }
        Expr::SetMark { from } => format!("meta mark set {}", regs.one(*from)),
        Expr::Dnat { addr, .. } => format!("dnat to {}", regs.from(*addr)),
        Expr::Masquerade(flags) if flags.0 != 0 => "masquerade fully-random".into(),
        Expr::Masquerade(_) => "masquerade".into(),
        Expr::Reject(Reject::TcpReset) => "reject with tcp reset".into(),
        Expr::Reject(Reject::PortUnreachable) => "reject".into(),
        Expr::Counter => "counter".into(),
        Expr::Limit { rate, per, burst } => {
            format!("limit rate {rate}/{}s burst {burst} packets", per.as_secs())
        }
        Expr::Log { prefix } => format!("log prefix {prefix:?}"),
        Expr::Verdict(verdict) => verdict.to_string(),
    })
}

//! A batch as nfnetlink messages.

use super::batch::{HookPoint, Op};
use super::rule::{Expr, Field};
use super::set::type_number;
use super::sys::*;
use super::{Batch, Cmp, Data, Element, Family, Key, Reject, Rule, Set, Table, Value, Verdict};
use crate::netlink::{ACK, APPEND, CREATE, Writer};

/// A list of elements must fit an attribute, whose length has sixteen bits.
const ELEMENTS_PER_MESSAGE: usize = 60_000;
/// `RTN_*`-typed fib lookups.
const FIB_RESULT_ADDRTYPE: u32 = 3;

/// Messages of one transaction and which operation each of them carries.
pub(super) struct Encoded {
    pub(super) writer: Writer,
    /// For message `n` (from 1): the operation it belongs to.
    pub(super) op_of_message: Vec<usize>,
    /// The message that asks for the acknowledgement.
    pub(super) last: u32,
}

/// `struct nfgenmsg`.
pub(super) fn header(w: &mut Writer, family: u8, resource: u16) {
    let id = resource.to_be_bytes();
    w.raw(&[family, 0, id[0], id[1]]);
}

fn marker(w: &mut Writer, kind: u16) {
    let start = w.begin(kind, 0);
    header(w, 0, SUBSYS >> 8);
    w.end(start);
}

pub(super) fn encode(batch: &Batch) -> Encoded {
    let mut w = Writer::default();
    let mut op_of_message = vec![0];
    marker(&mut w, BATCH_BEGIN);
    let mut last = 0;
    for (index, op) in batch.ops.iter().enumerate() {
        last = operation(&mut w, &batch.table, op, index);
        op_of_message.resize(w.count() as usize, index);
    }
    w.add_flags(last, ACK);
    let acked = w.count();
    marker(&mut w, BATCH_END);
    op_of_message.push(batch.ops.len().saturating_sub(1));
    Encoded { writer: w, op_of_message, last: acked }
}

/// Writes the message or messages of an operation; returns where the last one starts.
fn operation(w: &mut Writer, table: &Table, op: &Op, index: usize) -> usize {
    let message = |w: &mut Writer, kind: u16, flags: u16, body: &mut dyn FnMut(&mut Writer)| {
        let start = w.begin(SUBSYS | kind, flags);
        header(w, table.family.number(), 0);
        body(w);
        w.end(start);
        start
    };
    match op {
        Op::AddTable { comment } => message(w, MSG_NEWTABLE, CREATE, &mut |w| {
            w.str(TABLE_NAME, &table.name);
            if !comment.is_empty() {
                w.attr(TABLE_USERDATA, &comment_tlv(comment));
            }
        }),
        Op::DeleteTable => message(w, MSG_DELTABLE, 0, &mut |w| w.str(TABLE_NAME, &table.name)),
        Op::AddChain(chain) => message(w, MSG_NEWCHAIN, CREATE, &mut |w| {
            w.str(CHAIN_TABLE, &table.name);
            w.str(CHAIN_NAME, &chain.name);
            if let Some(hook) = &chain.hook {
                w.nest(CHAIN_HOOK, |w| {
                    w.be32(HOOK_NUM, hook_number(hook.point));
                    w.be32(HOOK_PRIORITY, hook.priority as u32);
                });
                w.be32(CHAIN_POLICY, 1);
                w.str(CHAIN_TYPE, hook.kind);
            }
        }),
        Op::DeleteChain(name) => message(w, MSG_DELCHAIN, 0, &mut |w| {
            w.str(CHAIN_TABLE, &table.name);
            w.str(CHAIN_NAME, name);
        }),
        Op::FlushChain(name) => message(w, MSG_DELRULE, 0, &mut |w| {
            w.str(RULE_TABLE, &table.name);
            w.str(RULE_CHAIN, name);
        }),
        Op::AddRule(rule) => message(w, MSG_NEWRULE, CREATE | APPEND, &mut |w| {
            w.str(RULE_TABLE, &table.name);
            w.str(RULE_CHAIN, &rule.chain);
            let list = w.open(RULE_EXPRESSIONS);
            expressions(w, rule);
            w.close(list);
        }),
        Op::AddSet(set) => message(w, MSG_NEWSET, CREATE, &mut |w| add_set(w, table, set, index as u32 + 1)),
        Op::DeleteSet(name) => message(w, MSG_DELSET, 0, &mut |w| {
            w.str(SET_TABLE, &table.name);
            w.str(SET_NAME, name);
        }),
        Op::FlushSet(name) => message(w, MSG_DELSETELEM, 0, &mut |w| {
            w.str(ELEMS_TABLE, &table.name);
            w.str(ELEMS_SET, name);
        }),
        Op::AddElements { set, elements } => many(w, table, set, elements, MSG_NEWSETELEM, CREATE),
        Op::DeleteElements { set, elements } => many(w, table, set, elements, MSG_DELSETELEM, 0),
    }
}

/// A comment as nft's userspace keeps it: a type-length-value of type 0.
fn comment_tlv(comment: &str) -> Vec<u8> {
    let mut bytes = vec![0, (comment.len() + 1) as u8];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}

fn hook_number(point: HookPoint) -> u32 {
    match point {
        HookPoint::Prerouting => 0,
        HookPoint::Input => 1,
        HookPoint::Forward => 2,
        HookPoint::Output => 3,
        HookPoint::Postrouting => 4,
    }
}

fn add_set(w: &mut Writer, table: &Table, set: &Set, id: u32) {
    w.str(SET_TABLE, &table.name);
    w.str(SET_NAME, &set.name);
    w.be32(SET_FLAGS, set.flags());
    w.be32(SET_KEY_TYPE, type_number(&set.key));
    w.be32(SET_KEY_LEN, set.key_len() as u32);
    match &set.data {
        Data::None => {}
        Data::Value(types) => {
            w.be32(SET_DATA_TYPE, type_number(types));
            w.be32(SET_DATA_LEN, set.data_len() as u32);
        }
        Data::Verdict => {
            w.be32(SET_DATA_TYPE, DATA_TYPE_VERDICT);
            w.be32(SET_DATA_LEN, 16);
        }
    }
    w.nest(SET_DESC, |w| {
        if let Some(size) = set.dynamic {
            w.be32(SET_DESC_SIZE, size);
        }
        if set.key.len() > 1 {
            w.nest(SET_DESC_CONCAT, |w| {
                for field in &set.key {
                    w.nest(LIST_ELEM, |w| w.be32(SET_FIELD_LEN, field.width() as u32));
                }
            });
        }
    });
    w.be32(SET_ID, id);
}

/// Elements in as many messages as they need.
fn many(w: &mut Writer, table: &Table, set: &Set, elements: &[Element], kind: u16, flags: u16) -> usize {
    let mut rest = elements.iter();
    loop {
        let start = w.begin(SUBSYS | kind, flags);
        header(w, table.family.number(), 0);
        w.str(ELEMS_TABLE, &table.name);
        w.str(ELEMS_SET, &set.name);
        let list = w.open(ELEMS_ELEMENTS);
        while w.len_since(list) < ELEMENTS_PER_MESSAGE {
            let Some(each) = rest.next() else { break };
            element(w, set, each, kind == MSG_NEWSETELEM);
        }
        w.close(list);
        w.end(start);
        if rest.len() == 0 {
            return start;
        }
    }
}

fn element(w: &mut Writer, set: &Set, element: &Element, adding: bool) {
    let concatenated = set.key.len() > 1;
    let entry = w.open(LIST_ELEM);
    key(w, ELEM_KEY, cut(&element.key, set.key_len()));
    match &element.last {
        Some(last) if concatenated => key(w, ELEM_KEY_END, cut(last, set.key_len())),
        _ => {}
    }
    if adding {
        if let Some(value) = &element.value {
            let data = w.open(ELEM_DATA);
            match value {
                Value::Fields(fields) => w.attr(DATA_VALUE, cut(fields, set.data_len())),
                Value::Verdict(v) => verdict(w, v),
            }
            w.close(data);
        }
        if let Some(timeout) = element.timeout {
            w.be64(ELEM_TIMEOUT, timeout.as_millis() as u64);
        }
    }
    w.close(entry);
    // A range of a single field is two elements: where it begins, and the first key behind it.
    if let (Some(last), false) = (&element.last, concatenated)
        && let Some(behind) = successor(cut(last, set.key_len()))
    {
        let entry = w.open(LIST_ELEM);
        key(w, ELEM_KEY, &behind);
        w.be32(ELEM_FLAGS, ELEM_F_INTERVAL_END);
        w.close(entry);
    }
}

/// A tuple without the padding that a single field does not have.
fn cut(key: &Key, len: usize) -> &[u8] {
    &key.bytes()[..len.min(key.bytes().len())]
}

/// The next key in order; none behind the last of all.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            return Some(next);
        }
    }
    None
}

fn key(w: &mut Writer, kind: u16, bytes: &[u8]) {
    let start = w.open(kind);
    w.attr(DATA_VALUE, bytes);
    w.close(start);
}

fn verdict(w: &mut Writer, verdict: &Verdict) {
    let start = w.open(DATA_VERDICT);
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5i32, None),
    };
    w.be32(VERDICT_CODE, code as u32);
    if let Some(chain) = chain {
        w.str(VERDICT_CHAIN, chain);
    }
    w.close(start);
}

fn expressions(w: &mut Writer, rule: &Rule) {
    for expr in &rule.exprs {
        match expr {
            Expr::Reject(how) => named(w, "reject", |w| match how {
                Reject::TcpReset => w.be32(1, 1),
                Reject::PortUnreachable => {
                    w.be32(1, 0);
                    let code = if rule.family == Family::Ip { 3 } else { 4 };
                    w.attr(2, &[code]);
                }
            }),
            Expr::Load { field, to } => load(w, rule.family, field, register(*to)),
            other => expression(w, rule.family, other),
        }
    }
}

fn register(index: u8) -> u32 {
    REG32_00 + u32::from(index)
}

fn named(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    let entry = w.open(LIST_ELEM);
    w.str(EXPR_NAME, name);
    let data = w.open(EXPR_DATA);
    body(w);
    w.close(data);
    w.close(entry);
}

fn load(w: &mut Writer, family: Family, field: &Field, to: u32) {
    let mut payload = |base: u32, offset: u32| {
        named(w, "payload", |w| {
            w.be32(1, to);
            w.be32(2, base);
            w.be32(3, offset);
            w.be32(4, field.len(family) as u32);
        });
    };
    let (saddr, daddr) = if family == Family::Ip { (12, 16) } else { (8, 24) };
    match field {
        Field::Saddr => payload(1, saddr),
        Field::Daddr => payload(1, daddr),
        Field::Sport => payload(2, 0),
        Field::Dport => payload(2, 2),
        Field::L4Proto => pair(w, "meta", (1, to), (2, 16)),
        Field::Mark => pair(w, "meta", (1, to), (2, 3)),
        Field::FibSaddrType => fib(w, to, 1),
        Field::FibDaddrType => fib(w, to, 2),
        Field::CtState => pair(w, "ct", (1, to), (2, 0)),
        Field::CtStatus => pair(w, "ct", (1, to), (2, 2)),
        Field::CtOriginalDaddr => ct_original(w, to, if family == Family::Ip { 20 } else { 22 }),
        Field::CtOriginalDport => ct_original(w, to, 12),
        Field::Random { modulus, offset } => named(w, "numgen", |w| {
            w.be32(1, to);
            w.be32(2, *modulus);
            w.be32(3, 1);
            w.be32(4, *offset);
        }),
    }
}

fn pair(w: &mut Writer, name: &str, first: (u16, u32), second: (u16, u32)) {
    named(w, name, |w| {
        w.be32(first.0, first.1);
        w.be32(second.0, second.1);
    });
}

fn fib(w: &mut Writer, to: u32, flags: u32) {
    named(w, "fib", |w| {
        w.be32(1, to);
        w.be32(2, FIB_RESULT_ADDRTYPE);
        w.be32(3, flags);
    });
}

fn ct_original(w: &mut Writer, to: u32, key: u32) {
    named(w, "ct", |w| {
        w.be32(1, to);
        w.be32(2, key);
        w.attr(3, &[0]);
    });
}

fn expression(w: &mut Writer, family: Family, expr: &Expr) {
    match expr {
        Expr::Load { .. } | Expr::Reject(_) => unreachable!("written by expressions()"),
        Expr::Cmp { op, from, value } => named(w, "cmp", |w| {
            w.be32(1, register(*from));
            w.be32(2, if *op == Cmp::Eq { 0 } else { 1 });
            w.nest(3, |w| w.attr(DATA_VALUE, value));
        }),
        Expr::Bitwise { from, to, mask, xor } => named(w, "bitwise", |w| {
            w.be32(1, register(*from));
            w.be32(2, register(*to));
            w.be32(3, 4);
            w.nest(4, |w| w.attr(DATA_VALUE, mask));
            w.nest(5, |w| w.attr(DATA_VALUE, xor));
        }),
        Expr::Lookup { set, from, to, verdict, inverted } => named(w, "lookup", |w| {
            w.str(1, set);
            w.be32(2, register(*from));
            match to {
                _ if *verdict => w.be32(3, REG_VERDICT),
                Some(to) => w.be32(3, register(*to)),
                None => {}
            }
            if *inverted {
                w.be32(5, 1);
            }
        }),
        Expr::Remember { set, key, timeout } => named(w, "dynset", |w| {
            w.str(1, set);
            w.be32(3, 1);
            w.be32(4, register(*key));
            w.be64(6, timeout.as_millis() as u64);
        }),
        Expr::Constant { to, value } => named(w, "immediate", |w| {
            w.be32(1, register(*to));
            w.nest(2, |w| w.attr(DATA_VALUE, value));
        }),
        Expr::SetMark { from } => pair(w, "meta", (2, 3), (3, register(*from))),
        Expr::Dnat { addr, port } => named(w, "nat", |w| {
            w.be32(1, 1);
            w.be32(2, u32::from(family.number()));
            w.be32(3, register(*addr));
            w.be32(5, register(*port));
        }),
        Expr::Masquerade(flags) => named(w, "masq", |w| {
            if flags.0 != 0 {
                w.be32(1, flags.0);
            }
        }),
        Expr::Counter => named(w, "counter", |w| {
            w.be64(1, 0);
            w.be64(2, 0);
        }),
        Expr::Limit { rate, per, burst } => named(w, "limit", |w| {
            w.be64(1, *rate);
            w.be64(2, per.as_secs().max(1));
            w.be32(3, *burst);
        }),
        Expr::Log { prefix } => named(w, "log", |w| w.str(2, prefix)),
        Expr::Verdict(v) => named(w, "immediate", |w| {
            w.be32(1, REG_VERDICT);
            w.nest(2, |w| verdict(w, v));
        }),
    }
}

//! The kernel's side: applies batches, reads sets back.

use super::encode::{encode, header};
use super::sys::*;
use super::{Batch, Data, Element, Key, Set, Table, Value, Verdict};
use crate::netlink::{Answer, DUMP, Error, Socket, Writer, attribute, attributes, text};

/// A connection to nf_tables of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
}

/// The elements of a set as the kernel holds them.
pub type Dumped = Vec<Element>;

impl Client {
    /// Opens a socket in the calling thread's network namespace.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { socket: Socket::netfilter()? })
    }

    /// Applies a batch: all of it, or nothing with the operation that was refused.
    pub fn apply(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let encoded = encode(batch);
        let refusals = self.socket.transact(&encoded.writer, encoded.last)?;
        let Some(first) = refusals.into_iter().min_by_key(|r| r.message) else { return Ok(()) };
        let index = encoded.op_of_message.get(first.message as usize - 1).copied().unwrap_or_default();
        let op = Batch { table: batch.table.clone(), ops: vec![batch.ops[index].clone()] };
        let mut words = op.to_string();
        words.truncate(words.char_indices().nth(300).map_or(words.len(), |(at, _)| at));
        Err(first.into_error(format!("nftables: {}", words.trim_end())))
    }

    /// The comment of a table; `None` where there is no such table.
    pub fn comment(&mut self, table: &Table) -> Result<Option<String>, Error> {
        let request = request(table, MSG_GETTABLE, crate::netlink::ACK, |w| w.str(TABLE_NAME, &table.name));
        match self.socket.ask(&request)? {
            Ok(answers) => Ok(Some(answers.first().map_or(String::new(), comment_of))),
            Err(refusal) if refusal.errno == libc::ENOENT => Ok(None),
            Err(refusal) => Err(refusal.into_error(format!("read table {}", table.name))),
        }
    }

    /// The names of a table's chains.
    pub fn chains(&mut self, table: &Table) -> Result<Vec<String>, Error> {
        let request = request(table, MSG_GETCHAIN, DUMP, |_| ());
        let answers = self.dump(&request, || format!("list chains of {}", table.name))?;
        let of_table =
            |a: &&Answer| attribute(&a.body[4..], CHAIN_TABLE).map(text) == Some(table.name.to_string());
        Ok(answers
            .iter()
            .filter(of_table)
            .filter_map(|a| attribute(&a.body[4..], CHAIN_NAME))
            .map(text)
            .collect())
    }

    /// The names of the tables of a family.
    pub fn tables(&mut self, family: super::Family) -> Result<Vec<String>, Error> {
        let request = request(&Table::new(family, ""), MSG_GETTABLE, DUMP, |_| ());
        let answers = self.dump(&request, || "list tables".to_string())?;
        Ok(answers.iter().filter_map(|a| attribute(&a.body[4..], TABLE_NAME)).map(text).collect())
    }

    /// The elements of a set of exact keys or of concatenated ranges.
    pub fn elements(&mut self, table: &Table, set: &Set) -> Result<Dumped, Error> {
        let request = request(table, MSG_GETSETELEM, DUMP, |w| {
            w.str(ELEMS_TABLE, &table.name);
            w.str(ELEMS_SET, &set.name);
        });
        let answers = self.dump(&request, || format!("read set {} of {}", set.name, table.name))?;
        let mut elements = Vec::new();
        for answer in answers.iter().filter(|a| a.kind == SUBSYS | MSG_NEWSETELEM) {
            let Some(list) = attribute(&answer.body[4..], ELEMS_ELEMENTS) else { continue };
            for (_, entry) in attributes(list) {
                elements.push(parse_element(set, entry).ok_or(Error::Malformed)?);
            }
        }
        Ok(elements)
    }

    /// A dump, asked again where a concurrent change tore it.
    fn dump(&mut self, request: &Writer, what: impl Fn() -> String) -> Result<Vec<Answer>, Error> {
        const ATTEMPTS: usize = 5;
        for _ in 1..ATTEMPTS {
            match self.socket.dump(request)? {
                Ok(answers) => return Ok(answers),
                Err(refusal) if refusal.errno == libc::EINTR => {}
                Err(refusal) => return Err(refusal.into_error(what())),
            }
        }
        self.socket.dump(request)?.map_err(|refusal| refusal.into_error(what()))
    }
}

fn request(table: &Table, kind: u16, flags: u16, body: impl FnOnce(&mut Writer)) -> Writer {
    let mut w = Writer::default();
    let start = w.begin(SUBSYS | kind, flags);
    header(&mut w, table.family.number(), 0);
    body(&mut w);
    w.end(start);
    w
}

fn comment_of(answer: &Answer) -> String {
    answer
        .body
        .get(4..)
        .and_then(|attrs| attribute(attrs, TABLE_USERDATA))
        .and_then(|tlv| tlv.get(2..))
        .map(text)
        .unwrap_or_default()
}

fn parse_element(set: &Set, entry: &[u8]) -> Option<Element> {
    let mut element = Element::new(Key::new());
    for (kind, value) in attributes(entry) {
        match kind {
            ELEM_KEY => element.key = Key::from_bytes(attribute(value, DATA_VALUE)?),
            ELEM_KEY_END => element.last = Some(Key::from_bytes(attribute(value, DATA_VALUE)?)),
            ELEM_DATA if set.data == Data::Verdict => {
                element.value = Some(Value::Verdict(parse_verdict(attribute(value, DATA_VERDICT)?)?));
            }
            ELEM_DATA => element.value = Some(Value::Fields(Key::from_bytes(attribute(value, DATA_VALUE)?))),
            _ => {}
        }
    }
    Some(element)
}

fn parse_verdict(bytes: &[u8]) -> Option<Verdict> {
    let code = i32::from_be_bytes(attribute(bytes, VERDICT_CODE)?.try_into().ok()?);
    let chain = || attribute(bytes, VERDICT_CHAIN).map(|name| text(name).into());
    Some(match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    })
}

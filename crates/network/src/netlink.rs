//! Netlink messages and one blocking socket for every netlink family this crate speaks
//! (`NETLINK_ROUTE`, nf_tables and ctnetlink over `NETLINK_NETFILTER`).
//!
//! The kernel works a netlink request off inside `sendmsg`, so a blocking socket costs two system calls
//! per batch of messages and needs no task of its own. Several messages go out in one send; the kernel
//! acknowledges each that asks for it.

use std::io;

use netlink_sys::{Socket as RawSocket, SocketAddr, protocols};
use nix::sys::socket::{setsockopt, sockopt};

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// `NLMSGERR_ATTR_MSG`: the kernel's own words for what it refused.
const ERROR_MESSAGE: u16 = 1;
/// `NLM_F_ACK_TLVS`: extended attributes follow the error.
const ACK_TLVS: u16 = 0x200;
const ACK_CAPPED: u16 = 0x100;

pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACK: u16 = 4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

/// Why the kernel or the socket refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket itself failed.
    #[error("netlink {what}: {source}")]
    Socket {
        /// The call that failed.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused a message.
    #[error("{what}: {source}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Refused {
        /// What was asked, in words.
        what: String,
        /// The errno.
        source: io::Error,
        /// The kernel's extended message, empty where it gave none.
        detail: String,
    },
    /// An answer that does not follow the protocol.
    #[error("netlink answer cut short")]
    Malformed,
}

impl Error {
    /// The errno the kernel answered, where it did.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Socket { source, .. } | Error::Refused { source, .. } => source.raw_os_error(),
            Error::Malformed => None,
        }
    }

    /// The thing asked for is there already.
    pub fn exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// The thing named is not there.
    pub fn absent(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL))
    }

    /// The same refusal, told as the failure of `what`.
    #[must_use]
    pub fn while_doing(self, what: impl Into<String>) -> Self {
        match self {
            Error::Refused { source, detail, .. } => Error::Refused { what: what.into(), source, detail },
            other => other,
        }
    }
}

/// Writes messages one after the other into one buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buf: Vec<u8>,
    /// Sequence number of the next message; the first message has 1.
    count: u32,
}

impl Writer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Messages written so far.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Opens a message; returns where it starts, for `end`.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16) -> usize {
        self.count += 1;
        let start = self.buf.len();
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.buf.extend_from_slice(&self.count.to_ne_bytes());
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        start
    }

    pub(crate) fn end(&mut self, start: usize) {
        let len = (self.buf.len() - start) as u32;
        self.buf[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Adds `flags` to the message that starts at `start`.
    pub(crate) fn add_flags(&mut self, start: usize, flags: u16) {
        let at = start + 6;
        let old = u16::from_ne_bytes([self.buf[at], self.buf[at + 1]]);
        self.buf[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// Raw bytes, padded to four (fixed headers such as `struct nfgenmsg`).
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.pad();
    }

    /// Room for a body that writes itself.
    pub(crate) fn reserve(&mut self, len: usize) -> &mut [u8] {
        let start = self.buf.len();
        self.buf.resize(start + len, 0);
        self.pad();
        &mut self.buf[start..start + len]
    }

    fn pad(&mut self) {
        while !self.buf.len().is_multiple_of(4) {
            self.buf.push(0);
        }
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        let len = (4 + value.len()) as u16;
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.pad();
    }

    /// A number in network byte order, as netfilter wants them.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// A NUL-terminated string.
    pub(crate) fn str(&mut self, kind: u16, value: &str) {
        let len = (4 + value.len() + 1) as u16;
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value.as_bytes());
        self.buf.push(0);
        self.pad();
    }

    /// Opens a nested attribute; returns where it starts, for `close`.
    pub(crate) fn open(&mut self, kind: u16) -> usize {
        let start = self.buf.len();
        self.buf.extend_from_slice(&0u16.to_ne_bytes());
        self.buf.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        start
    }

    pub(crate) fn close(&mut self, start: usize) {
        let len = (self.buf.len() - start) as u16;
        self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.open(kind);
        body(self);
        self.close(start);
    }

    /// Bytes written since `start`.
    pub(crate) fn len_since(&self, start: usize) -> usize {
        self.buf.len() - start
    }
}

/// The attributes in a run of bytes: `(type, value)`. A cut attribute ends the run.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    })
}

/// The value of the first attribute of a type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// A NUL-terminated string value.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// One answer of the kernel that is neither an acknowledgement nor an error.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

/// A refusal with the number of the message it refuses (counted from 1).
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) message: u32,
    pub(crate) errno: i32,
    pub(crate) detail: String,
}

impl Refusal {
    pub(crate) fn into_error(self, what: impl Into<String>) -> Error {
        let source = io::Error::from_raw_os_error(self.errno);
        Error::Refused { what: what.into(), source, detail: self.detail }
    }
}

/// What came back for one send.
#[derive(Debug, Default)]
struct Answers {
    acks: u32,
    /// Number of the last message acknowledged.
    last_ack: u32,
    refusals: Vec<Refusal>,
    answers: Vec<Answer>,
    done: bool,
}

/// A blocking netlink socket, bound in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    raw: RawSocket,
    buffer: Vec<u8>,
    send_buffer: usize,
}

impl Socket {
    pub(crate) fn route() -> Result<Self, Error> {
        Self::open(protocols::NETLINK_ROUTE)
    }

    pub(crate) fn netfilter() -> Result<Self, Error> {
        Self::open(protocols::NETLINK_NETFILTER)
    }

    fn open(protocol: isize) -> Result<Self, Error> {
        let fail = |what| move |source| Error::Socket { what, source };
        let mut raw = RawSocket::new(protocol).map_err(fail("socket"))?;
        raw.bind_auto().map_err(fail("bind"))?;
        raw.set_ext_ack(true).map_err(fail("NETLINK_EXT_ACK"))?;
        raw.set_cap_ack(true).map_err(fail("NETLINK_CAP_ACK"))?;
        Ok(Self { raw, buffer: vec![0; 256 * 1024], send_buffer: 0 })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // One send carries the whole batch; the socket must take it in one piece.
        let need = bytes.len() + 4096;
        if need > 128 * 1024 && need > self.send_buffer {
            setsockopt(&self.raw, sockopt::SndBufForce, &need)
                .map_err(|e| Error::Socket { what: "SO_SNDBUFFORCE", source: e.into() })?;
            self.send_buffer = need;
        }
        self.raw
            .send_to(bytes, &SocketAddr::new(0, 0), 0)
            .map(drop)
            .map_err(|source| Error::Socket { what: "send", source })
    }

    /// One datagram into `answers`; false where nothing waits (only with `MSG_DONTWAIT`).
    fn receive(&mut self, flags: i32, answers: &mut Answers) -> Result<bool, Error> {
        let len = loop {
            let mut slot = &mut self.buffer[..];
            match self.raw.recv_from(&mut slot, flags) {
                Ok((len, _)) => break len,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(source) => return Err(Error::Socket { what: "receive", source }),
            }
        };
        parse(&self.buffer[..len], answers)?;
        Ok(true)
    }

    /// Sends messages that all ask for an acknowledgement; gives the refusals.
    pub(crate) fn request(&mut self, messages: &Writer) -> Result<Vec<Refusal>, Error> {
        self.send(messages.bytes())?;
        let mut answers = Answers::default();
        while answers.acks + (answers.refusals.len() as u32) < messages.count() {
            self.receive(0, &mut answers)?;
        }
        Ok(answers.refusals)
    }

    /// Sends one message that is answered by data and an acknowledgement.
    pub(crate) fn ask(&mut self, messages: &Writer) -> Result<Result<Vec<Answer>, Refusal>, Error> {
        self.send(messages.bytes())?;
        let mut answers = Answers::default();
        while answers.acks == 0 && answers.refusals.is_empty() {
            self.receive(0, &mut answers)?;
        }
        Ok(match answers.refusals.pop() {
            Some(refusal) => Err(refusal),
            None => Ok(answers.answers),
        })
    }

    /// Sends an nfnetlink batch of which only the message `last` asks for an acknowledgement. Every
    /// answer is queued by the time the send returns.
    pub(crate) fn transact(&mut self, messages: &Writer, last: u32) -> Result<Vec<Refusal>, Error> {
        self.send(messages.bytes())?;
        let mut answers = Answers::default();
        while self.receive(libc::MSG_DONTWAIT, &mut answers)? {}
        if answers.refusals.is_empty() && answers.last_ack != last {
            return Err(Error::Malformed);
        }
        Ok(answers.refusals)
    }

    /// Sends one dump request and collects the answers. A dump torn by a concurrent change
    /// (`NLM_F_DUMP_INTR` ends as `EINTR`) is the caller's to ask again.
    pub(crate) fn dump(&mut self, messages: &Writer) -> Result<Result<Vec<Answer>, Refusal>, Error> {
        self.send(messages.bytes())?;
        let mut answers = Answers::default();
        while !answers.done && answers.refusals.is_empty() {
            self.receive(0, &mut answers)?;
        }
        Ok(match answers.refusals.pop() {
            Some(refusal) => Err(refusal),
            None => Ok(answers.answers),
        })
    }
}

fn parse(mut bytes: &[u8], answers: &mut Answers) -> Result<(), Error> {
    while bytes.len() >= HEADER {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let len = word(0) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let flags = u16::from_ne_bytes([bytes[6], bytes[7]]);
        let body = bytes.get(HEADER..len).ok_or(Error::Malformed)?;
        match kind {
            NLMSG_ERROR => {
                let code = body.get(..4).ok_or(Error::Malformed)?;
                let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
                if code == 0 {
                    answers.acks += 1;
                    answers.last_ack = word(8);
                } else {
                    let detail = error_message(body, flags);
                    answers.refusals.push(Refusal { message: word(8), errno: -code, detail });
                }
            }
            NLMSG_DONE => {
                answers.done = true;
                let code = body.get(..4).map_or(0, |c| i32::from_ne_bytes([c[0], c[1], c[2], c[3]]));
                if code < 0 {
                    answers.refusals.push(Refusal { message: word(8), errno: -code, detail: String::new() });
                }
            }
            _ => answers.answers.push(Answer { kind, body: body.to_vec() }),
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// The extended message behind an error: after the errno and the refused message's header (its whole
/// body where the answer is not capped).
fn error_message(body: &[u8], flags: u16) -> String {
    if flags & ACK_TLVS == 0 {
        return String::new();
    }
    let refused = body.get(4..8).map_or(0, |l| u32::from_ne_bytes([l[0], l[1], l[2], l[3]]) as usize);
    let skip = 4 + if flags & ACK_CAPPED != 0 { HEADER } else { refused.next_multiple_of(4) };
    body.get(skip..).and_then(|tlvs| attribute(tlvs, ERROR_MESSAGE)).map(text).unwrap_or_default()
}

//! Names of other zones: asked of the node's own resolvers, in order, each with a time limit.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// How long one resolver may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Questions under way at once; beyond that the answer is SERVFAIL at once.
const AT_ONCE: usize = 512;
/// Answers remembered, and for how long at most.
const REMEMBERED: usize = 4096;
const KEEP: Duration = Duration::from_secs(30);
/// What we take in one UDP answer.
const PAYLOAD: u16 = 1232;

type Question = (String, RecordType);

/// The way to other zones.
#[derive(Debug)]
pub struct Forwarder {
    upstreams: Vec<SocketAddr>,
    permits: Semaphore,
    cache: Mutex<HashMap<Question, (Message, Instant, Duration)>>,
    /// Questions of ours that have no answer yet, with their ids: one that comes back to us is a loop.
    under_way: Mutex<HashSet<(u16, Question)>>,
}

impl Forwarder {
    /// To these resolvers; what is `own` is left out, so that nobody asks himself.
    pub fn new(upstreams: &[SocketAddr], own: &[SocketAddr]) -> Self {
        let upstreams = upstreams.iter().copied().filter(|u| !own.contains(u)).collect();
        Self {
            upstreams,
            permits: Semaphore::new(AT_ONCE),
            cache: Mutex::default(),
            under_way: Mutex::default(),
        }
    }

    /// The question is one that this forwarder has asked itself: a resolver sends it back here.
    pub fn is_loop(&self, id: u16, name: &Name, kind: RecordType) -> bool {
        self.under_way.lock().contains(&(id, question(name, kind)))
    }

    /// The answer of the first resolver that has one; SERVFAIL where none has.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Message {
        let question = question(name, kind);
        if let Some(known) = self.known(&question) {
            return known;
        }
        let failure = || {
            let mut message = Message::query();
            message.metadata.response_code = ResponseCode::ServFail;
            message
        };
        let Ok(_permit) = self.permits.try_acquire() else { return failure() };
        for upstream in &self.upstreams {
            let mut request = Message::query();
            request.metadata.recursion_desired = true;
            request.add_query(Query::query(name.clone(), kind));
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD);
            request.set_edns(edns);
            let mark = (request.metadata.id, question.clone());
            self.under_way.lock().insert(mark.clone());
            let answer = tokio::time::timeout(TIMEOUT, exchange(*upstream, &request)).await;
            self.under_way.lock().remove(&mark);
            match answer {
                Ok(Ok(answer)) if answer.metadata.response_code != ResponseCode::ServFail => {
                    self.remember(question, &answer);
                    return answer;
                }
                Ok(Ok(_)) => tracing::debug!(%upstream, %name, "SERVFAIL"),
                Ok(Err(error)) => tracing::debug!(%upstream, %name, %error, "no answer"),
                Err(_) => tracing::debug!(%upstream, %name, "no answer in time"),
            }
        }
        failure()
    }

    /// An answer that is still good, with what is left of its time.
    fn known(&self, question: &Question) -> Option<Message> {
        let cache = self.cache.lock();
        let (message, since, keep) = cache.get(question)?;
        let age = since.elapsed();
        if age >= *keep {
            return None;
        }
        let mut message = message.clone();
        let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
        for record in sections.into_iter().flatten() {
            record.decrement_ttl(age.as_secs() as u32);
        }
        Some(message)
    }

    fn remember(&self, question: Question, answer: &Message) {
        let code = answer.metadata.response_code;
        if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) || answer.metadata.truncation {
            return;
        }
        let ttl = answer.answers.iter().chain(&answer.authorities).map(|r| r.ttl).min();
        let keep = Duration::from_secs(ttl.unwrap_or(0).into()).min(KEEP);
        if keep.is_zero() {
            return;
        }
        let mut cache = self.cache.lock();
        if cache.len() >= REMEMBERED {
            cache.retain(|_, (_, since, keep)| since.elapsed() < *keep);
        }
        if cache.len() < REMEMBERED {
            cache.insert(question, (answer.clone(), Instant::now(), keep));
        }
    }
}

fn question(name: &Name, kind: RecordType) -> Question {
    (name.to_lowercase().to_ascii(), kind)
}

/// Asks over UDP; over TCP where the answer does not fit.
async fn exchange(upstream: SocketAddr, request: &Message) -> std::io::Result<Message> {
    let bytes = request.to_vec().map_err(std::io::Error::other)?;
    let any: SocketAddr = if upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(&bytes).await?;
    let mut buf = vec![0; usize::from(u16::MAX)];
    let answer = loop {
        let len = socket.recv(&mut buf).await?;
        // Anything that is no answer to this question is somebody's attempt to give us one.
        match Message::from_vec(&buf[..len]) {
            Ok(m) if m.metadata.id == request.metadata.id && m.queries == request.queries => break m,
            _ => {}
        }
    };
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_all(&(bytes.len() as u16).to_be_bytes()).await?;
    stream.write_all(&bytes).await?;
    let len = stream.read_u16().await?;
    buf.truncate(len.into());
    stream.read_exact(&mut buf).await?;
    Message::from_vec(&buf).map_err(std::io::Error::other)
}

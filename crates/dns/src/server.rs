//! The server: UDP and TCP, answers from the zone at once, others through the forwarder.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use listen::{Backoff, accept};
use network::Event;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Zone;
use crate::forward::Forwarder;
use crate::zone::Answer;

/// TCP clients at once, and how long one may be silent.
const TCP_CLIENTS: usize = 256;
const TCP_IDLE: Duration = Duration::from_secs(10);
/// UDP questions that wait for a resolver at once.
const WAITING: usize = 1024;
/// What a client without EDNS can take (RFC 1035), and what we say and send at most with it.
const PLAIN: u16 = 512;
const PAYLOAD: u16 = 1232;
/// Aliases followed within the zone.
const ALIASES: usize = 8;

/// Where the server listens; made in the network namespace it serves.
#[derive(Debug)]
pub struct Sockets {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds UDP and TCP to one address; port 0 takes a port that is free for both.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(addr).await?;
        let udp = UdpSocket::bind(tcp.local_addr()?).await?;
        Ok(Self { udp: Arc::new(udp), tcp })
    }

    /// Takes sockets that are bound already (in another namespace, by another thread).
    pub fn from_std(udp: std::net::UdpSocket, tcp: std::net::TcpListener) -> io::Result<Self> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp: Arc::new(UdpSocket::from_std(udp)?), tcp: TcpListener::from_std(tcp)? })
    }

    /// The address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

#[derive(Debug)]
struct Server {
    zone: Arc<Zone>,
    forwarder: Forwarder,
}

/// Serves the zone, and other names through `upstreams`, until cancelled. What fails on the way is one
/// question's or one client's failure, or is tried again after a pause.
///
/// # Errors
/// A socket has no address.
pub async fn run(
    zone: Arc<Zone>,
    sockets: Sockets,
    upstreams: Vec<SocketAddr>,
    cancelled: CancellationToken,
) -> io::Result<()> {
    let forwarder = Forwarder::new(&upstreams, &[sockets.local_addr()?]);
    let server = Arc::new(Server { zone, forwarder });
    let tasks = TaskTracker::new();
    let tcp = accept(sockets.tcp, TCP_CLIENTS, cancelled.clone(), |stream| {
        let server = server.clone();
        async move {
            if let Err(error) = client(&server, stream).await {
                tracing::debug!(%error, "a TCP client went away");
            }
        }
    });
    let udp = cancelled.run_until_cancelled(udp(&server, &sockets.udp, &tasks, &cancelled));
    tokio::join!(tcp, udp);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Keeps the zone as both watches say, until they end or it is cancelled.
pub async fn follow(
    zone: Arc<Zone>,
    services: impl Stream<Item = Event<Service>>,
    slices: impl Stream<Item = Event<EndpointSlice>>,
    cancelled: CancellationToken,
) {
    let (mut services, mut slices) = (pin!(services), pin!(slices));
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return,
            Some(event) = services.next() => zone.service(event),
            Some(event) = slices.next() => zone.slice(event),
            else => return,
        }
    }
}

async fn udp(
    server: &Arc<Server>,
    socket: &Arc<UdpSocket>,
    tasks: &TaskTracker,
    cancelled: &CancellationToken,
) {
    let mut buf = vec![0; usize::from(u16::MAX)];
    let waiting = Arc::new(Semaphore::new(WAITING));
    let mut backoff = Backoff::default();
    loop {
        let (len, from) = match socket.recv_from(&mut buf).await {
            Ok(got) => got,
            // An ICMP error for an answer sent to somebody who is gone.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => continue,
            // The host lacks memory, or a network is down: names are asked for again, and so do we.
            Err(error) => {
                if backoff.is_fresh() {
                    tracing::warn!(%error, "questions cannot be received; trying again");
                }
                tokio::time::sleep(backoff.failed()).await;
                continue;
            }
        };
        backoff.succeeded();
        let Ok(request) = Message::from_vec(&buf[..len]) else { continue };
        if request.metadata.message_type != MessageType::Query {
            continue;
        }
        let limit = request.edns.as_ref().map_or(PLAIN, |e| e.max_payload().clamp(PLAIN, PAYLOAD));
        if let Some(response) = server.at_once(&request) {
            send(socket, &response, limit, from).await;
            continue;
        }
        let Ok(permit) = waiting.clone().try_acquire_owned() else {
            send(socket, &failure(&request, ResponseCode::ServFail), limit, from).await;
            continue;
        };
        let (server, socket, cancelled) = (server.clone(), socket.clone(), cancelled.clone());
        tasks.spawn(cancelled.run_until_cancelled_owned(async move {
            let response = server.forwarded(&request).await;
            send(&socket, &response, limit, from).await;
            drop(permit);
        }));
    }
}

async fn send(socket: &UdpSocket, response: &Message, limit: u16, to: SocketAddr) {
    match encode(response, limit) {
        // Who asked may be gone; there is nobody else to tell.
        Ok(bytes) => drop(socket.send_to(&bytes, to).await),
        Err(error) => tracing::warn!(%error, "an answer could not be written"),
    }
}

/// The answer in at most `limit` bytes, marked as truncated where it does not fit.
fn encode(response: &Message, limit: u16) -> Result<Vec<u8>, hickory_proto::ProtoError> {
    let mut bytes = Vec::with_capacity(usize::from(PLAIN));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    match response.emit(&mut encoder) {
        Ok(()) => Ok(bytes),
        // Not even the sections' beginnings fit: the question alone, to be asked again over TCP.
        Err(_) => response.truncate().to_vec(),
    }
}

async fn client(server: &Server, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let Ok(len) = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await else { return Ok(()) };
        let len = match len {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let mut buf = vec![0; len.into()];
        tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut buf)).await??;
        let Ok(request) = Message::from_vec(&buf) else { return Ok(()) };
        let response = match server.at_once(&request) {
            Some(response) => response,
            None => server.forwarded(&request).await,
        };
        let bytes = encode(&response, u16::MAX).map_err(io::Error::other)?;
        stream.write_all(&(bytes.len() as u16).to_be_bytes()).await?;
        stream.write_all(&bytes).await?;
    }
}

/// A response with the question in it and EDNS where the request had it.
fn response(request: &Message) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.queries.clone_from(&request.queries);
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        response.set_edns(edns);
    }
    response
}

fn failure(request: &Message, code: ResponseCode) -> Message {
    let mut response = response(request);
    response.metadata.response_code = code;
    response
}

impl Server {
    /// The answer, where it needs nobody else.
    fn at_once(&self, request: &Message) -> Option<Message> {
        if request.metadata.op_code != OpCode::Query {
            return Some(failure(request, ResponseCode::NotImp));
        }
        let [query] = &request.queries[..] else { return Some(failure(request, ResponseCode::FormErr)) };
        if query.query_class() != DNSClass::IN {
            return Some(failure(request, ResponseCode::Refused));
        }
        if request.edns.as_ref().is_some_and(|e| e.version() > 0) {
            return Some(failure(request, ResponseCode::BADVERS));
        }
        if self.forwarder.is_loop(request.metadata.id, query.name(), query.query_type()) {
            tracing::warn!(name = %query.name(), "a resolver of this node sends our own questions back to us");
            return Some(failure(request, ResponseCode::Refused));
        }
        let mut response = response(request);
        response.metadata.authoritative = true;
        self.ask_zone(query.name(), query.query_type(), &mut response).is_none().then_some(response)
    }

    /// Fills in what the zone knows; gives the name that somebody else has to be asked about.
    fn ask_zone(&self, name: &Name, kind: RecordType, response: &mut Message) -> Option<Name> {
        let mut name = name.clone();
        for _ in 0..ALIASES {
            match self.zone.answer(&name, kind) {
                Answer::Records(records, more) => {
                    response.answers.extend(records);
                    response.additionals.extend(more);
                    return None;
                }
                Answer::NoData(soa) => {
                    response.authorities.push(soa);
                    return None;
                }
                Answer::NoName(soa) => {
                    response.metadata.response_code = ResponseCode::NXDomain;
                    response.authorities.push(soa);
                    return None;
                }
                Answer::Alias(record, target) => {
                    response.answers.push(record);
                    if kind == RecordType::CNAME {
                        return None;
                    }
                    name = target;
                }
                Answer::Elsewhere => return Some(name),
            }
        }
        response.metadata.response_code = ResponseCode::ServFail;
        None
    }

    async fn forwarded(&self, request: &Message) -> Message {
        let Some(query) = request.queries.first().cloned() else {
            return failure(request, ResponseCode::FormErr);
        };
        let mut response = response(request);
        let Some(name) = self.ask_zone(query.name(), query.query_type(), &mut response) else {
            return response;
        };
        let answer = self.forwarder.ask(&name, query.query_type()).await;
        response.metadata.response_code = answer.metadata.response_code;
        // Letters of the asked name come back as they were asked.
        response.answers.extend(answer.answers.into_iter().map(|mut record| {
            if record.name == name {
                record.name = name.clone();
            }
            record
        }));
        response.authorities.extend(answer.authorities);
        response
    }
}

//! The server over real sockets on loopback: UDP, TCP, truncation, forwarding and failover.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use dns::{Event, Sockets, Zone, run};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

struct Server {
    addr: SocketAddr,
    zone: Arc<Zone>,
    cancelled: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start(upstreams: Vec<SocketAddr>) -> Self {
        let zone = Arc::new(Zone::new("cluster.local").unwrap());
        let service = |name: &str, spec: serde_json::Value| {
            let object = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
            zone.service(Event::Applied(Arc::new(serde_json::from_value(object).unwrap())));
        };
        service("web", json!({"clusterIP": "10.96.0.7"}));
        service("out", json!({"type": "ExternalName", "externalName": "www.example.org"}));
        service("many", json!({"clusterIP": "None"}));
        let endpoints: Vec<_> = (1..=100).map(|n| json!({"addresses": [format!("10.244.1.{n}")]})).collect();
        let slice = json!({
            "metadata": {"name": "many-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "many"}},
            "addressType": "IPv4", "ports": [], "endpoints": endpoints,
        });
        zone.slice(Event::Applied(Arc::new(serde_json::from_value(slice).unwrap())));
        let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = sockets.local_addr().unwrap();
        let cancelled = CancellationToken::new();
        let task = tokio::spawn(run(zone.clone(), sockets, upstreams, cancelled.clone()));
        Self { addr, zone, cancelled, task }
    }

    async fn stop(self) {
        self.cancelled.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn udp(addr: SocketAddr, question: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question.to_vec().unwrap(), addr).await.unwrap();
    let mut buf = vec![0; 4096];
    let len = socket.recv(&mut buf).await.unwrap();
    assert!(len <= 1232);
    let answer = Message::from_vec(&buf[..len]).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    assert_eq!(answer.queries, question.queries);
    answer
}

async fn tcp(stream: &mut TcpStream, question: &Message) -> Message {
    let bytes = question.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut buf = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut buf).await.unwrap();
    Message::from_vec(&buf).unwrap()
}

fn data(message: &Message) -> Vec<String> {
    let mut data: Vec<String> = message.answers.iter().map(|r| r.data.to_string()).collect();
    data.sort();
    data
}

#[tokio::test]
async fn the_zone_over_udp_and_tcp() {
    let server = Server::start(vec![]).await;
    let answer = udp(server.addr, &question("WEB.ns.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(data(&answer), ["10.96.0.7"]);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(answer.answers[0].name.to_ascii(), "WEB.ns.svc.cluster.local.");
    let none = udp(server.addr, &question("no.ns.svc.cluster.local.", RecordType::A)).await;
    assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NXDomain, 1));
    let other = udp(server.addr, &question("web.ns.svc.cluster.local.", RecordType::AAAA)).await;
    assert_eq!((other.metadata.response_code, other.answers.len()), (ResponseCode::NoError, 0));
    // A hundred addresses do not fit 512 bytes, nor 1232; over TCP they do, several questions in a row.
    let many = question("many.ns.svc.cluster.local.", RecordType::A);
    let plain = udp(server.addr, &many).await;
    assert!(plain.metadata.truncation && plain.answers.len() < 31);
    let mut wide = many.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    wide.set_edns(edns);
    let wide = udp(server.addr, &wide).await;
    assert!(wide.metadata.truncation && wide.answers.len() > 31 && wide.edns.is_some());
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    for _ in 0..2 {
        assert_eq!(tcp(&mut stream, &many).await.answers.len(), 100);
    }
    server.stop().await;
}

#[tokio::test]
async fn other_names_go_to_the_first_resolver_that_answers() {
    // The second resolver is this server's own twin with a zone of its own; the first is silent.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let twin = Arc::new(Zone::new("example.org").unwrap());
    let service = json!({"metadata": {"name": "x", "namespace": "y"}, "spec": {"clusterIP": "192.0.2.7"}});
    twin.service(Event::Applied(Arc::new(serde_json::from_value(service).unwrap())));
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let upstream = sockets.local_addr().unwrap();
    let cancelled = CancellationToken::new();
    let task = tokio::spawn(run(twin, sockets, vec![], cancelled.clone()));
    let server = Server::start(vec![silent.local_addr().unwrap(), upstream]).await;
    let asked = question("x.y.svc.example.org.", RecordType::A);
    let answer = udp(server.addr, &asked).await;
    assert_eq!(data(&answer), ["192.0.2.7"]);
    assert!(!answer.metadata.authoritative);
    // Remembered: neither resolver is needed any more.
    cancelled.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(data(&udp(server.addr, &asked).await), ["192.0.2.7"]);
    server.stop().await;
}

#[tokio::test]
async fn a_loop_is_refused_and_ends() {
    // A resolver that sends every question back to the server that asked it.
    let relay = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let server = Server::start(vec![relay.local_addr().unwrap()]).await;
    let to = server.addr;
    let looping = tokio::spawn(async move {
        let mut buf = vec![0; 4096];
        let (len, asker) = relay.recv_from(&mut buf).await.unwrap();
        relay.send_to(&buf[..len], to).await.unwrap();
        let (len, _) = relay.recv_from(&mut buf).await.unwrap();
        relay.send_to(&buf[..len], asker).await.unwrap();
    });
    let answer = udp(server.addr, &question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    looping.await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn nobody_to_ask_is_a_failure() {
    let server = Server::start(vec![]).await;
    let answer = udp(server.addr, &question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let alias = udp(server.addr, &question("out.ns.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(data(&alias), ["www.example.org."]);
    let start = Instant::now();
    for _ in 0..10_000 {
        server.zone.answer(&Name::from_ascii("web.ns.svc.cluster.local.").unwrap(), RecordType::A);
    }
    println!("answer from memory: {:?}", start.elapsed() / 10_000);
    server.stop().await;
}

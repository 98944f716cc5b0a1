//! Pods on one node, with real packets, in namespaces of their own.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use network::link::Links;
use network::netns::{self, Namespace};
use network::{Attach, Attachment, Config, HostPort, LocalService, NodeId, NodeNetwork, Peer, Protocol};

/// A node in its own namespace, with a directory for its state and its pods' namespaces.
struct Node {
    ns: Namespace,
    dir: tempfile::TempDir,
    network: NodeNetwork,
}

fn config(dir: &Path) -> Config {
    Config {
        id: NodeId::new("test-n1"),
        state_dir: dir.join("network"),
        host_dir: dir.join("host"),
        pod_cidr: "10.244.1.0/24".parse().unwrap(),
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_ip: "10.244.1.1".parse().unwrap(),
        mtu: 1500,
    }
}

fn forwarding() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ns = Namespace::anonymous().unwrap();
        let network = ns.run(|| NodeNetwork::open(config(dir.path())).unwrap()).unwrap();
        Self { ns, dir, network }
    }

    fn pod(&self, id: &str, host_ports: &[HostPort]) -> (Pod, Attachment) {
        let path = self.dir.path().join("netns").join(id);
        let pod = Pod { ns: Namespace::create(&path).unwrap(), path };
        let attach = Attach { id, namespace: &pod.path, pod: id, host_ports };
        let attachment = self.network.attach(&attach).unwrap();
        (pod, attachment)
    }
}

/// A pod's namespace; its name goes with it.
struct Pod {
    ns: Namespace,
    path: PathBuf,
}

impl Drop for Pod {
    fn drop(&mut self) {
        netns::unbind(&self.path).unwrap();
    }
}

/// Answers one connection on `ns` with who asked; gives the port.
fn greet(ns: &Namespace, addr: &str) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let listener = ns.run(|| TcpListener::bind(addr).unwrap()).unwrap();
    let at = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(peer.ip().to_string().as_bytes()).unwrap();
    });
    (at, thread)
}

/// What the server at `addr` says to somebody in `ns`: the source address it saw.
fn ask(ns: &Namespace, addr: SocketAddr) -> String {
    ns.run(|| {
        let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .unwrap()
}

#[test]
fn pods_and_their_node_reach_each_other() {
    let node = Node::new();
    let (a, at) = node.pod("a", &[]);
    let (b, bt) = node.pod("b", &[]);
    assert_eq!(at.ips, ["10.244.1.2".parse::<IpAddr>().unwrap()]);
    let (addr, server) = greet(&b.ns, "0.0.0.0:0");
    assert_eq!(ask(&a.ns, SocketAddr::new(bt.ips[0], addr.port())), "10.244.1.2");
    server.join().unwrap();
    let (addr, server) = greet(&b.ns, "0.0.0.0:0");
    assert_eq!(ask(&node.ns, SocketAddr::new(bt.ips[0], addr.port())), "10.244.1.1");
    server.join().unwrap();
    let (addr, server) = greet(&node.ns, "10.244.1.1:0");
    assert_eq!(ask(&a.ns, addr), "10.244.1.2");
    server.join().unwrap();
}

#[test]
fn attaching_is_quick_and_idempotent_and_detaching_leaves_nothing() {
    let node = Node::new();
    // Namespaces begin with what the host has.
    let forwarded = Namespace::anonymous().unwrap().run(forwarding).unwrap();
    let before = node.ns.run(|| Links::new().unwrap().links().unwrap().len()).unwrap();
    let mut times = Vec::new();
    let pods: Vec<_> = (0..20)
        .map(|n| {
            let id = format!("pod-{n}");
            let path = node.dir.path().join("netns").join(&id);
            let pod = Pod { ns: Namespace::create(&path).unwrap(), path };
            let attach = Attach { id: &id, namespace: &pod.path, pod: &id, host_ports: &[] };
            let start = Instant::now();
            let first = node.network.attach(&attach).unwrap();
            times.push(start.elapsed());
            assert_eq!(node.network.attach(&attach).unwrap(), first);
            (id, pod)
        })
        .collect();
    times.sort();
    println!("attach: p50 {:?}, max {:?}", times[times.len() / 2], times[times.len() - 1]);
    assert_eq!(node.network.attached().len(), 20);
    for (id, _) in &pods[..10] {
        node.network.detach(id).unwrap();
        node.network.detach(id).unwrap();
    }
    // The process starts again and finds what it had; what died meanwhile goes.
    drop(node.network);
    let network = node.ns.run(|| NodeNetwork::open(config(node.dir.path())).unwrap()).unwrap();
    let live: HashSet<String> = pods[15..].iter().map(|(id, _)| id.clone()).collect();
    let mut stale = network.reconcile(&live).unwrap();
    stale.sort();
    assert_eq!(stale, ["pod-10", "pod-11", "pod-12", "pod-13", "pod-14"]);
    assert_eq!(network.attached().len(), 5);
    node.ns
        .run(|| {
            network.remove_all().unwrap();
            let mut links = Links::new().unwrap();
            assert_eq!(links.links().unwrap().len(), before);
            assert!(links.routes().unwrap().is_empty());
            assert!(!links.addresses().unwrap().iter().any(|(_, a)| a.to_string().starts_with("10.")));
            let mut nft = network::nft::Client::new().unwrap();
            assert_eq!(nft.tables(network::nft::Family::Ip).unwrap(), Vec::<String>::new());
            assert_eq!(forwarding(), forwarded);
        })
        .unwrap();
    assert!(!node.dir.path().join("network").exists());
}

#[test]
fn a_node_that_goes_leaves_forwarding_to_the_others() {
    let dir = tempfile::tempdir().unwrap();
    Namespace::anonymous()
        .unwrap()
        .run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
            let (first, second) = (config(dir.path()), config(dir.path()));
            let first = NodeNetwork::open(first).unwrap();
            let second = NodeNetwork::open(Config {
                id: NodeId::new("other-n1"),
                state_dir: dir.path().join("other"),
                pod_cidr: "10.245.1.0/24".parse().unwrap(),
                cluster_cidrs: vec!["10.245.0.0/16".parse().unwrap()],
                service_cidrs: vec!["10.97.0.0/16".parse().unwrap()],
                node_ip: "10.245.1.1".parse().unwrap(),
                ..second
            })
            .unwrap();
            first.remove_all().unwrap();
            assert_eq!(forwarding().trim(), "1");
            second.remove_all().unwrap();
            assert_eq!(forwarding().trim(), "0");
        })
        .unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("host")).unwrap().count(), 0);
}

#[test]
fn host_ports_lead_to_the_pod_and_back_to_itself() {
    let node = Node::new();
    let port = HostPort { protocol: Protocol::Tcp, host_port: 8080, container_port: 80, host_ip: None };
    let (web, _) = node.pod("web", std::slice::from_ref(&port));
    let (other, _) = node.pod("other", &[]);
    let target: SocketAddr = "10.244.1.1:8080".parse().unwrap();
    for (from, seen) in [(&node.ns, "10.244.1.1"), (&other.ns, "10.244.1.3"), (&web.ns, "10.244.1.1")] {
        let (_, server) = greet(&web.ns, "0.0.0.0:80");
        assert_eq!(ask(from, target), seen);
        server.join().unwrap();
    }
    let (_, server) = greet(&web.ns, "0.0.0.0:80");
    assert_eq!(ask(&node.ns, "127.0.0.1:8080".parse().unwrap()), "10.244.1.1", "from loopback itself");
    server.join().unwrap();
    let path = other.path.clone();
    let taken = Attach { id: "more", namespace: &path, pod: "ns/more", host_ports: &[port] };
    let error = node.network.attach(&taken).unwrap_err();
    assert_eq!(error.to_string(), "host port 8080 (Tcp) is in use by web");
    node.network.detach("web").unwrap();
    let refused = node.ns.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5))).unwrap();
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_service_address_can_be_answered_on_the_node() {
    let node = Node::new();
    let (pod, _) = node.pod("a", &[]);
    let server = node.ns.run(|| UdpSocket::bind("10.244.1.1:0").unwrap()).unwrap();
    let service: SocketAddr = "10.96.0.10:53".parse().unwrap();
    let local = LocalService { service, protocol: Protocol::Udp, served_at: server.local_addr().unwrap() };
    node.network.set_local_services(&[local]).unwrap();
    for ns in [&pod.ns, &node.ns] {
        ns.run(|| {
            let client = UdpSocket::bind("0.0.0.0:0").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.connect(service).unwrap();
            client.send(b"?").unwrap();
            let mut buf = [0; 8];
            let (len, from) = server.recv_from(&mut buf).unwrap();
            server.send_to(&buf[..len], from).unwrap();
            assert_eq!(client.recv(&mut buf).unwrap(), 1);
        })
        .unwrap();
    }
}

#[test]
fn peers_are_routes() {
    let node = Node::new();
    let routes = || {
        let routes = node.ns.run(|| Links::new().unwrap().routes().unwrap()).unwrap();
        let mut peers: Vec<_> =
            routes.iter().filter_map(|(r, _)| Some(format!("{} via {}", r.to, r.via?))).collect();
        peers.sort();
        peers
    };
    node.ns
        .run(|| {
            let mut links = Links::new().unwrap();
            let mut changes = network::link::Changes::new();
            changes.bridge("uplink", 1500);
            links.apply(&changes).unwrap();
            let mut changes = network::link::Changes::new();
            changes.address(links.index_of("uplink").unwrap(), "172.31.0.1/24".parse().unwrap());
            links.apply(&changes).unwrap();
        })
        .unwrap();
    let peer = |n: u8, via: u8| Peer {
        pod_cidr: format!("10.244.{n}.0/24").parse().unwrap(),
        node_ip: IpAddr::from([172, 31, 0, via]),
    };
    node.network.set_peers(&[peer(1, 1), peer(2, 2), peer(3, 3)]).unwrap();
    assert_eq!(routes(), ["10.244.2.0/24 via 172.31.0.2", "10.244.3.0/24 via 172.31.0.3"]);
    node.network.set_peers(&[peer(3, 9), peer(4, 4)]).unwrap();
    assert_eq!(routes(), ["10.244.3.0/24 via 172.31.0.9", "10.244.4.0/24 via 172.31.0.4"]);
    // Nobody's neighbour, and an address of the other family: the others get their routes all the same.
    let far = Peer { pod_cidr: "10.244.5.0/24".parse().unwrap(), node_ip: "192.0.2.5".parse().unwrap() };
    let mixed = Peer { pod_cidr: "10.244.6.0/24".parse().unwrap(), node_ip: "fd00::6".parse().unwrap() };
    let refused = node.network.set_peers(&[far, peer(7, 7), mixed, peer(8, 8)]).unwrap();
    assert_eq!(routes(), ["10.244.7.0/24 via 172.31.0.7", "10.244.8.0/24 via 172.31.0.8"]);
    let mut refused: Vec<String> = refused.iter().map(|error| error.to_string()).collect();
    refused.sort();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].contains("10.244.5.0/24 via 192.0.2.5"), "{refused:?}");
    assert!(refused[1].contains("10.244.6.0/24 via fd00::6"), "{refused:?}");
}

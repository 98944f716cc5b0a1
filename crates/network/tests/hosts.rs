//! Three nodes of one cluster and another cluster beside it, on a host that is itself a namespace.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use network::hostns::{HostNetwork, free_ranges};
use network::link::Links;
use network::netns::{self, Namespace};
use network::{Attach, Config, NodeId, NodeNetwork, Peer};

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Who `from` is seen as by a server at `at` in `to`.
fn seen(from: &Namespace, to: &Namespace, at: SocketAddr) -> String {
    let listener = to.run(|| TcpListener::bind(("0.0.0.0", at.port())).unwrap()).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(peer.ip().to_string().as_bytes()).unwrap();
    });
    let text = from
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        })
        .unwrap();
    server.join().unwrap();
    text
}

#[test]
fn nodes_are_namespaces_that_reach_each_others_pods() {
    let (dir, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let host = Namespace::anonymous().unwrap();
    let (mut first, ranges) = host
        .run(|| {
            std::fs::write(FORWARDING, "0").unwrap();
            let ranges = free_ranges(&mut Links::new().unwrap(), &[]).unwrap().unwrap();
            (HostNetwork::open("one", ranges.clone(), dir.path().join("one"), shared.path()).unwrap(), ranges)
        })
        .unwrap();
    let (second, others) = host
        .run(|| {
            let ranges = free_ranges(&mut Links::new().unwrap(), std::slice::from_ref(&ranges.pods));
            let ranges = ranges.unwrap().unwrap();
            (HostNetwork::open("two", ranges.clone(), dir.path().join("two"), shared.path()).unwrap(), ranges)
        })
        .unwrap();
    assert_ne!((ranges.nodes, ranges.pods), (others.nodes, others.pods));
    let mut nodes = Vec::new();
    for n in 1..4u8 {
        let node = first.create_node(&format!("n{n}"), n).unwrap();
        assert_eq!(first.create_node(&format!("n{n}"), n).unwrap(), node);
        let pod_cidr = format!("10.244.{n}.0/24").parse().unwrap();
        first.route(pod_cidr, &node).unwrap();
        let ns = Namespace::open(&node.namespace).unwrap();
        let config = Config {
            id: NodeId::new(&format!("one-n{n}")),
            state_dir: dir.path().join(format!("state-{n}")),
            host_dir: shared.path().into(),
            pod_cidr,
            cluster_cidrs: vec![ranges.pods],
            service_cidrs: vec![ranges.services],
            node_ip: node.ip,
            mtu: 1500,
        };
        let network = ns.run(|| NodeNetwork::open(config).unwrap()).unwrap();
        let path = dir.path().join(format!("pod-{n}"));
        let pod = Namespace::create(&path).unwrap();
        let attach = Attach { id: "pod", namespace: &path, pod: "ns/pod", host_ports: &[] };
        let ip = network.attach(&attach).unwrap().ips[0];
        nodes.push((node, ns, network, pod, path, ip));
    }
    let peers: Vec<Peer> = (1..)
        .zip(&nodes)
        .map(|(n, node)| Peer { pod_cidr: format!("10.244.{n}.0/24").parse().unwrap(), node_ip: node.0.ip })
        .collect();
    for (_, _, network, ..) in &nodes {
        network.set_peers(&peers).unwrap();
    }
    let pod = |n: usize| SocketAddr::new(nodes[n].5, 8080);
    assert_eq!(seen(&nodes[0].3, &nodes[2].3, pod(2)), nodes[0].5.to_string());
    assert_eq!(seen(&nodes[1].1, &nodes[2].3, pod(2)), nodes[1].0.ip.to_string());
    assert_eq!(seen(&host, &nodes[1].3, pod(1)), nodes[0].0.host_ip.to_string());
    // Pods leave the cluster as their node.
    let outside = SocketAddr::new(nodes[0].0.host_ip, 8080);
    assert_eq!(seen(&nodes[0].3, &host, outside), nodes[0].0.ip.to_string());
    for (_, ns, network, _, path, _) in nodes {
        ns.run(|| network.remove_all().unwrap()).unwrap();
        netns::unbind(path).unwrap();
    }
    host.run(|| {
        second.remove_all().unwrap();
        assert_eq!(std::fs::read_to_string(FORWARDING).unwrap().trim(), "1");
        // As `down` does, in another process than `up`.
        drop(first);
        let first = HostNetwork::open("one", ranges.clone(), dir.path().join("one"), shared.path());
        first.unwrap().remove_all().unwrap();
        assert_eq!(std::fs::read_to_string(FORWARDING).unwrap().trim(), "0");
        let mut links = Links::new().unwrap();
        assert_eq!(links.links().unwrap().iter().filter(|l| l.name.starts_with("tp")).count(), 0);
        assert!(links.routes().unwrap().is_empty());
    })
    .unwrap();
    for dir in [&dir, &shared] {
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

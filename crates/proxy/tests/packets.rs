//! Services with real packets: a node in a namespace, pods on it, a client outside.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::link::{Changes, End, Links, Route};
use network::netns::{self, Namespace};
use network::{Attach, NodeId, NodeNetwork};
use proxy::{Config, Event, Kernel, Proxy};
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(5);
const NODE: &str = "172.31.0.1";

struct Cluster {
    node: Namespace,
    /// A machine beside the node, with a route to the Services through it.
    outside: Namespace,
    network: NodeNetwork,
    dir: tempfile::TempDir,
    pods: BTreeMap<&'static str, (Namespace, PathBuf, IpAddr)>,
    kernel: Kernel,
    proxy: Proxy,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, path, _) in self.pods.values() {
            netns::unbind(path).unwrap();
        }
    }
}

fn config() -> Config {
    Config {
        table: "tiphys-test-proxy".into(),
        node_name: "n1".into(),
        zone: None,
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_port_addresses: vec![],
        masquerade_bit: 14,
    }
}

impl Cluster {
    /// Pods `a`, `b`, `c` get 10.244.1.2 to 10.244.1.4 and answer to their name on TCP and UDP port 80.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (node, outside) = (Namespace::anonymous().unwrap(), Namespace::anonymous().unwrap());
        let network = node
            .run(|| {
                let mut links = Links::new().unwrap();
                let end = |name: &str, namespace| End { name: name.into(), mac: None, namespace };
                let mut changes = Changes::new();
                let other = std::os::fd::AsRawFd::as_raw_fd(&outside);
                changes.veth(&end("uplink", None), &end("uplink", Some(other)), 1500);
                links.apply(&changes).unwrap();
                let mut changes = Changes::new();
                changes.address(links.index_of("uplink").unwrap(), format!("{NODE}/24").parse().unwrap());
                links.apply(&changes).unwrap();
                NodeNetwork::open(network::Config {
                    id: NodeId::new("test"),
                    state_dir: dir.path().join("network"),
                    host_dir: dir.path().join("host"),
                    pod_cidr: "10.244.1.0/24".parse().unwrap(),
                    cluster_cidrs: config().cluster_cidrs,
                    service_cidrs: config().service_cidrs,
                    node_ip: NODE.parse().unwrap(),
                    mtu: 1500,
                })
                .unwrap()
            })
            .unwrap();
        outside
            .run(|| {
                let mut links = Links::new().unwrap();
                let link = links.index_of("uplink").unwrap();
                let mut changes = Changes::new();
                changes.up(link);
                changes.address(link, "172.31.0.9/24".parse().unwrap());
                changes.route(&Route::via("10.96.0.0/16".parse().unwrap(), NODE.parse().unwrap()));
                links.apply(&changes).unwrap();
            })
            .unwrap();
        let (kernel, proxy) = node
            .run(|| {
                let mut kernel = Kernel::new().unwrap();
                let proxy = kernel.load(config()).unwrap();
                (kernel, proxy)
            })
            .unwrap();
        let mut cluster = Self { node, outside, network, dir, pods: BTreeMap::new(), kernel, proxy };
        for name in ["a", "b", "c"] {
            cluster.add_pod(name);
        }
        cluster.proxy.service(Event::Synced);
        cluster.proxy.slice(Event::Synced);
        cluster
    }

    fn add_pod(&mut self, name: &'static str) {
        let path = self.dir.path().join(name);
        let ns = Namespace::create(&path).unwrap();
        let attach = Attach { id: name, namespace: &path, pod: name, host_ports: &[] };
        let ip = self.network.attach(&attach).unwrap().ips[0];
        let (tcp, udp) = ns
            .run(|| (TcpListener::bind("0.0.0.0:80").unwrap(), UdpSocket::bind("0.0.0.0:80").unwrap()))
            .unwrap();
        // The threads end with the test's process; they hold nothing but their namespace.
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip();
                stream.write_all(format!("{name} {peer}").as_bytes()).unwrap();
            }
        });
        std::thread::spawn(move || {
            let mut buf = [0; 64];
            while let Ok((_, from)) = udp.recv_from(&mut buf) {
                udp.send_to(name.as_bytes(), from).unwrap();
            }
        });
        self.pods.insert(name, (ns, path, ip));
    }

    fn service(&mut self, spec: serde_json::Value) {
        let mut spec = spec;
        spec["ports"] = spec.get("ports").cloned().unwrap_or(json!([
            {"name": "http", "port": 80, "nodePort": spec.get("nodePort").and_then(|p| p.as_i64())},
            {"name": "udp", "port": 80, "protocol": "UDP"},
        ]));
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec}))
                .unwrap();
        self.proxy.service(Event::Applied(Arc::new(service)));
    }

    fn endpoints(&mut self, endpoints: &[serde_json::Value]) {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "name": "web-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 80}, {"name": "udp", "port": 80, "protocol": "UDP"}],
            "endpoints": endpoints,
        }))
        .unwrap();
        self.proxy.slice(Event::Applied(Arc::new(slice)));
    }

    fn sync(&mut self) {
        self.kernel.sync(&mut self.proxy).unwrap();
    }

    fn ready(&self, name: &str) -> serde_json::Value {
        json!({"addresses": [self.pods[name].2.to_string()], "nodeName": "n1"})
    }
}

fn ask(ns: &Namespace, addr: &str) -> std::io::Result<String> {
    let addr: SocketAddr = addr.parse().unwrap();
    ns.run(|| {
        let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
    .unwrap()
}

/// Who answers `n` connections, sorted and without repeats.
fn who(ns: &Namespace, addr: &str, n: usize) -> Vec<String> {
    let mut names: Vec<String> =
        (0..n).map(|_| ask(ns, addr).unwrap().split(' ').next().unwrap().to_string()).collect();
    names.sort();
    names.dedup();
    names
}

fn refused(ns: &Namespace, addr: &str) {
    assert_eq!(ask(ns, addr).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_cluster_ip_leads_to_its_endpoints_and_only_to_them() {
    let mut cluster = Cluster::new();
    cluster.service(json!({"clusterIP": "10.96.0.7"}));
    cluster.endpoints(&[cluster.ready("a"), cluster.ready("b")]);
    cluster.sync();
    let c = &cluster.pods["c"].0;
    for ns in [c, &cluster.node, &cluster.outside] {
        assert_eq!(who(ns, "10.96.0.7:80", 40), ["a", "b"]);
        refused(ns, "10.96.0.7:81");
        refused(ns, "10.96.0.8:80");
    }
    // A pod is seen by its own address; who is not a pod is masqueraded.
    assert!(ask(c, "10.96.0.7:80").unwrap().ends_with(" 10.244.1.4"));
    assert!(ask(&cluster.outside, "10.96.0.7:80").unwrap().ends_with(" 10.244.1.1"));
    cluster.endpoints(&[cluster.ready("b"), cluster.ready("c")]);
    cluster.sync();
    assert_eq!(who(&cluster.node, "10.96.0.7:80", 40), ["b", "c"]);
    cluster.endpoints(&[]);
    cluster.sync();
    for ns in [&cluster.pods["c"].0, &cluster.node, &cluster.outside] {
        refused(ns, "10.96.0.7:80");
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let mut cluster = Cluster::new();
    cluster.service(json!({"clusterIP": "10.96.0.7"}));
    cluster.endpoints(&[cluster.ready("a")]);
    cluster.sync();
    assert_eq!(ask(&cluster.pods["a"].0, "10.96.0.7:80").unwrap(), "a 10.244.1.1");
}

#[test]
fn node_ports_answer_on_the_nodes_addresses() {
    let mut cluster = Cluster::new();
    cluster.service(json!({"type": "NodePort", "clusterIP": "10.96.0.7", "nodePort": 30080}));
    cluster.endpoints(&[cluster.ready("a"), cluster.ready("b")]);
    cluster.sync();
    for ns in [&cluster.node, &cluster.outside, &cluster.pods["c"].0] {
        assert_eq!(who(ns, "172.31.0.1:30080", 40), ["a", "b"]);
    }
    refused(&cluster.outside, "172.31.0.1:30081");
    // With the policy Local a client from outside keeps its address.
    cluster.service(json!({
        "type": "NodePort", "clusterIP": "10.96.0.7", "nodePort": 30080, "externalTrafficPolicy": "Local",
    }));
    let mut elsewhere = cluster.ready("b");
    elsewhere["nodeName"] = json!("n2");
    cluster.endpoints(&[cluster.ready("a"), elsewhere]);
    cluster.sync();
    assert_eq!(who(&cluster.outside, "172.31.0.1:30080", 30), ["a"]);
    assert_eq!(who(&cluster.node, "172.31.0.1:30080", 40), ["a", "b"]);
}

#[test]
fn load_balancer_sources_and_external_ips() {
    let mut cluster = Cluster::new();
    let service = |ranges: serde_json::Value| -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.7", "externalIPs": ["10.96.200.1"],
                "ports": [{"name": "http", "port": 80}], "loadBalancerSourceRanges": ranges,
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "10.96.200.2"}]}},
        }))
        .unwrap()
    };
    cluster.proxy.service(Event::Applied(Arc::new(service(json!(["172.31.0.0/24"])))));
    cluster.endpoints(&[cluster.ready("a")]);
    cluster.sync();
    assert_eq!(who(&cluster.outside, "10.96.200.1:80", 3), ["a"]);
    assert_eq!(who(&cluster.outside, "10.96.200.2:80", 3), ["a"]);
    cluster.proxy.service(Event::Applied(Arc::new(service(json!(["10.1.0.0/16"])))));
    cluster.sync();
    assert_eq!(who(&cluster.outside, "10.96.200.1:80", 3), ["a"]);
    let outside = cluster
        .outside
        .run(|| TcpStream::connect_timeout(&"10.96.200.2:80".parse().unwrap(), Duration::from_millis(300)));
    assert_eq!(outside.unwrap().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let mut cluster = Cluster::new();
    let sticky = json!({
        "type": "NodePort", "clusterIP": "10.96.0.7", "nodePort": 30080, "sessionAffinity": "ClientIP",
    });
    cluster.service(sticky);
    cluster.endpoints(&[cluster.ready("a"), cluster.ready("b"), cluster.ready("c")]);
    cluster.sync();
    let first = who(&cluster.outside, "10.96.0.7:80", 20);
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(who(&cluster.outside, "172.31.0.1:30080", 20), first);
    // Another endpoint may go; the one that stays keeps its clients, also over a restart of the proxy.
    let other = ["a", "b", "c"].into_iter().find(|n| first != [*n]).unwrap();
    let rest: Vec<_> = ["a", "b", "c"].iter().filter(|n| **n != other).map(|n| cluster.ready(n)).collect();
    cluster.endpoints(&rest);
    cluster.sync();
    assert_eq!(who(&cluster.outside, "10.96.0.7:80", 20), first);
    cluster.proxy = cluster.kernel.load(config()).unwrap();
    cluster.service(json!({"clusterIP": "10.96.0.7", "sessionAffinity": "ClientIP"}));
    cluster.endpoints(&rest);
    cluster.proxy.service(Event::Synced);
    cluster.proxy.slice(Event::Synced);
    cluster.sync();
    assert_eq!(who(&cluster.outside, "10.96.0.7:80", 20), first);
    // Its endpoint goes: another one takes over and keeps the client.
    cluster.endpoints(&[cluster.ready(other)]);
    cluster.sync();
    assert_eq!(who(&cluster.outside, "10.96.0.7:80", 20), [other]);
    cluster.service(json!({"clusterIP": "10.96.0.7"}));
    cluster.sync();
    assert_eq!(who(&cluster.outside, "10.96.0.7:80", 5), [other]);
}

#[test]
fn udp_clients_leave_an_endpoint_that_is_gone() {
    let mut cluster = Cluster::new();
    cluster.service(json!({"clusterIP": "10.96.0.7"}));
    cluster.endpoints(&[cluster.ready("a")]);
    cluster.sync();
    let socket = cluster.pods["c"].0.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket.connect("10.96.0.7:80").unwrap();
    let ask = || {
        let mut buf = [0; 8];
        socket.send(b"?").unwrap();
        let len = socket.recv(&mut buf)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&buf[..len]).into_owned())
    };
    assert_eq!(ask().unwrap(), "a");
    cluster.endpoints(&[cluster.ready("b")]);
    cluster.sync();
    assert_eq!(ask().unwrap(), "b");
    cluster.endpoints(&[]);
    cluster.sync();
    assert_eq!(ask().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_restarted_proxy_takes_over_what_is_there() {
    let mut cluster = Cluster::new();
    cluster.service(json!({"type": "NodePort", "clusterIP": "10.96.0.7", "nodePort": 30080}));
    cluster.endpoints(&[cluster.ready("a"), cluster.ready("b")]);
    cluster.sync();
    cluster.proxy = cluster.kernel.load(config()).unwrap();
    cluster.service(json!({"type": "NodePort", "clusterIP": "10.96.0.7", "nodePort": 30080}));
    cluster.endpoints(&[cluster.ready("a"), cluster.ready("b")]);
    cluster.proxy.service(Event::Synced);
    cluster.proxy.slice(Event::Synced);
    let plans = cluster.proxy.plan();
    assert!(plans.iter().all(|p| p.batch.is_empty()), "{}", plans[0].batch);
    // What changed while nobody looked is put right: the Service has another address now.
    cluster.proxy = cluster.kernel.load(config()).unwrap();
    cluster.service(json!({"clusterIP": "10.96.0.9"}));
    cluster.endpoints(&[cluster.ready("b")]);
    cluster.proxy.service(Event::Synced);
    cluster.proxy.slice(Event::Synced);
    cluster.sync();
    refused(&cluster.node, "10.96.0.7:80");
    refused(&cluster.outside, "172.31.0.1:30080");
    assert_eq!(who(&cluster.node, "10.96.0.9:80", 5), ["b"]);
    cluster.kernel.remove("tiphys-test-proxy").unwrap();
    let tables =
        cluster.node.run(|| network::nft::Client::new().unwrap().tables(network::nft::Family::Ip).unwrap());
    assert_eq!(tables.unwrap(), ["tiphys-test"]);
}

#[test]
fn endpoints_that_end_serve_until_others_are_ready() {
    let mut cluster = Cluster::new();
    cluster.service(json!({"clusterIP": "10.96.0.7"}));
    let ending = |cluster: &Cluster, name: &str| {
        let mut endpoint = cluster.ready(name);
        endpoint["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
        endpoint
    };
    let starting = |cluster: &Cluster, name: &str| {
        let mut endpoint = cluster.ready(name);
        endpoint["conditions"] = json!({"ready": false, "serving": false, "terminating": false});
        endpoint
    };
    cluster.endpoints(&[ending(&cluster, "a"), starting(&cluster, "b")]);
    cluster.sync();
    assert_eq!(who(&cluster.node, "10.96.0.7:80", 10), ["a"]);
    cluster.endpoints(&[ending(&cluster, "a"), cluster.ready("b")]);
    cluster.sync();
    assert_eq!(who(&cluster.node, "10.96.0.7:80", 10), ["b"]);
}

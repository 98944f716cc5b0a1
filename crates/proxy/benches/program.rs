//! What DESIGN.md's budget asks of the proxy, measured against the kernel in a fresh namespace:
//! 1 000 Services × 10 endpoints programmed (0.3 s), one endpoint more at 10 000 Services (5 ms), cold
//! start with 30 000 Services (3 s).

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::netns::Namespace;
use proxy::{Config, Event, Kernel, Proxy};
use serde_json::json;

fn config() -> Config {
    Config {
        table: "bench".into(),
        node_name: "n1".into(),
        zone: None,
        cluster_cidrs: vec!["10.128.0.0/9".parse().expect("a network")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a network")],
        node_port_addresses: vec![],
        masquerade_bit: 14,
    }
}

fn service(n: u32) -> Arc<Service> {
    let ip = Ipv4Addr::from(0x0a60_0000 + n + 1);
    let value = json!({
        "metadata": {"name": format!("s{n}"), "namespace": "default"},
        "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    Arc::new(serde_json::from_value(value).expect("a Service"))
}

fn slice(n: u32, endpoints: u32) -> Arc<EndpointSlice> {
    let endpoints: Vec<_> = (0..endpoints)
        .map(|e| json!({"addresses": [Ipv4Addr::from(0x0a80_0000 + n * 16 + e)], "nodeName": format!("n{}", e + 2)}))
        .collect();
    let value = json!({
        "metadata": {
            "name": format!("s{n}-x"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("s{n}")},
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    });
    Arc::new(serde_json::from_value(value).expect("an EndpointSlice"))
}

fn filled(kernel: &mut Kernel, services: u32, endpoints: u32) -> (Proxy, Duration) {
    let objects: Vec<_> = (0..services).map(|n| (service(n), slice(n, endpoints))).collect();
    let start = Instant::now();
    let mut proxy = kernel.load(config()).expect("load");
    for (service, slice) in objects {
        proxy.service(Event::Applied(service));
        proxy.slice(Event::Applied(slice));
    }
    proxy.service(Event::Synced);
    proxy.slice(Event::Synced);
    kernel.sync(&mut proxy).expect("sync");
    (proxy, start.elapsed())
}

fn main() {
    for (services, endpoints) in [(1_000, 10), (10_000, 10), (30_000, 10)] {
        let ns = Namespace::anonymous().expect("a namespace");
        ns.run(|| {
            let mut kernel = Kernel::new().expect("sockets");
            let (mut proxy, first) = filled(&mut kernel, services, endpoints);
            let mut one_more: Vec<Duration> = (0..21)
                .map(|n| {
                    proxy.slice(Event::Applied(slice(n * 7, endpoints + 1)));
                    let start = Instant::now();
                    kernel.sync(&mut proxy).expect("sync");
                    start.elapsed()
                })
                .collect();
            one_more.sort();
            drop(proxy);
            let (_, again) = filled(&mut kernel, services, endpoints);
            println!(
                "{services} Services x {endpoints}: programmed {first:?}; one endpoint more p50 {:?} max {:?}; \
                 restart {again:?}",
                one_more[10], one_more[20]
            );
        })
        .expect("a thread in the namespace");
    }
}

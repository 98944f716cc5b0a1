//! Questions and answers as text.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn zone() -> Zone {
    let zone = Zone::new("cluster.local").unwrap();
    let services = [
        json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ports": [{"name": "https", "port": 443}]}}),
        json!({"metadata": {"name": "db", "namespace": "shop"}, "spec": {"clusterIP": "None"}}),
        json!({"metadata": {"name": "out", "namespace": "shop"}, "spec": {
            "type": "ExternalName", "externalName": "example.org"}}),
    ];
    for service in services {
        zone.service(Event::Applied(Arc::new(serde_json::from_value(service).unwrap())));
    }
    zone.slice(Event::Applied(slice()));
    zone
}

fn slice() -> Arc<EndpointSlice> {
    let slice = json!({
        "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"name": "pg", "port": 5432}],
        "endpoints": [
            {"addresses": ["10.244.1.2"], "hostname": "db-0"},
            {"addresses": ["10.244.1.3"], "hostname": "db-1", "conditions": {"ready": false}},
            {"addresses": ["10.244.1.4"]},
        ],
    });
    Arc::new(serde_json::from_value(slice).unwrap())
}

fn text(zone: &Zone, name: &str, kind: RecordType) -> String {
    let lines = |records: Vec<Record>| {
        let mut lines: Vec<String> =
            records.iter().map(|r| format!("{} {} {}", r.name, r.record_type(), r.data)).collect();
        lines.sort();
        lines.join("\n")
    };
    match zone.answer(&Name::from_ascii(format!("{name}.")).unwrap(), kind) {
        Answer::Records(records, more) if more.is_empty() => lines(records),
        Answer::Records(records, more) => format!("{}\n+ {}", lines(records), lines(more)),
        Answer::Alias(record, target) => format!("{} -> {target}", lines(vec![record])),
        Answer::NoData(_) => "no data".into(),
        Answer::NoName(soa) => format!("no name; {}", lines(vec![soa])),
        Answer::Elsewhere => "elsewhere".into(),
    }
}

fn check(name: &str, kind: RecordType, expected: Expect) {
    expected.assert_eq(&text(&zone(), name, kind));
}

#[test]
fn services_have_addresses_ports_and_names() {
    check(
        "kubernetes.default.svc.cluster.local",
        RecordType::A,
        expect!["kubernetes.default.svc.cluster.local. A 10.96.0.1"],
    );
    check(
        "Kubernetes.Default.SVC.cluster.LOCAL",
        RecordType::AAAA,
        expect!["Kubernetes.Default.SVC.cluster.LOCAL. AAAA fd00::1"],
    );
    check(
        "_https._tcp.kubernetes.default.svc.cluster.local",
        RecordType::SRV,
        expect![[r#"
        _https._tcp.kubernetes.default.svc.cluster.local. SRV 0 100 443 kubernetes.default.svc.cluster.local.
        + kubernetes.default.svc.cluster.local. A 10.96.0.1
        kubernetes.default.svc.cluster.local. AAAA fd00::1"#]],
    );
    check(
        "1.0.96.10.in-addr.arpa",
        RecordType::PTR,
        expect!["1.0.96.10.in-addr.arpa. PTR kubernetes.default.svc.cluster.local."],
    );
    check(
        "out.shop.svc.cluster.local",
        RecordType::A,
        expect!["out.shop.svc.cluster.local. CNAME example.org. -> example.org."],
    );
    check("dns-version.cluster.local", RecordType::TXT, expect!["dns-version.cluster.local. TXT 1.1.0"]);
}

#[test]
fn headless_services_have_their_ready_endpoints() {
    check(
        "db.shop.svc.cluster.local",
        RecordType::A,
        expect![[r#"
        db.shop.svc.cluster.local. A 10.244.1.2
        db.shop.svc.cluster.local. A 10.244.1.4"#]],
    );
    check(
        "db-0.db.shop.svc.cluster.local",
        RecordType::A,
        expect!["db-0.db.shop.svc.cluster.local. A 10.244.1.2"],
    );
    check(
        "db-1.db.shop.svc.cluster.local",
        RecordType::A,
        expect![
            "no name; cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 3 7200 1800 86400 5"
        ],
    );
    check(
        "10-244-1-4.db.shop.svc.cluster.local",
        RecordType::A,
        expect!["10-244-1-4.db.shop.svc.cluster.local. A 10.244.1.4"],
    );
    check(
        "_pg._tcp.db.shop.svc.cluster.local",
        RecordType::SRV,
        expect![[r#"
        _pg._tcp.db.shop.svc.cluster.local. SRV 0 50 5432 10-244-1-4.db.shop.svc.cluster.local.
        _pg._tcp.db.shop.svc.cluster.local. SRV 0 50 5432 db-0.db.shop.svc.cluster.local.
        + 10-244-1-4.db.shop.svc.cluster.local. A 10.244.1.4
        db-0.db.shop.svc.cluster.local. A 10.244.1.2"#]],
    );
    check(
        "2.1.244.10.in-addr.arpa",
        RecordType::PTR,
        expect!["2.1.244.10.in-addr.arpa. PTR db-0.db.shop.svc.cluster.local."],
    );
}

#[test]
fn pods_have_names_made_of_their_addresses() {
    check(
        "10-244-1-9.shop.pod.cluster.local",
        RecordType::A,
        expect!["10-244-1-9.shop.pod.cluster.local. A 10.244.1.9"],
    );
    check("10-244-1-9.shop.pod.cluster.local", RecordType::AAAA, expect!["no data"]);
    check(
        "fd00--9.shop.pod.cluster.local",
        RecordType::AAAA,
        expect!["fd00--9.shop.pod.cluster.local. AAAA fd00::9"],
    );
}

#[test]
fn absent_names_differ_from_absent_records() {
    check("kubernetes.default.svc.cluster.local", RecordType::MX, expect!["no data"]);
    check("default.svc.cluster.local", RecordType::A, expect!["no data"]);
    check("_tcp.kubernetes.default.svc.cluster.local", RecordType::A, expect!["no data"]);
    check("svc.cluster.local", RecordType::A, expect!["no data"]);
    check(
        "nobody.default.svc.cluster.local",
        RecordType::A,
        expect![
            "no name; cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 3 7200 1800 86400 5"
        ],
    );
    check(
        "cluster.local",
        RecordType::SOA,
        expect!["cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 3 7200 1800 86400 5"],
    );
    check("example.org", RecordType::A, expect!["elsewhere"]);
    check("notcluster.local", RecordType::A, expect!["elsewhere"]);
    check("8.8.8.8.in-addr.arpa", RecordType::PTR, expect!["elsewhere"]);
}

#[test]
fn what_goes_leaves_nothing() {
    let zone = zone();
    let empty = Zone::new("cluster.local").unwrap();
    let services: Vec<_> = zone.state.read().known.values().filter_map(|k| k.service.clone()).collect();
    for service in services {
        zone.service(Event::Deleted(service));
    }
    zone.slice(Event::Deleted(slice()));
    let (state, empty) = (zone.state.read(), empty.state.read());
    assert_eq!(format!("{:?}", state.nodes), format!("{:?}", empty.nodes));
    assert!(state.reverse.is_empty() && state.known.is_empty());
}

#[test]
fn answers_take_turns() {
    let zone = zone();
    let name = Name::from_ascii("db.shop.svc.cluster.local.").unwrap();
    let first = || match zone.answer(&name, RecordType::A) {
        Answer::Records(records, _) => records[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    let firsts: Vec<String> = (0..4).map(|_| first()).collect();
    assert_eq!(firsts[..2], firsts[2..]);
    assert_ne!(firsts[0], firsts[1]);
}

//! Batches as text, and what the kernel and Debian's `nft` make of them.

use std::process::Command;
use std::time::Duration;

use expect_test::{Expect, expect};

use super::*;
use crate::netns::Namespace;

/// What `nft list ruleset` says after these batches, in a namespace of their own.
fn listed(batches: &[&Batch]) -> String {
    let ns = Namespace::anonymous().unwrap();
    ns.run(|| {
        let mut client = Client::new().unwrap();
        for batch in batches {
            client.apply(batch).unwrap();
        }
        let out = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    })
    .unwrap()
}

fn check(batch: &Batch, text: Expect, kernel: Expect) {
    text.assert_eq(&batch.to_string());
    kernel.assert_eq(&listed(&[batch]));
}

fn services() -> Set {
    Set::map("services", vec![Type::Ipv4, Type::Proto, Type::Service], Data::Verdict)
}

fn backends() -> Set {
    let key = vec![Type::Ipv4, Type::Proto, Type::Service, Type::Mark];
    Set::map("backends", key, Data::Value(vec![Type::Ipv4, Type::Service]))
}

fn numbers() -> Set {
    Set::map("numbers", vec![Type::Mark], Data::Value(vec![Type::Mark]))
}

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

fn table() -> Table {
    Table::new(Family::Ip, "t")
}

fn base() -> Batch {
    let mut batch = Batch::new(table());
    batch.add_table("shape 1");
    for set in [services(), backends(), numbers()] {
        batch.add_set(&set);
    }
    batch.add_chain(Chain::nat("prerouting", HookPoint::Prerouting, -100));
    batch.add_chain(Chain::regular("two"));
    batch
}

#[test]
fn a_lookup_ends_in_a_translation() {
    let mut batch = base();
    batch.add_rule(
        Rule::new(Family::Ip, "prerouting")
            .load(&[Field::Daddr, Field::L4Proto, Field::Dport])
            .vmap(&services()),
    );
    batch.add_rule(
        Rule::new(Family::Ip, "two")
            .load(&[Field::Daddr, Field::L4Proto, Field::Dport, Field::Random { modulus: 2, offset: 0 }])
            .map(&backends())
            .dnat(),
    );
    let key = || Key::new().addr(ip("10.96.0.1")).proto(6).port(443);
    let goto = Value::Verdict(Verdict::Goto("two".into()));
    batch.add_elements(&services(), vec![Element::mapped(key(), goto)]);
    let backend =
        |n| Element::mapped(key().mark(n), Value::Fields(Key::new().addr(ip("10.244.0.9")).port(6443)));
    batch.add_elements(&backends(), vec![backend(0), backend(1)]);
    check(
        &batch,
        expect![[r#"
        add table ip t { comment "shape 1" ; }
        add map ip t services { type ipv4_addr . inet_proto . inet_service : verdict ; }
        add map ip t backends { type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service ; }
        add map ip t numbers { type mark : mark ; }
        add chain ip t prerouting { type nat hook prerouting priority -100 ; }
        add chain ip t two
        add rule ip t prerouting ip daddr . meta l4proto . th dport vmap @services
        add rule ip t two dnat to ip daddr . meta l4proto . th dport . numgen random mod 2 map @backends
        add element ip t services { 10.96.0.1 . tcp . 443 : goto two }
        add element ip t backends { 10.96.0.1 . tcp . 443 . 0 : 10.244.0.9 . 6443, 10.96.0.1 . tcp . 443 . 1 : 10.244.0.9 . 6443 }
    "#]],
        expect![[r#"
        table ip t {
        	comment "shape 1"
        	map services {
        		type ipv4_addr . inet_proto . inet_service : verdict
        		elements = { 10.96.0.1 . tcp . 443 : goto two }
        	}

        	map backends {
        		type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service
        		elements = { 10.96.0.1 . tcp . 443 . 0x00000000 : 10.244.0.9 . 6443,
        			     10.96.0.1 . tcp . 443 . 0x00000001 : 10.244.0.9 . 6443 }
        	}

        	map numbers {
        		type mark : mark
        	}

        	chain prerouting {
        		type nat hook prerouting priority dstnat; policy accept;
        		ip daddr . meta l4proto . th dport vmap @services
        	}

        	chain two {
        		dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @backends
        	}
        }
    "#]],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one rule set with everything in it, as text and as listed")]
fn every_expression_is_accepted() {
    let mut batch = Batch::new(table());
    batch.add_table("");
    let nets = Set::new("nets", vec![Type::Ipv4]).with_intervals();
    let ranges =
        Set::new("ranges", vec![Type::Ipv4, Type::Proto, Type::Service, Type::Ipv4]).with_intervals();
    let seen = Set::new("seen", vec![Type::Ipv4, Type::Ipv4]).filled_by_rules(1 << 16);
    for set in [&nets, &ranges, &seen, &backends()] {
        batch.add_set(set);
    }
    batch.add_chain(Chain::nat("pre", HookPoint::Prerouting, -100));
    batch.add_chain(Chain::nat("post", HookPoint::Postrouting, 100));
    batch.add_chain(Chain::filter("fwd", HookPoint::Forward, 0));
    let rule = |chain| Rule::new(Family::Ip, chain);
    batch.add_rule(
        rule("pre")
            .load(&[Field::FibDaddrType])
            .is(2)
            .load(&[Field::Daddr, Field::L4Proto, Field::Dport, Field::Random { modulus: 3, offset: 65536 }])
            .map(&backends())
            .dnat(),
    );
    batch.add_rule(
        rule("pre")
            .load(&[Field::Saddr, Field::Daddr])
            .remember(&seen, Duration::from_secs(10800))
            .dnat_to(ip("10.244.0.7"), 8080),
    );
    batch.add_rule(rule("pre").load(&[Field::Saddr]).not_in_set(&nets).set_mark_bits(0x4000));
    batch.add_rule(
        rule("post")
            .load(&[Field::Mark])
            .any_bit(0x4000, true)
            .clear_mark_bits(0x4000)
            .masquerade(Flags::FULLY_RANDOM),
    );
    batch.add_rule(
        rule("fwd")
            .load(&[Field::Daddr])
            .in_network(Cmp::Eq, "10.96.0.0/12".parse().unwrap())
            .load(&[Field::Saddr])
            .in_network(Cmp::Ne, "10.244.0.0/16".parse().unwrap())
            .load(&[Field::L4Proto])
            .cmp(Cmp::Eq, [6])
            .reject(Reject::TcpReset),
    );
    batch.add_rule(
        rule("fwd")
            .load(&[Field::Daddr, Field::L4Proto, Field::Dport, Field::Saddr])
            .not_in_set(&ranges)
            .limit(5, Duration::from_secs(60), 5)
            .log("refused ")
            .counter()
            .reject(Reject::PortUnreachable),
    );
    batch.add_rule(
        rule("fwd")
            .load(&[Field::CtOriginalDaddr, Field::CtOriginalDport, Field::CtState])
            .select(2..3)
            .any_bit(2, true)
            .verdict(Verdict::Accept),
    );
    batch.add_rule(rule("fwd").load(&[Field::CtStatus]).any_bit(32, true).verdict(Verdict::Return));
    batch.add_elements(
        &nets,
        vec![
            Element::network("10.244.0.0/16".parse().unwrap()),
            Element::network("192.168.7.3/32".parse().unwrap()),
        ],
    );
    let key = |src| Key::new().addr(ip("10.96.0.1")).proto(6).port(80).addr(ip(src));
    let range = Element { last: Some(key("172.16.0.255")), ..Element::new(key("172.16.0.0")) };
    batch.add_elements(&ranges, vec![range]);
    check(
        &batch,
        expect![[r#"
            add table ip t
            add set ip t nets { type ipv4_addr ; flags interval ; }
            add set ip t ranges { type ipv4_addr . inet_proto . inet_service . ipv4_addr ; flags interval ; }
            add set ip t seen { type ipv4_addr . ipv4_addr ; size 65536 ; flags dynamic,timeout ; }
            add map ip t backends { type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service ; }
            add chain ip t pre { type nat hook prerouting priority -100 ; }
            add chain ip t post { type nat hook postrouting priority 100 ; }
            add chain ip t fwd { type filter hook forward priority 0 ; }
            add rule ip t pre fib daddr type local dnat to ip daddr . meta l4proto . th dport . numgen random mod 3 offset 65536 map @backends
            add rule ip t pre update @seen { ip saddr . ip daddr timeout 10800s } dnat to 10.244.0.7 . 8080
            add rule ip t pre ip saddr != @nets meta mark set meta mark | 0x4000
            add rule ip t post meta mark & 0x4000 != 0x0 meta mark set meta mark & 0xffffbfff masquerade fully-random
            add rule ip t fwd ip daddr & 255.240.0.0 0x600a ip saddr != 10.244/16 meta l4proto tcp reject with tcp reset
            add rule ip t fwd ip daddr . meta l4proto . th dport . ip saddr != @ranges limit rate 5/60s burst 5 packets log prefix "refused " counter reject
            add rule ip t fwd ct state & 0x2 != 0x0 accept
            add rule ip t fwd ct status & 0x20 != 0x0 return
            add element ip t nets { 10.244.0.0-10.244.255.255, 192.168.7.3-192.168.7.3 }
            add element ip t ranges { 10.96.0.1 . tcp . 80 . 172.16.0.0-10.96.0.1 . tcp . 80 . 172.16.0.255 }
        "#]],
        expect![[r#"
            table ip t {
            	set nets {
            		type ipv4_addr
            		flags interval
            		elements = { 10.244.0.0/16, 192.168.7.3 }
            	}

            	set ranges {
            		type ipv4_addr . inet_proto . inet_service . ipv4_addr
            		flags interval
            		elements = { 10.96.0.1 . tcp . 80 . 172.16.0.0/24 }
            	}

            	set seen {
            		type ipv4_addr . ipv4_addr
            		size 65536
            		flags dynamic,timeout
            	}

            	map backends {
            		type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service
            	}

            	chain pre {
            		type nat hook prerouting priority dstnat; policy accept;
            		fib daddr type local dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 offset 65536 map @backends
            		update @seen { ip saddr . ip daddr timeout 3h } dnat to 10.244.0.7:8080
            		ip saddr != @nets meta mark set meta mark | 0x00004000
            	}

            	chain post {
            		type nat hook postrouting priority srcnat; policy accept;
            		meta mark & 0x00004000 != 0x00000000 meta mark set meta mark & 0xffffbfff masquerade fully-random
            	}

            	chain fwd {
            		type filter hook forward priority filter; policy accept;
            		ip daddr 10.96.0.0/12 ip saddr != 10.244.0.0/16 reject with tcp reset
            		ip daddr . meta l4proto . th dport . ip saddr != @ranges limit rate 5/minute log prefix "refused " counter packets 0 bytes 0 reject
            		ct state established accept
            		ct status dnat return
            	}
            }
        "#]],
    );
}

#[test]
fn elements_come_back_as_they_went() {
    let (services, numbers) = (services(), numbers());
    let mut batch = base();
    let goto = || Value::Verdict(Verdict::Goto("two".into()));
    batch
        .add_elements(&numbers, vec![Element::mapped(Key::new().mark(9), Value::Fields(Key::new().mark(7)))]);
    let many: Vec<Element> = (0..5000u32)
        .map(|n| {
            let addr = std::net::Ipv4Addr::from(0x0a60_0000 + n);
            Element::mapped(Key::new().addr(addr.into()).proto(17).port(53), goto())
        })
        .collect();
    batch.add_elements(&services, many.clone());
    let ns = Namespace::anonymous().unwrap();
    ns.run(|| {
        let mut client = Client::new().unwrap();
        assert_eq!(client.comment(&table()).unwrap(), None);
        client.apply(&batch).unwrap();
        assert_eq!(client.comment(&table()).unwrap().as_deref(), Some("shape 1"));
        assert_eq!(client.chains(&table()).unwrap(), ["prerouting", "two"]);
        assert_eq!(client.tables(Family::Ip).unwrap(), ["t"]);
        assert_eq!(client.elements(&table(), &numbers).unwrap().len(), 1);
        // A set that has just grown is still being moved to a larger table, and told of partly once or twice.
        let back = (0..1000).map(|_| {
            let mut back = client.elements(&table(), &services).unwrap();
            back.sort_by(|a, b| a.key.cmp(&b.key));
            back
        });
        assert!(back.into_iter().any(|back| back == many));
        let mut gone = Batch::new(table());
        gone.remove_table();
        client.apply(&gone).unwrap();
        client.apply(&gone).unwrap();
        assert_eq!(client.comment(&table()).unwrap(), None);
    })
    .unwrap();
}

#[test]
fn a_refused_batch_names_the_operation_and_changes_nothing() {
    let mut batch = Batch::new(table());
    batch.add_table("");
    batch.add_chain(Chain::regular("here"));
    batch.add_rule(Rule::new(Family::Ip, "here").goto("nowhere"));
    let ns = Namespace::anonymous().unwrap();
    ns.run(|| {
        let mut client = Client::new().unwrap();
        let error = client.apply(&batch).unwrap_err();
        expect!["nftables: add rule ip t here goto nowhere: No such file or directory (os error 2)"]
            .assert_eq(&error.to_string());
        assert!(error.absent());
        assert_eq!(client.comment(&table()).unwrap(), None);
    })
    .unwrap();
}

#[test]
fn ipv6_tables_work_alike() {
    let table = Table::new(Family::Ip6, "t6");
    let map = Set::map(
        "backends",
        vec![Type::Ipv6, Type::Proto, Type::Service, Type::Mark],
        Data::Value(vec![Type::Ipv6, Type::Service]),
    );
    let mut batch = Batch::new(table);
    batch.add_table("");
    batch.add_set(&map);
    batch.add_chain(Chain::nat("pre", HookPoint::Prerouting, -100));
    batch.add_rule(
        Rule::new(Family::Ip6, "pre")
            .load(&[Field::Daddr, Field::L4Proto, Field::Dport, Field::Random { modulus: 1, offset: 0 }])
            .map(&map)
            .dnat(),
    );
    let key = Key::new().addr(ip("fd00::1")).proto(6).port(80).mark(0);
    batch.add_elements(
        &map,
        vec![Element::mapped(key, Value::Fields(Key::new().addr(ip("fd00:1::9")).port(8080)))],
    );
    check(
        &batch,
        expect![[r#"
        add table ip6 t6
        add map ip6 t6 backends { type ipv6_addr . inet_proto . inet_service . mark : ipv6_addr . inet_service ; }
        add chain ip6 t6 pre { type nat hook prerouting priority -100 ; }
        add rule ip6 t6 pre dnat to ip6 daddr . meta l4proto . th dport . numgen random mod 1 map @backends
        add element ip6 t6 backends { fd00::1 . tcp . 80 . 0 : fd00:1::9 . 8080 }
    "#]],
        expect![[r#"
        table ip6 t6 {
        	map backends {
        		type ipv6_addr . inet_proto . inet_service . mark : ipv6_addr . inet_service
        		elements = { fd00::1 . tcp . 80 . 0x00000000 : fd00:1::9 . 8080 }
        	}

        	chain pre {
        		type nat hook prerouting priority dstnat; policy accept;
        		dnat ip6 to ip6 daddr . meta l4proto . th dport . numgen random mod 1 map @backends
        	}
        }
    "#]],
    );
}

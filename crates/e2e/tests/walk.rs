//! The pages of somebody at a cluster's keyboard, as they are written.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use testkit::{Cluster, Walk, host, place};

/// Walks through a page, on a host whose network is the test's own.
fn check(page: &str) {
    host::enter().unwrap();
    let cluster = Cluster::for_pages(page).unwrap();
    let environment = cluster.environment().unwrap();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let steps = Walk::read(&place::tree().join(format!("docs/{page}.md"))).unwrap();
    let walked = steps.run(&environment, |step, took, fault| {
        let verdict = if fault.is_some() { "WRONG" } else { "ok   " };
        println!("{:>8.3} s  {verdict} {}", took.as_secs_f64(), step.command);
    });
    walked.unwrap();
    cluster.down().unwrap();
}

#[test]
fn a_first_time_operator_gets_what_the_page_says() {
    check("walk");
}

#[test]
fn kubectl_prints_what_the_page_says() {
    check("kubectl");
}

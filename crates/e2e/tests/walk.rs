//! The page of a first-time operator, as it is written.

use testkit::{Cluster, Walk, images, place};

#[test]
fn a_first_time_operator_gets_what_the_page_says() {
    let cluster = Cluster::up_with("walk", 1, &["--insecure-port", "8080"]).unwrap();
    for image in images::all().unwrap() {
        cluster.import(&image).unwrap();
    }
    let environment = cluster.environment().unwrap();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let page = Walk::read(&place::tree().join("docs/walk.md")).unwrap();
    page.run(&environment, |step, took, fault| {
        println!(
            "{:>8.3} s  {} {}",
            took.as_secs_f64(),
            if fault.is_some() { "WRONG" } else { "ok   " },
            step.command
        );
    })
    .unwrap();
    cluster.down().unwrap();
}

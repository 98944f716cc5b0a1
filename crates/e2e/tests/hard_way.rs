//! Every component by itself, as the pages say, on a host whose network is the test's own.

use testkit::{Traces, Walk, environment, host, images, place};

/// Walks through a page, with some variables beside those that all pages have.
fn check(page: &str, variables: &[(&str, &str)]) {
    let home = tempfile::tempdir().unwrap();
    host::enter().unwrap();
    let before = Traces::now().unwrap();
    let id = format!("{page}-{}", std::process::id());
    let mut all = environment(&home.path().join("none"), home.path(), &id).unwrap();
    let own = [("ADDRESS", host::ADDRESS), ("ID", &id), ("TMPDIR", home.path().to_str().unwrap())];
    all.extend(own.iter().chain(variables).map(|&(name, value)| (name.into(), value.into())));
    let all: Vec<(&str, &str)> = all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let page = Walk::read(&place::tree().join(format!("docs/{page}.md"))).unwrap();
    let walked = page.run(&all, |step, took, fault| {
        let verdict = if fault.is_some() { "WRONG" } else { "ok   " };
        println!("{:>8.3} s  {verdict} {}", took.as_secs_f64(), step.command);
    });
    if let Err(error) = walked {
        let dirs = std::fs::read_dir(home.path()).unwrap().flatten();
        let files = dirs.filter_map(|dir| std::fs::read_dir(dir.path()).ok()).flatten().flatten();
        for log in files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "log")) {
            println!("{}:\n{}", log.display(), std::fs::read_to_string(&log).unwrap());
        }
        panic!("{error}");
    }
    // Mounts, control groups and processes; what is in this network goes with it.
    let left = before.added_naming(&Traces::now().unwrap(), &[&id, home.path().to_str().unwrap()]);
    assert!(left.is_empty(), "left behind: {left:#?}");
}

#[test]
fn a_cluster_by_hand_works_as_the_page_says() {
    let nginx = images::nginx().unwrap();
    check("the-hard-way", &[("IMAGE", nginx.oci.to_str().unwrap())]);
}

#[test]
fn a_node_on_containerd_works_as_the_page_says() {
    let (nginx, pause) = (images::nginx().unwrap(), images::pause().unwrap());
    let images = [("IMAGE", nginx.oci.to_str().unwrap()), ("PAUSE", pause.oci.to_str().unwrap())];
    check("containerd", &images);
}

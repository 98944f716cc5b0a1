//! Every component by itself, as the page says, on a host whose network is this test's own.

use testkit::{Traces, Walk, environment, host, images, place};

#[test]
fn a_cluster_by_hand_works_as_the_page_says() {
    let nginx = images::nginx().unwrap();
    let home = tempfile::tempdir().unwrap();
    host::enter().unwrap();
    let before = Traces::now().unwrap();
    let id = format!("hard-{}", std::process::id());
    let mut variables = environment(&home.path().join("none"), home.path(), &id).unwrap();
    let image = nginx.oci.to_str().unwrap();
    for (name, value) in [("ADDRESS", host::ADDRESS), ("ID", &id), ("IMAGE", image)] {
        variables.push((name.into(), value.into()));
    }
    variables.push(("TMPDIR".into(), home.path().to_str().unwrap().into()));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let page = Walk::read(&place::tree().join("docs/the-hard-way.md")).unwrap();
    let walked = page.run(&variables, |step, took, fault| {
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

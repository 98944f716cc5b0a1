//! Arrows between crates point down DESIGN's list of layers.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use testkit::place;

/// DESIGN's layers from the top of its list; a crate may use those before it.
const LAYERS: [(&str, &[&str]); 6] = [
    ("pure", &["api", "schema", "codec", "patch", "cel"]),
    ("state", &["listen", "store", "registry", "resources", "auth", "admission", "apiserver"]),
    ("control", &["client", "controllers", "scheduler"]),
    ("node", &["cri", "runtime", "network", "proxy", "dns", "kubelet"]),
    ("edges", &["kubectl", "dashboard", "lifecycle", "tiphys"]),
    ("support", &["testkit", "xtask", "e2e"]),
];

/// What makes a crate impure: the clock, the network, the host.
const IMPURE: [&str; 8] = ["tokio", "hyper", "nix", "rustix", "libc", "socket2", "reqwest", "rtnetlink"];

/// Crates that reach the cluster as API clients only, and what they must therefore not use.
const CLIENTS: [&str; 2] = ["control", "node"];
const SERVER: [&str; 5] = ["store", "registry", "resources", "admission", "apiserver"];

/// Fails with every arrow that points the wrong way.
pub fn check() -> Result<()> {
    let members = metadata(&["--no-deps"])?;
    let packages = members["packages"].as_array().context("cargo metadata has no packages")?;
    let mut arrows: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        let uses = package["dependencies"].as_array().into_iter().flatten();
        // Tests may use what their crate may not.
        let uses = uses.filter(|dependency| dependency["kind"] != "dev");
        let name = package["name"].as_str().context("a package without a name")?;
        arrows.insert(name, uses.filter_map(|dependency| dependency["name"].as_str()).collect());
    }
    let faults = faults(&arrows);
    ensure!(faults.is_empty(), "crates against DESIGN's layers:\n{}", faults.join("\n"));
    println!("check-layers: {} crates, every arrow points down", arrows.len());
    Ok(())
}

/// `cargo metadata` of the workspace.
pub fn metadata(arguments: &[&str]) -> Result<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(arguments)
        .current_dir(place::tree())
        .output()
        .context("couldn't start cargo")?;
    if !out.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// The crate's layer and its place in the whole list.
fn find(name: &str) -> Option<(&'static str, usize)> {
    let all = LAYERS.iter().flat_map(|(layer, crates)| crates.iter().map(move |name| (*layer, *name)));
    all.enumerate().find(|(_, (_, candidate))| *candidate == name).map(|(index, (layer, _))| (layer, index))
}

fn faults(arrows: &BTreeMap<&str, Vec<&str>>) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, uses) in arrows {
        let Some((layer, place)) = find(name) else {
            faults.push(format!("{name} isn't on the list"));
            continue;
        };
        for used in uses {
            match find(used).filter(|_| arrows.contains_key(used)) {
                Some((_, other)) if other >= place => {
                    faults.push(format!("{name} uses {used}, which is below it"))
                }
                Some(_) if CLIENTS.contains(&layer) && SERVER.contains(used) => {
                    faults.push(format!("{name} uses {used}: the {layer} layer is a client of the API"));
                }
                None if layer == "pure" && IMPURE.contains(used) => {
                    faults.push(format!("{name} uses {used}: the pure layer has no I/O and no clock"));
                }
                _ => {}
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_arrows_are_told() {
        let arrows = BTreeMap::from([
            ("api", vec!["serde", "tokio"]),
            ("store", vec!["api", "tokio"]),
            ("codec", vec!["store"]),
            ("kubelet", vec!["api", "client", "store"]),
            ("client", vec![]),
            ("stranger", vec![]),
        ]);
        expect_test::expect![[r"
            api uses tokio: the pure layer has no I/O and no clock
            codec uses store, which is below it
            kubelet uses store: the node layer is a client of the API
            stranger isn't on the list"]]
        .assert_eq(&faults(&arrows).join("\n"));
    }
}

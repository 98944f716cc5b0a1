//! How the program is linked: at a fixed address.
//!
//! A shim per pod is this same program. Were it to be moved at its start, every shim would write, and so
//! hold for itself, almost 2 MiB of addresses (`.data.rel.ro` and `.got`) that otherwise all of them share
//! with the file.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    // With the C library linked in, where it goes is decided by `-C relocation-model`.
    if !features.split(',').any(|feature| feature == "crt-static") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}

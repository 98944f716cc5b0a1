//! The page of a first-time operator, run against a cluster.

use std::path::PathBuf;

use anyhow::{Context, Result};
use testkit::{Cluster, Walk, place};

#[derive(clap::Args)]
pub struct Arguments {
    /// The page to run.
    #[arg(default_value = "docs/walk.md")]
    page: PathBuf,
    /// Use the running cluster of this kubeconfig instead of starting one.
    #[arg(long, requires = "name")]
    kubeconfig: Option<PathBuf>,
    /// That cluster's name.
    #[arg(long)]
    name: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let page = Walk::read(&place::tree().join(&arguments.page))?;
    if let (Some(kubeconfig), Some(name)) = (&arguments.kubeconfig, &arguments.name) {
        let home = tempfile::tempdir()?;
        return play(&page, &testkit::environment(kubeconfig, home.path(), name)?);
    }
    let cluster = Cluster::for_pages("walk").context("starting a cluster")?;
    play(&page, &cluster.environment()?)?;
    cluster.down()
}

fn play(page: &Walk, environment: &[(String, String)]) -> Result<()> {
    let environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    page.run(&environment, |step, took, fault| {
        let result = if fault.is_some() { "WRONG" } else { "ok" };
        println!("{:>8.3} s  {result:<5}  {}", took.as_secs_f64(), step.command);
    })
}

//! An API server alone, with what is run beside it.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::cluster::run;
use crate::{Output, place};

/// A running `tiphys kube-apiserver` in a directory of its own; all ends when this is dropped.
pub struct ApiServer {
    children: Vec<Child>,
    url: String,
    dir: tempfile::TempDir,
}

impl ApiServer {
    /// Starts one at a loopback address of this process's own, the `which`th, so that several do not meet,
    /// and returns once it serves. Blocks.
    ///
    /// # Errors
    /// It can't be started, or ends before it serves.
    pub fn start(which: u8, port: u16, arguments: &[&str]) -> Result<ApiServer> {
        let dir = tempfile::tempdir()?;
        let [.., high, low] = std::process::id().to_be_bytes();
        let bind = format!("127.{}.{high}.{low}", 64 + which % 128);
        let mut server = ApiServer { children: Vec::new(), url: format!("https://{bind}:{port}"), dir };
        let mut command = Command::new(place::tiphys()?);
        command
            .arg("kube-apiserver")
            .arg(format!("--bind-address={bind}"))
            .arg(format!("--secure-port={port}"))
            .arg("--data-dir")
            .arg(server.dir.path().join("data"))
            .arg("--cert-dir")
            .arg(server.pki())
            .arg("--write-kubeconfig")
            .arg(server.kubeconfig())
            .args(arguments)
            .stdout(Stdio::piped());
        let stdout = server.spawn(&mut command)?.stdout.take().context("it has a standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        loop {
            let line = lines.next().context("tiphys kube-apiserver ended before it served")??;
            if line.contains("serving on https://") {
                return Ok(server);
            }
        }
    }

    /// Runs a component beside it, with its administrator's kubeconfig.
    ///
    /// # Errors
    /// It can't be started.
    pub fn beside(&mut self, component: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(place::tiphys()?);
        command.arg(component).arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        self.spawn(&mut command).map(drop)
    }

    fn spawn(&mut self, command: &mut Command) -> Result<&mut Child> {
        let child = command.stdin(Stdio::null()).spawn().context("couldn't start tiphys")?;
        self.children.push(child);
        self.children.last_mut().context("it was pushed just now")
    }

    /// Such as `https://127.64.0.1:6443`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where its certificates are: `ca.crt`, `admin.crt`, `admin.key`.
    pub fn pki(&self) -> PathBuf {
        self.dir.path().join("pki")
    }

    /// The administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    /// Runs the stock kubectl, with something on its standard input if given, however it ends.
    ///
    /// # Errors
    /// kubectl is missing.
    pub fn try_kubectl(&self, arguments: &[&str], input: Option<&str>) -> Result<Output> {
        let mut program = Command::new(place::kubectl()?);
        program.args(arguments).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir.path());
        run(program, input)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // It may have ended by itself; either way it is waited for.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

//! A foreign server beside a test or a measurement, for as long as its handle lives.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long one may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. It is killed when this is dropped.
pub struct Peer(Child);

impl Peer {
    /// Starts `command` and returns once its standard error has said each of `ready`, in any order. Blocks.
    ///
    /// # Errors
    /// It can't be started, or it ends or a minute passes before it has said them: then with what it said.
    pub fn start(command: &mut Command, ready: &[&str]) -> Result<Peer> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("couldn't start {name}"))?;
        let log = child.stderr.take().context("no pipe to its standard error")?;
        let peer = Peer(child);
        let ready: Vec<String> = ready.iter().map(|&words| words.to_owned()).collect();
        let (say, said) = mpsc::sync_channel(1);
        // Reads to the log's end, which comes with the server's: a full pipe would hold it up.
        std::thread::Builder::new().name(format!("{name}-log")).spawn(move || {
            let said = until_ready(BufReader::new(log), ready, |rest| {
                let _ = say.send(Ok(()));
                rest.lines().for_each(drop);
            });
            if let Some(said) = said {
                let _ = say.send(Err(said));
            }
        })?;
        match said.recv_timeout(PATIENCE) {
            Ok(Ok(())) => Ok(peer),
            Ok(Err(said)) => bail!("{name} ended before it served:\n{said}"),
            Err(RecvTimeoutError::Timeout) => bail!("{name} doesn't serve after {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("{name}'s log can't be read"),
        }
    }
}

/// Reads up to the line that says the last of `ready`, then gives the rest away; what was said where it never is.
fn until_ready(
    mut log: BufReader<ChildStderr>,
    mut ready: Vec<String>,
    then: impl FnOnce(BufReader<ChildStderr>),
) -> Option<String> {
    let mut said = String::new();
    while !ready.is_empty() {
        let start = said.len();
        if !matches!(log.read_line(&mut said), Ok(1..)) {
            return Some(said);
        }
        ready.retain(|words| !said[start..].contains(words.as_str()));
    }
    then(log);
    None
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(script: &str, ready: &[&str]) -> String {
        match Peer::start(Command::new("sh").args(["-c", script]), ready) {
            Ok(_) => "serves".to_owned(),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn a_peer_serves_once_it_says_so() {
        let script = "echo 'b: up' >&2; echo a is up >&2; exec sleep 1000";
        assert_eq!(check(script, &["a is up", "b: up"]), "serves");
        let fails = check("echo no port >&2; exit 1", &["up"]);
        assert_eq!(fails, "sh ended before it served:\nno port\n");
    }
}

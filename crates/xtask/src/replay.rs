//! Recorded requests, played against a server, with a ratchet of the cases that pass.
//!
//! The recordings and their player lie beside the source tree, or where `TIPHYS_RECORDINGS` says, and may
//! be absent; then there is nothing to do. `tests/replay-passing.txt` names the cases that pass: losing one
//! is a fault. Cases that `docs/differences.md` names differ by version and are left out on both sides;
//! fields and words that it names are left out of the comparison of every case.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{ApiServer, place};

use crate::differences::{self, Differences};

const RECORDINGS: &str = "../shared/recorded";
const VARIABLE: &str = "TIPHYS_RECORDINGS";
/// The recorded server's own address, which some of its answers tell.
const ADDRESS: &str = "192.0.2.10";
const PORT: u16 = 16443;
const RATCHET: &str = "tests/replay-passing.txt";

#[derive(clap::Args)]
pub struct Arguments {
    /// A running server, https://HOST:PORT; without it what the recordings need is started for the purpose.
    #[arg(long, requires_all = ["ca", "cert", "key"])]
    server: Option<String>,
    /// Its authority's certificate.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// A client certificate of system:masters.
    #[arg(long)]
    cert: Option<PathBuf>,
    /// The certificate's key.
    #[arg(long)]
    key: Option<PathBuf>,
    /// Only this area; then the ratchet is compared for it alone.
    #[arg(long)]
    area: Vec<String>,
    /// Which recordings: `api` needs an API server alone, `controllers` a whole control plane; without it
    /// both are played.
    #[arg(long)]
    profile: Option<Profile>,
    /// Print the player's differences of cases that fail.
    #[arg(long)]
    show: bool,
    /// Write the ratchet anew with the cases that pass now.
    #[arg(long)]
    update: bool,
}

/// What a recording needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    /// An API server alone.
    Api,
    /// Controllers and a scheduler beside it.
    Controllers,
}

impl Profile {
    const ALL: [Profile; 2] = [Profile::Api, Profile::Controllers];

    fn name(self) -> &'static str {
        match self {
            Profile::Api => "api",
            Profile::Controllers => "controllers",
        }
    }
}

/// One case as the player reports it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    id: String,
    area: String,
    passed: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let recordings = std::env::var_os(VARIABLE).map_or_else(|| place::tree().join(RECORDINGS), PathBuf::from);
    if !recordings.join("replay.py").is_file() {
        println!(
            "replay: skipped, there are no recordings in {} ({VARIABLE} names another place)",
            recordings.display()
        );
        return Ok(());
    }
    let differences = Differences::read(&std::fs::read_to_string(place::tree().join(differences::PAGE))?)?;
    let file = place::tree().join(RATCHET);
    let old = read_ratchet(&file)?;
    // Areas of which nothing passes yet take long to fail: they are played when asked for.
    let areas = match (arguments.update, arguments.area.is_empty()) {
        (false, true) => passing_areas(&recordings, &old)?,
        _ => arguments.area.clone(),
    };
    let mut outcomes = play(arguments, &recordings, (&areas, &differences))?;
    ensure!(!outcomes.is_empty(), "the player ran no case");
    outcomes.retain(|outcome| !differences.cases.contains_key(&outcome.id));
    summary(&outcomes);

    let passing: BTreeSet<&str> = outcomes.iter().filter(|o| o.passed).map(|o| o.id.as_str()).collect();
    // A case that wasn't played this time stays as it was.
    let played: BTreeSet<&str> = outcomes.iter().map(|o| o.id.as_str()).collect();
    let lost: Vec<&str> =
        old.iter().map(String::as_str).filter(|id| played.contains(id) && !passing.contains(id)).collect();
    let new: Vec<&str> = passing.iter().copied().filter(|id| !old.contains(*id)).collect();
    for id in &new {
        println!("replay: newly passing: {id}");
    }
    if arguments.update {
        let kept = old
            .iter()
            .map(String::as_str)
            .filter(|id| !played.contains(id) && !differences.cases.contains_key(*id));
        let all: BTreeSet<&str> = kept.chain(passing.iter().copied()).collect();
        let text: String = all.iter().map(|id| format!("{id}\n")).collect();
        std::fs::write(&file, text)?;
        println!("replay: {RATCHET} names {} cases, {} more, {} fewer", all.len(), new.len(), lost.len());
        return Ok(());
    }
    ensure!(lost.is_empty(), "{} cases passed before and fail now:\n{}", lost.len(), lost.join("\n"));
    if !new.is_empty() {
        println!("replay: {} cases pass that {RATCHET} doesn't name: --update", new.len());
    }
    Ok(())
}

/// The areas of which the ratchet names cases.
fn passing_areas(recordings: &Path, ratchet: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut areas = BTreeSet::new();
    for entry in std::fs::read_dir(recordings)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            let case: Value = serde_json::from_str(line)?;
            if case["id"].as_str().is_some_and(|id| ratchet.contains(id))
                && let Some(area) = case["area"].as_str()
            {
                areas.insert(area.to_owned());
                break;
            }
        }
    }
    Ok(areas.into_iter().collect())
}

/// What is played, and what counts of it: areas (none: all) and the differences of version.
type Chosen<'c> = (&'c [String], &'c Differences);

fn play(arguments: &Arguments, recordings: &Path, chosen: Chosen<'_>) -> Result<Vec<Outcome>> {
    let profiles = arguments.profile.map_or(Profile::ALL.to_vec(), |one| vec![one]);
    let one = |profile: Profile| {
        let given = (&arguments.server, &arguments.ca, &arguments.cert, &arguments.key);
        if let (Some(server), Some(ca), Some(cert), Some(key)) = given {
            return player(arguments, profile, (recordings, chosen), server, [ca, cert, key]);
        }
        let plane = plane(profile)?;
        let [ca, cert, key] = ["ca.crt", "admin.crt", "admin.key"].map(|name| plane.pki().join(name));
        player(arguments, profile, (recordings, chosen), plane.url(), [&ca, &cert, &key])
    };
    // Controllers are mostly waited for: the two do not take each other's time.
    let played = std::thread::scope(|scope| {
        let players: Vec<_> = profiles.iter().map(|profile| scope.spawn(|| one(*profile))).collect();
        players.into_iter().map(|player| player.join().expect("a player does not panic")).collect::<Vec<_>>()
    });
    let mut outcomes = Vec::new();
    for one in played {
        outcomes.extend(one?);
    }
    Ok(outcomes)
}

fn player(
    arguments: &Arguments,
    profile: Profile,
    (recordings, (areas, differences)): (&Path, Chosen<'_>),
    server: &str,
    files: [&PathBuf; 3],
) -> Result<Vec<Outcome>> {
    let work = tempfile::tempdir()?;
    let (log, printed) = (work.path().join("log"), work.path().join("printed"));
    let mut command = Command::new("python3");
    command.arg(recordings.join("replay.py")).args(["--quiet", "--server", server]);
    for (flag, file) in ["--ca", "--cert", "--key"].iter().zip(files) {
        command.arg(flag).arg(file);
    }
    command.args(["--profile", profile.name()]).arg("--json").arg(&log);
    for area in areas {
        command.args(["--area", area]);
    }
    for field in differences.fields.keys() {
        command.arg("--ignore").arg(field);
    }
    // Without a kubectl the player leaves its area out.
    match place::kubectl() {
        Ok(kubectl) => {
            command.arg("--kubectl").arg(kubectl);
        }
        Err(error) => println!("replay: without area kubectl: {error}"),
    }
    // It prints megabytes of differences and fails if there is any: the log says which.
    if !arguments.show {
        command.stdout(std::fs::File::create(&printed)?);
    }
    let status = command.stdin(Stdio::null()).status().context("couldn't start python3")?;
    ensure!(matches!(status.code(), Some(0 | 1)), "the player: {status}");
    outcomes(&std::fs::read_to_string(log)?, differences)
}

fn outcomes(log: &str, differences: &Differences) -> Result<Vec<Outcome>> {
    let mut all = Vec::new();
    for line in log.lines() {
        let value: Value = serde_json::from_str(line)?;
        let text =
            |key: &str| value[key].as_str().map(ToOwned::to_owned).context("a case without id or area");
        let found = value["diff"].as_array().map_or(&[][..], Vec::as_slice);
        let passed = value["pass"] == true
            || (!found.is_empty() && found.iter().all(|difference| differences.allows(difference)));
        all.push(Outcome { id: text("id")?, area: text("area")?, passed });
    }
    all.sort();
    Ok(all)
}

fn summary(outcomes: &[Outcome]) {
    let mut areas: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for outcome in outcomes {
        let (passed, all) = areas.entry(&outcome.area).or_default();
        *passed += usize::from(outcome.passed);
        *all += 1;
    }
    for (area, (passed, all)) in areas {
        println!("replay: {area:<14} {passed:>5} of {all:>5}");
    }
}

fn read_ratchet(file: &Path) -> Result<BTreeSet<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().map(ToOwned::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).with_context(|| format!("couldn't read {}", file.display())),
    }
}

/// What the recordings of a profile need: the port and the address are the recorded ones.
fn plane(profile: Profile) -> Result<ApiServer> {
    let address = format!("--advertise-address={ADDRESS}");
    let mut server = ApiServer::start(profile as u8, PORT, &[&address])?;
    if profile == Profile::Controllers {
        for component in ["kube-controller-manager", "kube-scheduler"] {
            // Nobody else is there to lead.
            server.beside(component, &["--leader-elect=false"])?;
        }
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_players_log_is_read() {
        let log = "{\"id\":\"b\",\"area\":\"x\",\"pass\":true,\"diff\":[]}\n{\"id\":\"a\",\"area\":\"x\",\"pass\":false}\n";
        let found = outcomes(log, &Differences::default()).unwrap();
        assert_eq!(found[0], Outcome { id: "a".into(), area: "x".into(), passed: false });
        assert!(found[1].passed);
    }
}

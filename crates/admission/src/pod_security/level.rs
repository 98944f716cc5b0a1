//! Levels and their versions, as labels of a namespace name them.

use std::fmt;

use api::field::{Errors, Path};
use serde_json::{Map, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

/// The minor version of v1 whose checks count; the latest is above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub u32);

impl Version {
    pub const LATEST: Version = Version(u32::MAX);

    fn parse(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::LATEST);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain = minor == "0" || !minor.starts_with(['0', '+']);
        minor.parse().ok().filter(|_| plain).map(Version)
    }
}

/// A level at a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub level: Level,
    pub version: Version,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::LATEST => write!(f, "{level}:latest"),
            Version(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub enforce: Rule,
    pub warn: Rule,
}

const PREFIX: &str = "pod-security.kubernetes.io/";

impl Policy {
    /// The policy of labels, with their faults. A fault in what is enforced closes, one in what is
    /// warned of opens.
    pub fn of(labels: Option<&Map<String, Value>>) -> (Policy, Errors) {
        let mut errors = Errors::default();
        let enforce = rule(labels, "enforce", Level::Restricted, &mut errors);
        // Audit has nobody to tell yet, but its labels must be sound all the same.
        rule(labels, "audit", Level::Privileged, &mut errors);
        let warn = rule(labels, "warn", Level::Privileged, &mut errors);
        let privileged = Rule { level: Level::Privileged, version: Version::LATEST };
        let enforce = enforce.unwrap_or(privileged);
        // Who enforces a level and says nothing of warnings is warned of what it would refuse.
        (Policy { enforce, warn: warn.unwrap_or(enforce) }, errors)
    }
}

/// What the two labels of a mode say; nothing where they are not there.
fn rule(labels: Option<&Map<String, Value>>, mode: &str, broken: Level, errors: &mut Errors) -> Option<Rule> {
    let read = |name: &str| {
        let key = format!("{PREFIX}{name}");
        let value = labels.and_then(|l| l.get(&key)).and_then(Value::as_str)?;
        Some((value, Path::new("metadata").child("labels").key(&key)))
    };
    let level = read(mode);
    let version = read(&format!("{mode}-version"));
    if level.is_none() && version.is_none() {
        return None;
    }
    let level = level.map_or(Level::Privileged, |(value, path)| {
        Level::parse(value).unwrap_or_else(|| {
            errors.invalid(&path, value, "must be one of privileged, baseline, restricted");
            broken
        })
    });
    let version = version.map_or(Version::LATEST, |(value, path)| {
        Version::parse(value).unwrap_or_else(|| {
            errors.invalid(&path, value, "must be \"latest\" or \"v1.x\"");
            Version::LATEST
        })
    });
    Some(Rule { level, version })
}

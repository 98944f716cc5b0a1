//! The query parameters of the verbs, checked.

use std::time::Duration;

use api::Status;
use api::field::{Errors, Path};
use api::selector::{Fields, Labels};
use registry::{
    DeleteOptions, FieldValidation, ListOptions, Match, Preconditions, Propagation, Resource, WatchOptions,
};
use serde_json::Value;
use store::Revision;

/// The longest that a request may take which is no watch or stream.
const LONGEST: Duration = Duration::from_secs(60);
/// Bytes of a field manager's name.
const MANAGER_MAX: usize = 128;

/// Which write's options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionsKind {
    Create,
    Update,
    Patch,
    /// A server-side apply.
    Apply,
}

impl OptionsKind {
    fn name(self) -> &'static str {
        match self {
            OptionsKind::Create => "CreateOptions",
            OptionsKind::Update => "UpdateOptions",
            OptionsKind::Patch | OptionsKind::Apply => "PatchOptions",
        }
    }
}

/// The options of a write, checked.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
    pub force: bool,
}

/// Decoded parameters, in the order given.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: &str) -> Query {
        Query(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// The first value; empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Go's reading of a bool: anything but `false` and `0` that is given counts.
    pub fn flag(&self, name: &str) -> bool {
        let given = self.0.iter().find(|(n, _)| n == name);
        given.is_some_and(|(_, v)| !matches!(v.to_lowercase().as_str(), "false" | "0"))
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some((_, text)) = self.0.iter().find(|(n, _)| n == name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Status::not_an_integer(text))
    }

    /// The options of a create, an update or a patch.
    ///
    /// # Errors
    /// 422 with every fault.
    pub fn write(&self, kind: OptionsKind) -> Result<WriteOptions, Status> {
        let mut errors = Errors::default();
        let manager = self.get("fieldManager");
        let force = kind == OptionsKind::Apply && self.flag("force");
        if kind == OptionsKind::Patch && !self.get("force").is_empty() {
            errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        }
        if kind == OptionsKind::Apply && manager.is_empty() {
            errors.required(&Path::new("fieldManager"), "is required for apply patch");
        }
        check_manager(manager, &mut errors);
        let dry_run = self.dry_run(&mut errors);
        let validation = match self.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            other => {
                let known = ["", "Ignore", "Strict", "Warn"];
                errors.not_supported(&Path::new("fieldValidation"), other, &known);
                FieldValidation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(invalid_options(kind.name(), &errors));
        }
        Ok(WriteOptions { dry_run, validation, force })
    }

    fn dry_run(&self, errors: &mut Errors) -> bool {
        let values: Vec<&str> = self.all("dryRun").filter(|v| !v.is_empty()).collect();
        check_dry_run(&values, errors);
        !values.is_empty()
    }

    /// How long the request may take: `?timeout=1m30s`, at most [`LONGEST`].
    ///
    /// # Errors
    /// 400 for what is no duration of Go's.
    pub fn deadline(&self) -> Result<Duration, Status> {
        let text = self.get("timeout");
        if text.is_empty() {
            return Ok(LONGEST);
        }
        let asked = go_duration(text).ok_or_else(|| {
            Status::bad_request(format!(
                "invalid timeout specified in the request URL - time: invalid duration {}",
                api::field::quote(text)
            ))
        })?;
        Ok(if asked.is_zero() { LONGEST } else { asked.min(LONGEST) })
    }

    pub fn timeout(&self) -> Result<Option<Duration>, Status> {
        let seconds = self.number("timeoutSeconds")?.filter(|s| *s > 0);
        Ok(seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs))
    }

    fn revision(&self) -> Result<Option<Revision>, Status> {
        let text = self.get("resourceVersion");
        if text.is_empty() {
            return Ok(None);
        }
        let number: Result<u64, _> = text.parse();
        match number.ok().and_then(|n| i64::try_from(n).ok()) {
            Some(revision) => Ok(Some(Revision(revision))),
            None => {
                let quoted = api::field::quote(text);
                Err(Status::plain(format!(
                    "resourceVersion: Invalid value: {quoted}: strconv.ParseUint: parsing {quoted}: invalid syntax"
                )))
            }
        }
    }

    pub fn get_revision(&self) -> Result<Option<Revision>, Status> {
        self.revision()
    }

    fn selectors(&self, resource: &Resource, name: &str) -> Result<(Labels, Fields), Status> {
        let labels = Labels::parse(self.get("labelSelector")).map_err(Status::bad_request)?;
        let mut fields = Fields::parse(self.get("fieldSelector")).map_err(Status::bad_request)?;
        // Kinds without fields of their own know both names, wherever they are.
        let placed = resource.namespaced() || resource.fields.is_empty();
        for term in &fields.0 {
            let known = term.field == "metadata.name"
                || (term.field == "metadata.namespace" && placed)
                || resource.fields.iter().any(|f| f.name == term.field);
            if !known {
                return Err(unknown_field(resource, &term.field));
            }
        }
        if !name.is_empty() {
            if fields.required("metadata.name").is_some_and(|n| n != name) {
                return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
            }
            fields.0.push(api::selector::Term {
                field: "metadata.name".into(),
                equals: true,
                value: name.into(),
            });
        }
        Ok((labels, fields))
    }

    pub fn list(&self, resource: &Resource, namespace: &str) -> Result<ListOptions, Status> {
        let (labels, fields) = self.selectors(resource, "")?;
        self.timeout()?;
        let revision = self.revision()?;
        let version_match = self.version_match(revision, false)?;
        let limit = self.number("limit")?.unwrap_or(0);
        let continue_ = self.get("continue").to_owned();
        Ok(ListOptions {
            namespace: namespace.to_owned(),
            labels,
            fields,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_,
            revision,
            version_match,
        })
    }

    pub fn watch(&self, resource: &Resource, namespace: &str, name: &str) -> Result<WatchOptions, Status> {
        let (labels, fields) = self.selectors(resource, name)?;
        let revision = self.revision()?;
        self.version_match(revision, true)?;
        let initial_events = self.flag("sendInitialEvents");
        Ok(WatchOptions {
            namespace: namespace.to_owned(),
            labels,
            fields,
            revision,
            bookmarks: self.flag("allowWatchBookmarks"),
            initial_events,
        })
    }

    fn version_match(&self, revision: Option<Revision>, watching: bool) -> Result<Option<Match>, Status> {
        let mut errors = Errors::default();
        let path = Path::new("resourceVersionMatch");
        let initial = Path::new("sendInitialEvents");
        let text = self.get("resourceVersionMatch");
        let asks_initial = !self.get("sendInitialEvents").is_empty();
        let continued = !self.get("continue").is_empty();
        if watching {
            if asks_initial && text != "NotOlderThan" {
                errors.forbidden(
                    &path,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
            if !text.is_empty() && !asks_initial {
                errors.forbidden(
                    &path,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            if !matches!(text, "" | "NotOlderThan") {
                errors.not_supported(&path, text, &["NotOlderThan"]);
            }
            if !text.is_empty() && continued {
                errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
            }
        } else {
            if !text.is_empty() && revision.is_none() {
                errors
                    .forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !text.is_empty() && continued {
                errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
            }
            if !matches!(text, "" | "Exact" | "NotOlderThan") {
                errors.not_supported(&path, text, &["Exact", "NotOlderThan", ""]);
            }
            if text == "Exact" && revision.is_some_and(|r| r.0 == 0) {
                errors.forbidden(
                    &path,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
            if asks_initial {
                errors.forbidden(&initial, "sendInitialEvents is forbidden for list");
            }
        }
        if !errors.is_empty() {
            return Err(invalid_options("ListOptions", &errors));
        }
        Ok(match text {
            "Exact" => Some(Match::Exact),
            "NotOlderThan" => Some(Match::NotOlderThan),
            _ => None,
        })
    }

    /// The options of a delete: the body's, else the query's. Also whether it is dry.
    ///
    /// # Errors
    /// 422 with every fault.
    pub fn delete(&self, body: Option<&Value>) -> Result<(DeleteOptions, bool), Status> {
        let mut errors = Errors::default();
        let (options, dry_run) = match body {
            Some(body) => delete_options(body, &mut errors),
            None => {
                let policy = self.get("propagationPolicy");
                let options = DeleteOptions {
                    grace_period_seconds: self.number("gracePeriodSeconds")?,
                    propagation: propagation(policy, self.orphan(), &mut errors),
                    preconditions: Preconditions::default(),
                };
                (options, self.dry_run(&mut errors))
            }
        };
        if errors.is_empty() {
            Ok((options, dry_run))
        } else {
            Err(invalid_options("DeleteOptions", &errors))
        }
    }

    fn orphan(&self) -> Option<bool> {
        let given = self.0.iter().any(|(n, _)| n == "orphanDependents");
        given.then(|| self.flag("orphanDependents"))
    }
}

fn delete_options(body: &Value, errors: &mut Errors) -> (DeleteOptions, bool) {
    let text = |path: &str| body.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let dry = body.get("dryRun").and_then(Value::as_array);
    let dry: Vec<&str> = dry.into_iter().flatten().filter_map(Value::as_str).collect();
    let policy = body.get("propagationPolicy").and_then(Value::as_str).unwrap_or_default();
    let orphan = body.get("orphanDependents").and_then(Value::as_bool);
    let options = DeleteOptions {
        grace_period_seconds: body.get("gracePeriodSeconds").and_then(Value::as_i64),
        propagation: propagation(policy, orphan, errors),
        preconditions: Preconditions {
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
        },
    };
    check_dry_run(&dry, errors);
    (options, !dry.is_empty())
}

fn propagation(policy: &str, orphan: Option<bool>, errors: &mut Errors) -> Option<Propagation> {
    let path = Path::new("propagationPolicy");
    if !policy.is_empty() && orphan.is_some() {
        errors.invalid(&path, policy, "orphanDependents and deletionPropagation cannot be both set");
    }
    match policy {
        "" => orphan.map(|o| if o { Propagation::Orphan } else { Propagation::Background }),
        "Orphan" => Some(Propagation::Orphan),
        "Background" => Some(Propagation::Background),
        "Foreground" => Some(Propagation::Foreground),
        other => {
            errors.not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]);
            None
        }
    }
}

fn check_dry_run(values: &[&str], errors: &mut Errors) {
    if values.iter().all(|v| *v == "All") {
        return;
    }
    let all: Vec<String> = values.iter().map(|v| api::field::quote(v)).collect();
    let shown = api::field::Bare(format!("[]string{{{}}}", all.join(", ")));
    errors.not_supported(&Path::new("dryRun"), shown, &["All"]);
}

/// A manager's name is printable and short.
fn check_manager(name: &str, errors: &mut Errors) {
    let path = Path::new("fieldManager");
    if name.len() > MANAGER_MAX {
        errors.too_long(&path, MANAGER_MAX);
    }
    for (at, c) in name.char_indices().filter(|(_, c)| c.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.invalid(&path, name, why);
    }
}

/// Go's `time.ParseDuration`: `1h15m30.5s`; `None` for what it refuses, and for what is below nothing.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut all = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        all += number * seconds;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(all).ok()).flatten()
}

fn invalid_options(kind: &str, errors: &Errors) -> Status {
    let kind = api::GroupKind { group: "meta.k8s.io".into(), kind: kind.into() };
    Status::invalid(&kind, "", errors)
}

fn unknown_field(resource: &Resource, field: &str) -> Status {
    if resource.fields.is_empty() {
        return Status::bad_request(format!(
            "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            api::field::quote(field)
        ));
    }
    Status::bad_request(format!("field label not supported: {field}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(query: &str, kind: OptionsKind, message: &str) {
        assert_eq!(Query::parse(query).write(kind).unwrap_err().message, message, "{query}");
    }

    #[test]
    fn faults_of_options_are_told_together() {
        write(
            "dryRun=Some&fieldValidation=Bad",
            OptionsKind::Create,
            r#"CreateOptions.meta.k8s.io "" is invalid: [dryRun: Unsupported value: []string{"Some"}: supported values: "All", fieldValidation: Unsupported value: "Bad": supported values: "", "Ignore", "Strict", "Warn"]"#,
        );
        write(
            "force=true",
            OptionsKind::Patch,
            r#"PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch"#,
        );
        write(
            "",
            OptionsKind::Apply,
            r#"PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch"#,
        );
        write(
            "fieldManager=a%01",
            OptionsKind::Update,
            r#"UpdateOptions.meta.k8s.io "" is invalid: fieldManager: Invalid value: "a\x01": invalid character U+0001 (at position 1)"#,
        );
        assert!(Query::parse("dryRun=All&dryRun=All").write(OptionsKind::Create).unwrap().dry_run);
    }

    #[test]
    fn versions_and_their_matches_go_together() {
        let fails = |query: &str, watching: bool, message: &str| {
            let query = Query::parse(query);
            let revision = query.revision().unwrap();
            let refused = query.version_match(revision, watching).unwrap_err().message;
            assert_eq!(refused, format!("ListOptions.meta.k8s.io \"\" is invalid: {message}"));
        };
        fails(
            "resourceVersionMatch=Bad&sendInitialEvents=true&resourceVersion=1",
            false,
            r#"[resourceVersionMatch: Unsupported value: "Bad": supported values: "Exact", "NotOlderThan", "", sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list]"#,
        );
        fails(
            "resourceVersionMatch=Exact&resourceVersion=1",
            true,
            r#"[resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided, resourceVersionMatch: Unsupported value: "Exact": supported values: "NotOlderThan"]"#,
        );
        fails(
            "sendInitialEvents=true",
            true,
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(go_duration("1m30.5s"), Some(Duration::from_millis(90_500)));
        assert_eq!(go_duration("0"), Some(Duration::ZERO));
        for wrong in ["bad", "1", "", "-1s", "1x", "."] {
            assert_eq!(go_duration(wrong), None, "{wrong}");
        }
    }
}

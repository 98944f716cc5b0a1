//! The query parameters of the verbs, checked.

use api::Status;
use api::selector::{Fields, Labels};
use registry::{
    DeleteOptions, FieldValidation, ListOptions, Match, Preconditions, Propagation, Resource, WatchOptions,
};
use serde_json::Value;
use store::Revision;

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
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        let quoted = api::field::quote(text);
        text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "unable to convert query parameters: strconv.ParseInt: parsing {quoted}: invalid syntax"
            ))
        })
    }

    pub fn dry_run(&self) -> Result<bool, Status> {
        let values: Vec<&str> = self.all("dryRun").filter(|v| !v.is_empty()).collect();
        check_dry_run(&values)
    }

    pub fn field_validation(&self) -> Result<FieldValidation, Status> {
        match self.get("fieldValidation") {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Strict" => Ok(FieldValidation::Strict),
            "Ignore" => Ok(FieldValidation::Ignore),
            other => {
                let mut errors = api::field::Errors::default();
                errors.not_supported(
                    &api::field::Path::new("fieldValidation"),
                    other,
                    &["Ignore", "Strict", "Warn"],
                );
                Err(invalid_options("CreateOptions", &errors))
            }
        }
    }

    pub fn timeout(&self) -> Result<Option<std::time::Duration>, Status> {
        let seconds = self.number("timeoutSeconds")?.filter(|s| *s > 0);
        Ok(seconds.and_then(|s| u64::try_from(s).ok()).map(std::time::Duration::from_secs))
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
                Err(Status::bad_request(format!(
                    "Invalid value: {quoted}: strconv.ParseUint: parsing {quoted}: invalid syntax"
                )))
            }
        }
    }

    pub fn get_revision(&self) -> Result<Option<Revision>, Status> {
        self.revision()
    }

    fn selectors(&self, resource: &Resource, name: &str) -> Result<(Labels, Fields), Status> {
        let labels = Labels::parse(self.get("labelSelector"))
            .map_err(|e| Status::bad_request(format!("unable to parse requirement: {e}")))?;
        let mut fields = Fields::parse(self.get("fieldSelector")).map_err(Status::bad_request)?;
        for term in &fields.0 {
            let known = term.field == "metadata.name"
                || (term.field == "metadata.namespace" && resource.namespaced())
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
        let revision = self.revision()?;
        let version_match = self.version_match(revision, false)?;
        let limit = self.number("limit")?.unwrap_or(0);
        let continue_ = self.get("continue").to_owned();
        if !continue_.is_empty() && revision.is_some_and(|r| r.0 > 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
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
        let mut errors = api::field::Errors::default();
        let path = api::field::Path::new("resourceVersionMatch");
        let initial = api::field::Path::new("sendInitialEvents");
        let text = self.get("resourceVersionMatch");
        let asks_initial = !self.get("sendInitialEvents").is_empty();
        if watching && asks_initial {
            if text != "NotOlderThan" {
                errors.forbidden(
                    &path,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
        } else if !watching && asks_initial {
            errors.forbidden(&initial, "sendInitialEvents is forbidden for list");
        } else if watching && !text.is_empty() {
            errors.forbidden(
                &path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        if !watching && !text.is_empty() {
            if revision.is_none() {
                errors
                    .forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.get("continue").is_empty() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
            }
            if !matches!(text, "Exact" | "NotOlderThan") {
                errors.not_supported(&path, text, &["Exact", "NotOlderThan", ""]);
            }
            if text == "Exact" && revision.is_some_and(|r| r.0 == 0) {
                errors.forbidden(
                    &path,
                    "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                );
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
    pub fn delete(&self, body: Option<&Value>) -> Result<(DeleteOptions, bool), Status> {
        if let Some(body) = body {
            return delete_options(body);
        }
        let options = DeleteOptions {
            grace_period_seconds: self.number("gracePeriodSeconds")?,
            propagation: propagation(self.get("propagationPolicy"), &self.orphan())?,
            preconditions: Preconditions::default(),
        };
        Ok((options, self.dry_run()?))
    }

    fn orphan(&self) -> Option<bool> {
        let given = self.0.iter().any(|(n, _)| n == "orphanDependents");
        given.then(|| self.flag("orphanDependents"))
    }
}

fn delete_options(body: &Value) -> Result<(DeleteOptions, bool), Status> {
    let text = |path: &str| body.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let dry: Vec<&str> = body
        .get("dryRun")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let options = DeleteOptions {
        grace_period_seconds: body.get("gracePeriodSeconds").and_then(Value::as_i64),
        propagation: propagation(
            body.get("propagationPolicy").and_then(Value::as_str).unwrap_or_default(),
            &body.get("orphanDependents").and_then(Value::as_bool),
        )?,
        preconditions: Preconditions {
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
        },
    };
    Ok((options, check_dry_run(&dry)?))
}

fn propagation(policy: &str, orphan: &Option<bool>) -> Result<Option<Propagation>, Status> {
    let mut errors = api::field::Errors::default();
    let path = api::field::Path::new("propagationPolicy");
    if !policy.is_empty() && orphan.is_some() {
        errors.invalid(&path, policy, "orphanDependents and deletionPropagation cannot be both set");
    }
    let found = match policy {
        "" => orphan.map(|o| if o { Propagation::Orphan } else { Propagation::Background }),
        "Orphan" => Some(Propagation::Orphan),
        "Background" => Some(Propagation::Background),
        "Foreground" => Some(Propagation::Foreground),
        other => {
            errors.not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]);
            None
        }
    };
    if errors.is_empty() { Ok(found) } else { Err(invalid_options("DeleteOptions", &errors)) }
}

fn check_dry_run(values: &[&str]) -> Result<bool, Status> {
    let wrong: Vec<&&str> = values.iter().filter(|v| **v != "All").collect();
    if wrong.is_empty() {
        return Ok(!values.is_empty());
    }
    let mut errors = api::field::Errors::default();
    let shown = api::field::Bare(format!(
        "[]string{{{}}}",
        values.iter().map(|v| api::field::quote(v)).collect::<Vec<_>>().join(", ")
    ));
    errors.not_supported(&api::field::Path::new("dryRun"), shown, &["All"]);
    Err(invalid_options("CreateOptions", &errors))
}

fn invalid_options(kind: &str, errors: &api::field::Errors) -> Status {
    let kind = api::GroupKind { group: "meta.k8s.io".into(), kind: kind.into() };
    Status::invalid(&kind, "", errors)
}

fn unknown_field(resource: &Resource, field: &str) -> Status {
    if resource.fields.is_empty() {
        let known = if resource.namespaced() {
            "\"metadata.name\", \"metadata.namespace\""
        } else {
            "\"metadata.name\", \"metadata.namespace\""
        };
        return Status::bad_request(format!(
            "{} is not a known field selector: only {known}",
            api::field::quote(field)
        ));
    }
    Status::bad_request(format!("field label not supported: {field}"))
}

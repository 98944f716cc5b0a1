//! `metadata.managedFields`: who holds which fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::Set;

/// Entries of updates that are kept apart; older ones are put together.
const MAX_UPDATERS: usize = 10;
/// What holds the fields of updates that are no more kept apart.
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Whom an entry belongs to. An applier has one entry, whatever version it applied in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub operation: Operation,
    pub manager: String,
    /// Empty for an applier.
    pub api_version: String,
    pub subresource: String,
}

impl Owner {
    pub fn new(operation: Operation, manager: &str, api_version: &str, subresource: &str) -> Owner {
        let api_version = if operation == Operation::Apply { "" } else { api_version };
        Owner {
            operation,
            manager: manager.into(),
            api_version: api_version.into(),
            subresource: subresource.into(),
        }
    }
}

/// As conflicts name it: `"m1" with subresource "status" using v1`.
impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&api::field::quote(&self.manager))?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {}", api::field::quote(&self.subresource))?;
        }
        if self.operation == Operation::Update {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

/// What an owner holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The version in which the fields are named.
    pub api_version: String,
    pub fields: Set,
    /// When the owner last changed anything, RFC 3339; empty where it is not known.
    pub time: String,
}

/// Everybody who holds fields of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managed(pub BTreeMap<Owner, Held>);

impl Managed {
    /// Reads `managedFields`; `None` where an entry is not of the form.
    pub fn read(list: &Value) -> Option<Managed> {
        let mut all = Managed::default();
        for entry in list.as_array()? {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            if text("fieldsType") != "FieldsV1" {
                return None;
            }
            let fields = entry.get("fieldsV1").map_or(Some(Set::default()), Set::from_json)?;
            let owner = Owner::new(operation, text("manager"), text("apiVersion"), text("subresource"));
            let held = Held { api_version: text("apiVersion").into(), fields, time: text("time").into() };
            all.0.insert(owner, held);
        }
        Some(all)
    }

    /// As `managedFields`: by operation, then time, then name.
    pub fn write(&self) -> Value {
        let mut all: Vec<(&Owner, &Held)> = self.0.iter().collect();
        all.sort_by(|(a, x), (b, y)| (a.operation, &x.time, a).cmp(&(b.operation, &y.time, b)));
        Value::Array(all.into_iter().map(|(owner, held)| entry(owner, held)).collect())
    }

    /// Puts the oldest updates of a version together where there are too many.
    pub fn cap(&mut self) {
        let mut updaters: Vec<(String, Owner)> = (self.0.iter())
            .filter(|(owner, _)| owner.operation == Operation::Update)
            .map(|(owner, held)| (held.time.clone(), owner.clone()))
            .collect();
        updaters.sort();
        let mut count = updaters.len();
        let mut first: BTreeMap<String, Owner> = BTreeMap::new();
        for (_, owner) in updaters {
            if count <= MAX_UPDATERS {
                return;
            }
            let Some(start) = first.get(&owner.api_version) else {
                first.insert(owner.api_version.clone(), owner);
                continue;
            };
            let bucket = Owner::new(Operation::Update, ANCIENT, &owner.api_version, "");
            if !self.0.contains_key(&bucket)
                && let Some(held) = self.0.remove(start)
            {
                self.0.insert(bucket.clone(), held);
            }
            if bucket == owner {
                continue;
            }
            if let (Some(held), Some(into)) = (self.0.remove(&owner), self.0.get_mut(&bucket)) {
                into.fields = into.fields.union(&held.fields);
                into.time = held.time;
                count -= 1;
            }
        }
    }
}

fn entry(owner: &Owner, held: &Held) -> Value {
    let mut out = Map::new();
    let mut text = |name: &str, value: &str| {
        if !value.is_empty() {
            out.insert(name.into(), value.into());
        }
    };
    text("manager", &owner.manager);
    text("operation", owner.operation.as_str());
    text("apiVersion", &held.api_version);
    text("time", &held.time);
    text("subresource", &owner.subresource);
    text("fieldsType", "FieldsV1");
    out.insert("fieldsV1".into(), held.fields.to_json());
    Value::Object(out)
}

/// Whether two lists of entries say the same, but for their times.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let timeless = |list: &Value| -> Option<Vec<(Owner, Set)>> {
        let entries = Managed::read(list)?.0.into_iter();
        Some(entries.map(|(owner, held)| (owner, held.fields)).collect())
    };
    match (timeless(a), timeless(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

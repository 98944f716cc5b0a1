//! How the built-in kinds print: the columns of a Table and the cells of a row, one module a family.
//!
//! A column's description is mostly its field's own, looked up when somebody asks for the table.

pub mod access;
pub mod cells;
pub mod core;
pub mod network;
pub mod node;
pub mod pod;
pub mod storage;
pub mod workload;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::OnceLock;

use api::Object;
use jiff::Timestamp;
use registry::{Cell, Column};
use serde_json::Value;

/// Where a column's description comes from.
#[derive(Clone, Copy)]
enum Doc {
    Text(&'static str),
    /// A type (without `io.k8s.`) and a field of it.
    Field(&'static str, &'static str),
}

/// A column as it is written down here.
#[derive(Clone, Copy)]
pub struct Spec {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    doc: Doc,
    priority: i32,
}

const META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The first column of nearly every table.
pub const NAME: Spec =
    Spec { name: "Name", kind: "string", format: "name", doc: Doc::Field(META, "name"), priority: 0 };
pub const AGE: Spec = text("Age", META, "creationTimestamp");

/// A column described by a field.
pub const fn col(name: &'static str, kind: &'static str, ty: &'static str, field: &'static str) -> Spec {
    Spec { name, kind, format: "", doc: Doc::Field(ty, field), priority: 0 }
}

/// A column of texts described by a field.
pub const fn text(name: &'static str, ty: &'static str, field: &'static str) -> Spec {
    col(name, "string", ty, field)
}

/// A column with words of its own.
pub const fn free(name: &'static str, kind: &'static str, words: &'static str) -> Spec {
    Spec { name, kind, format: "", doc: Doc::Text(words), priority: 0 }
}

impl Spec {
    /// Shown with `-o wide`.
    pub const fn wide(mut self) -> Spec {
        self.priority = 1;
        self
    }

    pub const fn format(mut self, format: &'static str) -> Spec {
        self.format = format;
        self
    }
}

/// A built-in kind's table.
pub struct Table {
    specs: &'static [Spec],
    cells: fn(&Object, Timestamp) -> Vec<Cell>,
    conditions: Option<fn(&Object) -> Vec<Value>>,
    order: Option<fn(&Object, &Object) -> Ordering>,
    /// With the descriptions looked up.
    columns: OnceLock<Vec<Column>>,
}

impl Table {
    pub fn new(specs: &'static [Spec], cells: fn(&Object, Timestamp) -> Vec<Cell>) -> Table {
        Table { specs, cells, conditions: None, order: None, columns: OnceLock::new() }
    }

    pub fn conditions(mut self, conditions: fn(&Object) -> Vec<Value>) -> Table {
        self.conditions = Some(conditions);
        self
    }

    /// How the rows of a list stand, where not by name.
    pub fn order(mut self, order: fn(&Object, &Object) -> Ordering) -> Table {
        self.order = Some(order);
        self
    }
}

impl registry::Table for Table {
    fn columns(&self) -> &[Column] {
        self.columns.get_or_init(|| {
            let docs = schema::Docs::unpack();
            self.specs.iter().map(|spec| column(spec, &docs)).collect()
        })
    }

    fn cells(&self, object: &Object, now: Timestamp) -> Vec<Cell> {
        (self.cells)(object, now)
    }

    fn conditions(&self, object: &Object) -> Vec<Value> {
        self.conditions.map(|of| of(object)).unwrap_or_default()
    }

    fn order(&self, one: &Object, other: &Object) -> Ordering {
        self.order.map_or(Ordering::Equal, |order| order(one, other))
    }
}

fn column(spec: &Spec, docs: &schema::Docs) -> Column {
    let description = match spec.doc {
        Doc::Text(words) => Cow::Borrowed(words),
        Doc::Field(ty, field) => {
            let found = docs.of_field(&format!("io.k8s.{ty}"), field);
            Cow::Owned(found.unwrap_or_default().to_owned())
        }
    };
    Column {
        name: Cow::Borrowed(spec.name),
        kind: Cow::Borrowed(spec.kind),
        format: Cow::Borrowed(spec.format),
        description,
        priority: spec.priority,
    }
}

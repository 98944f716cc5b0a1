//! meta.k8s.io/v1 Table: a row of cells for each object.

use std::borrow::Cow;

use api::{Object, Status};
use jiff::Timestamp;
use registry::{Column, Listed, Table, View};
use serde::Serialize;
use serde_json::{Value, json};
use store::Revision;

use crate::answer::{list_meta, show_as};
use crate::negotiate::Accepted;
use crate::server::{Call, Endpoint};

/// What a kind without columns of its own shows.
const DEFAULT: &[Column] = &[
    Column {
        name: Cow::Borrowed("Name"),
        kind: Cow::Borrowed("string"),
        format: Cow::Borrowed("name"),
        description: Cow::Borrowed(
            "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
        ),
        priority: 0,
    },
    Column {
        name: Cow::Borrowed("Created At"),
        kind: Cow::Borrowed("date"),
        format: Cow::Borrowed(""),
        description: Cow::Borrowed(
            "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        ),
        priority: 0,
    },
];

#[derive(Serialize)]
pub(crate) struct Row {
    cells: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Value>,
    /// Null where none is asked for.
    object: Value,
}

/// Takes out of metadata that stand alone the annotations that a version makes of fields.
pub(crate) fn take_versioned(endpoint: &Endpoint, metadata: &mut Value) {
    let Some(Value::Object(annotations)) = metadata.get_mut("annotations") else { return };
    for name in endpoint.resource.versioned_annotations {
        annotations.remove(*name);
    }
    if annotations.is_empty()
        && let Value::Object(metadata) = metadata
    {
        metadata.remove("annotations");
    }
}

/// An object's metadata alone.
pub(crate) fn partial(metadata: Value, accepted: Accepted) -> Value {
    let api_version = format!("meta.k8s.io/{}", accepted.meta);
    json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": metadata})
}

/// What each row carries of its object: `?includeObject=`. A view has its type already.
fn object_of(
    object: &Object,
    endpoint: Option<&Endpoint>,
    call: &Call,
    accepted: Accepted,
) -> Result<Value, Status> {
    match call.query.get("includeObject") {
        "" | "Metadata" => {
            let mut metadata = object.0.get("metadata").cloned().unwrap_or_default();
            if let Some(endpoint) = endpoint {
                take_versioned(endpoint, &mut metadata);
            }
            Ok(partial(metadata, accepted))
        }
        "None" => Ok(Value::Null),
        "Object" => {
            let mut object = object.clone();
            if let Some(endpoint) = endpoint {
                show_as(endpoint, &mut object);
            }
            Ok(object.into_value())
        }
        other => Err(Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
            api::field::quote(other)
        ))),
    }
}

pub(crate) fn rows(
    endpoint: &Endpoint,
    objects: &[Object],
    call: &Call,
    accepted: Accepted,
    now: Timestamp,
) -> Result<Vec<Row>, Status> {
    let table = endpoint.resource.table.as_ref();
    let mut shown: Vec<&Object> = objects.iter().collect();
    if let Some(table) = table {
        shown.sort_by(|one, other| table.order(one, other));
    }
    let rows = shown.into_iter().map(|object| {
        let cells = match table {
            Some(table) => table.cells(object, now),
            None => vec![object.name().into(), object.meta_str("creationTimestamp").into()],
        };
        let conditions = table.map(|t| t.conditions(object)).unwrap_or_default();
        Ok(Row { cells, conditions, object: object_of(object, Some(endpoint), call, accepted)? })
    });
    rows.collect()
}

fn columns(shown: Option<&dyn Table>) -> Value {
    let columns = shown.map_or(DEFAULT, |t| t.columns());
    let all = columns.iter().map(|c| {
        json!({
            "name": c.name,
            "type": c.kind,
            "format": c.format,
            "description": c.description,
            "priority": c.priority,
        })
    });
    all.collect()
}

fn table(
    shown: Option<&dyn Table>,
    rows: Vec<Row>,
    metadata: Value,
    call: &Call,
    accepted: Accepted,
) -> Value {
    // The option has no name outside of Go, which then calls it `-`.
    let columns = if call.query.flag("-") { Value::Null } else { columns(shown) };
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{}", accepted.meta),
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

pub(crate) fn list(
    endpoint: &Endpoint,
    rows: Vec<Row>,
    listed: &Listed,
    call: &Call,
    accepted: Accepted,
) -> Value {
    table(endpoint.resource.table.as_deref(), rows, json!(list_meta(listed)), call, accepted)
}

pub(crate) fn single(
    endpoint: &Endpoint,
    rows: Vec<Row>,
    revision: Revision,
    call: &Call,
    accepted: Accepted,
) -> Value {
    table(
        endpoint.resource.table.as_deref(),
        rows,
        json!({"resourceVersion": revision.to_string()}),
        call,
        accepted,
    )
}

/// The table of an object that is shown as another kind; none where the other kind has no columns.
pub(crate) fn view(
    view: &dyn View,
    object: &Object,
    call: &Call,
    accepted: Accepted,
    now: Timestamp,
) -> Result<Option<Value>, Status> {
    let Some(shown) = view.table() else { return Ok(None) };
    let row = Row {
        cells: shown.cells(object, now),
        conditions: shown.conditions(object),
        object: object_of(object, None, call, accepted)?,
    };
    let metadata = json!({"resourceVersion": object.resource_version()});
    Ok(Some(table(Some(shown), vec![row], metadata, call, accepted)))
}

/// A watch's table: the columns stand in the first event alone.
pub(crate) fn event(
    endpoint: &Endpoint,
    rows: Vec<Row>,
    revision: Revision,
    (call, accepted): (&Call, Accepted),
    first: bool,
) -> Value {
    let mut value = single(endpoint, rows, revision, call, accepted);
    if !first {
        value["columnDefinitions"] = Value::Null;
    }
    value
}

//! The OpenAPI v2 document as protobuf, after gnostic's `OpenAPIv2.proto`: as much of it as the document uses.
//!
//! What has no message there (defaults, extensions) is carried as YAML text, of which JSON is a part.

use prost::Message;
use serde_json::{Map, Value};

/// The media type of the answer.
pub(super) const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// As clients have long asked for it; no header may say so.
pub(super) const ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The document, given as JSON.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    Document {
        swagger: text(document, "swagger"),
        info: document
            .get("info")
            .map(|info| Info { title: text(info, "title"), version: text(info, "version") }),
        paths: Some(Paths {
            path: named(document, "paths", |name, value| NamedPathItem { name, value: Some(path(value)) }),
        }),
        definitions: Some(schemas(document, "definitions")),
    }
    .encode_to_vec()
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn flag(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or_default()
}

/// The fields of an object below `field`, each as `make` has it.
fn named<T>(value: &Value, field: &str, make: impl Fn(String, &Value) -> T) -> Vec<T> {
    let object = value.get(field).and_then(Value::as_object).into_iter().flatten();
    object.map(|(name, value)| make(name.clone(), value)).collect()
}

fn any(value: &Value) -> Any {
    Any { yaml: value.to_string() }
}

fn extensions(value: &Value) -> Vec<NamedAny> {
    let all = value.as_object().into_iter().flat_map(Map::iter).filter(|(name, _)| name.starts_with("x-"));
    all.map(|(name, value)| NamedAny { name: name.clone(), value: Some(any(value)) }).collect()
}

fn schemas(value: &Value, field: &str) -> NamedSchemas {
    let make = |name, value: &Value| NamedSchema { name, value: Some(schema(value)) };
    NamedSchemas { additional_properties: named(value, field, make) }
}

fn schema(value: &Value) -> Schema {
    let required = value.get("required").and_then(Value::as_array).into_iter().flatten();
    Schema {
        r#ref: text(value, "$ref"),
        format: text(value, "format"),
        description: text(value, "description"),
        default: value.get("default").map(any),
        required: required.filter_map(Value::as_str).map(str::to_owned).collect(),
        additional_properties: value
            .get("additionalProperties")
            .map(|all| Box::new(AdditionalProperties { schema: Some(Box::new(schema(all))) })),
        r#type: value.get("type").map(|_| TypeItem { value: vec![text(value, "type")] }),
        items: value.get("items").map(|item| ItemsItem { schema: vec![schema(item)] }),
        properties: value.get("properties").map(|_| schemas(value, "properties")),
        vendor_extension: extensions(value),
    }
}

fn path(value: &Value) -> PathItem {
    let method = |name| value.get(name).map(operation);
    PathItem {
        get: method("get"),
        put: method("put"),
        post: method("post"),
        delete: method("delete"),
        patch: method("patch"),
    }
}

fn operation(value: &Value) -> Operation {
    let parameters = value.get("parameters").and_then(Value::as_array).into_iter().flatten();
    let responses = named(value, "responses", |name, answer| NamedResponse {
        name,
        value: Some(ResponseValue {
            response: Some(Response {
                description: text(answer, "description"),
                schema: answer.get("schema").map(|found| SchemaItem { schema: Some(schema(found)) }),
            }),
        }),
    });
    Operation {
        parameters: parameters.map(parameter).collect(),
        responses: Some(Responses { response_code: responses }),
        vendor_extension: extensions(value),
    }
}

fn parameter(value: &Value) -> ParametersItem {
    let (name, place, required) = (text(value, "name"), text(value, "in"), flag(value, "required"));
    let of = match value.get("schema") {
        Some(found) => {
            OneParameter::Body(BodyParameter { name, place, required, schema: Some(schema(found)) })
        }
        None => OneParameter::Other(NonBodyParameter {
            query: Some(QueryParameter {
                required,
                place,
                name,
                r#type: text(value, "type"),
                unique_items: flag(value, "uniqueItems"),
            }),
        }),
    };
    ParametersItem { parameter: Some(Parameter { of: Some(of) }) }
}

#[derive(Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<NamedSchemas>,
}

#[derive(Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

#[derive(Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

#[derive(Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPathItem>,
}

#[derive(Message)]
struct NamedPathItem {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<PathItem>,
}

#[derive(Message)]
struct PathItem {
    #[prost(message, optional, tag = "2")]
    get: Option<Operation>,
    #[prost(message, optional, tag = "3")]
    put: Option<Operation>,
    #[prost(message, optional, tag = "4")]
    post: Option<Operation>,
    #[prost(message, optional, tag = "5")]
    delete: Option<Operation>,
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
}

#[derive(Message)]
struct Operation {
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, optional, tag = "9")]
    responses: Option<Responses>,
    #[prost(message, repeated, tag = "13")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Message)]
struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Message)]
struct Parameter {
    #[prost(oneof = "OneParameter", tags = "1, 2")]
    of: Option<OneParameter>,
}

#[derive(prost::Oneof)]
enum OneParameter {
    #[prost(message, tag = "1")]
    Body(BodyParameter),
    #[prost(message, tag = "2")]
    Other(NonBodyParameter),
}

#[derive(Message)]
struct BodyParameter {
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    place: String,
    #[prost(bool, tag = "4")]
    required: bool,
    #[prost(message, optional, tag = "5")]
    schema: Option<Schema>,
}

#[derive(Message)]
struct NonBodyParameter {
    #[prost(message, optional, tag = "3")]
    query: Option<QueryParameter>,
}

#[derive(Message)]
struct QueryParameter {
    #[prost(bool, tag = "1")]
    required: bool,
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    r#type: String,
    #[prost(bool, tag = "20")]
    unique_items: bool,
}

#[derive(Message)]
struct Responses {
    #[prost(message, repeated, tag = "1")]
    response_code: Vec<NamedResponse>,
}

#[derive(Message)]
struct NamedResponse {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<ResponseValue>,
}

#[derive(Message)]
struct ResponseValue {
    #[prost(message, optional, tag = "1")]
    response: Option<Response>,
}

#[derive(Message)]
struct Response {
    #[prost(string, tag = "1")]
    description: String,
    #[prost(message, optional, tag = "2")]
    schema: Option<SchemaItem>,
}

#[derive(Message)]
struct SchemaItem {
    #[prost(message, optional, tag = "1")]
    schema: Option<Schema>,
}

#[derive(Message)]
struct NamedSchemas {
    #[prost(message, repeated, tag = "1")]
    additional_properties: Vec<NamedSchema>,
}

#[derive(Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Message)]
struct Schema {
    #[prost(string, tag = "1")]
    r#ref: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(message, optional, tag = "5")]
    default: Option<Any>,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, optional, boxed, tag = "21")]
    additional_properties: Option<Box<AdditionalProperties>>,
    #[prost(message, optional, tag = "22")]
    r#type: Option<TypeItem>,
    #[prost(message, optional, tag = "23")]
    items: Option<ItemsItem>,
    #[prost(message, optional, tag = "25")]
    properties: Option<NamedSchemas>,
    #[prost(message, repeated, tag = "31")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Message)]
struct AdditionalProperties {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
}

#[derive(Message)]
struct TypeItem {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Message)]
struct ItemsItem {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_carried_whole() {
        let document = json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1.37.0"},
            "paths": {"/api/v1/pods/{name}": {"patch": {
                "parameters": [
                    {"name": "dryRun", "in": "query", "type": "string", "uniqueItems": true},
                    {"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/Pod"}},
                ],
                "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/Pod"}}},
                "x-kubernetes-action": "patch",
            }}},
            "definitions": {"Pod": {
                "type": "object",
                "description": "A pod.",
                "required": ["spec"],
                "properties": {
                    "list": {"type": "array", "items": {"type": "string"}, "default": [], "x-kubernetes-list-type": "set"},
                    "map": {"type": "object", "additionalProperties": {"type": "integer", "format": "int64"}},
                },
            }},
        });
        let read = Document::decode(encode(&document).as_slice()).unwrap();
        let definitions = read.definitions.unwrap().additional_properties;
        let pod = definitions[0].value.as_ref().unwrap();
        assert_eq!((pod.description.as_str(), &pod.required[..]), ("A pod.", &["spec".to_owned()][..]));
        let fields = &pod.properties.as_ref().unwrap().additional_properties;
        let (list, map) = (fields[0].value.as_ref().unwrap(), fields[1].value.as_ref().unwrap());
        assert_eq!(list.items.as_ref().unwrap().schema[0].r#type.as_ref().unwrap().value, ["string"]);
        assert_eq!(list.default.as_ref().unwrap().yaml, "[]");
        assert_eq!(list.vendor_extension[0].value.as_ref().unwrap().yaml, "\"set\"");
        let values = map.additional_properties.as_ref().unwrap().schema.as_ref().unwrap();
        assert_eq!(values.format, "int64");
        let paths = read.paths.unwrap().path;
        let patch = paths[0].value.as_ref().unwrap().patch.as_ref().unwrap();
        let parameters: Vec<_> =
            patch.parameters.iter().map(|item| &item.parameter.as_ref().unwrap().of).collect();
        assert!(
            matches!(parameters[0], Some(OneParameter::Other(other)) if other.query.as_ref().unwrap().name == "dryRun")
        );
        assert!(matches!(parameters[1], Some(OneParameter::Body(body)) if body.required));
    }
}

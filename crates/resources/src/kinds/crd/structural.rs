//! Faults of an OpenAPI v3 schema of a custom resource: what is not supported at all, list and map
//! extensions, and the rules that make a schema *structural* (every value's type is known without
//! looking at the value).

use std::collections::BTreeSet;

use api::field::Errors;
use serde_json::Value;

use super::values;
use crate::at::At;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

/// Words for what is not supported, by field.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("id", "id is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("$ref", "$ref is not supported"),
];

/// Faults of the schema at the root of a version.
pub(super) fn validate(root: &At<'_>, with_status: bool, errors: &mut Errors) {
    if with_status && !root.str("type").is_empty() && root.str("type") != "object" {
        let words = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        root.invalid("type", root.str("type"), words, errors);
    }
    if root.is("nullable") {
        errors.forbidden(&root.path.child("nullable"), "nullable cannot be true at the root");
    }
    let before = errors.len();
    generic(root, errors);
    if errors.len() > before {
        return;
    }
    structural(root, Level::Root, errors);
    if errors.len() == before {
        defaults(root, &mut values::Check::default(), errors);
    }
}

/// Calls `each` with every schema that stands directly in this one.
fn inner<'a>(at: &At<'a>, each: &mut dyn FnMut(&At<'a>)) {
    if at.raw("additionalProperties").is_some_and(Value::is_object) {
        each(&at.field("additionalProperties"));
    }
    at.entries("properties").iter().for_each(|(_, schema)| each(schema));
    if at.has("not") {
        each(&at.field("not"));
    }
    for list in ["allOf", "oneOf", "anyOf"] {
        at.items(list).iter().for_each(&mut *each);
    }
    if at.raw("items").is_some_and(Value::is_object) {
        each(&at.field("items"));
    }
}

/// What holds for every schema, structural or not.
fn generic(at: &At<'_>, errors: &mut Errors) {
    let kind = at.str("type");
    for (field, words) in UNSUPPORTED {
        if at.has(field) {
            errors.forbidden(&at.path.child(field), words);
        }
    }
    if kind == "null" {
        let words = "type cannot be set to null, use nullable as an alternative";
        errors.forbidden(&at.path.child("type"), words);
    } else if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.not_supported(&at.path.child("type"), kind, TYPES);
    }
    if at.raw("items").is_some_and(Value::is_array) {
        errors.forbidden(&at.path.child("items"), "items must be a schema object and not an array");
    }
    if let Some(why) = pattern_fault(at.str("pattern")) {
        let words = format!("must be a valid regular expression, but isn't: error parsing regexp: {why}");
        at.invalid("pattern", at.str("pattern"), &words, errors);
    }
    if at.is("uniqueItems") {
        errors.forbidden(
            &at.path.child("uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    let open = at.raw("additionalProperties");
    if at.len("properties") > 0 && open.is_some_and(|a| a.is_object() || *a == Value::Bool(false)) {
        errors.forbidden(
            &at.path.child("additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        );
    }
    inner(at, &mut |schema| generic(schema, errors));
    if at.raw("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        at.invalid("x-kubernetes-preserve-unknown-fields", false, "must be true or undefined", errors);
    }
    map_type(at, errors);
    list_type(at, errors);
    rules(at, errors);
}

fn needs_type(at: &At<'_>, wanted: &str, words: &str, errors: &mut Errors) {
    match at.str("type") {
        kind if kind == wanted => {}
        "" => errors.required(&at.path.child("type"), words),
        kind => at.invalid("type", kind, words, errors),
    }
}

fn map_type(at: &At<'_>, errors: &mut Errors) {
    let Some(kind) = at.raw("x-kubernetes-map-type").and_then(Value::as_str) else { return };
    needs_type(at, "object", "must be object if x-kubernetes-map-type is specified", errors);
    if !["atomic", "granular"].contains(&kind) {
        errors.not_supported(&at.path.child("x-kubernetes-map-type"), kind, &["atomic", "granular"]);
    }
}

fn list_type(at: &At<'_>, errors: &mut Errors) {
    let path = at.path.child("x-kubernetes-list-type");
    let kind = at.raw("x-kubernetes-list-type").and_then(Value::as_str);
    if let Some(kind) = kind {
        needs_type(at, "array", "must be array if x-kubernetes-list-type is specified", errors);
        if !["atomic", "map", "set"].contains(&kind) {
            errors.not_supported(&path, kind, &["atomic", "map", "set"]);
        }
    }
    let words = "must be map if x-kubernetes-list-map-keys is non-empty";
    match kind {
        Some("map") => map_list(at, errors),
        None if at.len("x-kubernetes-list-map-keys") > 0 => errors.required(&path, words),
        Some(other) if at.len("x-kubernetes-list-map-keys") > 0 => errors.invalid(&path, other, words),
        _ => {}
    }
}

fn map_list(at: &At<'_>, errors: &mut Errors) {
    let all = at.field("x-kubernetes-list-map-keys");
    let keys = at.items("x-kubernetes-list-map-keys");
    let path = &all.path;
    if keys.is_empty() {
        errors.required(path, "must not be empty if x-kubernetes-list-type is map");
    }
    let Some(items) = at.some("items") else {
        errors.required(&at.path.child("items"), "must have a schema if x-kubernetes-list-type is map");
        return;
    };
    if items.str("type") != "object" {
        let words = "must be object if parent array's x-kubernetes-list-type is map";
        items.invalid("type", items.str("type"), words, errors);
    }
    let properties = items.field("properties");
    let required: BTreeSet<&str> = items.items("required").iter().map(At::text).collect();
    let mut seen = BTreeSet::new();
    for key in &keys {
        let name = key.text();
        let again = !seen.insert(name);
        if again {
            errors.invalid(&key.path, name, "all entries must be unique");
        }
        let Some(property) = properties.raw(name) else {
            errors.invalid(path, all.value, "entries must all be names of item properties");
            continue;
        };
        let property = At::new(property, properties.path.key(name));
        if ["array", "object"].contains(&property.str("type")) {
            let words = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            property.invalid("type", property.str("type"), words, errors);
        }
        if !required.contains(name) && !property.has("default") {
            errors.required(
                &property.path.child("default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            );
        }
    }
}

/// `x-kubernetes-validations`, but for the expressions themselves.
fn rules(at: &At<'_>, errors: &mut Errors) {
    for rule in at.items("x-kubernetes-validations") {
        let (text, message) = (rule.str("rule"), rule.str("message"));
        if text.trim().is_empty() {
            errors.required(&rule.path.child("rule"), "rule is not specified");
        }
        if rule.has("message") && !message.is_empty() && message.trim().is_empty() {
            rule.invalid("message", message, "message must be non-empty if specified", errors);
        } else if message.trim().contains('\n') {
            rule.invalid("message", message, "message must not contain line breaks", errors);
        } else if message.is_empty() && text.trim().contains('\n') {
            let words = "message must be specified if rule contains line breaks";
            errors.required(&rule.path.child("message"), words);
        }
        let reasons =
            ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        rule.one_of_if_set("reason", &reasons, errors);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

fn structural(at: &At<'_>, level: Level, errors: &mut Errors) {
    let kind = at.str("type");
    let free = at.is("x-kubernetes-int-or-string") || at.is("x-kubernetes-preserve-unknown-fields");
    let path = at.path.child("type");
    match (level, kind) {
        (Level::Root, "") => errors.required(&path, "must not be empty at the root"),
        (Level::Root, kind) if kind != "object" => errors.invalid(&path, kind, "must be object at the root"),
        (Level::Item, "") if !free => errors.required(&path, "must not be empty for specified array items"),
        (Level::Field, "") if !free => {
            errors.required(&path, "must not be empty for specified object fields")
        }
        _ => {}
    }
    if kind == "array" && !at.has("items") {
        errors.required(&at.path.child("items"), "must be specified");
    }
    let embedded = at.is("x-kubernetes-embedded-resource");
    if level == Level::Root || embedded {
        metadata(at, errors);
    }
    if embedded && kind != "object" {
        needs_type(at, "object", "must be object if x-kubernetes-embedded-resource is true", errors);
    }
    if embedded && at.len("properties") == 0 && !at.is("x-kubernetes-preserve-unknown-fields") {
        errors.required(
            &at.path.child("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
    for (_, property) in at.entries("properties") {
        structural(&property, Level::Field, errors);
    }
    if at.raw("items").is_some_and(Value::is_object) {
        structural(&at.field("items"), Level::Item, errors);
    }
    if at.raw("additionalProperties").is_some_and(Value::is_object) {
        structural(&at.field("additionalProperties"), Level::Field, errors);
    }
    for list in ["allOf", "anyOf", "oneOf"] {
        for nested in at.items(list) {
            value_validation(&nested, at, at.is("x-kubernetes-int-or-string"), errors);
        }
    }
    if let Some(nested) = at.some("not") {
        value_validation(&nested, at, false, errors);
    }
}

/// `metadata` is the server's own; a schema may say what names are like, and no more.
fn metadata(at: &At<'_>, errors: &mut Errors) {
    let properties = at.field("properties");
    let Some(schema) = properties.raw("metadata") else { return };
    let schema = At::new(schema, properties.path.key("metadata"));
    if schema.str("type") != "object" {
        schema.invalid("type", schema.str("type"), "must be object", errors);
    }
    let names_only = schema.entries("properties").iter().all(|(n, _)| matches!(*n, "name" | "generateName"));
    let plain = schema.value.as_object().is_some_and(|m| {
        m.keys().all(|k| matches!(k.as_str(), "type" | "properties" | "description" | "title"))
    });
    if !names_only || !plain {
        errors.forbidden(
            &schema.path,
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
}

/// Below `allOf` and its kin only values are judged; shapes are said outside.
fn value_validation(at: &At<'_>, outside: &At<'_>, int_or_string: bool, errors: &mut Errors) {
    for field in ["description", "title", "type"] {
        let allowed = field == "type" && int_or_string;
        if !at.str(field).is_empty() && !allowed {
            errors.forbidden(&at.path.child(field), "must be empty to be structural");
        }
    }
    if at.has("default") {
        errors.forbidden(&at.path.child("default"), "must be undefined to be structural");
    }
    if at.is("nullable") {
        errors.forbidden(&at.path.child("nullable"), "must be false to be structural");
    }
    for field in ["additionalProperties", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type"] {
        if at.has(field) {
            errors.forbidden(&at.path.child(field), "must be undefined to be structural");
        }
    }
    for field in ["x-kubernetes-embedded-resource", "x-kubernetes-int-or-string"] {
        if at.is(field) {
            errors.forbidden(&at.path.child(field), "must be false to be structural");
        }
    }
    for (name, nested) in at.entries("properties") {
        let known = outside.field("properties");
        match known.raw(name) {
            Some(schema) => {
                value_validation(&nested, &At::new(schema, known.path.key(name)), false, errors);
            }
            None => errors.required(
                &known.path.key(name),
                &format!("because it is defined in {}", nested.path.as_str()),
            ),
        }
    }
    if let Some(nested) = at.some("items") {
        match outside.some("items") {
            Some(schema) => value_validation(&nested, &schema, false, errors),
            None => errors.required(
                &outside.path.child("items"),
                &format!("because it is defined in {}", nested.path.as_str()),
            ),
        }
    }
    for list in ["allOf", "anyOf", "oneOf"] {
        for nested in at.items(list) {
            value_validation(&nested, outside, int_or_string, errors);
        }
    }
}

/// Each default must be a value of its own schema.
fn defaults<'a>(at: &At<'a>, check: &mut values::Check<'a>, errors: &mut Errors) {
    if let Some(default) = at.some("default") {
        check.value(default.value, at.value, "", &default.path, errors);
    }
    inner(at, &mut |schema| defaults(schema, check, errors));
}

/// Why a pattern is no regular expression, in the words of Go's parser.
fn pattern_fault(pattern: &str) -> Option<String> {
    use regex_syntax::ast::ErrorKind;
    let error = match regex_syntax::ast::parse::Parser::new().parse(pattern) {
        Ok(_) => return regex_syntax::Parser::new().parse(pattern).err().map(|e| e.to_string()),
        Err(error) => error,
    };
    let span = error.span();
    let (at, rest) = (&pattern[span.start.offset..span.end.offset], &pattern[span.start.offset..]);
    Some(match error.kind() {
        ErrorKind::GroupUnclosed => format!("missing closing ): `{pattern}`"),
        ErrorKind::GroupUnopened => format!("unexpected ): `{pattern}`"),
        ErrorKind::ClassUnclosed => format!("missing closing ]: `{rest}`"),
        ErrorKind::ClassRangeInvalid => format!("invalid character class range: `{at}`"),
        ErrorKind::EscapeUnexpectedEof => "trailing backslash at end of expression: ``".into(),
        ErrorKind::EscapeUnrecognized => format!("invalid escape sequence: `{at}`"),
        // Its span is empty, before the operator.
        ErrorKind::RepetitionMissing => {
            format!("missing argument to repetition operator: `{}`", rest.get(..1).unwrap_or_default())
        }
        ErrorKind::RepetitionCountInvalid => format!("invalid repeat count: `{at}`"),
        other => format!("{other}: `{at}`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fail_in_the_words_of_go() {
        let check = |pattern: &str, why: Option<&str>| assert_eq!(pattern_fault(pattern).as_deref(), why);
        check("^a+$", None);
        check("(", Some("missing closing ): `(`"));
        check("a)", Some("unexpected ): `a)`"));
        check("a[b", Some("missing closing ]: `[b`"));
        check("*a", Some("missing argument to repetition operator: `*`"));
        check("[z-a]", Some("invalid character class range: `z-a`"));
    }
}

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::strategic_diff;

fn deployment() -> (&'static Types, TypeId) {
    let types = schema::builtin();
    (types, types.lookup("io.k8s.api.apps.v1.Deployment").unwrap())
}

fn live() -> Value {
    json!({
        "metadata": {"name": "obj", "finalizers": ["a"]},
        "spec": {
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "template": {"spec": {"containers": [
                {"name": "c", "image": "i", "args": ["x"], "env": [{"name": "A", "value": "1"}, {"name": "B"}],
                 "ports": [{"containerPort": 80}]},
                {"name": "d", "image": "j"},
            ]}},
        },
    })
}

fn check(patch: Value, expect: Expect) {
    let (types, ty) = deployment();
    let text = match strategic_merge(types, ty, live(), &patch) {
        Ok(value) => json!([value["metadata"]["finalizers"], value["spec"]]).to_string(),
        Err(error) => {
            let status = api::Status::from(error);
            format!("{} {}: {}", status.code, status.reason, status.message)
        }
    };
    expect.assert_eq(&text);
}

fn check_pod_spec(patch: Value, expect: Expect) {
    let (types, ty) = deployment();
    let patch = json!({"spec": {"template": {"spec": patch}}});
    let text = match strategic_merge(types, ty, live(), &patch) {
        Ok(value) => value["spec"]["template"]["spec"].to_string(),
        Err(error) => {
            let status = api::Status::from(error);
            format!("{} {}: {}", status.code, status.reason, status.message)
        }
    };
    expect.assert_eq(&text);
}

#[test]
fn keyed_lists() {
    check_pod_spec(
        json!({"containers": [{"name": "d", "image": "new"}, {"name": "e"}, {"name": "c", "$patch": "delete"}]}),
        expect![[r#"{"containers":[{"image":"new","name":"d"},{"name":"e"}]}"#]],
    );
    check_pod_spec(
        json!({"containers": [{"name": "c", "args": ["y"], "ports": null,
            "env": [{"name": "A", "value": null, "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}]}),
        expect![[
            r#"{"containers":[{"args":["y"],"env":[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"x"}}},{"name":"B"}],"image":"i","name":"c"},{"image":"j","name":"d"}]}"#
        ]],
    );
    check_pod_spec(
        json!({"containers": [{"name": "only"}, {"$patch": "replace"}]}),
        expect![[r#"{"containers":[{"name":"only"}]}"#]],
    );
    check_pod_spec(
        json!({"containers": [{"name": "d"}, {"name": "n"}]}),
        expect![[
            r#"{"containers":[{"args":["x"],"env":[{"name":"A","value":"1"},{"name":"B"}],"image":"i","name":"c","ports":[{"containerPort":80}]},{"image":"j","name":"d"},{"name":"n"}]}"#
        ]],
    );
}

#[test]
fn order_of_elements() {
    check_pod_spec(
        json!({"$setElementOrder/containers": [{"name": "e"}, {"name": "d"}, {"name": "c"}],
            "containers": [{"name": "e", "image": "k"}, {"name": "c", "env": null, "ports": null, "args": null}]}),
        expect![[
            r#"{"containers":[{"image":"k","name":"e"},{"image":"j","name":"d"},{"image":"i","name":"c"}]}"#
        ]],
    );
    check_pod_spec(
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "d"}],
            "containers": [{"name": "d"}, {"name": "c"}]}),
        expect![[r#"
            500 : The order in patch list:
            [map[name:d] map[name:c]]
             doesn't match $setElementOrder list:
            [map[name:c] map[name:d]]
        "#]],
    );
    check_pod_spec(
        json!({"$setElementOrder/containers": "x"}),
        expect!["500 : expected a []interface {}, but received a string"],
    );
}

#[test]
fn lists_of_primitives() {
    let rest = r#"{"strategy":{"rollingUpdate":{"maxSurge":1},"type":"RollingUpdate"},"template""#;
    let (types, ty) = deployment();
    let finalizers = |patch: Value| {
        let merged = strategic_merge(types, ty, live(), &json!({ "metadata": patch })).unwrap();
        assert!(merged["spec"].to_string().starts_with(rest));
        merged["metadata"]["finalizers"].to_string()
    };
    assert_eq!(finalizers(json!({"finalizers": ["b"]})), r#"["b","a"]"#);
    assert_eq!(finalizers(json!({"finalizers": ["a"]})), r#"["a"]"#);
    assert_eq!(finalizers(json!({"$deleteFromPrimitiveList/finalizers": ["a", "z"]})), "[]");
    assert_eq!(
        finalizers(json!({"$setElementOrder/finalizers": ["a", "b"], "finalizers": ["b"]})),
        r#"["a","b"]"#
    );
}

#[test]
fn directives_of_objects() {
    check(
        json!({"spec": {"template": null, "strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        expect![[r#"[["a"],{"strategy":{"type":"Recreate"}}]"#]],
    );
    check(
        json!({"spec": {"template": null, "strategy": {"$patch": "replace", "type": "Recreate"}}}),
        expect![[r#"[["a"],{"strategy":{"type":"Recreate"}}]"#]],
    );
    check(
        json!({"spec": {"template": null, "strategy": {"$patch": "delete"},
            "selector": {"$patch": "replace", "matchLabels": {"a": "b", "gone": null}}}}),
        expect![[r#"[["a"],{"selector":{"matchLabels":{"a":"b"}},"strategy":{}}]"#]],
    );
    check(
        json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}}),
        expect!["400 BadRequest: invalid patch format of retainKeys"],
    );
    check(json!({"$patch": "delete"}), expect!["[null,null]"]);
}

#[test]
fn refusals() {
    check(
        json!([]),
        expect!["400 BadRequest: json: cannot unmarshal array into Go value of type map[string]interface {}"],
    );
    check_pod_spec(
        json!({"containers": [{"image": "i"}]}),
        expect!["500 : map: map[image:i] does not contain declared merge key: name"],
    );
    check_pod_spec(
        json!({"containers": [{"name": "c", "$patch": "bad"}]}),
        expect!["500 : unknown patch type: bad in map: map[$patch:bad name:c]"],
    );
    check_pod_spec(
        json!({"containers": [{"name": "c", "$patch": "merge"}]}),
        expect!["500 : merging lists cannot yet be specified in the patch"],
    );
    check_pod_spec(
        json!({"containers": {"name": "c"}}),
        expect![[
            r#"422 Invalid:  "" is invalid: patch: Invalid value: "map[spec:map[template:map[spec:map[containers:map[name:c]]]]]": cannot restore slice from map"#
        ]],
    );
    check(
        json!({"metadata": {"labels": {"a": 5}}}),
        expect![[
            r#"422 Invalid:  "" is invalid: patch: Invalid value: "map[metadata:map[labels:map[a:5]]]": cannot convert int64 to string"#
        ]],
    );
    check(
        json!({"metadata": {"labels": "x"}}),
        expect![[
            r#"422 Invalid:  "" is invalid: patch: Invalid value: "map[metadata:map[labels:x]]": cannot restore map from string"#
        ]],
    );
}

/// Containers with distinct names, each with distinct variables.
fn containers() -> impl Strategy<Value = Value> {
    let env = prop::collection::vec(("[A-D]", "[x-z]"), 0..4).prop_map(|list| named(list, "value"));
    let one = ("[a-d]", "[x-z]", env, prop::collection::vec("[x-z]", 0..3));
    prop::collection::vec(one, 0..4).prop_map(|list| {
        let mut seen = Vec::new();
        let mut out = Vec::new();
        for (name, image, env, args) in list {
            if !seen.contains(&name) {
                out.push(json!({"name": name, "image": image, "env": env, "args": args}));
                seen.push(name);
            }
        }
        Value::Array(out)
    })
}

fn named(list: Vec<(String, String)>, field: &str) -> Value {
    let map: std::collections::BTreeMap<String, String> = list.into_iter().collect();
    map.into_iter().rev().map(|(name, value)| json!({"name": name, field: value})).collect()
}

fn deployments() -> impl Strategy<Value = Value> {
    let finalizers = prop::collection::hash_set("[a-e]", 0..4);
    let labels = prop::option::of(prop::collection::btree_map("[a-c]", "[x-z]", 0..3));
    (containers(), finalizers, labels).prop_map(|(containers, finalizers, labels)| {
        let mut value = json!({
            "metadata": {"finalizers": finalizers},
            "spec": {"template": {"spec": {"containers": containers}}},
        });
        if let Some(labels) = labels {
            value["metadata"]["labels"] = json!(labels);
        }
        value
    })
}

proptest! {
    #[test]
    fn merging_the_difference_gives_the_target(from in deployments(), to in deployments()) {
        let (types, ty) = deployment();
        let patch = strategic_diff(types, ty, &from, &to);
        let merged = strategic_merge(types, ty, from.clone(), &patch).unwrap();
        prop_assert_eq!(&merged, &to, "patch {}", patch);
        prop_assert_eq!(strategic_diff(types, ty, &to, &to), json!({}));
    }

    #[test]
    fn merging_twice_is_merging_once(from in deployments(), to in deployments(), live in deployments()) {
        let (types, ty) = deployment();
        let patch = strategic_diff(types, ty, &from, &to);
        let once = strategic_merge(types, ty, live, &patch).unwrap();
        prop_assert_eq!(strategic_merge(types, ty, once.clone(), &patch).unwrap(), once);
    }
}

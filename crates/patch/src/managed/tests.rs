use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

/// One version of a built-in type.
struct OneVersion(&'static str, TypeId);

impl Versions for OneVersion {
    fn types(&self, api_version: &str) -> Option<(&Types, TypeId)> {
        (api_version == self.0).then(|| (&**::schema::builtin(), self.1))
    }

    fn convert<'v>(&self, value: &'v Value, _from: &str, _to: &str) -> Cow<'v, Value> {
        Cow::Borrowed(value)
    }
}

/// An object and what was done to it; each step happens a second later.
struct Story {
    versions: OneVersion,
    kind: &'static str,
    object: Option<Value>,
    second: u32,
}

impl Story {
    fn of(api_version: &'static str, kind: &'static str, type_name: &str) -> Story {
        let ty = ::schema::builtin().lookup(type_name).unwrap();
        Story { versions: OneVersion(api_version, ty), kind, object: None, second: 0 }
    }

    fn config_map() -> Story {
        Story::of("v1", "ConfigMap", "io.k8s.api.core.v1.ConfigMap")
    }

    fn service() -> Story {
        Story::of("v1", "Service", "io.k8s.api.core.v1.Service")
    }

    fn whole(&self, rest: &Value) -> Value {
        let mut whole = json!({"apiVersion": self.versions.0, "kind": self.kind, "metadata": {"name": "x"}});
        json_patch::merge(&mut whole, rest);
        whole
    }

    fn step<T>(
        &mut self,
        manager: &str,
        subresource: &str,
        act: impl FnOnce(&Request<'_>, &Value) -> T,
    ) -> T {
        self.second += 1;
        let now = format!("2026-01-01T00:00:{:02}Z", self.second);
        let ignored = Set::default();
        let request = Request {
            versions: &self.versions,
            manager,
            api_version: self.versions.0,
            subresource,
            now: &now,
            ignored: &ignored,
            said: &Set::default(),
        };
        let live = self.object.clone().unwrap_or_else(|| empty(::schema::builtin(), self.versions.1));
        act(&request, &live)
    }

    /// A create, or an update that changes what a merge patch would.
    fn update(&mut self, manager: &str, patch: Value) -> &mut Story {
        self.update_part(manager, "", patch)
    }

    fn update_part(&mut self, manager: &str, subresource: &str, patch: Value) -> &mut Story {
        let created = self.object.is_none();
        let mut new = self.object.clone().unwrap_or_else(|| self.whole(&json!({})));
        json_patch::merge(&mut new, &patch);
        let list = self.step(manager, subresource, |request, live| track(request, live, &new, created));
        let meta = api::object::map_entry(new.as_object_mut().unwrap(), "metadata");
        match list {
            Some(list) => meta.insert("managedFields".into(), list),
            None => meta.remove("managedFields"),
        };
        self.object = Some(new);
        self
    }

    fn try_apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), Status> {
        let config = self.whole(&config);
        let object = self.step(manager, "", |request, live| apply(request, live, &config, force))?;
        self.object = Some(object);
        Ok(())
    }

    fn apply(&mut self, manager: &str, config: Value) -> &mut Story {
        self.try_apply(manager, config, false).unwrap();
        self
    }

    fn refused(&mut self, manager: &str, config: Value, expect: Expect) {
        let status = self.try_apply(manager, config, false).unwrap_err();
        let fields: Vec<String> = (status.details.into_iter())
            .flat_map(|d| d.causes)
            .map(|cause| format!("\n{}: {}", cause.field, cause.message))
            .collect();
        expect.assert_eq(&format!("{} {}{}", status.code, status.message, fields.concat()));
    }

    /// What stands in the object beside its metadata, then who holds what, since when: nothing where an
    /// apply found all as it wanted it.
    fn check(&self, expect: Expect) {
        let object = self.object.as_ref().unwrap();
        let mut shown = bare(object).as_object().unwrap().clone();
        shown.retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
        let mut text = Value::Object(shown).to_string();
        for entry in managed_fields(object).and_then(Value::as_array).into_iter().flatten() {
            let word = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
            let second = word("time").get(17..19).unwrap_or_default().to_owned();
            let (manager, operation, part) = (word("manager"), word("operation"), word("subresource"));
            text += &format!("\n{second} {manager} {operation} {part} {}", entry["fieldsV1"]);
        }
        expect.assert_eq(&text);
    }
}

#[test]
fn an_update_takes_what_it_changes() {
    let mut story = Story::config_map();
    story.update("a", json!({"data": {"x": "1", "y": "1"}})).update("b", json!({"data": {"y": "2"}}));
    story.check(expect![[r#"
        {"data":{"x":"1","y":"2"}}
        01 a Update - {"f:data":{".":{},"f:x":{}}}
        02 b Update - {"f:data":{"f:y":{}}}"#]]);
    story.update("b", json!({"data": {"x": null}}));
    story.check(expect![[r#"
        {"data":{"y":"2"}}
        01 a Update - {"f:data":{}}
        02 b Update - {"f:data":{"f:y":{}}}"#]]);
}

#[test]
fn an_apply_takes_out_what_it_names_no_more() {
    let mut story = Story::config_map();
    story.apply("a", json!({"data": {"x": "1", "y": "1"}})).apply("a", json!({"data": {"y": "1"}}));
    story.check(expect![[r#"
        {"data":{"y":"1"}}
        02 a Apply - {"f:data":{"f:y":{}}}"#]]);
}

#[test]
fn what_another_holds_stays() {
    let mut story = Story::config_map();
    story.apply("a", json!({"data": {"x": "1", "y": "1"}})).apply("b", json!({"data": {"x": "1"}}));
    story.apply("a", json!({"data": {"y": "1"}}));
    story.check(expect![[r#"
        {"data":{"x":"1","y":"1"}}
         b Apply - {"f:data":{"f:x":{}}}
        01 a Apply - {"f:data":{"f:y":{}}}"#]]);
}

#[test]
fn another_value_conflicts() {
    let mut story = Story::config_map();
    story.apply("a", json!({"data": {"x": "1", "y": "1"}}));
    story.refused(
        "b",
        json!({"data": {"x": "2"}}),
        expect![[r#"
            409 Apply failed with 1 conflict: conflict with "a": .data.x
            .data.x: conflict with "a""#]],
    );
    story.update("c", json!({"data": {"y": "2"}}));
    story.refused(
        "b",
        json!({"data": {"x": "2", "y": "3"}}),
        expect![[r#"
            409 Apply failed with 2 conflicts: conflicts with "a":
            - .data.x
            conflicts with "c" using v1:
            - .data.y
            .data.x: conflict with "a"
            .data.y: conflict with "c" using v1"#]],
    );
    story.try_apply("b", json!({"data": {"x": "2"}}), true).unwrap();
    story.check(expect![[r#"
        {"data":{"x":"2","y":"2"}}
        05 b Apply - {"f:data":{"f:x":{}}}
        03 c Update - {"f:data":{"f:y":{}}}"#]]);
}

#[test]
fn items_of_lists_are_held_by_their_keys() {
    let mut story = Story::service();
    let port = |name: &str, port: u16| json!({"name": name, "port": port, "protocol": "TCP"});
    story.apply("a", json!({"spec": {"ports": [port("p", 80)]}}));
    story.apply("b", json!({"spec": {"ports": [port("q", 81)]}}));
    story.check(expect![[r#"
        {"spec":{"ports":[{"name":"p","port":80,"protocol":"TCP"},{"name":"q","port":81,"protocol":"TCP"}]},"status":{"loadBalancer":{}}}
        01 a Apply - {"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{}}}}}
        02 b Apply - {"f:spec":{"f:ports":{"k:{\"port\":81,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{}}}}}"#]]);
    story.apply("a", json!({"spec": {}}));
    story.check(expect![[r#"
        {"spec":{"ports":[{"name":"q","port":81,"protocol":"TCP"}]},"status":{"loadBalancer":{}}}
        02 b Apply - {"f:spec":{"f:ports":{"k:{\"port\":81,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{}}}}}
        03 a Apply - {"f:spec":{}}"#]]);
}

#[test]
fn the_order_of_items_is_no_change() {
    let mut story = Story::service();
    let port = |port: u16| json!({"port": port, "protocol": "TCP"});
    story.apply("a", json!({"spec": {"ports": [port(80), port(81)]}}));
    let before = story.object.clone();
    story.apply("a", json!({"spec": {"ports": [port(81), port(80)]}}));
    assert_eq!(story.object, before);
}

#[test]
fn a_configuration_must_fit() {
    let mut story = Story::service();
    story.refused(
        "a",
        json!({"spec": {"ports": [{"port": 80}, {"port": 80}], "nothing": 1}}),
        expect![[r#"
            500 failed to create typed patch object (/x; /v1, Kind=Service): errors:
              .spec.nothing: field not declared in schema
              .spec.ports: duplicate entries for key [port=80,protocol="TCP"]"#]],
    );
    story.refused(
        "a",
        json!({"apiVersion": "v2"}),
        expect!["400 Incorrect version specified in apply patch. Specified patch version: v2, expected: v1"],
    );
    story.refused(
        "a",
        json!({"metadata": {"managedFields": []}}),
        expect!["400 metadata.managedFields must be nil"],
    );
}

#[test]
fn a_subresource_has_entries_of_its_own() {
    let mut story = Story::service();
    story.update("a", json!({"spec": {"type": "ClusterIP"}}));
    story.update_part("a", "status", json!({"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}));
    story.check(expect![[r#"
        {"spec":{"type":"ClusterIP"},"status":{"loadBalancer":{"ingress":[{"ip":"1.2.3.4"}]}}}
        01 a Update - {"f:spec":{"f:type":{}}}
        02 a Update status {"f:status":{".":{},"f:loadBalancer":{".":{},"f:ingress":{}}}}"#]]);
}

#[test]
fn entries_can_be_forgotten() {
    for reset in [json!([]), json!([{}])] {
        let mut story = Story::config_map();
        story.update("a", json!({"data": {"x": "1"}}));
        story.update("b", json!({"metadata": {"managedFields": reset}}));
        story.update("b", json!({"data": {"y": "1"}}));
        let held = managed_fields(story.object.as_ref().unwrap()).map(ToString::to_string);
        // An empty list says nothing; a list of one empty entry takes all away.
        assert_eq!(held.is_some(), reset == json!([]), "{reset}");
    }
}

#[test]
fn the_first_apply_keeps_what_was_there() {
    let mut story = Story::config_map();
    story.update("a", json!({"data": {"x": "1", "y": "1"}}));
    story.update("a", json!({"metadata": {"managedFields": [{}]}}));
    story.refused(
        "b",
        json!({"data": {"x": "2"}}),
        expect![[r#"
            409 Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.x
            .data.x: conflict with "before-first-apply" using v1"#]],
    );
    story.apply("b", json!({"data": {"x": "1"}}));
    story.check(expect![[r#"
        {"data":{"x":"1","y":"1"}}
         b Apply - {"f:data":{"f:x":{}}}
        04 before-first-apply Update - {"f:data":{".":{},"f:x":{},"f:y":{}}}"#]]);
}

#[test]
fn kubectl_takes_over_what_its_annotation_names() {
    let last =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"x": "1"}});
    let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
    let mut story = Story::config_map();
    story.update(
        "kubectl-client-side-apply",
        json!({"metadata": {"annotations": annotations}, "data": {"x": "1"}}),
    );
    story.update("other", json!({"data": {"y": "1"}}));
    story.refused(
        "kubectl",
        json!({"data": {"x": "2", "y": "2"}}),
        expect![[r#"
            409 Apply failed with 1 conflict: conflict with "other" using v1: .data.y
            .data.y: conflict with "other" using v1"#]],
    );
    story.apply("kubectl", json!({"data": {"x": "2"}}));
    let object = story.object.unwrap();
    let text = object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    let kept: Value = serde_json::from_str(text.unwrap()).unwrap();
    assert_eq!(kept["data"], json!({"x": "2"}));
}

#[test]
fn many_updaters_are_put_together() {
    let mut story = Story::config_map();
    for i in 0..12 {
        story.update(&format!("m{i:02}"), json!({"data": {format!("k{i:02}"): "1"}}));
    }
    let managed = read_managed(story.object.as_ref().unwrap());
    assert_eq!(managed.0.len(), 10);
    let ancient = managed.0.iter().find(|(owner, _)| owner.manager == "ancient-changes").unwrap();
    assert_eq!(ancient.1.fields.paths(), [".data", ".data.k00", ".data.k01", ".data.k02"]);
}

#[test]
fn nothing_changes_nothing() {
    let mut story = Story::config_map();
    story.update("a", json!({"data": {"x": "1"}}));
    let before = story.object.clone().unwrap();
    story.update("a", json!({})).update("b", json!({}));
    assert_eq!(story.object.clone().unwrap(), before);
    story.apply("b", json!({"data": {"x": "1"}}));
    let once = story.object.clone().unwrap();
    story.apply("b", json!({"data": {"x": "1"}}));
    assert_eq!(story.object.unwrap(), once);
}

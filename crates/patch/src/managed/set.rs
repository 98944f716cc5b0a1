//! Sets of fields: the tree that `fieldsV1` writes down.
//!
//! ```text
//! {"f:data": {".": {}, "f:a": {}}}     the fields .data and .data.a
//! {"f:data": {"f:a": {}}}              .data.a alone
//! ```
//! A path element is kept as the text of its JSON key: `f:` a field, `k:` an item by its keys, `v:`
//! an item by its value, `i:` an item by its place.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::schema::Place;

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<Box<str>, Node>);

/// What is known of one path element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    /// Whether the path that ends here is in the set.
    member: bool,
    below: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    /// Reads `fieldsV1`; `None` for what is no tree of maps.
    pub fn from_json(value: &Value) -> Option<Set> {
        let mut set = Set::default();
        for (key, value) in value.as_object()? {
            if key == "." {
                continue;
            }
            let below = value.as_object()?;
            let member = below.is_empty() || below.contains_key(".");
            set.0.insert(key.as_str().into(), Node { member, below: Set::from_json(value)? });
        }
        Some(set)
    }

    /// As `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let entries = self.0.iter().map(|(key, node)| {
            let mut below = node.below.to_json();
            if node.member
                && !node.below.is_empty()
                && let Value::Object(map) = &mut below
            {
                map.insert(".".into(), Value::Object(Map::new()));
            }
            (key.to_string(), below)
        });
        Value::Object(entries.collect())
    }

    /// The set of these fields of the root, each as a whole.
    pub fn of_fields<'a>(names: impl IntoIterator<Item = &'a str>) -> Set {
        let mut set = Set::default();
        for name in names {
            set.insert(&format!("f:{name}"));
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts in the path of this one element.
    pub fn insert(&mut self, element: &str) {
        self.0.entry(element.into()).or_default().member = true;
    }

    /// The set below an element, made where it is absent; [`Set::tidy`] takes it out again if it
    /// stays empty.
    pub fn below_mut(&mut self, element: &str) -> &mut Set {
        &mut self.0.entry(element.into()).or_default().below
    }

    /// Puts a set below an element.
    pub fn graft(&mut self, element: &str, below: Set) {
        if !below.is_empty() {
            let node = self.0.entry(element.into()).or_default();
            node.below = node.below.union(&below);
        }
    }

    pub fn contains(&self, element: &str) -> bool {
        self.0.get(element).is_some_and(|n| n.member)
    }

    pub fn below(&self, element: &str) -> Option<&Set> {
        self.0.get(element).map(|n| &n.below).filter(|s| !s.is_empty())
    }

    fn tidy(mut self) -> Set {
        self.0.retain(|_, node| !node.is_empty());
        self
    }

    pub fn union(&self, other: &Set) -> Set {
        let mut all = self.clone();
        for (key, node) in &other.0 {
            let mine = all.0.entry(key.clone()).or_default();
            mine.member |= node.member;
            mine.below = mine.below.union(&node.below);
        }
        all
    }

    pub fn intersection(&self, other: &Set) -> Set {
        let both = self.0.iter().filter_map(|(key, node)| {
            let theirs = other.0.get(key)?;
            let member = node.member && theirs.member;
            Some((key.clone(), Node { member, below: node.below.intersection(&theirs.below) }))
        });
        Set(both.collect()).tidy()
    }

    pub fn difference(&self, other: &Set) -> Set {
        let rest = self.0.iter().map(|(key, node)| match other.0.get(key) {
            None => (key.clone(), node.clone()),
            Some(theirs) => {
                let member = node.member && !theirs.member;
                (key.clone(), Node { member, below: node.below.difference(&theirs.below) })
            }
        });
        Set(rest.collect()).tidy()
    }

    /// Without the members of `other` and everything below them.
    pub fn recursive_difference(&self, other: &Set) -> Set {
        let rest = self.0.iter().filter_map(|(key, node)| match other.0.get(key) {
            None => Some((key.clone(), node.clone())),
            Some(theirs) if theirs.member => None,
            Some(theirs) => {
                let below = node.below.recursive_difference(&theirs.below);
                Some((key.clone(), Node { member: node.member, below }))
            }
        });
        Set(rest.collect()).tidy()
    }

    /// Where something below a declared field of a struct is in the set, the field itself too.
    pub fn with_named_fields(&self, place: Place<'_>) -> Set {
        let nodes = self.0.iter().map(|(key, node)| {
            let named = key.strip_prefix("f:").filter(|name| place.declares(name)).is_some();
            let below = match place.step(key) {
                Some(next) => node.below.with_named_fields(next),
                None => node.below.clone(),
            };
            (key.clone(), Node { member: node.member || (named && !below.is_empty()), below })
        });
        Set(nodes.collect())
    }

    /// Every path, as messages show it: `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.gather("", &mut out);
        out
    }

    fn gather(&self, front: &str, out: &mut Vec<String>) {
        let members = self.0.iter().filter(|(_, node)| node.member);
        out.extend(members.map(|(key, _)| front.to_owned() + &shown(key)));
        for (key, node) in &self.0 {
            if !node.below.is_empty() {
                node.below.gather(&(front.to_owned() + &shown(key)), out);
            }
        }
    }
}

/// A path element in a message.
pub fn shown(element: &str) -> String {
    let (kind, text) = element.split_at(2.min(element.len()));
    match kind {
        "f:" => format!(".{text}"),
        "v:" => format!("[={text}]"),
        "k:" => match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(keys) => {
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("[{}]", keys.join(","))
            }
            Err(_) => format!("[{text}]"),
        },
        _ => format!("[{text}]"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn sets() -> impl Strategy<Value = Set> {
        let leaf = Just(json!({}));
        let tree = leaf.prop_recursive(3, 12, 3, |inner| {
            prop::collection::btree_map(
                prop_oneof![Just("."), Just("f:a"), Just("f:b"), Just("v:1")],
                inner,
                0..4,
            )
            .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()))
        });
        tree.prop_map(|v| Set::from_json(&v).unwrap().tidy())
    }

    proptest! {
        #[test]
        fn json_and_back(set in sets()) {
            prop_assert_eq!(Set::from_json(&set.to_json()).unwrap(), set);
        }

        #[test]
        fn a_set_is_what_it_shares_and_what_it_does_not(a in sets(), b in sets()) {
            let (both, only) = (a.intersection(&b), a.difference(&b));
            prop_assert_eq!(both.union(&only), a.clone());
            prop_assert!(both.intersection(&only).is_empty());
            prop_assert!(a.recursive_difference(&b).difference(&only).is_empty());
        }
    }

    #[test]
    fn paths_are_shown_as_upstream_does() {
        let set = Set::from_json(
            &json!({"f:a": {"k:{\"name\":\"c\",\"port\":80}": {".": {}, "f:x": {}}, "v:\"y\"": {}}}),
        );
        assert_eq!(
            set.unwrap().paths(),
            [r#".a[name="c",port=80]"#, r#".a[="y"]"#, r#".a[name="c",port=80].x"#]
        );
    }
}

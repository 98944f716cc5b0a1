//! Single texts out of JSON bytes, without decoding the rest.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The values at `paths` as text (numbers and booleans printed), `None` where absent, in their order.
pub fn extract(json: &[u8], paths: &[&[&str]]) -> Vec<Option<String>> {
    let mut found = vec![None; paths.len()];
    let wanted: Vec<(usize, &[&str])> = paths.iter().copied().enumerate().collect();
    let mut reader = serde_json::Deserializer::from_slice(json);
    // Bytes of the store were written by the engine; what another writer broke has no fields.
    if (Seed { wanted: &wanted, found: &mut found }).deserialize(&mut reader).is_err() {
        return vec![None; paths.len()];
    }
    found
}

struct Seed<'a, 'p> {
    wanted: &'a [(usize, &'p [&'p str])],
    found: &'a mut Vec<Option<String>>,
}

impl Seed<'_, '_> {
    fn leaf(self, text: impl fmt::Display) {
        for (i, path) in self.wanted {
            if path.is_empty() {
                self.found[*i] = Some(text.to_string());
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<(), E> {
        self.leaf(v);
        Ok(())
    }
    fn visit_i64<E>(self, v: i64) -> Result<(), E> {
        self.leaf(v);
        Ok(())
    }
    fn visit_u64<E>(self, v: u64) -> Result<(), E> {
        self.leaf(v);
        Ok(())
    }
    fn visit_f64<E>(self, v: f64) -> Result<(), E> {
        self.leaf(v);
        Ok(())
    }
    fn visit_str<E>(self, v: &str) -> Result<(), E> {
        self.leaf(v);
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let below: Vec<(usize, &[&str])> = self
                .wanted
                .iter()
                .filter(|(_, path)| path.first() == Some(&&*key))
                .map(|(i, path)| (*i, &path[1..]))
                .collect();
            if below.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Seed { wanted: &below, found: self.found })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_there() {
        let json = br#"{"a":{"b":"x","n":3,"t":true},"c":[1,{"b":"no"}],"s":{"p":"q"}}"#;
        let found = extract(json, &[&["a", "b"], &["a", "n"], &["c", "b"], &["s", "p"], &["a", "t"]]);
        assert_eq!(found, [Some("x".into()), Some("3".into()), None, Some("q".into()), Some("true".into())]);
    }
}

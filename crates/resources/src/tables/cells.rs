//! What cells are made of: ages, selectors, lists that stop after a few items.

use api::Object;
use api::selector::Labels;
use jiff::Timestamp;
use registry::Cell;
use serde_json::{Map, Value};

pub const NONE: &str = "<none>";
pub const UNSET: &str = "<unset>";
pub const UNKNOWN: &str = "<unknown>";

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// A span as upstream's `duration.HumanDuration` writes it; fewer parts the longer it is.
pub fn short(span: jiff::SignedDuration) -> String {
    let seconds = span.as_secs();
    // Clocks differ a little between machines.
    if seconds < -1 {
        return "<invalid>".into();
    }
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match seconds {
        s if s < 0 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

/// The time since a timestamp, or `<unknown>`.
pub fn since(time: &str, now: Timestamp) -> String {
    time.parse::<Timestamp>().map_or_else(|_| UNKNOWN.into(), |t| short(now.duration_since(t)))
}

pub fn age(object: &Object, now: Timestamp) -> Cell {
    since(object.meta_str("creationTimestamp"), now).into()
}

/// A text of the object, or what stands for its absence.
pub fn text(object: &Object, path: &[&str], absent: &str) -> Cell {
    let text = object.get_str(path);
    if text.is_empty() { absent.into() } else { text.into() }
}

pub fn number(object: &Object, path: &[&str]) -> i64 {
    object.get(path).and_then(Value::as_i64).unwrap_or(0)
}

/// The length of a list or map.
pub fn count(object: &Object, path: &[&str]) -> usize {
    match object.get(path) {
        Some(Value::Array(list)) => list.len(),
        Some(Value::Object(map)) => map.len(),
        _ => 0,
    }
}

pub fn list<'a>(object: &'a Object, path: &[&str]) -> &'a [Value] {
    object.get(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn string<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A condition of `status.conditions`.
pub fn condition<'a>(object: &'a Object, kind: &str) -> Option<&'a Value> {
    list(object, &["status", "conditions"]).iter().find(|c| string(c, "type") == kind)
}

pub fn is_true(object: &Object, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| string(c, "status") == "True")
}

pub fn or<'a>(text: &'a str, absent: &'a str) -> &'a str {
    if text.is_empty() { absent } else { text }
}

/// A number or a text, as a message shows it.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// A map of labels as `k=v` pairs by key.
pub fn label_map(map: Option<&Value>) -> String {
    let Some(map) = map.and_then(Value::as_object).filter(|m| !m.is_empty()) else { return NONE.into() };
    join_sorted(map)
}

fn join_sorted(map: &Map<String, Value>) -> String {
    let mut pairs: Vec<String> =
        map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    pairs.sort();
    pairs.join(",")
}

/// A metav1.LabelSelector in the form that `kubectl -l` takes.
pub fn selector(selector: Option<&Value>, absent: &str) -> String {
    let Some(selector) = selector else { return absent.into() };
    let Ok(parsed) = serde_json::from_value(selector.clone()) else { return "<error>".into() };
    let mut labels = Labels::from_label_selector(&parsed);
    labels.0.sort_by(|a, b| key(a).cmp(key(b)));
    if labels.is_empty() { absent.into() } else { labels.to_string() }
}

fn key(requirement: &api::selector::Requirement) -> &str {
    use api::selector::Requirement as R;
    match requirement {
        R::In(k, _) | R::NotIn(k, _) | R::Exists(k) | R::NotExists(k) => k,
        R::GreaterThan(k, _) | R::LessThan(k, _) => k,
    }
}

/// One field of each container of a pod template, joined.
pub fn of_containers(object: &Object, template: &[&str], field: &str) -> Cell {
    let path: Vec<&str> = template.iter().copied().chain(["spec", "containers"]).collect();
    let all: Vec<&str> = list(object, &path).iter().map(|c| string(c, field)).collect();
    all.join(",").into()
}

/// At most three items, and how many more there are.
pub fn first_three(items: &[String]) -> String {
    let shown = items.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(",");
    if items.len() > 3 { format!("{shown} + {} more...", items.len() - 3) } else { shown }
}

/// Addresses that a load balancer gave.
pub fn load_balancer(object: &Object) -> Vec<String> {
    let mut all: Vec<String> = list(object, &["status", "loadBalancer", "ingress"])
        .iter()
        .map(|i| or(string(i, "ip"), string(i, "hostname")).to_owned())
        .filter(|a| !a.is_empty())
        .collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_fewer_parts_the_longer_they_are() {
        let check = |seconds: i64, shown: &str| {
            assert_eq!(short(jiff::SignedDuration::from_secs(seconds)), shown, "{seconds}");
        };
        check(-5, "<invalid>");
        check(-1, "0s");
        check(119, "119s");
        check(120, "2m");
        check(599, "9m59s");
        check(3 * HOUR - 1, "179m");
        check(3 * HOUR + 60, "3h1m");
        check(47 * HOUR, "47h");
        check(2 * DAY + 3 * HOUR, "2d3h");
        check(400 * DAY, "400d");
        check(3 * YEAR, "3y");
    }

    #[test]
    fn long_lists_stop_after_three() {
        let items: Vec<String> = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
        assert_eq!(first_three(&items), "a,b,c + 2 more...");
        assert_eq!(first_three(&items[..3]), "a,b,c");
    }
}

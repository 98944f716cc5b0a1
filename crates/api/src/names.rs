//! What names, labels and keys may be (RFC 1035/1123 as upstream reads them).
//! Each check answers the faults as upstream words them; none for a good value.

use std::sync::LazyLock;

use regex::Regex;

pub const DNS1123_LABEL_MAX: usize = 63;
pub const DNS1123_SUBDOMAIN_MAX: usize = 253;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const CONFIG_KEY: &str = "[-._a-zA-Z0-9]+";
const C_IDENTIFIER: &str = "[A-Za-z_][A-Za-z0-9_]*";
const REASON: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";
const PERCENT: &str = "[0-9]+%";
const HEADER: &str = "[-A-Za-z0-9]+";
const PATH: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
const WILDCARD: &str = r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

struct Pattern {
    regex: Regex,
    text: &'static str,
}

impl Pattern {
    fn new(text: &'static str) -> Pattern {
        Pattern { regex: Regex::new(&format!("^(?:{text})$")).expect("a pattern of this file"), text }
    }

    fn fault(&self, value: &str, message: &str, examples: &[&str]) -> Option<String> {
        if self.regex.is_match(value) {
            return None;
        }
        let examples: Vec<String> = examples.iter().map(|e| format!("'{e}'")).collect();
        let examples = examples.join(",  or ");
        let examples = if examples.is_empty() { String::new() } else { format!("e.g. {examples}, ") };
        Some(format!("{message} ({examples}regex used for validation is '{}')", self.text))
    }
}

macro_rules! pattern {
    ($name:ident, $text:expr) => {
        static $name: LazyLock<Pattern> = LazyLock::new(|| Pattern::new($text));
    };
}
pattern!(LABEL_RE, LABEL);
pattern!(SUBDOMAIN_RE, SUBDOMAIN);
pattern!(LABEL_1035_RE, LABEL_1035);
pattern!(QUALIFIED_RE, QUALIFIED);
pattern!(LABEL_VALUE_RE, LABEL_VALUE);
pattern!(CONFIG_KEY_RE, CONFIG_KEY);
pattern!(C_IDENTIFIER_RE, C_IDENTIFIER);
pattern!(WILDCARD_RE, WILDCARD);
pattern!(PERCENT_RE, PERCENT);
pattern!(HEADER_RE, HEADER);
pattern!(REASON_RE, REASON);
pattern!(PATH_RE, PATH);

fn max_len(limit: usize) -> String {
    format!("must be no more than {limit} {}", if limit == 1 { "byte" } else { "bytes" })
}

pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        faults.push(max_len(DNS1123_LABEL_MAX));
    }
    faults.extend(LABEL_RE.fault(
        value,
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
        &["my-name", "123-abc"],
    ));
    faults
}

pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        faults.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    faults.extend(SUBDOMAIN_RE.fault(
        value,
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        &["example.com"],
    ));
    faults
}

pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        faults.push(max_len(DNS1123_LABEL_MAX));
    }
    faults.extend(LABEL_1035_RE.fault(
        value,
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
        &["my-name", "abc-123"],
    ));
    faults
}

pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        faults.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    faults.extend(WILDCARD_RE.fault(
        value,
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
        &["*.example.com"],
    ));
    faults
}

/// A label's or annotation's key: `[prefix/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".into());
            } else {
                faults.extend(dns1123_subdomain(prefix).into_iter().map(|f| format!("prefix part {f}")));
            }
            name
        }
        _ => {
            let fault = QUALIFIED_RE.fault(
                "/",
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
                &["MyName", "my.name", "123-abc"],
            );
            let with_prefix = fault.unwrap_or_default()
                + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![with_prefix];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        faults.push(format!("name part {}", max_len(63)));
    }
    let fault = QUALIFIED_RE.fault(
        name,
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
        &["MyName", "my.name", "123-abc"],
    );
    faults.extend(fault);
    faults
}

pub fn label_value(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 63 {
        faults.push(max_len(63));
    }
    faults.extend(LABEL_VALUE_RE.fault(
        value,
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
        &["MyValue", "my_value", "12345"],
    ));
    faults
}

pub fn c_identifier(value: &str) -> Vec<String> {
    let fault = C_IDENTIFIER_RE.fault(
        value,
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        &["my_name", "MY_NAME", "MyName"],
    );
    fault.into_iter().collect()
}

pub fn env_var_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=') {
        return Vec::new();
    }
    let words =
        "a valid environment variable name must consist only of printable ASCII characters other than '='";
    vec![words.to_owned()]
}

/// A key of a ConfigMap's or Secret's data.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        faults.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    faults.extend(CONFIG_KEY_RE.fault(
        value,
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
        &["key.name", "KEY_NAME", "key-name"],
    ));
    faults.extend(dot_names(value));
    faults
}

fn dot_names(value: &str) -> Vec<String> {
    match value {
        "." => vec!["must not be '.'".into()],
        ".." => vec!["must not be '..'".into()],
        v if v.starts_with("..") => vec!["must not start with '..'".into()],
        _ => Vec::new(),
    }
}

/// A name that is one segment of a URL path, whatever else.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ['/', '%'].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A container's or service's port name (IANA_SVC_NAME).
pub fn port_name(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 15 {
        faults.push(max_len(15));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        faults.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        faults.push("must not begin or end with a hyphen".into());
    }
    faults
}

/// `25%`
pub fn percent(value: &str) -> Vec<String> {
    let fault = PERCENT_RE.fault(
        value,
        "a valid percent string must be a numeric string followed by an ending '%'",
        &["1%", "93%"],
    );
    fault.into_iter().collect()
}

/// A header's name of HTTP.
pub fn http_header_name(value: &str) -> Vec<String> {
    let fault = HEADER_RE.fault(
        value,
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        &["X-Header-Name"],
    );
    fault.into_iter().collect()
}

/// An address in a form that Go's parser takes: no zone, no leading zeros.
pub fn ip_address(value: &str) -> Vec<String> {
    match value.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    }
}

/// An address of an endpoint: none that leads to the machine itself or to nobody in particular.
pub fn endpoint_address(value: &str) -> Vec<String> {
    let Ok(ip) = value.parse::<std::net::IpAddr>() else {
        return vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()];
    };
    let mut faults = Vec::new();
    if ip.is_unspecified() {
        faults.push(format!("may not be unspecified ({ip})"));
    }
    if ip.is_loopback() {
        faults.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    let (link_local, multicast) = match ip {
        std::net::IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        faults.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if multicast {
        faults.push("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
    }
    faults
}

/// Why a condition is as it is: one word, as programs read it.
pub fn condition_reason(value: &str) -> Vec<String> {
    let fault = REASON_RE.fault(
        value,
        "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
        &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
    );
    fault.into_iter().collect()
}

/// `domain/path`, as controllers and signers are named.
pub fn domain_prefixed_path(value: &str) -> Vec<String> {
    let bad = || vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()];
    match value.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            let mut faults: Vec<String> =
                dns1123_subdomain(domain).into_iter().map(|f| format!("prefix part {f}")).collect();
            if !PATH_RE.regex.is_match(path) {
                faults.push(format!("Invalid path (regex used for validation is '{PATH}')"));
            }
            faults
        }
        _ => bad(),
    }
}

pub fn port_number(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) { vec![] } else { vec!["must be between 1 and 65535, inclusive".into()] }
}

//! Service ranges, and the addresses of them that somebody holds.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::Object;
use api::field::{Errors, Path};
use api::names;

use crate::at::{At, immutable};

/// An address by its name.
pub struct Address;

impl registry::Strategy for Address {
    /// The one way to write the address: nobody can hold it under another.
    fn name_faults(&self, name: &str, _generated: bool) -> Vec<String> {
        match name.parse::<IpAddr>() {
            Err(_) => vec!["not a valid ip address".into()],
            Ok(ip) if ip.to_string() != name => vec!["must be in canonical form".into()],
            Ok(_) => Vec::new(),
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        let Some(parent) = spec.some("parentRef") else {
            errors.required(&spec.path.child("parentRef"), "");
            return;
        };
        parent.check_if_set("group", names::dns1123_subdomain, errors);
        if parent.required("resource", errors) {
            parent.check("resource", names::path_segment, errors);
        }
        if parent.required("name", errors) {
            parent.check("name", names::path_segment, errors);
        }
        parent.check_if_set("namespace", names::path_segment, errors);
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        let path = ["spec", "parentRef"];
        immutable(new.get(&path), old.get(&path), &Path::new("spec.parentRef"), errors);
    }
}

/// A range.
pub struct Cidr;

impl registry::Strategy for Cidr {
    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        let all = spec.items("cidrs");
        let path = spec.path.child("cidrs");
        if all.is_empty() {
            errors.required(&path, "at least one CIDR required");
            return;
        }
        if all.len() > 2 {
            let shown = spec.raw("cidrs").cloned().unwrap_or_default();
            errors.invalid(&path, &shown, "may only hold up to 2 values");
            return;
        }
        let mut families = BTreeSet::new();
        for at in &all {
            let again = !families.insert(at.text().contains(':'));
            let Ok(range) = at.text().parse::<ipnet::IpNet>() else {
                let words = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.invalid(&at.path, at.text(), words);
                continue;
            };
            let canonical = range.trunc().to_string();
            if canonical != at.text() {
                errors.invalid(
                    &at.path,
                    at.text(),
                    format!("must be in canonical form ({})", api::field::quote(&canonical)),
                );
            }
            if again {
                let shown = spec.raw("cidrs").cloned().unwrap_or_default();
                errors.invalid(&path, &shown, "may specify no more than one IP for each IP family");
            }
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        let path = ["spec", "cidrs"];
        immutable(new.get(&path), old.get(&path), &Path::new("spec.cidrs"), errors);
    }
}

//! Faults of probes and lifecycle hooks.

use api::field::Errors;
use api::names;

use crate::at::{At, port_number_or_name};

pub(super) fn validate_all(container: &At<'_>, errors: &mut Errors) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.some(kind) else { continue };
        handler(&probe, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
        probe.all_non_negative(
            &[
                "initialDelaySeconds",
                "timeoutSeconds",
                "periodSeconds",
                "successThreshold",
                "failureThreshold",
            ],
            errors,
        );
        if let Some(grace) = probe.i64("terminationGracePeriodSeconds") {
            if kind == "readinessProbe" {
                probe.invalid(
                    "terminationGracePeriodSeconds",
                    grace,
                    "must not be set for readinessProbes",
                    errors,
                );
            } else if grace <= 0 {
                probe.invalid("terminationGracePeriodSeconds", grace, "must be greater than 0", errors);
            }
        }
        let successes = probe.i64("successThreshold").unwrap_or(1);
        if kind != "readinessProbe" && successes != 1 {
            probe.invalid("successThreshold", successes, "must be 1", errors);
        }
    }
}

/// Exactly one way to act, among those that the place knows.
pub(super) fn handler(at: &At<'_>, kinds: &[&str], errors: &mut Errors) {
    let mut found = 0;
    for kind in kinds {
        let Some(action) = at.some(kind) else { continue };
        found += 1;
        if found > 1 {
            errors.forbidden(&action.path, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" if action.len("command") == 0 => errors.required(&action.path.child("command"), ""),
            "httpGet" => http_get(&action, errors),
            "tcpSocket" => port_number_or_name(&action.field("port"), errors),
            "grpc" => {
                let port = action.i64("port").unwrap_or(0);
                for fault in names::port_number(port) {
                    action.invalid("port", port, &fault, errors);
                }
            }
            "sleep" => {
                let seconds = action.i64("seconds").unwrap_or(0);
                if seconds < 0 {
                    let words = format!(
                        "must be non-negative and less than or equal to terminationGracePeriodSeconds ({seconds})"
                    );
                    errors.invalid(&action.path, seconds, words);
                }
            }
            _ => {}
        }
    }
    if found == 0 {
        errors.required(&at.path, "must specify a handler type");
    }
}

fn http_get(at: &At<'_>, errors: &mut Errors) {
    at.required("path", errors);
    port_number_or_name(&at.field("port"), errors);
    at.one_of_if_set("scheme", &["HTTP", "HTTPS"], errors);
    for header in at.items("httpHeaders") {
        // The fault stands at the list.
        for fault in names::http_header_name(header.str("name")) {
            at.invalid("httpHeaders", header.str("name"), &fault, errors);
        }
    }
}

//! Faults of probes and lifecycle hooks.

use api::field::Errors;
use api::names;

use crate::at::{At, port_number_or_name};

/// `grace` is the pod's, in seconds.
pub(super) fn validate_all(container: &At<'_>, grace: Option<i64>, errors: &mut Errors) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.some(kind) else { continue };
        handler(&probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace, errors);
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
        if let Some(own) = probe.i64("terminationGracePeriodSeconds") {
            if own <= 0 {
                probe.invalid("terminationGracePeriodSeconds", own, "must be greater than 0", errors);
            }
            if kind == "readinessProbe" {
                let words = "must not be set for readinessProbes";
                probe.invalid("terminationGracePeriodSeconds", own, words, errors);
            }
        }
        let successes = probe.i64("successThreshold").unwrap_or(1);
        if kind != "readinessProbe" && successes != 1 {
            probe.invalid("successThreshold", successes, "must be 1", errors);
        }
    }
}

/// Exactly one way to act, among those that the place knows.
/// `grace` is the pod's, in seconds.
pub(super) fn handler(at: &At<'_>, kinds: &[&str], grace: Option<i64>, errors: &mut Errors) {
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
                // Without a grace period the pod has a fault that is told of elsewhere.
                if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
                    let words =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
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

/// Signals that a process of Linux can be stopped with.
const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// The signal that stops a container: one that the system it runs on knows, which the pod must name.
pub(super) fn stop_signal(at: &At<'_>, os: Option<&str>, errors: &mut Errors) {
    let known: &[&str] = match os {
        None => {
            errors.forbidden(&at.path, "may not be set for containers with empty `spec.os.name`");
            return;
        }
        Some("linux") => SIGNALS,
        Some("windows") => &["SIGKILL", "SIGTERM"],
        Some(_) => return,
    };
    if !known.contains(&at.text()) {
        errors.not_supported(&at.path, at.text(), known);
    }
}

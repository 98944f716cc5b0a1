//! Faults of the settings of Windows containers.

use api::field::Errors;
use api::names;

use crate::at::At;

/// Bytes.
const SPEC_MAX: usize = 64 * 1024;
const DOMAIN_MAX: usize = 256;
const USER_MAX: usize = 104;
const BAD: &str = "\"/\\:;|=,+*?<>@[]";

/// Faults of `windowsOptions`.
pub(super) fn options(at: &At<'_>, errors: &mut Errors) {
    if at.has("gmsaCredentialSpecName") {
        at.check("gmsaCredentialSpecName", names::dns1123_subdomain, errors);
    }
    if at.has("gmsaCredentialSpec") {
        let spec = at.str("gmsaCredentialSpec");
        if spec.is_empty() {
            at.invalid("gmsaCredentialSpec", spec, "gmsaCredentialSpec cannot be an empty string", errors);
        } else if spec.len() > SPEC_MAX {
            at.invalid("gmsaCredentialSpec", spec, "gmsaCredentialSpec size must be under 64 KiB", errors);
        }
    }
    if at.has("runAsUserName") {
        let user = at.str("runAsUserName");
        for fault in user_faults(user) {
            at.invalid("runAsUserName", user, &fault, errors);
        }
    }
}

/// What is wrong with `[DOMAIN\]USER`.
fn user_faults(text: &str) -> Vec<String> {
    let alone = |fault: &str| vec![format!("runAsUserName cannot {fault}")];
    if text.is_empty() {
        return alone("be an empty string");
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return alone("contain control characters");
    }
    if text.matches('\\').count() > 1 {
        return alone("contain more than one backslash");
    }
    let (domain, user) = match text.split_once('\\') {
        Some((domain, user)) => (Some(domain), user),
        None => (None, text),
    };
    let mut faults = Vec::new();
    if domain.is_some_and(|d| d.len() >= DOMAIN_MAX) {
        faults.push(format!("runAsUserName's Domain length must be under {DOMAIN_MAX} characters"));
    }
    if domain.is_some_and(|d| !is_net_bios(d) && !is_dns(d)) {
        faults.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        faults.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > USER_MAX {
        faults.push(format!("runAsUserName's User length must not be longer than {USER_MAX} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        faults.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.chars().any(|c| BAD.contains(c)) {
        faults.push(format!("runAsUserName's User cannot contain the following characters: {BAD}"));
    }
    faults
}

/// One to fifteen characters, of which a few mean something to Windows.
fn is_net_bios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.chars().any(|c| "\\/:*?\"<>|".contains(c))
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// A container that is a process of a Windows host needs the host's network, and all of them or none are.
pub(super) fn host_process(spec: &At<'_>, errors: &mut Errors) {
    let says =
        |at: &At<'_>| at.field("windowsOptions").raw("hostProcess").and_then(serde_json::Value::as_bool);
    let pod = says(&spec.field("securityContext"));
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let all: Vec<At<'_>> = lists.iter().flat_map(|l| spec.items(l)).collect();
    let mut yes = 0;
    for container in &all {
        let at = container.field("securityContext");
        let own = says(&at);
        let path = at.path.child("windowsOptions").child("hostProcess");
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            errors.invalid(
                &path,
                own,
                format!("pod hostProcess value must be identical if both are specified, was {pod}"),
            );
        }
        if own.or(pod) == Some(true) {
            yes += 1;
        }
    }
    if yes > 0 && yes < all.len() {
        let words =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(&spec.path, "", words);
    }
    if yes > 0 && !spec.is("hostNetwork") {
        let words = "hostNetwork must be true if pod contains any hostProcess containers";
        spec.invalid("hostNetwork", false, words, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_a_domain_perhaps() {
        let table: &[(&str, &[&str])] = &[
            ("ContainerUser", &[]),
            (r"domain\user", &[]),
            ("", &["cannot be an empty string"]),
            ("a\tb", &["cannot contain control characters"]),
            (r"a\b\c", &["cannot contain more than one backslash"]),
            (r"\user", &["'s Domain doesn't match the NetBios nor the DNS format"]),
            (r"domain\", &["'s User cannot be empty"]),
            ("...", &["'s User cannot contain only periods or spaces"]),
            ("a/b", &["'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"]),
        ];
        for (user, faults) in table {
            let found = user_faults(user);
            assert_eq!(found.len(), faults.len(), "{user}: {found:?}");
            for (found, wanted) in found.iter().zip(*faults) {
                assert!(found.ends_with(wanted), "{user}: {found}");
            }
        }
        assert!(user_faults(&"a".repeat(105))[0].ends_with("must not be longer than 104 characters"));
    }
}

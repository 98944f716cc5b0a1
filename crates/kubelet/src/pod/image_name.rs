//! Names of images: the grammar of distribution's references.

/// `name` with its default tag where it has neither tag nor digest.
///
/// # Errors
/// Upstream's words for what is no reference.
pub fn with_tag(name: &str) -> Result<String, String> {
    let invalid = |why: &str| Err(format!("couldn't parse image name {name:?}: {why}"));
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    let (repository, tag) = match rest.rsplit_once(':') {
        // A colon before a slash stands before a port.
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (rest, None),
    };
    let domain = |text: &str| text.contains(['.', ':']) || text == "localhost" || text != text.to_lowercase();
    let (registry, path) = match repository.split_once('/') {
        Some((first, path)) if domain(first) => (Some(first), path),
        _ => (None, repository),
    };
    if registry.is_none() && path.len() == 64 && path.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return invalid(&format!(
            "invalid repository name ({path}), cannot specify 64-byte hexadecimal strings"
        ));
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase())
        && path.split('/').all(|one| component(&one.to_lowercase()))
    {
        return invalid("invalid reference format: repository name must be lowercase");
    }
    let good = registry.is_none_or(is_domain)
        && path.split('/').all(component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    match (good, tag, digest) {
        (false, ..) => invalid("invalid reference format"),
        (true, None, None) => Ok(format!("{name}:latest")),
        (true, ..) => Ok(name.to_owned()),
    }
}

/// Lowercase letters and digits, parted by `.`, `_`, `__` or dashes.
fn component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let fine = |separator: &str| {
        matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
    };
    let ends = text.bytes().next().is_some_and(alphanumeric) && text.bytes().last().is_some_and(alphanumeric);
    ends && separators.into_iter().all(fine)
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let part = |part: &str| {
        let inner = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        !part.is_empty() && inner && !part.starts_with('-') && !part.ends_with('-')
    };
    let host = address.map_or_else(
        || host.split('.').all(part),
        |address| !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':'),
    );
    host && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let named = algorithm.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    named && hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, want: Option<&str>) {
        assert_eq!(with_tag(name).ok().as_deref(), want, "{name}");
    }

    #[test]
    fn names_follow_the_grammar() {
        check("busybox", Some("busybox:latest"));
        check("busybox:1.35", Some("busybox:1.35"));
        check("localhost:5000/a/b", Some("localhost:5000/a/b:latest"));
        check("[fe80::1]:5000/a", Some("[fe80::1]:5000/a:latest"));
        let digest = format!("a@sha256:{}", "0".repeat(64));
        check(&digest, Some(&digest));
        for bad in
            ["", " ", "a b", "BAD!!", "Nginx", "a:", "a@sha256:1", "/a", "a//b", "a__-b", &"0".repeat(64)]
        {
            check(bad, None);
        }
    }

    #[test]
    fn refusals_are_worded_as_upstream_words_them() {
        let want = "couldn't parse image name \"Nginx\": invalid reference format: repository name must be lowercase";
        assert_eq!(with_tag("Nginx"), Err(want.into()));
        assert_eq!(
            with_tag("a:!"),
            Err("couldn't parse image name \"a:!\": invalid reference format".into())
        );
    }
}

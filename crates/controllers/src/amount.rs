//! Numbers that may be given as a share: `3` or `25%`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The number, or the share of `of`, rounded up or down.
pub fn resolve(value: &IntOrString, of: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => share(text, of, up),
    }
}

/// A share such as `25%`; what is none is zero.
pub fn share(text: &str, of: i32, up: bool) -> i32 {
    let percent: i32 = text.trim_end_matches('%').parse().unwrap_or_default();
    let product = i64::from(percent) * i64::from(of);
    let part = if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
    i32::try_from(part).unwrap_or(i32::MAX)
}

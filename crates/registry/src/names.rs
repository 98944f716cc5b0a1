//! Names and times that the server makes.

use jiff::Timestamp;
use rand::RngExt;

/// No vowels, and nothing that looks like another letter.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
const MAX_BASE: usize = 63 - SUFFIX;

/// `generateName` with five random letters.
pub fn generate(base: &str) -> String {
    let mut cut = base.len().min(MAX_BASE);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut rng = rand::rng();
    let mut name = base[..cut].to_owned();
    name.extend((0..SUFFIX).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])));
    name
}

/// RFC 3339 in UTC, whole seconds: metav1.Time.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

//! The time, as CRI messages and log entries have it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch.
pub fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// `nanos` since the epoch as RFC 3339 with nine decimals, in UTC.
pub fn rfc3339(nanos: i64) -> String {
    format!(
        "{:.9}",
        jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nanos: i64, want: &str) {
        assert_eq!(rfc3339(nanos), want);
    }

    #[test]
    fn times_are_written_in_utc() {
        check(0, "1970-01-01T00:00:00.000000000Z");
        check(951_827_696_000_000_001, "2000-02-29T12:34:56.000000001Z");
        check(1_475_713_029_669_794_202, "2016-10-06T00:17:09.669794202Z");
    }
}

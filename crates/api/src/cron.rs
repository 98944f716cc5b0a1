//! Schedules of cron: reading them, with upstream's words for what is wrong, and when they come due.

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::field::quote;

/// A field's bounds and the names that stand for its numbers.
struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { min: 0, max: 59, names: &[] },
    Field { min: 0, max: 23, names: &[] },
    Field { min: 1, max: 31, names: &[] },
    Field { min: 1, max: 12, names: MONTHS },
    Field { min: 0, max: 6, names: DAYS },
];
/// What the short forms stand for.
const DESCRIPTORS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
/// A schedule that does not come due within this time never does (the 30th of February).
const YEARS: i16 = 5;

/// When something is to happen again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The zone its text names, if it names one.
    zone: Option<TimeZone>,
    times: Times,
}

#[derive(Clone, Debug, PartialEq)]
enum Times {
    Every(Duration),
    /// The numbers of each field, as bits; and whether day of month and day of week are free (`*`).
    Fields {
        sets: [u64; 5],
        free_days: [bool; 2],
    },
}

impl Schedule {
    /// Reads `*/5 * * * *`, `@daily` or `@every 1h30m`, perhaps after `TZ=Europe/Berlin`.
    ///
    /// # Errors
    /// Why it is none, as upstream's parser says it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text;
        let mut zone = None;
        if let Some(named) = rest.strip_prefix("TZ=").or_else(|| rest.strip_prefix("CRON_TZ=")) {
            let (name, after) = named.split_once(' ').ok_or("missing schedule after time zone")?;
            let found = TimeZone::get(name)
                .map_err(|_| format!("provided bad location {name}: unknown time zone {name}"))?;
            zone = Some(found);
            rest = after.trim();
        }
        if rest.starts_with('@') {
            if let Some(span) = rest.strip_prefix("@every ") {
                let every = duration(span).ok_or_else(|| format!("failed to parse duration {rest}"))?;
                // Whole seconds, and one at least.
                let every = Duration::from_secs(every.as_secs().max(1));
                return Ok(Self { zone, times: Times::Every(every) });
            }
            let known = DESCRIPTORS.iter().find(|(name, _)| *name == rest);
            rest = known.ok_or_else(|| format!("unrecognized descriptor: {rest}"))?.1;
        }
        let parts: Vec<&str> = rest.split_whitespace().collect();
        if parts.len() != FIELDS.len() {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
        }
        let mut sets = [0; 5];
        for ((part, field), set) in parts.iter().zip(&FIELDS).zip(&mut sets) {
            for range in part.split(',') {
                *set |= field.read(range)?;
            }
        }
        let free = |part: &str| part.split(',').any(|range| range.starts_with(['*', '?']));
        Ok(Self { zone, times: Times::Fields { sets, free_days: [free(parts[2]), free(parts[4])] } })
    }

    /// The first time after `after`, by the clocks of `zone` unless the schedule names its own.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let (sets, free_days) = match &self.times {
            Times::Every(every) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                return whole.checked_add(*every).ok();
            }
            Times::Fields { sets, free_days } => (sets, *free_days),
        };
        let zone = self.zone.as_ref().unwrap_or(zone);
        let start = after.to_zoned(zone.clone()).datetime();
        let mut date = start.date();
        let mut earliest = u32::try_from(start.hour()).ok()? * 60 + u32::try_from(start.minute()).ok()?;
        while date.year() <= start.year() + YEARS {
            if is_day(sets, free_days, date) {
                for minute in minutes(sets).filter(|minute| *minute >= earliest) {
                    let found = at(date, minute, zone).filter(|found| *found > after);
                    if found.is_some() {
                        return found;
                    }
                }
            }
            earliest = 0;
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }
}

/// The moment the clocks show a minute of a day; `None` for one they skip.
fn at(date: Date, minute: u32, zone: &TimeZone) -> Option<Timestamp> {
    let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
    let shown: DateTime = date.at(hour, minute, 0, 0);
    let moment = zone.to_ambiguous_zoned(shown);
    if matches!(moment.offset(), jiff::tz::AmbiguousOffset::Gap { .. }) {
        return None;
    }
    moment.compatible().ok().map(|zoned| zoned.timestamp())
}

fn has(set: u64, number: impl Into<i64>) -> bool {
    set & (1 << number.into()) != 0
}

/// Either of the two day fields is enough, unless one is free: then both must fit.
fn is_day(sets: &[u64; 5], free: [bool; 2], date: Date) -> bool {
    let day = has(sets[2], date.day());
    let weekday = has(sets[4], date.weekday().to_sunday_zero_offset());
    has(sets[3], date.month()) && if free[0] || free[1] { day && weekday } else { day || weekday }
}

/// The minutes of a day that fit.
fn minutes(sets: &[u64; 5]) -> impl Iterator<Item = u32> {
    let (minutes, hours) = (sets[0], sets[1]);
    (0..24).filter(move |hour| has(hours, *hour)).flat_map(move |hour| {
        (0..60).filter(move |minute| has(minutes, *minute)).map(move |minute| hour * 60 + minute)
    })
}

/// A duration as Go writes it: `1h30m`, `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        rest = &rest[end..];
    }
    Some(total)
}

impl Field {
    /// `*`, `3`, `1-5`, each perhaps with `/2`.
    fn read(&self, range: &str) -> Result<u64, String> {
        let mut halves = range.split('/');
        let span = halves.next().unwrap_or_default();
        let step = halves.next();
        if halves.next().is_some() {
            return Err(format!("too many slashes: {range}"));
        }
        let mut ends = span.split('-');
        let low = ends.next().unwrap_or_default();
        let high = ends.next();
        if ends.next().is_some() {
            return Err(format!("too many hyphens: {range}"));
        }
        let (start, mut end) = if matches!(low, "*" | "?") {
            (self.min, self.max)
        } else {
            let start = self.number(low)?;
            (start, high.map_or(Ok(start), |h| self.number(h))?)
        };
        let mut every = 1;
        if let Some(step) = step {
            every = number(step)?;
            if high.is_none() {
                end = self.max;
            }
            if every == 0 {
                return Err(format!("step of range should be a positive number: {range}"));
            }
        }
        if start < self.min {
            return Err(format!("beginning of range ({start}) below minimum ({}): {range}", self.min));
        }
        if end > self.max {
            return Err(format!("end of range ({end}) above maximum ({}): {range}", self.max));
        }
        if start > end {
            return Err(format!("beginning of range ({start}) beyond end of range ({end}): {range}"));
        }
        Ok((start..=end).step_by(every as usize).fold(0, |set, number| set | 1 << number))
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let name = text.to_lowercase();
        match self.names.iter().position(|n| *n == name) {
            Some(i) => Ok(i as u32 + self.min),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Result<u32, String> {
    let parsed: Result<i64, _> = text.parse();
    match parsed {
        Err(_) => Err(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {}: invalid syntax",
            quote(text)
        )),
        Ok(n) => u32::try_from(n).map_err(|_| format!("negative number ({n}) not allowed: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_five_fields_or_a_descriptor() {
        let check = |schedule: &str, why: &str| {
            assert_eq!(Schedule::parse(schedule).err().unwrap_or_default(), why, "{schedule}");
        };
        check("*/5 * * * *", "");
        check("0 9-17/2 * jan-mar mon,fri", "");
        check("@daily", "");
        check("@every 1h30m", "");
        check("@every soon", "failed to parse duration @every soon");
        check("CRON_TZ=UTC 0 0 * * *", "");
        check("61 * * * *", "end of range (61) above maximum (59): 61");
        check("* * * *", "expected exactly 5 fields, found 4: [* * * *]");
        check("@sometimes", "unrecognized descriptor: @sometimes");
        check("y * * * *", "failed to parse int from y: strconv.Atoi: parsing \"y\": invalid syntax");
        check("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1");
    }

    #[test]
    fn they_come_due() {
        let check = |schedule: &str, zone: &str, after: &str, expected: &str| {
            let zone = TimeZone::get(zone).unwrap();
            let next = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &zone);
            let next = next.map_or("never".to_owned(), |next| next.to_string());
            assert_eq!(next, expected, "{schedule}");
        };
        check("*/15 * * * *", "UTC", "2025-01-01T10:07:30Z", "2025-01-01T10:15:00Z");
        check("*/15 * * * *", "UTC", "2025-01-01T10:15:00Z", "2025-01-01T10:30:00Z");
        check("0 0 1 * *", "UTC", "2025-01-31T10:00:00Z", "2025-02-01T00:00:00Z");
        check("0 12 13 * fri", "UTC", "2025-01-01T00:00:00Z", "2025-01-03T12:00:00Z");
        check("0 12 * * fri", "UTC", "2025-01-04T00:00:00Z", "2025-01-10T12:00:00Z");
        check("0 0 30 2 *", "UTC", "2025-01-01T00:00:00Z", "never");
        check("@hourly", "UTC", "2025-12-31T23:30:00Z", "2026-01-01T00:00:00Z");
        check("@every 90s", "UTC", "2025-01-01T00:00:00.5Z", "2025-01-01T00:01:30Z");
        check("0 9 * * *", "Europe/Berlin", "2025-07-01T08:00:00Z", "2025-07-02T07:00:00Z");
        check("TZ=Asia/Tokyo 0 9 * * *", "UTC", "2025-07-01T08:00:00Z", "2025-07-02T00:00:00Z");
        // The clocks skip this time on the day that summer begins.
        check("30 2 * * *", "Europe/Berlin", "2025-03-29T12:00:00Z", "2025-03-31T00:30:00Z");
    }
}

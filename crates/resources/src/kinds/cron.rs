//! Whether a text is a schedule of cron, in the words of upstream's parser.

use api::field::quote;

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
const DESCRIPTORS: &[&str] =
    &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// # Errors
/// Why it is none.
pub fn check(schedule: &str) -> Result<(), String> {
    let mut rest = schedule;
    if let Some(zone) = rest.strip_prefix("TZ=").or_else(|| rest.strip_prefix("CRON_TZ=")) {
        let (name, after) = zone.split_once(' ').ok_or("missing schedule after time zone")?;
        jiff::tz::TimeZone::get(name)
            .map_err(|_| format!("provided bad location {name}: unknown time zone {name}"))?;
        rest = after.trim();
    }
    if rest.starts_with('@') {
        if let Some(span) = rest.strip_prefix("@every ") {
            let good = !span.is_empty() && span.bytes().next().is_some_and(|b| b.is_ascii_digit());
            return if good { Ok(()) } else { Err(format!("failed to parse duration {rest}")) };
        }
        return if DESCRIPTORS.contains(&rest) {
            Ok(())
        } else {
            Err(format!("unrecognized descriptor: {rest}"))
        };
    }
    let parts: Vec<&str> = rest.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    }
    for (part, field) in parts.iter().zip(&FIELDS) {
        part.split(',').try_for_each(|range| field.check(range))?;
    }
    Ok(())
}

impl Field {
    /// `*`, `3`, `1-5`, each perhaps with `/2`.
    fn check(&self, range: &str) -> Result<(), String> {
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
        if let Some(step) = step {
            let step = number(step)?;
            if high.is_none() {
                end = self.max;
            }
            if step == 0 {
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
        Ok(())
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
    #[test]
    fn schedules_are_five_fields_or_a_descriptor() {
        let check = |schedule: &str, why: &str| {
            assert_eq!(super::check(schedule).err().unwrap_or_default(), why, "{schedule}");
        };
        check("*/5 * * * *", "");
        check("0 9-17/2 * jan-mar mon,fri", "");
        check("@daily", "");
        check("CRON_TZ=UTC 0 0 * * *", "");
        check("61 * * * *", "end of range (61) above maximum (59): 61");
        check("* * * *", "expected exactly 5 fields, found 4: [* * * *]");
        check("@sometimes", "unrecognized descriptor: @sometimes");
        check("y * * * *", "failed to parse int from y: strconv.Atoi: parsing \"y\": invalid syntax");
        check("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1");
    }
}

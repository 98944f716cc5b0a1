//! Quantities: exact decimal numbers with SI or binary suffixes (`100m`, `1.5Gi`, `2e3`).
//!
//! Held as an integer of nano-units, so that every value the API allows is exact; amounts beyond
//! `i128` nano-units do not exist, and finer ones are rounded up as upstream does.

use std::fmt;

const NANO: i128 = 1_000_000_000;

/// Which family of suffixes the text had; kept when it is printed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// An amount. Compares by value, whatever the format.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> std::cmp::Ordering {
        self.nano.cmp(&other.nano)
    }
}

/// The text is no quantity; the message is upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct Malformed;

impl Quantity {
    pub const ZERO: Quantity = Quantity { nano: 0, format: Format::DecimalSi };

    pub fn parse(text: &str) -> Result<Quantity, Malformed> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(Malformed);
        }
        let (scale, format) = suffix_of(suffix).ok_or(Malformed)?;
        let nano = scale.apply(whole, fraction);
        Ok(Quantity { nano: if negative { -nano } else { nano }, format })
    }

    pub fn from_i64(value: i64) -> Quantity {
        Quantity { nano: i128::from(value) * NANO, format: Format::DecimalSi }
    }

    pub fn from_milli(value: i64) -> Quantity {
        Quantity { nano: i128::from(value) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// A byte count that prints with `Ki`, `Mi`, …
    pub fn from_bytes(value: i64) -> Quantity {
        Quantity { nano: i128::from(value) * NANO, format: Format::BinarySi }
    }

    /// Whole units, rounded up; capped to `i64`.
    pub fn value(self) -> i64 {
        clamp(div_up(self.nano, NANO))
    }

    /// Thousandths, rounded up; capped to `i64`.
    pub fn milli(self) -> i64 {
        clamp(div_up(self.nano, NANO / 1000))
    }

    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Whether it is a whole number of units.
    pub fn is_integer(self) -> bool {
        self.nano % NANO == 0
    }
}

impl Quantity {
    /// A sum is written as its first amount is, unless that is nothing: upstream's rule.
    fn shared_format(self, other: Quantity) -> Format {
        if self.is_zero() { other.format } else { self.format }
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        Quantity { nano: self.nano.saturating_add(other.nano), format: self.shared_format(other) }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        Quantity { nano: self.nano.saturating_sub(other.nano), format: self.shared_format(other) }
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Division that rounds away from zero.
fn div_up(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

enum Scale {
    Ten(i32),
    Two(u32),
}

impl Scale {
    fn apply(&self, whole: &str, fraction: &str) -> i128 {
        let mut mantissa: i128 = 0;
        let mut shift: i32 = 0;
        for (in_fraction, b) in whole.bytes().map(|b| (false, b)).chain(fraction.bytes().map(|b| (true, b))) {
            match mantissa.checked_mul(10).and_then(|m| m.checked_add(i128::from(b - b'0'))) {
                Some(m) if m < i128::MAX / 1_000 => {
                    mantissa = m;
                    shift -= i32::from(in_fraction);
                }
                _ => shift += i32::from(!in_fraction),
            }
        }
        // Nano-units: ten to the ninth more.
        match self {
            Scale::Ten(power) => shifted(mantissa, shift.saturating_add(*power).saturating_add(9)),
            Scale::Two(bits) => {
                let scaled = mantissa.saturating_mul(1i128 << bits);
                shifted(scaled, shift.saturating_add(9))
            }
        }
        .min(i128::from(i64::MAX) * NANO)
    }
}

fn shifted(mantissa: i128, power: i32) -> i128 {
    if mantissa == 0 {
        return 0;
    }
    if power >= 0 {
        let factor = 10i128.checked_pow(power.unsigned_abs());
        return factor.and_then(|f| mantissa.checked_mul(f)).unwrap_or(i128::MAX);
    }
    match 10i128.checked_pow(power.unsigned_abs()) {
        Some(divisor) => div_up(mantissa, divisor),
        None => 1,
    }
}

fn suffix_of(suffix: &str) -> Option<(Scale, Format)> {
    let decimal = |power| Some((Scale::Ten(power), Format::DecimalSi));
    let binary = |bits| Some((Scale::Two(bits), Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        other => {
            let exponent = other.strip_prefix(['e', 'E'])?;
            let power: i32 = exponent.parse().ok()?;
            Some((Scale::Ten(power), Format::DecimalExponent))
        }
    }
}

/// The canonical form: no fraction, the largest suffix that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && self.nano.abs() >= 1024 * NANO && self.nano % NANO == 0 {
            let mut value = self.nano / NANO;
            let mut suffix = "";
            for next in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
                if value % 1024 != 0 {
                    break;
                }
                value /= 1024;
                suffix = next;
            }
            return write!(f, "{value}{suffix}");
        }
        let mut value = self.nano;
        let mut power = -9;
        while value % 1000 == 0 && power < 18 {
            value /= 1000;
            power += 3;
        }
        if self.format == Format::DecimalExponent {
            return if power == 0 { write!(f, "{value}") } else { write!(f, "{value}e{power}") };
        }
        let suffix = match power {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{value}{suffix}")
    }
}

impl std::str::FromStr for Quantity {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Quantity, Malformed> {
        Quantity::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, canonical: &str) {
        assert_eq!(Quantity::parse(text).unwrap().to_string(), canonical, "{text}");
    }

    #[test]
    fn exponents_may_be_huge() {
        assert_eq!(Quantity::parse("1e2147483647").unwrap().value(), i64::MAX);
        assert_eq!(Quantity::parse("12e-2147483648").unwrap().to_string(), "1e-9");
    }

    #[test]
    fn canonical_forms() {
        check("1.5", "1500m");
        check("1.5Gi", "1536Mi");
        check("0.1m", "100u");
        check("1000", "1k");
        check("1024Ki", "1Mi");
        check("100Mi", "100Mi");
        check("2e3", "2e3");
        check("0.5", "500m");
        check("-1.5", "-1500m");
        check("1Ei", "1Ei");
        check("0.1n", "1n");
        check("500Ki", "500Ki");
        for bad in ["", "a", "1.2.3", "1Kii", "--1", ".", "1 Gi", "1e"] {
            assert!(Quantity::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn prints_what_it_reads(n in any::<i32>(), suffix in prop::sample::select(vec!["", "m", "k", "Ki", "Gi", "M", "e3"])) {
            let q = Quantity::parse(&format!("{n}{suffix}")).unwrap();
            prop_assert_eq!(Quantity::parse(&q.to_string()).unwrap(), q);
        }

        #[test]
        fn never_panics(text in "\\PC{0,24}") {
            let _ = Quantity::parse(&text);
        }
    }
}

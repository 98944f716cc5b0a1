//! Sets of completion indexes, as `.status.completedIndexes` writes them: `0,3-5,7`.

use std::collections::BTreeSet;
use std::fmt;

/// A set of indexes, kept as ranges (both ends belong to them) in order, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads what [`fmt::Display`] writes; what is not below `completions`, or cannot be read, is left
    /// out.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut ranges = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else { continue };
            let last = last.min(completions - 1);
            if first <= last {
                ranges.push((first, last));
            }
        }
        Self::of(ranges)
    }

    fn of(mut ranges: Vec<(i32, i32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub fn with(&self, more: &BTreeSet<i32>) -> Self {
        let more = more.iter().map(|index| (*index, *index));
        Self::of(self.0.iter().copied().chain(more).collect())
    }

    pub fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied().collect())
    }

    pub fn has(&self, index: i32) -> bool {
        let at = self.0.partition_point(|range| range.1 < index);
        self.0.get(at).is_some_and(|range| range.0 <= index)
    }

    pub fn count(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many are in both.
    pub fn count_common(&self, other: &Self) -> i32 {
        let (mut mine, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut count = 0;
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            count += (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
            if a.1 < b.1 {
                mine.next()
            } else {
                theirs.next()
            };
        }
        count
    }

    /// The first `count` indexes below `completions` that are not in the set.
    pub fn missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let mut missing = Vec::new();
        let mut next = 0;
        let end = (completions, completions);
        for (first, last) in self.0.iter().chain([&end]) {
            missing.extend((next..*first.min(&completions)).take(count - missing.len()));
            next = last + 1;
        }
        missing
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_ranges() {
        let show = |text| Indexes::parse(text, 10).to_string();
        assert_eq!(show(""), "");
        assert_eq!(show("0,1,2,5-6,8-20"), "0-2,5,6,8,9");
        assert_eq!(show("x,3-y,4,12"), "4");
    }

    #[test]
    fn sets() {
        let set = Indexes::parse("0,3-5", 10);
        assert_eq!(set.with(&[1, 2, 9].into()).to_string(), "0-5,9");
        assert_eq!(set.missing(3, 10), [1, 2, 6]);
        assert_eq!(set.missing(30, 7), [1, 2, 6]);
        assert_eq!(Indexes::default().missing(2, 1), [0]);
        assert!(set.has(4) && !set.has(2) && !set.has(6));
        assert_eq!(set.count(), 4);
        assert_eq!(set.count_common(&Indexes::parse("0-3,5-9", 10)), 3);
        assert_eq!(set.union(&Indexes::parse("1,2", 10)).to_string(), "0-5");
    }
}

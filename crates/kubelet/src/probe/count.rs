//! Thresholds: how many results in a row make a verdict.

/// Counts results of one probe.
#[derive(Debug)]
pub struct Count {
    success: u32,
    failure: u32,
    last: Option<bool>,
    run: u32,
}

impl Count {
    pub fn new(success: Option<i32>, failure: Option<i32>) -> Self {
        let threshold = |value: Option<i32>, default| {
            value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default)
        };
        Self {
            success: threshold(success, 1).max(1),
            failure: threshold(failure, 3).max(1),
            last: None,
            run: 0,
        }
    }

    /// Takes one result; the verdict, where there are enough in a row.
    pub fn take(&mut self, ok: bool) -> Option<bool> {
        if self.last == Some(ok) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(ok);
            self.run = 1;
        }
        let enough = if ok { self.success } else { self.failure };
        (self.run >= enough).then_some(ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(success: i32, failure: i32, results: &str, want: &str) {
        let mut count = Count::new(Some(success), Some(failure));
        let got: String = results
            .chars()
            .map(|result| match count.take(result == '+') {
                Some(true) => '+',
                Some(false) => '-',
                None => '.',
            })
            .collect();
        assert_eq!(got, want, "{results}");
    }

    #[test]
    fn verdicts_need_results_in_a_row() {
        check(1, 3, "+--+---+", "+..+..-+");
        check(2, 1, "+-++-", ".-.+-");
        check(1, 1, "+-", "+-");
    }
}

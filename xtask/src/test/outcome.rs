//! What a suite reports, and the table of all.

use std::{fmt::Write, time::Duration};

/// What came of a suite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Tests that passed.
    pub(super) passed: usize,
    /// Tests that failed, and failures outside any test, such as a compiler error.
    pub(super) failed: usize,
    /// Tests that could not run here.
    pub(super) skipped: Vec<Skip>,
}

/// A test that could not run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Skip {
    /// The test, or what it needs.
    pub(super) name: String,
    /// Why.
    pub(super) reason: String,
}

/// A line of the table.
pub(super) struct Row {
    /// The name of the suite.
    pub(super) suite: String,
    /// What came of it.
    pub(super) outcome: Outcome,
    /// How long it took.
    pub(super) time: Duration,
}

impl Outcome {
    /// One check.
    pub(super) fn check(passed: bool) -> Self {
        Self { passed: passed.into(), failed: (!passed).into(), skipped: Vec::new() }
    }

    /// One check that lists what is wrong, and prints it.
    pub(super) fn problems(problems: &[String]) -> Self {
        for problem in problems {
            println!("error: {problem}");
        }
        Self::check(problems.is_empty())
    }

    /// Adds the tests of `other`.
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }

    /// Whether nothing failed. A suite that ran no test does not pass: it would hide that they are gone.
    pub(super) fn passes(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

/// The suites, the reasons for skips, and the totals on a last line of their own.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!("{:<14}{:>8}{:>8}{:>9}{:>10}\n", "suite", "passed", "failed", "skipped", "seconds");
    let mut notes = String::new();
    let mut total = Outcome::default();
    for Row { suite, outcome, time } in rows {
        let Outcome { passed, failed, skipped } = outcome;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{suite:<14}{passed:>8}{failed:>8}{:>9}{:>10.1}", skipped.len(), time.as_secs_f64());
        for Skip { name, reason } in skipped {
            let _ = writeln!(notes, "{suite}: skipped {name}: {reason}");
        }
        if passed + failed == 0 {
            let _ = writeln!(notes, "{suite}: error: ran no test");
        }
        total.add(outcome.clone());
    }
    format!("{text}{notes}{} passed, {} failed, {} skipped\n", total.passed, total.failed, total.skipped.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_ends_with_the_totals() {
        let skipped = vec![Skip { name: "torch".into(), reason: "not installed".into() }];
        let rows = [
            Row { suite: "unit".into(), outcome: Outcome { passed: 12, failed: 1, skipped }, time: Duration::ZERO },
            Row { suite: "e2e".into(), outcome: Outcome::default(), time: Duration::from_millis(1260) },
        ];
        let expected = "suite           passed  failed  skipped   seconds
unit                12       1        1       0.0
e2e                  0       0        0       1.3
unit: skipped torch: not installed
e2e: error: ran no test
12 passed, 1 failed, 1 skipped
";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn a_suite_without_tests_does_not_pass() {
        assert!(!Outcome::default().passes());
        assert!(Outcome::check(true).passes());
        assert!(!Outcome::check(false).passes());
    }
}

//! What came of each case.

use std::fmt;

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The provider does what it must.
    Passed,
    /// It doesn't: how.
    Failed(String),
    /// The case doesn't apply: why.
    Unsupported(String),
}

/// What came of all cases, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Names and verdicts.
    pub cases: Vec<(&'static str, Verdict)>,
}

impl Report {
    /// Cases that passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.cases.iter().filter(|(_, verdict)| *verdict == Verdict::Passed).count()
    }

    /// Names of the cases that failed.
    #[must_use]
    pub fn failed(&self) -> Vec<&'static str> {
        let failed = self.cases.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Failed(_)));
        failed.map(|(name, _)| *name).collect()
    }

    /// Prints the report, and asserts that no case failed and that so many passed.
    ///
    /// # Panics
    /// Where that isn't so.
    #[track_caller]
    pub fn assert_passed(&self, expected: usize) {
        println!("{self}");
        assert!(self.failed().is_empty(), "cases failed: {:?}\n{self}", self.failed());
        assert_eq!(self.passed(), expected, "another number of cases passed than expected\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, verdict) in &self.cases {
            match verdict {
                Verdict::Passed => writeln!(f, "passed: {name}")?,
                Verdict::Failed(message) => writeln!(f, "FAILED: {name}: {message}")?,
                Verdict::Unsupported(reason) => writeln!(f, "skipped: {name}: {reason}")?,
            }
        }
        write!(f, "{} of {} cases passed, {} failed", self.passed(), self.cases.len(), self.failed().len())
    }
}

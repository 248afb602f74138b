//! Reading the output of cargo's tests and of pytest.

use super::outcome::{Outcome, Skip};

/// Follows `cargo test -- --show-output`.
#[derive(Default)]
pub(super) struct CargoTests {
    outcome: Outcome,
    part: Part,
    /// Tests that found their peer missing: they print `skipped: NAME: REASON` and return, so that the harness counts
    /// them among the passed.
    returned_early: usize,
}

/// The parts of a test program's output.
#[derive(Default)]
enum Part {
    #[default]
    Tests,
    Successes {
        /// Whether the test whose output this is may still say that it was skipped.
        counts: bool,
    },
    Failures,
}

impl CargoTests {
    /// Takes a line. Whether a reader wants to see it.
    pub(super) fn line(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.part = Part::Successes { counts: false },
            "failures:" => self.part = Part::Failures,
            _ => {}
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            let [passed, failed] = ["passed", "failed"].map(|word| count(result, word).unwrap_or_default());
            self.outcome.passed += passed;
            self.outcome.failed += failed;
            self.part = Part::Tests;
            return passed + failed > 0;
        }
        match &mut self.part {
            Part::Tests => self.test(line),
            Part::Successes { counts } => {
                if line.starts_with("---- ") {
                    *counts = true;
                }
                if line.starts_with("figure: ") && *counts {
                    return true;
                }
                let Some(skip) = line.strip_prefix("skipped: ").filter(|_| *counts) else { return false };
                *counts = false;
                self.returned_early += 1;
                let (name, reason) = skip.split_once(": ").unwrap_or((skip, "no reason given"));
                self.skip(name, reason);
                true
            }
            Part::Failures => true,
        }
    }

    /// The sums. Cargo also fails where there is no test to blame, such as at a compiler error.
    pub(super) fn finish(mut self, cargo_succeeded: bool) -> Outcome {
        self.outcome.passed = self.outcome.passed.saturating_sub(self.returned_early);
        if !cargo_succeeded {
            self.outcome.failed = self.outcome.failed.max(1);
        }
        self.outcome
    }

    fn test(&mut self, line: &str) -> bool {
        let Some((name, result)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) else {
            return !line.is_empty() && !line.starts_with("running ");
        };
        if let Some(reason) = result.strip_prefix("ignored") {
            self.skip(name, reason.strip_prefix(", ").unwrap_or("ignored"));
        }
        result != "ok"
    }

    fn skip(&mut self, name: &str, reason: &str) {
        self.outcome.skipped.push(Skip { name: name.into(), reason: reason.into() });
    }
}

/// Follows `pytest -q -r s`.
#[derive(Default)]
pub(super) struct PythonTests(Outcome);

impl PythonTests {
    /// Takes a line.
    pub(super) fn line(&mut self, line: &str) {
        if let Some((number, place)) = line.strip_prefix("SKIPPED [").and_then(|line| line.split_once("] ")) {
            let (name, reason) = place.split_once(": ").unwrap_or((place, "no reason given"));
            let skip = Skip { name: name.into(), reason: reason.into() };
            self.0.skipped.extend(std::iter::repeat_n(skip, number.parse().unwrap_or(1)));
        } else if line.contains(" in ") {
            let [passed, failed, errors, error] =
                ["passed", "failed", "errors", "error"].map(|word| count(line, word).unwrap_or_default());
            self.0.passed += passed;
            self.0.failed += failed + errors + error;
        }
    }

    /// The sums.
    pub(super) fn finish(mut self, pytest_succeeded: bool) -> Outcome {
        if !pytest_succeeded {
            self.0.failed = self.0.failed.max(1);
        }
        self.0
    }
}

/// The number before `word`, as in `ok. 3 passed; 1 failed` or `3 passed, 1 failed`.
fn count(line: &str, word: &str) -> Option<usize> {
    let mut words = line.split([' ', ';', ',']).filter(|word| !word.is_empty());
    let mut before = words.next()?;
    words.find_map(|next| {
        let number = if next == word { before.parse().ok() } else { None };
        before = next;
        number
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cargo(output: &str, succeeded: bool) -> (Outcome, Vec<&str>) {
        let mut tests = CargoTests::default();
        let shown = output.lines().filter(|line| tests.line(line)).collect();
        (tests.finish(succeeded), shown)
    }

    fn skip(name: &str, reason: &str) -> Skip {
        Skip { name: name.into(), reason: reason.into() }
    }

    #[test]
    fn programs_are_summed_and_only_what_matters_is_shown() {
        let output = "
running 2 tests
test a ... ok
test b ... ignored, needs a GPU

test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s


running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 1 test
test src/lib.rs - compile (line 3) ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.42s
";
        let (outcome, shown) = cargo(output, true);
        assert_eq!(outcome, Outcome { passed: 2, failed: 0, skipped: vec![skip("b", "needs a GPU")] });
        assert_eq!(shown.len(), 3);
    }

    #[test]
    fn a_test_that_returns_early_is_skipped_once() {
        let output = "
running 3 tests
test on_loopback ... ok
test with_torch ... ok
test with_a_bucket ... ok

successes:

---- on_loopback stdout ----
listening

---- with_torch stdout ----
skipped: torch: not installed
skipped: numpy: not installed

successes:
    on_loopback
    with_a_bucket
    with_torch

test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";
        let (outcome, shown) = cargo(output, true);
        assert_eq!(outcome, Outcome { passed: 2, failed: 0, skipped: vec![skip("torch", "not installed")] });
        assert_eq!(shown.len(), 2);
    }

    #[test]
    fn failures_are_shown_in_full() {
        let output = "
running 2 tests
test a ... ok
test b ... FAILED

successes:

---- a stdout ----
noise

successes:
    a

failures:

---- b stdout ----
skipped: half: of it
assertion failed

failures:
    b

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        let (outcome, shown) = cargo(output, false);
        assert_eq!(outcome, Outcome { passed: 1, failed: 1, skipped: Vec::new() });
        assert!(shown.contains(&"test b ... FAILED") && shown.contains(&"assertion failed"));
        assert!(!shown.contains(&"noise"));
    }

    #[test]
    fn a_compiler_error_fails() {
        assert_eq!(cargo("", false).0, Outcome::check(false));
    }

    #[test]
    fn pytest() {
        let mut tests = PythonTests::default();
        for line in [
            "..s.F",
            "SKIPPED [2] tests/python/test_gpu.py:7: no GPU",
            "3 passed, 1 failed, 2 skipped, 1 error in 0.31s",
        ] {
            tests.line(line);
        }
        let skip = skip("tests/python/test_gpu.py:7", "no GPU");
        assert_eq!(tests.finish(false), Outcome { passed: 3, failed: 2, skipped: vec![skip.clone(), skip] });
    }
}

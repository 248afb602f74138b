//! What a check found.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Serialize, Serializer};

use crate::{code::Code, error::Error};

/// One check of `outboard doctor`, and what it found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Names the check.
    pub code: Code,
    /// What it is about: a provider, an endpoint, the store.
    pub of: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen.
    pub evidence: String,
    /// What to do, where there is something.
    #[serde(rename = "try")]
    pub remedy: Option<String>,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// All is well.
    Pass,
    /// It works, but not as well as it could; or it couldn't be seen.
    Warn,
    /// It doesn't work.
    Fail,
}

impl Verdict {
    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn pass(code: Code, of: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self { code, of: of.into(), verdict: Verdict::Pass, evidence: evidence.into(), remedy: None }
    }

    /// It works, but not as well as it could; or it couldn't be seen.
    #[must_use]
    pub fn warn(code: Code, of: impl Into<String>, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, remedy: Some(remedy.into()), ..Self::pass(code, of, evidence) }
    }

    /// It doesn't work.
    #[must_use]
    pub fn fail(code: Code, of: impl Into<String>, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, remedy: Some(remedy.into()), ..Self::pass(code, of, evidence) }
    }

    /// Whether it doesn't work.
    #[must_use]
    pub fn is_fail(&self) -> bool {
        self.verdict == Verdict::Fail
    }

    /// It doesn't work, as an error says.
    #[must_use]
    pub fn error(code: Code, of: impl Into<String>, error: &Error) -> Self {
        let told = error.context().iter().map(|(what, value)| format!(" ({what}: {value})"));
        let mut evidence = error.to_string() + &told.collect::<String>();
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        if let Some(root) = causes.last() {
            evidence += &format!(": {root}");
        }
        let remedy = error.advice().map(str::to_string);
        Self { verdict: Verdict::Fail, remedy, ..Self::pass(code, of, evidence) }
    }
}

/// What checks have found so far. It stays where they don't come to their end.
#[derive(Debug, Default)]
pub struct Findings(Mutex<Vec<Finding>>);

impl Findings {
    /// Adds one.
    pub fn push(&self, finding: Finding) {
        self.all().push(finding);
    }

    /// Adds some.
    pub fn extend(&self, findings: impl IntoIterator<Item = Finding>) {
        let findings: Vec<_> = findings.into_iter().collect();
        self.all().extend(findings);
    }

    /// Whether something doesn't work.
    #[must_use]
    pub fn has_fail(&self) -> bool {
        self.all().iter().any(Finding::is_fail)
    }

    /// Takes them all.
    #[must_use]
    pub fn take(&self) -> Vec<Finding> {
        std::mem::take(&mut self.all())
    }

    fn all(&self) -> MutexGuard<'_, Vec<Finding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

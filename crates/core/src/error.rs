//! One error type: what went wrong, where, and what to do about it.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::code::{self, Code};

/// A result with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration file, variable or flag is wrong.
    InvalidConfig,
    /// The job, its data or an argument is wrong.
    InvalidRequest,
    /// Something that was named does not exist.
    NotFound,
    /// Something else holds what this needs.
    Conflict,
    /// Going on would cost more than is allowed.
    BudgetExceeded,
    /// The user stopped it.
    Cancelled,
    /// The job itself failed (a loss that isn't a number, say) and would fail anywhere.
    JobFailed,
    /// The provider can't do this.
    Unsupported,
    /// Credentials are missing or refused.
    Unauthenticated,
    /// The credentials don't allow this.
    PermissionDenied,
    /// A quota is used up.
    QuotaExceeded,
    /// No machine is free.
    CapacityUnavailable,
    /// Workers crash or don't start.
    WorkerUnhealthy,
    /// The task doesn't fit in memory.
    OutOfMemory,
    /// More bytes than the provider carries.
    PayloadTooLarge,
    /// A plugin speaks another version.
    PluginIncompatible,
    /// Too many requests.
    RateLimited,
    /// The provider can't be reached or says so.
    Unavailable,
    /// A deadline passed.
    Timeout,
    /// The machine was taken away.
    Preempted,
    /// Every provider that could have done it has failed; the context has each cause.
    AllProvidersFailed,
    /// Bytes don't match their digest or can't be decoded.
    CorruptPayload,
    /// A bug, ours or the provider's. Never retried blindly.
    Unexpected,
}

/// Under this name the context of an error says how a task process died.
pub const EXIT_STATUS: &str = "exit status";

/// Under this name the context of an error that came from elsewhere holds the code of the check that explains it.
pub const CHECK: &str = "check";

/// What to do next. Wrappers and the router read only this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Nothing: it would fail again, anywhere.
    Never,
    /// Try the same provider again, not before `after` has passed.
    Same {
        /// Waiting time that the provider asked for.
        after: Option<Duration>,
    },
    /// Try another provider.
    Other,
    /// The attempt may be running: no resubmission anywhere before it is found or `until` has passed.
    Unknown {
        /// How much longer it may run at most.
        until: Duration,
    },
}

impl ErrorKind {
    /// The usual answer to this kind.
    #[must_use]
    pub fn retry(self) -> Retry {
        use ErrorKind::*;
        match self {
            InvalidConfig | InvalidRequest | NotFound | Conflict | BudgetExceeded | Cancelled | JobFailed
            | AllProvidersFailed | Unexpected => Retry::Never,
            Unsupported | Unauthenticated | PermissionDenied | QuotaExceeded | CapacityUnavailable
            | WorkerUnhealthy | OutOfMemory | PayloadTooLarge | PluginIncompatible => Retry::Other,
            RateLimited | Unavailable | Timeout | Preempted | CorruptPayload => Retry::Same { after: None },
        }
    }

    /// The code of this kind.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::InvalidConfig => code::CONFIG,
            Self::InvalidRequest => code::REQUEST,
            Self::NotFound => code::NOT_FOUND,
            Self::Conflict => code::CONFLICT,
            Self::BudgetExceeded => code::BUDGET,
            Self::Cancelled => code::CANCELLED,
            Self::JobFailed => code::JOB_FAILED,
            Self::Unsupported => code::UNSUPPORTED,
            Self::Unauthenticated => code::CREDENTIALS,
            Self::PermissionDenied => code::PERMISSION,
            Self::QuotaExceeded => code::QUOTA,
            Self::CapacityUnavailable => code::CAPACITY,
            Self::WorkerUnhealthy => code::WORKER,
            Self::OutOfMemory => code::MEMORY,
            Self::PayloadTooLarge => code::PAYLOAD,
            Self::PluginIncompatible => code::PLUGIN,
            Self::RateLimited => code::RATE_LIMIT,
            Self::Unavailable => code::UNAVAILABLE,
            Self::Timeout => code::TIMEOUT,
            Self::Preempted => code::PREEMPTED,
            Self::AllProvidersFailed => code::NO_PROVIDER,
            Self::CorruptPayload => code::CORRUPT,
            Self::Unexpected => code::BUG,
        }
    }
}

/// What went wrong, where, and what to try.
///
/// `Display` gives one sentence; [`Error::context`] and [`Error::hint`] say where and what next.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    retry: Retry,
    /// Where it says more than the kind's.
    code: Option<Code>,
    message: String,
    provider: Option<String>,
    operation: Option<&'static str>,
    context: Vec<(Cow<'static, str>, String)>,
    hint: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`, with the retry answer usual for it. `message` is one sentence that says what is wrong.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            retry: kind.retry(),
            code: None,
            message: message.into(),
            provider: None,
            operation: None,
            context: Vec::new(),
            hint: None,
            source: None,
        }))
    }

    /// The user's job, data or argument is wrong.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    /// Answers differently from the usual.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Gives it a code that says more than that of its kind, unless it has one: whoever is nearest knows best.
    #[must_use]
    pub fn or_code(mut self, code: Code) -> Self {
        self.0.code.get_or_insert(code);
        self
    }

    /// Names the provider that answered.
    #[must_use]
    pub fn with_provider(mut self, id: impl Into<String>) -> Self {
        self.0.provider = Some(id.into());
        self
    }

    /// Names the operation that failed.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.0.operation = Some(operation);
        self
    }

    /// Adds where it happened: file, key, layer, row.
    #[must_use]
    pub fn at(mut self, what: impl Into<Cow<'static, str>>, value: impl fmt::Display) -> Self {
        self.0.context.push((what.into(), value.to_string()));
        self
    }

    /// Says what to try next, as an imperative or a command.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What to do next.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// What explains it: its own code, that of the check that a worker names, or that of its kind.
    #[must_use]
    pub fn code(&self) -> Code {
        let checked = || self.0.context.iter().find(|(what, _)| what == CHECK).and_then(|(_, name)| Code::named(name));
        self.0.code.or_else(checked).unwrap_or_else(|| self.0.kind.code())
    }

    /// The provider that answered, if one did.
    #[must_use]
    pub fn provider(&self) -> Option<&str> {
        self.0.provider.as_deref()
    }

    /// The operation that failed, if it was named.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// Where it happened, as pairs of what and value.
    #[must_use]
    pub fn context(&self) -> &[(Cow<'static, str>, String)] {
        &self.0.context
    }

    /// Whether a task process died.
    #[must_use]
    pub fn is_death(&self) -> bool {
        self.0.context.iter().any(|(what, _)| what == EXIT_STATUS)
    }

    /// What to try next.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The whole message over several lines: the sentence, where, the causes, what to try.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        for (what, value) in &self.0.context {
            text += &format!("\n  {what}: {value}");
        }
        if let Some(provider) = &self.0.provider {
            text += &format!("\n  provider: {provider}");
        }
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text += &format!("\n  cause: {error}");
            cause = error.source();
        }
        if let Some(hint) = &self.0.hint {
            text += &format!("\n  try: {hint}");
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// Wraps failures of the file system with the path and what was tried.
pub trait IoContext<T> {
    /// Turns the failure into an [`Error`] that names `path`; `doing` completes "cannot ... ".
    ///
    /// # Errors
    /// The failure itself, as `InvalidRequest` or `NotFound`.
    fn doing(self, doing: &str, path: &std::path::Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn doing(self, doing: &str, path: &std::path::Path) -> Result<T> {
        self.map_err(|source| {
            use std::io::ErrorKind as Io;
            let (kind, why, hint) = match source.kind() {
                Io::NotFound => (ErrorKind::NotFound, "no such file or folder", "check the path"),
                Io::PermissionDenied => {
                    (ErrorKind::InvalidRequest, "permission denied", "choose another place, or change its permissions")
                }
                Io::ReadOnlyFilesystem => {
                    (ErrorKind::InvalidRequest, "the file system is read-only", "choose another place")
                }
                Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => {
                    (ErrorKind::InvalidRequest, "the disk is full", "free some space, then run the command again")
                }
                Io::NotADirectory => {
                    (ErrorKind::InvalidRequest, "a part of the path is not a folder", "choose another place")
                }
                Io::AlreadyExists => {
                    (ErrorKind::InvalidRequest, "a file of that name is in its place", "choose another place")
                }
                Io::IsADirectory => (ErrorKind::InvalidRequest, "it is a folder, not a file", "name a file in it"),
                _ => (ErrorKind::InvalidRequest, "", "check the path and the disk"),
            };
            let code = match source.kind() {
                Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => code::DISK,
                _ => code::FILE,
            };
            let why = if why.is_empty() { source.to_string() } else { why.to_string() };
            Error::new(kind, format!("cannot {doing} {}: {why}", path.display())).or_code(code).hint(hint)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_says_what_where_why_and_what_next() {
        let error = Error::new(ErrorKind::Unavailable, "cannot reach the worker")
            .with_provider("http")
            .with_operation("submit")
            .at("url", "https://localhost:1")
            .because(std::io::Error::other("connection refused"))
            .hint("start it with `outboard worker --listen`");
        assert_eq!(
            error.report(),
            "cannot reach the worker\n  url: https://localhost:1\n  provider: http\n  cause: connection refused\n  \
             try: start it with `outboard worker --listen`"
        );
        assert_eq!(error.retry(), Retry::Same { after: None });
    }

    #[test]
    fn the_nearest_code_counts_then_that_of_a_worker_then_that_of_the_kind() {
        let error = Error::new(ErrorKind::WorkerUnhealthy, "it crashes");
        assert_eq!(error.code(), code::WORKER);
        let error = error.at(CHECK, "OB-CLASH");
        assert_eq!(error.code(), code::CLASH);
        assert_eq!(error.clone().at(CHECK, "OB-GPU").code(), code::CLASH);
        assert_eq!(error.or_code(code::FILE).or_code(code::JOB).code(), code::FILE);
        assert_eq!(Error::invalid("no").at(CHECK, "OB-MADE-UP").code(), code::REQUEST);
        let full = Err::<(), _>(std::io::ErrorKind::StorageFull.into()).doing("write", std::path::Path::new("a"));
        assert_eq!(full.unwrap_err().code(), code::DISK);
    }

    #[test]
    fn a_job_that_is_wrong_is_not_tried_on_other_providers() {
        for kind in [ErrorKind::JobFailed, ErrorKind::InvalidRequest, ErrorKind::BudgetExceeded, ErrorKind::Unexpected]
        {
            assert_eq!(kind.retry(), Retry::Never, "{kind:?}");
        }
    }
}

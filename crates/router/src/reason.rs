//! Why a provider doesn't get a task, in words a user can act on.

use std::fmt;

use outboard_core::{NanoUsd, task::OperationKind};

use crate::words::{at_least, at_most, bytes, list, percent, time, two_sizes, two_times};

/// Why a provider doesn't get a task. `Display` is one clause with its numbers; [`help`](Reason::help) says what would
/// change it.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The configuration says no.
    Disabled,
    /// The job says no.
    ExcludedByJob,
    /// The job names others.
    NotPinned {
        /// Those that it names.
        pins: Vec<String>,
    },
    /// The job would fail anywhere.
    Poisoned(String),
    /// A threshold stops everything.
    Stopped(Filled),
    /// A threshold leaves only local providers.
    LocalOnly(Filled),
    /// Local providers are for users who don't have others.
    NoLocalFallback,
    /// It can't run this operation.
    Operation {
        /// What was asked.
        asked: OperationKind,
        /// What it can.
        can: Vec<OperationKind>,
    },
    /// It doesn't know these layers.
    Layers(Vec<String>),
    /// It carries fewer bytes than needed.
    PayloadTooLarge {
        /// What is needed.
        bytes: u64,
        /// What it carries.
        limit: u64,
    },
    /// It says that it can't, or doesn't say anything.
    Unhealthy(String),
    /// It failed too often.
    Paused {
        /// Seconds until it gets a trial.
        seconds: f64,
        /// After what.
        why: String,
    },
    /// It failed at this very work.
    Failed(String),
    /// Nobody knows what it costs.
    PriceUnknown(String),
    /// Its tasks are too short for an epoch.
    TaskTooLong {
        /// Expected seconds of the shortest task.
        seconds: f64,
        /// Seconds of its longest task.
        limit: f64,
    },
    /// It can't end in time.
    TooSlow {
        /// Expected seconds for what is left.
        seconds: f64,
        /// Seconds until the deadline.
        left: f64,
    },
    /// It could cost more than is left.
    OverBudget(OverBudget),
}

/// How full a budget is whose threshold was crossed.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// The cap.
    pub cap: String,
    /// The share of it that is used.
    pub share: f64,
    /// The threshold.
    pub at: f64,
}

/// A cap that doesn't allow a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// The cap.
    pub cap: String,
    /// Its limit.
    pub limit: NanoUsd,
    /// What was charged.
    pub charged: NanoUsd,
    /// What live reservations hold.
    pub reserved: NanoUsd,
    /// What the shortest task could cost at most.
    pub asked: NanoUsd,
    /// Whether it would fit if all that is reserved came free.
    pub may_wait: bool,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("it is disabled"),
            Self::ExcludedByJob => f.write_str("the job excludes it"),
            Self::NotPinned { pins } => write!(f, "the job runs only on {}", list(pins)),
            Self::Poisoned(why) => write!(f, "the job would fail anywhere: {why}"),
            Self::Stopped(filled) => write!(f, "{filled}, where nothing is started any more"),
            Self::LocalOnly(filled) => write!(f, "{filled}, where only local providers are used"),
            Self::NoLocalFallback => f.write_str("jobs may not come home to this machine"),
            Self::Operation { asked, can } => {
                let can: Vec<_> = can.iter().map(ToString::to_string).collect();
                write!(f, "it can't run `{asked}`, only {}", list(&can))
            }
            Self::Layers(missing) => {
                write!(f, "it lacks the layer{} {}", if missing.len() == 1 { "" } else { "s" }, list(missing))
            }
            Self::PayloadTooLarge { bytes, limit } => {
                let (bytes, limit) = two_sizes(*bytes, *limit);
                write!(f, "it carries at most {limit} at once, but {bytes} are needed")
            }
            Self::Unhealthy(why) => write!(f, "it can't take a task now: {why}"),
            Self::Paused { seconds, why } => write!(f, "it is left alone for {} {why}", time(*seconds)),
            Self::Failed(why) => write!(f, "it failed at this task: {why}"),
            Self::PriceUnknown(why) => write!(f, "its price is unknown: {why}"),
            Self::TaskTooLong { seconds, limit } => {
                let (seconds, limit) = two_times(*seconds, *limit);
                write!(f, "the shortest task would take about {seconds}, but it ends tasks after {limit}")
            }
            Self::TooSlow { left, .. } if *left <= 0.0 => f.write_str("the deadline has passed"),
            Self::TooSlow { seconds, left } => {
                let (seconds, left) = two_times(*seconds, *left);
                write!(f, "it would take about {seconds}, but the deadline is in {left}")
            }
            Self::OverBudget(over) => over.fmt(f),
        }
    }
}

impl fmt::Display for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.share.is_finite() {
            let (used, at) = (percent(self.share), percent(self.at));
            write!(f, "{used} of the {} budget is used, past the threshold of {at}", self.cap)
        } else {
            write!(f, "the {} budget is zero and something was spent", self.cap)
        }
    }
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cap, limit, charged, reserved, asked, .. } = self;
        let asked = at_most(*asked);
        if *limit == NanoUsd::ZERO {
            return write!(
                f,
                "its shortest task could cost {asked}, but the {cap} budget is zero: only free providers"
            );
        }
        let left = at_least(limit.saturating_sub([*charged, *reserved].into_iter().sum()));
        write!(f, "its shortest task could cost {asked}, but {left} is left of the {cap} budget of {limit}")?;
        match (*charged, *reserved) {
            (NanoUsd::ZERO, NanoUsd::ZERO) => Ok(()),
            (charged, NanoUsd::ZERO) => write!(f, " ({} spent)", at_most(charged)),
            (NanoUsd::ZERO, held) => write!(f, " ({} held by running tasks)", at_most(held)),
            (charged, held) => write!(f, " ({} spent, {} held by running tasks)", at_most(charged), at_most(held)),
        }
    }
}

impl Reason {
    /// What would let `provider` have the task; none where nothing would.
    #[must_use]
    pub fn help(&self, provider: &str) -> Option<String> {
        let help = match self {
            Self::Disabled => format!("set `providers.{provider}.enabled = true`"),
            Self::ExcludedByJob => format!("take `{provider}` off the providers that the job excludes"),
            Self::NotPinned { .. } => format!("add `{provider}` to the providers that the job names"),
            Self::Poisoned(_) => "mend the job; the model or the data makes the task process die".into(),
            Self::Stopped(filled) | Self::LocalOnly(filled) => {
                format!("raise the {} budget, or change `budget.thresholds`", filled.cap)
            }
            Self::NoLocalFallback => format!("set `router.local_fallback = true`, or name `{provider}` in the job"),
            Self::Operation { .. } => return None,
            Self::Layers(_) => "use other layers, or update its worker".into(),
            Self::PayloadTooLarge { bytes: needed, .. } => {
                format!("let it use a store that takes {}, or use less data", bytes(*needed))
            }
            Self::Unhealthy(_) | Self::Failed(_) => "mend that, or use another provider".into(),
            Self::Paused { seconds, .. } => format!("wait {}, then it gets a trial", time(*seconds)),
            Self::PriceUnknown(_) => format!("state its price under `[providers.{provider}]`"),
            Self::TaskTooLong { .. } => "use less data per epoch or a smaller model".into(),
            Self::TooSlow { .. } => "set a later `limits.deadline`, fewer epochs or a smaller model".into(),
            Self::OverBudget(over) => over.help(),
        };
        Some(help)
    }

    /// Whether the user wants it so.
    pub(crate) fn is_chosen(&self) -> bool {
        matches!(self, Self::Disabled | Self::ExcludedByJob | Self::NotPinned { .. } | Self::NoLocalFallback)
    }

    /// Whether waiting for running tasks may let the provider have the task.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        matches!(self, Self::OverBudget(over) if over.may_wait)
    }
}

impl OverBudget {
    fn help(&self) -> String {
        let raise = match self.cap.as_str() {
            "job" => "raise `limits.max_cost_usd` of the job, or `budget.job_usd`".into(),
            "day" | "month" => format!("raise `budget.{}_usd`, or wait for the next {}", self.cap, self.cap),
            cap => format!("raise the {cap} budget"),
        };
        if self.may_wait { format!("wait for the running tasks, or {raise}") } else { raise }
    }
}

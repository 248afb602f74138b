//! What goes into a ledger and comes out of it.

use std::time::{Duration, SystemTime};

use outboard_core::NanoUsd;

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// Its id.
    pub id: String,
    /// What the user calls it.
    pub name: String,
    /// Where its record lies.
    pub folder: String,
    /// When it was started first.
    pub created_at: SystemTime,
    /// What it may cost at most; none is no limit.
    pub max_cost: Option<NanoUsd>,
    /// The sweep that it belongs to.
    pub sweep: Option<String>,
    /// Where it stands, in the words of whoever runs it.
    pub status: String,
}

/// Which jobs; nothing given means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Those with this status.
    pub status: Option<String>,
    /// Those of this sweep.
    pub sweep: Option<String>,
}

/// What an attempt asks for before its task is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The attempt's id; unique for ever.
    pub attempt: String,
    /// The job it belongs to, which [`Ledger::start_job`](crate::Ledger::start_job) has noted.
    pub job: String,
    /// The job's sweep.
    pub sweep: Option<String>,
    /// The task's key.
    pub task_key: String,
    /// The provider's id.
    pub provider: String,
    /// Whether the provider is on this machine.
    pub local: bool,
    /// What the attempt can cost at most.
    pub amount: NanoUsd,
    /// When nobody can still be at work on it: from then on it is released, or charged in full where its task may have
    /// been handed over.
    pub expires_at: SystemTime,
    /// Given, the attempt is marked as [`State::Submitting`] at once, with these bytes: one commit less.
    pub submitting: Option<Vec<u8>>,
}

/// An amount that a scope may not exceed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cap {
    /// What it covers. One that doesn't cover a reservation says nothing about it.
    pub scope: Scope,
    /// The most that charges and live reservations may come to. Zero allows only what is free.
    pub limit: NanoUsd,
}

/// A part of all attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Whose or when.
    pub span: Span,
    /// Only those on this provider.
    pub provider: Option<String>,
}

/// Whose attempts, or those of when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// A job's.
    Job(String),
    /// A sweep's.
    Sweep(String),
    /// Those reserved on the day that the clock shows, UTC.
    Day,
    /// Those reserved in the month that the clock shows, UTC.
    Month,
}

impl From<Span> for Scope {
    fn from(span: Span) -> Self {
        Self { span, provider: None }
    }
}

impl Scope {
    /// Only what runs on this provider.
    #[must_use]
    pub fn on(mut self, provider: impl Into<String>) -> Self {
        self.provider = Some(provider.into());
        self
    }

    pub(crate) fn covers(&self, reservation: &Reservation) -> bool {
        let span = match &self.span {
            Span::Job(job) => *job == reservation.job,
            Span::Sweep(sweep) => Some(sweep) == reservation.sweep.as_ref(),
            Span::Day | Span::Month => true,
        };
        span && self.provider.as_ref().is_none_or(|provider| *provider == reservation.provider)
    }
}

/// The answer to a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// The amount is held for the attempt.
    Granted {
        /// Where the attempt stands. Neither [`State::Reserved`] nor [`State::Submitting`] where it was granted to an
        /// earlier caller, who went on with it.
        state: State,
    },
    /// A cap would be exceeded. Nothing was noted.
    Refused(Refusal),
}

/// Why a reservation was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The cap that would be exceeded; of several, one with which waiting doesn't help.
    pub cap: Cap,
    /// What was charged in its scope.
    pub charged: NanoUsd,
    /// What live reservations hold in its scope.
    pub reserved: NanoUsd,
    /// What was asked for.
    pub asked: NanoUsd,
    /// When the first live reservation expires; none where the amount would not fit though all were released.
    pub frees_at: Option<SystemTime>,
}

/// Where an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Its amount is held; nothing was handed over.
    Reserved,
    /// Its task is about to be handed over, or was.
    Submitting,
    /// The provider has its task.
    Accepted,
    /// What it cost is known.
    Settled,
    /// What it cost is not known; it is charged in full until it is.
    Assumed,
    /// Nothing was handed over; nothing is held or charged.
    Released,
}

impl State {
    const ALL: [Self; 6] =
        [Self::Reserved, Self::Submitting, Self::Accepted, Self::Settled, Self::Assumed, Self::Released];

    /// Its name, as the ledger has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Submitting => "submitting",
            Self::Accepted => "accepted",
            Self::Settled => "settled",
            Self::Assumed => "assumed",
            Self::Released => "released",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether its amount is held.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Reserved | Self::Submitting | Self::Accepted)
    }
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What it cost.
    pub cost: NanoUsd,
    /// The time that the provider bills, where it tells.
    pub billed: Option<Duration>,
    /// How it ended, in the words of whoever ran it: a sentence, and further lines with what a worker left behind.
    pub outcome: String,
    /// Whether the cost is a guess, to be replaced once it is known.
    pub is_assumed: bool,
}

/// What a settlement found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// By how much the charge exceeds what was reserved.
    pub overrun: NanoUsd,
}

/// An attempt, as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its id.
    pub id: String,
    /// Its job.
    pub job: String,
    /// The job's sweep.
    pub sweep: Option<String>,
    /// The task's key.
    pub task_key: String,
    /// The provider's id.
    pub provider: String,
    /// Whether the provider is on the machine of whoever reserved.
    pub local: bool,
    /// Where it stands.
    pub state: State,
    /// When it was reserved.
    pub reserved_at: SystemTime,
    /// Time since then, by the ledger's clock.
    pub age: Duration,
    /// When it expires, if it is live.
    pub expires_at: SystemTime,
    /// What was reserved.
    pub reserved: NanoUsd,
    /// What is charged.
    pub charged: NanoUsd,
    /// The time that the provider billed, where it told.
    pub billed: Option<Duration>,
    /// How it ended, see [`Settlement::outcome`].
    pub outcome: Option<String>,
    /// Its name on the provider, once it was accepted.
    pub task_id: Option<String>,
    /// The task, until its cost is known.
    pub task: Option<Vec<u8>>,
}

impl Attempt {
    /// How it ended, in one sentence, and what else is known of it.
    #[must_use]
    pub fn ending(&self) -> (&str, Vec<&str>) {
        let mut lines = self.outcome.as_deref().unwrap_or_default().lines();
        (lines.next().unwrap_or_default(), lines.collect())
    }

    /// By how much the charge exceeds what was reserved.
    #[must_use]
    pub fn overrun(&self) -> NanoUsd {
        self.charged.saturating_sub(self.reserved)
    }
}

/// An attempt whose time was up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Its id.
    pub attempt: String,
    /// Its job.
    pub job: String,
    /// The provider's id.
    pub provider: String,
    /// What was held for it.
    pub amount: NanoUsd,
    /// Whether it is charged in full, since its task may have been handed over; else it was released.
    pub assumed: bool,
}

/// What a scope has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// What was charged, guesses included.
    pub charged: NanoUsd,
    /// The part of it that is a guess.
    pub assumed: NanoUsd,
    /// What live reservations hold.
    pub reserved: NanoUsd,
}

impl Spent {
    /// Charges and live reservations together.
    #[must_use]
    pub fn total(&self) -> NanoUsd {
        [self.charged, self.reserved].into_iter().sum()
    }
}

/// What is left under a cap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The cap.
    pub cap: Cap,
    /// What its scope has come to.
    pub spent: Spent,
    /// What a reservation may ask for.
    pub left: NanoUsd,
}

/// By what costs are summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// The day of the reservation, UTC: `2026-03-01`.
    Day,
    /// The provider's id.
    Provider,
    /// The job's id.
    Job,
}

/// Costs of a day, a provider or a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostRow {
    /// Which one.
    pub key: String,
    /// Attempts, but for those released.
    pub attempts: u64,
    /// What they come to.
    pub spent: Spent,
}

/// What a provider's bill of one day makes of the charges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The provider's id.
    pub provider: String,
    /// What was billed there: an endpoint, say.
    pub account: String,
    /// The day; any time of it, UTC.
    pub day: SystemTime,
    /// Attempts, and what each is charged from now on.
    pub charges: Vec<(String, NanoUsd)>,
    /// What was billed beyond them.
    pub unexplained: NanoUsd,
}

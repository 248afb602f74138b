//! The operations of a provider, as JSON.
//!
//! | operation | request | what is under `ok` in the answer |
//! | --- | --- | --- |
//! | `info` | `{}` | [`Info`] |
//! | `capabilities` | `{}` | [`Claims`] |
//! | `price` | `{}` | [`Price`] |
//! | `health` | `{}` | [`Health`] |
//! | `submit` | [`Submit`] | the task's id |
//! | `wait` | [`Wait`] | [`State`] |
//! | `cancel` | [`Cancel`] | [`Cancelled`] |
//! | `list` | `{}` | an array of [`Summary`] |
//!
//! Fields that a reader doesn't know are ignored; those that may be absent are optional here.

use std::time::Duration;

use outboard_core::{
    NanoUsd, TaskId,
    provider::{self, Capabilities, PriceModel, TaskSummary},
    task::{OperationKind, Phase, Revision, TaskState, Timings, Usage},
};
use outboard_protocol::{
    PROTOCOL_VERSION, TaskResult,
    envelope::{Ending, Failure, StateMessage, WirePhase},
};
use serde::{Deserialize, Serialize, Serializer};

/// The answer to an operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// It was done.
    Ok(T),
    /// It wasn't.
    Error(Failure),
}

/// What a provider is. Its id is the name under which the user configured it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its kind, such as `ssh`.
    pub kind: String,
    /// What it computes on, in words.
    pub device: String,
    /// Where it is, if that means something.
    #[serde(default)]
    pub region: Option<String>,
}

/// What a provider can do, see [`Capabilities`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Operations it runs; training, evaluation and prediction where there is none.
    #[serde(default)]
    pub operations: Option<Vec<OperationKind>>,
    /// Layers it knows; those of the program's own engine where there is none.
    #[serde(default)]
    pub layers: Option<Vec<String>>,
    /// Whether a running task can be stopped.
    #[serde(default)]
    pub cancels: bool,
    /// Whether it can tell its live tasks.
    #[serde(default)]
    pub lists: bool,
    /// Whether events arrive while a task runs.
    #[serde(default)]
    pub reports_progress: bool,
    /// Largest request or reply in bytes.
    #[serde(default)]
    pub max_payload_bytes: Option<u64>,
    /// Longest task, in milliseconds.
    #[serde(default)]
    pub max_task_ms: Option<u64>,
    /// Tasks that run at the same time; more wait.
    #[serde(default)]
    pub max_concurrent_tasks: Option<u32>,
}

/// What a provider bills, see [`PriceModel`]. One that doesn't know answers with an error, never with zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// For each task, in nano-USD.
    pub per_task_nano_usd: NanoUsd,
    /// For each hour of billed time, in nano-USD.
    pub per_hour_nano_usd: NanoUsd,
    /// Billed time is rounded up to a multiple of this.
    #[serde(default)]
    pub granularity_ms: u64,
    /// Billed beyond a task's own time, at most.
    #[serde(default)]
    pub overhead_ms: u64,
    /// Since when this is known, as `YYYY-MM-DD`; `as configured` for what the user set; empty for what can't change.
    pub as_of: String,
    /// Where it was found.
    pub source: String,
}

/// Whether a provider could take a task now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It could.
    Ready,
    /// It couldn't: why, and what the user can do.
    Unavailable(String),
}

/// Hands a task over. The same attempt again gives the same id and runs once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submit<E> {
    /// The try that this is; unique. A good id for the task.
    pub attempt: String,
    /// Names the task for ever, across attempts and providers.
    pub key: String,
    /// What goes to a worker, [`Envelope`](outboard_protocol::Envelope).
    pub envelope: E,
}

/// Asks for a state that is newer than `seen`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The task.
    pub id: TaskId,
    /// The revision that was seen; 0 for none.
    pub seen: u64,
    /// Milliseconds after which the answer is due, newer or not.
    pub limit_ms: u64,
}

/// What a provider knows of a task: as a worker says it, and what it used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Revision, phase, events since the revision that was seen, and the result where it has ended.
    #[serde(flatten)]
    pub state: StateMessage,
    /// Time that the provider bills, where it measures that itself.
    #[serde(default)]
    pub billed_ms: Option<u64>,
    /// Bytes that went to the provider.
    #[serde(default)]
    pub bytes_down: u64,
    /// Bytes that came back.
    #[serde(default)]
    pub bytes_up: u64,
}

/// Stops a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The task.
    pub id: TaskId,
}

/// The answer to a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cancelled {
    /// Nothing runs or bills any more.
    Stopped,
    /// It can't be stopped: it may bill for so many milliseconds more.
    StillBilledMs(u64),
}

/// A live task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its id.
    pub id: TaskId,
    /// Its key.
    pub key: String,
    /// Whether it has started.
    pub running: bool,
}

/// A request without fields.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Serialize for Nothing {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(std::iter::empty::<((), ())>())
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl From<&Capabilities> for Claims {
    fn from(from: &Capabilities) -> Self {
        Self {
            operations: Some(from.operations.clone()),
            layers: Some(from.layers.clone()).filter(|layers| !layers.is_empty()),
            cancels: from.cancels,
            lists: from.lists,
            reports_progress: from.reports_progress,
            max_payload_bytes: from.max_payload_bytes,
            max_task_ms: from.max_task_time.map(ms),
            max_concurrent_tasks: from.max_concurrent_tasks,
        }
    }
}

impl Claims {
    /// As capabilities. Where no operations are named, they are those of the first plugins. Where no layers are named, they are those of the program's engine, `layers`; a plugin, which
    /// doesn't know them, gives none.
    #[must_use]
    pub fn capabilities(self, layers: &[&str]) -> Capabilities {
        let usual = || vec![OperationKind::Train, OperationKind::Evaluate, OperationKind::Predict];
        Capabilities {
            operations: self.operations.unwrap_or_else(usual),
            layers: self.layers.unwrap_or_else(|| layers.iter().map(ToString::to_string).collect()),
            cancels: self.cancels,
            lists: self.lists,
            reports_progress: self.reports_progress,
            max_payload_bytes: self.max_payload_bytes,
            max_task_time: self.max_task_ms.map(Duration::from_millis),
            max_concurrent_tasks: self.max_concurrent_tasks,
        }
    }
}

impl From<PriceModel> for Price {
    fn from(from: PriceModel) -> Self {
        Self {
            per_task_nano_usd: from.per_task,
            per_hour_nano_usd: from.per_hour,
            granularity_ms: ms(from.granularity),
            overhead_ms: ms(from.overhead),
            as_of: from.as_of,
            source: from.source,
        }
    }
}

impl From<Price> for PriceModel {
    fn from(from: Price) -> Self {
        Self {
            per_task: from.per_task_nano_usd,
            per_hour: from.per_hour_nano_usd,
            granularity: Duration::from_millis(from.granularity_ms),
            overhead: Duration::from_millis(from.overhead_ms),
            as_of: from.as_of,
            ..Self::free(&from.source)
        }
    }
}

impl From<provider::Health> for Health {
    fn from(from: provider::Health) -> Self {
        match from {
            provider::Health::Ready => Self::Ready,
            provider::Health::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

impl From<Health> for provider::Health {
    fn from(from: Health) -> Self {
        match from {
            Health::Ready => Self::Ready,
            Health::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

impl From<provider::Cancelled> for Cancelled {
    fn from(from: provider::Cancelled) -> Self {
        match from {
            provider::Cancelled::Stopped => Self::Stopped,
            provider::Cancelled::StillBilled { until } => Self::StillBilledMs(ms(until)),
        }
    }
}

impl From<Cancelled> for provider::Cancelled {
    fn from(from: Cancelled) -> Self {
        match from {
            Cancelled::Stopped => Self::Stopped,
            Cancelled::StillBilledMs(until) => Self::StillBilled { until: Duration::from_millis(until) },
        }
    }
}

impl From<TaskSummary> for Summary {
    fn from(from: TaskSummary) -> Self {
        Self { id: from.id, key: from.key, running: from.running }
    }
}

impl From<Summary> for TaskSummary {
    fn from(from: Summary) -> Self {
        Self { id: from.id, key: from.key, running: from.running }
    }
}

impl State {
    /// A state as bytes; `key` and `attempt` name its task.
    #[must_use]
    pub fn new(from: TaskState, key: String, attempt: String) -> Self {
        let usage = from.usage.unwrap_or_default();
        let ended = match from.phase {
            Phase::Queued => Err(WirePhase::Queued),
            Phase::Running => Err(WirePhase::Running),
            Phase::Finished(outcome) => Ok(Ending::Finished(outcome)),
            Phase::Failed(error) => Ok(Ending::Failed((&error).into())),
            Phase::Cancelled => Ok(Ending::Cancelled),
        };
        let phase = match ended {
            Err(phase) => phase,
            Ok(ended) => {
                let (protocol, timings) = (PROTOCOL_VERSION, usage.timings);
                WirePhase::Ended(Box::new(TaskResult { protocol, key, attempt, ended, timings }))
            }
        };
        Self {
            state: StateMessage { revision: from.revision.0, phase, events: from.events },
            billed_ms: usage.billed.map(ms),
            bytes_down: usage.bytes_down,
            bytes_up: usage.bytes_up,
        }
    }

    /// The result, where the task has ended.
    #[must_use]
    pub fn result(&self) -> Option<&TaskResult> {
        if let WirePhase::Ended(result) = &self.state.phase { Some(result) } else { None }
    }
}

impl From<State> for TaskState {
    fn from(from: State) -> Self {
        let State { state, billed_ms, bytes_down, bytes_up } = from;
        let usage = |timings: Timings| {
            Some(Usage { timings, billed: billed_ms.map(Duration::from_millis), bytes_down, bytes_up })
        };
        let (phase, usage) = match state.phase {
            WirePhase::Queued => (Phase::Queued, None),
            WirePhase::Running => (Phase::Running, None),
            WirePhase::Ended(result) => {
                let phase = match result.ended {
                    Ending::Finished(outcome) => Phase::Finished(outcome),
                    Ending::Failed(failure) => Phase::Failed(failure.into()),
                    Ending::Cancelled => Phase::Cancelled,
                };
                (phase, usage(result.timings))
            }
        };
        Self { revision: Revision(state.revision), phase, events: state.events, usage }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use outboard_core::error::{Error, ErrorKind};

    #[test]
    fn nothing_is_lost_on_the_way() {
        let usage = Usage {
            timings: Timings { compute: 1.5, ..Timings::default() },
            billed: Some(Duration::from_secs(2)),
            bytes_down: 3,
            bytes_up: 4,
        };
        let error = Error::new(ErrorKind::OutOfMemory, "too large").at("batch_size", 4096).hint("use 2048");
        let state =
            TaskState { revision: Revision(7), phase: Phase::Failed(error), events: vec![], usage: Some(usage) };
        let text = serde_json::to_string(&State::new(state, "k".into(), "k#1".into())).unwrap();
        let read: State = serde_json::from_str(&text).unwrap();
        assert_eq!((&*read.result().unwrap().key, &*read.result().unwrap().attempt), ("k", "k#1"));
        let read: TaskState = read.into();
        assert_eq!((read.revision, read.usage), (Revision(7), Some(usage)));
        let Phase::Failed(error) = read.phase else { panic!("{text}") };
        assert_eq!(error.report(), "too large\n  batch_size: 4096\n  try: use 2048");
    }

    #[test]
    fn the_least_that_a_plugin_can_say_is_read() {
        let claims: Claims = serde_json::from_str("{}").unwrap();
        let capabilities = claims.capabilities(&["relu"]);
        assert_eq!((capabilities.operations.len(), &*capabilities.layers), (3, &["relu".to_string()][..]));
        assert!(!capabilities.cancels && !capabilities.lists);
        let state: State = serde_json::from_str(r#"{"revision": 1, "phase": "queued", "events": []}"#).unwrap();
        assert!(matches!(TaskState::from(state).phase, Phase::Queued));
        assert_eq!(serde_json::to_string(&Nothing).unwrap(), "{}");
        assert_eq!(serde_json::to_string(&Cancelled::StillBilledMs(5)).unwrap(), r#"{"still_billed_ms":5}"#);
        // Rounded up: what is billed longer than said is never said to be shorter.
        assert_eq!(ms(Duration::from_micros(1001)), 2);
    }
}

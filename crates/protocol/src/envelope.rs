//! What goes to a worker and what comes back (`docs/protocol.md`, section 11).
//!
//! Both are JSON. Unknown fields are ignored, so that a newer side may say more; but an unknown hyperparameter is
//! refused, since ignoring it would change the curve. An unknown version is refused, naming both.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outboard_core::{
    Digest, Task,
    error::{Error, ErrorKind, Result, Retry},
    task::{Event, OperationKind, Outcome, Timings},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Grant, PROTOCOL_VERSION, tensors::check_version};

/// The HTTP header with the BLAKE3 digest of a message. A reader that finds it checks it: a checksum of the network's
/// doesn't notice every damage, and a digit that became another one can still be read.
pub const DIGEST_HEADER: &str = "outboard-digest";

/// An envelope, a result or a state is refused beyond this many bytes, before anything is allocated for it.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A task as bytes: what to run, on which blobs, until when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Version of the semantics and of this encoding.
    pub protocol: u32,
    /// What to run.
    pub task: Task,
    /// A worker that would start later refuses: milliseconds since 1970, UTC.
    pub not_after: u64,
    /// Longest time without an event or a finished batch after which the task counts as hung, in seconds.
    pub patience_seconds: f64,
    /// What the worker may do in a bucket, where that is the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Grant>,
}

impl Envelope {
    /// An envelope for `task` that must be started within `start_within`.
    #[must_use]
    pub fn new(task: Task, start_within: Duration, patience: Duration) -> Self {
        let not_after = now().saturating_add(u64::try_from(start_within.as_millis()).unwrap_or(u64::MAX));
        Self { protocol: PROTOCOL_VERSION, task, not_after, patience_seconds: patience.as_secs_f64(), store: None }
    }

    /// Refuses what came too late.
    ///
    /// # Errors
    /// `Timeout`, to be tried elsewhere, with how late it is.
    pub fn check_time(&self) -> Result<()> {
        let late = now().saturating_sub(self.not_after);
        if late == 0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Timeout, format!("the task came {late} ms after the time until which it may start"))
            .with_retry(Retry::Other)
            .hint("check the clocks of both machines, and the worker's queue"))
    }
}

/// Milliseconds since 1970, UTC.
#[must_use]
pub fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The outcome of a task, as a worker writes it down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// Version of this encoding.
    pub protocol: u32,
    /// The task.
    pub key: String,
    /// The attempt that came to this.
    pub attempt: String,
    /// What it came to.
    pub ended: Ending,
    /// Where the time went.
    pub timings: Timings,
}

/// What a task came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// An outcome, naming blobs.
    Finished(Outcome),
    /// An error.
    Failed(Failure),
    /// Stopped before it had an outcome.
    Cancelled,
}

/// An error as bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub kind: ErrorKind,
    /// What to do next.
    pub retry: Retry,
    /// One sentence.
    pub message: String,
    /// Where, as pairs of what and value.
    #[serde(default)]
    pub context: Vec<(String, String)>,
    /// What to try.
    #[serde(default)]
    pub hint: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            retry: error.retry(),
            message: error.to_string(),
            context: error.context().iter().map(|(what, value)| (what.to_string(), value.clone())).collect(),
            hint: error.advice().map(Into::into),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let error = Error::new(failure.kind, failure.message).with_retry(failure.retry);
        let error = failure.context.into_iter().fold(error, |error, (what, value)| error.at(what, value));
        match failure.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// What a worker knows of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateMessage {
    /// How new this is.
    pub revision: u64,
    /// Where the task stands.
    pub phase: WirePhase,
    /// What happened since the revision that was asked from.
    pub events: Vec<Event>,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WirePhase {
    /// Accepted, not started.
    Queued,
    /// Running.
    Running,
    /// Over.
    Ended(Box<TaskResult>),
}

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerHealth {
    /// The version it speaks.
    pub protocol: u32,
    /// Its program's version.
    pub version: String,
    /// What it computes on, in words.
    pub device: String,
    /// The class within which bytes are equal.
    pub numerics: String,
    /// Layers it knows, by `type`.
    pub layers: Vec<String>,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that wait.
    pub queued: u32,
    /// Tasks that may run at the same time.
    pub max_running: u32,
    /// Tasks that may wait; more are refused.
    pub max_queued: u32,
    /// Largest blob that it takes.
    pub max_blob_bytes: u64,
    /// Blobs it holds.
    pub blobs: u64,
    /// Whether it finishes what it has and takes no more.
    pub draining: bool,
}

/// Reads a message, bounded and of our version.
///
/// # Errors
/// `PayloadTooLarge`, `CorruptPayload`, or `Unsupported` for another version.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Version {
        protocol: u32,
    }
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Error::new(
            ErrorKind::PayloadTooLarge,
            format!("a message of {} bytes is larger than {MAX_MESSAGE_BYTES}", bytes.len()),
        ));
    }
    let wrong = |e: serde_json::Error| Error::new(ErrorKind::CorruptPayload, format!("a message cannot be read: {e}"));
    let version: Version = serde_json::from_slice(bytes).map_err(wrong)?;
    check_version(version.protocol)?;
    serde_json::from_slice(bytes).map_err(|error| unknown_operation(bytes).unwrap_or_else(|| wrong(error)))
}

/// Why a message can't be read whose task asks for something that only a newer worker knows.
fn unknown_operation(bytes: &[u8]) -> Option<Error> {
    #[derive(Deserialize)]
    struct Message {
        task: Work,
    }
    #[derive(Deserialize)]
    struct Work {
        operation: Named,
    }
    #[derive(Deserialize)]
    struct Named {
        operation: String,
    }
    let name = serde_json::from_slice::<Message>(bytes).ok()?.task.operation.operation;
    let is_known = OperationKind::ALL.iter().any(|kind| kind.to_string() == name);
    let known: Vec<_> = OperationKind::ALL.iter().map(ToString::to_string).collect();
    let shown: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
    (!is_known).then(|| {
        Error::new(ErrorKind::Unsupported, format!("the operation `{shown}` is unknown to this worker"))
            .hint(format!("it knows {}", known.join(", ")))
    })
}

/// Refuses a message that was damaged on its way, where its digest came along.
///
/// # Errors
/// `CorruptPayload`.
pub fn check_digest(bytes: &[u8], digest: Option<&[u8]>) -> Result<()> {
    match digest {
        Some(digest) if digest != Digest::of(bytes).to_string().as_bytes() => {
            Err(Error::new(ErrorKind::CorruptPayload, "a message was damaged on its way: it does not match its digest"))
        }
        _ => Ok(()),
    }
}

/// Bytes of a message.
///
/// # Errors
/// `Unexpected` where it can't be encoded.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(message)
        .map_err(|e| Error::new(ErrorKind::Unexpected, format!("a message cannot be encoded: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_core::task::{Architecture, Metrics, Operation, PredictTask};
    use proptest::prelude::*;

    fn envelope() -> Envelope {
        let digest = Digest::of(b"");
        let model = Architecture { layers: vec![outboard_core::Layer::Relu], input: vec![3] };
        let operation = Operation::Predict(PredictTask { model, weights: digest, data: digest });
        let task = Task { key: "k".into(), job: "j".into(), attempt: "k#1".into(), operation, limit: None };
        Envelope::new(task, Duration::from_secs(60), Duration::from_secs(10))
    }

    #[test]
    fn reads_back_and_ignores_what_it_does_not_know() {
        let bytes = encode(&envelope()).unwrap();
        let read: Envelope = decode(&bytes).unwrap();
        assert_eq!(read.task, envelope().task);
        let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        value["colour"] = "blue".into();
        assert_eq!(decode::<Envelope>(&serde_json::to_vec(&value).unwrap()).unwrap().task, read.task);
        value["protocol"] = 2.into();
        let error = decode::<Envelope>(&serde_json::to_vec(&value).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "the file is of protocol version 2, but this program speaks version 1");
    }

    #[test]
    fn an_operation_that_is_unknown_is_no_damage() {
        let mut value = serde_json::to_value(envelope()).unwrap();
        value["task"]["operation"] = serde_json::json!({ "operation": "dream", "of": "sheep" });
        let error = decode::<Envelope>(&serde_json::to_vec(&value).unwrap()).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unsupported, Retry::Other));
        let words =
            "the operation `dream` is unknown to this worker\n  try: it knows train, evaluate, predict, describe";
        assert_eq!(error.report(), words);
        value["task"]["operation"] = serde_json::json!({ "operation": "describe" });
        let read: Envelope = decode(&serde_json::to_vec(&value).unwrap()).unwrap();
        assert_eq!((read.task.operation.needs(), read.task.operation), (Vec::new(), Operation::Describe));
        value["task"]["operation"] = serde_json::json!({ "operation": "predict" });
        let error = decode::<Envelope>(&serde_json::to_vec(&value).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CorruptPayload, "a part of a known one is missing");
    }

    #[test]
    fn a_late_task_is_refused_with_how_late_it_is() {
        let mut late = envelope();
        late.check_time().unwrap();
        late.not_after = now() - 5000;
        let error = late.check_time().unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Other));
        assert!(error.to_string().starts_with("the task came 50"), "{error}");
    }

    #[test]
    fn errors_survive_the_journey() {
        let error = Error::new(ErrorKind::OutOfMemory, "too large").at("batch_size", 4096).hint("use 2048");
        let result = TaskResult {
            protocol: PROTOCOL_VERSION,
            key: "k".into(),
            attempt: "k#1".into(),
            ended: Ending::Failed((&error).into()),
            timings: Timings::default(),
        };
        let read: TaskResult = decode(&encode(&result).unwrap()).unwrap();
        assert_eq!(read, result);
        let Ending::Failed(failure) = read.ended else { panic!() };
        assert_eq!(Error::from(failure).report(), error.report());
        let metrics = Ending::Finished(Outcome::Evaluate(Metrics { loss: 0.1 + 0.2, accuracy: None, rows: 3 }));
        assert_eq!(
            decode::<TaskResult>(&encode(&TaskResult { ended: metrics.clone(), ..result }).unwrap()).unwrap().ended,
            metrics
        );
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_never_a_panic(at in 0usize..2000, byte: u8, cut in 0usize..2000) {
            let mut bytes = encode(&envelope()).unwrap();
            let n = bytes.len();
            prop_assert!(decode::<Envelope>(&bytes[..cut % n]).is_err());
            bytes[at % n] = byte;
            let _ = decode::<Envelope>(&bytes);
            let _ = decode::<TaskResult>(&bytes);
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Envelope>(&bytes);
            let _ = decode::<TaskResult>(&bytes);
        }
    }
}

//! Tasks as invocations of an AWS Lambda function: a request in, a reply out, with a grant or with the blobs beside them.
//! One process does it all, on all cores.
//!
//! # Layout
//!
//! - this module: the loop, one invocation, the limits of Lambda
//! - `engine`: tasks on threads of this process
//! - `room`: blobs that stay for the next invocation
//! - `watchdog`: ends the process when an invocation takes too long

mod engine;
mod room;
mod watchdog;

use std::{
    env,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lambda_runtime::{Diagnostic, LambdaEvent, Runtime, service_fn};
use outboard_core::error::{Error, ErrorKind, Result};
use outboard_protocol::{
    InlineReply, InlineRequest, TaskResult,
    envelope::{Ending, encode},
    inline::ALLOWANCE,
};
use outboard_store::FolderStore;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};

pub use self::engine::{Bounded, Engine};
use self::watchdog::Watchdog;
use crate::inline;

/// What a reply may have; AWS's documentation of 2026-08, and what its emulator refuses.
const MAX_REPLY: usize = 6_291_556;
/// What a reply's blob may have: what base64 leaves of that, with room for the events and the result.
const MAX_REPLY_BLOB: usize = 4_400_000;

/// The longest time-out of a function; the same documentation.
const LONGEST: Duration = Duration::from_secs(900);

/// Runs invocations until Lambda ends the process, with blobs in `folder`.
///
/// # Errors
/// `InvalidConfig` where the environment isn't Lambda's; where there is no room or there are no threads, or Lambda's
/// runtime API can't be reached.
pub async fn main(folder: &Path) -> Result<()> {
    check_environment(|name| env::var(name).ok())?;
    let store = FolderStore::open(folder)?;
    let worker = Worker { engine: Engine::start(store.clone())?, room: room::room(folder), store };
    let run = Runtime::new(service_fn(|event: LambdaEvent<Box<RawValue>>| worker.invoke(event))).run();
    run.await.map_err(|e| Error::new(ErrorKind::Unavailable, format!("Lambda's runtime API failed: {e}")))
}

/// What Lambda sets for each function, and its runtime can't do without.
fn check_environment(variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    let wrong = |name: &str, is: &str| {
        Error::new(
            ErrorKind::InvalidConfig,
            format!("the environment is not that of a Lambda function: {name} is {is}"),
        )
        .hint("let Lambda start this program: `outboard aws deploy`; on a machine of your own use `outboard worker`")
    };
    for name in ["AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION"] {
        variable(name).filter(|value| !value.is_empty()).ok_or_else(|| wrong(name, "not set"))?;
    }
    let name = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE";
    let memory = variable(name).ok_or_else(|| wrong(name, "not set"))?;
    memory.parse::<i32>().map(drop).map_err(|_| wrong(name, "not a number"))
}

#[derive(Debug)]
struct Worker {
    engine: Engine,
    store: FolderStore,
    room: u64,
}

impl Worker {
    async fn invoke(&self, event: LambdaEvent<Box<RawValue>>) -> Result<Box<RawValue>, Diagnostic> {
        let left = left(event.context.deadline, SystemTime::now());
        let request: InlineRequest = serde_json::from_str(event.payload.get()).map_err(|e| {
            let message = format!("the request is not a task of Outboard's: {e}");
            diagnostic(&Error::new(ErrorKind::CorruptPayload, message))
        })?;
        drop(event);
        // A client pays for no more than it has reserved.
        let longest = request.envelope.task.limit.map_or(left, |limit| left.min(limit.saturating_add(ALLOWANCE)));
        let _watchdog = Watchdog::start(longest);
        let reply = self.carry_out(request, Instant::now() + longest).await;
        let result = reply.result.clone();
        raw(&bounded(reply, &result).map_err(|error| diagnostic(&error))?)
    }

    async fn carry_out(&self, request: InlineRequest, end: Instant) -> InlineReply {
        let needs = request.envelope.task.operation.needs();
        // Before, since an invocation that was cut off has tidied nothing.
        if let Err(error) = room::tidy(&self.store, self.room, &needs) {
            tracing::warn!(%error, "old blobs stay");
        }
        let runner = self.engine.until(end);
        let stop = sleep_until(runner.too_late());
        inline::run(request, &runner, &self.store, MAX_REPLY_BLOB, stop).await
    }
}

/// The time that Lambda gives an invocation whose deadline is in milliseconds since 1970. A deadline that is over already
/// is none: Lambda would have ended the invocation, but emulators tell odd ones.
fn left(deadline: u64, now: SystemTime) -> Duration {
    let deadline = UNIX_EPOCH.checked_add(Duration::from_millis(deadline));
    let left = deadline.and_then(|deadline| deadline.duration_since(now).ok()).filter(|left| !left.is_zero());
    left.map_or(LONGEST, |left| left.min(LONGEST))
}

/// The reply's bytes, or where Lambda would refuse them those of a result that says so.
fn bounded(reply: InlineReply, result: &TaskResult) -> Result<Vec<u8>> {
    let bytes = encode(&reply)?;
    if bytes.len() <= MAX_REPLY {
        return Ok(bytes);
    }
    let message = format!("the reply has {} bytes, but without a store Lambda carries {MAX_REPLY}", bytes.len());
    let error = Error::new(ErrorKind::PayloadTooLarge, message).hint("configure a store: `[store] url`");
    let result = TaskResult { ended: Ending::Failed((&error).into()), ..result.clone() };
    encode(&InlineReply { result, events: Vec::new(), blobs: Vec::new() })
}

fn raw(bytes: &[u8]) -> Result<Box<RawValue>, Diagnostic> {
    serde_json::from_slice(bytes)
        .map_err(|e| diagnostic(&Error::new(ErrorKind::Unexpected, "the reply is not JSON").because(e)))
}

/// As Lambda tells errors of a function.
fn diagnostic(error: &Error) -> Diagnostic {
    Diagnostic { error_type: format!("Outboard.{:?}", error.kind()), error_message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use outboard_core::{
        Event,
        task::{Metrics, Outcome, Timings},
    };
    use outboard_protocol::PROTOCOL_VERSION;

    use super::*;

    #[test]
    fn an_environment_that_is_not_lambdas_is_told() {
        let all = |name: &str| Some(if name.ends_with("SIZE") { "512" } else { "x" }.to_string());
        check_environment(all).unwrap();
        let error = check_environment(|name| all(name).filter(|_| !name.ends_with("VERSION"))).unwrap_err();
        let words = "the environment is not that of a Lambda function: AWS_LAMBDA_FUNCTION_VERSION is not set";
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidConfig, words));
        assert!(error.advice().is_some());
        let error = check_environment(|_| Some("x".into())).unwrap_err();
        assert!(error.to_string().ends_with("AWS_LAMBDA_FUNCTION_MEMORY_SIZE is not a number"), "{error}");
    }

    #[test]
    fn the_time_left_is_lambdas_or_the_longest_there_is() {
        let now = UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(left(103_000, now), Duration::from_secs(3));
        for odd in [99_000, 100_000, u64::MAX] {
            assert_eq!(left(odd, now), LONGEST);
        }
    }

    #[test]
    fn a_reply_that_is_too_large_says_so() {
        let result = TaskResult {
            protocol: PROTOCOL_VERSION,
            key: "k".into(),
            attempt: "k#1".into(),
            ended: Ending::Finished(Outcome::Evaluate(Metrics { loss: 0.5, accuracy: None, rows: 3 })),
            timings: Timings::default(),
        };
        let reply = |message: String| InlineReply {
            result: result.clone(),
            events: vec![Event::Warning { message }],
            blobs: vec![],
        };
        let read = |bytes: Vec<u8>| serde_json::from_slice::<InlineReply>(&bytes).unwrap();
        assert_eq!(read(bounded(reply("a".into()), &result).unwrap()), reply("a".into()));
        let large = read(bounded(reply("a".repeat(MAX_REPLY)), &result).unwrap());
        let Ending::Failed(failure) = large.result.ended else { panic!() };
        assert_eq!((failure.kind, large.result.key.as_str()), (ErrorKind::PayloadTooLarge, "k"));
        assert!(failure.message.ends_with("without a store Lambda carries 6291556"), "{}", failure.message);
    }
}

//! Replies that are errors: the service's, and those of the function behind a success.

use std::time::Duration;

use outboard_core::error::{EXIT_STATUS, Error, ErrorKind, Retry};
use serde::Deserialize;

use crate::report::Report;

/// What of a text of others is repeated.
const MAX_TOLD: usize = 500;

/// A reply that is no success, as Lambda describes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// Its `x-amzn-errortype`, without `Exception`.
    pub(crate) code: String,
    pub(crate) message: String,
    /// Which limit it was that a throttled request met.
    pub(crate) reason: String,
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// Whether the function may run all the same: the service failed and doesn't say at what.
    pub(crate) fn may_run(&self) -> bool {
        matches!(self.status, 408 | 500..) && !self.is_of_setup()
    }

    /// Whether Lambda failed before it started the function.
    fn is_of_setup(&self) -> bool {
        let setup =
            ["EC2", "ENI", "KMS", "EFS", "S3Files", "Invalid", "Subnet", "SnapStart", "CodeArtifact", "Resource"];
        setup.iter().any(|prefix| self.code.starts_with(prefix))
    }
}

/// The error that a reply tells. The status decides, then the code.
pub(crate) fn parse_error(refusal: &Refusal) -> Error {
    use ErrorKind::*;
    const RIGHTS: &str = "allow `lambda:InvokeFunction` on the function: see providers/aws-lambda/README.md";
    const FUNCTION: &str = "check `function`, `qualifier` and `region`; `outboard aws deploy` makes the function";
    let Refusal { status, code, message, reason, retry_after } = refusal;
    let same = Retry::Same { after: *retry_after };
    let (kind, retry, what, hint) = match (status, code.as_str()) {
        (429, _) => (RateLimited, same, throttled(reason), throttle_hint(reason)),
        (413, _) | (_, "RequestTooLarge" | "SerializedRequestEntityTooLarge") => (
            PayloadTooLarge,
            Retry::Other,
            "the request is larger than Lambda takes",
            "configure a store: `[store] url`",
        ),
        (
            _,
            "UnrecognizedClient"
            | "InvalidSignature"
            | "ExpiredToken"
            | "MissingAuthenticationToken"
            | "IncompleteSignature"
            | "InvalidClientTokenId"
            | "InvalidAccessKeyId",
        )
        | (401, _) => (
            Unauthenticated,
            Retry::Other,
            "AWS refuses the credentials",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `profile`; log in again where they are temporary",
        ),
        (403, _) => (PermissionDenied, Retry::Other, "AWS forbids this to the credentials", RIGHTS),
        (404, _) => (NotFound, Retry::Other, "Lambda has no such function", FUNCTION),
        (408 | 504, _) => (Timeout, same, "Lambda took too long", "try again later"),
        (409, _) => {
            (Unavailable, same, "the function is being changed, or isn't ready yet", "wait until its state is Active")
        }
        (400, _) => (
            Unexpected,
            Retry::Other,
            "Lambda can't read the request",
            "check `function` and `qualifier`, and that this version of Outboard is a recent one",
        ),
        (500.., _) if refusal.is_of_setup() => (
            WorkerUnhealthy,
            Retry::Other,
            "Lambda can't start the function",
            "look at the function's configuration: its network, keys, file systems and code",
        ),
        (500.., _) => (Unavailable, same, "Lambda failed", "look at AWS's health page"),
        _ => (Unexpected, Retry::Never, "Lambda's reply has no meaning here", "check `endpoint_url`"),
    };
    let error = Error::new(kind, what).with_retry(retry).at("status", status).hint(hint);
    let told = [("code", code), ("reason", reason), ("reply", message)];
    told.into_iter()
        .filter(|(_, text)| !text.is_empty())
        .fold(error, |error, (what, text)| error.at(what, clipped(text)))
}

fn throttled(reason: &str) -> &'static str {
    match reason {
        "ConcurrentInvocationLimitExceeded" => "as many functions run in the account as may",
        "ReservedFunctionConcurrentInvocationLimitExceeded" => "as many invocations of the function run as may",
        "FunctionInvocationRateLimitExceeded" | "ReservedFunctionInvocationRateLimitExceeded" => {
            "the function was invoked too often"
        }
        "CallerRateLimitExceeded" => "the caller has sent too many requests",
        "ConcurrentSnapshotCreateLimitExceeded" => "as many snapshots are being made in the account as may",
        _ => "Lambda has had too many requests",
    }
}

fn throttle_hint(reason: &str) -> &'static str {
    match reason {
        "ConcurrentInvocationLimitExceeded" => "lower `concurrency`, or ask AWS for a higher limit",
        "ReservedFunctionConcurrentInvocationLimitExceeded" => {
            "lower `concurrency`, or raise the function's reserved concurrency"
        }
        _ => "lower `concurrency`",
    }
}

/// What Lambda, or the function itself, says of an invocation that failed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FunctionError {
    error_type: String,
    error_message: String,
}

/// Whether a body tells that a function failed, where no header does.
pub(crate) fn is_function_error(body: &[u8]) -> bool {
    serde_json::from_slice::<FunctionError>(body).is_ok_and(|told| !told.error_type.is_empty()) || is_timeout(body)
}

/// Some say it in plain text.
fn is_timeout(text: &[u8]) -> bool {
    String::from_utf8_lossy(text).contains("Task timed out after")
}

/// The error of an invocation that came to its end without a result of ours.
pub(crate) fn function_error(body: &[u8], report: Option<&Report>) -> Error {
    let FunctionError { error_type: what, error_message: message } = serde_json::from_slice(body).unwrap_or_default();
    let message = if message.is_empty() { String::from_utf8_lossy(body).into_owned() } else { message };
    let log = "look at the function's log in CloudWatch";
    let unhealthy = |text: String| Error::new(ErrorKind::WorkerUnhealthy, text).hint(log);
    let error = match what.as_str() {
        _ if is_timeout(body) || what == "Sandbox.Timedout" => {
            Error::new(ErrorKind::Timeout, "the function was ended at its time-out").with_retry(Retry::Other).hint(
                "raise the function's time-out, or make the task shorter: `timeout` must be what the function has",
            )
        }
        "Function.ResponseSizeTooLarge" => {
            Error::new(ErrorKind::PayloadTooLarge, "the result is larger than Lambda carries")
                .hint("configure a store: `[store] url`")
        }
        // Written by the worker, which knows why.
        _ if what.starts_with("Outboard.CorruptPayload") || what.contains("DeserializeError") => {
            Error::new(ErrorKind::CorruptPayload, "the function got a request that it can't read")
                .hint("let the function run this version of Outboard's worker: `outboard aws deploy`")
        }
        _ if what.starts_with("Outboard.") => unhealthy(format!("the worker failed: {}", clipped(&message))),
        "Runtime.InvalidEntrypoint" | "Runtime.InvalidWorkingDir" => unhealthy("Lambda can't start the worker".into())
            .hint("package it for the function's architecture: `outboard aws package`"),
        _ if what.contains("OutOfMemory")
            || message.contains("signal: killed")
            || report.is_some_and(Report::is_full) =>
        {
            Error::new(ErrorKind::OutOfMemory, "the function ran out of memory")
                .hint("use a smaller batch_size, or give the function more memory")
        }
        "Runtime.ExitError" => {
            let status = message.rsplit_once("Error: ").map_or(message.as_str(), |(_, status)| status);
            unhealthy("the worker's process died".into()).at(EXIT_STATUS, clipped(status))
        }
        _ if what.is_empty() => unhealthy("the function's reply isn't that of an Outboard worker".into())
            .hint("let the function run Outboard's worker: `outboard aws deploy`"),
        _ => unhealthy("the function failed".into()),
    };
    let error = if what.is_empty() { error } else { error.at("type", clipped(&what)) };
    match message.trim() {
        "" => error,
        message => error.at("reply", clipped(message)),
    }
}

/// One line of bounded length.
fn clipped(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line[..line.floor_char_boundary(MAX_TOLD)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, code: &str, reason: &str) -> Refusal {
        Refusal { status, code: code.into(), reason: reason.into(), ..Refusal::default() }
    }

    #[test]
    fn every_refusal_has_its_kind_and_answer() {
        use ErrorKind::*;
        let same = Retry::Same { after: None };
        let other = Retry::Other;
        for (status, code, reason, kind, retry, may_run, words) in [
            (429, "TooManyRequests", "ConcurrentInvocationLimitExceeded", RateLimited, same, false, "in the account"),
            (
                429,
                "TooManyRequests",
                "ReservedFunctionConcurrentInvocationLimitExceeded",
                RateLimited,
                same,
                false,
                "invocations of the function run as may",
            ),
            (429, "TooManyRequests", "FunctionInvocationRateLimitExceeded", RateLimited, same, false, "too often"),
            (
                429,
                "TooManyRequests",
                "ReservedFunctionInvocationRateLimitExceeded",
                RateLimited,
                same,
                false,
                "too often",
            ),
            (429, "TooManyRequests", "CallerRateLimitExceeded", RateLimited, same, false, "the caller"),
            (429, "TooManyRequests", "ConcurrentSnapshotCreateLimitExceeded", RateLimited, same, false, "snapshots"),
            (429, "", "", RateLimited, same, false, "too many requests"),
            (400, "InvalidParameterValue", "", Unexpected, other, false, "can't read"),
            (400, "InvalidRequestContent", "", Unexpected, other, false, "can't read"),
            (400, "UnrecognizedClient", "", Unauthenticated, other, false, "refuses the credentials"),
            (403, "ExpiredToken", "", Unauthenticated, other, false, "refuses the credentials"),
            (403, "InvalidSignature", "", Unauthenticated, other, false, "refuses the credentials"),
            (403, "AccessDenied", "", PermissionDenied, other, false, "forbids"),
            (404, "ResourceNotFound", "", NotFound, other, false, "no such function"),
            (404, "", "", NotFound, other, false, "no such function"),
            (408, "", "", Timeout, same, true, "too long"),
            (409, "ResourceConflict", "", Unavailable, same, false, "being changed"),
            (413, "RequestTooLarge", "", PayloadTooLarge, other, false, "larger than Lambda takes"),
            (418, "", "", Unexpected, Retry::Never, false, "no meaning"),
            (500, "Service", "", Unavailable, same, true, "Lambda failed"),
            (502, "", "", Unavailable, same, true, "Lambda failed"),
            (502, "EC2Throttled", "", WorkerUnhealthy, other, false, "can't start the function"),
            (502, "ENILimitReached", "", WorkerUnhealthy, other, false, "can't start the function"),
            (502, "KMSAccessDenied", "", WorkerUnhealthy, other, false, "can't start the function"),
            (502, "InvalidRuntime", "", WorkerUnhealthy, other, false, "can't start the function"),
            (503, "", "", Unavailable, same, true, "Lambda failed"),
            (504, "", "", Timeout, same, true, "too long"),
        ] {
            let refusal = refusal(status, code, reason);
            let error = parse_error(&refusal);
            assert_eq!((error.kind(), error.retry(), refusal.may_run()), (kind, retry, may_run), "{refusal:?}");
            assert!(error.to_string().contains(words) && error.advice().is_some(), "{refusal:?}: {error}");
        }
        let waits = Refusal { retry_after: Some(Duration::from_secs(7)), ..refusal(429, "", "") };
        assert_eq!(parse_error(&waits).retry(), Retry::Same { after: Some(Duration::from_secs(7)) });
        let long = Refusal { message: "ä\n".repeat(5000), ..refusal(500, "", "") };
        assert!(parse_error(&long).report().len() < 1000);
    }

    #[test]
    fn what_fails_behind_a_success_is_told_apart() {
        use ErrorKind::*;
        let full = Report { billed: Duration::ZERO, init: None, memory_mb: 512.0, used_mb: 512.0 };
        let exit = |status: &str| format!("RequestId: 1 Error: Runtime exited with error: {status}");
        let body =
            |what: &str, message: &str| serde_json::json!({ "errorType": what, "errorMessage": message }).to_string();
        let cases = [
            ("Task timed out after 3.00 seconds".into(), None, Timeout, "at its time-out"),
            (
                body("Sandbox.Timedout", "RequestId: 1 Error: Task timed out after 3.00 seconds"),
                None,
                Timeout,
                "time-out",
            ),
            ("{\"errorMessage\":\"2026 1 Task timed out after 3.00 seconds\"}".into(), None, Timeout, "time-out"),
            (body("Runtime.ExitError", &exit("exit status 3")), None, WorkerUnhealthy, "process died"),
            (body("Runtime.ExitError", &exit("signal: killed")), None, OutOfMemory, "out of memory"),
            (body("Runtime.ExitError", &exit("exit status 1")), Some(&full), OutOfMemory, "out of memory"),
            (body("Runtime.OutOfMemory", ""), None, OutOfMemory, "out of memory"),
            (body("Function.ResponseSizeTooLarge", "413"), None, PayloadTooLarge, "larger than Lambda carries"),
            (body("Runtime.InvalidEntrypoint", ""), None, WorkerUnhealthy, "can't start the worker"),
            (body("Outboard.CorruptPayload", "the request is not"), None, CorruptPayload, "can't read"),
            (body("x::DeserializeError", "EOF"), None, CorruptPayload, "can't read"),
            (body("Outboard.Unexpected", "boom"), None, WorkerUnhealthy, "the worker failed: boom"),
            (body("ValueError", "boom"), None, WorkerUnhealthy, "the function failed"),
            ("{\"ok\":true}".into(), None, WorkerUnhealthy, "isn't that of an Outboard worker"),
            (String::new(), None, WorkerUnhealthy, "isn't that of an Outboard worker"),
        ];
        for (body, report, kind, words) in cases {
            let error = function_error(body.as_bytes(), report);
            assert_eq!(error.kind(), kind, "{body}");
            assert!(error.to_string().contains(words) && error.advice().is_some(), "{body}: {error}");
            assert_ne!(error.retry(), Retry::Never, "{body}");
        }
        let died = function_error(body("Runtime.ExitError", &exit("exit status 3")).as_bytes(), None);
        assert!(died.is_death() && died.report().contains("exit status: Runtime exited with error: exit status 3"));
        assert!(is_function_error(body("X", "").as_bytes()) && is_function_error(b"Task timed out after 3.00 seconds"));
        assert!(!is_function_error(b"{\"result\":{}}") && !is_function_error(b""));
    }
}

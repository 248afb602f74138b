//! Replies that are errors, and jobs that failed.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use outboard_core::error::{Error, ErrorKind, Retry};
use outboard_store::transport::retry_after;
use reqwest::{
    StatusCode,
    header::{DATE, HeaderMap},
};
use serde_json::Value;

/// What of a body is repeated.
const MAX_TOLD: usize = 500;

/// The error that a reply tells. Bodies aren't documented: the status decides, the body is kept for the reader.
pub(crate) fn parse_error(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    use ErrorKind::*;
    let (kind, message, hint) = match status.as_u16() {
        300..=399 => (Unavailable, "RunPod's address is redirected", "check `providers.runpod.base_url`"),
        400 => (Unexpected, "RunPod can't read the request", "check that this version of Outboard is a recent one"),
        401 => (
            Unauthenticated,
            "RunPod refuses the key",
            "set OUTBOARD_PROVIDERS__RUNPOD__API_KEY to a key of the account",
        ),
        402 => (QuotaExceeded, "RunPod asks for money", "add credit to the account"),
        403 => (PermissionDenied, "RunPod forbids this to the key", "give the key access to the endpoint"),
        404 => (NotFound, "RunPod doesn't know it", "check the id in `providers.runpod.endpoints`"),
        408 | 504 => (Timeout, "RunPod took too long", "look at RunPod's status page"),
        409 => (Conflict, "RunPod has something else in its place", "look at the endpoint in RunPod's console"),
        413 => (PayloadTooLarge, "it is larger than RunPod takes", "configure a store: `[store] url`"),
        429 => (RateLimited, "RunPod has had too many requests", "wait, or start fewer jobs at once"),
        500..=599 => (Unavailable, "RunPod failed, or what stands before it", "look at RunPod's status page"),
        _ => (Unexpected, "RunPod's reply has no meaning here", "check `providers.runpod.base_url`"),
    };
    let error = Error::new(kind, message).at("status", status).hint(hint);
    let error = match told(body) {
        Some(text) => error.at("reply", text),
        None => error,
    };
    match status.as_u16() {
        300..=399 => error.with_retry(Retry::Other),
        // What RunPod can't read it may read from nobody, but another provider isn't RunPod.
        400 | 404 => error.with_retry(Retry::Other),
        429 | 500..=599 | 408 => error.with_retry(Retry::Same { after: after(headers) }),
        _ => error,
    }
}

/// The time to wait. A date is meant by RunPod's clock, which the reply tells too.
fn after(headers: &HeaderMap) -> Option<Duration> {
    // What the reply says of now, in the same form as a time to wait until.
    let mut date = HeaderMap::new();
    if let Some(now) = headers.get(DATE) {
        date.insert(reqwest::header::RETRY_AFTER, now.clone());
    }
    let now = retry_after(&date, SystemTime::UNIX_EPOCH).map(|since| SystemTime::UNIX_EPOCH + since);
    retry_after(headers, now.unwrap_or_else(SystemTime::now))
}

/// What a body says, in one line.
fn told(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let value = serde_json::from_str::<Value>(&text).ok();
    let said = ["message", "detail", "title", "error"];
    let said = value.as_ref().and_then(|value| said.iter().find_map(|name| value.get(name)?.as_str()));
    let line = said.map_or(text.clone(), Cow::Borrowed).split_whitespace().collect::<Vec<_>>().join(" ");
    (!line.is_empty()).then(|| clipped(&line))
}

fn clipped(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TOLD)].into()
}

/// The error of a job that RunPod calls failed: what the worker's SDK says of an exception, or text.
pub(crate) fn job_error(error: Option<&Value>) -> Error {
    let text = match error {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let told = serde_json::from_str::<Value>(&text).ok().filter(Value::is_object);
    let field = |name: &str| told.as_ref().and_then(|told| told.get(name)?.as_str()).map(clipped);
    let (what, message) = (field("error_type").unwrap_or_default(), field("error_message"));
    let message = message.unwrap_or_else(|| clipped(&text));
    let error = if what.contains("OutOfMemory") || what.contains("MemoryError") {
        Error::new(ErrorKind::OutOfMemory, format!("the worker ran out of memory: {message}"))
            .hint("use a smaller batch_size, or an endpoint with a larger GPU")
    } else if message.is_empty() {
        Error::new(ErrorKind::WorkerUnhealthy, "RunPod says that the job failed, but not why")
            .hint("look at the worker's log in RunPod's console")
    } else {
        Error::new(ErrorKind::WorkerUnhealthy, format!("the worker failed: {message}"))
            .hint("look at the worker's log in RunPod's console; check that the endpoint runs Outboard's worker")
    };
    [("error_type", "type"), ("worker_id", "worker"), ("runpod_version", "SDK")]
        .into_iter()
        .filter_map(|(name, what)| Some((what, field(name)?)))
        .fold(error, |error, (what, value)| error.at(what, value))
}

#[cfg(test)]
mod tests {
    use reqwest::header::RETRY_AFTER;

    use super::*;

    fn parse(status: u16, headers: &[(reqwest::header::HeaderName, &str)], body: &str) -> Error {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        parse_error(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn every_status_has_its_kind_and_answer() {
        use ErrorKind::*;
        let same = Retry::Same { after: None };
        for (status, body, kind, retry) in [
            (302, "", Unavailable, Retry::Other),
            (400, "{\"error\":\"bad request\"}", Unexpected, Retry::Other),
            (401, "", Unauthenticated, Retry::Other),
            (401, "{\"message\":\"unauthorized\"}", Unauthenticated, Retry::Other),
            (402, "", QuotaExceeded, Retry::Other),
            (403, "", PermissionDenied, Retry::Other),
            (404, "{\"title\":\"Not Found\",\"status\":404,\"detail\":\"..\",\"errors\":[]}", NotFound, Retry::Other),
            (408, "", Timeout, same),
            (409, "", Conflict, Retry::Never),
            (413, "", PayloadTooLarge, Retry::Other),
            (418, "", Unexpected, Retry::Never),
            (429, "<html>too many</html>", RateLimited, same),
            (429, "{}", RateLimited, same),
            (500, "", Unavailable, same),
            (502, "<html>", Unavailable, same),
            (503, "", Unavailable, same),
            (504, "", Timeout, same),
        ] {
            let error = parse(status, &[], body);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{status} {body}");
            assert!(error.advice().is_some(), "{status}");
        }
        let told = parse(401, &[], "{\"message\":\"unauthorized\"}");
        assert!(told.report().contains("reply: unauthorized"), "{}", told.report());
        assert!(parse(500, &[], &"ä".repeat(5000)).report().len() < 1000);
    }

    #[test]
    fn the_time_to_wait_is_by_runpods_clock() {
        let wait = |headers: &[(reqwest::header::HeaderName, &str)]| match parse(429, headers, "").retry() {
            Retry::Same { after } => after.map(|after| after.as_secs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(&[(RETRY_AFTER, "7")]), Some(7));
        // A clock that is decades behind ours.
        let until = (RETRY_AFTER, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(wait(&[until.clone(), (DATE, "Sun, 06 Nov 1994 08:49:07 GMT")]), Some(30));
        assert_eq!(wait(&[until]), Some(0));
        assert_eq!(wait(&[(RETRY_AFTER, "soon")]), None);
    }

    #[test]
    fn failed_jobs_tell_what_the_sdk_says() {
        let sdk = |what: &str| {
            let inner = serde_json::json!({
                "error_type": what, "error_message": "it broke", "error_traceback": "s3cret",
                "worker_id": "w1", "runpod_version": "1.12.0",
            });
            job_error(Some(&Value::String(inner.to_string())))
        };
        let error = sdk("<class 'ValueError'>");
        assert_eq!((error.kind(), error.retry()), (ErrorKind::WorkerUnhealthy, Retry::Other));
        assert_eq!(error.to_string(), "the worker failed: it broke");
        assert!(error.report().contains("worker: w1") && !error.report().contains("s3cret"));
        assert_eq!(sdk("<class 'torch.OutOfMemoryError'>").kind(), ErrorKind::OutOfMemory);
        let plain = job_error(Some(&Value::String("name 'app' is not defined".into())));
        assert_eq!(plain.to_string(), "the worker failed: name 'app' is not defined");
        assert_eq!(job_error(None).to_string(), "RunPod says that the job failed, but not why");
        assert_eq!(job_error(Some(&serde_json::json!({ "a": 1 }))).kind(), ErrorKind::WorkerUnhealthy);
    }
}

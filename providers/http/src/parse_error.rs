//! Replies that are errors.

use std::time::SystemTime;

use outboard_core::error::{Error, ErrorKind, Retry};
use outboard_protocol::envelope::Failure;
use outboard_store::transport::retry_after;
use reqwest::{StatusCode, header::HeaderMap};

/// The error that a reply tells: what the worker says where it says something, else what the status means.
pub(crate) fn parse_error(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Error {
    let error = serde_json::from_slice::<Failure>(body).map_or_else(|_| by_status(status), Error::from);
    match (error.retry(), retry_after(headers, now)) {
        (Retry::Same { after: None }, after @ Some(_)) => error.with_retry(Retry::Same { after }),
        _ => error,
    }
}

fn by_status(status: StatusCode) -> Error {
    use ErrorKind::*;
    let (kind, message, hint) = match status.as_u16() {
        300..=399 => (Unavailable, "the worker's address is redirected", "put the worker's own address in `url`"),
        401 => (Unauthenticated, "the worker refuses the token", "use the token that the worker was started with"),
        403 => (PermissionDenied, "the worker forbids this", "look at what stands between this machine and the worker"),
        404 => (NotFound, "the worker doesn't know it", "check that the URL is that of an Outboard worker"),
        408 | 504 => (Timeout, "the worker took too long", "look at the worker's log"),
        410 => (Timeout, "the task came too late", "check the clocks of both machines, and the worker's queue"),
        413 => (PayloadTooLarge, "it is larger than the worker takes", "raise the limit of the worker"),
        416 => (CorruptPayload, "the worker's blob is shorter than what came of it", "fetch it again"),
        422 => (CorruptPayload, "the bytes arrived damaged", "send them again"),
        424 => (NotFound, "the worker misses blobs of the task", "send them first"),
        429 => (RateLimited, "the worker has enough to do", "add a worker, or try again later"),
        500..=599 => (Unavailable, "the worker failed, or what stands before it", "look at the worker's log"),
        _ => (Unexpected, "the worker's reply has no meaning here", "check that the URL is that of an Outboard worker"),
    };
    let error = Error::new(kind, message).at("status", status).hint(hint);
    match status.as_u16() {
        300..=399 | 410 => error.with_retry(Retry::Other),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::header::RETRY_AFTER;

    use super::*;

    fn parse(status: u16, after: Option<&str>, body: &str) -> (ErrorKind, Retry) {
        let mut headers = HeaderMap::new();
        if let Some(after) = after {
            headers.insert(RETRY_AFTER, after.parse().unwrap());
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 90);
        let error = parse_error(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes(), now);
        assert!(error.advice().is_some() || body.contains("kind"), "{status}");
        (error.kind(), error.retry())
    }

    #[test]
    fn every_status_has_its_kind_and_answer() {
        use ErrorKind::*;
        let same = |seconds: Option<u64>| Retry::Same { after: seconds.map(Duration::from_secs) };
        for (status, after, kind, retry) in [
            (302, None, Unavailable, Retry::Other),
            (400, None, Unexpected, Retry::Never),
            (401, None, Unauthenticated, Retry::Other),
            (403, None, PermissionDenied, Retry::Other),
            (404, None, NotFound, Retry::Never),
            (408, None, Timeout, same(None)),
            (410, None, Timeout, Retry::Other),
            (413, None, PayloadTooLarge, Retry::Other),
            (416, None, CorruptPayload, same(None)),
            (418, None, Unexpected, Retry::Never),
            (422, None, CorruptPayload, same(None)),
            (424, None, NotFound, Retry::Never),
            (429, None, RateLimited, same(None)),
            (429, Some("7"), RateLimited, same(Some(7))),
            (429, Some("Sun, 06 Nov 1994 08:49:37 GMT"), RateLimited, same(Some(90))),
            (429, Some("Sat, 06 Nov 1993 08:49:37 GMT"), RateLimited, same(Some(0))),
            (429, Some("soon"), RateLimited, same(None)),
            (429, Some("-1"), RateLimited, same(None)),
            (500, None, Unavailable, same(None)),
            (502, None, Unavailable, same(None)),
            (503, Some("3"), Unavailable, same(Some(3))),
            (504, None, Timeout, same(None)),
        ] {
            assert_eq!(parse(status, after, "<html>"), (kind, retry), "{status} {after:?}");
        }
    }

    #[test]
    fn what_the_worker_says_goes_before_the_status() {
        let failure = |retry: &str| format!("{{\"kind\":\"out_of_memory\",\"retry\":{retry},\"message\":\"m\"}}");
        assert_eq!(parse(500, Some("7"), &failure("\"other\"")), (ErrorKind::OutOfMemory, Retry::Other));
        let same = failure("{\"same\":{\"after\":null}}");
        let after = Some(Duration::from_secs(7));
        assert_eq!(parse(503, Some("7"), &same), (ErrorKind::OutOfMemory, Retry::Same { after }));
        assert_eq!(parse(401, None, "{\"kind\":\"new\"}").0, ErrorKind::Unauthenticated);
    }
}

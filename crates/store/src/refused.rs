//! Replies of an S3-compatible store that are errors.

use std::time::{Duration, SystemTime};

use outboard_core::error::{Error, ErrorKind, Retry};
use reqwest::{
    StatusCode,
    header::{DATE, HeaderMap},
};

use crate::transport::retry_after;

/// From here on clocks differ enough for signatures to be refused.
const SKEW: Duration = Duration::from_secs(300);

/// The error that a reply tells, by its code where it has one, else by its status.
pub(crate) fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Error {
    use ErrorKind::*;
    let body = String::from_utf8_lossy(body);
    let code = element(&body, "Code");
    // S3 has no code of its own for a signed URL whose time is over.
    let is_late = code == Some("AccessDenied")
        && (element(&body, "ServerTime").is_some() || element(&body, "Message") == Some("Request has expired"));
    let (kind, message, hint) = match (code, status.as_u16()) {
        (_, _) if is_late => (
            Timeout,
            "the time is over for which a URL of the store was signed",
            "check the clocks of both machines, or hand the task over again",
        ),
        (Some("SignatureDoesNotMatch"), _) => (
            Unauthenticated,
            "the store refuses the signature: the secret key is wrong, or the URL was changed",
            "check `secret_access_key`, or AWS_SECRET_ACCESS_KEY",
        ),
        (Some("InvalidAccessKeyId" | "NotSignedUp" | "InvalidToken"), _) => (
            Unauthenticated,
            "the store doesn't know the access key or its session",
            "check `access_key_id` and `session_token`, or AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN",
        ),
        (Some("ExpiredToken" | "TokenRefreshRequired"), _) => {
            (Unauthenticated, "the session token of the store has expired", "log in again, then run the command again")
        }
        (Some("RequestTimeTooSkewed"), _) => (
            Unauthenticated,
            "this machine's clock and the store's differ too much",
            "set the clock, with NTP say, then run the command again",
        ),
        (Some("NoSuchBucket"), _) => {
            (InvalidConfig, "the store has no bucket of this name", "create it, or check `url` and `endpoint`")
        }
        (Some("InvalidBucketName"), _) => (InvalidConfig, "the store takes no bucket of this name", "check `url`"),
        (Some("AuthorizationHeaderMalformed" | "AuthorizationQueryParametersError" | "PermanentRedirect"), _)
        | (_, 300..=399) => {
            (InvalidConfig, "the bucket is in another region or place", "check `region` and `endpoint`")
        }
        (Some("SlowDown" | "RequestLimitExceeded" | "Throttling"), _) | (_, 429) => {
            (RateLimited, "the store is asked too often", "try again later")
        }
        (Some("RequestTimeout"), _) | (_, 408 | 504) => (Timeout, "the store took too long", "try again"),
        (Some("EntityTooLarge"), _) | (_, 413) => {
            (PayloadTooLarge, "it is larger than the store takes", "look at the store's limits")
        }
        (Some("QuotaExceeded" | "XMinioStorageFull"), _) | (_, 507) => {
            (QuotaExceeded, "the store is full", "remove what is old with `outboard gc`, or raise its quota")
        }
        (Some("BadDigest" | "IncompleteBody" | "InvalidPart"), _) => {
            (CorruptPayload, "the bytes did not arrive whole", "send them again")
        }
        (Some("InvalidRange"), _) | (_, 416) => {
            (CorruptPayload, "the store's object is shorter than what came of it", "fetch it again")
        }
        (Some("NotImplemented"), _) | (_, 501) => (
            Unsupported,
            "the store doesn't know a request that is needed",
            "use a newer version of it, or another store",
        ),
        (_, 401) => {
            (Unauthenticated, "the store refuses the credentials", "check `access_key_id` and `secret_access_key`")
        }
        (_, 403) => (
            PermissionDenied,
            "the store forbids this",
            "check the keys, and what the bucket's policy lets them do: read, write, list and delete below its prefix",
        ),
        (_, 404) => (NotFound, "the store has no such object", "start the job again"),
        (_, 409 | 412) => (Conflict, "the object is there already", "look at who wrote it"),
        (_, 500..=599) => (Unavailable, "the store failed, or what stands before it", "try again later"),
        _ => (
            Unexpected,
            "the store's reply has no meaning here",
            "check that `endpoint` is that of an S3-compatible store",
        ),
    };
    let error = Error::new(kind, message).at("status", status).hint(hint);
    let error = code.into_iter().fold(error, |error, code| error.at("code", code));
    let region = headers.get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
    let error = region.or(element(&body, "Region")).into_iter().fold(error, |error, region| error.at("region", region));
    let error = match skew(headers, now).filter(|_| matches!(kind, Unauthenticated | PermissionDenied | Timeout)) {
        Some(skew) => {
            error.at("clock", format!("{} s off the store's", skew.as_secs())).hint("set this machine's clock")
        }
        None => error,
    };
    match (kind, retry_after(headers, now)) {
        // Another machine, or a fresh grant, may do better than this one.
        (Timeout, _) if is_late => error.with_retry(Retry::Other),
        (RateLimited | Unavailable | Timeout, after @ Some(_)) => error.with_retry(Retry::Same { after }),
        _ => error,
    }
}

/// How far this machine's clock is off, where that is far.
fn skew(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let there = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let skew = now.duration_since(there).unwrap_or_else(|early| early.duration());
    (skew >= SKEW).then_some(skew)
}

/// The text of the first element of this name. Codes hold no characters that would need decoding; what looks otherwise
/// isn't one.
pub(crate) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let is_plain = text.len() <= 100 && text.chars().all(|c| c.is_ascii_alphanumeric() || " -_:.".contains(c));
    is_plain.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn parse(status: u16, headers: &[(&'static str, &str)], body: &str) -> Error {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        refused(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes(), at(784_111_777))
    }

    #[test]
    fn every_code_and_status_has_its_kind_and_answer() {
        let same = Retry::Same { after: None };
        for (status, code, kind, retry) in [
            (403, "SignatureDoesNotMatch", Unauthenticated, Retry::Other),
            (403, "InvalidAccessKeyId", Unauthenticated, Retry::Other),
            (400, "ExpiredToken", Unauthenticated, Retry::Other),
            (403, "RequestTimeTooSkewed", Unauthenticated, Retry::Other),
            (403, "AccessDenied", PermissionDenied, Retry::Other),
            (404, "NoSuchBucket", InvalidConfig, Retry::Never),
            (404, "NoSuchKey", NotFound, Retry::Never),
            (404, "", NotFound, Retry::Never),
            (301, "PermanentRedirect", InvalidConfig, Retry::Never),
            (400, "AuthorizationHeaderMalformed", InvalidConfig, Retry::Never),
            (409, "ConditionalRequestConflict", Conflict, Retry::Never),
            (412, "PreconditionFailed", Conflict, Retry::Never),
            (503, "SlowDown", RateLimited, same),
            (429, "", RateLimited, same),
            (400, "RequestTimeout", Timeout, same),
            (400, "EntityTooLarge", PayloadTooLarge, Retry::Other),
            (507, "", QuotaExceeded, Retry::Other),
            (400, "BadDigest", CorruptPayload, same),
            (416, "InvalidRange", CorruptPayload, same),
            (501, "NotImplemented", Unsupported, Retry::Other),
            (500, "InternalError", Unavailable, same),
            (418, "", Unexpected, Retry::Never),
        ] {
            let error = parse(status, &[], &format!("<Error><Code>{code}</Code><Key>s3cret</Key></Error>"));
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{status} {code}");
            assert!(error.advice().is_some() && !error.report().contains("s3cret"), "{}", error.report());
        }
        let later = parse(503, &[("retry-after", "3")], "");
        assert_eq!(later.retry(), Retry::Same { after: Some(Duration::from_secs(3)) });
    }

    #[test]
    fn a_url_whose_time_is_over_is_told_from_one_that_is_forbidden() {
        let body = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message>\
                    <Expires>2026-01-01T00:00:00Z</Expires><ServerTime>2026-01-01T00:00:09Z</ServerTime></Error>";
        let error = parse(403, &[], body);
        assert_eq!((error.kind(), error.retry()), (Timeout, Retry::Other));
        assert_eq!(error.to_string(), "the time is over for which a URL of the store was signed");
    }

    #[test]
    fn a_clock_that_is_off_is_told() {
        let error = parse(403, &[("date", "Sun, 06 Nov 1994 08:59:37 GMT")], "<Code>AccessDenied</Code>");
        assert!(error.report().contains("clock: 600 s off the store's"), "{}", error.report());
        assert_eq!(error.advice(), Some("set this machine's clock"));
        let right = parse(403, &[("date", "Sun, 06 Nov 1994 08:49:38 GMT")], "<Code>AccessDenied</Code>");
        assert!(!right.report().contains("clock"));
    }

    #[test]
    fn odd_bodies_are_no_codes() {
        for body in ["<Code>", "<Code><b></Code>", "</Code><Code>", "\u{0}", "<Code>s3cret&amp;</Code>"] {
            assert_eq!(element(body, "Code"), None, "{body}");
            assert_eq!(parse(500, &[], body).kind(), Unavailable);
        }
    }
}

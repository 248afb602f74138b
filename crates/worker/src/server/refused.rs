//! Errors as replies.

use axum::{
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use outboard_core::{
    Digest,
    error::{Error, ErrorKind, Retry},
};
use outboard_protocol::envelope::{DIGEST_HEADER, Failure, encode};

/// A message as a reply, with its digest.
pub(super) fn message(status: StatusCode, body: Vec<u8>) -> Response {
    let digest = Digest::of(&body).to_string();
    let headers = [(header::CONTENT_TYPE, "application/json"), (HeaderName::from_static(DIGEST_HEADER), &digest)];
    (status, headers, body).into_response()
}

/// An error with the status under which it is told.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    error: Error,
}

impl Refused {
    pub(super) fn new(status: StatusCode, error: Error) -> Self {
        Self { status, error }
    }

    /// The worker's disk, not the request, is to blame.
    pub(super) fn store(error: Error) -> Self {
        Error::new(ErrorKind::WorkerUnhealthy, format!("the worker's store failed: {error}")).into()
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        use ErrorKind::*;
        let status = match error.kind() {
            InvalidRequest | CorruptPayload | Unsupported => StatusCode::BAD_REQUEST,
            Unauthenticated => StatusCode::UNAUTHORIZED,
            NotFound => StatusCode::NOT_FOUND,
            Conflict => StatusCode::CONFLICT,
            Timeout => StatusCode::GONE,
            PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), error = %self.error, "request failed");
        } else {
            tracing::debug!(status = self.status.as_u16(), error = %self.error, "request refused");
        }
        // A failure holds nothing that can't be encoded; were it so, the status alone would tell.
        let body = encode(&Failure::from(&self.error)).unwrap_or_default();
        let mut response = message(self.status, body);
        if let Retry::Same { after: Some(after) } = self.error.retry() {
            response.headers_mut().insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }
        response
    }
}

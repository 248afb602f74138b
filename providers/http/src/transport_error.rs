//! Requests that got no reply.

use outboard_core::Error;
use outboard_store::transport::{self, Peer};

pub(crate) const WORKER: Peer = Peer {
    name: "worker",
    address: "`url`",
    start: "start it there with `outboard worker --listen`, or check `url`",
    slow: "look at the worker's log, or raise `request_timeout`",
    log: "the worker's log",
};

/// Why there was no reply, in words. The URL is told apart from this.
pub(crate) fn transport_error(error: reqwest::Error) -> Error {
    transport::transport_error(error, &WORKER)
}

//! Requests that got no reply.

use outboard_core::Error;
use outboard_store::transport::{self, Peer};

pub(crate) const RUNPOD: Peer = Peer {
    name: "RunPod API",
    address: "`base_url`",
    start: "check `base_url`",
    slow: "look at RunPod's status page, or raise `request_timeout`",
    log: "RunPod's status page",
};

/// Why there was no reply, in words. The URL is told apart from this.
pub(crate) fn transport_error(error: reqwest::Error) -> Error {
    transport::transport_error(error, &RUNPOD)
}

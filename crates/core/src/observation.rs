//! What ended attempts taught of their providers: the router estimates from these.

use serde::{Deserialize, Serialize};

use crate::{
    error::ErrorKind,
    money::NanoUsd,
    task::{OperationKind, Timings},
};

/// One ended attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The provider's id.
    pub provider: String,
    /// When it ended: milliseconds since 1970, UTC.
    pub at: u64,
    /// What was done.
    pub operation: OperationKind,
    /// Why it failed; none where it succeeded.
    pub failure: Option<ErrorKind>,
    /// Where the time went.
    pub timings: Timings,
    /// Floating-point operations done; zero where unknown.
    pub flops: u64,
    /// Bytes that went to the provider.
    pub bytes_down: u64,
    /// Bytes that came back.
    pub bytes_up: u64,
    /// What it cost.
    pub cost: NanoUsd,
}

impl Observation {
    /// Whether a machine or a process had to be started for it. A warm one answers within a few milliseconds.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        const LEAST_SECONDS: f64 = 0.01;
        self.timings.boot >= LEAST_SECONDS
    }
}

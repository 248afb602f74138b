//! The keys of `[providers.cpu]`.

use serde::{Deserialize, Serialize};

/// `[providers.cpu]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whether it may be used.
    pub enabled: bool,
    /// Threads; 0 means all cores. Results don't depend on it.
    pub threads: usize,
}

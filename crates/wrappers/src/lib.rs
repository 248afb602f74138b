#![doc = include_str!("../README.md")]

pub mod metrics;
pub mod rate_limit;
pub mod retry;
mod standard;
pub mod timeout;

#[cfg(test)]
mod fake;

pub use metrics::MetricsProvider;
pub use rate_limit::{Rate, RateLimitProvider, RateLimits};
pub use retry::{RetryProvider, RetrySettings};
pub use standard::{Settings, standard};
pub use timeout::{TimeoutProvider, TimeoutSettings};

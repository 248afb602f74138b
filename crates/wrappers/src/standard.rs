//! All wrappers, in their order.

use std::sync::Arc;

use outboard_core::ComputeProvider;

use crate::{
    MetricsProvider, RateLimitProvider, RateLimits, RetryProvider, RetrySettings, TimeoutProvider, TimeoutSettings,
};

/// What the wrappers of one provider do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Deadlines.
    pub timeout: TimeoutSettings,
    /// Calls per second.
    pub rate_limit: RateLimits,
    /// Tries and the time between them.
    pub retry: RetrySettings,
}

/// `provider` in all wrappers: `metrics(retry(rate_limit(timeout(provider))))`.
#[must_use]
pub fn standard(provider: Arc<dyn ComputeProvider>, settings: &Settings) -> Arc<dyn ComputeProvider> {
    let provider = Arc::new(TimeoutProvider::new(provider, settings.timeout));
    let provider = Arc::new(RateLimitProvider::new(provider, settings.rate_limit));
    let provider = Arc::new(RetryProvider::new(provider, settings.retry));
    Arc::new(MetricsProvider::new(provider))
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use outboard_core::ErrorKind;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        Rate,
        fake::{Fake, task},
    };

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn every_try_takes_a_permit_and_waiting_for_one_is_no_timeout() {
        let rate = Rate { calls: NonZeroU32::MIN, per: 60 * SECOND, burst: NonZeroU32::MIN };
        let settings = Settings {
            timeout: TimeoutSettings { submit: SECOND, ..TimeoutSettings::default() },
            rate_limit: RateLimits { submit: Some(rate), ..RateLimits::default() },
            retry: RetrySettings { first_delay: SECOND, total_time: 600 * SECOND, ..RetrySettings::default() },
        };
        let fake = Arc::new(Fake::failing([ErrorKind::Unavailable, ErrorKind::Unavailable]));
        let began = Instant::now();
        standard(fake.clone(), &settings).submit(&task()).await.unwrap();
        assert_eq!(fake.count("submit"), 3);
        assert_eq!(began.elapsed(), 120 * SECOND);
    }
}

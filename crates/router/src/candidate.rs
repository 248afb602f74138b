//! A provider, as data.

use std::time::Duration;

use outboard_core::{
    Observation,
    provider::{Capabilities, Health, PriceModel, ProviderInfo},
};

use crate::{Breaker, BreakerSettings, Learned, Priors, warm::gaps};

/// All that decides whether a provider gets a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// What it computes on, in words.
    pub device: String,
    /// Whether it runs on the user's own machine.
    pub is_local: bool,
    /// Whether the configuration allows it.
    pub enabled: bool,
    /// What it can do.
    pub capabilities: Capabilities,
    /// What it bills, or why that isn't known.
    pub price: Result<PriceModel, String>,
    /// Whether it could take a task now.
    pub health: Health,
    /// Whether its failures speak against it.
    pub breaker: Breaker,
    /// How fast it is.
    pub learned: Learned,
    /// Times between its tasks, newest first.
    pub gaps: Vec<Duration>,
}

/// Kinds that run on the user's own machine.
const LOCAL: [&str; 2] = ["cpu", "cuda"];

impl Candidate {
    /// A provider that nothing is known of yet but what it says of itself.
    #[must_use]
    pub fn new(
        info: &ProviderInfo,
        capabilities: &Capabilities,
        price: Result<PriceModel, String>,
        health: Health,
    ) -> Self {
        Self {
            id: info.id.clone(),
            kind: info.kind.clone(),
            device: info.device.clone(),
            is_local: LOCAL.contains(&info.kind.as_str()),
            enabled: true,
            capabilities: capabilities.clone(),
            price,
            health,
            breaker: Breaker::Closed,
            learned: Learned::from(&[], &Priors::of(&info.kind)),
            gaps: Vec::new(),
        }
    }

    /// With what its own observations teach, at `now` (milliseconds since 1970, UTC). Those of others are left out.
    #[must_use]
    pub fn taught(self, observations: &[Observation], now: u64, settings: &BreakerSettings) -> Self {
        let own: Vec<_> = observations.iter().filter(|o| o.provider == self.id).cloned().collect();
        let breaker = self.breaker.or(Breaker::from(&own, now, settings));
        Self { breaker, learned: Learned::from(&own, &Priors::of(&self.kind)), gaps: gaps(&own), ..self }
    }
}

#[cfg(test)]
mod tests {
    use outboard_core::ErrorKind;

    use super::*;
    use crate::{Pause, fixture};

    #[test]
    fn only_its_own_observations_count() {
        let failed = |provider: &str| Observation {
            provider: provider.into(),
            ..fixture::observation(1, Some(ErrorKind::WorkerUnhealthy))
        };
        let taught = |observations: &[Observation]| {
            fixture::candidate("runpod").taught(observations, 2, &BreakerSettings::default())
        };
        assert_eq!(taught(&[failed("http"), failed("http")]), fixture::candidate("runpod"));
        let own = taught(&[failed("runpod"), failed("runpod")]);
        assert!(matches!(own.breaker, Breaker::Open(_)) && own.learned.mtbf.observations == 2, "{own:?}");
    }

    #[test]
    fn a_pause_that_was_asked_for_outlasts_what_is_taught() {
        let breaker = Breaker::Open(Pause { until: 9, why: "it asked for it".into() });
        let candidate = Candidate { breaker: breaker.clone(), ..fixture::candidate("runpod") };
        assert_eq!(candidate.taught(&[], 2, &BreakerSettings::default()).breaker, breaker);
    }
}

//! A provider, as data.

use outboard_core::{
    Observation,
    provider::{Capabilities, Health, PriceModel, ProviderInfo},
};

use crate::{Breaker, BreakerSettings, Learned, Priors};

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
        }
    }

    /// With what its own observations teach, at `now` (milliseconds since 1970, UTC). Those of others are left out.
    #[must_use]
    pub fn taught(self, observations: &[Observation], now: u64, settings: &BreakerSettings) -> Self {
        let own: Vec<_> = observations.iter().filter(|o| o.provider == self.id).cloned().collect();
        let breaker = self.breaker.or(Breaker::from(&own, now, settings));
        Self { breaker, learned: Learned::from(&own, &Priors::of(&self.kind)), ..self }
    }
}

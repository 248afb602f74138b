//! The keys of `[router]` and `[budget]`.

use std::{collections::BTreeMap, time::Duration};

use outboard_core::{NanoUsd, duration::time_above_zero, money::deserialize_usd};
use serde::{Deserialize, Deserializer, de};

use crate::{BreakerSettings, Patience, Policy, Terms, Threshold};

/// `[router]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterConfig {
    /// What counts.
    pub policy: Policy,
    /// What an hour of waiting is worth.
    #[serde(deserialize_with = "usd")]
    pub value_of_time_usd_per_hour: NanoUsd,
    /// Share of a task's time that may go into waiting, starting and transfers: above 0, below 1.
    #[serde(deserialize_with = "share")]
    pub overhead_share: f64,
    /// Whether jobs may come home to this machine when others are configured.
    pub local_fallback: bool,
    /// How long providers have to state their price and health.
    #[serde(deserialize_with = "time_above_zero")]
    pub survey_timeout: Duration,
    /// When a provider that keeps failing is left alone.
    pub breaker: BreakerSettings,
    /// When a job that keeps failing is given up.
    pub patience: Patience,
}

impl Default for RouterConfig {
    /// The value of time is a bit less than half of what an hour on an RTX 4090 costs at RunPod (1.12 USD, August 2026):
    /// a job goes there if each hour on the card saves more than two hours of waiting. A fifth of overhead still leaves
    /// most of the money for computing.
    fn default() -> Self {
        Self {
            policy: Policy::Balanced,
            value_of_time_usd_per_hour: NanoUsd(500_000_000),
            overhead_share: 0.2,
            local_fallback: true,
            survey_timeout: Duration::from_secs(5),
            breaker: BreakerSettings::default(),
            patience: Patience::default(),
        }
    }
}

impl RouterConfig {
    /// What a job is decided by.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            policy: self.policy,
            value_of_time: self.value_of_time_usd_per_hour,
            overhead_share: self.overhead_share,
            local_fallback: self.local_fallback,
        }
    }
}

/// `[budget]`. `None` is no limit, zero allows only free providers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// For each job that sets no limit of its own.
    #[serde(deserialize_with = "limit")]
    pub job_usd: Option<NanoUsd>,
    /// For each day, UTC.
    #[serde(deserialize_with = "limit")]
    pub day_usd: Option<NanoUsd>,
    /// For each month, UTC.
    #[serde(deserialize_with = "limit")]
    pub month_usd: Option<NanoUsd>,
    /// What happens as a budget fills.
    pub thresholds: Vec<Threshold>,
    /// How long a job waits for what running tasks may give back.
    #[serde(deserialize_with = "time_above_zero")]
    pub wait: Duration,
    /// For single providers, by id.
    pub providers: BTreeMap<String, ProviderBudget>,
}

/// `[budget.providers.ID]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderBudget {
    /// For each day, UTC.
    #[serde(deserialize_with = "limit")]
    pub day_usd: Option<NanoUsd>,
    /// For each month, UTC.
    #[serde(deserialize_with = "limit")]
    pub month_usd: Option<NanoUsd>,
}

impl Default for BudgetConfig {
    /// Whoever sets nothing can't lose more in a night than a lunch costs.
    fn default() -> Self {
        Self {
            job_usd: None,
            day_usd: Some(NanoUsd(5_000_000_000)),
            month_usd: None,
            thresholds: vec![Threshold { at: 0.8, action: crate::Action::PreferCheaper }],
            wait: Duration::from_secs(600),
            providers: BTreeMap::new(),
        }
    }
}

/// Dollars, or `"none"`, which lifts the limit of a lower layer: TOML has no null.
fn limit<'de, D: Deserializer<'de>>(d: D) -> Result<Option<NanoUsd>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        None,
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an amount in US dollars, such as 0.50, or \"none\"")]
    enum Limit {
        Lifted(Word),
        Usd(#[serde(deserialize_with = "deserialize_usd")] Option<NanoUsd>),
    }
    Ok(match Limit::deserialize(d)? {
        Limit::Lifted(Word::None) => None,
        Limit::Usd(amount) => amount,
    })
}

fn usd<'de, D: Deserializer<'de>>(d: D) -> Result<NanoUsd, D::Error> {
    deserialize_usd(d).map(Option::unwrap_or_default)
}

fn share<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    match f64::deserialize(d)? {
        share if share > 0.0 && share < 1.0 => Ok(share),
        other => Err(de::Error::custom(format!("{other} is not a share above 0 and below 1, such as 0.2"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Action;

    /// The rest of the file is not ours.
    #[derive(Debug, PartialEq, Deserialize)]
    struct File {
        router: RouterConfig,
        budget: BudgetConfig,
    }

    const DEFAULTS: &str = include_str!("../../../config/default.toml");

    #[test]
    fn the_file_of_defaults_states_every_key_with_its_default() {
        let file: File = toml::from_str(DEFAULTS).unwrap();
        assert_eq!(file, File { router: RouterConfig::default(), budget: BudgetConfig::default() });
        assert_eq!(toml::from_str::<RouterConfig>("").unwrap(), RouterConfig::default());
        assert_eq!(toml::from_str::<BudgetConfig>("").unwrap(), BudgetConfig::default());
        // Every key stands there: a line that is left out is missing from what was read.
        let keys = |table: &str| toml::from_str::<toml::Table>(DEFAULTS).unwrap()[table].as_table().unwrap().len();
        assert_eq!((keys("router"), keys("budget")), (7, 6));
    }

    #[test]
    fn none_is_no_limit_and_zero_is_one() {
        let budget = |text: &str| toml::from_str::<BudgetConfig>(text).map_err(|e| e.message().to_string());
        assert_eq!(budget("day_usd = 'none'").unwrap().day_usd, None);
        assert_eq!(budget("day_usd = 0").unwrap().day_usd, Some(NanoUsd::ZERO));
        assert_eq!(budget("month_usd = '12.34'").unwrap().month_usd, Some(NanoUsd(12_340_000_000)));
        for wrong in ["day_usd = -1", "day_usd = 'nothing'", "day_usd = nan", "day_usd = true"] {
            let message = budget(wrong).unwrap_err();
            assert_eq!(message, "an amount in US dollars, such as 0.50, or \"none\"", "{wrong}");
        }
        assert!(budget("days_usd = 1").unwrap_err().starts_with("unknown field `days_usd`"));
    }

    #[test]
    fn wrong_values_are_refused_with_what_is_right() {
        let router = |text: &str| toml::from_str::<RouterConfig>(text).unwrap_err().message().to_string();
        assert_eq!(router("overhead_share = 0.0"), "0 is not a share above 0 and below 1, such as 0.2");
        assert_eq!(router("overhead_share = nan"), "NaN is not a share above 0 and below 1, such as 0.2");
        assert_eq!(router("survey_timeout = '0s'"), "\"0s\" is not a time above zero, such as \"10s\" or \"2m\"");
        assert_eq!(router("policy = 'best'").split(',').next(), Some("unknown variant `best`"));
        assert!(router("breaker.failure = 1").starts_with("unknown field `failure`"));
        let threshold = |text: &str| {
            let error = toml::from_str::<BudgetConfig>(&format!("thresholds = [{text}]")).unwrap_err();
            error.message().to_string()
        };
        assert_eq!(threshold("{ at = 80, do = 'warn' }"), "80 is not a share above 0 and at most 1, such as 0.8");
        assert!(threshold("{ at = 0.8, do = 'panic' }").starts_with("unknown variant `panic`"));
        let read: BudgetConfig = toml::from_str("thresholds = [{ at = 1, do = 'local_only' }]").unwrap();
        assert_eq!(read.thresholds, [Threshold { at: 1.0, action: Action::LocalOnly }]);
    }
}

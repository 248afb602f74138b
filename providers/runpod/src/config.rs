//! The keys of `[providers.runpod]`.

use std::{fmt, time::Duration};

use outboard_core::{NanoUsd, duration::time_above_zero, money::deserialize_usd};
use serde::{Deserialize, Deserializer};

use crate::DeployConfig;

/// `[providers.runpod]`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether it may be used.
    pub enabled: bool,
    /// The key of the account.
    #[serde(deserialize_with = "filled")]
    pub api_key: Option<String>,
    /// The endpoints; at least one where it is used.
    pub endpoints: Vec<EndpointConfig>,
    /// The endpoint that `outboard runpod deploy` makes.
    pub deploy: DeployConfig,
    /// Where the job API is.
    pub base_url: String,
    /// Where the REST API, version 2, is.
    pub rest_url: String,
    /// Where its version 1 is, which manages endpoints and tells bills.
    pub manage_url: String,
    /// What a second of a worker costs, where the built-in price list doesn't say or is wrong.
    #[serde(deserialize_with = "price")]
    pub usd_per_second: Option<NanoUsd>,
    /// Longest time to connect.
    #[serde(deserialize_with = "time_above_zero")]
    pub connect_timeout: Duration,
    /// Longest time for a reply.
    #[serde(deserialize_with = "time_above_zero")]
    pub request_timeout: Duration,
    /// Longest time for all blobs of one call, between here and the store.
    #[serde(deserialize_with = "time_above_zero")]
    pub transfer_timeout: Duration,
    /// Longest task; RunPod takes up to a week.
    #[serde(deserialize_with = "time_above_zero")]
    pub max_task_time: Duration,
    /// A worker that would start a task later refuses it, and RunPod forgets it.
    #[serde(deserialize_with = "time_above_zero")]
    pub start_within: Duration,
    /// A task without an event or a finished batch for this long counts as hung.
    #[serde(deserialize_with = "time_above_zero")]
    pub patience: Duration,
    /// Longest billed start of a worker; part of what is reserved for a task.
    #[serde(deserialize_with = "time_above_zero")]
    pub start_time: Duration,
    /// Longest time for a task's blobs beyond its limit; part of what is reserved for a task.
    #[serde(deserialize_with = "time_above_zero")]
    pub transfer_time: Duration,
    /// The endpoints' idle time-out, as it is set there; part of what is reserved for a task.
    #[serde(deserialize_with = "time_above_zero")]
    pub idle_timeout: Duration,
    /// How long workers may crash while a task waits for one.
    #[serde(deserialize_with = "time_above_zero")]
    pub crash_patience: Duration,
    /// How long a task may wait where there are no workers at all.
    #[serde(deserialize_with = "time_above_zero")]
    pub capacity_patience: Duration,
    /// How long a task may wait where the hosts of all workers are full.
    #[serde(deserialize_with = "time_above_zero")]
    pub throttled_patience: Duration,
    /// How long a task may wait for the start of a worker.
    #[serde(deserialize_with = "time_above_zero")]
    pub cold_start_patience: Duration,
    /// How long a task that runs may have no running worker.
    #[serde(deserialize_with = "time_above_zero")]
    pub lost_patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            enabled: true,
            api_key: None,
            endpoints: Vec::new(),
            deploy: DeployConfig::default(),
            base_url: "https://api.runpod.ai/v2".into(),
            rest_url: "https://api.runpod.io/v2".into(),
            manage_url: "https://rest.runpod.io/v1".into(),
            usd_per_second: None,
            connect_timeout: seconds(10),
            request_timeout: seconds(30),
            transfer_timeout: seconds(3600),
            max_task_time: seconds(3600),
            start_within: seconds(900),
            patience: seconds(120),
            start_time: seconds(60),
            transfer_time: seconds(60),
            idle_timeout: seconds(5),
            crash_patience: seconds(60),
            capacity_patience: seconds(180),
            throttled_patience: seconds(120),
            cold_start_patience: seconds(600),
            lost_patience: seconds(60),
        }
    }
}

impl Config {
    /// Whether it is enabled and set up: a key or an endpoint is there. What is missing then is an error.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.enabled && (self.api_key.is_some() || !self.endpoints.is_empty())
    }
}

/// Without secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL with a user or a query is refused later; until then it may hold a secret.
        let plain = |url: &str| if url.contains(['@', '?', '#']) { "***".into() } else { url.to_string() };
        f.debug_struct("Config")
            .field("enabled", &self.enabled)
            .field("api_key", &self.api_key.as_ref().map(|_| "***"))
            .field("endpoints", &self.endpoints)
            .field("base_url", &plain(&self.base_url))
            .field("rest_url", &plain(&self.rest_url))
            .field("manage_url", &plain(&self.manage_url))
            .finish_non_exhaustive()
    }
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Its id, as in its URL.
    pub id: String,
    /// What its workers have, as RunPod's price list names it: `RTX 4090`, `L4`.
    pub gpu: String,
    /// Its share of the tasks, relative to the others.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// Empty is none.
fn filled<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.filter(|text| !text.trim().is_empty()))
}

/// Dollars, or `"list"`: what the price list says.
fn price<'de, D: Deserializer<'de>>(d: D) -> Result<Option<NanoUsd>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        List,
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an amount in US dollars, such as 0.00031, or \"list\"")]
    enum Price {
        Listed(Word),
        Usd(#[serde(deserialize_with = "deserialize_usd")] Option<NanoUsd>),
    }
    Ok(match Price::deserialize(d)? {
        Price::Listed(Word::List) => None,
        Price::Usd(amount) => amount,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_and_no_other() {
        let times = [
            "connect_timeout",
            "request_timeout",
            "transfer_timeout",
            "max_task_time",
            "start_within",
            "patience",
            "start_time",
            "transfer_time",
            "idle_timeout",
            "crash_patience",
            "capacity_patience",
            "throttled_patience",
            "cold_start_patience",
            "lost_patience",
        ];
        let text: String = times.iter().map(|key| format!("{key} = '7s'\n")).collect();
        let text = text
            + "enabled = true\napi_key = 'k'\nbase_url = 'http://a'\nrest_url = 'http://b'\nmanage_url = 'http://c'\nusd_per_second = 0.00031\n\
               endpoints = [{ id = 'e', gpu = 'L4' }, { id = 'f', gpu = 'A100', weight = 3 }]\ndeploy.image = 'i'";
        let seven = Duration::from_secs(7);
        let endpoint = |id: &str, gpu: &str, weight| EndpointConfig { id: id.into(), gpu: gpu.into(), weight };
        let expected = Config {
            enabled: true,
            api_key: Some("k".into()),
            endpoints: vec![endpoint("e", "L4", 1), endpoint("f", "A100", 3)],
            deploy: DeployConfig { image: "i".into(), ..DeployConfig::default() },
            base_url: "http://a".into(),
            rest_url: "http://b".into(),
            manage_url: "http://c".into(),
            usd_per_second: Some(NanoUsd(310_000)),
            connect_timeout: seven,
            request_timeout: seven,
            transfer_timeout: seven,
            max_task_time: seven,
            start_within: seven,
            patience: seven,
            start_time: seven,
            transfer_time: seven,
            idle_timeout: seven,
            crash_patience: seven,
            capacity_patience: seven,
            throttled_patience: seven,
            cold_start_patience: seven,
            lost_patience: seven,
        };
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), expected);
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        let empty = toml::from_str::<Config>("api_key = ''\nusd_per_second = 'list'").unwrap();
        assert_eq!(empty, Config::default());
        assert!(!empty.is_used() && Config { api_key: Some("k".into()), ..empty }.is_used());
        for wrong in ["key = 'x'", "endpoints = [{ id = 'e' }]", "patience = '0s'", "usd_per_second = -1"] {
            assert!(toml::from_str::<Config>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        for base_url in ["http://a", "http://me:s3cret@a", "http://a?key=s3cret"] {
            let config = Config { api_key: Some("s3cret".into()), base_url: base_url.into(), ..Config::default() };
            let shown = format!("{config:?}");
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
}

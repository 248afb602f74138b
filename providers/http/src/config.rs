//! The keys of `[providers.http]`.

use std::{fmt, path::PathBuf, time::Duration};

use outboard_core::{NanoUsd, duration::time_above_zero, money::deserialize_amount};
use serde::Deserialize;

/// `[providers.http]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether it may be used.
    pub enabled: bool,
    /// The workers; at least one where it is enabled.
    pub workers: Vec<WorkerConfig>,
    /// Whether plain HTTP may leave this machine, with the token in it.
    pub allow_plain_http: bool,
    /// Longest time to connect.
    #[serde(deserialize_with = "time_above_zero")]
    pub connect_timeout: Duration,
    /// Longest time for a reply, and for a transfer to stand still.
    #[serde(deserialize_with = "time_above_zero")]
    pub request_timeout: Duration,
    /// Longest time for all blobs of one call together.
    #[serde(deserialize_with = "time_above_zero")]
    pub transfer_timeout: Duration,
    /// What an hour on these machines costs.
    #[serde(deserialize_with = "deserialize_amount")]
    pub usd_per_hour: NanoUsd,
    /// A worker that would start a task later refuses it.
    #[serde(deserialize_with = "time_above_zero")]
    pub start_within: Duration,
    /// A task without an event or a finished batch for this long counts as hung.
    #[serde(deserialize_with = "time_above_zero")]
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: false,
            workers: Vec::new(),
            allow_plain_http: false,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(60),
            transfer_timeout: Duration::from_secs(3600),
            usd_per_hour: NanoUsd::ZERO,
            start_within: Duration::from_secs(600),
            patience: Duration::from_secs(120),
        }
    }
}

/// One worker: its address, and the token that it was started with, here or in a file.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Where it listens.
    pub url: String,
    /// The token.
    #[serde(default)]
    pub token: Option<String>,
    /// A file that holds the token.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// A PEM file with the certificate to trust, besides those that the system trusts.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// Without secrets.
impl fmt::Debug for WorkerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL with a user or a query is refused later; until then it may hold a secret.
        let is_plain = !self.url.contains(['@', '?', '#']);
        f.debug_struct("WorkerConfig")
            .field("url", if is_plain { &self.url } else { &"***" })
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("token_file", &self.token_file)
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_and_no_other() {
        let config: Config = toml::from_str(
            "enabled = true\nallow_plain_http = true\nconnect_timeout = '1s'\nrequest_timeout = '2s'\n\
             transfer_timeout = '5m'\n\
             usd_per_hour = 0.25\nstart_within = '3m'\npatience = '4m'\n\
             workers = [{ url = 'http://a', token = 't' }, { url = 'http://b', token_file = 'f', ca_file = 'c' }]",
        )
        .unwrap();
        let expected = Config {
            enabled: true,
            workers: vec![
                WorkerConfig { url: "http://a".into(), token: Some("t".into()), ..WorkerConfig::default() },
                WorkerConfig {
                    url: "http://b".into(),
                    token_file: Some("f".into()),
                    ca_file: Some("c".into()),
                    ..WorkerConfig::default()
                },
            ],
            allow_plain_http: true,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(2),
            transfer_timeout: Duration::from_secs(300),
            usd_per_hour: NanoUsd(250_000_000),
            start_within: Duration::from_secs(180),
            patience: Duration::from_secs(240),
        };
        assert_eq!(config, expected);
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        for wrong in ["url = 'x'", "workers = [{ url = 'x', tokn = 'y' }]", "patience = '0s'", "usd_per_hour = -1"] {
            assert!(toml::from_str::<Config>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let worker =
            |url: &str| WorkerConfig { url: url.into(), token: Some("s3cret".into()), ..WorkerConfig::default() };
        for url in ["http://a", "http://me:s3cret@a", "http://a?token=s3cret", "me:s3cret@a"] {
            let shown = format!("{:?}", Config { workers: vec![worker(url)], ..Config::default() });
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        assert!(format!("{:?}", worker("http://a")).contains("http://a"));
    }
}

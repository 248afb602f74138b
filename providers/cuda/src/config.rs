//! The keys of `[providers.cuda]`.

use std::{path::PathBuf, time::Duration};

use outboard_core::{NanoUsd, duration::time_above_zero, money::deserialize_amount};
use serde::{Deserialize, Deserializer, de};

use crate::gpu;

/// `[providers.cuda]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether it may be used.
    pub enabled: bool,
    /// What is computed on.
    pub devices: Devices,
    /// The worker; empty: where `outboard cuda install` puts it.
    pub worker: PathBuf,
    /// Threads of a worker's CPU; 0 is one per core.
    pub threads: usize,
    /// Whether products are made of 16-bit floats.
    pub bf16: bool,
    /// Whether the factors of products are rounded to TF32.
    pub tf32: bool,
    /// What an hour of a device costs; zero: what its power costs.
    #[serde(deserialize_with = "deserialize_amount")]
    pub usd_per_hour: NanoUsd,
    /// What a kilowatt-hour costs; zero: nothing.
    #[serde(deserialize_with = "deserialize_amount")]
    pub usd_per_kwh: NanoUsd,
    /// What a device draws, in watts; zero: what its driver lets it draw.
    pub watts: u32,
    /// A task without an event or a finished batch for this long counts as hung.
    #[serde(deserialize_with = "time_above_zero")]
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            devices: Devices::Auto,
            worker: PathBuf::new(),
            threads: 0,
            bf16: false,
            tf32: false,
            usd_per_hour: NanoUsd::ZERO,
            usd_per_kwh: NanoUsd::ZERO,
            watts: 0,
            patience: Duration::from_secs(120),
        }
    }
}

impl Config {
    /// Whether it is enabled, and there is something for it: a driver, or devices that were named.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.enabled && (self.devices != Devices::Auto || gpu::driver().is_ok())
    }

    /// Whether a GPU is among the devices.
    #[must_use]
    pub fn uses_gpus(&self) -> bool {
        match &self.devices {
            Devices::Auto => true,
            Devices::Named(names) => names.iter().any(|name| name != "cpu"),
        }
    }
}

/// What is computed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Every GPU.
    Auto,
    /// These, in order: `cpu`, `cuda:0`.
    Named(Vec<String>),
}

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "\"auto\", or a list such as [\"cuda:0\", \"cuda:1\"]")]
        enum Raw {
            Word(String),
            List(Vec<String>),
        }
        let names = match Raw::deserialize(d)? {
            Raw::Word(word) if word == "auto" => return Ok(Self::Auto),
            // As flags and variables have it.
            Raw::Word(word) => word.split(',').map(|name| name.trim().to_string()).collect(),
            Raw::List(names) => names,
        };
        let is_known = |name: &str| name == "cpu" || index(name).is_some();
        if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
            return Err(de::Error::custom(format!(
                "there is no device `{unknown}`: use \"auto\", \"cuda:0\" or \"cpu\""
            )));
        }
        match names.is_empty() {
            true => Err(de::Error::custom("no device is named: use \"auto\", or set `enabled = false`")),
            false => Ok(Self::Named(names)),
        }
    }
}

/// The number of the GPU of this name.
pub(crate) fn index(name: &str) -> Option<usize> {
    name.strip_prefix("cuda:")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_and_no_other() {
        let config: Config = toml::from_str(
            "enabled = false\ndevices = ['cuda:1', 'cpu']\nworker = '/w'\nthreads = 2\nbf16 = true\ntf32 = true\n\
             usd_per_hour = 0.25\nusd_per_kwh = 0.3\nwatts = 350\npatience = '4m'",
        )
        .unwrap();
        let expected = Config {
            enabled: false,
            devices: Devices::Named(vec!["cuda:1".into(), "cpu".into()]),
            worker: "/w".into(),
            threads: 2,
            bf16: true,
            tf32: true,
            usd_per_hour: NanoUsd(250_000_000),
            usd_per_kwh: NanoUsd(300_000_000),
            watts: 350,
            patience: Duration::from_secs(240),
        };
        assert_eq!(config, expected);
        assert!(toml::from_str::<Config>("device = 'cpu'").is_err());
    }

    #[test]
    fn devices_that_there_cannot_be_are_refused() {
        let error = |text: &str| toml::from_str::<Config>(text).unwrap_err().message().to_string();
        assert_eq!(toml::from_str::<Config>("devices = 'auto'").unwrap().devices, Devices::Auto);
        let two = Devices::Named(vec!["cuda:0".into(), "cuda:2".into()]);
        assert_eq!(toml::from_str::<Config>("devices = 'cuda:0, cuda:2'").unwrap().devices, two);
        assert_eq!(error("devices = 'gpu'"), "there is no device `gpu`: use \"auto\", \"cuda:0\" or \"cpu\"");
        assert_eq!(error("devices = []"), "no device is named: use \"auto\", or set `enabled = false`");
    }
}

//! The keys of `[plugins.NAME]`.

use std::{fmt, path::PathBuf, time::Duration};

use outboard_core::duration::time_above_zero;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `[plugins.NAME]`.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// Whether jobs may run there.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The library: absolute, or relative to the configuration file.
    pub path: PathBuf,
    /// What the plugin is to know; a plugin says itself which keys there are.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// The digest that the library must have, as `b3sum` prints it.
    #[serde(default)]
    pub blake3: Option<String>,
    /// Whether it shares this process.
    #[serde(default)]
    pub isolation: Isolation,
    /// Longest time for an answer; `wait` has its own time besides.
    #[serde(default = "half_a_minute", deserialize_with = "time_above_zero")]
    pub call_timeout: Duration,
}

/// Where a plugin runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// In this process.
    #[default]
    None,
    /// In a process of its own, which may crash freely.
    Process,
}

/// Without what only the plugin understands: it may be secret.
impl fmt::Debug for PluginConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginConfig")
            .field("enabled", &self.enabled)
            .field("path", &self.path)
            .field("config", &self.config.keys().collect::<Vec<_>>())
            .field("blake3", &self.blake3)
            .field("isolation", &self.isolation)
            .field("call_timeout", &self.call_timeout)
            .finish()
    }
}

impl PluginConfig {
    /// A plugin with the defaults of all other keys.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            enabled: true,
            path,
            config: Map::new(),
            blake3: None,
            isolation: Isolation::None,
            call_timeout: half_a_minute(),
        }
    }
}

fn yes() -> bool {
    true
}

fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

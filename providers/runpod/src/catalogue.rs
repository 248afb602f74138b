//! RunPod's current prices, where the key may read them: asked for once a day, kept on disk.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use outboard_core::error::Result;
use outboard_protocol::envelope::{encode, now};
use outboard_store::{FolderStore, atomic};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::Instant};

use crate::{account::nanos, connection::Connection};

/// How old prices may be.
const FRESH: Duration = Duration::from_secs(86_400);
/// How long RunPod isn't asked again where it gave no answer.
const REST: Duration = Duration::from_secs(3600);
/// How long an answer is waited for: there is a price list to fall back to, and a user waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prices as of one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Catalogue {
    /// Milliseconds since 1970, UTC.
    at: u64,
    /// Names of a GPU, and what an hour of a serverless worker with one costs, in billionths of a dollar.
    gpus: Vec<(Vec<String>, u64)>,
}

#[derive(Deserialize)]
struct Reply {
    gpus: Vec<Gpu>,
}

#[derive(Deserialize)]
struct Gpu {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    price: Option<Price>,
}

#[derive(Deserialize)]
struct Price {
    serverless: Option<f64>,
}

impl Catalogue {
    fn of(reply: Reply, at: u64) -> Self {
        let gpu = |Gpu { id, name, price }| {
            let hour = nanos(price?.serverless?);
            (hour > 0).then(|| (vec![id, name], hour))
        };
        Self { at, gpus: reply.gpus.into_iter().filter_map(gpu).collect() }
    }

    /// The price of an hour, if it is there. `plain` makes names comparable.
    pub(crate) fn hour(&self, gpu: &str, plain: impl Fn(&str) -> String) -> Option<u64> {
        let wanted = plain(gpu);
        self.gpus.iter().find(|(names, _)| names.iter().any(|name| plain(name) == wanted)).map(|(_, hour)| *hour)
    }

    /// A GPU's id, as RunPod's APIs want it.
    pub(crate) fn id(&self, gpu: &str, plain: impl Fn(&str) -> String) -> Option<String> {
        let wanted = plain(gpu);
        let names = self.gpus.iter().map(|(names, _)| names);
        names.filter(|names| names.iter().any(|name| plain(name) == wanted)).find_map(|names| names.first().cloned())
    }

    /// The GPUs as people call them.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.gpus.iter().filter_map(|(names, _)| names.last().map(String::as_str)).collect()
    }

    /// The day, UTC.
    pub(crate) fn day(&self) -> String {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(self.at.min(253_402_300_799_000));
        humantime::format_rfc3339_seconds(at).to_string()[..10].to_string()
    }

    fn age(&self) -> Duration {
        Duration::from_millis(now().saturating_sub(self.at))
    }
}

/// What is known of current prices.
#[derive(Debug)]
pub(crate) struct Prices {
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    catalogue: Option<Catalogue>,
    /// RunPod isn't asked before.
    not_before: Option<Instant>,
}

impl Prices {
    pub(crate) fn new(store: &FolderStore) -> Self {
        Self { file: store.folder().join("prices-runpod.json"), known: Mutex::default() }
    }

    /// The newest prices that can be had; none where RunPod never told any.
    pub(crate) async fn current(&self, connection: &Connection) -> Option<Catalogue> {
        let mut known = self.known.lock().await;
        if known.catalogue.is_none() {
            known.catalogue = fs::read(&self.file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        }
        let is_fresh = known.catalogue.as_ref().is_some_and(|catalogue| catalogue.age() < FRESH);
        let may_ask = known.not_before.is_none_or(|at| Instant::now() >= at);
        if !is_fresh && may_ask {
            let asked = tokio::time::timeout(PATIENCE, connection.rest::<Reply>(&["catalog", "gpus"], &[])).await;
            match asked {
                Ok(Ok(reply)) => {
                    let catalogue = Catalogue::of(reply, now());
                    self.keep(&catalogue).unwrap_or_else(|error| tracing::debug!(%error, "prices could not be kept"));
                    known.catalogue = Some(catalogue);
                }
                failed => {
                    tracing::debug!(error = ?failed.err(), "RunPod tells no current prices");
                    known.not_before = Some(Instant::now() + REST);
                }
            }
        }
        known.catalogue.clone()
    }

    fn keep(&self, catalogue: &Catalogue) -> Result<()> {
        atomic::write(&self.file, &encode(catalogue)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_found_by_either_name() {
        let reply = r#"{"gpus":[
            {"id":"NVIDIA GeForce RTX 4090","name":"RTX 4090","pool":"ADA_24","memory":24,
             "price":{"secure":0.44,"community":0.31,"serverless":1.1},"availability":"HIGH"},
            {"id":"NVIDIA L4","name":"L4","price":{"secure":0.4}}]}"#;
        let catalogue = Catalogue::of(serde_json::from_str(reply).unwrap(), 1_772_323_200_000);
        assert_eq!(catalogue.hour("RTX 4090", str::to_string), Some(1_100_000_000));
        assert_eq!(catalogue.hour("NVIDIA GeForce RTX 4090", str::to_string), Some(1_100_000_000));
        assert_eq!(catalogue.hour("L4", str::to_string), None, "it isn't offered there");
        assert_eq!(catalogue.day(), "2026-03-01");
    }
}

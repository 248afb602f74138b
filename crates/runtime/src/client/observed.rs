//! What earlier attempts taught, as this process remembers it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use outboard_core::{Observation, Result};
use outboard_ledger::Ledger;
use tokio::sync::Mutex;

/// Observations of one provider that estimates rest on: older ones hardly count.
const LAST: u32 = 200;

/// How long the ledger isn't asked again what other processes have seen meanwhile.
const FRESH: Duration = Duration::from_secs(2);

/// By provider.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed(Arc<Mutex<HashMap<String, Known>>>);

#[derive(Debug)]
struct Known {
    /// When the ledger was asked.
    asked: Instant,
    newest_first: Arc<Vec<Observation>>,
}

impl Observed {
    pub(super) async fn of(&self, ledger: &Ledger, provider: &str) -> Result<Arc<Vec<Observation>>> {
        let mut all = self.0.lock().await;
        if let Some(known) = all.get(provider).filter(|known| known.asked.elapsed() < FRESH) {
            return Ok(known.newest_first.clone());
        }
        let newest_first = Arc::new(ledger.observations(provider, LAST).await?);
        all.insert(provider.into(), Known { asked: Instant::now(), newest_first: newest_first.clone() });
        Ok(newest_first)
    }

    /// Adds one of our own, which the ledger has.
    pub(super) async fn add(&self, observation: Observation) {
        if let Some(known) = self.0.lock().await.get_mut(&observation.provider) {
            let known = Arc::make_mut(&mut known.newest_first);
            known.insert(0, observation);
            known.truncate(LAST as usize);
        }
    }
}

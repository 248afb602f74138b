//! Secrets stay hidden.

use super::faults::diverging;
use crate::{
    suite::{Checked, Suite, ensure, unsupported},
    watch::failure,
};

/// Judges what the witness has seen in all cases before, and in a failing one of its own.
pub(super) async fn secrets_stay_hidden(suite: &Suite<'_>) -> Checked {
    if !suite.leaks().is_watching() {
        return unsupported("the fixture names no secrets");
    }
    let (provider, job) = (suite.provider().await, diverging(suite)?);
    failure(&*provider, &suite.task(&job, job.train_to(2))).await?;
    let places = suite.leaks().places();
    ensure!(places.is_empty(), "{places:?}");
    Ok(())
}

//! The same job gives the same learning curve everywhere.

use outboard_core::task::Ended;
use outboard_protocol::Checkpoint;

use crate::{
    reference::{Reference, ensure_same_curve, epochs},
    suite::{Checked, Suite, ensure},
    watch::{run, trained},
};

const EPOCHS: u32 = 6;

/// A job whole on the provider, and moved to a fresh client at the end of every epoch.
pub(super) async fn the_curve_is_portable(suite: &Suite<'_>) -> Checked {
    let job = suite.job(EPOCHS)?;
    let reference = Reference::run(suite.store(), &job.train_to(EPOCHS)).await?;
    let (expected, _) = trained(&reference.outcome)?;

    let (outcome, events) = run(&*suite.provider().await, &suite.task(&job, job.train_to(EPOCHS))).await?;
    let (whole, _) = trained(&outcome)?;
    ensure_same_curve(&epochs(&events), &reference.epochs, suite.is_exact())?;

    let mut curve = Vec::new();
    let mut at = job.start;
    for epoch in 1..=EPOCHS {
        let provider = suite.provider().await;
        let (outcome, events) = run(&*provider, &suite.task(&job, job.train_between(at, epoch))).await?;
        let (checkpoint, ended) = trained(&outcome)?;
        ensure!(ended == Ended::Complete && checkpoint.epoch == epoch, "{ended:?} at {checkpoint:?}");
        curve.extend(epochs(&events));
        at = checkpoint.digest;
    }
    ensure_same_curve(&curve, &epochs(&events), true)?;
    ensure!(at == whole.digest, "moved at every epoch the last checkpoint is another one than unmoved");

    if suite.is_exact() {
        let found = Checkpoint::decode(&suite.store().read(&at)?)?;
        let expected = Checkpoint::decode(reference.blob(&expected.digest)?)?;
        ensure!(found == expected, "the numerics class is that of the engine here, but not the last checkpoint");
    }
    Ok(())
}

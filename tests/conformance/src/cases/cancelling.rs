//! Stopping tasks.

use outboard_core::{
    ComputeProvider, ComputeProviderExt, ErrorKind,
    provider::Cancelled,
    task::{Ended, Phase},
};
use tokio::sync::Notify;

use crate::{
    suite::{Checked, Stop, Suite, ensure, unsupported},
    watch::{Watch, run, trained},
};

/// More tasks than this at once are not started only to see another one wait.
const MOST_AT_ONCE: u32 = 16;

/// Ends the case where the provider doesn't claim to cancel.
fn ensure_cancels(provider: &dyn ComputeProvider) -> Checked {
    if provider.capabilities().cancels { Ok(()) } else { unsupported("it doesn't claim to cancel") }
}

pub(super) async fn a_cancelled_task_goes_on_from_its_checkpoint(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    if !provider.capabilities().cancels {
        // Long enough not to end before it is cancelled, short enough to be waited for.
        let job = suite.job(300)?;
        let id = provider.submit(&suite.task(&job, job.train_to(300))).await?;
        return match provider.cancel(&id).await {
            Ok(Cancelled::StillBilled { .. }) => Ok(()),
            // It had ended by itself.
            Ok(Cancelled::Stopped)
                if Watch::new(&*provider, &id).until_end().await?.trained()?.1 == Ended::Complete =>
            {
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
            other => Err(Stop::Failed(format!("it doesn't claim to cancel, but says {other:?}"))),
        };
    }
    let (job, _, id) = suite.submit_endless(&*provider).await?;
    Watch::new(&*provider, &id).until_running().await?;
    provider.cancel(&id).await?;
    let (checkpoint, ended) = Watch::new(&*provider, &id).until_end().await?.trained()?;
    ensure!(ended == Ended::Cancelled, "{ended:?} at {checkpoint:?}");

    let until = checkpoint.epoch + 2;
    let rest = suite.task(&job, job.train_between(checkpoint.digest, until));
    let whole = suite.task(&job, job.train_to(until));
    let (moved, ended) = trained(&run(&*suite.provider().await, &rest).await?.0)?;
    ensure!(ended == Ended::Complete, "{ended:?}");
    let (unmoved, _) = trained(&run(&*suite.provider().await, &whole).await?.0)?;
    ensure!(moved == unmoved, "stopped at {checkpoint:?} it ends with {moved:?}, else with {unmoved:?}");
    Ok(())
}

pub(super) async fn cancelling_twice_is_harmless(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    ensure_cancels(&*provider)?;
    let (_, _, id) = suite.submit_endless(&*provider).await?;
    Watch::new(&*provider, &id).until_running().await?;
    let (one, two) = tokio::join!(provider.cancel(&id), provider.cancel(&id));
    one?;
    two?;
    let ended = Watch::new(&*provider, &id).until_end().await?.trained()?;
    let late = provider.cancel(&id).await?;
    ensure!(late == Cancelled::Stopped, "after its end the task is {late:?}");
    let still = Watch::new(&*provider, &id).until_end().await?.trained()?;
    ensure!(still == ended, "{still:?} instead of {ended:?}");
    Ok(())
}

pub(super) async fn a_queued_task_is_cancelled(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    ensure_cancels(&*provider)?;
    // Some learn from their workers how much they can do at once.
    provider.health().await?;
    let Some(at_once) = provider.capabilities().max_concurrent_tasks else {
        return unsupported("it names no bound on tasks at once");
    };
    if at_once > MOST_AT_ONCE {
        return unsupported(format!("it runs {at_once} tasks at once"));
    }
    let mut running = Vec::new();
    for _ in 0..at_once {
        let (_, _, id) = suite.submit_endless(&*provider).await?;
        Watch::new(&*provider, &id).until_running().await?;
        running.push(id);
    }
    let (_, _, queued) = suite.submit_endless(&*provider).await?;
    provider.cancel(&queued).await?;
    let watch = Watch::new(&*provider, &queued).until_end().await?;
    match &watch.phase {
        Phase::Cancelled => {}
        _ => {
            let (checkpoint, ended) = watch.trained()?;
            ensure!(ended == Ended::Cancelled && checkpoint.epoch == 0, "it has run: {checkpoint:?}, {ended:?}");
        }
    }
    for id in running {
        let state = provider.wait(&id, Default::default(), Default::default()).await?;
        ensure!(!state.phase.is_final(), "another task than the cancelled one has ended: {:?}", state.phase);
    }
    Ok(())
}

pub(super) async fn a_run_stops_when_told(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    ensure_cancels(&*provider)?;
    if !provider.capabilities().reports_progress {
        return unsupported("it doesn't claim to report progress, so that nobody knows when the task runs");
    }
    let job = suite.job(crate::sample::Job::ENDLESS)?;
    let task = suite.task(&job, job.train_to(crate::sample::Job::ENDLESS));
    let running = Notify::new();
    let outcome = provider.run(&task, running.notified(), |_| running.notify_one()).await?;
    let (checkpoint, ended) = trained(&outcome)?;
    ensure!(ended == Ended::Cancelled, "{ended:?} at {checkpoint:?}");
    suite.store().read(&checkpoint.digest)?;
    Ok(())
}

//! Handing a task over, once and again.

use outboard_core::{ComputeProvider, Retry, TaskId, task::Ended};

use crate::{
    reference::epochs,
    sample::Job,
    suite::{Checked, Suite, ensure, unsupported},
    watch::Watch,
};

/// Fails unless the task runs through its epochs once.
async fn ensure_runs_once(provider: &dyn ComputeProvider, id: &TaskId) -> Checked<Ended> {
    let watch = Watch::new(provider, id).until_end().await?;
    let (checkpoint, ended) = watch.trained()?;
    let numbers: Vec<_> = epochs(&watch.events).iter().map(|epoch| epoch.epoch).collect();
    ensure!(numbers == (1..=checkpoint.epoch).collect::<Vec<_>>(), "epochs {numbers:?}");
    Ok(ended)
}

pub(super) async fn the_same_attempt_runs_once(suite: &Suite<'_>) -> Checked {
    let (provider, job) = (suite.provider().await, suite.job(5)?);
    let task = suite.task(&job, job.train_to(5));
    let (one, two) = tokio::join!(provider.submit(&task), provider.submit(&task));
    let (one, two) = (one?, two?);
    ensure!(one == two, "the same attempt is task {one} and task {two}");
    let ended = ensure_runs_once(&*provider, &one).await?;
    ensure!(ended == Ended::Complete, "{ended:?}");
    let late = provider.submit(&task).await?;
    ensure!(one == late, "after its end the same attempt is task {late} instead of {one}");
    ensure_runs_once(&*provider, &one).await.map(drop)
}

pub(super) async fn a_task_whose_reply_was_lost_runs_once(suite: &Suite<'_>) -> Checked {
    let provider = match suite.fixture.losing_a_reply().await {
        Ok(provider) => suite.witnessed(provider),
        Err(reason) => return unsupported(reason),
    };
    // Only what is live for sure can be counted.
    let counts = provider.capabilities().lists && provider.capabilities().cancels;
    let epochs = if counts { Job::ENDLESS } else { 5 };
    let job = suite.job(epochs)?;
    let task = suite.task(&job, job.train_to(epochs));
    let id = match provider.submit(&task).await {
        Ok(id) => id,
        Err(error) => {
            let unknown = matches!(error.retry(), Retry::Unknown { .. });
            ensure!(unknown, "the task may be running, but the error says {:?}: {error:?}", error.retry());
            provider.submit(&task).await?
        }
    };
    if counts {
        let listed = provider.list().await?;
        let times = listed.iter().filter(|summary| summary.key == task.key).count();
        ensure!(times == 1, "the task is there {times} times: {listed:?}");
        Watch::new(&*provider, &id).until_running().await?;
        provider.cancel(&id).await?;
    }
    ensure_runs_once(&*provider, &id).await.map(drop)
}

pub(super) async fn a_restarted_client_finds_its_task(suite: &Suite<'_>) -> Checked {
    if let Err(reason) = suite.fixture.remembers_tasks() {
        return unsupported(reason);
    }
    let job = suite.job(5)?;
    let task = suite.task(&job, job.train_to(5));
    let id = suite.provider().await.submit(&task).await?;
    let restarted = suite.provider().await;
    ensure_runs_once(&*restarted, &id).await?;
    let again = restarted.submit(&task).await?;
    ensure!(again == id, "after a restart the same attempt is task {again} instead of {id}");
    Ok(())
}

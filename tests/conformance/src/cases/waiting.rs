//! What `wait` answers, and when.

use std::time::Duration;

use outboard_core::{ErrorKind, Event, Retry, TaskId, task::Revision};

use crate::{
    suite::{Checked, Stop, Suite, ensure, unsupported},
    watch::Watch,
};

pub(super) async fn no_time_is_enough_for_an_answer(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    if !provider.capabilities().cancels {
        return unsupported("it doesn't claim to cancel, so that no task stays live for sure");
    }
    let (_, _, id) = suite.submit_endless(&*provider).await?;
    let watch = Watch::new(&*provider, &id).until_running().await?;
    for seen in [Revision::default(), watch.revision] {
        let state = provider.wait(&id, seen, Duration::ZERO).await?;
        ensure!(!state.phase.is_final(), "a running task is {:?}", state.phase);
    }
    Ok(())
}

pub(super) async fn the_limit_is_kept(suite: &Suite<'_>) -> Checked {
    let (provider, job) = (suite.provider().await, suite.job(1)?);
    let id = provider.submit(&suite.task(&job, job.train_to(1))).await?;
    let ended = Watch::new(&*provider, &id).until_end().await?;
    // Nothing new ever comes: only the limit ends this call. The bound is generous, for slow machines and networks.
    let again = provider.wait(&id, ended.revision, Duration::from_millis(100));
    let Ok(state) = tokio::time::timeout(Duration::from_secs(10), again).await else {
        return Err(Stop::Failed("a limit of 100 ms has passed for 10 s".into()));
    };
    let state = state?;
    ensure!(state.phase.is_final() && state.events.is_empty(), "after the end came {state:?}");
    Ok(())
}

pub(super) async fn an_old_revision_gives_what_came_since(suite: &Suite<'_>) -> Checked {
    let (provider, job) = (suite.provider().await, suite.job(4)?);
    let id = provider.submit(&suite.task(&job, job.train_to(4))).await?;
    let mut seen = Vec::new();
    let mut revision = Revision::default();
    let mut all: Vec<Event> = Vec::new();
    loop {
        seen.push((revision, all.len()));
        let state = provider.wait(&id, revision, Duration::from_secs(5)).await?;
        revision = state.revision;
        all.extend(state.events);
        if state.phase.is_final() {
            break;
        }
    }
    for (revision, events) in seen {
        let state = provider.wait(&id, revision, Duration::ZERO).await?;
        ensure!(state.events == all[events..], "{revision:?} has seen {events} events, but gets {:?}", state.events);
        ensure!(state.phase.is_final(), "the task has ended, but is {:?} for {revision:?}", state.phase);
    }
    Ok(())
}

pub(super) async fn a_foreign_revision_gives_everything(suite: &Suite<'_>) -> Checked {
    let (provider, job) = (suite.provider().await, suite.job(3)?);
    let id = provider.submit(&suite.task(&job, job.train_to(3))).await?;
    let ended = Watch::new(&*provider, &id).until_end().await?;
    for foreign in [Revision(u64::MAX), Revision(1 << 40)] {
        let state = provider.wait(&id, foreign, Duration::from_millis(100)).await?;
        ensure!(state.phase.is_final(), "the task has ended, but is {:?} for {foreign:?}", state.phase);
        ensure!(state.events == ended.events, "{foreign:?} gives {:?} instead of {:?}", state.events, ended.events);
    }
    Ok(())
}

pub(super) async fn an_unknown_task_is_not_found(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    let id = TaskId(suite.name());
    let wait = provider.wait(&id, Revision::default(), Duration::from_secs(1)).await.map(drop);
    let cancel = provider.cancel(&id).await.map(drop);
    for (operation, answer) in [("wait", wait), ("cancel", cancel)] {
        let Err(error) = answer else {
            return Err(Stop::Failed(format!("`{operation}` of an unknown task succeeds")));
        };
        let right = error.kind() == ErrorKind::NotFound && error.retry() == Retry::Never;
        ensure!(right && error.provider() == Some(&provider.info().id), "`{operation}` says {error:?}");
    }
    Ok(())
}

//! How long a task may run.

use std::time::Duration;

use outboard_core::{ComputeProviderExt, task::Ended};

use crate::{
    sample::Job,
    suite::{Checked, Suite, ensure, unsupported},
    watch::{run, trained},
};

pub(super) async fn a_limit_ends_training_with_a_checkpoint(suite: &Suite<'_>) -> Checked {
    let (provider, job) = (suite.provider().await, suite.job(Job::ENDLESS)?);
    let limit = Some(Duration::from_millis(200));
    let (outcome, _) = run(&*provider, &suite.task_within(&job, job.train_to(Job::ENDLESS), limit)).await?;
    let (checkpoint, ended) = trained(&outcome)?;
    ensure!(ended == Ended::Limit, "{ended:?} at {checkpoint:?}");
    suite.store().read(&checkpoint.digest)?;

    let until = checkpoint.epoch + 1;
    let rest = suite.task(&job, job.train_between(checkpoint.digest, until));
    let (_, ended) = trained(&run(&*provider, &rest).await?.0)?;
    ensure!(ended == Ended::Complete, "from {checkpoint:?} to epoch {until}: {ended:?}");
    Ok(())
}

pub(super) async fn an_ended_task_tells_where_its_time_went(suite: &Suite<'_>) -> Checked {
    let (provider, job) = (suite.provider().await, suite.job(3)?);
    let id = provider.submit(&suite.task(&job, job.train_to(3))).await?;
    let state = provider.follow(&id, std::future::pending(), |_| {}).await?;
    let Some(usage) = state.usage else { return unsupported("it can't tell what a task used") };
    let timings = usage.timings;
    let all = [timings.queue, timings.boot, timings.download, timings.load, timings.compute, timings.upload];
    ensure!(all.iter().all(|seconds| seconds.is_finite() && *seconds >= 0.0), "{timings:?}");
    ensure!(timings.compute != 0.0, "training took no time: {timings:?}");
    Ok(())
}

//! What is wrong is said, and never turned into a result.

use outboard_core::{Digest, ErrorKind, Retry, job::Optimizer};

use crate::{
    sample::Job,
    suite::{Checked, Suite, ensure, unsupported},
    watch::failure,
};

pub(super) async fn a_missing_blob_is_not_found(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    let missing = Digest::of(suite.name().as_bytes());
    let job = suite.job(1)?;
    let without_data = Job { data: missing, ..job.clone() };
    for operation in [without_data.train_to(1), job.train_between(missing, 1)] {
        let error = failure(&*provider, &suite.task(&job, operation)).await?;
        ensure!(error.kind() == ErrorKind::NotFound && error.retry() == Retry::Never, "{error:?}");
    }
    Ok(())
}

pub(super) async fn a_damaged_blob_is_noticed(suite: &Suite<'_>) -> Checked {
    let job = suite.job(1)?;
    if let Err(reason) = suite.fixture.corrupt(&job.start) {
        return unsupported(reason);
    }
    let error = failure(&*suite.provider().await, &suite.task(&job, job.train_to(1))).await?;
    ensure!(error.kind() == ErrorKind::CorruptPayload, "{error:?}");
    Ok(())
}

pub(super) async fn a_blob_of_another_kind_is_noticed(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    let job = suite.job(1)?;
    let text = suite.store().write(b"neither rows nor weights")?;
    let wrong_data = Job { data: text, ..job.clone() };
    for operation in [wrong_data.train_to(1), job.train_between(text, 1), job.train_between(job.data, 1)] {
        let error = failure(&*provider, &suite.task(&job, operation)).await?;
        ensure!(error.kind() == ErrorKind::CorruptPayload, "{error:?}");
    }
    Ok(())
}

/// A job whose loss is soon no number.
pub(super) fn diverging(suite: &Suite<'_>) -> Checked<Job> {
    let mut job = suite.job(2)?;
    job.train.optimizer = Optimizer::Adam { lr: 1e30, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
    Ok(job)
}

pub(super) async fn a_failing_job_is_not_tried_elsewhere(suite: &Suite<'_>) -> Checked {
    let (provider, job) = (suite.provider().await, diverging(suite)?);
    let error = failure(&*provider, &suite.task(&job, job.train_to(2))).await?;
    ensure!(error.kind() == ErrorKind::JobFailed && error.retry() == Retry::Never, "{error:?}");
    ensure!(error.provider() == Some(&provider.info().id), "it doesn't say which provider: {error:?}");
    ensure!(error.context().iter().any(|(what, _)| what == "epoch"), "it doesn't say where: {error:?}");
    ensure!(error.advice().is_some(), "it doesn't say what to try: {error:?}");
    Ok(())
}

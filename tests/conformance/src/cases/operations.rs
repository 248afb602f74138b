//! Training, evaluating and predicting.

use outboard_core::{
    BlobStore, Event,
    task::{Ended, Operation, OperationKind, Outcome},
};
use outboard_protocol::{Checkpoint, tensors};

use crate::{
    reference::{Reference, ensure_same_curve, epochs, is_close},
    sample::Job,
    suite::{Checked, Stop, Suite, ensure, unsupported},
    watch::{run, trained},
};

pub(super) async fn training_ends_with_its_checkpoint(suite: &Suite<'_>) -> Checked {
    let (provider, job) = (suite.provider().await, suite.job(4)?);
    let (outcome, events) = run(&*provider, &suite.task(&job, job.train_to(4))).await?;
    let (checkpoint, ended) = trained(&outcome)?;
    ensure!(ended == Ended::Complete, "it ended with {ended:?}");
    let position = Checkpoint::decode(&suite.store().get(&checkpoint.digest).await?)?.position;
    ensure!((position.epoch, position.step_in_epoch) == (4, 0), "the checkpoint stands at {position:?}");
    ensure!((checkpoint.epoch, checkpoint.step_in_epoch) == (4, 0), "the outcome says {checkpoint:?}");
    ensure!(position.job == job.name, "the checkpoint is of the job `{}`", position.job);
    let class = suite.fixture.numerics();
    ensure!(position.numerics == class, "the numerics class is `{}` instead of `{class}`", position.numerics);
    let losses: Vec<_> = epochs(&events).iter().map(|epoch| epoch.loss).collect();
    ensure!(losses.len() == 4 && losses[3] < losses[0], "it learns nothing: {losses:?}");
    Ok(())
}

pub(super) async fn events_come_in_order(suite: &Suite<'_>) -> Checked {
    let (provider, job) = (suite.provider().await, suite.job(3)?);
    let (outcome, events) = run(&*provider, &suite.task(&job, job.train_with_checkpoints(3))).await?;
    let mut complete = 0;
    let mut last = (0, 0);
    let mut checkpoints = 0;
    for event in &events {
        match event {
            Event::Epoch(epoch) => {
                ensure!(epoch.epoch == complete + 1, "epoch {} follows epoch {complete}", epoch.epoch);
                complete += 1;
            }
            Event::Progress(progress) => {
                // Where epochs come with the end, how far the task has come may be told before.
                let is_early = !provider.capabilities().reports_progress && progress.epoch > complete;
                ensure!(progress.epoch == complete + 1 || is_early, "{progress:?} after {complete} epochs");
            }
            Event::Checkpoint(checkpoint) => {
                let position = (checkpoint.epoch, checkpoint.step_in_epoch);
                ensure!(
                    position >= last && position.0 == complete,
                    "{checkpoint:?} after {last:?} and epoch {complete}"
                );
                ensure!(suite.store().has(&checkpoint.digest).await?, "{checkpoint:?} is not in the local store");
                last = position;
                checkpoints += 1;
            }
            _ => {}
        }
    }
    ensure!(complete == 3, "{complete} of 3 epochs were reported");
    let (checkpoint, _) = trained(&outcome)?;
    ensure!(suite.store().has(&checkpoint.digest).await?, "{checkpoint:?} is not in the local store");
    // One was due after each step. Those that a newer one has overtaken need not be told, but the last must be.
    let expected = if provider.capabilities().reports_progress { 1 } else { 0 };
    ensure!(checkpoints >= expected, "no checkpoint was reported");
    ensure!(checkpoints == 0 || last == (3, 0), "the last checkpoint that was reported stands at {last:?}");
    Ok(())
}

/// A job that the engine has trained, with its final checkpoint in the local store.
async fn trained_job(suite: &Suite<'_>) -> Checked<(Job, outboard_core::Digest)> {
    let job = suite.job(3)?;
    let reference = Reference::run(suite.store(), &job.train_to(3)).await?;
    let (checkpoint, _) = trained(&reference.outcome)?;
    let weights = suite.store().write(reference.blob(&checkpoint.digest)?)?;
    Ok((job, weights))
}

pub(super) async fn evaluate_matches_the_engine(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    if !provider.capabilities().operations.contains(&OperationKind::Evaluate) {
        return unsupported("it doesn't claim to evaluate");
    }
    let (job, weights) = trained_job(suite).await?;
    let (found, _) = run(&*provider, &suite.task(&job, job.evaluate(weights))).await?;
    let reference = Reference::run(suite.store(), &job.evaluate(weights)).await?;
    let (Outcome::Evaluate(found), Outcome::Evaluate(expected)) = (&found, &reference.outcome) else {
        return Err(Stop::Failed(format!("instead of metrics: {found:?}")));
    };
    let same = match suite.is_exact() {
        true => found == expected,
        false => found.rows == expected.rows && is_close(found.loss, expected.loss),
    };
    ensure!(same, "{found:?} instead of {expected:?}");
    Ok(())
}

pub(super) async fn predict_matches_the_engine(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    if !provider.capabilities().operations.contains(&OperationKind::Predict) {
        return unsupported("it doesn't claim to predict");
    }
    let (job, weights) = trained_job(suite).await?;
    let (found, _) = run(&*provider, &suite.task(&job, job.predict(weights))).await?;
    let reference = Reference::run(suite.store(), &job.predict(weights)).await?;
    let (Outcome::Predict { outputs: found }, Outcome::Predict { outputs: expected }) = (&found, &reference.outcome)
    else {
        return Err(Stop::Failed(format!("instead of outputs: {found:?}")));
    };
    let found = tensors::decode(&suite.store().get(found).await?)?;
    let expected = tensors::decode(reference.blob(expected)?)?;
    let (Some(found), Some(expected)) = (found.get("outputs"), expected.get("outputs")) else {
        return Err(Stop::Failed("there is no tensor `outputs`".into()));
    };
    ensure!(found.shape == expected.shape, "shape {:?} instead of {:?}", found.shape, expected.shape);
    let allowed = if suite.is_exact() { 0.0 } else { 1e-4 };
    let furthest = found.data.iter().zip(&expected.data).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
    let numbers = found.data.iter().all(|output| output.is_finite());
    ensure!(numbers && furthest <= allowed, "outputs differ by {furthest}");
    Ok(())
}

pub(super) async fn describes_its_environment(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    if !provider.capabilities().operations.contains(&OperationKind::Describe) {
        return unsupported("it doesn't claim to describe its environment");
    }
    let (outcome, events) = run(&*provider, &suite.task(&suite.job(1)?, Operation::Describe)).await?;
    let Outcome::Describe(found) = &outcome else {
        return Err(Stop::Failed(format!("instead of an environment: {outcome:?}")));
    };
    let trained = |event: &Event| matches!(event, Event::Epoch(_) | Event::Checkpoint(_));
    ensure!(!events.iter().any(trained), "it trains: {events:?}");
    let class = suite.fixture.numerics();
    let told = found.get("program.numerics");
    ensure!(told == Some(class.as_str()), "the numerics class is {told:?} instead of `{class}`");
    for name in ["program.version", "cpu.cores", "cpu.arch", "system.os"] {
        ensure!(found.get(name).is_some_and(|value| !value.is_empty()), "`{name}` is missing in {found:?}");
    }
    let is_secret =
        |(name, _): (&str, &str)| ["KEY", "TOKEN", "SECRET"].iter().any(|word| name.to_uppercase().contains(word));
    ensure!(!found.iter().any(is_secret), "a secret is told: {found:?}");
    Ok(())
}

pub(super) async fn tasks_at_once_keep_apart(suite: &Suite<'_>) -> Checked {
    let (provider, one, mut two) = (suite.provider().await, suite.job(4)?, suite.job(3)?);
    two.train.batch_size = 25;
    let tasks = [suite.task(&one, one.train_to(4)), suite.task(&two, two.train_to(3))];
    let (first, second) = tokio::join!(run(&*provider, &tasks[0]), run(&*provider, &tasks[1]));
    for (task, found) in tasks.iter().zip([first, second]) {
        let reference = Reference::run(suite.store(), &task.operation).await?;
        ensure_same_curve(&epochs(&found?.1), &reference.epochs, suite.is_exact())?;
    }
    Ok(())
}

//! Runs a job's tasks: one provider after the other, until one of them ends it.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use outboard_core::{
    ComputeProvider, ComputeProviderExt, Error, ErrorKind, Event, Result, Retry, Task, TaskId,
    provider::Health,
    task::{Ended, Operation, Outcome, TrainTask},
};
use tokio::sync::Notify;

use super::{Run, RunEvent, Started, keeper::Keeper, stop_or_deadline};
use crate::record::{InFlight, Status};

/// Failures without a new checkpoint after which a provider is left for the next.
const PATIENCE: usize = 3;

/// Time between two looks for a task that can't be reached.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Run {
    /// Trains to the end, moving on when a provider fails.
    pub(super) async fn train<S, O>(&mut self, stop: S, observe: &mut O) -> Result<()>
    where
        S: Future<Output = ()> + Send,
        O: FnMut(RunEvent) + Send,
    {
        let limits = &self.record.job.limits;
        let used = Duration::from_secs_f64(self.record.seconds);
        let stop = stop_or_deadline(stop, limits.deadline.map(|limit| limit.saturating_sub(used))).shared();
        let mut failures: Vec<(String, Error)> = Vec::new();
        let mut announced = false;
        let (ended, late) = loop {
            let provider = self.hand_over(&failures).await?;
            if !announced {
                observe(RunEvent::Started(self.started(&*provider)?));
                announced = true;
            }
            let before = self.record.checkpoint;
            let outcome = self.attempt(&*provider, stop.clone(), observe).await;
            if self.record.checkpoint != before {
                failures.clear();
            }
            let error = match outcome {
                Ok(Outcome::Train { ended: Ended::Limit, .. }) => {
                    self.record.in_flight = None;
                    continue;
                }
                Ok(Outcome::Train { ended, .. }) => break (ended, stop.peek() == Some(&true)),
                Ok(other) => {
                    Error::new(ErrorKind::Unexpected, format!("the provider answered a training task with {other:?}"))
                }
                Err(error) => error,
            };
            let resumed = self.record.in_flight.take().is_some_and(|flight| flight.resumed);
            if resumed && error.kind() == ErrorKind::NotFound {
                tracing::info!("the task ended with the process that handed it over");
                continue;
            }
            if stop.peek().is_some() && error.kind() == ErrorKind::Cancelled {
                break (Ended::Cancelled, stop.peek() == Some(&true));
            }
            if error.retry() == Retry::Never {
                return Err(error);
            }
            let id = provider.info().id.clone();
            observe(RunEvent::Task(Event::Warning { message: format!("{id} failed: {error}") }));
            failures.push((id, error));
        };
        self.record.in_flight = None;
        match ended {
            Ended::Cancelled if late => {
                let limit = self.record.job.limits.deadline.unwrap_or_default();
                Err(Error::new(ErrorKind::Timeout, format!("the job's deadline of {limit:?} has passed"))
                    .at("key", "limits.deadline"))
            }
            Ended::Cancelled => {
                self.record.status = Status::Interrupted;
                Ok(())
            }
            Ended::Complete | Ended::EarlyStopping | Ended::Limit => {
                self.record.stopped_early = ended == Ended::EarlyStopping;
                self.write_outputs()?;
                self.record.status = Status::Succeeded;
                Ok(())
            }
        }
    }

    /// Chooses a provider and writes down what it is about to be given, unless a task of an earlier process may still
    /// be running.
    async fn hand_over(&mut self, failures: &[(String, Error)]) -> Result<Arc<dyn ComputeProvider>> {
        let providers = &self.client.providers;
        if let Some(flight) = &self.record.in_flight
            && let Some(provider) = providers.iter().find(|p| p.info().id == flight.provider)
        {
            return Ok(provider.clone());
        }
        let provider = choose(providers, failures).await?;
        let record = &mut self.record;
        record.attempts += 1;
        record.status = Status::Running;
        let at = record.checkpoint;
        let key = format!("{}/train/{}.{}/{}", record.id, at.epoch, at.step_in_epoch, record.attempts);
        let task = Task {
            attempt: key.clone(),
            key,
            job: record.id.clone(),
            operation: Operation::Train(Box::new(TrainTask {
                model: record.model.clone(),
                train: record.job.train.clone(),
                data: record.data,
                validation: record.validation,
                checkpoint: at.digest,
                until_epoch: record.job.train.epochs,
                checkpoint_every: self.client.config.checkpoint.every,
            })),
            limit: None,
        };
        record.provider = provider.info().id.clone();
        record.in_flight = Some(InFlight { provider: record.provider.clone(), task, id: None, resumed: false });
        record.save(&self.folder)?;
        Ok(provider)
    }

    /// Follows the task in flight to its end. One that can't be reached is looked for until it can no longer run.
    async fn attempt<S, O>(&mut self, provider: &dyn ComputeProvider, stop: S, observe: &mut O) -> Result<Outcome>
    where
        S: Future<Output = bool> + Clone + Send,
        O: FnMut(RunEvent) + Send,
    {
        let mut lost: Option<Instant> = None;
        loop {
            let error = match self.follow(provider, stop.clone(), observe).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            let Retry::Unknown { until } = error.retry() else { return Err(error) };
            if lost.get_or_insert_with(Instant::now).elapsed() >= until {
                return Err(error.with_retry(Retry::Other));
            }
            tracing::info!(%error, "looking for the task again");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn follow<S, O>(&mut self, provider: &dyn ComputeProvider, stop: S, observe: &mut O) -> Result<Outcome>
    where
        S: Future<Output = bool> + Clone + Send,
        O: FnMut(RunEvent) + Send,
    {
        let id = self.submit(provider).await?;
        tracing::info!(attempt = %id, provider = %provider.info().id, "handed over");
        let mut keeper = Keeper::new(self)?;
        // The keeper's own failure stops the task as the user would.
        let failed = Notify::new();
        let outcome = {
            let failed = &failed;
            let stop = async move {
                tokio::select! { _ = stop => {}, () = failed.notified() => {} }
            };
            let events = |event: Event| {
                tracing::debug!(attempt = %id, ?event, "event");
                match keeper.keep(&event) {
                    Ok(true) => observe(RunEvent::Task(event)),
                    Ok(false) => {}
                    Err(()) => failed.notify_one(),
                }
            };
            provider.follow(&id, stop, events).await
        };
        keeper.finish()?;
        outcome?.outcome()
    }

    /// Hands the task in flight over, unless that was done before.
    async fn submit(&mut self, provider: &dyn ComputeProvider) -> Result<TaskId> {
        let lost = || Error::new(ErrorKind::Unexpected, "no task is in flight");
        let flight = self.record.in_flight.as_ref().ok_or_else(lost)?;
        if let Some(id) = &flight.id {
            return Ok(id.clone());
        }
        let id = provider.submit(&flight.task).await?;
        if let Some(flight) = &mut self.record.in_flight {
            flight.id = Some(id.clone());
        }
        self.record.save(&self.folder)?;
        Ok(id)
    }

    fn started(&self, provider: &dyn ComputeProvider) -> Result<Started> {
        let (record, info) = (&self.record, provider.info());
        let at = record.checkpoint;
        let plan = outboard_core::layer::plan(&record.model.layers, &record.model.input)?;
        Ok(Started {
            provider: info.id.clone(),
            device: info.device.clone(),
            rows: record.rows,
            validation_rows: record.validation_rows,
            parameters: plan.iter().flat_map(|layer| &layer.parameters).map(|p| p.len() as u64).sum(),
            epochs: record.job.train.epochs,
            resumed_at: (at.epoch > 0 || at.step_in_epoch > 0).then_some((at.epoch, at.step_in_epoch)),
        })
    }
}

/// The first provider that is ready and has not failed too often.
pub(super) async fn choose(
    providers: &[Arc<dyn ComputeProvider>],
    failures: &[(String, Error)],
) -> Result<Arc<dyn ComputeProvider>> {
    let mut causes: Vec<(String, String)> =
        failures.iter().map(|(id, error)| (id.clone(), error.to_string())).collect();
    for provider in providers {
        let id = &provider.info().id;
        let own = || failures.iter().filter(|(failed, _)| failed == id);
        if own().count() >= PATIENCE || own().any(|(_, error)| error.retry() == Retry::Other) {
            continue;
        }
        match provider.health().await {
            Ok(Health::Ready) => return Ok(provider.clone()),
            Ok(Health::Unavailable(why)) => causes.push((id.clone(), why)),
            Err(error) => causes.push((id.clone(), error.to_string())),
        }
    }
    match failures {
        // One provider's failure needs no summary.
        [.., (_, last)] if providers.len() == 1 => Err(last.clone()),
        _ => {
            let all = Error::new(ErrorKind::AllProvidersFailed, "every provider failed");
            let all = causes.into_iter().fold(all, |error, (id, why)| error.at(id, why));
            Err(all.hint("mend one of them, or enable another under [providers]"))
        }
    }
}

//! Runs a job's tasks, one after the other, wherever the router sends them, until one of them ends it.

use std::{collections::BTreeSet, fs, future::Future, path::PathBuf, time::Duration};

use futures_util::FutureExt;
use outboard_core::{
    ComputeProvider, ComputeProviderExt, Digest, Error, ErrorKind, Event, Result, Retry,
    task::{Checkpoint, Ended, Operation, OperationKind, Outcome, TaskState, TrainTask},
};
use outboard_protocol::envelope::now;
use outboard_router::{Choice, Demand, Failure, Flops, Next, Origin, flops};
use tokio::sync::Notify;

use super::{
    Run, RunEvent, Started,
    dispatch::{Dispatcher, Flight, Stop, demand},
    jobs::{STOP, forget_stop},
    keeper::Keeper,
    stop_or_deadline,
};
use crate::record::{Move, Status};

/// Time between two looks for a task that can't be reached.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What one attempt came to.
enum End {
    /// Its last state.
    State(TaskState),
    /// A call failed; how the task stands isn't known.
    Lost(Error),
}

impl Run {
    /// Trains to the end, moving on when a provider fails.
    pub(super) async fn train<S, O>(&mut self, stop: S, observe: &mut O) -> Result<()>
    where
        S: Future<Output = ()> + Send + 'static,
        O: FnMut(RunEvent) + Send,
    {
        let limits = &self.record.job.limits;
        let used = Duration::from_secs_f64(self.record.seconds);
        forget_stop(&self.folder)?;
        let stop = stop_or_asked(stop, self.folder.join(STOP));
        let stop = stop_or_deadline(stop, limits.deadline.map(|limit| limit.saturating_sub(used)));
        let stop: Stop = (Box::pin(stop) as std::pin::Pin<Box<dyn Future<Output = bool> + Send>>).shared();
        let mut dispatcher = self.dispatcher().await?;
        let trained = self.tasks(&mut dispatcher, &stop, observe).await;
        self.record.cost = dispatcher.cost().await?;
        let ended = trained?;
        match ended {
            Ended::Cancelled if stop.peek() == Some(&true) => {
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

    async fn tasks<O>(&mut self, dispatcher: &mut Dispatcher, stop: &Stop, observe: &mut O) -> Result<Ended>
    where
        O: FnMut(RunEvent) + Send,
    {
        let mut flight = dispatcher.resume().await?;
        let mut seen = BTreeSet::new();
        let mut has_begun = false;
        let mut why = String::new();
        loop {
            if stop.peek().is_some() && flight.is_none() {
                return Ok(Ended::Cancelled);
            }
            let mut current = match flight.take() {
                Some(flight) => flight,
                None => match self.hand_over(dispatcher, &seen, stop, !has_begun, observe).await {
                    Err(error) if stop.peek().is_some() && error.kind() == ErrorKind::Cancelled => continue,
                    handed => handed?,
                },
            };
            self.goes_on(&*current.provider, &why);
            if !has_begun {
                observe(RunEvent::Started(self.started(&*current.provider)?));
                has_begun = true;
            }
            seen.insert(self.record.provider.clone());
            let before = self.record.checkpoint;
            let end = self.attempt(dispatcher, &mut current, stop, observe).await?;
            let progressed = self.record.checkpoint != before;
            if progressed {
                dispatcher.history.progressed();
            }
            let (error, of) = match end {
                End::State(state) => {
                    self.record.timings += state.usage.unwrap_or_default().timings;
                    dispatcher.settle(&current, &state, self.flops_since(&before)?).await?;
                    match state.outcome() {
                        Ok(Outcome::Train { ended: Ended::Limit, .. }) if progressed => continue,
                        Ok(Outcome::Train { ended: Ended::Limit, .. }) => (stuck(&current), Origin::Task),
                        Ok(Outcome::Train { ended: Ended::Complete | Ended::EarlyStopping, checkpoint })
                            if !self.has(&checkpoint) =>
                        {
                            (untold(&checkpoint), Origin::Task)
                        }
                        Ok(Outcome::Train { ended: Ended::Complete, checkpoint }) if !self.is_last(&checkpoint) => {
                            // A task that is found again may have told all before.
                            if progressed || current.resumed {
                                continue;
                            }
                            (untold(&checkpoint), Origin::Task)
                        }
                        Ok(Outcome::Train { ended, .. }) => return Ok(ended),
                        Ok(other) => {
                            let message = format!("the provider answered a training task with {other:?}");
                            (Error::new(ErrorKind::Unexpected, message), Origin::Task)
                        }
                        Err(error) => (error, Origin::Task),
                    }
                }
                End::Lost(error) if current.resumed && error.kind() == ErrorKind::NotFound => {
                    tracing::info!(
                        attempt = current.task.attempt,
                        "the task ended with the process that handed it over"
                    );
                    dispatcher.forget(&current).await?;
                    continue;
                }
                End::Lost(error) => (error, Origin::Call),
            };
            if stop.peek().is_some() && error.kind() == ErrorKind::Cancelled {
                return Ok(Ended::Cancelled);
            }
            let step = self.record.checkpoint.at();
            let failure = Failure {
                provider: self.record.provider.clone(),
                attempt: current.task.attempt.clone(),
                at: now(),
                died: of == Origin::Task && error.is_death(),
                error: error.clone(),
                of,
                step,
            };
            let next = dispatcher.history.after(failure, &self.client.config.router.patience);
            if let Next::LookAgain { .. } = next {
                tracing::info!(%error, "looking for the task again");
                tokio::time::sleep(LOOK_AGAIN).await;
                flight = Some(current);
                continue;
            }
            if of == Origin::Call {
                dispatcher.abandon(&current, &error).await?;
            }
            let id = &self.record.provider;
            match next {
                Next::Stop(error) => return Err(error),
                Next::Same { after } => {
                    observe(warning(format!("{id} failed: {error}")));
                    tokio::select! { () = tokio::time::sleep(after) => {}, _ = stop.clone() => {} }
                }
                _ => observe(warning(format!("{id} failed: {error}"))),
            }
            why = error.to_string();
        }
    }

    /// Decides where the next task runs, and says what the budget has to say, once.
    async fn hand_over<O>(
        &mut self,
        dispatcher: &mut Dispatcher,
        seen: &BTreeSet<String>,
        stop: &Stop,
        is_first: bool,
        observe: &mut O,
    ) -> Result<Flight>
    where
        O: FnMut(RunEvent) + Send,
    {
        let demand = self.demand(dispatcher, seen)?;
        let record = &self.record;
        let at = record.checkpoint;
        let operation = |choice: &Choice| {
            let task = TrainTask {
                model: record.model.clone(),
                train: record.job.train.clone(),
                data: record.data,
                validation: record.validation,
                checkpoint: at.digest,
                until_epoch: at.epoch.saturating_add(choice.epochs).min(record.job.train.epochs),
                checkpoint_every: self.client.config.checkpoint.every,
            };
            (format!("train/{}.{}", at.epoch, at.step_in_epoch), Operation::Train(Box::new(task)))
        };
        let (flight, plan) = dispatcher.dispatch(&demand, operation, stop, |text| observe(warning(text))).await?;
        if is_first {
            plan.crossed.iter().for_each(|crossed| observe(warning(crossed.to_string())));
        }
        tracing::debug!(%plan, "decided");
        Ok(flight)
    }

    /// Follows a task to its end.
    async fn attempt<O>(
        &mut self,
        dispatcher: &Dispatcher,
        flight: &mut Flight,
        stop: &Stop,
        observe: &mut O,
    ) -> Result<End>
    where
        O: FnMut(RunEvent) + Send,
    {
        self.record.status = Status::Running;
        self.record.save(&self.folder)?;
        let id = match dispatcher.submit(flight).await {
            Ok(id) => id,
            Err(error) => return Ok(End::Lost(error)),
        };
        tracing::info!(attempt = %id, provider = self.record.provider, "handed over");
        let mut keeper = Keeper::new(self)?;
        // The keeper's own failure stops the task as the user would.
        let failed = Notify::new();
        let followed = {
            let (failed, stop) = (&failed, stop.clone());
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
            flight.provider.follow(&id, stop, events).await
        };
        keeper.finish()?;
        Ok(match followed {
            Ok(state) => End::State(state),
            Err(error) => End::Lost(error),
        })
    }

    /// Notes where the job goes on.
    fn goes_on(&mut self, provider: &dyn ComputeProvider, why: &str) {
        let (record, to) = (&mut self.record, provider.info().id.clone());
        if !record.provider.is_empty() && record.provider != to {
            let why = if why.is_empty() { "it is the better choice for what is left".into() } else { why.into() };
            let (from, epoch) = (record.provider.clone(), record.checkpoint.epoch);
            record.moves.push(Move { from, to: to.clone(), epoch, why });
        }
        record.provider = to;
    }

    fn is_last(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.epoch >= self.record.job.train.epochs
    }

    /// Whether the job's own checkpoint is as far.
    fn has(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.at() <= self.record.checkpoint.at()
    }

    fn model_flops(&self) -> Result<Flops> {
        flops(&self.record.model.layers, &self.record.model.input)
    }

    /// Operations of one epoch, validation included.
    fn flops_per_epoch(&self) -> Result<u64> {
        let Flops { forward, training } = self.model_flops()?;
        let (rows, held_out) = (self.record.rows, self.record.validation_rows);
        Ok(rows.saturating_mul(training).saturating_add(held_out.saturating_mul(forward)))
    }

    /// Operations done since `before`.
    fn flops_since(&self, before: &Checkpoint) -> Result<u64> {
        let steps = self.record.job.train.steps_per_epoch(self.record.rows as usize).max(1) as f64;
        let epochs = |at: &Checkpoint| f64::from(at.epoch) + at.step_in_epoch as f64 / steps;
        let done = (epochs(&self.record.checkpoint) - epochs(before)).max(0.0);
        Ok((done * self.flops_per_epoch()? as f64) as u64)
    }

    /// What is left of the job, in numbers.
    pub(super) fn demand(&self, dispatcher: &Dispatcher, seen: &BTreeSet<String>) -> Result<Demand> {
        let record = &self.record;
        let size = |digest: &Digest| fs::metadata(self.client.store.path(digest)).map_or(0, |facts| facts.len());
        let data = size(&record.data) + record.validation.as_ref().map_or(0, size);
        let checkpoint = size(&record.checkpoint.digest);
        // Weights alone in the first one; the optimizer's state comes along later.
        let result = if record.checkpoint.epoch == 0 { 3 * checkpoint } else { checkpoint };
        Ok(Demand {
            layers: record.model.layers.iter().map(|layer| layer.kind().to_string()).collect(),
            epochs_left: record.job.train.epochs.saturating_sub(record.checkpoint.epoch).max(1),
            flops_per_epoch: self.flops_per_epoch()?,
            bytes_down: data + checkpoint,
            bytes_there: seen.iter().map(|provider| (provider.clone(), data)).collect(),
            bytes_up: result,
            largest_payload: data.max(result),
            deadline_left: record
                .job
                .limits
                .deadline
                .map(|limit| limit.saturating_sub(Duration::from_secs_f64(record.seconds))),
            ..demand(OperationKind::Train, dispatcher.terms())
        })
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

/// Waits for `stop`, or until another process asks for it by a file.
async fn stop_or_asked(stop: impl Future<Output = ()>, file: PathBuf) {
    let asked = async {
        while !file.exists() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::select! { () = stop => {}, () = asked => {} }
}

fn warning(message: String) -> RunEvent {
    RunEvent::Task(Event::Warning { message })
}

/// Not a batch was done within the limit.
fn stuck(flight: &Flight) -> Error {
    let limit = flight.task.limit.unwrap_or_default();
    Error::new(ErrorKind::Timeout, format!("not one batch was done within the task's limit of {limit:?}"))
        .with_retry(Retry::Other)
        .hint("use a smaller batch_size, or a faster provider")
}

/// The job would end, or go on, without what the provider says it did.
fn untold(checkpoint: &Checkpoint) -> Error {
    let message =
        format!("the provider says that training ended at epoch {}, but gave no checkpoint", checkpoint.epoch);
    Error::new(ErrorKind::Unexpected, message).with_retry(Retry::Other)
}

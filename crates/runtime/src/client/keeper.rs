//! Keeps a job's record and its metrics while its tasks run.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    time::Instant,
};

use outboard_core::{
    Error, Event, Result,
    error::IoContext,
    task::{Checkpoint, Epoch},
};
use outboard_store::atomic;

use super::Run;
use crate::record::metrics_line;

/// Keeps a job's record and its metrics while a task runs.
pub(super) struct Keeper<'a> {
    run: &'a mut Run,
    began: Instant,
    seconds_before: f64,
    metrics: File,
    /// Epochs that are complete, but not yet in a checkpoint.
    pending: Vec<Epoch>,
    failure: Option<Error>,
}

impl<'a> Keeper<'a> {
    /// Begins at the last checkpoint.
    pub(super) fn new(run: &'a mut Run) -> Result<Self> {
        let path = run.record.output.join("metrics.jsonl");
        atomic::create_folder(&run.record.output)?;
        // Epochs after the checkpoint are trained again, so their lines go.
        atomic::write(&path, &run.record.metrics_lines()?)?;
        let metrics = OpenOptions::new().append(true).open(&path).doing("open", &path)?;
        let seconds_before = run.record.seconds;
        Ok(Self { run, began: Instant::now(), seconds_before, metrics, pending: Vec::new(), failure: None })
    }

    /// Takes note of an event; whether it is news. A task that is followed anew tells again what was seen before.
    ///
    /// # Errors
    /// Where it can't be written down; [`Keeper::finish`] says why.
    pub(super) fn keep(&mut self, event: &Event) -> Result<bool, ()> {
        if self.failure.is_some() {
            return Err(());
        }
        let kept = match event {
            Event::Epoch(epoch) => self.epoch(epoch),
            Event::Checkpoint(checkpoint) => self.checkpoint(checkpoint),
            _ => Ok(true),
        };
        kept.map_err(|error| self.failure = Some(error))
    }

    fn epoch(&mut self, epoch: &Epoch) -> Result<bool> {
        if epoch.epoch as usize <= self.run.record.epochs.len() + self.pending.len() {
            return Ok(false);
        }
        self.pending.push(*epoch);
        let mut line = Vec::new();
        metrics_line(epoch, &mut line)?;
        self.metrics.write_all(&line).doing("write", &self.run.record.output.join("metrics.jsonl"))?;
        Ok(true)
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<bool> {
        let Run { client, record, folder, .. } = &mut *self.run;
        if checkpoint.at() <= record.checkpoint.at() {
            return Ok(false);
        }
        let before = std::mem::replace(&mut record.checkpoint, *checkpoint);
        record.epochs.append(&mut self.pending);
        record.seconds = self.seconds_before + self.began.elapsed().as_secs_f64();
        record.save(folder)?;
        // Nothing names the one before any more.
        client.store.remove(&before.digest)?;
        Ok(true)
    }

    /// What couldn't be written down.
    ///
    /// # Errors
    /// That.
    pub(super) fn finish(self) -> Result<()> {
        self.failure.map_or(Ok(()), Err)
    }
}

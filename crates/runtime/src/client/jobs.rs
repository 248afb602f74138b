//! The jobs that the ledger knows, what they cost, and what dead clients left behind.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use outboard_core::{
    ErrorKind, NanoUsd, Result, TaskId,
    error::IoContext,
    provider::Cancelled,
    task::{Phase, Revision},
};
use outboard_ledger::{Attempt, CostRow, GroupBy, JobFilter, JobRow, Ledger, Settlement, State};
use outboard_store::atomic;

use super::{Client, dispatch::billed_time};
use crate::record::{Lock, Record, Report, Status};

/// A file in a job's folder by which another process asks it to stop.
pub(super) const STOP: &str = "stop";

/// Attempts of unknown cost that are looked into at a time.
const ASSUMED: u32 = 1000;

/// A job with all that is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobDetails {
    /// Its row in the ledger.
    pub row: JobRow,
    /// What it came to, where its record is on this machine.
    pub report: Option<Report>,
    /// Its attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// Whether a process works on it, as far as can be seen from here.
    pub is_running: bool,
}

/// An attempt that a dead client had left, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// The attempt.
    pub attempt: String,
    /// The provider.
    pub provider: String,
    /// What was held for it.
    pub reserved: NanoUsd,
    /// What is charged for it now; none where it was left as it is.
    pub charged: Option<NanoUsd>,
    /// What was done, in words.
    pub what: String,
}

impl Client {
    /// The newest jobs, at most `limit`.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn list_jobs(&self, limit: u32) -> Result<Vec<JobRow>> {
        let mut rows = self.ledger().await?.jobs(&JobFilter::default(), limit).await?;
        for row in &mut rows {
            let is_here = Path::new(&row.folder).is_dir();
            if row.status == Status::Running.name() && is_here && !is_held(row) {
                row.status = Status::Interrupted.name().into();
            }
        }
        Ok(rows)
    }

    /// One job with its attempts.
    ///
    /// # Errors
    /// `NotFound` for an unknown job; those of the ledger.
    pub async fn job_details(&self, id: &str) -> Result<JobDetails> {
        let ledger = self.ledger().await?;
        let row = ledger.job(id).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.hint("list the jobs with `outboard jobs`"),
            _ => error,
        })?;
        let report = Record::load(&self.jobs(), id).ok().map(|record| record.report());
        Ok(JobDetails { report, attempts: ledger.attempts(id).await?, is_running: is_held(&row), row })
    }

    /// Stops a job: the process that works on it ends it with a checkpoint; where there is none, what it left running
    /// is stopped. Whether a process was asked.
    ///
    /// # Errors
    /// `NotFound` for an unknown job; those of the ledger and of the file system.
    pub async fn cancel_job(&self, id: &str) -> Result<bool> {
        let details = self.job_details(id).await?;
        if details.is_running {
            atomic::write(&Path::new(&details.row.folder).join(STOP), b"")?;
            return Ok(true);
        }
        for attempt in details.attempts.iter().filter(|attempt| attempt.state.is_live()) {
            self.stop(attempt).await?;
        }
        if details.row.status == Status::Running.name() {
            self.ledger().await?.set_job_status(id, Status::Interrupted.name()).await?;
        }
        Ok(false)
    }

    /// Finds what dead clients of this machine left running or reserved, stops it and settles it.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn reap(&self) -> Result<Vec<Reaped>> {
        let ledger = self.ledger().await?;
        let mut reaped = Vec::new();
        for expired in ledger.expire().await? {
            let what = match expired.assumed {
                true => "its time was up: charged in full, until its cost is known",
                false => "its time was up before it was handed over: released",
            };
            reaped.push(Reaped {
                attempt: expired.attempt,
                provider: expired.provider,
                reserved: expired.amount,
                charged: Some(if expired.assumed { expired.amount } else { NanoUsd::ZERO }),
                what: what.into(),
            });
        }
        for attempt in ledger.open_attempts().await? {
            let row = ledger.job(&attempt.job).await?;
            if !Path::new(&row.folder).is_dir() && !row.folder.starts_with(&*self.config.home.to_string_lossy()) {
                continue;
            }
            if !is_held(&row) {
                reaped.push(self.stop(&attempt).await?);
            }
        }
        for attempt in ledger.assumed_attempts(ASSUMED).await? {
            reaped.extend(self.find_out(&attempt).await?);
        }
        Ok(reaped)
    }

    /// Settles an attempt that was charged in full, where its provider knows by now what it cost.
    async fn find_out(&self, attempt: &Attempt) -> Result<Option<Reaped>> {
        let provider = self.providers.iter().find(|provider| provider.info().id == attempt.provider);
        let (Some(provider), Some(id)) = (provider, &attempt.task_id) else { return Ok(None) };
        let state = provider.wait(&TaskId(id.clone()), Revision::default(), Duration::ZERO).await;
        let Some(usage) = state.ok().filter(|state| state.phase.is_final()).and_then(|state| state.usage) else {
            return Ok(None);
        };
        let billed = billed_time(&usage);
        let cost = provider.price().await?.cost(billed);
        let outcome = "found out later".to_string();
        let settlement = Settlement { cost, billed: Some(billed), outcome, is_assumed: false };
        self.ledger().await?.settle(&attempt.id, &settlement, None).await?;
        Ok(Some(Reaped {
            attempt: attempt.id.clone(),
            provider: attempt.provider.clone(),
            reserved: attempt.reserved,
            charged: Some(cost),
            what: "what it cost was found out".into(),
        }))
    }

    /// Stops what an attempt may have running, and settles it.
    pub(super) async fn stop(&self, attempt: &Attempt) -> Result<Reaped> {
        let ledger = self.ledger().await?;
        let done = |charged: Option<NanoUsd>, what: &str| Reaped {
            attempt: attempt.id.clone(),
            provider: attempt.provider.clone(),
            reserved: attempt.reserved,
            charged,
            what: what.into(),
        };
        if attempt.state == State::Reserved {
            ledger.release(&attempt.id).await?;
            return Ok(done(Some(NanoUsd::ZERO), "nothing was handed over: released"));
        }
        let Some(provider) = self.providers.iter().find(|provider| provider.info().id == attempt.provider) else {
            return Ok(done(None, "its provider is not enabled: enable it, then reap again"));
        };
        let found = match &attempt.task_id {
            Some(id) => Ok(Some(TaskId(id.clone()))),
            None => provider.find_attempt(&attempt.id, &attempt.task_key).await,
        };
        let id = match found {
            Ok(id) => id,
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                ledger.assume(&attempt.id).await?;
                return Ok(done(Some(attempt.reserved), "it may have been handed over: charged in full"));
            }
            Err(error) => return Ok(done(None, &format!("left as it is: {error}"))),
        };
        let Some(id) = id else {
            ledger.release(&attempt.id).await?;
            return Ok(done(Some(NanoUsd::ZERO), "the provider does not have it: released"));
        };
        let price = provider.price().await?;
        let free = |outcome: &str| Settlement {
            cost: NanoUsd::ZERO,
            billed: None,
            outcome: outcome.into(),
            is_assumed: false,
        };
        match provider.cancel(&id).await {
            Ok(Cancelled::Stopped) => {
                let state = provider.wait(&id, Revision::default(), Duration::ZERO).await;
                let usage = state.as_ref().ok().and_then(|state| state.usage);
                let finished = state.is_ok_and(|state| matches!(state.phase, Phase::Finished(_)));
                let (settlement, what) = match usage {
                    Some(usage) => {
                        let billed = billed_time(&usage);
                        let outcome = if finished { "finished" } else { "stopped" };
                        let settlement = Settlement { cost: price.cost(billed), billed: Some(billed), ..free(outcome) };
                        (settlement, "stopped and settled")
                    }
                    None if price.is_free() => (free("stopped"), "stopped"),
                    None => {
                        ledger.assume(&attempt.id).await?;
                        return Ok(done(Some(attempt.reserved), "stopped; what it cost is not known: charged in full"));
                    }
                };
                ledger.settle(&attempt.id, &settlement, None).await?;
                Ok(done(Some(settlement.cost), what))
            }
            Ok(Cancelled::StillBilled { until }) => {
                Ok(done(None, &format!("its provider can't stop it and may bill for {until:?} more: reap again then")))
            }
            Err(error) if error.kind() == ErrorKind::NotFound && price.is_free() => {
                ledger.settle(&attempt.id, &free("ended with its client"), None).await?;
                Ok(done(Some(NanoUsd::ZERO), "it ended with its client"))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ledger.assume(&attempt.id).await?;
                Ok(done(Some(attempt.reserved), "the provider no longer knows it: charged in full"))
            }
            Err(error) => Ok(done(None, &format!("left as it is: {error}"))),
        }
    }

    /// Costs of the attempts that were reserved from `from` on and before `to`.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn costs(&self, by: GroupBy, from: SystemTime, to: SystemTime) -> Result<Vec<CostRow>> {
        self.ledger().await?.costs(by, from, to).await
    }
}

/// Ids of the jobs of this machine that are noted as running, though no process works on them; newest first.
pub(crate) async fn left_behind(ledger: &Ledger) -> Result<Vec<String>> {
    /// Jobs that are looked at.
    const MOST: u32 = 1000;
    let running = JobFilter { status: Some(Status::Running.name().into()), ..JobFilter::default() };
    let rows = ledger.jobs(&running, MOST).await?;
    let is_left = |row: &JobRow| Path::new(&row.folder).is_dir() && !is_held(row);
    Ok(rows.into_iter().filter(is_left).map(|row| row.id).collect())
}

/// Whether a process of this machine works on a job.
fn is_held(row: &JobRow) -> bool {
    let folder = Path::new(&row.folder);
    match Lock::take(folder, &row.id) {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::Conflict,
    }
}

/// Forgets an earlier wish to stop the job in `folder`.
pub(super) fn forget_stop(folder: &Path) -> Result<()> {
    let path = folder.join(STOP);
    match fs::remove_file(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.doing("remove", &path),
    }
}

//! What becomes of an attempt's reservation.

use std::time::Duration;

use outboard_core::{
    Error, ErrorKind, NanoUsd, Observation, Result, Retry,
    provider::Cancelled,
    task::{Phase, Revision, TaskState, Usage},
};
use outboard_ledger::Settlement;
use outboard_protocol::envelope::now;

use super::{Dispatcher, Flight};

/// Time that is charged for: what the provider bills, or else what the worker measured from start to end.
pub(in crate::client) fn billed_time(usage: &Usage) -> Duration {
    usage.billed.unwrap_or_else(|| usage.timings.running())
}

/// The sentence; where a worker is in trouble, also what it left behind, line by line.
fn evidence(error: &Error) -> String {
    match error.kind() {
        ErrorKind::WorkerUnhealthy | ErrorKind::OutOfMemory => error.report(),
        _ => error.to_string(),
    }
}

impl Dispatcher {
    /// Charges what an ended task cost, and keeps what it taught.
    pub(in crate::client) async fn settle(&mut self, flight: &Flight, state: &TaskState, flops: u64) -> Result<()> {
        let (outcome, failure) = match &state.phase {
            Phase::Failed(error) => (format!("failed: {}", evidence(error)), Some(error.kind())),
            Phase::Cancelled => ("cancelled".into(), Some(ErrorKind::Cancelled)),
            _ => ("finished".into(), None),
        };
        let measured = state.usage.as_ref().map(billed_time);
        let cost = flight.price.cost(measured.unwrap_or_else(|| flight.began.elapsed()));
        let settlement = Settlement {
            cost,
            billed: measured,
            outcome,
            // What was only watched from here may have been billed for longer.
            is_assumed: measured.is_none() && cost > NanoUsd::ZERO,
        };
        let usage = state.usage.unwrap_or_default();
        self.close(flight, settlement, failure, usage, flops).await
    }

    /// The end of an attempt will not be known. Tries to stop it; where that is in doubt, it is charged in full.
    pub(in crate::client) async fn abandon(&mut self, flight: &Flight, error: &Error) -> Result<()> {
        let Some(id) = &flight.id else {
            // A lost reply says so; any other failure of `submit` means that the task wasn't taken.
            if !matches!(error.retry(), Retry::Unknown { .. }) {
                self.ledger.release(&flight.task.attempt).await?;
                return self.learn(flight, error).await;
            }
            return self.assume(flight, error).await;
        };
        if flight.price.is_free() {
            // Nobody is harmed where it can't be stopped, and nobody waits for it.
            let (provider, id) = (flight.provider.clone(), id.clone());
            tokio::spawn(async move { drop(provider.cancel(&id).await) });
            let settlement =
                Settlement { cost: NanoUsd::ZERO, billed: None, outcome: format!("lost: {error}"), is_assumed: false };
            return self.close(flight, settlement, Some(error.kind()), Usage::default(), 0).await;
        }
        if let Ok(Cancelled::Stopped) = flight.provider.cancel(id).await
            && let Ok(state) = flight.provider.wait(id, Revision::default(), Duration::ZERO).await
            && state.phase.is_final()
        {
            return self.settle(flight, &state, 0).await;
        }
        self.assume(flight, error).await
    }

    async fn assume(&mut self, flight: &Flight, error: &Error) -> Result<()> {
        self.ledger.assume(&flight.task.attempt).await?;
        self.learn(flight, error).await
    }

    /// A task of which its provider knows nothing any more: it ended with the process that handed it over.
    pub(in crate::client) async fn forget(&mut self, flight: &Flight) -> Result<()> {
        if !flight.price.is_free() {
            return self.ledger.assume(&flight.task.attempt).await;
        }
        let (cost, outcome) = (NanoUsd::ZERO, "ended with the process that handed it over".to_string());
        let settlement = Settlement { cost, billed: None, outcome, is_assumed: false };
        self.ledger.settle(&flight.task.attempt, &settlement, None).await.map(drop)
    }

    async fn close(
        &mut self,
        flight: &Flight,
        settlement: Settlement,
        failure: Option<ErrorKind>,
        usage: Usage,
        flops: u64,
    ) -> Result<()> {
        let observation = self.observation(flight, failure, usage, flops, settlement.cost);
        self.ledger.settle(&flight.task.attempt, &settlement, Some(&observation)).await?;
        self.client.observed.add(observation).await;
        Ok(())
    }

    fn observation(
        &self,
        flight: &Flight,
        failure: Option<ErrorKind>,
        usage: Usage,
        flops: u64,
        cost: NanoUsd,
    ) -> Observation {
        Observation {
            provider: flight.provider.info().id.clone(),
            at: now(),
            operation: flight.task.operation.kind(),
            failure,
            timings: usage.timings,
            flops,
            bytes_down: usage.bytes_down,
            bytes_up: usage.bytes_up,
            cost,
        }
    }

    /// Keeps that an attempt failed of which nothing more is known.
    async fn learn(&mut self, flight: &Flight, error: &Error) -> Result<()> {
        let observation = self.observation(flight, Some(error.kind()), Usage::default(), 0, NanoUsd::ZERO);
        self.ledger.observe(&observation, &flight.task.attempt).await?;
        self.client.observed.add(observation).await;
        Ok(())
    }

    /// What the job was charged so far.
    pub(in crate::client) async fn cost(&self) -> Result<NanoUsd> {
        self.caps.spent(&self.ledger, &self.job).await
    }

    pub(in crate::client) async fn note(&self, status: &str) -> Result<()> {
        self.ledger.set_job_status(&self.job, status).await
    }
}

//! Providers that are odd in one way each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, Error, ErrorKind, Event, Result, Retry, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Operation, OperationKind, Revision, TaskState},
};

/// How a provider differs from the one within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "not every test file uses all of them")]
pub(crate) enum Oddity {
    /// The answer to its first `submit` is lost, and it says so.
    LosesFirstReply,
    /// Claims to train all layers but one and nothing else, and refuses the rest.
    IsLimited,
    /// Claims as little, but does everything.
    ClaimsTooLittle,
    /// Runs the same attempt each time it comes.
    RunsEachSubmit,
    /// Says of each failed `submit` that it may be tried again.
    InvitesAgain,
    /// Doesn't report the second epoch.
    DropsAnEpoch,
    /// Reports losses that are a little too high.
    WrongLoss,
    /// Says that it stopped what it doesn't know.
    StopsTheUnknown,
    /// Waits as long as it likes.
    ForgetsTheLimit,
    /// Puts its key into errors.
    Leaks,
    /// Logs a secret.
    Logs,
    /// Claims to list its tasks, but lists none.
    ListsNothing,
    /// Can't be reached.
    IsDown,
}

pub(crate) const SECRET: &str = "key-0123456789";

/// Logs are seen by all tests of the process, so this secret is the only one that is logged.
pub(crate) const LOGGED_SECRET: &str = "key-9876543210";

/// The layer that a limited provider doesn't know.
const UNKNOWN_LAYER: &str = "silu";

#[derive(Debug)]
pub(crate) struct Odd {
    inner: Arc<dyn ComputeProvider>,
    oddity: Oddity,
    capabilities: Capabilities,
    submits: AtomicU64,
}

impl Odd {
    pub(crate) fn new(inner: Arc<dyn ComputeProvider>, oddity: Oddity) -> Self {
        let mut capabilities = inner.capabilities().clone();
        if matches!(oddity, Oddity::IsLimited | Oddity::ClaimsTooLittle) {
            capabilities.operations = vec![OperationKind::Train];
            capabilities.layers.retain(|layer| layer != UNKNOWN_LAYER);
            capabilities.cancels = false;
            capabilities.lists = false;
        }
        Self { inner, oddity, capabilities, submits: AtomicU64::new(0) }
    }

    fn unsupported<T>(&self) -> Result<T> {
        Err(Error::new(ErrorKind::Unsupported, "it can't do that").with_provider(&self.info().id))
    }
}

#[async_trait]
impl ComputeProvider for Odd {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn price(&self) -> Result<PriceModel> {
        self.inner.price().await
    }

    async fn health(&self) -> Result<Health> {
        match self.oddity {
            Oddity::IsDown => Ok(Health::Unavailable("it is down".into())),
            _ => self.inner.health().await,
        }
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        let n = self.submits.fetch_add(1, Ordering::Relaxed);
        match (self.oddity, &task.operation) {
            (Oddity::RunsEachSubmit, _) => {
                self.inner.submit(&Task { attempt: format!("{}-{n}", task.attempt), ..task.clone() }).await
            }
            (Oddity::LosesFirstReply, _) if n == 0 => {
                self.inner.submit(task).await?;
                let lost =
                    Error::new(ErrorKind::Unavailable, "the connection was reset").with_provider(&self.info().id);
                Err(lost.with_retry(Retry::Unknown { until: Duration::from_secs(60) }))
            }
            (Oddity::InvitesAgain, _) => {
                self.inner.submit(task).await.map_err(|error| error.with_retry(Retry::Same { after: None }))
            }
            (Oddity::IsLimited, Operation::Train(train))
                if train.model.layers.iter().all(|layer| layer.kind() != UNKNOWN_LAYER) =>
            {
                self.inner.submit(task).await
            }
            (Oddity::IsLimited, _) => self.unsupported(),
            _ => self.inner.submit(task).await,
        }
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let limit = if self.oddity == Oddity::ForgetsTheLimit { Duration::from_secs(600) } else { limit };
        let mut state = self.inner.wait(id, seen, limit).await.map_err(|error| match self.oddity {
            Oddity::Leaks => error.at("authorization", SECRET),
            _ => error,
        })?;
        match self.oddity {
            Oddity::Logs => tracing::trace!(token = LOGGED_SECRET, "waited"),
            Oddity::DropsAnEpoch => state.events.retain(|event| !matches!(event, Event::Epoch(e) if e.epoch == 2)),
            Oddity::WrongLoss => state.events.iter_mut().for_each(|event| {
                if let Event::Epoch(epoch) = event {
                    epoch.loss *= 1.0 + 1e-12;
                }
            }),
            _ => {}
        }
        Ok(state)
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        match (self.oddity, self.inner.cancel(id).await) {
            (Oddity::StopsTheUnknown, Err(_)) => Ok(Cancelled::Stopped),
            (Oddity::IsLimited, Ok(_)) => self.unsupported(),
            (_, answer) => answer,
        }
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        match self.oddity {
            Oddity::ListsNothing => Ok(vec![]),
            Oddity::IsLimited => self.unsupported(),
            _ => self.inner.list().await,
        }
    }
}

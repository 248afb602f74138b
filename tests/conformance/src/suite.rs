//! Runs the cases and hands them providers.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use outboard_core::{ComputeProvider, Error, Result, Task, TaskId, task::Operation};
use outboard_protocol::envelope::now;
use outboard_store::FolderStore;

use crate::{
    Fixture, Verdict,
    cases::Case,
    logs,
    sample::Job,
    witness::{Leaks, Witness},
};

/// No case takes longer, unless the provider hangs.
const DEADLINE: Duration = Duration::from_secs(180);

/// Cleaning up takes no longer, unless the provider hangs.
const CLEANING: Duration = Duration::from_secs(30);

/// How a case ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    Failed(String),
    Unsupported(String),
}

pub(crate) type Checked<T = ()> = Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(format!("{:?}, {:?}: {}", error.kind(), error.retry(), error.report()))
    }
}

/// Ends the case as not applicable.
pub(crate) fn unsupported<T>(reason: impl Into<String>) -> Checked<T> {
    Err(Stop::Unsupported(reason.into()))
}

/// Ends the case as failed where a condition doesn't hold.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::suite::Stop::Failed(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;

pub(crate) struct Suite<'a> {
    pub(crate) fixture: &'a dyn Fixture,
    leaks: Arc<Leaks>,
    /// Clients of the running case.
    clients: Mutex<Vec<Arc<Witness>>>,
    /// Begins the names of this suite's tasks, here and in a store that outlives it.
    prefix: String,
    names: AtomicU64,
}

impl<'a> Suite<'a> {
    pub(crate) fn new(fixture: &'a dyn Fixture) -> Self {
        static SUITES: AtomicU64 = AtomicU64::new(0);
        let suite = SUITES.fetch_add(1, Ordering::Relaxed);
        let leaks = Arc::new(Leaks::new(fixture.secrets()));
        if leaks.is_watching() {
            logs::watch(Arc::downgrade(&leaks));
        }
        Self {
            fixture,
            leaks,
            clients: Mutex::default(),
            prefix: format!("conformance-{}-{}-{suite}", now(), std::process::id()),
            names: AtomicU64::new(0),
        }
    }

    pub(crate) async fn run(&self, case: &Case) -> Verdict {
        let ended = tokio::time::timeout(DEADLINE, (case.run)(self)).await;
        self.clean().await;
        match ended {
            Ok(Ok(())) => Verdict::Passed,
            Ok(Err(Stop::Failed(message))) => Verdict::Failed(message),
            Ok(Err(Stop::Unsupported(reason))) => Verdict::Unsupported(reason),
            Err(_) => Verdict::Failed(format!("it hangs: no end after {} s", DEADLINE.as_secs())),
        }
    }

    /// Stops what the case left running: it would slow down the next ones, and on a real provider it costs money.
    async fn clean(&self) {
        let clients = std::mem::take(&mut *self.clients.lock().unwrap_or_else(PoisonError::into_inner));
        for client in clients {
            let cleaning = async {
                // What a lost reply would have named is found in the list; other people's tasks are left alone.
                let listed = client.list().await.unwrap_or_default();
                let ours = listed.into_iter().filter(|summary| summary.key.starts_with(&self.prefix));
                for id in client.submitted().into_iter().chain(ours.map(|summary| summary.id)) {
                    // A case has already judged how the provider cancels.
                    let _ = client.cancel(&id).await;
                }
            };
            let _ = tokio::time::timeout(CLEANING, cleaning).await;
        }
    }

    /// A fresh client of the provider.
    pub(crate) async fn provider(&self) -> Arc<dyn ComputeProvider> {
        self.witnessed(self.fixture.provider().await)
    }

    /// `provider`, watched for secrets and cleaned up after the case.
    pub(crate) fn witnessed(&self, provider: Arc<dyn ComputeProvider>) -> Arc<dyn ComputeProvider> {
        let witness = Arc::new(Witness::new(provider, self.leaks.clone()));
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(witness.clone());
        witness
    }

    pub(crate) fn store(&self) -> &FolderStore {
        self.fixture.store()
    }

    pub(crate) fn leaks(&self) -> &Leaks {
        &self.leaks
    }

    /// Whether the provider must give the very bytes of the engine here.
    pub(crate) fn is_exact(&self) -> bool {
        self.fixture.numerics() == outboard_engine::numerics::class()
    }

    /// A name that no other task has.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.prefix, self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// A job of so many epochs, whose blobs are in the local store.
    pub(crate) fn job(&self, epochs: u32) -> Result<Job> {
        Job::new(self.store(), self.name(), epochs)
    }

    pub(crate) fn task(&self, job: &Job, operation: Operation) -> Task {
        self.task_within(job, operation, None)
    }

    /// A task that may run for `limit`.
    pub(crate) fn task_within(&self, job: &Job, operation: Operation, limit: Option<Duration>) -> Task {
        let key = self.name();
        Task { attempt: format!("{key}-1"), key, job: job.name.clone(), operation, limit }
    }

    /// Submits a task that runs until it is cancelled.
    pub(crate) async fn submit_endless(&self, provider: &dyn ComputeProvider) -> Result<(Job, Task, TaskId)> {
        let job = self.job(Job::ENDLESS)?;
        let task = self.task(&job, job.train_to(Job::ENDLESS));
        let id = provider.submit(&task).await?;
        Ok((job, task, id))
    }
}

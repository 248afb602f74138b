//! Tasks on threads of this process.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use outboard_core::{
    Event,
    error::{Error, ErrorKind, Result},
    task::OperationKind,
};
use outboard_engine::Cpu;
use outboard_protocol::{Envelope, TaskResult, envelope::Ending};
use outboard_store::FolderStore;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::{
    sync::mpsc::unbounded_channel,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    Runner, preflight,
    supervisor::{STOPPING, at_limit, ended, patience},
    task,
    wire::Reply,
};

/// Before an invocation's time is up, a task stops this much earlier: its checkpoint and its result must get out.
const MARGIN: Duration = Duration::from_secs(6);
/// The margin's share of an invocation that has less time.
const LEAST_SHARE: u32 = 4;

/// Runs tasks, one after another, on all cores.
#[derive(Debug)]
pub struct Engine {
    store: FolderStore,
    /// What each task is told, or why none can run.
    health: Result<Vec<String>>,
    pool: Mutex<Arc<ThreadPool>>,
}

impl Engine {
    /// Starts a thread for each core, for tasks with blobs in `store`.
    ///
    /// # Errors
    /// `Unexpected` where the system gives no threads.
    pub fn start(store: FolderStore) -> Result<Self> {
        let health = preflight::check(Some(store.folder()));
        Ok(Self { store, health, pool: Mutex::new(Arc::new(threads()?)) })
    }

    /// Runs the task of an invocation that ends at `deadline`: training stops before, with a checkpoint.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Bounded<'_> {
        let margin = MARGIN.min(deadline.saturating_duration_since(Instant::now()) / LEAST_SHARE);
        Bounded { engine: self, end: deadline - margin, last: deadline - margin / 4 }
    }

    fn pool(&self) -> Arc<ThreadPool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A task doesn't end: its threads are left to it, and the next one gets new ones.
    fn abandon(&self) {
        match threads() {
            Ok(pool) => *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(pool),
            Err(error) => tracing::error!(%error, "the next task waits for the threads of one that doesn't end"),
        }
    }
}

fn threads() -> Result<ThreadPool> {
    let named = ThreadPoolBuilder::new().thread_name(|i| format!("outboard-task-{i}"));
    let built = named.panic_handler(|_| tracing::error!("a thread of the engine panicked")).build();
    built.map_err(|e| Error::new(ErrorKind::Unexpected, "cannot start the engine's threads").because(e))
}

/// An [`Engine`] whose tasks end by some time.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<'a> {
    engine: &'a Engine,
    /// When a task is told to stop.
    end: Instant,
    /// When a task that didn't is abandoned.
    last: Instant,
}

impl Bounded<'_> {
    /// When it is too late to begin.
    #[must_use]
    pub fn too_late(&self) -> Instant {
        self.end + (self.last - self.end) / 2
    }
}

impl Runner for Bounded<'_> {
    async fn run<S, O>(&self, envelope: &Envelope, stop: S, mut observe: O) -> TaskResult
    where
        S: Future<Output = ()> + Send,
        O: FnMut(Event) + Send,
    {
        match &self.engine.health {
            Ok(warnings) => warnings.iter().cloned().for_each(|message| observe(Event::Warning { message })),
            Err(error) => return ended(envelope, Ending::Failed(error.into())),
        }
        let began = Instant::now();
        let left = self.end.saturating_duration_since(began);
        let limit = envelope.task.limit.map_or(left, |limit| limit.min(left));
        let (sender, mut replies) = unbounded_channel();
        let flag = Arc::new(AtomicBool::new(false));
        let (work, store, stopped) = (envelope.clone(), self.engine.store.clone(), flag.clone());
        self.engine.pool().spawn(move || {
            // Nobody listens any more once the task was abandoned.
            let say = |reply: &Reply| drop(sender.send(reply.clone()));
            let result = task::run(&Cpu, &work, &store, &stopped, &say);
            say(&Reply::Result(Box::new(result)));
        });
        let mut stop = pin!(stop.fuse());
        let patience = patience(envelope);
        let trains = envelope.task.operation.kind() == OperationKind::Train;
        let (mut heard, mut stopping, mut is_late) = (began, None::<Instant>, false);
        let late = |result: TaskResult, is_late: bool| if is_late { at_limit(result, Some(limit)) } else { result };
        let failed = |error: Error| ended(envelope, Ending::Failed((&error).into()));
        loop {
            let last = stopping.map(|at| if trains { self.last } else { self.last.min(at + STOPPING) });
            tokio::select! {
                biased;
                reply = timeout_at(heard + patience, replies.recv()) => {
                    heard = Instant::now();
                    match reply {
                        Ok(Some(Reply::Result(result))) => return late(*result, is_late),
                        Ok(Some(Reply::Event(event))) => observe(event),
                        Ok(Some(_)) => {}
                        Ok(None) => return failed(Error::new(ErrorKind::Unexpected, "the engine's thread ended early")),
                        Err(_) => {
                            self.engine.abandon();
                            let message = format!("the task hung: nothing was heard of it for {patience:?}");
                            return failed(Error::new(ErrorKind::WorkerUnhealthy, message));
                        }
                    }
                }
                () = sleep_until(began + limit), if stopping.is_none() => {
                    (stopping, is_late) = (Some(Instant::now()), true);
                    flag.store(true, Ordering::Relaxed);
                }
                () = &mut stop, if stopping.is_none() => {
                    stopping = Some(Instant::now());
                    flag.store(true, Ordering::Relaxed);
                }
                () = sleep_until(last.unwrap_or(heard)), if last.is_some() => {
                    self.engine.abandon();
                    return late(ended(envelope, Ending::Cancelled), is_late);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use outboard_core::{
        Digest, Layer, Task,
        job::Loss,
        task::{Architecture, EvaluateTask, Operation},
    };

    use super::*;

    fn envelope(limit: Duration) -> Envelope {
        let digest = Digest::of(b"missing");
        let model = Architecture { layers: vec![Layer::Relu], input: vec![3] };
        let operation = Operation::Evaluate(EvaluateTask { model, weights: digest, data: digest, loss: Loss::Mse });
        let task = Task { key: "k".into(), job: "j".into(), attempt: "k#1".into(), operation, limit: Some(limit) };
        Envelope::new(task, limit, limit)
    }

    #[tokio::test]
    async fn what_goes_wrong_is_a_result_and_the_next_task_runs() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::start(FolderStore::open(folder.path()).unwrap()).unwrap();
        let minute = Duration::from_secs(60);
        for _ in 0..2 {
            let runner = engine.until(Instant::now() + minute);
            let result = runner.run(&envelope(minute), std::future::pending(), |_| {}).await;
            let Ending::Failed(failure) = result.ended else { panic!("{result:?}") };
            assert_eq!((failure.kind, result.attempt.as_str()), (ErrorKind::NotFound, "k#1"));
        }
    }

    /// The machine is looked at once, before the first task.
    #[tokio::test]
    async fn each_task_is_told_what_was_found_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let mut engine = Engine::start(FolderStore::open(folder.path()).unwrap()).unwrap();
        let minute = Duration::from_secs(60);
        engine.health = Ok(vec!["9 MiB of disk are all that is free (OB-DISK)".into()]);
        let mut events = Vec::new();
        let runner = engine.until(Instant::now() + minute);
        runner.run(&envelope(minute), std::future::pending(), |event| events.push(event)).await;
        let message = "9 MiB of disk are all that is free (OB-DISK)".into();
        assert_eq!(events, [Event::Warning { message }]);
        engine.health = Err(Error::new(ErrorKind::WorkerUnhealthy, "/dev/urandom is missing"));
        let runner = engine.until(Instant::now() + minute);
        let result = runner.run(&envelope(minute), std::future::pending(), |_| {}).await;
        let Ending::Failed(failure) = result.ended else { panic!("{result:?}") };
        assert_eq!((failure.kind, failure.message.as_str()), (ErrorKind::WorkerUnhealthy, "/dev/urandom is missing"));
    }

    /// Whatever occupies the threads, an invocation ends in time, and the next one gets threads of its own.
    #[tokio::test]
    async fn a_task_that_does_not_end_is_abandoned() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::start(FolderStore::open(folder.path()).unwrap()).unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let pool = engine.pool();
        for _ in 0..pool.current_num_threads() {
            let held = held.clone();
            pool.spawn(move || {
                let _ = held.lock().unwrap().recv();
            });
        }
        let hung = Envelope { patience_seconds: 0.1, ..envelope(Duration::from_secs(60)) };
        let runner = engine.until(Instant::now() + Duration::from_secs(60));
        let result = runner.run(&hung, std::future::pending(), |_| {}).await;
        let Ending::Failed(failure) = result.ended else { panic!("{result:?}") };
        assert_eq!(failure.kind, ErrorKind::WorkerUnhealthy);
        assert_eq!(failure.message, "the task hung: nothing was heard of it for 100ms");
        let result = runner.run(&envelope(Duration::from_secs(60)), std::future::pending(), |_| {}).await;
        assert!(matches!(result.ended, Ending::Failed(failure) if failure.kind == ErrorKind::NotFound));
        drop(release);
    }
}

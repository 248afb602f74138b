//! The task process: runs one task after another for the supervisor that started it.

use std::{
    any::Any,
    io::{BufRead, Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use outboard_core::{
    Digest, Event,
    error::{Error, ErrorKind, Result, Retry},
    task::{OperationKind, Timings},
};
use outboard_engine::{Blobs, Cpu, Kernels, execute_on};
use outboard_protocol::{
    Envelope, PROTOCOL_VERSION, TaskResult,
    envelope::{Ending, Failure},
};
use outboard_store::FolderStore;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::wire::{self, Hello, MAX_LINE_BYTES, Reply, Request};

/// Runs tasks from standard input on `threads` threads (0 is one per core), with blobs in `store`, until the input
/// ends. What runs then ends with the process: an orphan doesn't outlive its supervisor.
///
/// # Errors
/// `Unexpected` where the system gives no threads, or standard input fails; `PayloadTooLarge` for a line without end.
pub fn serve_stdio(store: FolderStore, threads: usize) -> Result<()> {
    let pool =
        ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("outboard-task-{i}")).build().map_err(
            |e| Error::new(ErrorKind::Unexpected, "cannot start the threads of the task process").because(e),
        )?;
    let threads = pool.current_num_threads();
    let noun = if threads == 1 { "thread" } else { "threads" };
    let device = format!("{} CPU, {threads} {noun}", std::env::consts::ARCH);
    serve_stdio_on(Cpu, device, store, &pool)
}

/// As [`serve_stdio`], with kernels of one's own, used on the threads of `pool`. `device` says in words what they compute
/// on.
///
/// # Errors
/// As [`serve_stdio`].
pub fn serve_stdio_on(
    kernels: impl Kernels + Send + Sync + 'static,
    device: String,
    store: FolderStore,
    pool: &ThreadPool,
) -> Result<()> {
    say(&Reply::Hello(Hello {
        protocol: PROTOCOL_VERSION,
        device,
        numerics: kernels.numerics().into(),
        layers: outboard_engine::LAYERS.map(String::from).to_vec(),
    }));
    let task = Arc::new(TaskProcess { kernels, store, running: Mutex::default() });
    let mut input = std::io::stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line);
        let read = read.map_err(|e| Error::new(ErrorKind::Unexpected, "cannot read standard input").because(e))?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 == limit {
            let message = format!("a line is larger than {MAX_LINE_BYTES} bytes");
            return Err(Error::new(ErrorKind::PayloadTooLarge, message));
        }
        match Request::read(&line) {
            Ok(Request::Run(envelope)) => task.start(*envelope, pool),
            Ok(Request::Stop(key)) => task.stop(&key),
            Err(error) => say(&Reply::Refused((&error).into())),
        }
    }
}

/// Writes a line to standard output.
fn say(reply: &Reply) {
    let written = wire::line(reply).map(|line| {
        let mut output = std::io::stdout().lock();
        output.write_all(&line).and_then(|()| output.flush())
    });
    // A supervisor that no longer listens closes standard input too, which ends this process.
    if !matches!(written, Ok(Ok(()))) {
        tracing::warn!("cannot write to the supervisor");
    }
}

struct TaskProcess<K> {
    kernels: K,
    store: FolderStore,
    running: Mutex<Option<Running>>,
}

struct Running {
    key: String,
    stop: Arc<AtomicBool>,
}

impl<K: Kernels + Send + Sync + 'static> TaskProcess<K> {
    fn start(self: &Arc<Self>, envelope: Envelope, pool: &ThreadPool) {
        let stop = Arc::new(AtomicBool::new(false));
        {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            if running.is_some() {
                let error = Error::new(ErrorKind::RateLimited, "the task process runs one task at a time");
                return say(&Reply::Refused((&error).into()));
            }
            *running = Some(Running { key: envelope.task.key.clone(), stop: stop.clone() });
        }
        // Whatever happens from here on has to do with the task.
        say(&Reply::Alive(true));
        let process = self.clone();
        pool.spawn(move || {
            let result = run(&process.kernels, &envelope, &process.store, &stop, &say);
            *process.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
            say(&Reply::Result(Box::new(result)));
        });
    }

    fn stop(&self, key: &str) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended meanwhile.
        if let Some(running) = running.as_ref().filter(|running| running.key == key) {
            running.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs a task on the threads of the current pool. `say` hears what happens on the way. A panic is a result too.
pub(crate) fn run(
    kernels: &impl Kernels,
    envelope: &Envelope,
    store: &FolderStore,
    stop: &AtomicBool,
    say: &dyn Fn(&Reply),
) -> TaskResult {
    let task = &envelope.task;
    let blobs = TaskBlobs { store, say, loading: Mutex::default() };
    let began = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        if stop.load(Ordering::Relaxed) && task.operation.kind() != OperationKind::Train {
            return Err(Error::new(ErrorKind::Cancelled, "the task was cancelled"));
        }
        execute_on(kernels, &task.operation, &blobs, stop, &mut |event: Event| say(&Reply::Event(event)))
    }));
    let total = began.elapsed();
    let load = *blobs.loading.lock().unwrap_or_else(PoisonError::into_inner);
    let ended = match outcome.unwrap_or_else(|panic| Err(panicked(&*panic))) {
        Ok(outcome) => Ending::Finished(outcome),
        Err(error) if error.kind() == ErrorKind::Cancelled => Ending::Cancelled,
        Err(error) => Ending::Failed(Failure::from(&error)),
    };
    TaskResult {
        protocol: PROTOCOL_VERSION,
        key: task.key.clone(),
        attempt: task.attempt.clone(),
        ended,
        timings: Timings {
            load: load.as_secs_f64(),
            compute: total.saturating_sub(load).as_secs_f64(),
            ..Timings::default()
        },
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::new(ErrorKind::Unexpected, format!("the engine failed: {}", text.unwrap_or("it did not say why")))
}

/// The store's blobs, for the engine's thread.
struct TaskBlobs<'a> {
    store: &'a FolderStore,
    say: &'a dyn Fn(&Reply),
    loading: Mutex<Duration>,
}

impl Blobs for TaskBlobs<'_> {
    fn get(&self, digest: &Digest) -> Result<Bytes> {
        let began = Instant::now();
        let read = self.store.map(digest);
        if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::CorruptPayload) {
            // Whoever sends the task again learns then that the blob is missing, and mends it.
            let _ = self.store.remove(digest);
        }
        *self.loading.lock().unwrap_or_else(PoisonError::into_inner) += began.elapsed();
        (self.say)(&Reply::Alive(true));
        read.map_err(local)
    }

    fn put(&self, bytes: Vec<u8>) -> Result<Digest> {
        let written = self.store.write(&bytes);
        (self.say)(&Reply::Alive(true));
        written.map_err(local)
    }
}

/// A disk of ours that is full is no fault of the job.
fn local(error: Error) -> Error {
    match error.kind() {
        // Removed by now: whoever sends the task again sends the blob too.
        ErrorKind::CorruptPayload | ErrorKind::NotFound => error.with_retry(Retry::Same { after: None }),
        _ => Error::new(ErrorKind::WorkerUnhealthy, format!("the worker's store failed: {error}")),
    }
}

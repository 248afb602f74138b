//! What the program offers a plugin.

use std::{
    collections::HashMap,
    ffi::c_void,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes as Memory;
use outboard_core::{
    Digest,
    error::{Error, ErrorKind, Result},
};
use outboard_protocol::{Envelope, envelope};
use outboard_store::FolderStore;
use outboard_worker::{Supervisor, TaskProgram};
use tokio::{runtime::Runtime, sync::Notify, time::interval};

use crate::{
    abi::{self, Bytes, OnEvent},
    message::Answer,
};

/// How often `run_worker` asks whether to go on.
const ASKING: Duration = Duration::from_millis(100);

/// The store, a worker, and what was handed out. Never freed: a thread of the plugin may be late.
pub(super) struct Callbacks {
    name: String,
    store: FolderStore,
    supervisor: Mutex<Option<Arc<Supervisor>>>,
    /// What was handed out, by where it lies.
    held: Mutex<HashMap<usize, Memory>>,
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Callbacks {
    /// Over a store, with a worker that is started when it is needed.
    pub(super) fn new(name: &str, store: FolderStore, worker: TaskProgram) -> &'static Self {
        let supervisor = Mutex::new(Some(Arc::new(Supervisor::new(worker))));
        Box::leak(Box::new(Self { name: name.into(), store, supervisor, held: Mutex::default() }))
    }

    /// A table for a plugin, which lives for ever.
    pub(super) fn table(&'static self) -> *const abi::Host {
        Box::leak(Box::new(abi::Host {
            size: size_of::<abi::Host>(),
            major: abi::MAJOR,
            minor: abi::MINOR,
            context: (&raw const *self).cast_mut().cast(),
            log,
            blob_has,
            blob_get,
            blob_put,
            run_worker,
            release,
        }))
    }

    /// Ends the worker, once it has no task.
    pub(super) fn close(&self) {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn give(&self, bytes: Memory) -> Bytes {
        let given = Bytes::of(&bytes);
        if !bytes.is_empty() {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(given.data as usize, bytes);
        }
        given
    }

    async fn run(&self, envelope: &[u8], told: Told) -> Result<Vec<u8>> {
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let supervisor = supervisor.ok_or_else(|| Error::new(ErrorKind::Cancelled, "the provider has ended"))?;
        let envelope: Envelope = envelope::decode(envelope)?;
        let stop = Notify::new();
        let tell = |event: &[u8]| {
            if told.tell(event) {
                stop.notify_one();
            }
        };
        let observe = |event| tell(&envelope::encode(&event).unwrap_or_default());
        let mut ticks = interval(ASKING);
        let mut running = pin!(supervisor.run(&envelope, stop.notified(), observe));
        let result = loop {
            tokio::select! {
                result = &mut running => break result,
                _ = ticks.tick() => tell(&[]),
            }
        };
        envelope::encode(&result)
    }
}

/// What runs workers and processes of all plugins; it ends with the process.
pub(super) fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let make = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("plugins").enable_all().build().ok()
    };
    let runtime = RUNTIME.get_or_init(make).as_ref();
    runtime.ok_or_else(|| Error::new(ErrorKind::Unexpected, "threads for plugins cannot be started"))
}

/// The plugin's function for events. It is called by the thread that called `run_worker`.
struct Told {
    on_event: OnEvent,
    user: *mut c_void,
}

// SAFETY: the future that holds it is run by one thread, the plugin's own.
unsafe impl Send for Told {}
// SAFETY: as above.
unsafe impl Sync for Told {}

impl Told {
    /// Whether the plugin asks for the end.
    fn tell(&self, event: &[u8]) -> bool {
        // SAFETY: the event lives through the call; `user` is what the plugin gave for this.
        unsafe { (self.on_event)(self.user, Bytes::of(event)) != 0 }
    }
}

/// The callbacks that a plugin gave back.
///
/// # Safety
/// `context` must be that of a table.
unsafe fn callbacks(context: *mut c_void) -> &'static Callbacks {
    // SAFETY: as promised by the caller.
    unsafe { &*context.cast::<Callbacks>() }
}

/// Gives what `make` makes, or its error. Nothing unwinds into the plugin.
///
/// # Safety
/// `out` must be a place for it.
unsafe fn answer(callbacks: &Callbacks, out: *mut Bytes, make: impl FnOnce() -> Result<Memory>) -> i32 {
    let made = catch_unwind(AssertUnwindSafe(make));
    let made = made.unwrap_or_else(|_| Err(Error::new(ErrorKind::Unexpected, "the program panicked")));
    let (status, bytes) = match made {
        Ok(bytes) => (0, bytes),
        Err(error) => (1, serde_json::to_vec(&Answer::<()>::Error((&error).into())).unwrap_or_default().into()),
    };
    // SAFETY: as promised by the caller.
    unsafe { out.write(callbacks.give(bytes)) };
    status
}

fn digest(text: &[u8]) -> Result<Digest> {
    let text = String::from_utf8_lossy(text);
    text.parse().map_err(|_| Error::invalid(format!("{text:?} is no digest: 64 hexadecimal digits are one")))
}

unsafe extern "C" fn log(context: *mut c_void, level: i32, message: Bytes) {
    // SAFETY: the plugin gives back its context, and lends the message for the call.
    let (callbacks, message) = unsafe { (callbacks(context), String::from_utf8_lossy(message.as_slice())) };
    let plugin = &callbacks.name;
    match level {
        1 => tracing::error!(plugin, "{message}"),
        2 => tracing::warn!(plugin, "{message}"),
        3 => tracing::info!(plugin, "{message}"),
        _ => tracing::debug!(plugin, "{message}"),
    }
}

unsafe extern "C" fn blob_has(context: *mut c_void, name: Bytes) -> i32 {
    // SAFETY: the plugin gives back its context, and lends the digest for the call.
    let (callbacks, name) = unsafe { (callbacks(context), name.as_slice()) };
    i32::from(digest(name).is_ok_and(|digest| callbacks.store.path(&digest).is_file()))
}

unsafe extern "C" fn blob_get(context: *mut c_void, name: Bytes, out: *mut Bytes) -> i32 {
    // SAFETY: the plugin gives back its context, lends the digest for the call, and has a place for the answer.
    unsafe {
        let (callbacks, name) = (callbacks(context), name.as_slice());
        answer(callbacks, out, || callbacks.store.map(&digest(name)?))
    }
}

unsafe extern "C" fn blob_put(context: *mut c_void, blob: Bytes, out: *mut Bytes) -> i32 {
    // SAFETY: the plugin gives back its context, lends the blob for the call, and has a place for the answer.
    unsafe {
        let (callbacks, blob) = (callbacks(context), blob.as_slice());
        answer(callbacks, out, || Ok(callbacks.store.write(blob)?.to_string().into()))
    }
}

unsafe extern "C" fn run_worker(
    context: *mut c_void,
    envelope: Bytes,
    on_event: OnEvent,
    user: *mut c_void,
    out: *mut Bytes,
) -> i32 {
    let told = Told { on_event, user };
    // SAFETY: the plugin gives back its context, lends the envelope for the call, and has a place for the answer.
    unsafe {
        let (callbacks, envelope) = (callbacks(context), envelope.as_slice());
        answer(callbacks, out, || Ok(block_on(callbacks.run(envelope, told))?.into()))
    }
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(future)
}

unsafe extern "C" fn release(context: *mut c_void, bytes: Bytes) {
    // SAFETY: the plugin gives back its context.
    let callbacks = unsafe { callbacks(context) };
    if bytes.data.is_null() || bytes.len == 0 {
        return;
    }
    let held = callbacks.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&(bytes.data as usize));
    if held.is_none() {
        tracing::error!(plugin = callbacks.name, "the plugin gave back what it didn't have, or twice");
    }
}

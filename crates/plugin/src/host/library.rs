//! A library, and a provider that it made.

use std::{
    collections::HashMap,
    ffi::c_void,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outboard_core::error::{Error, ErrorKind, Result, Retry};
use outboard_protocol::envelope::MAX_MESSAGE_BYTES;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::callbacks::Callbacks;
use crate::{
    abi::{self, Bytes},
    message::Answer,
};

/// Calls that may be under way, hung ones among them.
const MOST_CALLS: usize = 64;

/// The table of a library; it is never unloaded.
#[derive(Clone, Copy, Debug)]
struct Table(&'static abi::Plugin);

/// Loads a library, once in this process.
fn load(path: &Path) -> Result<Table> {
    static LOADED: Mutex<Option<HashMap<PathBuf, Table>>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = loaded.get_or_insert_default();
    if let Some(table) = loaded.get(path) {
        return Ok(*table);
    }
    let shown = path.display();
    // SAFETY: its initialisers run; that the user trusts them is why the path is configured and checked.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| {
        incompatible(format!("the plugin {shown} cannot be loaded"))
            .because(e)
            .hint("check that it was built for this machine, and that the libraries it needs are installed (`ldd`)")
    })?;
    // Never unloaded: its threads may run on.
    let library = Box::leak(Box::new(library));
    // SAFETY: the header says that this symbol is this function.
    let entry = unsafe { library.get::<abi::Entry>(abi::ENTRY) }.map_err(|_| {
        incompatible(format!("{shown} is no plugin: it exports no `outboard_plugin`"))
            .hint("build it with `export_provider!`, or with outboard_plugin.h and default visibility")
    })?;
    // SAFETY: as above.
    let table = check(unsafe { entry() }, path)?;
    loaded.insert(path.into(), table);
    Ok(table)
}

/// Whether we understand a table.
fn check(table: *const abi::Plugin, path: &Path) -> Result<Table> {
    let shown = path.display();
    if table.is_null() || !table.is_aligned() {
        return Err(
            incompatible(format!("the plugin {shown} gives no table")).hint("return the address of a static table")
        );
    }
    // SAFETY: whatever the version, a table begins with its size, which is at least that of these three fields.
    let (size, major, minor) = unsafe {
        ((&raw const (*table).size).read(), (&raw const (*table).major).read(), (&raw const (*table).minor).read())
    };
    let ours = format!("{}.{}", abi::MAJOR, abi::MINOR);
    if major != abi::MAJOR {
        return Err(incompatible(format!(
            "the plugin {shown} speaks version {major}.{minor}, but this program {ours}"
        ))
        .hint("get a plugin, or a program, of the other's major version"));
    }
    if size < size_of::<abi::Plugin>() {
        let message = format!(
            "the table of the plugin {shown} has {size} bytes, but one of version {major}.{minor} has {}",
            size_of::<abi::Plugin>()
        );
        return Err(incompatible(message).hint("set `size` to sizeof(OutboardPlugin), and build it for this machine"));
    }
    // A null function pointer is no value of its type, so it is looked for before there is a reference.
    let first = table.cast::<usize>();
    let functions = (size_of::<abi::Plugin>() - std::mem::offset_of!(abi::Plugin, create)) / size_of::<usize>();
    let from = std::mem::offset_of!(abi::Plugin, create) / size_of::<usize>();
    // SAFETY: within the table, whose size was checked; it consists of words from there on.
    if (0..functions).any(|i| unsafe { first.add(from + i).read() } == 0) {
        return Err(
            incompatible(format!("the table of the plugin {shown} has a null function")).hint("fill in all four")
        );
    }
    // SAFETY: checked as far as it can be, and the header promises that it lives for ever.
    Ok(Table(unsafe { &*table }))
}

/// A provider that a library made.
#[derive(Debug)]
pub(super) struct Instance {
    table: Table,
    provider: *mut c_void,
    callbacks: &'static Callbacks,
    running: AtomicUsize,
}

// SAFETY: the header demands that a provider may be called from any thread.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

impl Drop for Instance {
    fn drop(&mut self) {
        /// What a thread of its own ends.
        struct Rest(Table, *mut c_void, &'static Callbacks);
        // SAFETY: only `destroy` uses it, once.
        unsafe impl Send for Rest {}
        let rest = Rest(self.table, self.provider, self.callbacks);
        let end = move || {
            let Rest(table, provider, callbacks) = { rest };
            // SAFETY: it came from `create`, and no call runs: each holds the instance.
            unsafe { (table.0.destroy)(provider) };
            callbacks.close();
        };
        // It may take its time, which the thread that dropped the last user may not have.
        if let Err(error) = std::thread::Builder::new().name("plugin-end".into()).spawn(end) {
            tracing::warn!(%error, "a plugin's provider could not be ended");
        }
    }
}

impl Instance {
    /// Loads a library and makes a provider.
    pub(super) async fn create(
        path: PathBuf,
        config: &Map<String, Value>,
        callbacks: &'static Callbacks,
        limit: Duration,
    ) -> Result<Arc<Self>> {
        let config = serde_json::to_vec(config).map_err(|e| {
            Error::new(ErrorKind::Unexpected, "the plugin's configuration cannot be encoded").because(e)
        })?;
        let shown = path.display().to_string();
        let make = move || Self::create_here(&path, &config, callbacks);
        timeout(limit, blocking::unblock(make)).await.unwrap_or_else(|_| {
            Err(incompatible(format!("the plugin {shown} was not ready within {limit:?}"))
                .hint("ask its author; a longer `call_timeout` may help"))
        })
    }

    fn create_here(path: &Path, config: &[u8], callbacks: &'static Callbacks) -> Result<Arc<Self>> {
        let table = load(path)?;
        let mut out = Bytes::EMPTY;
        // SAFETY: the configuration lives through the call, the host's table until after `destroy`.
        let provider = unsafe { (table.0.create)(Bytes::of(config), callbacks.table(), &raw mut out) };
        // SAFETY: `create` wrote it, or it is empty.
        let answer = unsafe { taken(table, out) };
        if provider.is_null() {
            return Err(match serde_json::from_slice::<Answer<()>>(&answer?) {
                Ok(Answer::Error(failure)) => failure.into(),
                _ => incompatible(format!("the plugin {} makes no provider and doesn't say why", path.display()))
                    .hint("ask its author"),
            });
        }
        Ok(Arc::new(Self { table, provider, callbacks, running: AtomicUsize::new(0) }))
    }

    /// An operation on a thread of its own. When the future is dropped, the call goes on.
    pub(super) async fn call(self: Arc<Self>, operation: &'static str, request: Vec<u8>) -> Result<Vec<u8>> {
        if self.running.fetch_add(1, Ordering::Relaxed) >= MOST_CALLS {
            self.running.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("{MOST_CALLS} calls of the plugin are under way and don't return"),
            )
            .hint("start the program again; ask the plugin's author; `isolation = \"process\"` ends such calls"));
        }
        blocking::unblock(move || {
            let answer = self.call_here(operation.as_bytes(), &request);
            self.running.fetch_sub(1, Ordering::Relaxed);
            answer
        })
        .await
    }

    /// An operation on this thread.
    pub(super) fn call_here(&self, operation: &[u8], request: &[u8]) -> Result<Vec<u8>> {
        let mut out = Bytes::EMPTY;
        // SAFETY: the provider lives, and what is lent lives through the call.
        let status =
            unsafe { (self.table.0.call)(self.provider, Bytes::of(operation), Bytes::of(request), &raw mut out) };
        // SAFETY: `call` wrote it, or it is empty.
        let answer = unsafe { taken(self.table, out) };
        match status {
            0 => answer,
            _ => Err(misbehaved(format!("the plugin gave no answer: status {status}"))),
        }
    }
}

/// A copy of what a plugin gave, which it has back.
///
/// # Safety
/// It must come from the plugin's `create` or `call`, and be taken once.
unsafe fn taken(table: Table, out: Bytes) -> Result<Vec<u8>> {
    if out.data.is_null() {
        return Ok(Vec::new());
    }
    let copy = match out.len <= MAX_MESSAGE_BYTES {
        // SAFETY: the plugin promises that so many bytes are there.
        true => Ok(unsafe { out.as_slice() }.to_vec()),
        false => {
            Err(misbehaved(format!("the plugin gave an answer of {} bytes; {MAX_MESSAGE_BYTES} are the most", out.len)))
        }
    };
    // SAFETY: once, with what came from it.
    unsafe { (table.0.free)(out) };
    copy
}

/// Another provider may do better.
pub(super) fn misbehaved(message: String) -> Error {
    Error::new(ErrorKind::Unexpected, message).with_retry(Retry::Other)
}

fn incompatible(message: String) -> Error {
    Error::new(ErrorKind::PluginIncompatible, message)
}

//! A provider in Rust becomes a plugin.
//!
//! ```
//! # mod example {
//! use async_trait::async_trait;
//! use outboard_plugin::{HostHandle, ProviderPlugin, export_provider};
//! use outboard_core::{ComputeProvider, Result, Task, TaskId, provider::*, task::{Revision, TaskState}};
//! use std::time::Duration;
//!
//! #[derive(Debug)]
//! struct Nowhere {
//!     host: HostHandle,
//! }
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {}
//!
//! impl ProviderPlugin for Nowhere {
//!     type Config = Config;
//!     fn create(_: Config, host: HostHandle) -> Result<Self> {
//!         Ok(Self { host })
//!     }
//! }
//! # #[async_trait]
//! # impl ComputeProvider for Nowhere {
//! #     fn info(&self) -> &ProviderInfo { unimplemented!() }
//! #     fn capabilities(&self) -> &Capabilities { unimplemented!() }
//! #     async fn price(&self) -> Result<PriceModel> { unimplemented!() }
//! #     async fn health(&self) -> Result<Health> { unimplemented!() }
//! #     async fn submit(&self, _: &Task) -> Result<TaskId> { unimplemented!() }
//! #     async fn wait(&self, _: &TaskId, _: Revision, _: Duration) -> Result<TaskState> { unimplemented!() }
//! #     async fn cancel(&self, _: &TaskId) -> Result<Cancelled> { unimplemented!() }
//! #     async fn list(&self) -> Result<Vec<TaskSummary>> { unimplemented!() }
//! # }
//! // impl ComputeProvider for Nowhere ...
//!
//! export_provider!(Nowhere);
//! # }
//! ```

use std::{
    collections::HashMap,
    ffi::c_void,
    fmt,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use outboard_core::{
    ComputeProvider, Digest, Event, TaskId,
    error::{Error, ErrorKind, Result, Retry},
    task::Revision,
};
use outboard_protocol::{Envelope, TaskResult, envelope};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::runtime::Runtime;

use crate::{
    abi::{self, Bytes},
    message::{Answer, Cancel, Cancelled, Claims, Health, Info, Price, State, Submit, Summary, Wait},
};

/// A provider that is made from a plugin's configuration.
pub trait ProviderPlugin: ComputeProvider + Sized {
    /// The user's `config` table. `deny_unknown_fields` makes a misspelt key an error.
    type Config: DeserializeOwned;

    /// Makes the provider. The id of its [`ProviderInfo`](outboard_core::provider::ProviderInfo) counts for nothing: the
    /// user names it.
    ///
    /// # Errors
    /// `InvalidConfig`, saying which key is wrong and what would be right.
    fn create(config: Self::Config, host: HostHandle) -> Result<Self>;
}

/// Exports a [`ProviderPlugin`] from a `cdylib`.
#[macro_export]
macro_rules! export_provider {
    ($provider:ty) => {
        /// The plugin's table.
        #[unsafe(no_mangle)]
        pub extern "C" fn outboard_plugin() -> *const $crate::abi::Plugin {
            static TABLE: $crate::abi::Plugin = $crate::sdk::table::<$provider>();
            &TABLE
        }
    };
}

/// What the host offers. Its calls block.
#[derive(Clone, Copy)]
pub struct HostHandle(*const abi::Host);

// SAFETY: the host's functions may be called from any thread, and its table doesn't change.
unsafe impl Send for HostHandle {}
// SAFETY: as above.
unsafe impl Sync for HostHandle {}

impl fmt::Debug for HostHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostHandle")
    }
}

impl HostHandle {
    fn table(&self) -> &abi::Host {
        // SAFETY: the host keeps it until the provider that holds this is gone.
        unsafe { &*self.0 }
    }

    /// Writes a line to the program's log.
    pub fn log(&self, level: tracing::Level, message: &str) {
        let level = match level {
            tracing::Level::ERROR => 1,
            tracing::Level::WARN => 2,
            tracing::Level::INFO => 3,
            _ => 4,
        };
        let host = self.table();
        // SAFETY: `message` lives through the call.
        unsafe { (host.log)(host.context, level, Bytes::of(message.as_bytes())) }
    }

    /// Whether the program's store has a blob.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        let (host, digest) = (self.table(), digest.to_string());
        // SAFETY: `digest` lives through the call.
        unsafe { (host.blob_has)(host.context, Bytes::of(digest.as_bytes())) == 1 }
    }

    /// Lends a blob of the program's store to `read`.
    ///
    /// # Errors
    /// `NotFound`; `CorruptPayload`.
    pub fn get<T>(&self, digest: &Digest, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let (host, digest) = (self.table(), digest.to_string());
        // SAFETY: `digest` lives through the call.
        let given = self.given(|out| unsafe { (host.blob_get)(host.context, Bytes::of(digest.as_bytes()), out) })?;
        Ok(read(given.bytes()))
    }

    /// Puts a blob into the program's store.
    ///
    /// # Errors
    /// Where there is no room.
    pub fn put(&self, blob: &[u8]) -> Result<Digest> {
        let host = self.table();
        // SAFETY: `blob` lives through the call.
        let given = self.given(|out| unsafe { (host.blob_put)(host.context, Bytes::of(blob), out) })?;
        let text = String::from_utf8_lossy(given.bytes());
        text.parse().map_err(|_| broken(&format!("the host named the blob {text:?}")))
    }

    /// Runs an envelope in a worker beside the program. `observe` is told each event, and asked with none a few times a
    /// second whether to go on.
    ///
    /// # Errors
    /// Where the worker doesn't start. How the task ended is in the result.
    pub fn run_worker(
        &self,
        envelope: &Envelope,
        mut observe: impl FnMut(Option<Event>) -> ControlFlow<()>,
    ) -> Result<TaskResult> {
        type Observe<'a> = &'a mut dyn FnMut(Option<Event>) -> ControlFlow<()>;
        unsafe extern "C" fn on_event(user: *mut c_void, event: Bytes) -> i32 {
            // SAFETY: `user` is the observer below, which lives through `run_worker` and is called by its thread alone;
            // the host lends the event.
            let (observe, event) = unsafe { (&mut *user.cast::<Observe<'_>>(), event.as_slice()) };
            // An event of a newer host is no reason to stop.
            let event = serde_json::from_slice(event).ok();
            let flow = catch_unwind(AssertUnwindSafe(|| observe(event)));
            i32::from(!matches!(flow, Ok(ControlFlow::Continue(()))))
        }
        let (host, envelope) = (self.table(), envelope::encode(envelope)?);
        let mut observe: Observe<'_> = &mut observe;
        let user = (&raw mut observe).cast();
        let envelope = Bytes::of(&envelope);
        // SAFETY: the envelope and the observer live through the call.
        let given = self.given(|out| unsafe { (host.run_worker)(host.context, envelope, on_event, user, out) })?;
        envelope::decode(given.bytes())
    }

    /// What a function of the host gives, or its error.
    fn given(&self, call: impl FnOnce(*mut Bytes) -> i32) -> Result<Given<'_>> {
        let mut out = Bytes::EMPTY;
        let status = call(&raw mut out);
        let given = Given { host: self, out };
        if status == 0 {
            return Ok(given);
        }
        match serde_json::from_slice::<Answer<()>>(given.bytes()) {
            Ok(Answer::Error(failure)) => Err(failure.into()),
            _ => Err(broken(&format!("the host failed with status {status}"))),
        }
    }
}

/// What the host gave, until it is given back.
struct Given<'a> {
    host: &'a HostHandle,
    out: Bytes,
}

impl Given<'_> {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the host leaves it as it is until it is given back.
        unsafe { self.out.as_slice() }
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        let host = self.host.table();
        // SAFETY: once, with what came from it.
        unsafe { (host.release)(host.context, self.out) }
    }
}

fn broken(why: &str) -> Error {
    Error::new(ErrorKind::PluginIncompatible, why)
}

/// The table of a provider.
#[must_use]
pub const fn table<P: ProviderPlugin>() -> abi::Plugin {
    abi::Plugin {
        size: size_of::<abi::Plugin>(),
        major: abi::MAJOR,
        minor: abi::MINOR,
        create: create::<P>,
        call: call::<P>,
        free,
        destroy: destroy::<P>,
    }
}

/// A provider and what runs its futures.
struct Exported<P> {
    provider: P,
    runtime: Runtime,
    /// Keys and attempts of tasks, by id.
    tasks: Mutex<HashMap<TaskId, (String, String)>>,
}

unsafe extern "C" fn create<P: ProviderPlugin>(config: Bytes, host: *const abi::Host, out: *mut Bytes) -> *mut c_void {
    let make = || {
        // SAFETY: the host lends `config` for the call.
        let config = serde_json::from_slice(unsafe { config.as_slice() })
            .map_err(|e| Error::new(ErrorKind::InvalidConfig, format!("the plugin's configuration is wrong: {e}")))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Error::new(ErrorKind::Unexpected, "the plugin cannot start threads").because(e))?;
        let provider = {
            let _entered = runtime.enter();
            P::create(config, HostHandle(host))?
        };
        Ok(Box::new(Exported { provider, runtime, tasks: Mutex::default() }))
    };
    match guarded(make) {
        Ok(exported) => Box::into_raw(exported).cast(),
        Err(error) => {
            // SAFETY: the host gave a place for the answer.
            unsafe { out.write(Bytes::give(answer(&Answer::<()>::Error((&error).into())))) };
            std::ptr::null_mut()
        }
    }
}

unsafe extern "C" fn call<P: ProviderPlugin>(
    provider: *mut c_void,
    operation: Bytes,
    request: Bytes,
    out: *mut Bytes,
) -> i32 {
    // SAFETY: the host gives back what `create` made, and lends the rest for the call.
    let (exported, operation, request) =
        unsafe { (&*provider.cast::<Exported<P>>(), operation.as_slice(), request.as_slice()) };
    let bytes = guarded(|| exported.runtime.block_on(exported.answer(operation, request)));
    let bytes = bytes.unwrap_or_else(|error| answer(&Answer::<()>::Error((&error).into())));
    // SAFETY: the host gave a place for the answer.
    unsafe { out.write(Bytes::give(bytes)) };
    0
}

unsafe extern "C" fn free(bytes: Bytes) {
    // SAFETY: the host gives back what `create` or `call` gave, once.
    drop(unsafe { bytes.take() });
}

unsafe extern "C" fn destroy<P: ProviderPlugin>(provider: *mut c_void) {
    // SAFETY: the host gives back what `create` made, once, and calls no more.
    let Exported { provider, runtime, .. } = *unsafe { Box::from_raw(provider.cast::<Exported<P>>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // Tasks of its own may use the host until they have ended.
        runtime.shutdown_timeout(Duration::from_secs(5));
        drop(provider);
    }));
}

/// A panic is an error of the call, and goes no further.
fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<&str>().map(ToString::to_string);
        let why = why.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        // Another provider may do better.
        Err(Error::new(ErrorKind::Unexpected, format!("the plugin panicked: {why}")).with_retry(Retry::Other))
    })
}

fn answer<T: Serialize>(answer: &Answer<T>) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap_or_else(|e| {
        format!(r#"{{"error":{{"kind":"unexpected","retry":"never","message":"an answer cannot be encoded: {e}"}}}}"#)
            .into_bytes()
    })
}

fn read<'a, T: Deserialize<'a>>(request: &'a [u8]) -> Result<T> {
    serde_json::from_slice(request)
        .map_err(|e| Error::new(ErrorKind::CorruptPayload, format!("the host's request cannot be read: {e}")))
}

impl<P: ProviderPlugin> Exported<P> {
    async fn answer(&self, operation: &[u8], request: &[u8]) -> Result<Vec<u8>> {
        fn ok<T: Serialize>(value: T) -> Result<Vec<u8>> {
            Ok(answer(&Answer::Ok(value)))
        }
        let provider = &self.provider;
        match operation {
            b"info" => {
                let info = provider.info().clone();
                ok(Info { kind: info.kind, device: info.device, region: info.region })
            }
            b"capabilities" => ok(Claims::from(provider.capabilities())),
            b"price" => ok(Price::from(provider.price().await?)),
            b"health" => ok(Health::from(provider.health().await?)),
            b"submit" => {
                let request: Submit<&RawValue> = read(request)?;
                let envelope: Envelope = envelope::decode(request.envelope.get().as_bytes())?;
                let id = provider.submit(&envelope.task).await?;
                let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                tasks.insert(id.clone(), (request.key, request.attempt));
                ok(id)
            }
            b"wait" => {
                let request: Wait = read(request)?;
                let limit = Duration::from_millis(request.limit_ms);
                let state = provider.wait(&request.id, Revision(request.seen), limit).await?;
                let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                let (key, attempt) = tasks.get(&request.id).cloned().unwrap_or_default();
                if state.phase.is_final() {
                    tasks.remove(&request.id);
                }
                ok(State::new(state, key, attempt))
            }
            b"cancel" => ok(Cancelled::from(provider.cancel(&read::<Cancel>(request)?.id).await?)),
            b"list" => ok(provider.list().await?.into_iter().map(Summary::from).collect::<Vec<_>>()),
            other => Err(Error::new(
                ErrorKind::Unsupported,
                format!("the plugin knows no operation `{}`", String::from_utf8_lossy(other)),
            )),
        }
    }
}

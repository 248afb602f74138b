//! What crosses the boundary: plain C. `include/outboard_plugin.h` is made from this file.

use std::ffi::c_void;

/// Versions with another major one don't understand each other.
pub const MAJOR: u32 = 1;

/// A newer minor version only adds fields at the end of tables, and operations.
pub const MINOR: u32 = 0;

/// The one symbol that a plugin exports, of type [`Entry`].
pub const ENTRY: &[u8] = b"outboard_plugin\0";

/// Bytes that somebody else owns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// The first byte; may be null where there are none.
    pub data: *const u8,
    /// How many there are.
    pub len: usize,
}

/// What a host offers a plugin.
///
/// All functions may be called from any thread and at any time between `create` and the return of `destroy`. Each takes
/// `context` first. Those that give bytes return 0, or another number where `out` holds an error instead: JSON, as in an
/// answer of `call`. Either way `out` is given back by `release`, once.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Bytes of this table.
    pub size: usize,
    /// The host's version.
    pub major: u32,
    /// The host's version.
    pub minor: u32,
    /// Goes first into each function.
    pub context: *mut c_void,
    /// Writes a line to the program's log: level 1 error, 2 warning, 3 information, 4 debugging.
    pub log: unsafe extern "C" fn(context: *mut c_void, level: i32, message: Bytes),
    /// Whether the store has the blob of a digest (64 hexadecimal digits, BLAKE3): 1 or 0.
    pub blob_has: unsafe extern "C" fn(context: *mut c_void, digest: Bytes) -> i32,
    /// A blob of the store. Its bytes don't change, and stay where they are until they are released.
    pub blob_get: unsafe extern "C" fn(context: *mut c_void, digest: Bytes, out: *mut Bytes) -> i32,
    /// Puts a blob into the store; `out` is its digest.
    pub blob_put: unsafe extern "C" fn(context: *mut c_void, blob: Bytes, out: *mut Bytes) -> i32,
    /// Runs the envelope of a `submit` in an `outboard worker --stdio` over the program's store, and returns when it has
    /// ended; `out` is its result. The envelopes of a provider run one after another.
    ///
    /// `on_event` is told each event, as JSON, and, with no bytes, a few times a second besides: it asks for the end by
    /// returning another number than 0. Training then ends after the batch, with a checkpoint. `user` goes first into it.
    pub run_worker: unsafe extern "C" fn(
        context: *mut c_void,
        envelope: Bytes,
        on_event: OnEvent,
        user: *mut c_void,
        out: *mut Bytes,
    ) -> i32,
    /// Gives back what a function of this table gave.
    pub release: unsafe extern "C" fn(context: *mut c_void, bytes: Bytes),
}

/// Told each event of [`Host::run_worker`], on the thread that called it.
pub type OnEvent = unsafe extern "C" fn(user: *mut c_void, event: Bytes) -> i32;

/// What a plugin offers its host.
///
/// The host calls from threads of its own that may block, several at a time, and gives up on a call that takes longer
/// than its deadline. Nothing may be thrown or unwound out of a function. A plugin is never unloaded.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Plugin {
    /// Bytes of this table.
    pub size: usize,
    /// The version that the plugin was built for.
    pub major: u32,
    /// The version that the plugin was built for.
    pub minor: u32,
    /// Makes a provider of `config`, the JSON object of the user's configuration. `host` lives until `destroy` has
    /// returned. `out` holds the error where the provider is null; the host gives it to `free`.
    pub create: unsafe extern "C" fn(config: Bytes, host: *const Host, out: *mut Bytes) -> *mut c_void,
    /// Answers an operation. Returns 0, or another number where there is no answer. `request` and `out` are JSON; unknown
    /// fields are to be ignored, and those with a question mark may be left out. The host gives the answer to `free`. It
    /// is `{"ok": ANSWER}`, or `{"error": {"kind": KIND, "retry": RETRY, "message": "One sentence", "hint"?: "What to try"}}`
    /// with a kind and a retry of docs/plugins.md, such as `"unavailable"` and `{"same": {"after": null}}`. An operation
    /// that the plugin doesn't know is an error of kind `"unsupported"` and retry `"other"`.
    ///
    /// ```text
    /// info          {} -> {"kind": "ssh", "device": "in words", "region"?: "eu"}
    /// capabilities  {} -> {"cancels"?: true, "lists"?: true, "reports_progress"?: true, "max_concurrent_tasks"?: 1,
    ///                      "max_task_ms"?: 900000, "max_payload_bytes"?: N, "operations"?: ["train", "evaluate", "predict"],
    ///                      "layers"?: [..]}; `"describe"` too where its tasks can tell what their place is like
    /// price         {} -> {"per_task_nano_usd": 0, "per_hour_nano_usd": 0, "granularity_ms"?: 0, "overhead_ms"?: 0,
    ///                      "as_of": "2026-11-24", "source": "where it was found"}; an unknown price is an error
    /// health        {} -> "ready" or {"unavailable": "why, and what to do"}
    /// submit        {"attempt": "..", "key": "..", "envelope": {..}} -> "ID"; at once. The same attempt again gives the
    ///                      same id and runs once
    /// wait          {"id": "ID", "seen": 0, "limit_ms": 10000} -> {"revision": 1, "phase": PHASE, "events": [EVENT, ..],
    ///                      "billed_ms"?: N}; as soon as the revision is larger than `seen`, at the latest after the limit,
    ///                      with the events since then. PHASE is "queued", "running" or {"ended": RESULT}. An unknown id
    ///                      is an error of kind "not_found"
    /// cancel        {"id": "ID"} -> "stopped" once nothing runs any more, or {"still_billed_ms": N}
    /// list          {} -> [{"id": "ID", "key": "..", "running": true}, ..], the tasks that have not ended
    /// ```
    pub call: unsafe extern "C" fn(provider: *mut c_void, operation: Bytes, request: Bytes, out: *mut Bytes) -> i32,
    /// Takes back what `create` or `call` gave in `out`.
    pub free: unsafe extern "C" fn(bytes: Bytes),
    /// Ends a provider. No call runs then, and none comes after it.
    pub destroy: unsafe extern "C" fn(provider: *mut c_void),
}

/// Gives the plugin's table, which lives for ever.
pub type Entry = unsafe extern "C" fn() -> *const Plugin;

impl Bytes {
    /// None.
    pub const EMPTY: Self = Self { data: std::ptr::null(), len: 0 };

    /// Lends bytes for as long as they live.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), len: bytes.len() }
    }

    /// What is lent.
    ///
    /// # Safety
    /// `data` must point to `len` bytes that are there and don't change for as long as the result is used, or be null.
    #[must_use]
    pub unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.data.is_null() || self.len == 0 {
            return &[];
        }
        // SAFETY: as promised by the caller.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }

    /// Gives bytes away; [`take`](Self::take) has them back.
    #[must_use]
    pub fn give(bytes: Vec<u8>) -> Self {
        let bytes = Box::leak(bytes.into_boxed_slice());
        Self { data: bytes.as_ptr(), len: bytes.len() }
    }

    /// Takes back what was given away.
    ///
    /// # Safety
    /// It must come from [`give`](Self::give), and be taken once.
    #[must_use]
    pub unsafe fn take(self) -> Box<[u8]> {
        // SAFETY: `give` leaked a box of that place and length.
        unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.data.cast_mut(), self.len)) }
    }
}

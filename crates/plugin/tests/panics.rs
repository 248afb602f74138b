//! A provider that panics, called as a host calls it: through its table.
#![allow(clippy::unwrap_used, unsafe_code)]

use std::{ffi::c_void, ptr, time::Duration};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, ErrorKind, Result, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Revision, TaskState},
};
use outboard_plugin::{
    HostHandle, ProviderPlugin,
    abi::{Bytes, Plugin},
    message::{Answer, Health as Said},
    sdk::table,
};
use serde::Deserialize;

#[derive(Debug)]
struct Panics;

#[derive(Deserialize)]
struct Config {
    at_once: bool,
}

impl ProviderPlugin for Panics {
    type Config = Config;

    fn create(config: Config, _: HostHandle) -> Result<Self> {
        assert!(!config.at_once, "no room");
        Ok(Self)
    }
}

#[async_trait]
impl ComputeProvider for Panics {
    fn info(&self) -> &ProviderInfo {
        panic!("who am I?")
    }

    fn capabilities(&self) -> &Capabilities {
        panic!()
    }

    async fn price(&self) -> Result<PriceModel> {
        let price = "what is this worth?".to_string();
        panic!("{price}")
    }

    async fn health(&self) -> Result<Health> {
        Ok(Health::Ready)
    }

    async fn submit(&self, _: &Task) -> Result<TaskId> {
        panic!("no task")
    }

    async fn wait(&self, id: &TaskId, _: Revision, _: Duration) -> Result<TaskState> {
        panic!("no task {id}")
    }

    async fn cancel(&self, _: &TaskId) -> Result<Cancelled> {
        panic!("no task")
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        panic!("no list")
    }
}

static TABLE: Plugin = table::<Panics>();

/// What the plugin gave, taken once.
fn taken(out: Bytes) -> Vec<u8> {
    // SAFETY: the table's own function gave it, and has it back once.
    unsafe {
        let copy = out.as_slice().to_vec();
        (TABLE.free)(out);
        copy
    }
}

fn create(config: &str) -> (*mut c_void, Bytes) {
    let mut out = Bytes::EMPTY;
    // SAFETY: the provider never asks for its host.
    let provider = unsafe { (TABLE.create)(Bytes::of(config.as_bytes()), ptr::null(), &raw mut out) };
    (provider, out)
}

fn said<T: for<'a> Deserialize<'a>>(provider: *mut c_void, operation: &str, request: &str) -> Answer<T> {
    let mut out = Bytes::EMPTY;
    let lent = |text: &str| Bytes::of(text.as_bytes());
    // SAFETY: the provider lives, and what is lent lives through the call.
    let status = unsafe { (TABLE.call)(provider, lent(operation), lent(request), &raw mut out) };
    assert_eq!(status, 0);
    serde_json::from_slice(&taken(out)).unwrap()
}

#[test]
fn a_panic_is_an_error_of_its_call() {
    let (none, out) = create(r#"{"at_once": true}"#);
    assert!(none.is_null());
    let Answer::Error(failure) = serde_json::from_slice::<Answer<()>>(&taken(out)).unwrap() else { panic!() };
    assert_eq!((failure.kind, failure.message.as_str()), (ErrorKind::Unexpected, "the plugin panicked: no room"));

    let (provider, _) = create(r#"{"at_once": false}"#);
    let calls = [
        ("info", "{}", "who am I?"),
        ("capabilities", "{}", "explicit panic"),
        ("price", "{}", "what is this worth?"),
        ("wait", r#"{"id": "7", "seen": 0, "limit_ms": 1}"#, "no task 7"),
        ("cancel", r#"{"id": "7"}"#, "no task"),
        ("list", "{}", "no list"),
    ];
    for (operation, request, why) in calls {
        let Answer::Error(failure) = said::<()>(provider, operation, request) else { panic!("{operation}") };
        assert_eq!(failure.message, format!("the plugin panicked: {why}"), "{operation}");
        // Other calls are none the worse for it.
        assert!(matches!(said(provider, "health", "{}"), Answer::Ok(Said::Ready)), "{operation}");
    }
    // SAFETY: `create` made it, and no call comes after this.
    unsafe { (TABLE.destroy)(provider) };
}

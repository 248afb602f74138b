//! Carries a task out that comes in a message, with its blobs or with a grant.

use std::future::Future;

use outboard_core::error::{Error, ErrorKind, Result};
use outboard_protocol::{InlineBlob, InlineReply, InlineRequest, envelope::Ending};
use outboard_store::{
    FolderStore,
    inline::{pack, unpack},
};
use tokio::task::spawn_blocking;

use crate::{Runner, carry, supervisor::ended};

/// Carries out one task. The blob of a reply may have `limit` bytes: whoever carries replies has one. When `stop` completes, training stops after the batch, with a checkpoint.
///
/// Whatever goes wrong is a result that says so.
pub async fn run<R, S>(request: InlineRequest, runner: &R, store: &FolderStore, limit: usize, stop: S) -> InlineReply
where
    R: Runner,
    S: Future<Output = ()> + Send,
{
    let InlineRequest { envelope, blobs } = request;
    if envelope.store.is_some() {
        let result = carry(envelope, runner, store, stop, |_| {}).await;
        return InlineReply { result, events: Vec::new(), blobs: Vec::new() };
    }
    let failed = |error: Error| ended(&envelope, Ending::Failed((&error).into()));
    let ready = match envelope.check_time() {
        Ok(()) => {
            let store = store.clone();
            blocking(move || blobs.iter().try_for_each(|blob| unpack(&store, blob))).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = ready {
        return InlineReply { result: failed(error), events: Vec::new(), blobs: Vec::new() };
    }
    let mut events = Vec::new();
    let mut result = runner.run(&envelope, stop, |event| events.push(event)).await;
    let named = match &result.ended {
        Ending::Finished(outcome) => outcome.blob(),
        Ending::Failed(_) | Ending::Cancelled => None,
    };
    let mut blobs: Vec<InlineBlob> = Vec::new();
    if let Some(digest) = named {
        let store = store.clone();
        match blocking(move || pack(&store, &digest, limit)).await {
            Ok(blob) => blobs.push(blob),
            // An outcome that can't be delivered is none.
            Err(error) => result.ended = Ending::Failed((&error).into()),
        }
    }
    InlineReply { result, events, blobs }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Unexpected, "a thread of the worker ended early").because(e))?
}

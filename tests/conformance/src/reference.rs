//! The same tasks on the engine directly.

use std::{cell::RefCell, collections::HashMap, sync::atomic::AtomicBool};

use bytes::Bytes;
use outboard_core::{
    Digest, Error, ErrorKind, Event, Result,
    task::{Epoch, Operation, Outcome},
};
use outboard_engine::{Blobs, execute};
use outboard_store::FolderStore;

use crate::suite::{Checked, ensure};

/// What the engine makes of a task. Its blobs stay out of the store, where they would stand in for the provider's.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) outcome: Outcome,
    pub(crate) epochs: Vec<Epoch>,
    blobs: HashMap<Digest, Vec<u8>>,
}

impl Reference {
    pub(crate) async fn run(store: &FolderStore, operation: &Operation) -> Result<Self> {
        let (store, operation) = (store.clone(), operation.clone());
        let run = move || {
            let overlay = Overlay { below: store, above: RefCell::default() };
            let mut events = Vec::new();
            let outcome = execute(&operation, &overlay, &AtomicBool::new(false), &mut |event| events.push(event))?;
            Ok(Self { outcome, epochs: epochs(&events), blobs: overlay.above.into_inner() })
        };
        tokio::task::spawn_blocking(run)
            .await
            .map_err(|e| Error::new(ErrorKind::Unexpected, "the engine failed").because(e))?
    }

    /// A blob that the run made.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<&[u8]> {
        let missing = || Error::new(ErrorKind::Unexpected, "the engine names a blob that it didn't make");
        self.blobs.get(digest).map(Vec::as_slice).ok_or_else(missing)
    }
}

struct Overlay {
    below: FolderStore,
    above: RefCell<HashMap<Digest, Vec<u8>>>,
}

impl Blobs for Overlay {
    fn get(&self, digest: &Digest) -> Result<Bytes> {
        self.above.borrow().get(digest).cloned().map_or_else(|| self.below.map(digest), |bytes| Ok(bytes.into()))
    }

    fn put(&self, bytes: Vec<u8>) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        self.above.borrow_mut().insert(digest, bytes);
        Ok(digest)
    }
}

/// The epochs among `events`.
pub(crate) fn epochs(events: &[Event]) -> Vec<Epoch> {
    events.iter().filter_map(|event| if let Event::Epoch(epoch) = event { Some(*epoch) } else { None }).collect()
}

/// Fails unless both curves are the same: to the bit where `exact`, else within the gates of the protocol.
pub(crate) fn ensure_same_curve(found: &[Epoch], expected: &[Epoch], exact: bool) -> Checked {
    let numbers = |epochs: &[Epoch]| epochs.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>();
    ensure!(numbers(found) == numbers(expected), "epochs {:?} instead of {:?}", numbers(found), numbers(expected));
    for (found, expected) in found.iter().zip(expected) {
        let same = match exact {
            true => values(found) == values(expected),
            false => is_close(found.loss, expected.loss),
        };
        ensure!(same, "epoch {}: {:?} instead of {:?}", expected.epoch, values(found), values(expected));
    }
    Ok(())
}

/// Whether two losses are the same on engines of different numerics.
pub(crate) fn is_close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-3 * expected.abs()
}

/// What of an epoch doesn't depend on the time it took.
fn values(epoch: &Epoch) -> (f64, Option<f64>, Option<f64>, Option<f64>, f64) {
    let Epoch { loss, accuracy, validation_loss, validation_accuracy, learning_rate, .. } = *epoch;
    (loss, accuracy, validation_loss, validation_accuracy, learning_rate)
}

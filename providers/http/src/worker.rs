//! A worker with what it is known to hold; blobs there and back.

use std::{
    collections::HashSet,
    io::Write,
    ops::AddAssign,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use outboard_core::{
    BlobStore, Digest,
    error::{Error, ErrorKind, IoContext, Result, Retry},
};
use outboard_store::{FolderStore, Incoming, Upload};
use tokio::task::spawn_blocking;

use crate::connection::{Connection, goes_on};

/// A blob that would be larger isn't fetched.
const MAX_BLOB_BYTES: u64 = 64 << 30;

/// Blobs that are remembered; past that, the worker is asked anew.
const REMEMBERED: usize = 1 << 16;

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) connection: Connection,
    held: Mutex<HashSet<Digest>>,
    /// Two tasks that need the same blob must not both send it.
    sending: tokio::sync::Mutex<()>,
    /// The last transfer that was cut.
    cut: Mutex<Option<Transfer>>,
    /// As many clones as tasks are on their way there.
    handing: Arc<()>,
}

/// What crossed for a task, and how long that took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) down: Crossed,
    pub(crate) up: Crossed,
}

/// Bytes that crossed, and how long that took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Crossed {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

impl AddAssign for Crossed {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.time += other.time;
    }
}

impl Crossed {
    pub(crate) fn add(&mut self, bytes: u64, began: Instant) {
        self.bytes += bytes;
        self.time += began.elapsed();
    }
}

/// A blob on its way here.
#[derive(Debug)]
struct Transfer {
    digest: Digest,
    incoming: Incoming,
    bytes: u64,
}

impl Worker {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            held: Mutex::default(),
            sending: tokio::sync::Mutex::default(),
            cut: Mutex::default(),
            handing: Arc::default(),
        }
    }

    /// Counts a task as on its way until this is dropped.
    pub(crate) fn hand(&self) -> Arc<()> {
        self.handing.clone()
    }

    /// Tasks on their way there.
    pub(crate) fn handing(&self) -> u32 {
        u32::try_from(Arc::strong_count(&self.handing) - 1).unwrap_or(u32::MAX)
    }

    /// Whether the worker holds the blob, as far as is known or else as it says.
    pub(crate) async fn holds(&self, digest: &Digest) -> Result<bool> {
        if lock(&self.held).contains(digest) {
            return Ok(true);
        }
        let holds = self.connection.has(digest).await?;
        if holds {
            self.remember(digest);
        }
        Ok(holds)
    }

    fn remember(&self, digest: &Digest) {
        let mut held = lock(&self.held);
        if held.len() >= REMEMBERED {
            held.clear();
        }
        held.insert(*digest);
    }

    /// The worker says that it doesn't hold these.
    pub(crate) fn forget(&self, digests: &[Digest]) {
        let mut held = lock(&self.held);
        digests.iter().for_each(|digest| {
            held.remove(digest);
        });
    }

    /// Sends what the worker doesn't hold.
    pub(crate) async fn send(&self, digests: &[Digest], store: &FolderStore) -> Result<Crossed> {
        let _turn = self.sending.lock().await;
        let mut crossed = Crossed::default();
        for digest in digests {
            if !self.holds(digest).await? {
                let began = Instant::now();
                crossed.add(self.put(digest, store).await?, began);
                self.remember(digest);
            }
        }
        Ok(crossed)
    }

    async fn put(&self, digest: &Digest, store: &FolderStore) -> Result<u64> {
        let path = store.path(digest);
        let upload = blocking(move || Upload::open(&path)).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.hint("start the job again"),
            _ => error,
        })?;
        let count = upload.sent.clone();
        match self.connection.put(digest, upload).await {
            Ok(()) => Ok(count.load(Ordering::Relaxed)),
            // Sending damaged bytes again would not help: the store's own error says what does.
            Err(error) if error.kind() == ErrorKind::CorruptPayload => store.get(digest).await.and(Err(error)),
            Err(error) => Err(error),
        }
    }

    /// As [`fetch`](Self::fetch), of a checkpoint that may be overtaken: whether it is here.
    pub(crate) async fn fetch_if_held(
        &self,
        digest: &Digest,
        store: &FolderStore,
        crossed: &mut Crossed,
    ) -> Result<bool> {
        match self.fetch(digest, store, crossed).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WorkerUnhealthy => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Brings a blob into the store, if it isn't there. One that was cut goes on where it stopped.
    pub(crate) async fn fetch(&self, digest: &Digest, store: &FolderStore, crossed: &mut Crossed) -> Result<()> {
        if store.has(digest).await? {
            return Ok(());
        }
        let began = Instant::now();
        let cut = lock(&self.cut).take_if(|cut| cut.digest == *digest);
        let mut transfer = cut.map_or_else(|| Transfer::begin(digest, store), Ok)?;
        let before = transfer.bytes;
        match self.receive(&mut transfer, store).await {
            Ok(()) => {
                crossed.add(transfer.bytes.saturating_sub(before), began);
                blocking(move || transfer.incoming.finish()).await.map_err(|e| self.connection.locate(e))?;
            }
            Err(error) => {
                if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) {
                    *lock(&self.cut) = Some(transfer);
                }
                return Err(error);
            }
        }
        self.remember(digest);
        Ok(())
    }

    async fn receive(&self, transfer: &mut Transfer, store: &FolderStore) -> Result<()> {
        let digest = transfer.digest;
        let reply = self.connection.get(&digest, transfer.bytes).await;
        let mut response = reply.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                let message = "the worker no longer holds a blob that its task came to";
                let error = Error::new(ErrorKind::WorkerUnhealthy, message).with_retry(Retry::Other);
                self.connection
                    .locate(error.at("blob", digest))
                    .hint("look at the worker's disk, and at when it expires results")
            }
            _ => error,
        })?;
        if transfer.bytes > 0 && !goes_on(&response) {
            *transfer = Transfer::begin(&digest, store)?;
        }
        let path = store.path(&digest);
        while let Some(piece) = self.connection.next(&mut response).await? {
            // Into the page cache: shorter than the way to another thread and back.
            transfer.incoming.write_all(&piece).doing("write", &path)?;
            transfer.bytes += piece.len() as u64;
        }
        Ok(())
    }
}

impl Transfer {
    fn begin(digest: &Digest, store: &FolderStore) -> Result<Self> {
        Ok(Self { digest: *digest, incoming: store.receive(digest, MAX_BLOB_BYTES)?, bytes: 0 })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Unexpected, "a thread of the http provider ended early").because(e))?
}

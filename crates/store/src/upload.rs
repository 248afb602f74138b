//! The body of a request, piece by piece.

use std::{
    io::Read,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream;
use outboard_core::error::Result;
use outboard_protocol::Encoding;
use reqwest::Body;
use tokio::sync::mpsc;

use crate::Source;

/// Bytes per piece.
const PIECE: usize = 64 << 10;

/// Pieces that are read ahead.
const AHEAD: usize = 4;

/// A body, and what is known of it.
#[derive(Debug)]
pub struct Upload {
    /// The body.
    pub body: Body,
    /// How it is encoded.
    pub encoding: Encoding,
    /// Bytes of the body, where that is known before its end.
    pub length: Option<u64>,
    /// Bytes handed to the connection so far.
    pub sent: Arc<AtomicU64>,
}

impl Upload {
    /// Opens a blob's file, on this thread; it is read on another one.
    ///
    /// # Errors
    /// `NotFound` where there is no such file.
    pub fn open(path: &Path) -> Result<Self> {
        Source::open(path).map(Self::of)
    }

    /// The rest of a source, which is read on another thread.
    #[must_use]
    pub fn of(source: Source) -> Self {
        let Source { reader, encoding, length } = source;
        let sent = Arc::new(AtomicU64::new(0));
        let (sender, mut pieces) = mpsc::channel(AHEAD);
        let count = sent.clone();
        tokio::task::spawn_blocking(move || pump(reader, &sender, &count));
        let body = Body::wrap_stream(stream::poll_fn(move |context| pieces.poll_recv(context)));
        Self { body, encoding, length, sent }
    }

    /// Bytes that are in memory.
    #[must_use]
    pub fn bytes(bytes: Bytes, encoding: Encoding) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let (length, count) = (Some(bytes.len() as u64), sent.clone());
        let pieces = stream::unfold(bytes, move |mut bytes| {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            count.fetch_add(piece.len() as u64, Ordering::Relaxed);
            std::future::ready((!piece.is_empty()).then_some((Ok::<_, std::io::Error>(piece), bytes)))
        });
        Self { body: Body::wrap_stream(pieces), encoding, length, sent }
    }
}

/// Hands pieces over until the end, an error, or until nobody takes them any more.
fn pump(mut reader: Box<dyn Read + Send>, pieces: &mpsc::Sender<std::io::Result<Bytes>>, sent: &AtomicU64) {
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => Ok(Bytes::copy_from_slice(&buffer[..n])),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => Err(e),
        };
        let (n, is_over) = (piece.as_ref().map_or(0, Bytes::len), piece.is_err());
        if pieces.blocking_send(piece).is_err() || is_over {
            return;
        }
        sent.fetch_add(n as u64, Ordering::Relaxed);
    }
}

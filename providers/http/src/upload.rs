//! A blob's file as the body of a request, piece by piece.

use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use outboard_core::error::{IoContext, Result};
use reqwest::Body;
use tokio::sync::mpsc;

/// Bytes per piece, and bytes from which is seen whether compression pays.
const PIECE: usize = 64 << 10;

/// Pieces that are read ahead.
const AHEAD: usize = 4;

/// Fast: what is saved on the way must not be lost in computing.
const LEVEL: i32 = 1;

/// A body, and what is known of it.
pub(crate) struct Upload {
    pub(crate) body: Body,
    /// Whether the body is compressed.
    pub(crate) is_zstd: bool,
    /// Bytes of the body, where that is known before its end.
    pub(crate) length: Option<u64>,
    /// Bytes handed to the connection so far.
    pub(crate) sent: Arc<AtomicU64>,
}

impl Upload {
    /// Opens the file, on this thread; it is read on another one.
    ///
    /// # Errors
    /// `NotFound` where there is no such file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let read = || -> std::io::Result<_> {
            let mut file = File::open(path)?;
            let length = file.metadata()?.len();
            let is_zstd = pays(&mut file)?;
            let reader: Box<dyn Read + Send> =
                if is_zstd { Box::new(zstd::stream::read::Encoder::new(file, LEVEL)?) } else { Box::new(file) };
            Ok((reader, is_zstd, length))
        };
        let (reader, is_zstd, length) = read().doing("read the blob", path)?;
        let sent = Arc::new(AtomicU64::new(0));
        let (sender, mut pieces) = mpsc::channel(AHEAD);
        let count = sent.clone();
        tokio::task::spawn_blocking(move || pump(reader, &sender, &count));
        let body = Body::wrap_stream(futures_util::stream::poll_fn(move |context| pieces.poll_recv(context)));
        Ok(Self { body, is_zstd, length: (!is_zstd).then_some(length), sent })
    }
}

/// Whether the file's beginning shrinks by a tenth at least.
fn pays(file: &mut File) -> std::io::Result<bool> {
    let mut sample = Vec::with_capacity(PIECE);
    file.take(PIECE as u64).read_to_end(&mut sample)?;
    file.rewind()?;
    Ok(zstd::bulk::compress(&sample, LEVEL)?.len() < sample.len() / 10 * 9)
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

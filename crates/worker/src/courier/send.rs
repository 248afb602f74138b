//! Blobs out of the worker.

use std::{future::Future, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use outboard_core::{
    Digest,
    error::{Error, ErrorKind, Result, Retry},
};
use outboard_protocol::{Encoding, Stored};
use outboard_store::{Source, Upload};
use tokio::{task::spawn_blocking, time::Instant};

use super::Courier;

/// Compressed blobs up to this size are sent as such: a put needs its length beforehand.
const MAX_COMPRESSED: usize = 8 << 20;
/// What S3 takes in one request.
const MAX_PUT: u64 = 5 << 30;
/// Tries in all of what may be tried again.
const TRIES: usize = 5;
/// Bound of the first delay between them.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// No try begins later than this after the first.
const TOTAL: Duration = Duration::from_secs(120);

impl Courier<'_> {
    /// Puts a blob into a slot.
    pub(super) async fn send(&self, digest: Digest, slot: u32) -> Result<Stored> {
        let url = self.grant.out.get(slot as usize);
        let url = url.ok_or_else(|| Error::new(ErrorKind::Unexpected, format!("the grant has no slot {slot}")))?;
        let send = async || {
            let source = self.source(digest).await?;
            let (encoding, bytes) = (source.encoding, source.length.unwrap_or_default());
            self.transfer.put(url, Upload::of(source), Default::default()).await?;
            Ok(Stored { digest, slot, encoding, bytes })
        };
        persist(send).await.map_err(|error: Error| error.at("blob", digest).at("slot", slot))
    }

    /// A blob's bytes, verified, with their number.
    async fn source(&self, digest: Digest) -> Result<Source> {
        let store = self.store.clone();
        let open = spawn_blocking(move || {
            let (length, path) = (store.verify(&digest)?, store.path(&digest));
            let mut source = Source::open(&path)?;
            if source.encoding == Encoding::Zstd {
                let read = |e| Error::invalid(format!("a blob can't be read: {e}"));
                let compressed = source.part(MAX_COMPRESSED).map_err(read)?;
                if compressed.len() < MAX_COMPRESSED {
                    let length = Some(compressed.len() as u64);
                    return Ok(Source { reader: Box::new(std::io::Cursor::new(compressed)), length, ..source });
                }
                source = Source::raw(&path)?;
            }
            if length > MAX_PUT {
                let message = format!("a blob of {length} bytes is larger than what one request carries, {MAX_PUT}");
                return Err(Error::new(ErrorKind::PayloadTooLarge, message));
            }
            Ok(source)
        });
        open.await.map_err(|e| Error::new(ErrorKind::Unexpected, "a thread of the worker ended early").because(e))?
    }
}

/// Tries again what failed with [`Retry::Same`]: a worker has nobody around it who would, and hours of computing to lose.
pub(super) async fn persist<T, F>(call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let delays = ExponentialBuilder::new().with_factor(2.0).with_min_delay(FIRST_DELAY).with_max_times(TRIES - 1);
    let began = Instant::now();
    call.retry(delays)
        .adjust(|error: &Error, bound| {
            let Retry::Same { after } = error.retry() else { return None };
            let delay = after.unwrap_or_default().saturating_add(bound?.mul_f64(fastrand::f64()));
            (began.elapsed().saturating_add(delay) <= TOTAL).then_some(delay)
        })
        .notify(|error, delay| tracing::debug!(?delay, kind = ?error.kind(), "trying again: {error}"))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn only_what_may_help_is_tried_again() {
        let tries = Cell::new(0);
        let fails = |kind: ErrorKind, times: usize| {
            let tries = &tries;
            tries.set(0);
            persist(move || {
                tries.set(tries.get() + 1);
                std::future::ready(if tries.get() > times { Ok(()) } else { Err(Error::new(kind, "no")) })
            })
        };
        fails(ErrorKind::Unavailable, 3).await.unwrap();
        assert_eq!(tries.get(), 4);
        assert!(fails(ErrorKind::Unavailable, 99).await.is_err());
        assert_eq!(tries.get(), TRIES);
        assert!(fails(ErrorKind::PermissionDenied, 99).await.is_err());
        assert_eq!(tries.get(), 1);
    }
}

//! Blobs that travel in a message.

use std::io::{self, Write};

use outboard_core::{
    Digest,
    error::{Error, ErrorKind, IoContext, Result},
};
use outboard_protocol::{Encoding, InlineBlob};

use crate::{FolderStore, Sink, Source};

/// A blob that would be larger isn't unpacked.
const MAX_BLOB_BYTES: u64 = 1 << 30;

/// A blob of the folder, verified, compressed where that pays, of at most `limit` bytes then. On this thread.
///
/// # Errors
/// `NotFound` and `CorruptPayload` where the folder lacks the blob or its file was damaged; `PayloadTooLarge`.
pub fn pack(store: &FolderStore, digest: &Digest, limit: usize) -> Result<InlineBlob> {
    let locate = |error: Error| error.at("blob", digest);
    store.verify(digest).map_err(locate)?;
    let path = store.path(digest);
    let mut source = Source::open(&path).map_err(locate)?;
    let encoding = source.encoding;
    let data = source.part(limit.saturating_add(1)).doing("read the blob", &path)?;
    if data.len() > limit {
        let message = format!("the blobs of a task are larger than the {limit} bytes that travel without a store");
        return Err(locate(Error::new(ErrorKind::PayloadTooLarge, message).hint("configure a store: `[store] url`")));
    }
    Ok(InlineBlob { digest: *digest, encoding, data })
}

/// Puts a blob that came in a message into the folder, verified, unless it is there already. On this thread.
///
/// # Errors
/// `CorruptPayload` where the bytes aren't what the digest says; `InvalidRequest` where there is no room.
pub fn unpack(store: &FolderStore, blob: &InlineBlob) -> Result<()> {
    let InlineBlob { digest, encoding, data } = blob;
    if store.verify(digest).is_ok() && store.renew(digest).unwrap_or(false) {
        return Ok(());
    }
    let unpacked = || -> io::Result<_> {
        let incoming = store.receive(digest, MAX_BLOB_BYTES).map_err(io::Error::other)?;
        let mut sink = Sink::new(incoming, *encoding)?;
        sink.write_all(data)?;
        sink.finish()
    };
    let is_compressed = *encoding == Encoding::Zstd;
    let incoming = unpacked().map_err(|e| match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::PermissionDenied => {
            Error::invalid(format!("a blob can't be written: {e}")).hint("free some space")
        }
        _ if is_compressed => Error::new(ErrorKind::CorruptPayload, format!("a blob can't be decompressed: {e}")),
        _ => Error::invalid(format!("a blob can't be written: {e}")),
    });
    incoming.and_then(crate::Incoming::finish).map(drop).map_err(|error| error.at("blob", digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_packed_and_verified() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [here, there] = [0, 1].map(|n: usize| FolderStore::open(folders[n].path()).unwrap());
        for (bytes, encoding) in [(b"abc".repeat(10_000), Encoding::Zstd), (b"abc".to_vec(), Encoding::Raw)] {
            let digest = here.write(&bytes).unwrap();
            let mut blob = pack(&here, &digest, 20_000).unwrap();
            assert_eq!(blob.encoding, encoding);
            unpack(&there, &blob).unwrap();
            assert_eq!(there.read(&digest).unwrap(), bytes);
            // A file that was damaged there is mended.
            std::fs::write(there.path(&digest), "damaged").unwrap();
            unpack(&there, &blob).unwrap();
            assert_eq!(there.read(&digest).unwrap(), bytes);
            there.remove(&digest).unwrap();
            let n = blob.data.len();
            blob.data[n / 2] ^= 1;
            assert_eq!(unpack(&there, &blob).unwrap_err().kind(), ErrorKind::CorruptPayload);
            assert!(there.read(&digest).is_err());
        }
        let digest = here.write(b"abc").unwrap();
        assert_eq!(pack(&here, &digest, 2).unwrap_err().kind(), ErrorKind::PayloadTooLarge);
        assert!(pack(&here, &digest, 3).is_ok());
        assert_eq!(pack(&here, &Digest::of(b"?"), 3).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

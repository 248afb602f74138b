//! A blob on its way in: written piece by piece, verified, then put in its place.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use outboard_core::{
    Digest,
    error::{Error, ErrorKind, IoContext, Result},
};

use crate::FolderStore;

/// A blob of which not all bytes are here yet. Dropped before its end, it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    /// If it was known beforehand.
    digest: Option<Digest>,
    blobs: PathBuf,
    temporary: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    left: u64,
    limit: u64,
}

impl FolderStore {
    /// Begins to take the blob of this digest, of at most `limit` bytes.
    ///
    /// # Errors
    /// `InvalidRequest` where no file can be created.
    pub fn receive(&self, digest: &Digest, limit: u64) -> Result<Incoming> {
        self.incoming(Some(*digest), limit)
    }

    /// Begins to take a blob whose digest isn't known yet.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn create(&self) -> Result<Incoming> {
        self.incoming(None, u64::MAX)
    }

    fn incoming(&self, digest: Option<Digest>, limit: u64) -> Result<Incoming> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Two may send the same blob at once.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = digest.map_or("blob".to_string(), |digest| digest.to_string());
        let temporary = self.blobs().join(format!(".{name}.{}.{count}.new", std::process::id()));
        let file = File::create(&temporary).doing("write", &temporary)?;
        let blobs = self.blobs().to_path_buf();
        Ok(Incoming { digest, blobs, temporary, file, hasher: blake3::Hasher::new(), left: limit, limit })
    }
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            let message = format!("the blob is larger than {} bytes", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let written = self.file.write(bytes)?;
        self.left -= written as u64;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Incoming {
    /// Adds bytes to the blob.
    ///
    /// # Errors
    /// `InvalidRequest` where there is no room.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).doing("write", &self.temporary)
    }

    /// The blob is complete: verifies it and puts it in its place, durably.
    ///
    /// # Errors
    /// `CorruptPayload` where the bytes don't match the digest, `InvalidRequest` where there is no room.
    pub fn finish(self) -> Result<Digest> {
        let found = Digest::from(self.hasher.finalize());
        if let Some(digest) = self.digest.filter(|digest| *digest != found) {
            return Err(Error::new(ErrorKind::CorruptPayload, "the bytes do not match their digest")
                .at("blob", digest)
                .hint("send them again"));
        }
        let path = self.blobs.join(found.to_string());
        self.file.sync_all().doing("write", &self.temporary)?;
        fs::rename(&self.temporary, &path).doing("write", &path)?;
        File::open(&self.blobs).and_then(|folder| folder.sync_all()).doing("write", &self.blobs)?;
        Ok(found)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone already where it was put in its place.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_bytes_arrive_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        let digest = Digest::of(b"weights");
        let files = || fs::read_dir(folder.path().join("blobs")).unwrap().count();

        let mut wrong = store.receive(&digest, 100).unwrap();
        wrong.write_all(b"weighty").unwrap();
        assert_eq!(wrong.finish().unwrap_err().kind(), ErrorKind::CorruptPayload);
        let mut large = store.receive(&digest, 6).unwrap();
        assert_eq!(large.write_all(b"weights").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        drop(large);
        assert_eq!(files(), 0);

        let mut two = [store.receive(&digest, 7).unwrap(), store.receive(&digest, 7).unwrap()];
        for part in ["wei", "ghts"] {
            two.iter_mut().for_each(|one| one.write_all(part.as_bytes()).unwrap());
        }
        two.into_iter().for_each(|one| assert_eq!(one.finish().unwrap(), digest));
        assert_eq!((files(), store.read(&digest).unwrap()), (1, b"weights".to_vec()));

        let mut another = store.create().unwrap();
        ["more ", "weights"].iter().for_each(|part| another.add(part.as_bytes()).unwrap());
        assert_eq!(files(), 2);
        assert_eq!(another.finish().unwrap(), Digest::of(b"more weights"));
        drop(store.create().unwrap());
        assert_eq!(files(), 2);
    }
}

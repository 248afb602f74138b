//! A store in a folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use outboard_core::{
    BlobStore, Digest,
    error::{Error, ErrorKind, IoContext, Result, Retry},
};

use crate::{
    Scratch, atomic,
    mapped::{self, Order},
};

/// Blobs as files, `blobs/DIGEST`. Several processes may share one.
#[derive(Clone, Debug)]
pub struct FolderStore {
    blobs: PathBuf,
}

impl FolderStore {
    /// The store in `folder`, which is created if need be.
    ///
    /// # Errors
    /// `InvalidRequest` where the folder can't be created.
    pub fn open(folder: &Path) -> Result<Self> {
        let blobs = folder.join("blobs");
        atomic::create_folder(&blobs)?;
        Ok(Self { blobs })
    }

    /// The folder that the store is in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.blobs.parent().unwrap_or(&self.blobs)
    }

    /// For what is too large for memory while it becomes a blob.
    #[must_use]
    pub fn scratch(&self) -> Scratch {
        Scratch::new(&self.blobs)
    }

    /// The file of a blob, whether it is there or not.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.to_string())
    }

    /// The folder of the blobs' files.
    pub(crate) fn blobs(&self) -> &Path {
        &self.blobs
    }

    /// The blob's bytes, verified, on this thread.
    ///
    /// # Errors
    /// `NotFound`; `CorruptPayload` where the bytes don't match the digest.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let bytes = fs::read(&path).doing("read the blob", &path).map_err(lost)?;
        if Digest::of(&bytes) != *digest {
            return Err(damaged(&path));
        }
        Ok(bytes)
    }

    /// The blob's bytes, verified, where they lie in its file, to be looked at in any order: they may be more than memory
    /// holds. On this thread.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn map(&self, digest: &Digest) -> Result<Bytes> {
        let path = self.path(digest);
        let file = self.verified(digest)?;
        mapped::map(&file, Order::Random).doing("map the blob", &path)
    }

    /// Whether the file is the blob, without holding it in memory; its size. On this thread.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn verify(&self, digest: &Digest) -> Result<u64> {
        let file = self.verified(digest)?;
        file.metadata().map(|facts| facts.len()).doing("read the blob", &self.path(digest))
    }

    /// The blob's file, which was read to its end.
    fn verified(&self, digest: &Digest) -> Result<fs::File> {
        let path = self.path(digest);
        let read = || {
            let mut hasher = blake3::Hasher::new();
            let file = fs::File::open(&path)?;
            hasher.update_reader(&file)?;
            Ok((file, hasher.finalize()))
        };
        let (file, hash) = read().doing("read the blob", &path).map_err(lost)?;
        if Digest::from(hash) != *digest {
            return Err(damaged(&path));
        }
        Ok(file)
    }

    /// Stores `bytes` durably, whole or not at all, on this thread.
    ///
    /// # Errors
    /// `InvalidRequest` where there is no room.
    pub fn write(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let path = self.path(&digest);
        // A file that is there may be damaged; writing it again mends it. A whole one becomes young again.
        if self.verify(&digest).is_err() || !self.renew(&digest).unwrap_or(false) {
            atomic::write(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Makes a blob as young as if it were stored now; whether it is there.
    ///
    /// # Errors
    /// `InvalidRequest` where the file can't be touched.
    pub fn renew(&self, digest: &Digest) -> Result<bool> {
        let path = self.path(digest);
        match fs::File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now())) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e).doing("touch the blob", &path),
        }
    }

    /// Removes the blobs that were neither stored nor renewed for `age`; how many.
    ///
    /// # Errors
    /// `InvalidRequest` where blobs can't be listed or removed.
    pub fn expire(&self, age: Duration) -> Result<usize> {
        let old: Vec<_> = self.list()?.into_iter().filter(|(_, _, passed)| *passed >= age).collect();
        old.iter().try_for_each(|(digest, ..)| self.remove(digest))?;
        Ok(old.len())
    }

    /// Removes what writers that were killed left half-written, once it is `age` old; how many files.
    ///
    /// # Errors
    /// `InvalidRequest` where files can't be listed or removed.
    pub fn sweep(&self, age: Duration) -> Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.blobs).doing("list", &self.blobs)?.flatten() {
            let is_temporary = entry.file_name().to_str().is_some_and(|n| n.starts_with('.') && n.ends_with(".new"));
            let passed = entry.metadata().and_then(|facts| facts.modified()).map(|at| at.elapsed().unwrap_or_default());
            // One that is gone meanwhile was finished.
            if is_temporary && passed.is_ok_and(|passed| passed >= age) && fs::remove_file(entry.path()).is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes a blob, if it is there.
    ///
    /// # Errors
    /// `InvalidRequest` where it can't be removed.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.doing("remove the blob", &path),
        }
    }

    /// Every blob with its size and the time since it was last stored.
    ///
    /// # Errors
    /// `InvalidRequest` where the folder can't be listed.
    pub fn list(&self) -> Result<Vec<(Digest, u64, Duration)>> {
        let entries = fs::read_dir(&self.blobs).doing("list", &self.blobs)?;
        let blob = |entry: fs::DirEntry| {
            let (digest, facts) = (entry.file_name().to_str()?.parse().ok()?, entry.metadata().ok()?);
            Some((digest, facts.len(), facts.modified().ok()?.elapsed().unwrap_or_default()))
        };
        Ok(entries.flatten().filter_map(blob).collect())
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|e| Error::new(ErrorKind::Unexpected, "the store's thread ended early").because(e))?
    }
}

fn lost(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => error.hint("start the job again"),
        _ => error,
    }
}

fn damaged(path: &Path) -> Error {
    Error::new(ErrorKind::CorruptPayload, "a blob does not match its digest: the file was damaged")
        .with_retry(Retry::Never)
        .at("file", path.display())
        .hint("start the job again")
}

#[async_trait]
impl BlobStore for FolderStore {
    async fn has(&self, digest: &Digest) -> Result<bool> {
        let path = self.path(digest);
        self.blocking(move |_| path.try_exists().doing("look for the blob", &path)).await
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes> {
        let digest = *digest;
        self.blocking(move |store| store.read(&digest)).await.map(Bytes::from)
    }

    async fn put(&self, bytes: Bytes) -> Result<Digest> {
        self.blocking(move |store| store.write(&bytes)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_back_what_it_was_given_and_notices_damage() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        let digest = store.put(Bytes::from_static(b"weights")).await.unwrap();
        assert_eq!(store.put(Bytes::from_static(b"weights")).await.unwrap(), digest);
        assert!(store.has(&digest).await.unwrap());
        assert_eq!(store.get(&digest).await.unwrap(), "weights");

        fs::write(store.path(&digest), b"weighty").unwrap();
        assert_eq!(store.get(&digest).await.unwrap_err().kind(), ErrorKind::CorruptPayload);
        assert_eq!(store.verify(&digest).unwrap_err().kind(), ErrorKind::CorruptPayload);
        assert_eq!(store.map(&digest).unwrap_err().kind(), ErrorKind::CorruptPayload);

        store.write(b"weights").unwrap();
        assert_eq!(store.get(&digest).await.unwrap(), "weights");
        assert_eq!(store.verify(&digest).unwrap(), 7);
        let mapped = store.map(&digest).unwrap();
        store.remove(&digest).unwrap();
        assert_eq!(store.map(&digest).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(mapped, "weights");
        let nothing = store.write(b"").unwrap();
        assert_eq!(store.map(&nothing).unwrap(), "");
        store.remove(&nothing).unwrap();
        store.write(b"weights").unwrap();

        assert_eq!(store.expire(Duration::from_secs(60)).unwrap(), 0);
        assert!(store.renew(&digest).unwrap());
        fs::write(folder.path().join("blobs").join(format!(".{digest}.1.0.new")), b"wei").unwrap();
        assert_eq!(store.sweep(Duration::from_secs(60)).unwrap(), 0);
        assert_eq!((store.sweep(Duration::ZERO).unwrap(), store.sweep(Duration::ZERO).unwrap()), (1, 0));
        assert!(store.has(&digest).await.unwrap());

        assert_eq!(store.expire(Duration::ZERO).unwrap(), 1);
        assert!(!store.renew(&digest).unwrap());
        store.remove(&digest).unwrap();
        assert!(!store.has(&digest).await.unwrap());
        assert_eq!(store.get(&digest).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

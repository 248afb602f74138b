//! Records of tasks: who runs one, what happened so far, what came of it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use outboard_core::{
    Digest,
    error::{Error, ErrorKind, IoContext, Result},
};

use crate::atomic;

/// A record is refused beyond this many bytes, before anything is allocated for it.
pub const MAX_RECORD_BYTES: u64 = 64 << 20;

/// Records as files, `tasks/DIGEST_OF_KEY/{lease,progress,result}`.
#[derive(Clone, Debug)]
pub struct Records {
    tasks: PathBuf,
}

impl Records {
    /// The records in the store in `folder`, which is created if need be.
    ///
    /// # Errors
    /// `InvalidRequest` where the folder can't be created.
    pub fn open(folder: &Path) -> Result<Self> {
        let tasks = folder.join("tasks");
        atomic::create_folder(&tasks)?;
        Ok(Self { tasks })
    }

    fn path(&self, key: &str, record: &str) -> PathBuf {
        self.tasks.join(Digest::of(key.as_bytes()).to_string()).join(record)
    }

    /// Takes the lease of a task: true for exactly one of all who try. `holder` says who.
    ///
    /// # Errors
    /// `InvalidRequest` where the record can't be written.
    pub fn lease(&self, key: &str, holder: &[u8]) -> Result<bool> {
        let path = self.path(key, "lease");
        atomic::create_folder(path.parent().unwrap_or(&self.tasks))?;
        // Not synced: a power failure that loses the lease ends its holder too.
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            opened => opened.and_then(|mut file| file.write_all(holder)).doing("write", &path).map(|()| true),
        }
    }

    /// What the holder of the lease wrote, if anyone took it.
    ///
    /// # Errors
    /// `InvalidRequest` where the record can't be read.
    pub fn holder(&self, key: &str) -> Result<Option<Vec<u8>>> {
        read(&self.path(key, "lease"))
    }

    /// The file to which whoever holds the lease adds what happens.
    ///
    /// # Errors
    /// `InvalidRequest` where it can't be opened.
    pub fn progress_file(&self, key: &str) -> Result<File> {
        let path = self.path(key, "progress");
        OpenOptions::new().append(true).create(true).open(&path).doing("write", &path)
    }

    /// What happened so far; the end may be torn. Empty where nothing was noted.
    ///
    /// # Errors
    /// `InvalidRequest` where the record can't be read.
    pub fn progress(&self, key: &str) -> Result<Vec<u8>> {
        Ok(read(&self.path(key, "progress"))?.unwrap_or_default())
    }

    /// Writes the result, durably, whole or not at all.
    ///
    /// # Errors
    /// `InvalidRequest` where the record can't be written.
    pub fn finish(&self, key: &str, result: &[u8]) -> Result<()> {
        atomic::write(&self.path(key, "result"), result)
    }

    /// The result, if there is one.
    ///
    /// # Errors
    /// `InvalidRequest` where the record can't be read.
    pub fn result(&self, key: &str) -> Result<Option<Vec<u8>>> {
        read(&self.path(key, "result"))
    }

    /// Forgets a task.
    ///
    /// # Errors
    /// `InvalidRequest` where its records can't be removed.
    pub fn remove(&self, key: &str) -> Result<()> {
        remove(&self.tasks.join(Digest::of(key.as_bytes()).to_string()))
    }

    /// Forgets the tasks in which nothing was written for `age`, but for those of which `keep` holds, by the digest of
    /// their key. Returns how many.
    ///
    /// # Errors
    /// `InvalidRequest` where records can't be listed or removed.
    pub fn expire(&self, age: Duration, keep: impl Fn(&Digest) -> bool) -> Result<usize> {
        let mut removed = 0;
        for folder in fs::read_dir(&self.tasks).doing("list", &self.tasks)?.flatten() {
            let digest = folder.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(digest) = digest else { continue };
            if !keep(&digest) && is_older(&folder.path(), age) {
                remove(&folder.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn is_older(folder: &Path, age: Duration) -> bool {
    let changed = ["lease", "progress", "result"].map(|record| fs::metadata(folder.join(record))?.modified());
    let newest = changed.into_iter().flatten().max();
    newest.is_none_or(|time| SystemTime::now().duration_since(time).is_ok_and(|passed| passed >= age))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.doing("remove", folder),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.doing("read", path)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes).doing("read", path)?;
    if bytes.len() as u64 > MAX_RECORD_BYTES {
        let message = format!("the record {} is larger than {MAX_RECORD_BYTES} bytes", path.display());
        return Err(Error::new(ErrorKind::PayloadTooLarge, message));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn one_of_many_contenders_gets_the_lease() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        for round in 0..20 {
            let (key, barrier) = (format!("job/{round}"), Barrier::new(16));
            let winners: Vec<usize> = std::thread::scope(|scope| {
                let contenders: Vec<_> = (0..16)
                    .map(|me: usize| {
                        let (records, key, barrier) = (&records, &key, &barrier);
                        scope.spawn(move || {
                            barrier.wait();
                            records.lease(key, me.to_string().as_bytes()).unwrap().then_some(me)
                        })
                    })
                    .collect();
                contenders.into_iter().filter_map(|contender| contender.join().unwrap()).collect()
            });
            let [winner] = winners[..] else { panic!("{winners:?}") };
            assert_eq!(records.holder(&key).unwrap().unwrap(), winner.to_string().as_bytes());
        }
    }

    #[test]
    fn a_record_is_kept_until_it_is_removed_or_expires() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        assert_eq!((records.holder("k").unwrap(), records.result("k").unwrap()), (None, None));
        assert_eq!(records.progress("k").unwrap(), b"");
        for key in ["k", "../k/#1"] {
            assert!(records.lease(key, b"me").unwrap());
            assert!(!records.lease(key, b"you").unwrap());
            records.progress_file(key).unwrap().write_all(b"a\n").unwrap();
            records.progress_file(key).unwrap().write_all(b"b\n").unwrap();
            records.finish(key, b"done").unwrap();
            assert_eq!(records.progress(key).unwrap(), b"a\nb\n");
            assert_eq!(records.result(key).unwrap().unwrap(), b"done");
        }
        assert_eq!(records.expire(Duration::from_secs(60), |_| false).unwrap(), 0);
        assert_eq!(records.expire(Duration::ZERO, |digest| *digest == Digest::of(b"k")).unwrap(), 1);
        assert_eq!(records.result("../k/#1").unwrap(), None);
        records.remove("k").unwrap();
        records.remove("k").unwrap();
        assert!(records.lease("k", b"you").unwrap());
    }
}

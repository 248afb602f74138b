//! Files that are replaced whole: whoever is killed half-way, or whose disk fills up, leaves the old one as it was.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use outboard_core::error::{IoContext, Result};

/// Writes `bytes` to `path`, durably, whole or not at all.
///
/// # Errors
/// `InvalidRequest` where the file can't be written; the old one is untouched then.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    // Beside the file, since a rename can't cross file systems; with a name of its own, since several processes and
    // threads may write the same blob.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let write = WRITES.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!(".{name}.{}.{write}.new", std::process::id()));
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The rename itself is durable once its folder is.
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.doing("write", path)
}

/// Creates a folder and those above it.
///
/// # Errors
/// `InvalidRequest` where that's not possible.
pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).doing("create the folder", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn several_threads_may_write_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..50).for_each(|_| write(&path, b"the same").unwrap()));
            }
        });
        assert_eq!(fs::read(&path).unwrap(), b"the same");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_names_the_path_and_keeps_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/state");
        let error = write(&path, b"new").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}: no such file or folder", path.display()));
        fs::create_dir_all(folder.path().join("state/full")).unwrap();
        assert!(write(&folder.path().join("state"), b"new").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

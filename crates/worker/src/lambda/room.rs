//! Blobs that stay from one invocation to the next, within bounds.

use std::path::Path;

use outboard_core::{Digest, error::Result};
use outboard_machine::disk;
use outboard_store::FolderStore;

/// What blobs may take of the disk, beside the room that the next task's need.
const SHARE: u64 = 2;

/// The bytes that blobs in `folder` may take: half of its disk.
pub(super) fn room(folder: &Path) -> u64 {
    disk::room(folder).map_or(0, |disk| disk.total / SHARE)
}

/// Removes the blobs that were stored longest ago, but for those in `keep`, until the rest takes `room` bytes at most.
pub(super) fn tidy(store: &FolderStore, room: u64, keep: &[Digest]) -> Result<()> {
    let mut blobs = store.list()?;
    let mut taken: u64 = blobs.iter().map(|(_, bytes, _)| bytes).sum();
    blobs.retain(|(digest, ..)| !keep.contains(digest));
    blobs.sort_by_key(|(.., age)| std::cmp::Reverse(*age));
    for (digest, bytes, _) in blobs {
        if taken <= room {
            break;
        }
        store.remove(&digest)?;
        taken -= bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        time::{Duration, SystemTime},
    };

    use super::*;

    #[test]
    fn the_oldest_blobs_make_room_and_the_tasks_own_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        let blobs = [b"aaaa", b"bbbb", b"cccc"].map(|bytes| store.write(bytes).unwrap());
        for (age, digest) in [30, 20, 10].into_iter().zip(&blobs) {
            let file = File::options().append(true).open(store.path(digest)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        let here = || blobs.each_ref().map(|digest| store.path(digest).exists());
        tidy(&store, 12, &[]).unwrap();
        assert_eq!(here(), [true, true, true]);
        tidy(&store, 8, &blobs[..1]).unwrap();
        assert_eq!(here(), [true, false, true]);
        tidy(&store, 0, &[]).unwrap();
        assert_eq!(here(), [false, false, false]);
        assert!(room(folder.path()) > 0);
    }
}

//! How much room file systems have.

use std::path::Path;

/// Bytes of a file system.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// What programs may still take.
    pub free: u64,
    /// The size of it.
    pub total: u64,
}

/// The room of the file system that `folder` is on; none where the system doesn't tell.
#[cfg(unix)]
#[must_use]
pub fn room(folder: &Path) -> Option<Room> {
    let about = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(about.f_frsize);
    Some(Room { free: bytes(about.f_bavail), total: bytes(about.f_blocks) })
}

/// The room of the file system that `folder` is on; none where the system doesn't tell.
#[cfg(not(unix))]
#[must_use]
pub fn room(_: &Path) -> Option<Room> {
    None
}

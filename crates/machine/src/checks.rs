//! What tasks need of the machine that they run on. The worker for PyTorch makes the same checks, by the same codes and
//! bounds, in `preflight.py`.

use std::path::Path;

use outboard_core::{
    code::{self, Code},
    finding::Finding,
};

use crate::{
    disk::{Room, room},
    memory::{free, size},
};

const MIB: u64 = 1 << 20;
/// Below the first a run has little hope, below the second a poor one.
const MEMORY: (u64, u64) = (256 * MIB, 1024 * MIB);
const DISK: (u64, u64) = (100 * MIB, 1024 * MIB);

/// Whether memory is left, of the machine's and of the container's.
#[must_use]
pub fn memory() -> Finding {
    match free() {
        Some(free) => amount(code::MEMORY, "this machine", free, MEMORY, "memory", "give it more memory"),
        None => Finding::pass(code::MEMORY, "this machine", "the free memory isn't known here"),
    }
}

/// Whether the disk under `folder`, which must be there, has room.
#[must_use]
pub fn disk(folder: &Path) -> Finding {
    let of = folder.display().to_string();
    match room(folder) {
        Some(Room { free, .. }) => {
            let remedy = "free some space (`outboard gc` removes what no job needs), or take a larger disk";
            amount(code::DISK, &of, free, DISK, "disk", remedy)
        }
        None => Finding::pass(code::DISK, of, "the free space isn't known here"),
    }
}

fn amount(code: Code, of: &str, free: u64, (least, enough): (u64, u64), what: &str, remedy: &str) -> Finding {
    let size = size(free);
    match free {
        free if free < least => Finding::fail(code, of, format!("{size} of {what} are all that is free"), remedy),
        free if free < enough => Finding::warn(code, of, format!("{size} of {what} are all that is free"), remedy),
        _ => Finding::pass(code, of, format!("{size} of {what} are free")),
    }
}

#[cfg(test)]
mod tests {
    use outboard_core::finding::Verdict;

    use super::*;

    #[test]
    fn little_is_told_and_too_little_fails() {
        let verdict = |free| amount(code::DISK, "/a", free, DISK, "disk", "free some").verdict;
        assert_eq!(
            [99, 100, 1023, 1024].map(|mib| verdict(mib * MIB)),
            [Verdict::Fail, Verdict::Warn, Verdict::Warn, Verdict::Pass]
        );
        let found = amount(code::DISK, "/a", 1536 * MIB, DISK, "disk", "free some");
        assert_eq!((found.evidence.as_str(), found.remedy), ("1.5 GiB of disk are free", None));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells_both() {
        assert!(memory().evidence.contains(" of memory are"), "{:?}", memory());
        let folder = std::env::temp_dir();
        assert!(disk(&folder).evidence.contains(" of disk are"), "{:?}", disk(&folder));
    }
}

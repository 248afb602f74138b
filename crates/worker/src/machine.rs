//! What tasks need of the machine that they run on. The worker for PyTorch makes the same checks, by the same codes and
//! bounds, in `preflight.py`.

use std::{fs, path::Path};

use outboard_core::{
    code::{self, Code},
    finding::Finding,
};

use crate::memory::kilobytes;

const MIB: u64 = 1 << 20;
/// The line of `/proc/meminfo` with what programs can still have.
const AVAILABLE: &str = "MemAvailable:";
/// Below the first a run has little hope, below the second a poor one.
const MEMORY: (u64, u64) = (256 * MIB, 1024 * MIB);
const DISK: (u64, u64) = (100 * MIB, 1024 * MIB);

/// Whether memory is left, of the machine's and of the container's.
#[must_use]
pub fn memory() -> Finding {
    match free_memory() {
        Some(free) => amount(code::MEMORY, "this machine", free, MEMORY, "memory", "give it more memory"),
        None => Finding::pass(code::MEMORY, "this machine", "the free memory isn't known here"),
    }
}

/// Whether the disk under `folder`, which must be there, has room.
#[must_use]
pub fn disk(folder: &Path) -> Finding {
    let of = folder.display().to_string();
    match free_disk(folder) {
        Some(free) => {
            let remedy = "free some space (`outboard gc` removes what no job needs), or take a larger disk";
            amount(code::DISK, &of, free, DISK, "disk", remedy)
        }
        None => Finding::pass(code::DISK, of, "the free space isn't known here"),
    }
}

fn amount(code: Code, of: &str, free: u64, (least, enough): (u64, u64), what: &str, remedy: &str) -> Finding {
    let size = match free {
        gib if gib >= 1024 * MIB => format!("{:.1} GiB", gib as f64 / (1024.0 * MIB as f64)),
        mib => format!("{} MiB", mib / MIB),
    };
    match free {
        free if free < least => Finding::fail(code, of, format!("{size} of {what} are all that is free"), remedy),
        free if free < enough => Finding::warn(code, of, format!("{size} of {what} are all that is free"), remedy),
        _ => Finding::pass(code, of, format!("{size} of {what} are free")),
    }
}

/// As Linux tells it; version 2 of control groups says `max` where there is no limit.
fn free_memory() -> Option<u64> {
    const GROUPS: [[&str; 3]; 2] = [
        ["memory.max", "memory.current", "memory.stat"],
        ["memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"],
    ];
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, AVAILABLE));
    let left = GROUPS.map(|names| {
        let [limit, used, stat] = names.map(|name| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok());
        Some(limit?.trim().parse::<u64>().ok()?.saturating_sub(in_use(&used?, &stat.unwrap_or_default())?))
    });
    machine.into_iter().chain(left.into_iter().flatten()).min()
}

/// What a control group uses, but for the files that are kept as long as nothing else needs the memory.
fn in_use(used: &str, stat: &str) -> Option<u64> {
    let kept = ["inactive_file ", "total_inactive_file "].into_iter();
    let kept = kept.filter_map(|name| stat.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok())).max();
    Some(used.trim().parse::<u64>().ok()?.saturating_sub(kept.unwrap_or_default()))
}

#[cfg(unix)]
fn free_disk(folder: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(folder).ok()?;
    Some(about.f_bavail.saturating_mul(about.f_frsize))
}

#[cfg(not(unix))]
fn free_disk(_: &Path) -> Option<u64> {
    None
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
    fn the_system_tells_both() {
        assert_eq!(kilobytes("MemTotal:  2048 kB\nMemAvailable:    1024 kB\n", AVAILABLE), Some(1 << 20));
        assert_eq!(kilobytes("MemTotal: 1 kB", AVAILABLE), None);
        assert_eq!(in_use("1000\n", "anon 700\ninactive_file 300\n"), Some(700));
        assert_eq!(in_use("1000\n", "inactive_file 0\ntotal_inactive_file 400\n"), Some(600));
        assert_eq!((in_use("1000\n", ""), in_use("max", "")), (Some(1000), None));
        if cfg!(target_os = "linux") {
            assert!(free_memory().is_some_and(|free| free > 0));
            assert!(free_disk(&std::env::temp_dir()).is_some());
        }
    }
}

//! Memory: what there is, what a control group allows, whom the kernel killed.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The line of `/proc/meminfo` with what programs can still have.
const AVAILABLE: &str = "MemAvailable:";
const TOTAL: &str = "MemTotal:";

/// The folder of this process's group of processes, whose memory is counted together.
#[must_use]
pub fn group(root: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let path = |matches: fn(&str) -> bool| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            matches(controllers).then(|| path.trim_start_matches('/'))
        })
    };
    let top = root.join("sys/fs/cgroup");
    let of_version_1 = path(|controllers| controllers.split(',').any(|one| one == "memory"));
    let folders = [of_version_1.map(|path| (top.join("memory"), path)), path(str::is_empty).map(|path| (top, path))];
    // In a container its own group may be at the top, whatever its path says.
    let folders = folders.into_iter().flatten().flat_map(|(top, path)| [top.join(path), top]);
    folders.into_iter().find(|folder| kills(folder).is_some())
}

/// How many processes of a group the kernel has killed for memory.
#[must_use]
pub fn kills(group: &Path) -> Option<u64> {
    ["memory.events", "memory.oom_control"].iter().find_map(|name| {
        let text = fs::read_to_string(group.join(name)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    })
}

/// The machine's memory, in bytes.
#[must_use]
pub fn total(root: &Path) -> Option<u64> {
    fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| kilobytes(&text, TOTAL))
}

/// The memory that processes here may take, in bytes.
#[must_use]
pub fn limit(root: &Path, group: Option<&Path>) -> Option<u64> {
    // Version 2 says `max` where there is none, version 1 gives a huge number.
    let of_group = ["memory.max", "memory.limit_in_bytes"]
        .iter()
        .find_map(|name| fs::read_to_string(group?.join(name)).ok()?.trim().parse().ok());
    total(root).into_iter().chain(of_group).min()
}

/// The value in bytes of a line such as `VmHWM:  12 kB`.
#[must_use]
pub fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The memory that programs can still have, in bytes.
#[must_use]
pub fn free() -> Option<u64> {
    const GROUPS: [[&str; 3]; 2] = [
        ["memory.max", "memory.current", "memory.stat"],
        ["memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"],
    ];
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, AVAILABLE));
    // Version 2 says `max` where there is no limit.
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

/// Bytes, for people.
#[must_use]
pub fn size(bytes: u64) -> String {
    let mib = bytes as f64 / (1024.0 * 1024.0);
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    #[test]
    fn the_group_that_counts_is_found_in_both_versions() {
        let meminfo = ("proc/meminfo", "MemTotal:       67108864 kB\nMemFree: 1 kB\n");
        let cases = [
            ("0::/a/b\n", "sys/fs/cgroup/a/b", "memory.events", "memory.max"),
            // In a container.
            ("0::/kubepods/x\n", "sys/fs/cgroup", "memory.events", "memory.max"),
            (
                "9:pids:/\n4:cpu,memory:/docker/7\n0::/\n",
                "sys/fs/cgroup/memory/docker/7",
                "memory.oom_control",
                "memory.limit_in_bytes",
            ),
        ];
        for (about, folder, events, most) in cases {
            let (events, most) = (format!("{folder}/{events}"), format!("{folder}/{most}"));
            let root = tree(&[
                meminfo,
                ("proc/self/cgroup", about),
                (&events, "low 0\noom 3\noom_kill 2\n"),
                (&most, "17179869184\n"),
            ]);
            let found = group(root.path()).unwrap();
            assert_eq!(found, root.path().join(folder), "{about}");
            assert_eq!(kills(&found), Some(2));
            assert_eq!(limit(root.path(), Some(&found)), Some(16 << 30));
            fs::write(root.path().join(&most), "max\n").unwrap();
            assert_eq!(limit(root.path(), Some(&found)), Some(64 << 30));
        }
        assert_eq!(group(tree(&[meminfo]).path()), None);
        assert_eq!(limit(tree(&[]).path(), None), None);
    }

    #[test]
    fn sizes_are_shown() {
        assert_eq!(size(2 << 20), "2 MiB");
        assert_eq!(size(15 << 30 | 820 << 20), "15.8 GiB");
    }

    #[test]
    fn the_system_tells_what_is_free() {
        assert_eq!(kilobytes("MemTotal:  2048 kB\nMemAvailable:    1024 kB\n", AVAILABLE), Some(1 << 20));
        assert_eq!(kilobytes("MemTotal: 1 kB", AVAILABLE), None);
        assert_eq!(kilobytes("VmHWM:\t many kB\n", "VmHWM:"), None);
        assert_eq!(in_use("1000\n", "anon 700\ninactive_file 300\n"), Some(700));
        assert_eq!(in_use("1000\n", "inactive_file 0\ntotal_inactive_file 400\n"), Some(600));
        assert_eq!((in_use("1000\n", ""), in_use("max", "")), (Some(1000), None));
        assert!(cfg!(not(target_os = "linux")) || free().is_some_and(|free| free > 0));
    }
}

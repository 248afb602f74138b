//! How much memory a task process takes, for whoever asks after it has died. Where the system doesn't tell, nothing is
//! known.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::interval};

/// A process's peak is gone with the process, so it is asked for this often.
const ASKING: Duration = Duration::from_millis(200);

/// The memory of a process, from its start on.
#[derive(Debug)]
pub(crate) struct Memory {
    group: Option<PathBuf>,
    /// Bytes.
    peak: Arc<AtomicU64>,
    /// What the kernel had killed for memory before.
    kills: Option<u64>,
    watching: JoinHandle<()>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Memory {
    /// Follows a process until it is gone.
    pub(crate) fn watch(pid: Option<u32>) -> Self {
        let group = group(Path::new("/"));
        let peak = Arc::new(AtomicU64::new(0));
        let status = PathBuf::from(format!("/proc/{}/status", pid.unwrap_or_default()));
        let highest = peak.clone();
        let watching = tokio::spawn(async move {
            let mut ticks = interval(ASKING);
            loop {
                ticks.tick().await;
                let Ok(text) = fs::read_to_string(&status) else { return };
                highest.fetch_max(kilobytes(&text, "VmHWM:").unwrap_or_default(), Ordering::Relaxed);
            }
        });
        Self { kills: group.as_deref().and_then(kills), group, peak, watching }
    }

    /// Whether the kernel has killed a process here for memory since.
    pub(crate) fn was_exhausted(&self) -> bool {
        let kills = self.group.as_deref().and_then(kills);
        kills.zip(self.kills).is_some_and(|(now, before)| now > before)
    }

    /// What it took at most, of what there is.
    pub(crate) fn used(&self) -> Option<String> {
        let peak = self.peak.load(Ordering::Relaxed);
        let limit = limit(Path::new("/"), self.group.as_deref());
        (peak > 0).then(|| match limit {
            Some(limit) => format!("{} of {}", size(peak), size(limit)),
            None => size(peak),
        })
    }
}

/// The folder of this process's group of processes, whose memory is counted together.
fn group(root: &Path) -> Option<PathBuf> {
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
fn kills(group: &Path) -> Option<u64> {
    ["memory.events", "memory.oom_control"].iter().find_map(|name| {
        let text = fs::read_to_string(group.join(name)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    })
}

/// The memory that processes here may take, in bytes.
fn limit(root: &Path, group: Option<&Path>) -> Option<u64> {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| kilobytes(&text, "MemTotal:"));
    // Version 2 says `max` where there is none, version 1 gives a huge number.
    let of_group = ["memory.max", "memory.limit_in_bytes"]
        .iter()
        .find_map(|name| fs::read_to_string(group?.join(name)).ok()?.trim().parse().ok());
    machine.into_iter().chain(of_group).min()
}

/// The value in bytes of a line such as `VmHWM:  12 kB`.
pub(crate) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

fn size(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let mib = bytes as f64 / MIB;
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

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
            let root = system(&[
                meminfo,
                ("proc/self/cgroup", about),
                (&events, "low 0\noom 3\noom_kill 2\n"),
                (&most, "17179869184\n"),
            ]);
            let found = group(root.path()).unwrap();
            assert_eq!(found, root.path().join(folder), "{about}");
            assert_eq!(kills(&found), Some(2));
            assert_eq!(limit(root.path(), Some(&found)).map(size), Some("16.0 GiB".into()));
            fs::write(root.path().join(&most), "max\n").unwrap();
            assert_eq!(limit(root.path(), Some(&found)).map(size), Some("64.0 GiB".into()));
        }
        assert_eq!(group(system(&[meminfo]).path()), None);
        assert_eq!(limit(system(&[]).path(), None), None);
    }

    #[test]
    fn sizes_are_read_and_shown() {
        assert_eq!(kilobytes("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\n", "VmHWM:").map(size), Some("2 MiB".into()));
        assert_eq!(kilobytes("VmHWM:\t many kB\n", "VmHWM:"), None);
        assert_eq!(size(15 << 30 | 820 << 20), "15.8 GiB");
    }
}

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

use outboard_machine::memory::{group, kills, kilobytes, limit, size};
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

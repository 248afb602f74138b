//! Ends the process when an invocation takes too long, whatever the rest of it does.

use std::{
    process,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

/// Lambda reports this as the reason of an invocation's end.
const EXIT_STATUS: i32 = 124;

/// Watches one invocation; dropped once that has a reply.
#[derive(Debug)]
pub(super) struct Watchdog {
    _dropped: Sender<()>,
}

impl Watchdog {
    pub(super) fn start(longest: Duration) -> Self {
        let (dropped, watched) = channel();
        thread::spawn(move || {
            if watched.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
                eprintln!("the invocation has taken {longest:?}: the process ends itself");
                process::exit(EXIT_STATUS);
            }
        });
        Self { _dropped: dropped }
    }
}

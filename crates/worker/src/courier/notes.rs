//! What happens to a task, as the client will read it; bounded, however long the task runs.

use std::collections::VecDeque;

use outboard_core::{Digest, Event, error::Result, task::Checkpoint};
use outboard_protocol::{
    PROTOCOL_VERSION, Stored,
    envelope::encode,
    grant::{Note, ProgressHeader},
};

/// Bytes of all notes together. They are sent whole each time.
const MAX_BYTES: usize = 4 << 20;
/// Longest warning, in bytes.
const MAX_WARNING: usize = 4096;

/// The notes of one task.
#[derive(Debug)]
pub(super) struct Notes {
    attempt: String,
    lines: VecDeque<Line>,
    bytes: usize,
    dropped: u64,
    /// The newest checkpoint that waits to be stored. Older ones are of no use then.
    waiting: Option<Checkpoint>,
    stored: Vec<Stored>,
    /// Whether there is something that wasn't sent.
    pub(super) is_dirty: bool,
    /// Whether nothing more will happen.
    pub(super) is_closed: bool,
}

#[derive(Debug)]
struct Line {
    text: Vec<u8>,
    /// Overtaken by the next one.
    is_progress: bool,
    /// The checkpoint that it tells of.
    checkpoint: Option<Checkpoint>,
}

impl Notes {
    pub(super) fn new(attempt: &str) -> Self {
        Self {
            attempt: attempt.into(),
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            waiting: None,
            stored: Vec::new(),
            // That it has begun is news.
            is_dirty: true,
            is_closed: false,
        }
    }

    pub(super) fn push(&mut self, mut event: Event) {
        if let Event::Warning { message } = &mut event {
            message.truncate(message.floor_char_boundary(MAX_WARNING));
        }
        let is_progress = matches!(event, Event::Progress(_));
        let checkpoint = match event {
            Event::Checkpoint(checkpoint) => Some(checkpoint),
            _ => None,
        };
        self.waiting = checkpoint.or(self.waiting);
        if is_progress && self.lines.back().is_some_and(|line| line.is_progress) {
            self.bytes -= self.lines.pop_back().map_or(0, |line| line.text.len());
        }
        // What can't be encoded is not told: the task goes on.
        let Ok(text) = encode(&Note { event, stored: None }) else { return };
        self.bytes += text.len();
        self.lines.push_back(Line { text, is_progress, checkpoint });
        while self.bytes > MAX_BYTES {
            self.bytes -= self.lines.pop_front().map_or(self.bytes, |line| line.text.len());
            self.dropped += 1;
        }
        self.is_dirty = true;
    }

    /// The checkpoint that should be stored next.
    pub(super) fn take_waiting(&mut self) -> Option<Checkpoint> {
        self.waiting.take()
    }

    /// A blob is in the store.
    pub(super) fn store(&mut self, stored: Stored) {
        self.stored.push(stored);
        for line in self.lines.iter_mut().rev() {
            if let Some(checkpoint) = line.checkpoint.filter(|checkpoint| checkpoint.digest == stored.digest)
                && let Ok(text) = encode(&Note { event: Event::Checkpoint(checkpoint), stored: Some(stored) })
            {
                self.bytes = self.bytes + text.len() - line.text.len();
                line.text = text;
                self.is_dirty = true;
                return;
            }
        }
    }

    /// Where a blob is, if it was stored.
    pub(super) fn find(&self, digest: &Digest) -> Option<Stored> {
        self.stored.iter().find(|stored| stored.digest == *digest).copied()
    }

    /// The newest blob that was stored.
    pub(super) fn last(&self) -> Option<Stored> {
        self.stored.last().copied()
    }

    /// The record as it stands; no longer dirty.
    pub(super) fn encode(&mut self) -> Result<Vec<u8>> {
        let header =
            ProgressHeader { protocol: PROTOCOL_VERSION, attempt: self.attempt.clone(), dropped: self.dropped };
        let mut bytes = encode(&header)?;
        for line in &self.lines {
            bytes.push(b'\n');
            bytes.extend_from_slice(&line.text);
        }
        bytes.push(b'\n');
        self.is_dirty = false;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_core::task::Progress;
    use outboard_protocol::{Encoding, TaskProgress, envelope::MAX_MESSAGE_BYTES};
    use proptest::prelude::*;

    fn progress(step: u64) -> Event {
        Event::Progress(Progress { epoch: 1, step, steps: 9, loss: 0.5, samples_per_second: 1.0, eta_seconds: 2.0 })
    }

    fn checkpoint(text: &str) -> Checkpoint {
        Checkpoint { digest: Digest::of(text.as_bytes()), epoch: 1, step_in_epoch: 0 }
    }

    fn warning(length: usize) -> Event {
        Event::Warning { message: "ä".repeat(length) }
    }

    fn read(notes: &mut Notes) -> TaskProgress {
        TaskProgress::decode(&notes.encode().unwrap()).unwrap()
    }

    #[test]
    fn progress_is_overtaken_and_a_checkpoint_gets_its_slot() {
        let mut notes = Notes::new("k#1");
        assert!(notes.is_dirty);
        assert_eq!((read(&mut notes).notes, notes.is_dirty), (vec![], false));
        let (a, b) = (checkpoint("a"), checkpoint("b"));
        [progress(1), progress(2), Event::Checkpoint(a), Event::Checkpoint(b), progress(3)]
            .into_iter()
            .for_each(|event| notes.push(event));
        assert_eq!((notes.take_waiting(), notes.take_waiting()), (Some(b), None));
        let stored = Stored { digest: b.digest, slot: 0, encoding: Encoding::Raw, bytes: 1 };
        notes.store(stored);
        let events = [progress(2), Event::Checkpoint(a), Event::Checkpoint(b), progress(3)];
        let seen = read(&mut notes);
        assert_eq!(seen.notes.iter().map(|note| note.event.clone()).collect::<Vec<_>>(), events);
        assert_eq!(seen.notes.iter().map(|note| note.stored).collect::<Vec<_>>(), [None, None, Some(stored), None]);
        assert_eq!((notes.find(&a.digest), notes.find(&b.digest), notes.last()), (None, Some(stored), Some(stored)));
    }

    #[test]
    fn a_task_without_end_keeps_its_newest_notes() {
        let mut notes = Notes::new("k#1");
        (0..5000).for_each(|_| notes.push(warning(1_000_000)));
        notes.push(Event::Checkpoint(checkpoint("a")));
        let seen = read(&mut notes);
        assert_eq!(seen.header.dropped + seen.notes.len() as u64, 5001);
        assert_eq!(seen.notes.last().unwrap().event, Event::Checkpoint(checkpoint("a")));
        assert!(notes.bytes <= MAX_BYTES && seen.header.dropped > 3000);
    }

    proptest! {
        #[test]
        fn whatever_happens_the_record_can_be_read(what in proptest::collection::vec(0usize..6000, 0..100)) {
            let mut notes = Notes::new("k#1");
            for n in what {
                match n % 3 {
                    0 => notes.push(progress(n as u64)),
                    1 => notes.push(warning(n)),
                    _ => {
                        let checkpoint = checkpoint(&n.to_string());
                        notes.push(Event::Checkpoint(checkpoint));
                        notes.store(Stored { digest: checkpoint.digest, slot: n as u32, encoding: Encoding::Raw, bytes: 0 });
                    }
                }
            }
            prop_assert_eq!(notes.bytes, notes.lines.iter().map(|line| line.text.len()).sum::<usize>());
            let bytes = notes.encode().unwrap();
            prop_assert!(bytes.len() < MAX_MESSAGE_BYTES);
            prop_assert_eq!(TaskProgress::decode(&bytes).unwrap().notes.len(), notes.lines.len());
        }
    }
}

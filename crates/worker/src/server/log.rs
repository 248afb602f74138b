//! What happened to a task, by revision.

use outboard_core::{Digest, Event};
use outboard_protocol::{
    TaskResult,
    envelope::{StateMessage, WirePhase},
};

/// Events in one message, at most: a message has a largest size.
const MAX_EVENTS: usize = 10_000;

/// Checkpoints of a task that are told: who fetches one isn't overtaken by the next.
const CHECKPOINTS: usize = 2;

/// Everything that happened so far. Each entry has a revision; the first state has revision 1. Progress and checkpoints
/// that newer ones overtook are forgotten, so that a long task doesn't fill the memory.
#[derive(Debug)]
pub(super) struct Log {
    revision: u64,
    phase: WirePhase,
    events: Vec<(u64, Event)>,
}

impl Log {
    pub(super) fn new(phase: WirePhase, events: Vec<Event>) -> Self {
        let mut log = Self { revision: 1, phase, events: Vec::new() };
        for event in events {
            log.push(event);
        }
        log
    }

    pub(super) fn start(&mut self) {
        self.revision += 1;
        self.phase = WirePhase::Running;
    }

    /// Adds what happened; a checkpoint that nobody needs any more is returned.
    pub(super) fn push(&mut self, event: Event) -> Option<Digest> {
        self.revision += 1;
        let overtaken = if matches!(event, Event::Checkpoint(_)) { self.overtake() } else { None };
        if matches!((&event, self.events.last()), (Event::Progress(_), Some((_, Event::Progress(_))))) {
            self.events.pop();
        }
        self.events.push((self.revision, event));
        // The last one of a task may be that after its last step.
        let is_named = |digest: &Digest| {
            self.events.iter().any(|(_, event)| matches!(event, Event::Checkpoint(other) if other.digest == *digest))
        };
        overtaken.filter(|digest| !is_named(digest))
    }

    /// Forgets the oldest checkpoint, if a new one makes one too many.
    fn overtake(&mut self) -> Option<Digest> {
        let is_checkpoint = |(_, event): &(u64, Event)| matches!(event, Event::Checkpoint(_));
        if self.events.iter().filter(|entry| is_checkpoint(entry)).count() < CHECKPOINTS {
            return None;
        }
        let oldest = self.events.iter().position(is_checkpoint)?;
        match self.events.remove(oldest).1 {
            Event::Checkpoint(checkpoint) => Some(checkpoint.digest),
            _ => None,
        }
    }

    pub(super) fn end(&mut self, result: TaskResult) {
        self.revision += 1;
        self.phase = WirePhase::Ended(Box::new(result));
    }

    pub(super) fn result(&self) -> Option<&TaskResult> {
        match &self.phase {
            WirePhase::Ended(result) => Some(result),
            _ => None,
        }
    }

    pub(super) fn is_queued(&self) -> bool {
        matches!(self.phase, WirePhase::Queued)
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, WirePhase::Running)
    }

    /// Whether there is something to tell whoever has seen `seen`.
    pub(super) fn is_news(&self, seen: u64) -> bool {
        self.revision != seen || self.result().is_some()
    }

    /// What happened since `seen`; a revision that was never given means nothing seen.
    pub(super) fn since(&self, seen: u64) -> StateMessage {
        let first = if seen > self.revision { 0 } else { self.events.partition_point(|(at, _)| *at <= seen) };
        let events = &self.events[first..];
        if let Some((revision, _)) = events.get(MAX_EVENTS) {
            let events = events[..MAX_EVENTS].iter().map(|(_, event)| event.clone()).collect();
            return StateMessage { revision: revision - 1, phase: WirePhase::Running, events };
        }
        let events = events.iter().map(|(_, event)| event.clone()).collect();
        StateMessage { revision: self.revision, phase: self.phase.clone(), events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_core::task::Progress;

    fn warning(text: usize) -> Event {
        Event::Warning { message: text.to_string() }
    }

    fn progress(step: u64) -> Event {
        Event::Progress(Progress { epoch: 1, step, steps: 9, loss: 0.0, samples_per_second: 0.0, eta_seconds: 0.0 })
    }

    #[test]
    fn tells_what_is_new_and_all_to_a_stranger() {
        let mut log = Log::new(WirePhase::Queued, vec![]);
        assert_eq!((log.since(0).revision, log.is_news(0), log.is_news(1)), (1, true, false));
        log.start();
        for event in [warning(1), progress(1), progress(2), warning(2)] {
            assert_eq!(log.push(event), None);
        }
        assert_eq!(log.since(2).events, [warning(1), progress(2), warning(2)]);
        assert_eq!(log.since(3).events, [progress(2), warning(2)]);
        assert_eq!(log.since(4).events, [progress(2), warning(2)]);
        assert_eq!(log.since(5).events, [warning(2)]);
        assert_eq!((log.since(6).events, log.is_news(6)), (vec![], false));
        assert_eq!((log.since(7).events.len(), log.since(u64::MAX).revision), (3, 6));
    }

    #[test]
    fn an_overtaken_checkpoint_is_forgotten() {
        let checkpoint = |epoch| {
            let digest = Digest::of(&[epoch]);
            Event::Checkpoint(outboard_core::task::Checkpoint { digest, epoch: epoch.into(), step_in_epoch: 0 })
        };
        let mut log = Log::new(WirePhase::Running, vec![checkpoint(1), warning(1), checkpoint(2)]);
        assert_eq!(log.push(checkpoint(3)), Some(Digest::of(&[1])));
        assert_eq!(log.since(0).events, [warning(1), checkpoint(2), checkpoint(3)]);
        assert_eq!(log.since(3).events, [checkpoint(2), checkpoint(3)]);
        assert_eq!(log.push(checkpoint(3)), Some(Digest::of(&[2])));
        assert_eq!(log.push(checkpoint(4)), None, "it is named still");
        assert_eq!(log.push(checkpoint(5)), Some(Digest::of(&[3])));
    }

    #[test]
    fn many_events_come_in_several_messages_the_end_last() {
        let mut log = Log::new(WirePhase::Running, (0..2 * MAX_EVENTS + 5).map(warning).collect());
        log.end(TaskResult {
            protocol: 1,
            key: "k".into(),
            attempt: "k#1".into(),
            ended: outboard_protocol::envelope::Ending::Cancelled,
            timings: Default::default(),
        });
        let (mut seen, mut events, mut messages) = (0, Vec::new(), 0);
        loop {
            let message = log.since(seen);
            (seen, messages) = (message.revision, messages + 1);
            events.extend(message.events);
            if let WirePhase::Ended(_) = message.phase {
                break;
            }
        }
        assert_eq!((messages, events), (3, (0..2 * MAX_EVENTS + 5).map(warning).collect()));
    }
}

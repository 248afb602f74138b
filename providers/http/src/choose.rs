//! Which worker gets a task.

use std::cmp::Reverse;

use futures_util::future::try_join_all;
use outboard_core::{
    Digest, Task,
    error::{Error, ErrorKind, Result, Retry},
    task::Operation,
};
use outboard_protocol::envelope::{Ending, StateMessage, WirePhase, WorkerHealth};

use crate::worker::Worker;

/// What a worker says before it gets a task.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) health: WorkerHealth,
    /// Blobs of the task that it holds.
    held: usize,
    /// Whether the task is there already.
    has_task: bool,
}

/// The place of the worker that has the task already, or of the one that should get it.
pub(crate) fn choose(
    workers: &[Worker],
    asked: Vec<Result<Answer>>,
    operation: &Operation,
    turn: usize,
) -> Result<usize> {
    if let Some(index) = asked.iter().position(|answer| answer.as_ref().is_ok_and(|answer| answer.has_task)) {
        return Ok(index);
    }
    let (mut candidates, mut errors) = (Vec::new(), Vec::new());
    for (index, (worker, answer)) in workers.iter().zip(asked).enumerate() {
        let fitting = answer.and_then(|answer| match fits(&answer.health, operation) {
            Ok(()) => Ok(answer),
            Err(error) => Err(worker.connection.locate(error)),
        });
        match fitting {
            Ok(Answer { health, held, .. }) => candidates.push(Candidate {
                index,
                held,
                tasks: health.running.saturating_add(health.queued).saturating_add(worker.handing()),
                max_running: health.max_running,
                max_queued: health.max_queued,
            }),
            Err(error) => errors.push(error),
        }
    }
    best(&candidates, turn).ok_or_else(|| none_of(errors))
}

/// A worker that could take the task.
#[derive(Clone, Copy, Debug, Default)]
struct Candidate {
    /// Its place in the configuration.
    index: usize,
    /// Blobs of the task that it holds.
    held: usize,
    /// Tasks that run, wait or are on their way there.
    tasks: u32,
    /// Tasks that may run at the same time.
    max_running: u32,
    /// Tasks that may wait.
    max_queued: u32,
}

impl Candidate {
    /// 0: it would start at once; 1: it would wait; 2: it would be refused.
    fn delay(&self) -> u8 {
        u8::from(self.tasks >= self.max_running)
            + u8::from(self.tasks >= self.max_running.saturating_add(self.max_queued))
    }
}

/// The one that starts it soonest, holds most of its blobs, has least to do; among equals, each in turn.
fn best(candidates: &[Candidate], turn: usize) -> Option<usize> {
    let first = turn.checked_rem(candidates.len())?;
    let in_turn = candidates[first..].iter().chain(&candidates[..first]);
    // Of equals the first one is taken.
    in_turn.min_by_key(|c| (c.delay(), Reverse(c.held), c.tasks)).map(|c| c.index)
}

/// How a worker is, how many of these blobs it holds, and whether it has the task.
pub(crate) async fn ask(worker: &Worker, task: &Task, needs: &[Digest]) -> Result<Answer> {
    let connection = &worker.connection;
    let held = try_join_all(needs.iter().map(|digest| worker.holds(digest)));
    let (health, state, held) = tokio::try_join!(connection.health(), connection.known(&task.key), held)?;
    let has_task = state.is_some_and(|state| answers(&state, &task.attempt));
    Ok(Answer { health, held: held.into_iter().filter(|held| *held).count(), has_task })
}

/// Whether a worker's state is that of this attempt, or makes it needless. An earlier attempt that came to nothing
/// does not.
pub(crate) fn answers(state: &StateMessage, attempt: &str) -> bool {
    match &state.phase {
        WirePhase::Queued | WirePhase::Running => true,
        WirePhase::Ended(result) => result.attempt == attempt || matches!(result.ended, Ending::Finished(_)),
    }
}

fn fits(health: &WorkerHealth, operation: &Operation) -> Result<()> {
    if health.draining {
        return takes_more(health);
    }
    let mut layers = operation.model().into_iter().flat_map(|model| &model.layers);
    match layers.find(|layer| !health.layers.iter().any(|known| known == layer.kind())) {
        Some(layer) => {
            let message = format!("the worker does not know the layer `{}`", layer.kind());
            Err(Error::new(ErrorKind::Unsupported, message).hint("install a newer version there"))
        }
        None => Ok(()),
    }
}

pub(crate) fn takes_more(health: &WorkerHealth) -> Result<()> {
    if health.draining {
        return Err(Error::new(ErrorKind::Unavailable, "the worker is shutting down").hint("start it again"));
    }
    let room = health.max_running.saturating_add(health.max_queued);
    if health.running.saturating_add(health.queued) >= room {
        let message = format!("the worker has {room} tasks, and takes no more");
        return Err(Error::new(ErrorKind::RateLimited, message).hint("wait, or add a worker"));
    }
    Ok(())
}

/// The error of all workers: the one that may pass first, with the others beside it.
pub(crate) fn none_of(mut errors: Vec<Error>) -> Error {
    errors.sort_by_key(|error| !matches!(error.retry(), Retry::Same { .. }));
    let mut errors = errors.into_iter();
    let first = errors.next().unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "there is no worker"));
    errors.fold(first, |first, other| {
        let worker = other.context().iter().find(|(what, _)| what == "worker").map_or("", |(_, url)| url);
        let other = format!("{worker}: {other}");
        first.at("also", other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soonest_then_most_blobs_then_least_loaded_then_in_turn() {
        // Per worker: blobs held, tasks; two may run, two may wait.
        for (workers, turn, chosen) in [
            (&[][..], 7, None),
            (&[(0, 0), (0, 0), (0, 0)], 0, Some(0)),
            (&[(0, 0), (0, 0), (0, 0)], 4, Some(1)),
            (&[(0, 0), (0, 0), (0, 0)], usize::MAX, Some(usize::MAX % 3)),
            (&[(0, 1), (0, 0), (0, 1)], 0, Some(1)),
            (&[(1, 0), (2, 1), (2, 1)], 2, Some(2)),
            (&[(0, 0), (2, 2), (1, 1)], 0, Some(2)),
            (&[(0, 3), (2, 3), (1, 2)], 0, Some(1)),
            (&[(0, 3), (2, 4)], 0, Some(0)),
            (&[(0, 5), (2, 4)], 0, Some(1)),
        ] {
            let candidates: Vec<_> = workers
                .iter()
                .enumerate()
                .map(|(index, &(held, tasks))| Candidate { index, held, tasks, max_running: 2, max_queued: 2 })
                .collect();
            assert_eq!(best(&candidates, turn), chosen, "{workers:?}, turn {turn}");
        }
    }
}

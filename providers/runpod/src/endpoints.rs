//! Which endpoint gets a task.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use outboard_core::error::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::EndpointConfig;

/// How long an endpoint that failed comes last.
const REST: Duration = Duration::from_secs(120);

/// The endpoints, in turn by their weights.
#[derive(Debug)]
pub(crate) struct Endpoints {
    all: Vec<EndpointConfig>,
    turns: Mutex<Vec<Turn>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// What it is owed; the one that is owed most is next.
    owed: i64,
    /// Until when it comes last.
    resting: Option<Instant>,
}

impl Endpoints {
    pub(crate) fn new(all: &[EndpointConfig]) -> Result<Self> {
        let wrong = |message: String, index: usize| {
            Error::new(ErrorKind::InvalidConfig, message)
                .with_provider("runpod")
                .at("key", format!("providers.runpod.endpoints[{index}]"))
        };
        if all.is_empty() {
            return Err(Error::new(ErrorKind::InvalidConfig, "the runpod provider has no endpoints")
                .with_provider("runpod")
                .at("key", "providers.runpod.endpoints")
                .hint("write `endpoints = [{ id = \"...\", gpu = \"RTX 4090\" }]` with the id from RunPod's console"));
        }
        for (index, endpoint) in all.iter().enumerate() {
            let EndpointConfig { id, weight, .. } = endpoint;
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
            if id.is_empty() || !id.bytes().all(is_plain) {
                return Err(wrong(format!("`{id}` is not the id of an endpoint"), index)
                    .hint("use the id alone, as in https://api.runpod.ai/v2/ID/run"));
            }
            if *weight == 0 {
                return Err(wrong(format!("the weight of the endpoint {id} is 0"), index).hint("remove the endpoint"));
            }
            if all[..index].iter().any(|other| other.id == *id) {
                return Err(wrong(format!("the endpoint {id} is there twice"), index).hint("remove one of them"));
            }
        }
        Ok(Self { all: all.to_vec(), turns: Mutex::new(vec![Turn::default(); all.len()]) })
    }

    pub(crate) fn all(&self) -> &[EndpointConfig] {
        &self.all
    }

    /// All of them: the next in turn, then the others; last those that failed lately.
    pub(crate) fn in_turn(&self, now: Instant) -> Vec<&str> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let total: i64 = self.all.iter().map(|endpoint| i64::from(endpoint.weight)).sum();
        for (turn, endpoint) in turns.iter_mut().zip(&self.all) {
            turn.owed += i64::from(endpoint.weight);
        }
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.sort_by_key(|&index| (turns[index].resting.is_some_and(|until| until > now), -turns[index].owed));
        turns[order[0]].owed -= total;
        order.into_iter().map(|index| self.all[index].id.as_str()).collect()
    }

    /// One has failed: it comes last for a while.
    pub(crate) fn rest(&self, id: &str, now: Instant) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = self.all.iter().position(|endpoint| endpoint.id == id) {
            turns[index].resting = Some(now + REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, weight: u32) -> EndpointConfig {
        EndpointConfig { id: id.into(), gpu: "L4".into(), weight }
    }

    #[test]
    fn tasks_are_shared_by_weight_and_what_failed_comes_last() {
        let endpoints = Endpoints::new(&[endpoint("a", 3), endpoint("b", 1)]).unwrap();
        let now = Instant::now();
        let first = |now| endpoints.in_turn(now)[0].to_string();
        let turns: String = (0..8).map(|_| first(now)).collect();
        assert_eq!((turns.matches('a').count(), turns.matches('b').count()), (6, 2));
        endpoints.rest("a", now);
        assert_eq!(endpoints.in_turn(now), ["b", "a"]);
        endpoints.rest("b", now);
        assert_eq!(endpoints.in_turn(now).len(), 2);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (all, message) in [
            (vec![], "the runpod provider has no endpoints"),
            (vec![endpoint("https://x", 1)], "`https://x` is not the id of an endpoint"),
            (vec![endpoint("a", 0)], "the weight of the endpoint a is 0"),
            (vec![endpoint("a", 1), endpoint("a", 2)], "the endpoint a is there twice"),
        ] {
            let error = Endpoints::new(&all).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidConfig, message));
            assert!(error.advice().is_some());
        }
    }
}

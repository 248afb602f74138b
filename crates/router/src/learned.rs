//! What ended attempts taught of a provider.

use std::cmp::Reverse;

use outboard_core::{ErrorKind, Observation};

use crate::Priors;

/// A number, and how many observations it rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The number: finite, never negative.
    pub value: f64,
    /// Observations that went into it; with none it is the prior.
    pub observations: usize,
}

/// What is known of one provider. Every number blends its prior with what was observed, so that few observations move
/// it gradually and recent ones count more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learned {
    /// Seconds of waiting for a turn.
    pub queue: Estimate,
    /// Probability that a machine or a process has to be started.
    pub cold: Estimate,
    /// Seconds of that start.
    pub cold_start: Estimate,
    /// Seconds of decoding blobs and planning the model.
    pub load: Estimate,
    /// Bytes per second to the provider.
    pub down: Estimate,
    /// Bytes per second from the provider.
    pub up: Estimate,
    /// Floating-point operations per second.
    pub flops: Estimate,
    /// Seconds of running between two losses of running work.
    pub mtbf: Estimate,
}

/// Observations that the prior counts for: after four, half of an estimate is what was seen.
const PRIOR_WEIGHT: f64 = 4.0;

/// An observation counts half as much once this many newer ones are known: slow drift is followed, and a bad hour of a
/// busy day doesn't rule the next.
const HALF_LIFE: f64 = 32.0;

/// Smaller transfers tell latency, not bandwidth.
const LEAST_BYTES: u64 = 64 * 1024;

/// Times below a millisecond are as good as none; above a day, a clock was set.
const SECONDS: (f64, f64) = (1e-3, 86_400.0);

/// Bytes or operations per second: between a modem and what no machine reaches.
const RATES: (f64, f64) = (1e3, 1e18);

impl Learned {
    /// Summarises the observations of one provider, in any order.
    #[must_use]
    pub fn from(observations: &[Observation], priors: &Priors) -> Self {
        let mut newest_first: Vec<&Observation> = observations.iter().collect();
        newest_first.sort_by_key(|observation| Reverse(observation.at));
        let started = || newest_first.iter().copied().filter(|observation| has_started(observation));
        let mut samples = Vec::with_capacity(observations.len());
        let mut blend = |prior, bounds, values: &mut dyn Iterator<Item = f64>| {
            samples.clear();
            samples.extend(values.filter(|value| value.is_finite() && *value >= 0.0).zip(weights()));
            blended(prior, bounds, &mut samples)
        };
        Self {
            queue: blend(priors.queue, SECONDS, &mut started().map(|o| o.timings.queue)),
            cold: share(priors.cold, started().map(Observation::is_cold)),
            cold_start: blend(
                priors.cold_start,
                SECONDS,
                &mut started().filter(|o| o.is_cold()).map(|o| o.timings.boot),
            ),
            load: blend(
                priors.load,
                SECONDS,
                &mut started().filter(|o| o.timings.compute > 0.0).map(|o| o.timings.load),
            ),
            down: blend(
                priors.down,
                RATES,
                &mut started().filter_map(|o| rate(o.bytes_down, LEAST_BYTES, o.timings.download)),
            ),
            up: blend(priors.up, RATES, &mut started().filter_map(|o| rate(o.bytes_up, LEAST_BYTES, o.timings.upload))),
            flops: blend(priors.flops, RATES, &mut started().filter_map(|o| rate(o.flops, 1, o.timings.compute))),
            mtbf: between_losses(priors.mtbf, &newest_first),
        }
    }
}

/// Whether a worker took it up: what never started says nothing of times.
fn has_started(observation: &Observation) -> bool {
    let t = &observation.timings;
    [t.boot, t.download, t.load, t.compute].iter().any(|&seconds| seconds > 0.0)
}

fn rate(amount: u64, least: u64, seconds: f64) -> Option<f64> {
    (amount >= least && seconds > 0.0).then(|| amount as f64 / seconds)
}

/// Weights of observations, newest first.
fn weights() -> impl Iterator<Item = f64> {
    let step = 0.5f64.powf(1.0 / HALF_LIFE);
    std::iter::successors(Some(1.0), move |weight| Some(weight * step))
}

/// The prior blended with the weighted median, as a geometric mean: both may be wrong by orders of magnitude, and one
/// absurd observation must not outweigh the rest.
fn blended(prior: f64, (least, most): (f64, f64), samples: &mut [(f64, f64)]) -> Estimate {
    let observations = samples.len();
    let total: f64 = samples.iter().map(|(_, weight)| weight).sum();
    let Some(median) = median(samples, total) else { return Estimate { value: prior, observations: 0 } };
    let log = |value: f64| value.clamp(least, most).ln();
    let mean = (PRIOR_WEIGHT * log(prior) + total * log(median)) / (PRIOR_WEIGHT + total);
    Estimate { value: mean.exp(), observations }
}

/// The value that half of the weight lies at or below.
fn median(samples: &mut [(f64, f64)], total: f64) -> Option<f64> {
    samples.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = 0.0;
    let middle = samples.iter().find(|(_, weight)| {
        below += weight;
        below >= total / 2.0
    });
    middle.or(samples.last()).map(|(value, _)| *value)
}

/// How often something is so.
fn share(prior: f64, samples: impl Iterator<Item = bool>) -> Estimate {
    let (mut so, mut all, mut observations) = (PRIOR_WEIGHT * prior, PRIOR_WEIGHT, 0);
    for (is_so, weight) in samples.zip(weights()) {
        so += if is_so { weight } else { 0.0 };
        all += weight;
        observations += 1;
    }
    Estimate { value: (so / all).clamp(0.0, 1.0), observations }
}

/// Running time per loss, where the prior counts as one loss after that time.
fn between_losses(prior: f64, newest_first: &[&Observation]) -> Estimate {
    let (mut time, mut losses, mut observations) = (prior, 1.0, 0);
    for (observation, weight) in newest_first.iter().filter(|o| has_started(o)).zip(weights()) {
        let t = &observation.timings;
        let ran: f64 =
            [t.download, t.load, t.compute, t.upload].into_iter().filter(|s| s.is_finite() && *s > 0.0).sum();
        time += weight * ran.min(SECONDS.1);
        losses += if observation.failure.is_some_and(loses_work) { weight } else { 0.0 };
        observations += 1;
    }
    Estimate { value: (time / losses).max(1.0), observations }
}

/// Whether running work is lost by it.
fn loses_work(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WorkerUnhealthy | ErrorKind::Preempted | ErrorKind::Unavailable | ErrorKind::Timeout)
}

#[cfg(test)]
mod tests;

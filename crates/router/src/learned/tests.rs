use outboard_core::task::{OperationKind, Timings};
use proptest::prelude::*;

use super::*;
use crate::fixture::observation;

fn priors() -> Priors {
    Priors::of("runpod")
}

/// Attempts with these times, one after the other.
fn seen(timings: impl IntoIterator<Item = Timings>) -> Vec<Observation> {
    let seen = |(at, timings)| Observation { timings, flops: 10_u64.pow(12), ..observation(at, None) };
    (0..).zip(timings).map(seen).collect()
}

fn computing(seconds: f64) -> Timings {
    Timings { compute: seconds, ..Timings::default() }
}

#[test]
fn nothing_seen_gives_the_priors() {
    let learned = Learned::from(&[], &priors());
    let prior = |value| Estimate { value, observations: 0 };
    assert_eq!((learned.queue, learned.flops), (prior(priors().queue), prior(priors().flops)));
    assert_eq!((learned.cold, learned.mtbf), (prior(priors().cold), prior(priors().mtbf)));
    assert_eq!(Learned::from(&[], &Priors::of("cpu")).queue.value, 0.0);
}

#[test]
fn few_observations_move_an_estimate_gradually_and_many_make_it() {
    // A hundred times as fast as believed: 1e12 operations in 5 ms.
    let (prior, fast) = (priors().flops, 2e14);
    let after = |n: usize| Learned::from(&seen(vec![computing(0.005); n]), &priors()).flops;
    assert_eq!(after(4).observations, 4);
    let halfway = (prior * fast).sqrt();
    assert!((0.8..1.0).contains(&(after(4).value / halfway)), "{:?}", after(4));
    let path: Vec<_> = [0, 1, 2, 4, 16, 64, 200].map(after).iter().map(|estimate| estimate.value).collect();
    assert!(path.is_sorted() && path[1] < 4.0 * prior, "{path:?}");
    assert!((0.6..1.0).contains(&(path[6] / fast)), "{path:?}");
}

#[test]
fn recent_observations_count_more() {
    let slow_then_fast: Vec<_> = [vec![computing(100.0); 100], vec![computing(1.0); 50]].concat();
    let fast_then_slow: Vec<_> = slow_then_fast.iter().rev().copied().collect();
    let rate = |timings| Learned::from(&seen(timings), &priors()).flops.value;
    assert!(rate(slow_then_fast) > 10.0 * rate(fast_then_slow));
}

#[test]
fn outliers_hardly_matter() {
    let usual = vec![computing(10.0); 40];
    let mut odd = usual.clone();
    odd.iter_mut().step_by(4).for_each(|timings| timings.compute = 1e7);
    let rate = |timings| Learned::from(&seen(timings), &priors()).flops.value;
    let moved = rate(odd) / rate(usual);
    assert!((0.8..1.25).contains(&moved), "{moved}");
}

#[test]
fn cold_starts_and_bandwidth_are_told_apart_from_warm_ones_and_from_latency() {
    let warm = Timings { boot: 0.001, queue: 0.2, ..computing(1.0) };
    let cold = Timings { boot: 12.0, download: 2.0, ..computing(1.0) };
    let mut observations = seen([warm, cold, warm, warm, warm, cold, warm, warm]);
    observations.iter_mut().for_each(|o| (o.bytes_down, o.bytes_up) = (8_000_000, 1000));
    let learned = Learned::from(&observations, &priors());
    assert_eq!((learned.cold.observations, learned.cold_start.observations), (8, 2));
    assert!((0.25..0.5).contains(&learned.cold.value), "{:?}", learned.cold);
    assert!((12.0..30.0).contains(&learned.cold_start.value), "{:?}", learned.cold_start);
    assert_eq!((learned.down.observations, learned.up.observations), (2, 0));
    assert!((4e6..10e6).contains(&learned.down.value), "{:?}", learned.down);
}

#[test]
fn losses_shorten_the_time_between_losses() {
    let mtbf = |failure, n| {
        let observations: Vec<_> = (0..n).map(|at| observation(at, failure)).collect();
        Learned::from(&observations, &priors()).mtbf
    };
    assert!(mtbf(None, 30).value > priors().mtbf);
    assert!(mtbf(Some(ErrorKind::Preempted), 30).value < priors().mtbf / 10.0);
    assert_eq!(mtbf(Some(ErrorKind::JobFailed), 30), mtbf(None, 30), "the job's own fault");
    let absurd = Timings { compute: 1e12, ..Timings::default() };
    let one = Observation { timings: absurd, ..observation(1, None) };
    assert_eq!(Learned::from(&[one], &priors()).mtbf.value, priors().mtbf + 86_400.0, "a clock was set");
}

#[test]
fn what_never_started_says_nothing_of_times() {
    let refused = Observation { timings: Timings::default(), ..observation(1, Some(ErrorKind::RateLimited)) };
    assert_eq!(Learned::from(&vec![refused; 50], &priors()), Learned::from(&[], &priors()));
}

fn any_seconds() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(-1.0),
        Just(f64::MIN_POSITIVE),
        0.0..1e9,
        any::<f64>()
    ]
}

prop_compose! {
    fn any_observation()(
        at in 0..100u64,
        failure in prop_oneof![Just(None), Just(Some(ErrorKind::WorkerUnhealthy)), Just(Some(ErrorKind::JobFailed))],
        (queue, boot, download) in (any_seconds(), any_seconds(), any_seconds()),
        (load, compute, upload) in (any_seconds(), any_seconds(), any_seconds()),
        (flops, bytes_down, bytes_up) in any::<(u64, u64, u64)>(),
    ) -> Observation {
        let timings = Timings { queue, boot, download, load, compute, upload };
        let operation = OperationKind::Train;
        Observation { timings, flops, bytes_down, bytes_up, operation, ..observation(at, failure) }
    }
}

proptest! {
    #[test]
    fn estimates_are_finite_and_never_negative(
        observations in prop::collection::vec(any_observation(), 0..40),
        kind in prop::sample::select(vec!["cpu", "cuda", "runpod", "aws-lambda", "http", "mine"]),
    ) {
        let Learned { queue, cold, cold_start, load, down, up, flops, mtbf } =
            Learned::from(&observations, &Priors::of(kind));
        for estimate in [queue, cold, cold_start, load, down, up, flops, mtbf] {
            prop_assert!(estimate.value.is_finite() && estimate.value >= 0.0, "{estimate:?}");
            prop_assert!(estimate.observations <= observations.len());
        }
        prop_assert!(cold.value <= 1.0);
        for divisor in [down, up, flops, mtbf] {
            prop_assert!(divisor.value >= 1.0, "{divisor:?}");
        }
    }
}

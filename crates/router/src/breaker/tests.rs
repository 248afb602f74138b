use proptest::prelude::*;

use super::*;
use crate::fixture::observation;

const SECOND: u64 = 1000;

fn at(now: u64, attempts: &[(u64, Option<ErrorKind>)]) -> Breaker {
    let observations: Vec<_> = attempts.iter().map(|&(at, failure)| observation(at, failure)).collect();
    Breaker::from(&observations, now, &BreakerSettings::default())
}

/// When the breaker half-opens that is open at `now`.
fn until(now: u64, attempts: &[(u64, Option<ErrorKind>)]) -> u64 {
    match at(now, attempts) {
        Breaker::Open(pause) => pause.until,
        other => panic!("{other:?} at {now}"),
    }
}

const DOWN: Option<ErrorKind> = Some(ErrorKind::Unavailable);
const CRASH: Option<ErrorKind> = Some(ErrorKind::WorkerUnhealthy);

#[test]
fn opens_after_three_failures_in_a_row_and_half_opens_by_itself() {
    assert_eq!(at(3, &[]), Breaker::Closed);
    assert_eq!(at(3, &[(1, DOWN), (2, DOWN)]), Breaker::Closed);
    assert_eq!(at(5, &[(1, DOWN), (2, DOWN), (3, None), (4, DOWN)]), Breaker::Closed, "not in a row");
    let three = [(1, DOWN), (2, DOWN), (3, DOWN)];
    let why = "after 3 failures in a row, the last one because it could not be reached".to_string();
    assert_eq!(at(4, &three), Breaker::Open(Pause { until: 3 + 30 * SECOND, why }));
    assert_eq!(at(2 + 30 * SECOND, &three), at(4, &three));
    assert_eq!(at(3 + 30 * SECOND, &three), Breaker::HalfOpen);
}

#[test]
fn a_crash_loop_opens_it_sooner() {
    assert_eq!(at(2, &[(1, CRASH)]), Breaker::Closed);
    assert_eq!(until(2, &[(1, CRASH), (2, CRASH)]), 2 + 30 * SECOND);
    assert_eq!(at(3, &[(1, CRASH), (2, DOWN)]), Breaker::Closed, "not twice in a row");
    let patient = BreakerSettings { failures: 9, ..BreakerSettings::default() };
    let mixed = [CRASH, DOWN, CRASH, DOWN, CRASH].map(|failure| observation(1, failure));
    let apart: Vec<_> = (1..).zip(mixed).map(|(at, o)| Observation { at, ..o }).collect();
    assert_eq!(Breaker::from(&apart, 9, &patient), Breaker::Closed, "never twice in a row");
}

#[test]
fn what_is_not_the_providers_fault_never_opens_it() {
    use ErrorKind::*;
    for kind in [
        JobFailed,
        InvalidRequest,
        InvalidConfig,
        Cancelled,
        BudgetExceeded,
        NotFound,
        Conflict,
        Unexpected,
        // Another job may fit.
        OutOfMemory,
        PayloadTooLarge,
        Unsupported,
    ] {
        assert_eq!(at(99, &[(1, Some(kind)), (2, Some(kind)), (3, Some(kind)), (4, Some(kind))]), Breaker::Closed);
        // Nor does it hide failures that are.
        assert_eq!(until(5, &[(1, DOWN), (2, DOWN), (3, Some(kind)), (4, DOWN)]), 4 + 30 * SECOND, "{kind:?}");
    }
}

#[test]
fn each_failed_trial_doubles_the_pause_up_to_a_bound_and_success_ends_it() {
    let mut attempts = vec![(1, DOWN), (2, DOWN), (3, DOWN)];
    let mut pauses = Vec::new();
    for _ in 0..40 {
        let last = attempts.last().unwrap().0;
        let until = until(last, &attempts);
        pauses.push((until - last) / SECOND);
        attempts.push((until, DOWN));
    }
    assert_eq!(pauses[..8], [30, 60, 120, 240, 480, 960, 1800, 1800]);
    assert_eq!(pauses[39], 1800);
    let last = attempts.last().unwrap().0;
    attempts.push((last + 1, None));
    assert_eq!(at(last + 2, &attempts), Breaker::Closed);
    attempts.extend([(last + 3, DOWN), (last + 4, DOWN)]);
    assert_eq!(at(last + 5, &attempts), Breaker::Closed, "it starts anew");
}

#[test]
fn what_fails_during_a_pause_lengthens_it_but_is_no_trial() {
    let attempts = [(1, DOWN), (2, DOWN), (3, DOWN), (20 * SECOND, DOWN), (10 * SECOND, DOWN)];
    assert_eq!(until(21 * SECOND, &attempts), 50 * SECOND);
}

#[test]
fn of_two_breakers_the_longer_pause_holds() {
    let open = |until| Breaker::Open(Pause { until, why: until.to_string() });
    assert_eq!(open(5).or(open(9)), open(9));
    assert_eq!(open(9).or(open(5)), open(9));
    for other in [Breaker::Closed, Breaker::HalfOpen] {
        assert_eq!(other.clone().or(open(5)), open(5));
        assert_eq!(open(5).or(other), open(5));
    }
    assert_eq!(Breaker::Closed.or(Breaker::HalfOpen), Breaker::HalfOpen);
    assert_eq!(Breaker::HalfOpen.or(Breaker::Closed), Breaker::HalfOpen);
}

#[test]
fn a_clock_that_was_set_back_pauses_no_longer_than_the_bound() {
    let future = 1_000_000 * SECOND;
    assert_eq!(until(7, &[(future, DOWN), (future, DOWN), (future, DOWN)]), 7 + 1800 * SECOND);
}

#[test]
fn extreme_settings_do_no_harm() {
    let settings = BreakerSettings { failures: 0, crashes: 0, cooldown: Duration::MAX, max_cooldown: Duration::MAX };
    let one = [observation(1, DOWN)];
    let Breaker::Open(pause) = Breaker::from(&one, 1, &settings) else { panic!() };
    assert_eq!(pause.why, "after 1 failure, the last one because it could not be reached");
    assert_eq!(pause.until, u64::MAX);
}

proptest! {
    #[test]
    fn the_order_of_the_records_does_not_matter(
        attempts in prop::collection::vec((0..9u64, prop::sample::select(vec![None, DOWN, CRASH])), 0..12)
            .prop_flat_map(|attempts| (Just(attempts.clone()), Just(attempts).prop_shuffle())),
        now in 0..99 * SECOND,
    ) {
        prop_assert_eq!(at(now, &attempts.0), at(now, &attempts.1));
    }
}

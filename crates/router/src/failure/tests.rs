use outboard_core::code;
use proptest::prelude::*;

use super::*;
use crate::{Budget, decide, fixture};

const MINUTE: Duration = Duration::from_secs(60);

fn failure(provider: &str, kind: ErrorKind) -> Failure {
    Failure {
        provider: provider.into(),
        attempt: format!("{provider}/1"),
        at: 1_000_000,
        error: Error::new(kind, "as told"),
        of: Origin::Call,
        step: (2, 0),
        died: false,
    }
}

fn lost(at: u64, until: Duration) -> Failure {
    let error = Error::new(ErrorKind::Unavailable, "no answer").with_retry(Retry::Unknown { until });
    Failure { at, error, ..failure("runpod", ErrorKind::Unavailable) }
}

/// A task process that died.
fn death(provider: &str, message: &str) -> Failure {
    let error = Error::new(ErrorKind::WorkerUnhealthy, message);
    Failure { died: true, error, of: Origin::Task, ..failure(provider, ErrorKind::WorkerUnhealthy) }
}

fn next(history: &mut History, failure: Failure) -> String {
    match history.after(failure, &Patience::default()) {
        Next::Same { after } => format!("same after {after:?}"),
        Next::Other => "other".into(),
        Next::LookAgain { until } => format!("look until {until}"),
        Next::Stop(error) => format!("stop: {error}"),
    }
}

#[test]
fn the_retry_flag_decides_and_not_the_kind() {
    let one = |kind, retry| {
        let failure = Failure { of: Origin::Task, ..failure("a", kind) };
        next(&mut History::default(), Failure { error: failure.error.clone().with_retry(retry), ..failure })
    };
    for kind in [ErrorKind::JobFailed, ErrorKind::Unavailable, ErrorKind::Unexpected] {
        assert_eq!(one(kind, Retry::Never), "stop: as told");
        assert_eq!(one(kind, Retry::Other), "other");
        assert_eq!(one(kind, Retry::Same { after: None }), "same after 0ns");
        assert_eq!(one(kind, Retry::Unknown { until: MINUTE }), "look until 1060000");
    }
}

#[test]
fn the_jobs_own_error_costs_one_attempt() {
    for kind in [ErrorKind::JobFailed, ErrorKind::InvalidRequest, ErrorKind::Cancelled, ErrorKind::BudgetExceeded] {
        let Next::Stop(error) = after(&failure("runpod", kind), &History::default(), &Patience::default()) else {
            panic!("{kind:?}")
        };
        assert_eq!((error.kind(), error.provider()), (kind, Some("runpod")), "as it is");
    }
}

#[test]
fn a_task_gets_a_second_try_in_its_place_and_then_another_provider() {
    let mut history = History::default();
    let preempted = || Failure { of: Origin::Task, ..failure("runpod", ErrorKind::Preempted) };
    assert_eq!(next(&mut history, preempted()), "same after 0ns");
    assert!(history.excluded().is_empty());
    assert_eq!(next(&mut history, preempted()), "other");
    assert_eq!(history.excluded(), [("runpod".into(), crate::Reason::Failed("as told".into()))]);
    history.progressed();
    assert_eq!(next(&mut history, preempted()), "same after 0ns", "a checkpoint starts anew");
}

#[test]
fn what_may_pass_is_forgiven_once_no_other_provider_is_left() {
    let mut history = History::default();
    assert!(!history.forgive());
    for kind in [ErrorKind::Unavailable, ErrorKind::WorkerUnhealthy] {
        next(&mut history, failure("home", kind));
    }
    next(&mut history, failure("runpod", ErrorKind::Unauthenticated));
    assert!(history.forgive());
    assert_eq!(
        history.excluded().iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(),
        ["runpod"],
        "a key stays wrong"
    );
    assert!(!history.forgive(), "nobody is left to forgive");
    assert_eq!(history.failures().count(), 3, "they still count");
}

#[test]
fn the_same_death_twice_is_not_forgiven() {
    let mut history = History::default();
    next(&mut history, death("home", "the task process died (signal: 6 (SIGABRT))"));
    assert!(history.forgive());
    next(&mut history, death("home", "the task process died (signal: 6 (SIGABRT))"));
    assert!(!history.forgive());
    assert_eq!(history.excluded().len(), 1);
    // Another signal is another death.
    let mut history = History::default();
    next(&mut history, death("home", "the task process died (signal: 6 (SIGABRT))"));
    next(&mut history, death("home", "the task process died (signal: 11 (SIGSEGV))"));
    assert!(history.forgive());
}

#[test]
fn a_call_was_tried_by_its_wrapper_and_is_not_tried_again() {
    for kind in [ErrorKind::RateLimited, ErrorKind::Unavailable, ErrorKind::Timeout] {
        assert_eq!(next(&mut History::default(), failure("runpod", kind)), "other");
    }
}

#[test]
fn the_time_that_a_provider_asks_for_is_kept_or_it_is_left() {
    let asking = |after| {
        let base = failure("runpod", ErrorKind::RateLimited);
        let error = base.error.clone().with_retry(Retry::Same { after: Some(after) });
        next(&mut History::default(), Failure { error, of: Origin::Task, ..base })
    };
    assert_eq!(asking(Duration::from_secs(20)), "same after 20s");
    assert_eq!(asking(3 * MINUTE), "other");
}

#[test]
fn a_lost_attempt_is_looked_for_until_its_first_bound_and_only_then_left() {
    let mut history = History::default();
    for second in 0..60 {
        assert_eq!(next(&mut history, lost(second * 1000, MINUTE)), "look until 60000", "at {second} s");
    }
    assert_eq!(history.failures().count(), 1);
    assert!(history.excluded().is_empty());
    assert_eq!(next(&mut history, lost(60_000, MINUTE)), "other");
    let long = lost(0, Duration::MAX);
    assert_eq!(next(&mut History::default(), long), format!("look until {}", 7 * 86_400_000));
}

#[test]
fn time_spent_on_looking_does_not_end_the_job() {
    let mut history = History::default();
    next(&mut history, lost(0, 180 * MINUTE));
    assert_eq!(next(&mut history, lost(180 * 60_000, 180 * MINUTE)), "other");
    let mut history = History::default();
    next(&mut history, lost(0, 180 * MINUTE));
    let found = Failure { at: 100 * 60_000, of: Origin::Task, ..failure("runpod", ErrorKind::Preempted) };
    assert_eq!(next(&mut history, found), "same after 0ns");
}

#[test]
fn the_same_death_at_the_same_step_on_two_providers_poisons_the_job() {
    let mut history = History::default();
    assert_eq!(next(&mut history, death("runpod", "task process 48213 died (signal: 6)")), "other");
    assert_eq!(history.poison(), None);
    let Next::Stop(error) = history.after(death("http", "task process 99120 died (signal: 6)"), &Patience::default())
    else {
        panic!()
    };
    assert_eq!(error.kind(), ErrorKind::JobFailed);
    let why = "on `runpod` and `http` its task process died the same way at epoch 2, batch 0: task process 99120 died \
               (signal: 6)";
    assert_eq!(error.to_string(), format!("the job would fail anywhere: {why}"));
    assert_eq!(history.poison().as_deref(), Some(why));
    // What was recorded rules every provider out, should anyone ask again.
    let demand = crate::Demand { poisoned: history.poison(), ..fixture::demand() };
    assert_eq!(decide(&[fixture::candidate("cpu")], &demand, &Budget::default(), 0).choice, None);
}

#[test]
fn other_deaths_do_not_poison() {
    let second = |second: Failure| {
        let mut history = History::default();
        next(&mut history, death("runpod", "died (signal: 6)"));
        let next = next(&mut history, second);
        assert_eq!(history.poison(), None);
        next
    };
    assert_eq!(second(death("runpod", "died (signal: 6)")), "other", "the same provider");
    assert_eq!(second(death("http", "died (signal: 9)")), "other", "another signature");
    assert_eq!(second(Failure { step: (2, 1), ..death("http", "died (signal: 6)") }), "other", "another step");
    assert_eq!(
        second(Failure { died: false, ..death("http", "died (signal: 6)") }),
        "other",
        "the worker, not the task"
    );
}

#[test]
fn network_capacity_and_rate_never_poison() {
    use ErrorKind::*;
    for kind in [Unavailable, Timeout, RateLimited, CapacityUnavailable, QuotaExceeded, Preempted] {
        let mut history = History::default();
        for provider in ["a", "b", "c"] {
            let failure = Failure { died: true, ..failure(provider, kind) };
            assert_eq!(next(&mut history, failure), "other", "{kind:?}");
        }
        assert_eq!(history.poison(), None);
    }
}

#[test]
fn a_job_is_given_up_after_so_many_failures_or_so_much_time() {
    let patience = Patience { failures: 3, ..Patience::default() };
    let mut history = History::default();
    for provider in ["a", "b"] {
        assert!(matches!(history.after(failure(provider, ErrorKind::OutOfMemory), &patience), Next::Other));
    }
    let Next::Stop(error) = history.after(failure("c", ErrorKind::WorkerUnhealthy), &patience) else { panic!() };
    assert_eq!((error.kind(), error.code()), (ErrorKind::AllProvidersFailed, code::NO_PROVIDER));
    assert_eq!(
        error.report(),
        "the job is given up after 3 failures without a new checkpoint\n  a: as told\n  b: as told\n  c: as told\n  \
         try: mend one of the providers, then go on with `--resume`; `router.patience.failures` sets how long this goes \
         on"
    );
    let mut history = History::default();
    next(&mut history, failure("a", ErrorKind::OutOfMemory));
    let late = Failure { at: 1_000_000 + 3_600_000, ..failure("b", ErrorKind::OutOfMemory) };
    let Next::Stop(error) = history.after(late, &Patience::default()) else { panic!() };
    assert!(error.advice().unwrap().contains("router.patience.time"), "{}", error.report());
    let told = (ErrorKind::AllProvidersFailed, code::MEMORY);
    assert_eq!((error.kind(), error.code()), told, "what all failed of is told");
}

prop_compose! {
    fn any_failure()(

        kind in prop::sample::select(vec![
            ErrorKind::Unavailable, ErrorKind::WorkerUnhealthy, ErrorKind::Preempted, ErrorKind::OutOfMemory,
        ]),
        retry in prop_oneof![
            Just(Retry::Other),
            (0..100u64).prop_map(|s| Retry::Same { after: Some(Duration::from_secs(s)) }),
            (0..100u64).prop_map(|s| Retry::Unknown { until: Duration::from_secs(s) }),
        ],
        is_task in any::<bool>(),
        died in any::<bool>(),
        step in 0..2u64,
    ) -> Failure {
        let base = failure("", kind);
        let error = base.error.clone().with_retry(retry);
        let of = if is_task { Origin::Task } else { Origin::Call };
        Failure { error, of, died, step: (0, step), ..base }
    }
}

proptest! {
    /// A run that does what it is told, against providers that always fail.
    #[test]
    fn it_always_ends(script in prop::collection::vec(any_failure(), 1..20)) {
        let providers = ["a", "b", "c", "d", "e"];
        let candidates = providers.map(fixture::paid);
        let (mut history, patience) = (History::default(), Patience::default());
        let (mut now, mut attempts, mut script) = (0, 0, script.into_iter().cycle());
        loop {
            let demand = crate::Demand { excluded: history.excluded(), ..fixture::demand() };
            let Some(choice) = decide(&candidates, &demand, &Budget::default(), now).choice else { break };
            attempts += 1;
            prop_assert!(attempts <= 2 * providers.len(), "no end in sight");
            let what = script.next().unwrap();
            let attempt = format!("{attempts}");
            let mut looks = 0;
            let step = loop {
                let failure = Failure { provider: choice.provider.clone(), attempt: attempt.clone(), at: now, ..what.clone() };
                match history.after(failure, &patience) {
                    Next::LookAgain { until } => {
                        looks += 1;
                        prop_assert!(until > now && looks <= 100, "looking for ever");
                        now += 1000;
                    }
                    next => break next,
                }
            };
            match step {
                Next::Stop(_) => break,
                Next::Same { after } => now += u64::try_from(after.as_millis()).unwrap(),
                _ => {}
            }
        }
    }
}

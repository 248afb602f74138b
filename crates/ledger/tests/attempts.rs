//! From reservation to charge: states, caps, and what the ledger tells of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::{HOUR, NOON, Place, at, cap, granted, job, reservation, settlement};
use outboard_core::{ErrorKind, NanoUsd};
use outboard_ledger::{
    Correction, Expired, GroupBy, JobFilter, Refusal, Reserved, Scope, Settled, Settlement, Span, Spent, State,
};

on_both! {
    an_attempt_goes_its_way,
    the_same_again_changes_nothing,
    what_is_out_of_order_is_refused,
    a_cap_counts_charges_and_reservations,
    zero_allows_only_what_is_free,
    caps_cover_what_they_name,
    a_refusal_tells_whether_waiting_helps,
    amounts_never_overflow,
    time_that_is_up,
    an_overrun_is_charged_as_it_is,
    what_is_known_replaces_what_is_assumed,
    a_lost_reservation_does_not_lose_a_charge,
    jobs_are_listed,
    costs_are_grouped,
    bills_correct_charges,
    a_dropped_call_leaves_all_or_nothing,
    an_attempt_is_never_between_held_and_charged,
}

fn spent(charged: u64, assumed: u64, reserved: u64) -> Spent {
    Spent { charged: NanoUsd(charged), assumed: NanoUsd(assumed), reserved: NanoUsd(reserved) }
}

fn granted_in(state: State) -> Reserved {
    Reserved::Granted { state }
}

async fn an_attempt_goes_its_way(place: Place) {
    let (ledger, clock) = place.open_at_noon().await;
    let day = Scope::from(Span::Day);
    let reserved = ledger.reserve(&reservation("a", 100), &[cap(Span::Day, 100)]).await.unwrap();
    assert_eq!(reserved, granted_in(State::Reserved));
    assert_eq!(ledger.spent(&day).await.unwrap(), spent(0, 0, 100));

    ledger.submitting("a", b"\0task").await.unwrap();
    ledger.accepted("a", "rp-1").await.unwrap();
    clock.fetch_add(90_000, Ordering::SeqCst);
    let [open] = &ledger.open_attempts().await.unwrap()[..] else { panic!() };
    assert_eq!((open.id.as_str(), open.state, open.task_id.as_deref()), ("a", State::Accepted, Some("rp-1")));
    assert_eq!((open.task.as_deref(), open.age), (Some(&b"\0task"[..]), Duration::from_secs(90)));
    assert_eq!((open.job.as_str(), open.provider.as_str(), open.expires_at), ("job", "runpod", at(NOON + HOUR)));

    let settlement = Settlement { billed: Some(Duration::from_nanos(1_500_000_001)), ..settlement(40) };
    let settled = ledger.settle("a", &settlement, None).await.unwrap();
    assert_eq!(settled, Settled { overrun: NanoUsd::ZERO });
    assert_eq!(ledger.spent(&day).await.unwrap(), spent(40, 0, 0));
    assert_eq!(ledger.open_attempts().await.unwrap(), []);
    let [attempt] = &ledger.attempts("job").await.unwrap()[..] else { panic!() };
    assert_eq!((attempt.state, attempt.reserved, attempt.charged), (State::Settled, NanoUsd(100), NanoUsd(40)));
    assert_eq!((attempt.billed, attempt.outcome.as_deref()), (settlement.billed, Some("succeeded")));
    assert_eq!((attempt.task.as_deref(), attempt.local), (None, false));

    // In one commit, and given back since nothing was handed over.
    let at_once = outboard_ledger::Reservation { submitting: Some(b"task".to_vec()), ..reservation("b", 60) };
    let reserved = ledger.reserve(&at_once, &[cap(Span::Day, 100)]).await.unwrap();
    assert_eq!(reserved, granted_in(State::Submitting));
    assert_eq!(ledger.open_attempts().await.unwrap()[0].task.as_deref(), Some(&b"task"[..]));
    ledger.release("b").await.unwrap();
    assert_eq!(ledger.spent(&day).await.unwrap(), spent(40, 0, 0));
}

async fn bills_correct_charges(place: Place) {
    let (ledger, _) = place.open_at_noon().await;
    for (id, cost) in [("a", 40), ("b", 60)] {
        ledger.reserve(&reservation(id, 100), &[]).await.unwrap();
        ledger.submitting(id, b"task").await.unwrap();
        ledger.settle(id, &settlement(cost), None).await.unwrap();
    }
    ledger.reserve(&reservation("c", 100), &[]).await.unwrap();
    ledger.submitting("c", b"task").await.unwrap();
    let (from, to) = (at(NOON), at(NOON + HOUR));
    let mine = |attempts: Vec<outboard_ledger::Attempt>| attempts.into_iter().map(|a| a.id).collect::<Vec<_>>();
    assert_eq!(mine(ledger.attempts_on("runpod", from, to).await.unwrap()), ["a", "b", "c"]);
    assert_eq!(mine(ledger.attempts_on("other", from, to).await.unwrap()), [""; 0]);

    let correction = |charges: &[(&str, u64)], unexplained| Correction {
        charges: charges.iter().map(|(id, cost)| ((*id).into(), NanoUsd(*cost))).collect(),
        unexplained: NanoUsd(unexplained),
        ..Correction::new("runpod", "ep1", at(NOON))
    };
    let error = ledger.correct(&correction(&[("a", 1), ("c", 7)], 5)).await.unwrap_err();
    assert_eq!(error.to_string(), "the attempt `c` is not charged, so its charge can't be corrected");
    assert_eq!(ledger.spent(&Scope::from(Span::Day)).await.unwrap(), spent(100, 0, 100), "nothing was changed");

    ledger.assume("c").await.unwrap();
    for _ in 0..2 {
        ledger.correct(&correction(&[("a", 30), ("b", 60), ("c", 7)], 5)).await.unwrap();
        assert_eq!(ledger.spent(&Scope::from(Span::Day)).await.unwrap(), spent(102, 0, 0));
    }
    let [found] = &ledger.attempts("bill-runpod").await.unwrap()[..] else { panic!() };
    assert_eq!((found.id.as_str(), found.charged), ("bill-runpod/ep1/2026-03-01", NanoUsd(5)));
    ledger.correct(&correction(&[], 0)).await.unwrap();
    assert_eq!(ledger.spent(&Scope::from(Span::Day)).await.unwrap(), spent(97, 0, 0));
}

async fn the_same_again_changes_nothing(place: Place) {
    let (ledger, _) = place.open_at_noon().await;
    let one = reservation("a", 100);
    for _ in 0..2 {
        // The first grant takes all the room there is.
        assert_eq!(ledger.reserve(&one, &[cap(Span::Day, 100)]).await.unwrap(), granted_in(State::Reserved));
    }
    for _ in 0..2 {
        ledger.submitting("a", b"task").await.unwrap();
    }
    assert_eq!(ledger.reserve(&one, &[]).await.unwrap(), granted_in(State::Submitting));
    for _ in 0..2 {
        ledger.accepted("a", "id").await.unwrap();
    }
    for _ in 0..2 {
        ledger.assume("a").await.unwrap();
    }
    ledger.accepted("a", "id").await.unwrap();
    for _ in 0..2 {
        ledger.settle("a", &settlement(30), None).await.unwrap();
    }
    ledger.assume("a").await.unwrap();
    assert_eq!(ledger.reserve(&one, &[]).await.unwrap(), granted_in(State::Settled));
    assert_eq!(ledger.spent(&Span::Day.into()).await.unwrap(), spent(30, 0, 0));

    granted(&ledger, &reservation("b", 5)).await;
    for _ in 0..2 {
        ledger.release("b").await.unwrap();
    }
    assert_eq!(ledger.attempts("job").await.unwrap().len(), 2);
}

async fn what_is_out_of_order_is_refused(place: Place) {
    let (ledger, _) = place.open_at_noon().await;
    let refused = |result: outboard_core::Result<()>, kind: ErrorKind, report: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), kind);
        let shown = error.report();
        let lines: Vec<_> = shown.lines().filter(|line| !line.starts_with("  ledger: ")).collect();
        assert_eq!(lines.join("\n"), report);
        assert_eq!(error.context()[0].0, "ledger");
    };
    use ErrorKind::{Conflict, InvalidRequest, NotFound};
    granted(&ledger, &reservation("a", 100)).await;
    refused(
        ledger.accepted("a", "id").await,
        Conflict,
        "the attempt `a` cannot be accepted: it was reserved, but not handed over\n  try: mark it as submitting first",
    );
    refused(
        ledger.assume("a").await,
        Conflict,
        "the attempt `a` cannot be charged: it was reserved, but not handed over\n  try: mark it as submitting first",
    );
    refused(
        ledger.reserve(&reservation("a", 99), &[]).await.map(drop),
        Conflict,
        "the attempt `a` was reserved with $0.0000001, not $0.000000099\n  try: give the new attempt an id of its own",
    );
    let elsewhere = outboard_ledger::Reservation { provider: "http".into(), ..reservation("a", 100) };
    refused(
        ledger.reserve(&elsewhere, &[]).await.map(drop),
        Conflict,
        "the attempt `a` was reserved for task `job/1` of job `job` on `runpod`\n  try: give the new attempt an id of its own",
    );
    ledger.submitting("a", b"").await.unwrap();
    ledger.accepted("a", "id").await.unwrap();
    refused(
        ledger.accepted("a", "other").await,
        Conflict,
        "the attempt `a` was accepted as `id`, not as `other`\n  try: find out what became of it, then settle what it cost",
    );
    refused(
        ledger.submitting("a", b"").await,
        Conflict,
        "the attempt `a` cannot be handed over: a provider has accepted it\n  try: find out what became of it, then settle what it cost",
    );
    refused(
        ledger.release("a").await,
        Conflict,
        "the attempt `a` cannot be released: a provider has accepted it\n  try: find out what became of it, then settle what it cost",
    );
    ledger.settle("a", &settlement(5), None).await.unwrap();
    refused(
        ledger.settle("a", &settlement(6), None).await.map(drop),
        Conflict,
        "the attempt `a` was settled with $0.000000005, not $0.000000006\n  try: go by what was settled first",
    );
    granted(&ledger, &reservation("b", 1)).await;
    ledger.release("b").await.unwrap();
    for result in [ledger.submitting("b", b"").await, ledger.accepted("b", "id").await, ledger.assume("b").await] {
        assert_eq!(result.unwrap_err().kind(), Conflict);
    }
    refused(
        ledger.reserve(&reservation("b", 1), &[]).await.map(drop),
        Conflict,
        "the attempt `b` was released\n  try: give the new attempt an id of its own",
    );
    let nobody = outboard_ledger::Reservation { job: "nobody".into(), ..reservation("c", 1) };
    refused(
        ledger.reserve(&nobody, &[]).await.map(drop),
        NotFound,
        "the ledger has no job `nobody`\n  try: check the id, and that this is the ledger it was started with",
    );
    let no_attempt =
        "the ledger has no attempt `z`\n  try: reserve it first; check that this is the ledger it was reserved in";
    refused(ledger.submitting("z", b"").await, NotFound, no_attempt);
    refused(ledger.settle("z", &settlement(0), None).await.map(drop), NotFound, no_attempt);
    refused(ledger.release("z").await, NotFound, no_attempt);
    refused(
        ledger.reserve(&reservation("d", u64::MAX), &[]).await.map(drop),
        InvalidRequest,
        "$18446744073.709551615 is more than a ledger can hold: $9223372036.854775807\n  try: check the price and the limits that it comes from",
    );
}

async fn a_cap_counts_charges_and_reservations(place: Place) {
    let (ledger, _) = place.open_at_noon().await;
    let caps = [cap(Span::Day, 100)];
    granted(&ledger, &reservation("charged", 50)).await;
    ledger.submitting("charged", b"").await.unwrap();
    ledger.settle("charged", &settlement(30), None).await.unwrap();
    granted(&ledger, &reservation("held", 50)).await;
    let refused = ledger.reserve(&reservation("large", 21), &caps).await.unwrap();
    let refusal = Refusal {
        cap: caps[0].clone(),
        charged: NanoUsd(30),
        reserved: NanoUsd(50),
        asked: NanoUsd(21),
        frees_at: Some(at(NOON + HOUR)),
    };
    assert_eq!(refused, Reserved::Refused(refusal));
    assert_eq!(ledger.attempt("large").await.unwrap(), None);
    let [left] = &ledger.budget_left(&caps).await.unwrap()[..] else { panic!() };
    assert_eq!((left.left, left.spent), (NanoUsd(20), spent(30, 0, 50)));
    let fits = ledger.reserve(&reservation("fits", 20), &caps).await.unwrap();
    assert_eq!(fits, granted_in(State::Reserved));
    assert_eq!(ledger.budget_left(&caps).await.unwrap()[0].left, NanoUsd::ZERO);
}

async fn zero_allows_only_what_is_free(place: Place) {
    let (ledger, _) = place.open_at_noon().await;
    let caps = [cap(Span::Day, 0)];
    let refused = ledger.reserve(&reservation("a", 1), &caps).await.unwrap();
    assert!(matches!(refused, Reserved::Refused(Refusal { frees_at: None, .. })), "{refused:?}");
    assert_eq!(ledger.reserve(&reservation("b", 0), &caps).await.unwrap(), granted_in(State::Reserved));
    // Free work goes on though a charge turned out larger than all that was allowed.
    ledger.settle("b", &settlement(7), None).await.unwrap();
    assert_eq!(ledger.reserve(&reservation("c", 0), &caps).await.unwrap(), granted_in(State::Reserved));
}

async fn caps_cover_what_they_name(place: Place) {
    let (ledger, clock) = place.open_at_noon().await;
    ledger.start_job(&job("other")).await.unwrap();
    let in_sweep = outboard_ledger::Reservation { sweep: Some("s".into()), ..reservation("sweep", 10) };
    granted(&ledger, &in_sweep).await;
    let elsewhere =
        outboard_ledger::Reservation { job: "other".into(), provider: "http".into(), ..reservation("elsewhere", 20) };
    granted(&ledger, &elsewhere).await;
    clock.store(NOON + 12 * HOUR, Ordering::SeqCst);
    let tomorrow = outboard_ledger::Reservation { expires_at: at(NOON + 13 * HOUR), ..reservation("tomorrow", 40) };
    ledger.submitting("sweep", b"").await.unwrap();
    ledger.submitting("elsewhere", b"").await.unwrap();
    granted(&ledger, &tomorrow).await; // and what is over an hour old is charged
    let total = async |scope: Scope| ledger.spent(&scope).await.unwrap().total().0;
    assert_eq!(total(Span::Job("job".into()).into()).await, 50);
    assert_eq!(total(Span::Job("other".into()).into()).await, 20);
    assert_eq!(total(Span::Sweep("s".into()).into()).await, 10);
    assert_eq!(total(Span::Day.into()).await, 40);
    assert_eq!(total(Span::Month.into()).await, 70);
    assert_eq!(total(Scope::from(Span::Month).on("runpod")).await, 50);
    assert_eq!(total(Scope::from(Span::Month).on("http")).await, 20);
    assert_eq!(total(Scope::from(Span::Day).on("http")).await, 0);

    let next = outboard_ledger::Reservation { expires_at: at(NOON + 13 * HOUR), ..reservation("next", 1) };
    let full = [
        cap(Span::Job("job".into()), 50),
        cap(Span::Day, 40),
        cap(Span::Month, 70),
        cap(Scope::from(Span::Month).on("runpod"), 50),
    ];
    for cap in full {
        let refused = ledger.reserve(&next, std::slice::from_ref(&cap)).await.unwrap();
        let Reserved::Refused(refusal) = refused else { panic!("{cap:?}") };
        assert_eq!(refusal.cap, cap);
    }
    let not_ours = [
        cap(Span::Job("other".into()), 0),
        cap(Span::Sweep("s".into()), 0),
        cap(Scope::from(Span::Month).on("http"), 0),
    ];
    assert_eq!(ledger.reserve(&next, &not_ours).await.unwrap(), granted_in(State::Reserved));
}

async fn a_refusal_tells_whether_waiting_helps(place: Place) {
    let (ledger, _) = place.open_at_noon().await;
    granted(&ledger, &reservation("a", 10)).await;
    let later = outboard_ledger::Reservation { expires_at: at(NOON + 2 * HOUR), ..reservation("b", 10) };
    granted(&ledger, &later).await;
    let patient = cap(Span::Day, 25);
    let hopeless = cap(Span::Month, 9);
    let refusal = async |caps: &[_]| match ledger.reserve(&reservation("c", 10), caps).await.unwrap() {
        Reserved::Refused(refusal) => refusal,
        granted => panic!("{granted:?}"),
    };
    assert_eq!(refusal(std::slice::from_ref(&patient)).await.frees_at, Some(at(NOON + HOUR)));
    let refused = refusal(&[patient, hopeless.clone()]).await;
    assert_eq!((refused.cap, refused.frees_at), (hopeless, None));
}

async fn amounts_never_overflow(place: Place) {
    let (ledger, _) = place.open_at_noon().await;
    let most = i64::MAX as u64;
    for attempt in ["a", "b", "c"] {
        granted(&ledger, &reservation(attempt, most)).await;
    }
    // Three times the most is more than a total can say.
    let day = Scope::from(Span::Day);
    assert_eq!(ledger.spent(&day).await.unwrap(), spent(0, 0, u64::MAX));
    let refused = ledger.reserve(&reservation("d", most), &[cap(Span::Day, u64::MAX)]).await.unwrap();
    assert!(matches!(refused, Reserved::Refused(_)), "{refused:?}");
    ledger.release("c").await.unwrap();
    assert_eq!(ledger.spent(&day).await.unwrap(), spent(0, 0, u64::MAX - 1));
    ledger.settle("a", &settlement(u64::MAX), None).await.unwrap();
    ledger.settle("a", &settlement(u64::MAX), None).await.unwrap();
    assert_eq!(ledger.spent(&day).await.unwrap(), spent(most, 0, most));
}

async fn time_that_is_up(place: Place) {
    let (ledger, clock) = place.open_at_noon().await;
    for (attempt, amount) in [("never", 1), ("maybe", 2), ("surely", 4), ("later", 8)] {
        let expires_at = at(NOON + if attempt == "later" { 2 * HOUR } else { HOUR });
        granted(&ledger, &outboard_ledger::Reservation { expires_at, ..reservation(attempt, amount) }).await;
    }
    ledger.submitting("maybe", b"task").await.unwrap();
    ledger.submitting("surely", b"task").await.unwrap();
    ledger.accepted("surely", "id").await.unwrap();
    clock.store(NOON + HOUR - 1, Ordering::SeqCst);
    assert_eq!(ledger.expire().await.unwrap(), []);

    clock.store(NOON + HOUR, Ordering::SeqCst);
    let mut expired = ledger.expire().await.unwrap();
    expired.sort_by_key(|expired| expired.amount);
    let one = |attempt: &str, amount: u64, assumed: bool| Expired {
        attempt: attempt.into(),
        job: "job".into(),
        provider: "runpod".into(),
        amount: NanoUsd(amount),
        assumed,
    };
    assert_eq!(expired, [one("never", 1, false), one("maybe", 2, true), one("surely", 4, true)]);
    assert_eq!(ledger.expire().await.unwrap(), []);
    assert_eq!(ledger.spent(&Span::Day.into()).await.unwrap(), spent(6, 6, 8));
    let error = ledger.submitting("never", b"").await.unwrap_err();
    assert_eq!(error.to_string(), "the attempt `never` cannot be handed over: its reservation was released");
    assert_eq!(error.advice(), Some("reserve again, under a new attempt id"));
    let assumed: Vec<_> = ledger.assumed_attempts(9).await.unwrap().into_iter().map(|a| (a.id, a.task_id)).collect();
    assert_eq!(assumed, [("maybe".into(), None), ("surely".into(), Some("id".into()))]);

    // A phantom does not block: its room is free once its time is up.
    clock.store(NOON + 2 * HOUR, Ordering::SeqCst);
    let next = outboard_ledger::Reservation { expires_at: at(NOON + 3 * HOUR), ..reservation("next", 8) };
    let reserved = ledger.reserve(&next, &[cap(Span::Day, 14)]).await.unwrap();
    assert_eq!(reserved, granted_in(State::Reserved));
}

async fn an_overrun_is_charged_as_it_is(place: Place) {
    let (ledger, _) = place.open_at_noon().await;
    granted(&ledger, &reservation("a", 10)).await;
    ledger.submitting("a", b"").await.unwrap();
    for _ in 0..2 {
        let settled = ledger.settle("a", &settlement(13), None).await.unwrap();
        assert_eq!(settled, Settled { overrun: NanoUsd(3) });
    }
    assert_eq!(ledger.attempt("a").await.unwrap().unwrap().overrun(), NanoUsd(3));
    assert_eq!(ledger.spent(&Span::Day.into()).await.unwrap(), spent(13, 0, 0));
}

async fn what_is_known_replaces_what_is_assumed(place: Place) {
    let (ledger, _) = place.open_at_noon().await;
    let day = Scope::from(Span::Day);
    granted(&ledger, &reservation("a", 10)).await;
    ledger.submitting("a", b"task").await.unwrap();
    ledger.assume("a").await.unwrap();
    assert_eq!(ledger.spent(&day).await.unwrap(), spent(10, 10, 0));
    let guess = Settlement { is_assumed: true, ..settlement(7) };
    ledger.settle("a", &guess, None).await.unwrap();
    assert_eq!(ledger.spent(&day).await.unwrap(), spent(7, 7, 0));
    assert_eq!(ledger.attempt("a").await.unwrap().unwrap().task.as_deref(), Some(&b"task"[..]));
    ledger.settle("a", &settlement(4), None).await.unwrap();
    assert_eq!(ledger.spent(&day).await.unwrap(), spent(4, 0, 0));
    ledger.settle("a", &guess, None).await.unwrap();
    assert_eq!(ledger.spent(&day).await.unwrap(), spent(4, 0, 0));
}

async fn a_lost_reservation_does_not_lose_a_charge(place: Place) {
    let (ledger, clock) = place.open_at_noon().await;
    granted(&ledger, &reservation("a", 10)).await;
    clock.fetch_add(2 * HOUR, Ordering::SeqCst);
    assert_eq!(ledger.expire().await.unwrap().len(), 1);
    ledger.settle("a", &settlement(6), None).await.unwrap();
    assert_eq!(ledger.spent(&Span::Day.into()).await.unwrap(), spent(6, 0, 0));
}

async fn jobs_are_listed(place: Place) {
    let ledger = place.open().await;
    let mut jobs = [job("a"), job("b"), job("c")];
    for (job, minute) in jobs.iter_mut().zip(0..) {
        job.created_at = at(NOON + minute * 60_000);
        ledger.start_job(job).await.unwrap();
    }
    jobs[1].sweep = Some("s".into());
    jobs[1].max_cost = None;
    ledger.start_job(&jobs[1]).await.unwrap();
    ledger.set_job_status("c", "succeeded").await.unwrap();
    jobs[2].status = "succeeded".into();
    assert_eq!(ledger.job("b").await.unwrap(), jobs[1]);
    let [a, b, c] = jobs;
    let all = JobFilter::default();
    assert_eq!(ledger.jobs(&all, 9).await.unwrap(), [c.clone(), b.clone(), a]);
    assert_eq!(ledger.jobs(&all, 1).await.unwrap(), std::slice::from_ref(&c));
    let succeeded = JobFilter { status: Some("succeeded".into()), sweep: None };
    assert_eq!(ledger.jobs(&succeeded, 9).await.unwrap(), [c]);
    assert_eq!(ledger.jobs(&JobFilter { sweep: Some("s".into()), status: None }, 9).await.unwrap(), [b]);
    for error in [ledger.set_job_status("d", "x").await.unwrap_err(), ledger.job("d").await.unwrap_err()] {
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::NotFound, "the ledger has no job `d`".into()));
    }
}

async fn costs_are_grouped(place: Place) {
    let (ledger, clock) = place.open_at_noon().await;
    ledger.start_job(&job("other")).await.unwrap();
    for (attempt, job, provider, hours) in
        [("a", "job", "runpod", 0), ("b", "other", "http", 1), ("c", "job", "http", 13), ("d", "job", "http", 13)]
    {
        clock.store(NOON + hours * HOUR, Ordering::SeqCst);
        let (job, provider) = (job.into(), provider.into());
        let expires_at = at(NOON + 99 * HOUR);
        let reservation = outboard_ledger::Reservation { job, provider, expires_at, ..reservation(attempt, 10) };
        granted(&ledger, &reservation).await;
    }
    ledger.settle("a", &settlement(3), None).await.unwrap();
    ledger.submitting("b", b"").await.unwrap();
    ledger.assume("b").await.unwrap();
    ledger.release("d").await.unwrap();
    let costs = async |by: GroupBy, from: u64, to: u64| -> Vec<(String, u64, Spent)> {
        let rows = ledger.costs(by, at(NOON + from * HOUR), at(NOON + to * HOUR)).await.unwrap();
        rows.into_iter().map(|row| (row.key, row.attempts, row.spent)).collect()
    };
    assert_eq!(
        costs(GroupBy::Day, 0, 99).await,
        [("2026-03-01".into(), 2, spent(13, 10, 0)), ("2026-03-02".into(), 1, spent(0, 0, 10))]
    );
    assert_eq!(
        costs(GroupBy::Provider, 0, 99).await,
        [("http".into(), 2, spent(10, 10, 10)), ("runpod".into(), 1, spent(3, 0, 0))]
    );
    assert_eq!(
        costs(GroupBy::Job, 0, 13).await,
        [("job".into(), 1, spent(3, 0, 0)), ("other".into(), 1, spent(10, 10, 0))]
    );
    assert_eq!(costs(GroupBy::Job, 2, 13).await, []);
}

async fn a_dropped_call_leaves_all_or_nothing(place: Place) {
    let (ledger, _) = place.open_at_noon().await;
    let caps = [cap(Span::Day, 1000)];
    let mut open = 0;
    for call in 0..60 {
        let reservation = reservation(&format!("a{call}"), 10);
        let micros = Duration::from_micros(call * 20);
        let finished = tokio::time::timeout(micros, ledger.reserve(&reservation, &caps)).await.is_ok();
        // Waits for what the dropped call had begun.
        ledger.expire().await.unwrap();
        let noted = ledger.attempt(&reservation.attempt).await.unwrap().is_some();
        assert!(noted || !finished);
        open += u64::from(noted);
        assert_eq!(ledger.spent(&Span::Day.into()).await.unwrap(), spent(0, 0, open * 10));
    }
}

async fn an_attempt_is_never_between_held_and_charged(place: Place) {
    const ATTEMPTS: usize = 200;
    let (ledger, clock) = place.open_at_noon().await;
    for attempt in 0..ATTEMPTS {
        granted(&ledger, &reservation(&format!("a{attempt}"), 10)).await;
    }
    let other = place.open().await.with_clock(common::reading(&clock));
    let settling = async {
        for attempt in 0..ATTEMPTS {
            other.settle(&format!("a{attempt}"), &settlement(10), None).await.unwrap();
        }
    };
    let mut settling = std::pin::pin!(settling);
    let caps = [cap(Span::Day, 10 * ATTEMPTS as u64)];
    let wanted = reservation("more", 1);
    loop {
        let looking = async {
            let reserved = ledger.reserve(&wanted, &caps).await.unwrap();
            assert!(matches!(reserved, Reserved::Refused(_)), "{reserved:?}");
            assert_eq!(ledger.spent(&Span::Day.into()).await.unwrap().total(), caps[0].limit);
        };
        let mut looking = std::pin::pin!(looking);
        tokio::select! {
            () = &mut settling => return looking.await,
            () = &mut looking => {}
        }
    }
}

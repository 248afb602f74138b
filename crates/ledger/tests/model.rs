//! Random operations, with processes that die, against a ledger of a few lines in memory.
#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::BTreeMap, sync::Arc, sync::atomic::AtomicU64, sync::atomic::Ordering};

use common::{HOUR, NOON, Place, at, cap, job, reading, settlement};
use outboard_core::NanoUsd;
use outboard_ledger::{Cap, Ledger, Reservation, Reserved, Scope, Settlement, Span, Spent, State};
use proptest::{prelude::*, sample::select, test_runner::TestRunner};

const PROVIDERS: [&str; 2] = ["runpod", "http"];
const JOBS: [(&str, Option<&str>); 3] = [("j0", None), ("j1", Some("s")), ("j2", Some("s"))];

#[derive(Clone, Debug)]
enum Step {
    Reserve { attempt: u8, job: usize, provider: usize, amount: u64, hours: u64, at_once: bool, caps: Vec<(u8, u64)> },
    Submitting(u8),
    Accepted(u8),
    Settle { attempt: u8, cost: u64, is_assumed: bool },
    Release(u8),
    Assume(u8),
    Expire,
    Clock { hours: i64 },
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    let attempt = || 0..10u8;
    let amount = || select(vec![0, 1, 5, 10, 30]);
    let caps = prop::collection::vec((0..6u8, select(vec![0, 10, 30, 60])), 0..3);
    let reserve = (attempt(), 0..3usize, 0..2usize, amount(), 0..30u64, any::<bool>(), caps).prop_map(
        |(attempt, job, provider, amount, hours, at_once, caps)| Step::Reserve {
            attempt,
            job,
            provider,
            amount,
            hours,
            at_once,
            caps,
        },
    );
    prop_oneof![
        6 => reserve,
        3 => attempt().prop_map(Step::Submitting),
        3 => attempt().prop_map(Step::Accepted),
        4 => (attempt(), amount(), any::<bool>())
            .prop_map(|(attempt, cost, is_assumed)| Step::Settle { attempt, cost, is_assumed }),
        2 => attempt().prop_map(Step::Release),
        1 => attempt().prop_map(Step::Assume),
        1 => Just(Step::Expire),
        2 => (-40..40i64).prop_map(|hours| Step::Clock { hours }),
        1 => Just(Step::Die),
    ]
}

#[derive(Clone, Debug)]
struct Row {
    job: usize,
    provider: usize,
    state: State,
    day: u64,
    month: String,
    expires: u64,
    reserved: u64,
    charged: u64,
}

#[derive(Default)]
struct Model {
    rows: BTreeMap<u8, Row>,
    now: u64,
}

impl Model {
    fn spent(&self, scope: &Scope) -> Spent {
        let mut spent = Spent::default();
        for row in self.rows.values() {
            let span = match &scope.span {
                Span::Job(id) => JOBS[row.job].0 == id,
                Span::Sweep(id) => JOBS[row.job].1 == Some(id),
                Span::Day => row.day == self.now / (24 * HOUR),
                Span::Month => row.month == self.month(),
            };
            if span && scope.provider.as_ref().is_none_or(|provider| PROVIDERS[row.provider] == provider) {
                spent.charged.0 += row.charged;
                spent.assumed.0 += if row.state == State::Assumed { row.charged } else { 0 };
                spent.reserved.0 += if row.state.is_live() { row.reserved } else { 0 };
            }
        }
        spent
    }

    /// The clock stays within March and February of 2026.
    fn month(&self) -> String {
        let march = NOON - 12 * HOUR;
        if self.now >= march { "march".into() } else { "before".into() }
    }

    fn expire(&mut self) -> usize {
        let now = self.now;
        let up = self.rows.values_mut().filter(|row| row.state.is_live() && row.expires <= now);
        up.map(|row| {
            let assumed = row.state != State::Reserved;
            row.state = if assumed { State::Assumed } else { State::Released };
            row.charged = if assumed { row.reserved } else { 0 };
        })
        .count()
    }

    /// Goes from one of these states to another; whether it could, or was there.
    fn turn(&mut self, attempt: u8, from: &[State], to: State, also: &[State]) -> bool {
        match self.rows.get_mut(&attempt) {
            Some(row) if from.contains(&row.state) => {
                row.state = to;
                true
            }
            Some(row) => also.contains(&row.state),
            None => false,
        }
    }
}

fn scope(number: u8, job: usize) -> Scope {
    match number {
        0 => Span::Job(JOBS[job].0.into()).into(),
        1 => Span::Sweep("s".into()).into(),
        2 => Span::Day.into(),
        3 => Span::Month.into(),
        4 => Scope::from(Span::Day).on(PROVIDERS[0]),
        _ => Scope::from(Span::Month).on(PROVIDERS[1]),
    }
}

async fn take(ledger: &Ledger, model: &mut Model, step: &Step) {
    use State::{Accepted, Assumed, Released, Reserved as Held, Settled, Submitting};
    let name = |attempt: &u8| format!("a{attempt}");
    match step {
        Step::Reserve { attempt, job, provider, amount, hours, at_once, caps } => {
            let caps: Vec<Cap> = caps.iter().map(|(number, limit)| cap(scope(*number, *job), *limit)).collect();
            let expires = model.now + hours * HOUR;
            let reservation = Reservation {
                attempt: name(attempt),
                job: JOBS[*job].0.into(),
                sweep: JOBS[*job].1.map(Into::into),
                task_key: "task".into(),
                provider: PROVIDERS[*provider].into(),
                local: false,
                amount: NanoUsd(*amount),
                expires_at: at(expires),
                submitting: at_once.then(|| b"task".to_vec()),
            };
            let reserved = ledger.reserve(&reservation, &caps).await;
            let earlier = model.rows.get(attempt).cloned();
            if reserved.is_ok() {
                model.expire();
            }
            let now = model.rows.get(attempt).map(|row| row.state);
            if let (Some(row), Some(now)) = (earlier, now) {
                // Whatever a reservation that fails has found expired is left for the next one.
                let now =
                    if row.state.is_live() && row.expires <= model.now && row.state == Held { Released } else { now };
                let same = (row.job, row.provider, row.reserved) == (*job, *provider, *amount) && now != Released;
                assert_eq!(reserved.is_ok(), same, "{reserved:?}");
                if let Ok(Reserved::Granted { state }) = reserved {
                    let row = model.rows.get_mut(attempt).unwrap();
                    if *at_once && row.state == Held {
                        row.state = Submitting;
                    }
                    assert_eq!(state, row.state);
                }
                return;
            }
            let covered = caps.iter().filter(|cap| match &cap.scope {
                Scope { provider: Some(only), .. } => only == PROVIDERS[*provider],
                Scope { span: Span::Sweep(_), .. } => JOBS[*job].1.is_some(),
                _ => true,
            });
            let fits =
                *amount == 0 || covered.clone().all(|cap| model.spent(&cap.scope).total().0 + amount <= cap.limit.0);
            match reserved.unwrap() {
                Reserved::Granted { state } => {
                    assert!(fits);
                    assert_eq!(state, if *at_once { Submitting } else { Held });
                    let (day, month) = (model.now / (24 * HOUR), model.month());
                    let (job, provider, reserved) = (*job, *provider, *amount);
                    model
                        .rows
                        .insert(*attempt, Row { job, provider, state, day, month, expires, reserved, charged: 0 });
                }
                Reserved::Refused(refusal) => {
                    assert!(!fits);
                    let spent = model.spent(&refusal.cap.scope);
                    assert_eq!((refusal.charged, refusal.reserved), (spent.charged, spent.reserved));
                    assert_eq!(refusal.frees_at.is_some(), spent.charged.0 + amount <= refusal.cap.limit.0);
                }
            }
        }
        Step::Submitting(attempt) => {
            let done = ledger.submitting(&name(attempt), b"task").await.is_ok();
            assert_eq!(done, model.turn(*attempt, &[Held, Submitting], Submitting, &[]));
        }
        Step::Accepted(attempt) => {
            let done = ledger.accepted(&name(attempt), "id").await.is_ok();
            assert_eq!(done, model.turn(*attempt, &[Submitting], Accepted, &[Accepted, Settled, Assumed]));
        }
        Step::Release(attempt) => {
            let done = ledger.release(&name(attempt)).await.is_ok();
            assert_eq!(done, model.turn(*attempt, &[Held, Submitting], Released, &[Released]));
        }
        Step::Assume(attempt) => {
            let done = ledger.assume(&name(attempt)).await.is_ok();
            let live = model.rows.get(attempt).is_some_and(|row| [Submitting, Accepted].contains(&row.state));
            assert_eq!(done, model.turn(*attempt, &[Submitting, Accepted], Assumed, &[Assumed, Settled]));
            if let Some(row) = model.rows.get_mut(attempt).filter(|_| live) {
                row.charged = row.reserved;
            }
        }
        Step::Settle { attempt, cost, is_assumed } => {
            let settlement = Settlement { is_assumed: *is_assumed, ..settlement(*cost) };
            let done = ledger.settle(&name(attempt), &settlement, None).await;
            let Some(row) = model.rows.get_mut(attempt) else { return assert!(done.is_err()) };
            if row.state == Settled {
                return assert_eq!(done.is_ok(), *is_assumed || row.charged == *cost);
            }
            assert_eq!(done.unwrap().overrun.0, cost.saturating_sub(row.reserved));
            row.state = if *is_assumed { Assumed } else { Settled };
            row.charged = *cost;
        }
        Step::Expire => assert_eq!(ledger.expire().await.unwrap().len(), model.expire()),
        Step::Clock { .. } | Step::Die => {}
    }
}

async fn follows(place: &Place, steps: &[Step]) {
    place.execute("DELETE FROM attempts; DELETE FROM jobs").await;
    let mut model = Model { now: NOON, ..Model::default() };
    let clock = Arc::new(AtomicU64::new(NOON));
    let mut ledger = place.open().await.with_clock(reading(&clock));
    for (id, sweep) in JOBS {
        let row = outboard_ledger::JobRow { sweep: sweep.map(Into::into), ..job(id) };
        ledger.start_job(&row).await.unwrap();
    }
    for step in steps {
        match step {
            Step::Die => ledger = place.open().await.with_clock(reading(&clock)),
            Step::Clock { hours } => {
                model.now =
                    model.now.saturating_add_signed(hours * HOUR as i64).clamp(NOON - 200 * HOUR, NOON + 200 * HOUR);
                clock.store(model.now, Ordering::SeqCst);
            }
            step => take(&ledger, &mut model, step).await,
        }
        for scope in (0..6).map(|number| scope(number, 0)) {
            assert_eq!(ledger.spent(&scope).await.unwrap(), model.spent(&scope), "{scope:?}");
        }
    }
    for (attempt, row) in &model.rows {
        let found = ledger.attempt(&format!("a{attempt}")).await.unwrap().unwrap();
        assert_eq!((found.state, found.charged.0, found.reserved.0), (row.state, row.charged, row.reserved));
    }
    ledger.close().await;
}

fn check(place: &Place, runtime: &tokio::runtime::Runtime, cases: u32) {
    runtime.block_on(async { place.open().await.close().await });
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let steps = prop::collection::vec(step(), 1..60);
    let checked = runner.run(&steps, |steps| {
        runtime.block_on(follows(place, &steps));
        Ok(())
    });
    checked.unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn any_order_of_steps_on_sqlite() {
    check(&Place::sqlite(), &runtime(), 100);
}

#[test]
fn any_order_of_steps_on_postgres() {
    let runtime = runtime();
    let Some(place) = runtime.block_on(Place::postgres()) else {
        return println!("skipped: any_order_of_steps: TEST_POSTGRES names no server");
    };
    check(&place, &runtime, 16);
    runtime.block_on(place.server.unwrap().drop_database());
}

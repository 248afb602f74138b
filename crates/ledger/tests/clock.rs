//! Clocks that jump, and observations.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io,
    sync::{Arc, LazyLock, Mutex, atomic::Ordering},
};

use common::{HOUR, NOON, Place, at, cap, granted, reading, reservation, settlement};
use outboard_core::{ErrorKind, NanoUsd, Observation, task::OperationKind, task::Timings};
use outboard_ledger::{Refusal, Reservation, Reserved, Scope, Span};

on_both! {
    a_day_is_that_of_the_reservation,
    a_clock_that_jumps_loses_and_doubles_nothing,
    a_clock_that_was_put_back_is_told_once,
    observations_are_kept_once_per_attempt,
    a_charge_and_its_observation_are_one,
}

const DAY: u64 = 24 * HOUR;

async fn a_day_is_that_of_the_reservation(place: Place) {
    let (ledger, clock) = place.open_at_noon().await;
    clock.store(NOON + 12 * HOUR - 1, Ordering::SeqCst);
    let lasting = |attempt: &str| Reservation { expires_at: at(NOON + 40 * DAY), ..reservation(attempt, 10) };
    granted(&ledger, &lasting("a")).await;
    clock.store(NOON + 12 * HOUR, Ordering::SeqCst);
    ledger.submitting("a", b"").await.unwrap();
    ledger.settle("a", &settlement(10), None).await.unwrap();
    let today = ledger.spent(&Span::Day.into()).await.unwrap();
    assert_eq!(today.total(), NanoUsd::ZERO);
    assert_eq!(ledger.spent(&Span::Month.into()).await.unwrap().total(), NanoUsd(10));
    clock.store(NOON + 31 * DAY, Ordering::SeqCst);
    assert_eq!(ledger.spent(&Span::Month.into()).await.unwrap().total(), NanoUsd::ZERO);
}

async fn a_clock_that_jumps_loses_and_doubles_nothing(place: Place) {
    let (ledger, clock) = place.open_at_noon().await;
    let caps = [cap(Span::Day, 30), cap(Span::Job("job".into()), 100)];
    let mut total = 0;
    // Back and forth: each day has its own room, however often the clock comes back to it.
    for (number, day) in [0, 3, 1, 3, 0, 1, 0, 400].into_iter().enumerate() {
        clock.store(NOON + day * DAY, Ordering::SeqCst);
        for half in ["x", "y"] {
            let attempt = format!("{number}{half}");
            let wanted = Reservation { expires_at: at(NOON + day * DAY + HOUR), ..reservation(&attempt, 15) };
            let before = ledger.spent(&Span::Day.into()).await.unwrap();
            let reserved = ledger.reserve(&wanted, &caps).await.unwrap();
            // A jump forward has expired what was held; what it was charged stays charged.
            total = ledger.spent(&Span::Job("job".into()).into()).await.unwrap().total().0;
            match reserved {
                Reserved::Granted { .. } => ledger.submitting(&attempt, b"").await.unwrap(),
                Reserved::Refused(Refusal { cap, .. }) if cap.scope == Scope::from(Span::Day) => {
                    assert_eq!(before.total(), NanoUsd(30));
                }
                Reserved::Refused(_) => assert!(total + 15 > 100),
            }
            assert!(ledger.spent(&Span::Day.into()).await.unwrap().total() <= NanoUsd(30));
        }
    }
    // Two on each of the days 0, 3 and 1; the job's cap refuses the second of day 400.
    let attempts = ledger.attempts("job").await.unwrap();
    assert_eq!((attempts.len(), total), (6, 90));
    // Whatever was assumed while the clock was wrong is replaced by what it cost, once.
    for attempt in &attempts {
        ledger.settle(&attempt.id, &settlement(2), None).await.unwrap();
    }
    let job = ledger.spent(&Span::Job("job".into()).into()).await.unwrap();
    assert_eq!((job.charged, job.assumed, job.reserved), (NanoUsd(12), NanoUsd::ZERO, NanoUsd::ZERO));
}

async fn a_clock_that_was_put_back_is_told_once(place: Place) {
    static LOG: LazyLock<Log> = LazyLock::new(|| {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        log
    });
    LazyLock::force(&LOG);
    let unique = match &place.server {
        Some(server) => server.database.clone(),
        None => place.name.clone(),
    };
    let warnings = || {
        let log = LOG.0.lock().unwrap();
        let text = String::from_utf8_lossy(&log);
        let told = "the clock lies before the ledger's newest record";
        text.lines().filter(|line| line.contains(told) && line.contains(&unique)).count()
    };
    let (ledger, clock) = place.open_at_noon().await;
    granted(&ledger, &reservation("a", 1)).await;
    clock.store(NOON - 60_000, Ordering::SeqCst);
    granted(&ledger, &reservation("b", 1)).await;
    assert_eq!(warnings(), 0);
    ledger.close().await;

    // Another process, to which the records tell it.
    let ledger = place.open().await.with_clock(reading(&clock));
    clock.store(NOON - 60_001, Ordering::SeqCst);
    for attempt in ["c", "d"] {
        granted(&ledger, &reservation(attempt, 1)).await;
    }
    assert_eq!(warnings(), 1);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn observation(provider: &str, at: u64) -> Observation {
    Observation {
        provider: provider.into(),
        at,
        operation: OperationKind::Train,
        failure: at.is_multiple_of(2).then_some(ErrorKind::Preempted),
        timings: Timings { boot: 0.1 + 0.2, compute: 1e-300, ..Timings::default() },
        flops: u64::MAX,
        bytes_down: 1 << 60,
        bytes_up: 3,
        cost: NanoUsd(7),
    }
}

async fn observations_are_kept_once_per_attempt(place: Place) {
    let ledger = place.open().await;
    for (attempt, provider, time) in [("a", "runpod", 5), ("b", "runpod", 9), ("c", "http", 7), ("d", "runpod", 6)] {
        for _ in 0..2 {
            ledger.observe(&observation(provider, time), attempt).await.unwrap();
        }
    }
    let newest = [9, 6, 5].map(|time| observation("runpod", time));
    assert_eq!(ledger.observations("runpod", 9).await.unwrap(), newest);
    assert_eq!(ledger.observations("runpod", 2).await.unwrap(), newest[..2]);
    assert_eq!(ledger.observations("cpu", 9).await.unwrap(), []);
    // As a newer program may write it.
    place
        .execute("UPDATE observations SET observation = '{\"provider\":\"runpod\",\"new\":1}' WHERE attempt = 'b'")
        .await;
    assert_eq!(ledger.observations("runpod", 9).await.unwrap(), newest[1..]);
}

async fn a_charge_and_its_observation_are_one(place: Place) {
    let (ledger, _) = place.open_at_noon().await;
    granted(&ledger, &reservation("a", 10)).await;
    let seen = observation("runpod", NOON);
    assert!(ledger.settle("unknown", &settlement(7), Some(&seen)).await.is_err());
    assert_eq!(ledger.observations("runpod", 9).await.unwrap(), []);
    ledger.settle("a", &settlement(7), Some(&seen)).await.unwrap();
    assert!(ledger.settle("a", &settlement(8), Some(&observation("runpod", 1))).await.is_err());
    assert_eq!(ledger.observations("runpod", 9).await.unwrap(), [seen]);
}

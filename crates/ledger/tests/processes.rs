//! Several processes on one ledger, some of which are killed.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::HashMap, process::Command};

use common::{Hammer, Place, job};
use outboard_core::NanoUsd;
use outboard_ledger::{Ledger, Span, State};

on_both! {
    processes_never_exceed_a_cap,
    processes_may_create_the_ledger_at_once,
    a_killed_process_leaves_a_ledger_that_adds_up,
}

const PROCESSES: u64 = 8;

/// The server may still be at what a process asked for that was killed.
const END_OTHERS: &str = "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

async fn processes_never_exceed_a_cap(place: Place) {
    if let Some(server) = &place.server {
        // Whatever the server's administrator prefers: with this, a transaction would see what was before its lock.
        let setting = "SET default_transaction_isolation = 'repeatable read'";
        place.execute(&format!("ALTER DATABASE {} {setting}", server.database)).await;
    }
    let ledger = place.open().await;
    ledger.start_job(&job("shared")).await.unwrap();
    let (each, amount) = (16, 7);
    let mut total = 0;
    // Where few fit, all processes ask for the last room at once.
    for fit in [50, 3, 1, 5, 2, 4, 1, 3] {
        let limit = amount * (total + fit) + amount - 1;
        let start = |process: u64| {
            let id = format!("p{total}-{process}");
            Hammer::start(&mut Command::new(Hammer::program()), &place.name, "reserve", &id, [each, amount, limit])
        };
        let mut processes: Vec<_> = (0..PROCESSES).map(start).collect();
        processes.iter_mut().for_each(Hammer::is_ready);
        processes.iter_mut().for_each(Hammer::go);
        let granted: Vec<u64> = processes
            .iter_mut()
            .map(|process| process.line().strip_prefix("granted ").unwrap().parse().unwrap())
            .collect();
        assert_eq!(granted.iter().sum::<u64>(), fit, "{granted:?}");
        total += fit;
        assert_eq!(ledger.attempts("shared").await.unwrap().len() as u64, total);
        assert_eq!(ledger.spent(&Span::Day.into()).await.unwrap().reserved, NanoUsd(total * amount));
    }
}

async fn processes_may_create_the_ledger_at_once(place: Place) {
    let start = |id: u64| {
        Hammer::start(&mut Command::new(Hammer::program()), &place.name, "reserve", &format!("p{id}"), [0, 0, 0])
    };
    let mut processes: Vec<_> = (0..PROCESSES).map(start).collect();
    processes.iter_mut().for_each(Hammer::is_ready);
    processes.iter_mut().for_each(Hammer::go);
    processes.iter_mut().for_each(|process| assert_eq!(process.line(), "granted 0"));
}

async fn a_killed_process_leaves_a_ledger_that_adds_up(place: Place) {
    const ROUNDS: u64 = 20;
    let ledger = place.open().await;
    ledger.start_job(&job("shared")).await.unwrap();
    ledger.close().await;
    let mut random = fastrand::Rng::with_seed(11);
    let mut said: HashMap<String, State> = HashMap::new();
    let limit = 10_000;
    for round in 0..ROUNDS {
        let id = format!("r{round}");
        let program = &mut Command::new(Hammer::program());
        let mut process = Hammer::start(program, &place.name, "tasks", &id, [1_000_000, 100, limit]);
        process.is_ready();
        process.go();
        for _ in 0..random.u32(1..40) {
            note(&process.line(), &mut said);
        }
        process.kill();
        // What it said before it died, but nobody had heard.
        process.lines.by_ref().for_each(|line| note(&line.unwrap(), &mut said));
        if place.server.is_some() {
            place.execute(END_OTHERS).await;
        }
        let ledger = place.open().await;
        adds_up(&ledger, &said, limit).await;
        ledger.close().await;
    }
    assert!(said.len() as u64 >= ROUNDS);
}

fn note(line: &str, said: &mut HashMap<String, State>) {
    let Some((state, attempt)) = line.split_once(' ') else { return };
    let state = match state {
        "reserved" => State::Reserved,
        "submitting" => State::Submitting,
        "accepted" => State::Accepted,
        "settled" => State::Settled,
        "released" => State::Released,
        _ => return,
    };
    said.insert(attempt.to_owned(), state);
}

/// Totals are the sums of the attempts, and nothing that a process said it had done is missing.
async fn adds_up(ledger: &Ledger, said: &HashMap<String, State>, limit: u64) {
    let attempts = ledger.attempts("shared").await.unwrap();
    let found: HashMap<&str, State> = attempts.iter().map(|attempt| (attempt.id.as_str(), attempt.state)).collect();
    for (attempt, state) in said {
        let is = found.get(attempt.as_str()).copied();
        // It may have got one step further than it could say.
        let or = match state {
            State::Reserved => [State::Submitting, State::Released],
            State::Submitting => [State::Accepted; 2],
            State::Accepted => [State::Settled; 2],
            _ => [*state; 2],
        };
        assert!(is == Some(*state) || or.map(Some).contains(&is), "{attempt}: {state:?} was said, {is:?} found");
    }
    let charged: NanoUsd = attempts.iter().map(|attempt| attempt.charged).sum();
    let held: NanoUsd = attempts.iter().filter(|attempt| attempt.state.is_live()).map(|attempt| attempt.reserved).sum();
    for attempt in &attempts {
        let charged = if attempt.state == State::Settled { NanoUsd(50) } else { NanoUsd::ZERO };
        assert_eq!(attempt.charged, charged);
    }
    let spent = ledger.spent(&Span::Job("shared".into()).into()).await.unwrap();
    assert_eq!((spent.charged, spent.reserved), (charged, held));
    assert!(spent.total() <= NanoUsd(limit));
}

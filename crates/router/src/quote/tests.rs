use super::*;
use crate::fixture::{candidate, demand, known, paid};

fn runpod() -> (Candidate, PriceModel) {
    let candidate = Candidate { learned: known(), ..paid("runpod") };
    let price = candidate.price.clone().unwrap();
    (candidate, price)
}

#[test]
fn each_phase_is_work_over_speed() {
    let (candidate, price) = runpod();
    let quote = quote(&candidate, &price, &demand(), 40);
    let expected = Phases { queue: 2.0, start: 5.0, download: 4.0, load: 1.0, compute: 40.0, upload: 2.0 };
    assert_eq!(quote.phases, expected);
    assert_eq!((quote.epochs, quote.tasks, quote.phases.total()), (40, 3, 54.0));
    // 4 s to send the data, three times an overhead of 10 s, 100 epochs.
    assert_eq!(quote.expected_time, Duration::from_secs(134));
    // 4 + 3 · (1 + 2) + 100 s of running, three times half a start of 60 s and half a second of rounding.
    let billed = Duration::from_millis(113_000 + 91_500);
    assert_eq!(quote.expected_cost, price.cost(billed));
    assert_eq!(quote.limit, Some(Duration::from_secs(2 * 47 + 30)));
    assert_eq!(quote.worst_cost, price.worst(Duration::from_secs(124)));
    assert_eq!(quote.worst_cost, price.cost(Duration::from_secs(184)), "with the start and the idle tail");
}

#[test]
fn what_lies_there_is_not_sent_again() {
    let (candidate, price) = runpod();
    let mut demand = demand();
    for (there, download) in [(1_000_000, 3.0), (9_000_000, 0.0)] {
        demand.bytes_there.insert("runpod".into(), there);
        assert_eq!(quote(&candidate, &price, &demand, 1).phases.download, download);
    }
}

#[test]
fn every_task_pays_its_own_fee() {
    let (candidate, _) = runpod();
    let price = PriceModel { per_task: NanoUsd(200), ..PriceModel::free("a test") };
    let quote = quote(&candidate, &price, &demand(), 30);
    assert_eq!((quote.tasks, quote.expected_cost, quote.worst_cost), (4, NanoUsd(800), NanoUsd(200)));
}

#[test]
fn free_local_providers_need_no_limit() {
    let (free, price) = (PriceModel::free("a test"), runpod().1);
    let cpu = Candidate { learned: known(), ..candidate("cpu") };
    let limits = [&free, &price].map(|price| quote(&cpu, price, &demand(), 1).limit);
    assert_eq!(limits, [None, Some(Duration::from_secs(46))]);
    let http = Candidate { learned: known(), ..candidate("http") };
    assert_eq!(quote(&http, &free, &demand(), 1).limit, Some(Duration::from_secs(46)));
    assert_eq!(quote(&http, &free, &demand(), 1).worst_cost, NanoUsd::ZERO);
}

#[test]
fn the_limit_stays_below_the_providers_own_and_the_deadline() {
    let (mut candidate, price) = runpod();
    let mut demand = demand();
    demand.deadline_left = Some(Duration::from_secs(100));
    assert_eq!(quote(&candidate, &price, &demand, 90).limit, Some(Duration::from_secs(100)));
    candidate.capabilities.max_task_time = Some(Duration::from_secs(60));
    assert_eq!(quote(&candidate, &price, &demand, 90).limit, Some(Duration::from_secs(60)));
}

#[test]
fn a_guess_gets_more_room_than_a_measured_time() {
    let (mut candidate, price) = runpod();
    candidate.learned.flops.observations = 3;
    assert_eq!(quote(&candidate, &price, &demand(), 40).limit, Some(Duration::from_secs(4 * 47 + 30)));
}

#[test]
fn times_without_end_saturate() {
    let (candidate, price) = runpod();
    let demand = Demand {
        flops_per_epoch: u64::MAX,
        bytes_down: u64::MAX,
        bytes_up: u64::MAX,
        epochs_left: u32::MAX,
        ..demand()
    };
    let price = PriceModel { per_hour: NanoUsd(u64::MAX), ..price };
    let quote = quote(&candidate, &price, &demand, u32::MAX);
    assert_eq!((quote.expected_cost, quote.worst_cost), (NanoUsd(u64::MAX), NanoUsd(u64::MAX)));
    let none = super::quote(&candidate, &price, &Demand { epochs_left: 0, ..demand }, 0);
    assert_eq!((none.epochs, none.tasks), (1, 1));
}

use std::time::Duration;

use super::*;
use crate::{
    CapLeft,
    fixture::{candidate, day, demand, known, paid},
};

fn length(candidate: &Candidate, demand: &Demand, budget: &Budget) -> (u32, Option<Reason>) {
    epochs(candidate, candidate.price.as_ref().unwrap(), demand, budget)
}

fn of(change: impl FnOnce(&mut Candidate, &mut Demand)) -> u32 {
    let (mut candidate, mut demand) = (Candidate { learned: known(), ..paid("runpod") }, demand());
    change(&mut candidate, &mut demand);
    let (epochs, reason) = length(&candidate, &demand, &Budget::default());
    assert_eq!(reason, None);
    epochs
}

#[test]
fn the_fewest_epochs_that_keep_the_overhead_under_its_share() {
    // 10 of 50 s are a fifth.
    assert_eq!(of(|_, _| {}), 40);
    assert_eq!(of(|_, demand| demand.terms.overhead_share = 0.5), 10);
    assert_eq!(of(|_, demand| demand.flops_per_epoch *= 3), 14);
    assert_eq!(of(|_, demand| demand.epochs_left = 7), 7, "no more than are left");
    assert_eq!(of(|_, demand| demand.flops_per_epoch = 0), 100, "what takes no time");
    let none = |candidate: &mut Candidate, demand: &mut Demand| {
        (candidate.learned.queue.value, candidate.learned.cold.value, candidate.learned.load.value) = (0.0, 0.0, 0.0);
        demand.bytes_up = 0;
    };
    assert_eq!(of(none), 1, "without overhead short tasks are best");
}

#[test]
fn young_and_daly_bound_it_where_work_is_often_lost() {
    // √(2 · 10 s · 20 s) = 20 s.
    assert_eq!(of(|candidate, _| candidate.learned.mtbf.value = 20.0), 20);
    assert_eq!(of(|candidate, _| candidate.learned.mtbf.value = 1e-9), 1);
}

#[test]
fn the_providers_longest_task_bounds_it() {
    // (100 - 30) / 2 = 35 s, of which 7 go into transfers and loading.
    let of = |seconds| of(|candidate, _| candidate.capabilities.max_task_time = Some(Duration::from_secs(seconds)));
    assert_eq!(of(100), 28);
    assert_eq!(of(10), 1, "cut short by the limit if need be");
}

#[test]
fn where_not_even_one_epoch_fits_it_says_so() {
    let mut candidate = Candidate { learned: known(), ..candidate("aws-lambda") };
    candidate.capabilities.max_task_time = Some(Duration::from_secs(7));
    let (epochs, reason) = length(&candidate, &demand(), &Budget::default());
    let reason = reason.unwrap();
    assert_eq!(epochs, 1);
    assert_eq!(reason.to_string(), "the shortest task would take about 8.0 s, but it ends tasks after 7.0 s");
    assert_eq!(reason.help("aws-lambda").unwrap(), "use less data per epoch or a smaller model");
}

#[test]
fn a_free_local_provider_gets_all_epochs() {
    let mut cpu = Candidate { learned: known(), ..candidate("cpu") };
    assert_eq!(length(&cpu, &demand(), &day(0, 0, 0)), (100, None));
    cpu.capabilities.max_task_time = Some(Duration::from_secs(100));
    assert_eq!(length(&cpu, &demand(), &day(0, 0, 0)), (28, None), "within its own bound");
}

#[test]
fn what_is_left_of_the_budget_bounds_it() {
    let candidate = Candidate { learned: known(), ..paid("runpod") };
    let price = candidate.price.clone().unwrap();
    // The worst case of n epochs: 2 · (7 + n) + 30 s, and 60 s beside them.
    let worst = |n: u64| price.cost(Duration::from_secs(104 + 2 * n)).0;
    let with = |left| length(&candidate, &demand(), &day(left + 5, 3, 2));
    assert_eq!(with(worst(40)), (40, None));
    assert_eq!(with(worst(40) - 1), (39, None));
    for n in 1..40 {
        assert_eq!(with(worst(n)), (u32::try_from(n).unwrap(), None));
    }
    assert!(matches!(with(worst(1) - 1), (1, Some(Reason::OverBudget(over))) if over.asked.0 == worst(1)));
}

#[test]
fn the_tightest_cap_bounds_it() {
    let candidate = Candidate { learned: known(), ..paid("runpod") };
    let mut budget = day(u64::MAX, 0, 0);
    let job = CapLeft { name: "job".into(), limit: Some(NanoUsd(40_000_000)), ..budget.caps[0].clone() };
    let unlimited = CapLeft { name: "month".into(), limit: None, charged: NanoUsd(u64::MAX), ..job.clone() };
    budget.caps.extend([job, unlimited]);
    // 40 000 000 / 310 000 = 129 s = 104 + 2 · 12.5.
    assert_eq!(length(&candidate, &demand(), &budget), (12, None));
}

//! What holds for any candidates, demand and budget.

use std::{collections::BTreeSet, time::Duration};

use outboard_core::{
    NanoUsd,
    provider::{Health, PriceModel},
};
use proptest::prelude::*;

use super::*;
use crate::{Breaker, CapLeft, Pause, Threshold, fixture};

const NOW: u64 = 1_000_000;

fn speed(range: std::ops::Range<f64>) -> impl Strategy<Value = f64> {
    prop_oneof![4 => range, 1 => Just(0.0)]
}

prop_compose! {
    fn price()(
        per_task in prop_oneof![Just(0), 0..1_000_000u64],
        per_hour in prop_oneof![Just(0), 0..5_000_000_000u64, Just(u64::MAX)],
        granularity in 0..3u64,
        overhead in 0..100u64,
    ) -> PriceModel {
        PriceModel {
            per_task: NanoUsd(per_task),
            per_hour: NanoUsd(per_hour),
            granularity: Duration::from_secs(granularity),
            overhead: Duration::from_secs(overhead),
            ..PriceModel::free("a law")
        }
    }
}

prop_compose! {
    fn candidate(id: usize)(
        kind in prop::sample::select(vec!["cpu", "cuda", "runpod", "http"]),
        enabled in prop::bool::weighted(0.9),
        is_free in any::<bool>(),
        price in prop_oneof![8 => price().prop_map(Ok), 1 => Just(Err("unknown".to_string()))],
        is_ready in prop::bool::weighted(0.9),
        until in prop_oneof![4 => Just(None), 1 => (0..2 * NOW).prop_map(Some)],
        max_task_time in prop_oneof![Just(None), (1..1000u64).prop_map(|s| Some(Duration::from_secs(s)))],
        (queue, cold_start, flops, mtbf) in (speed(0.0..50.0), speed(0.0..50.0), 1e6..1e12, 1.0..1e6),
        observations in 0..9usize,
    ) -> Candidate {
        let mut candidate = fixture::candidate(kind);
        candidate.id = format!("p{id}");
        candidate.enabled = enabled;
        candidate.price = if is_free { Ok(PriceModel::free("a law")) } else { price };
        candidate.health = if is_ready { Health::Ready } else { Health::Unavailable("down".into()) };
        candidate.breaker =
            until.map_or(Breaker::Closed, |until| Breaker::Open(Pause { until, why: "after a failure".into() }));
        candidate.capabilities.max_task_time = max_task_time;
        candidate.learned = fixture::known();
        candidate.learned.queue.value = queue;
        candidate.learned.cold_start.value = cold_start;
        candidate.learned.flops = crate::Estimate { value: flops, observations };
        candidate.learned.mtbf.value = mtbf;
        candidate
    }
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    (0..7usize).prop_flat_map(|n| (0..n).map(candidate).collect::<Vec<_>>())
}

prop_compose! {
    fn demand()(
        epochs_left in 0..300u32,
        flops_per_epoch in 0..1_000_000_000_000u64,
        (bytes_down, bytes_up) in (0..100_000_000u64, 0..10_000_000u64),
        deadline in prop_oneof![2 => Just(None), 1 => (0..10_000u64).prop_map(Some)],
        pins in prop_oneof![4 => Just(vec![]), 1 => Just(vec!["p0".to_string(), "p2".to_string()])],
        failed in prop_oneof![2 => Just(None), 1 => (0..7usize).prop_map(|i| Some(format!("p{i}")))],
        is_poisoned in prop::bool::weighted(0.05),
        policy in prop::sample::select(vec![Policy::Cheapest, Policy::Fastest, Policy::Balanced]),
        value_of_time in 0..10_000_000_000u64,
        overhead_share in 0.01..0.99,
        local_fallback in any::<bool>(),
    ) -> Demand {
        Demand {
            epochs_left,
            flops_per_epoch,
            bytes_down,
            bytes_up,
            deadline_left: deadline.map(Duration::from_secs),
            pins,
            excluded: failed.map(|id| (id, Reason::Failed("it failed".into()))).into_iter().collect(),
            poisoned: is_poisoned.then(|| "it dies".to_string()),
            terms: Terms { policy, value_of_time: NanoUsd(value_of_time), overhead_share, local_fallback },
            ..fixture::demand()
        }
    }
}

prop_compose! {
    fn cap()(
        provider in prop_oneof![3 => Just(None), 1 => (0..7usize).prop_map(|i| Some(format!("p{i}")))],
        limit in prop_oneof![1 => Just(None), 1 => Just(Some(0)), 3 => (0..2_000_000_000u64).prop_map(Some)],
        charged in prop_oneof![1 => Just(0), 2 => 0..1_000_000_000u64, 1 => any::<u64>()],
        reserved in prop_oneof![1 => Just(0), 1 => 0..1_000_000_000u64],
    ) -> CapLeft {
        let name = "day".to_string();
        CapLeft { name, provider, limit: limit.map(NanoUsd), charged: NanoUsd(charged), reserved: NanoUsd(reserved) }
    }
}

prop_compose! {
    fn budget()(
        caps in prop::collection::vec(cap(), 0..4),
        thresholds in prop::collection::vec(
            (0.01..1.0, prop::sample::select(vec![Action::Warn, Action::PreferCheaper, Action::LocalOnly, Action::Stop])),
            0..3,
        ),
    ) -> Budget {
        Budget { caps, thresholds: thresholds.into_iter().map(|(at, action)| Threshold { at, action }).collect() }
    }
}

/// How the chosen provider scores by the policy that was in force.
fn score(plan: &Plan, demand: &Demand) -> Option<Score> {
    plan.choice.as_ref()?;
    let quote = plan.rows.first()?.quote.as_ref()?;
    Some(Score::new(quote, &Terms { policy: plan.policy, ..demand.terms }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_chosen_provider_has_nothing_against_it(
        candidates in candidates(), demand in demand(), budget in budget(),
    ) {
        let plan = decide(&candidates, &demand, &budget, NOW);
        prop_assert_eq!(plan.rows.len(), candidates.len());
        let ids: BTreeSet<_> = plan.rows.iter().map(|row| &row.provider).collect();
        prop_assert_eq!(ids.len(), candidates.len(), "each has one row");
        let excluded = |row: &&Row| matches!(row.verdict, Verdict::Excluded(_));
        let Some(choice) = &plan.choice else {
            prop_assert!(plan.rows.iter().all(|row| excluded(&row)));
            return Ok(());
        };
        prop_assert_eq!(&plan.rows[0].verdict, &Verdict::Chosen);
        prop_assert_eq!(&plan.rows[0].provider, &choice.provider);
        let chosen = candidates.iter().find(|candidate| candidate.id == choice.provider).unwrap();
        prop_assert!(chosen.enabled && chosen.health == Health::Ready && chosen.price.is_ok());
        prop_assert!(!matches!(&chosen.breaker, Breaker::Open(pause) if pause.until > NOW));
        prop_assert!(demand.pins.is_empty() || demand.pins.contains(&chosen.id));
        prop_assert!(demand.excluded.iter().all(|(id, _)| *id != chosen.id) && demand.poisoned.is_none());
        prop_assert!((1..=demand.epochs_left.max(1)).contains(&choice.epochs));
        if let (Some(limit), Some(longest)) = (choice.limit, chosen.capabilities.max_task_time) {
            prop_assert!(limit <= longest);
        }
        let time = plan.rows[0].quote.unwrap().expected_time;
        prop_assert!(demand.deadline_left.is_none_or(|left| time <= left && choice.limit.is_none_or(|l| l <= left)));
    }

    #[test]
    fn the_worst_case_passes_no_cap(candidates in candidates(), demand in demand(), budget in budget()) {
        let plan = decide(&candidates, &demand, &budget, NOW);
        for row in plan.rows.iter().filter(|row| !matches!(row.verdict, Verdict::Excluded(_))) {
            let candidate = candidates.iter().find(|candidate| candidate.id == row.provider).unwrap();
            let (price, quote) = (candidate.price.as_ref().unwrap(), row.quote.unwrap());
            let worst = quote.worst_cost;
            match quote.limit {
                Some(limit) => prop_assert_eq!(worst, price.worst(limit), "what is enforced"),
                None => prop_assert!(price.is_free() && candidate.is_local),
            }
            for cap in budget.caps.iter().filter(|cap| cap.provider.as_ref().is_none_or(|id| *id == row.provider)) {
                let Some(NanoUsd(limit)) = cap.limit else { continue };
                let used = u128::from(cap.charged.0) + u128::from(cap.reserved.0);
                let fits = worst == NanoUsd::ZERO || used + u128::from(worst.0) <= u128::from(limit);
                prop_assert!(fits, "{worst:?} with {cap:?}");
            }
        }
    }

    #[test]
    fn zero_allows_only_free_providers_and_none_is_no_limit(candidates in candidates(), demand in demand()) {
        let with = |limit| {
            let cap = CapLeft { limit, ..fixture::day(0, 0, 0).caps[0].clone() };
            decide(&candidates, &demand, &Budget { caps: vec![cap], thresholds: vec![] }, NOW)
        };
        for row in with(Some(NanoUsd::ZERO)).rows {
            let candidate = candidates.iter().find(|candidate| candidate.id == row.provider).unwrap();
            let is_paid = candidate.price.as_ref().is_ok_and(|price| !price.is_free());
            // A price of a nano-dollar an hour rounds up to one.
            prop_assert!(!is_paid || matches!(row.verdict, Verdict::Excluded(_)), "{row:?}");
        }
        prop_assert_eq!(with(None), decide(&candidates, &demand, &Budget::default(), NOW));
    }

    #[test]
    fn the_same_data_gives_the_same_plan(
        (ordered, shuffled) in candidates().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        demand in demand(), budget in budget(),
    ) {
        let plan = decide(&ordered, &demand, &budget, NOW);
        prop_assert_eq!(&plan, &decide(&ordered, &demand, &budget, NOW));
        prop_assert_eq!(&plan, &decide(&shuffled, &demand, &budget, NOW));
    }

    #[test]
    fn more_money_never_gives_a_worse_choice(
        candidates in candidates(), demand in demand(), budget in budget(), which in 0..4usize,
        more in prop_oneof![Just(None), (1..2_000_000_000u64).prop_map(Some)],
    ) {
        let mut raised = budget.clone();
        if let Some(cap) = raised.caps.get_mut(which) {
            cap.limit = more.and_then(|more| cap.limit?.checked_add(NanoUsd(more)));
        }
        let before = decide(&candidates, &demand, &budget, NOW);
        let after = decide(&candidates, &demand, &raised, NOW);
        // By what the choice goes by with more money: thresholds may have been uncrossed.
        let before = Plan { policy: after.policy, ..before };
        if let Some(before) = score(&before, &demand) {
            prop_assert!(score(&after, &demand).is_some_and(|after| after <= before));
        }
    }
}

use std::time::Duration;

use outboard_core::{NanoUsd, provider::Health, task::OperationKind};

use super::*;
use crate::{
    Breaker, CapLeft, Filled, Pause, Threshold,
    fixture::{candidate, day, demand, known, paid},
};

const NOW: u64 = 1_800_000_000_000;

fn runpod() -> Candidate {
    Candidate { learned: known(), ..paid("runpod") }
}

/// At home one epoch takes ten seconds.
fn cpu() -> Candidate {
    let mut cpu = Candidate { learned: known(), ..candidate("cpu") };
    cpu.learned.flops.value /= 10.0;
    cpu
}

/// Why `runpod`, changed like this, gets no task, and what would help.
fn refusal(change: impl FnOnce(&mut Candidate, &mut Demand)) -> (String, Option<String>) {
    let (mut candidate, mut demand) = (runpod(), demand());
    change(&mut candidate, &mut demand);
    refusal_of(&candidate, &demand, &Budget::default())
}

fn refusal_of(candidate: &Candidate, demand: &Demand, budget: &Budget) -> (String, Option<String>) {
    let plan = decide(&[candidate.clone(), cpu()], demand, budget, NOW);
    let row = plan.rows.iter().find(|row| row.provider == candidate.id).unwrap();
    assert_ne!(plan.choice.map(|choice| choice.provider), Some(candidate.id.clone()));
    let Verdict::Excluded(reason) = &row.verdict else { panic!("{row:?}") };
    (reason.to_string(), reason.help(&candidate.id))
}

fn said(why: &str, help: &str) -> (String, Option<String>) {
    (why.into(), Some(help.into()))
}

#[test]
fn what_the_user_rules_out_is_said_to_be_ruled_out() {
    assert_eq!(
        refusal(|candidate, _| candidate.enabled = false),
        said("it is disabled", "set `providers.runpod.enabled = true`")
    );
    assert_eq!(
        refusal(|_, demand| demand.pins = vec!["cpu".into(), "http".into()]),
        said("the job runs only on `cpu` and `http`", "add `runpod` to the providers that the job names")
    );
    assert_eq!(
        refusal(|_, demand| demand.excluded = vec![("runpod".into(), Reason::ExcludedByJob)]),
        said("the job excludes it", "take `runpod` off the providers that the job excludes")
    );
}

#[test]
fn what_the_provider_cannot_do_is_named() {
    assert_eq!(
        refusal(|_, demand| demand.operation = OperationKind::Predict),
        ("it can't run `predict`, only `train` and `evaluate`".into(), None)
    );
    assert_eq!(
        refusal(|_, demand| demand.layers.extend(["lstm".into(), "gru".into(), "lstm".into()])),
        said("it lacks the layers `lstm` and `gru`", "use other layers, or update its worker")
    );
    let large = |candidate: &mut Candidate, demand: &mut Demand| {
        candidate.capabilities.max_payload_bytes = Some(10_000_000);
        demand.largest_payload = 37_500_000;
    };
    assert_eq!(
        refusal(large),
        said(
            "it carries at most 10.0 MB at once, but 37.5 MB are needed",
            "let it use a store that takes 37.5 MB, or use less data"
        )
    );
}

#[test]
fn what_is_wrong_now_is_said_with_when_it_ends() {
    assert_eq!(
        refusal(|candidate, _| candidate.health = Health::Unavailable("all 3 workers are throttled".into())),
        said("it can't take a task now: all 3 workers are throttled", "mend that, or use another provider")
    );
    let why = "after 2 failures in a row, the last one because its workers crash or don't start".to_string();
    assert_eq!(
        refusal(|candidate, _| candidate.breaker = Breaker::Open(Pause { until: NOW + 240_000, why })),
        said(
            "it is left alone for 4 min after 2 failures in a row, the last one because its workers crash or don't start",
            "wait 4 min, then it gets a trial"
        )
    );
    assert_eq!(
        refusal(|candidate, _| candidate.price = Err("no answer within 5.0 s".into())),
        said("its price is unknown: no answer within 5.0 s", "state its price under `[providers.runpod]`")
    );
    assert_eq!(
        refusal(|_, demand| demand.excluded = vec![("runpod".into(), Reason::Failed("the worker crashed".into()))]),
        said("it failed at this task: the worker crashed", "mend that, or use another provider")
    );
}

#[test]
fn a_pause_that_is_over_excludes_nobody() {
    for breaker in [Breaker::HalfOpen, Breaker::Open(Pause { until: NOW, why: String::new() })] {
        let candidate = Candidate { breaker, ..runpod() };
        assert!(decide(&[candidate], &demand(), &Budget::default(), NOW).choice.is_some());
    }
}

#[test]
fn a_deadline_that_cannot_be_met_is_compared_with_the_time_left() {
    let within = |seconds| refusal(|_, demand| demand.deadline_left = Some(Duration::from_secs(seconds))).0;
    assert_eq!(within(60), "it would take about 2 min, but the deadline is in 60 s");
    assert_eq!(within(133), "it would take about 134.000 s, but the deadline is in 133.000 s");
    assert_eq!(within(0), "the deadline has passed");
}

#[test]
fn a_budget_that_does_not_suffice_is_shown_with_what_was_used() {
    let job = |limit, charged, reserved| {
        let mut budget = day(limit, charged, reserved);
        budget.caps[0].name = "job".into();
        refusal_of(&runpod(), &demand(), &budget)
    };
    assert_eq!(
        job(50_000_000, 25_000_000, 20_000_000),
        said(
            "its shortest task could cost $0.0329, but $0.005 is left of the job budget of $0.05 ($0.025 spent, $0.02 \
             held by running tasks)",
            "raise `limits.max_cost_usd` of the job, or `budget.job_usd`"
        )
    );
    assert_eq!(
        job(30_000_000, 0, 0).0,
        "its shortest task could cost $0.0329, but $0.03 is left of the job budget of $0.03"
    );
    assert_eq!(
        job(0, 0, 0),
        said(
            "its shortest task could cost $0.0329, but the job budget is zero: only free providers",
            "raise `limits.max_cost_usd` of the job, or `budget.job_usd`"
        )
    );
    let (why, help) = refusal_of(&runpod(), &demand(), &day(5_000_000_000, 1_000_000_000, 3_990_000_000));
    assert_eq!(
        why,
        "its shortest task could cost $0.0329, but $0.01 is left of the day budget of $5.00 ($1.00 spent, $3.99 held by \
         running tasks)"
    );
    assert_eq!(help.unwrap(), "wait for the running tasks, or raise `budget.day_usd`, or wait for the next day");
}

#[test]
fn tasks_that_are_short_for_want_of_money_are_not_blamed_on_time() {
    let demand = Demand { deadline_left: Some(Duration::from_secs(150)), ..demand() };
    assert_eq!(decide(&[runpod()], &demand, &Budget::default(), NOW).choice.unwrap().epochs, 40);
    let (why, _) = refusal_of(&runpod(), &demand, &day(0, 0, 0));
    assert_eq!(why, "its shortest task could cost $0.0329, but the day budget is zero: only free providers");
}

#[test]
fn waiting_helps_only_where_reservations_are_in_the_way() {
    let waits = |budget: &Budget| decide(&[runpod()], &demand(), budget, NOW).may_wait();
    assert!(waits(&day(40_000_000, 0, 20_000_000)));
    assert!(!waits(&day(40_000_000, 20_000_000, 0)));
    assert!(!waits(&day(u64::MAX, 0, 0)), "there is a choice");
    let mut two = day(40_000_000, 0, 20_000_000);
    two.caps.push(CapLeft {
        name: "job".into(),
        limit: Some(NanoUsd(1)),
        reserved: NanoUsd::ZERO,
        ..two.caps[0].clone()
    });
    assert!(!waits(&two), "the other cap would still be in the way");
}

#[test]
fn thresholds_act() {
    let plan = |action, used| {
        let mut budget = day(10_000_000_000, used, 0);
        budget.thresholds = vec![Threshold { at: 0.8, action }];
        decide(&[runpod(), cpu()], &demand(), &budget, NOW)
    };
    let chosen = |action, used| plan(action, used).choice.map(|choice| choice.provider);
    let (below, above) = (7_999_999_999, 8_000_000_000);
    for action in [Action::Warn, Action::PreferCheaper, Action::LocalOnly, Action::Stop] {
        assert_eq!(chosen(action, below).as_deref(), Some("runpod"));
        assert!(plan(action, below).crossed.is_empty() && plan(action, above).crossed.len() == 1);
    }
    assert_eq!(chosen(Action::Warn, above).as_deref(), Some("runpod"));
    assert_eq!(chosen(Action::PreferCheaper, above).as_deref(), Some("cpu"));
    assert_eq!(plan(Action::PreferCheaper, above).policy, Policy::Cheapest);
    assert_eq!(chosen(Action::LocalOnly, above).as_deref(), Some("cpu"));
    assert_eq!(chosen(Action::Stop, above), None);
    let reason = |action| match &plan(action, above).rows.last().unwrap().verdict {
        Verdict::Excluded(reason) => (reason.to_string(), reason.help("runpod").unwrap()),
        other => panic!("{other:?}"),
    };
    let help = "raise the day budget, or change `budget.thresholds`".to_string();
    let used = "80 % of the day budget is used, past the threshold of 80 %";
    assert_eq!(reason(Action::LocalOnly), (format!("{used}, where only local providers are used"), help.clone()));
    assert_eq!(reason(Action::Stop), (format!("{used}, where nothing is started any more"), help));
    let zero = Filled { cap: "day".into(), share: f64::INFINITY, at: 0.8 };
    assert_eq!(zero.to_string(), "the day budget is zero and something was spent");
}

#[test]
fn each_policy_goes_by_its_own_measure() {
    let chosen = |policy, value_of_time| {
        let mut demand = demand();
        demand.terms = Terms { policy, value_of_time: NanoUsd(value_of_time), ..demand.terms };
        decide(&[runpod(), cpu()], &demand, &Budget::default(), NOW).choice.unwrap().provider
    };
    // At home 1025 s for nothing, on the card 134 s for $0.0636: the saved 891 s are worth $0.0636 at $0.257 an hour.
    assert_eq!(chosen(Policy::Cheapest, u64::MAX), "cpu");
    assert_eq!(chosen(Policy::Fastest, 0), "runpod");
    assert_eq!(chosen(Policy::Balanced, 200_000_000), "cpu");
    assert_eq!(chosen(Policy::Balanced, 500_000_000), "runpod");
}

#[test]
fn equals_are_ordered_by_their_other_measure_and_then_by_id() {
    let of = |policy, candidates: &[Candidate]| {
        let mut demand = demand();
        demand.terms.policy = policy;
        let plan = decide(candidates, &demand, &Budget::default(), NOW);
        plan.rows.into_iter().map(|row| row.provider).collect::<Vec<_>>()
    };
    let named = |id: &str, base: Candidate| Candidate { id: id.into(), ..base };
    let http = || Candidate { learned: known(), ..candidate("http") };
    let (b, a) = (named("b", http()), named("a", http()));
    let slow = named("0", Candidate { learned: cpu().learned, ..http() });
    assert_eq!(of(Policy::Cheapest, &[slow, b.clone(), a.clone()]), ["a", "b", "0"]);
    assert_eq!(of(Policy::Fastest, &[named("0", runpod()), b, a]), ["a", "b", "0"]);
}

#[test]
fn coming_home_can_be_forbidden() {
    let home = |pins: &[&str], candidates: &[Candidate]| {
        let mut demand = demand();
        demand.pins = pins.iter().map(ToString::to_string).collect();
        demand.terms.local_fallback = false;
        decide(candidates, &demand, &Budget::default(), NOW)
    };
    let down = Candidate { health: Health::Unavailable("down".into()), ..runpod() };
    let plan = home(&[], &[cpu(), down.clone()]);
    assert_eq!(plan.choice, None);
    let Verdict::Excluded(reason) = &plan.rows[0].verdict else { panic!("{plan:?}") };
    assert_eq!(reason.to_string(), "jobs may not come home to this machine");
    assert_eq!(reason.help("cpu").unwrap(), "set `router.local_fallback = true`, or name `cpu` in the job");
    assert!(home(&["cpu"], &[cpu(), down.clone()]).choice.is_some(), "the job names it");
    assert!(home(&[], &[cpu()]).choice.is_some(), "there is nothing to come home from");
    assert!(home(&[], &[cpu(), Candidate { enabled: false, ..down }]).choice.is_some());
}

#[test]
fn a_poisoned_job_runs_nowhere() {
    let demand = Demand { poisoned: Some("its task process died twice".into()), ..demand() };
    let plan = decide(&[runpod(), cpu()], &demand, &Budget::default(), NOW);
    assert_eq!(plan.choice, None);
    let Verdict::Excluded(reason) = &plan.rows[0].verdict else { panic!("{plan:?}") };
    assert_eq!(reason.to_string(), "the job would fail anywhere: its task process died twice");
}

#[test]
fn the_choice_is_what_gets_reserved() {
    let plan = decide(&[runpod()], &demand(), &Budget::default(), NOW);
    let quote = plan.rows[0].quote.unwrap();
    let (epochs, limit, worst_cost) = (40, quote.limit, quote.worst_cost);
    assert_eq!(plan.choice.unwrap(), Choice { provider: "runpod".into(), epochs, limit, worst_cost });
    assert!(worst_cost > NanoUsd::ZERO && limit.is_some());
}

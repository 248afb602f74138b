use outboard_core::{
    code,
    provider::{Health, PriceModel},
};

use super::*;
use crate::{Budget, Demand, Failure, Origin, Patience, Phases, Threshold, decide, fixture};

/// The example of `docs/routing.md`: nothing was observed yet.
fn example() -> (Vec<Candidate>, Demand, Budget) {
    let lambda = PriceModel {
        per_task: NanoUsd(200),
        per_hour: NanoUsd(600_001_200),
        granularity: Duration::from_millis(1),
        overhead: Duration::from_secs(10),
        ..PriceModel::free("aws")
    };
    let mut lambda = Candidate { price: Ok(lambda), ..fixture::candidate("aws-lambda") };
    lambda.capabilities.max_task_time = Some(Duration::from_secs(900));
    let down = Health::Unavailable("no worker answers at https://office:7070".into());
    let http = Candidate { health: down, ..fixture::candidate("http") };
    let candidates = vec![fixture::candidate("cpu"), fixture::paid("runpod"), lambda, http];
    let demand = Demand {
        epochs_left: 20,
        flops_per_epoch: 30_000_000_000_000,
        bytes_down: 200_000_000,
        bytes_up: 12_000_000,
        ..fixture::demand()
    };
    (candidates, demand, fixture::day(5_000_000_000, 3_000_000_000, 0))
}

#[test]
fn the_example_of_the_docs_is_what_is_computed() {
    let (candidates, demand, budget) = example();
    let docs = include_str!("../../../../docs/routing.md");
    let plan = decide(&candidates, &demand, &budget, 0);
    assert!(docs.contains(&format!("```text\n{plan}```")), "{plan}");
    let docs = docs.split_whitespace().collect::<Vec<_>>().join(" ");
    let quote = plan.rows[0].quote.unwrap();
    let Phases { queue, start, download, load, compute, upload } = quote.phases;
    for number in [
        format!("| waiting | {queue} s |"),
        format!("| start | {start} s |"),
        format!("| download | {download} s |"),
        format!("| load | {load} s |"),
        format!("| compute | {compute} s |"),
        format!("| upload | {upload} s |"),
        format!("{} s in all", quote.expected_time.as_secs_f64()),
        format!("limit is {:?}", quote.limit.unwrap()),
        format!("worst cost {}", quote.worst_cost),
        format!("expected cost {}", quote.expected_cost),
    ] {
        assert!(docs.contains(&number), "{number}");
    }
}

#[test]
fn a_refusal_names_every_cause_and_says_what_helps() {
    let (mut candidates, demand, _) = example();
    candidates.remove(0);
    let broke = fixture::day(5_000_000_000, 5_000_000_000, 0);
    let error = decide(&candidates, &demand, &broke, 0).refusal(&History::default());
    assert_eq!(error.kind(), ErrorKind::BudgetExceeded);
    let report = error.report();
    assert!(report.starts_with("no provider fits the budget\n  aws-lambda: the shortest task would take"), "{report}");
    assert!(
        report.contains("\n  http: it can't take a task now: no worker answers at https://office:7070\n"),
        "{report}"
    );
    assert!(report.contains("\n  runpod: its shortest task could cost $"), "{report}");
    assert!(report.ends_with("try: raise `budget.day_usd`, or wait for the next day"), "{report}");
}

#[test]
fn after_failures_all_providers_have_failed() {
    let (candidates, mut demand, budget) = example();
    let mut history = History::default();
    for provider in ["cpu", "runpod", "gone"] {
        let error = Error::new(ErrorKind::OutOfMemory, format!("{provider} has too little memory"));
        let failure = Failure {
            provider: provider.into(),
            attempt: provider.into(),
            at: 0,
            error,
            of: Origin::Task,
            step: (0, 0),
            died: false,
        };
        history.after(failure, &Patience::default());
    }
    demand.excluded = history.excluded();
    let plan = decide(&candidates, &demand, &budget, 0);
    let error = plan.refusal(&history);
    assert_eq!((error.kind(), error.code()), (ErrorKind::AllProvidersFailed, code::NO_PROVIDER), "causes of all kinds");
    let failed = |row: &Row| matches!(row.verdict, Verdict::Excluded(Reason::Failed(_)));
    let rows = plan.rows.iter().filter(|row| failed(row)).cloned().collect();
    let same = Plan { rows, ..plan.clone() }.refusal(&history);
    assert_eq!((same.kind(), same.code()), (ErrorKind::AllProvidersFailed, code::MEMORY), "one cause");
    let report = error.report();
    assert!(report.starts_with("every provider failed or can't take the task\n"), "{report}");
    let broke = decide(&candidates, &Demand { excluded: vec![], ..demand }, &fixture::day(1, 1, 0), 0);
    let pinned = Plan { rows: broke.rows[1..].to_vec(), choice: None, ..broke };
    assert_eq!(pinned.refusal(&history).kind(), ErrorKind::AllProvidersFailed, "though money is short too");
    assert_eq!(pinned.refusal(&History::default()).kind(), ErrorKind::BudgetExceeded);
    for cause in [
        "\n  aws-lambda: the shortest task would take about ",
        "\n  cpu: it failed at this task: cpu has too little memory\n",
        "\n  http: it can't take a task now: ",
        "\n  runpod: it failed at this task: runpod has too little memory\n",
        "\n  gone: gone has too little memory\n",
    ] {
        assert!(report.contains(cause), "{cause} in {report}");
    }
}

#[test]
fn without_any_provider_it_says_what_to_do() {
    let plan = decide(&[], &fixture::demand(), &Budget::default(), 0);
    let error = plan.refusal(&History::default());
    assert_eq!(error.report(), "no provider can take the task\n  try: enable another provider under [providers]");
    assert_eq!(plan.to_string(), "");
}

#[test]
fn what_is_excluded_for_now_shows_what_it_would_take() {
    let (candidates, demand, _) = example();
    let mut full = fixture::day(5_000_000_000, 4_990_000_000, 0);
    full.thresholds = vec![Threshold { at: 0.8, action: Action::PreferCheaper }];
    let shown = decide(&candidates, &demand, &full, 0).to_string();
    let runpod = "runpod      no        its shortest task could cost $0.0732, but $0.01 is left of the day budget of $5.00 \
                  ($4.99 spent)\n                      would be about $0.2976, about 11 min for all that is left\n";
    assert!(shown.contains(runpod), "{shown}");
    assert!(shown.ends_with("\n99 % of the day budget is used: the cheapest provider is chosen\n"), "{shown}");
}

//! Bugs that other routers have had, each with the test that keeps it out of this one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, Digest, Error, ErrorKind, NanoUsd, Observation, Result, Retry, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Architecture, Operation, OperationKind, PredictTask, Revision, TaskState, Timings},
};
use outboard_router::{
    Breaker, BreakerSettings, Budget, BudgetConfig, Candidate, CapLeft, Demand, Failure, History, Next, Origin,
    Patience, Pause, Policy, Reason, RouterConfig, Verdict, decide, survey,
};
use outboard_wrappers::{RetryProvider, RetrySettings};

const SECOND: Duration = Duration::from_secs(1);

/// A provider that fails every `submit` as told, and counts.
#[derive(Debug)]
struct Failing {
    info: ProviderInfo,
    capabilities: Capabilities,
    price: Result<PriceModel>,
    submits: AtomicUsize,
}

impl Failing {
    fn new(id: &str, price: Result<PriceModel>) -> Self {
        let capabilities = Capabilities {
            operations: vec![OperationKind::Train, OperationKind::Predict],
            layers: vec![],
            cancels: true,
            lists: true,
            reports_progress: true,
            max_payload_bytes: None,
            max_task_time: None,
            max_concurrent_tasks: None,
        };
        let info = ProviderInfo { id: id.into(), kind: id.into(), device: "none".into(), region: None };
        Self { info, capabilities, price, submits: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl ComputeProvider for Failing {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    async fn price(&self) -> Result<PriceModel> {
        self.price.clone()
    }
    async fn health(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
    async fn submit(&self, _: &Task) -> Result<TaskId> {
        self.submits.fetch_add(1, Ordering::Relaxed);
        Err(Error::new(ErrorKind::Unavailable, "the gateway is down"))
    }
    async fn wait(&self, _: &TaskId, _: Revision, _: Duration) -> Result<TaskState> {
        Err(Error::new(ErrorKind::NotFound, "no task was accepted"))
    }
    async fn cancel(&self, _: &TaskId) -> Result<Cancelled> {
        Ok(Cancelled::Stopped)
    }
    async fn list(&self) -> Result<Vec<TaskSummary>> {
        Ok(vec![])
    }
}

fn priced() -> PriceModel {
    PriceModel { per_hour: NanoUsd(1_000_000_000), ..PriceModel::free("a test") }
}

async fn candidates(providers: &[Failing]) -> Vec<Candidate> {
    let asked = providers.iter().map(|provider| -> Arc<dyn ComputeProvider> {
        Arc::new(Failing::new(&provider.info.id, provider.price.clone()))
    });
    survey(&asked.collect::<Vec<_>>(), SECOND).await
}

fn demand() -> Demand {
    Demand {
        operation: OperationKind::Train,
        layers: vec![],
        epochs_left: 20,
        flops_per_epoch: 1_000_000_000_000,
        bytes_down: 0,
        bytes_there: BTreeMap::new(),
        bytes_up: 0,
        largest_payload: 0,
        deadline_left: None,
        pins: vec![],
        excluded: vec![],
        poisoned: None,
        terms: RouterConfig { policy: Policy::Fastest, ..RouterConfig::default() }.terms(),
    }
}

fn day(limit: Option<NanoUsd>) -> Budget {
    let cap = CapLeft { name: "day".into(), provider: None, limit, charged: NanoUsd::ZERO, reserved: NanoUsd::ZERO };
    Budget { caps: vec![cap], thresholds: vec![] }
}

/// `if budget and spent > budget`: zero was taken for "not set".
#[tokio::test(start_paused = true)]
async fn a_zero_budget_is_not_no_limit() {
    let both = candidates(&[Failing::new("runpod", Ok(priced())), Failing::new("cpu", Ok(PriceModel::free("")))]).await;
    let chosen = |limit| decide(&both, &demand(), &day(limit), 0).choice.map(|choice| choice.provider);
    assert_eq!(chosen(None).as_deref(), Some("runpod"));
    assert_eq!(chosen(Some(NanoUsd::ZERO)).as_deref(), Some("cpu"));
    assert_eq!(decide(&both[..1], &demand(), &day(Some(NanoUsd::ZERO)), 0).choice, None);
}

/// Only what is left was looked at, not what running tasks may still cost.
#[tokio::test(start_paused = true)]
async fn what_is_reserved_is_not_left() {
    let runpod = candidates(&[Failing::new("runpod", Ok(priced()))]).await;
    let worst = decide(&runpod, &demand(), &Budget::default(), 0).choice.unwrap().worst_cost;
    let with = |reserved| {
        let mut budget = day(Some(NanoUsd(worst.0 + 10)));
        budget.caps[0].reserved = NanoUsd(reserved);
        decide(&runpod, &demand(), &budget, 0).choice.map(|choice| choice.worst_cost)
    };
    assert_eq!(with(10), Some(worst));
    assert!(with(11) < Some(worst), "a shorter task, or none");
    assert_eq!(with(worst.0 + 10), None);
}

/// A price that could not be found counted as none.
#[tokio::test(start_paused = true)]
async fn an_unknown_price_is_not_free() {
    let error = || Err(Error::new(ErrorKind::Unavailable, "the price list can't be reached"));
    let both = candidates(&[Failing::new("mystery", error()), Failing::new("runpod", Ok(priced()))]).await;
    let mut demand = demand();
    demand.terms.policy = Policy::Cheapest;
    let plan = decide(&both, &demand, &day(None), 0);
    assert_eq!(plan.choice.unwrap().provider, "runpod");
    let reason = Reason::PriceUnknown("the price list can't be reached".into());
    assert_eq!(plan.rows[1].verdict, Verdict::Excluded(reason));
    assert_eq!(decide(&both[..1], &demand, &day(Some(NanoUsd::ZERO)), 0).choice, None, "nor does zero allow it");
}

/// A second cooldown kept the first one's shorter deadline.
#[test]
fn of_two_cooldowns_the_longer_one_holds() {
    let failure = |at| Observation {
        provider: "runpod".into(),
        at,
        operation: OperationKind::Train,
        failure: Some(ErrorKind::RateLimited),
        timings: Timings::default(),
        flops: 0,
        bytes_down: 0,
        bytes_up: 0,
        cost: NanoUsd::ZERO,
    };
    let until = |breaker| match breaker {
        Breaker::Open(pause) => pause.until,
        other => panic!("{other:?}"),
    };
    let from = |failures: &[u64]| {
        let observations: Vec<_> = failures.iter().map(|&at| failure(at)).collect();
        Breaker::from(&observations, 30_000, &BreakerSettings::default())
    };
    let first = until(from(&[0, 1, 2]));
    let second = until(from(&[0, 1, 2, 25_000]));
    assert!(second > first, "{first} {second}");
    let asked = |until| Breaker::Open(Pause { until, why: "it asked for it".into() });
    assert_eq!(until(from(&[0, 1, 2]).or(asked(90_000))), 90_000);
    assert_eq!(until(asked(90_000).or(from(&[0, 1, 2]))), 90_000);
    assert_eq!(until(asked(30_001).or(from(&[0, 1, 2, 25_000]))), second);
}

/// 25 status calls that timed out caused 24 recoveries of a healthy job.
#[test]
fn out_of_reach_is_not_failed() {
    let mut history = History::default();
    for poll in 0..25 {
        let retry = Retry::Unknown { until: Duration::from_secs(600) };
        let failure = Failure {
            provider: "runpod".into(),
            attempt: "1".into(),
            at: poll * 10_000,
            error: Error::new(ErrorKind::Timeout, "no answer").with_retry(retry),
            of: Origin::Call,
            step: (0, 0),
            died: false,
        };
        let next = history.after(failure, &Patience::default());
        assert!(matches!(next, Next::LookAgain { until: 600_000 }), "{next:?}");
    }
    assert!(history.excluded().is_empty() && history.poison().is_none());
}

/// Three tries of the SDK times three of the router.
#[tokio::test(start_paused = true)]
async fn tries_do_not_multiply() {
    let tries = 3;
    let settings = RetrySettings { tries, ..RetrySettings::default() };
    let providers = ["a", "b"].map(|id| Arc::new(Failing::new(id, Ok(PriceModel::free("")))));
    let wrapped = providers.clone().map(|p| -> Arc<dyn ComputeProvider> { Arc::new(RetryProvider::new(p, settings)) });
    let mut history = History::default();
    for attempt in 1.. {
        assert!(attempt <= 10, "it goes on and on");
        let demand = Demand { excluded: history.excluded(), ..demand() };
        let plan = decide(&survey(&wrapped, SECOND).await, &demand, &Budget::default(), 0);
        let Some(choice) = plan.choice.clone() else {
            let error = plan.refusal(&history);
            assert_eq!(error.kind(), ErrorKind::AllProvidersFailed);
            assert!(error.report().contains("a: it failed at this task: the gateway is down"), "{}", error.report());
            break;
        };
        let provider = wrapped.iter().find(|provider| provider.info().id == choice.provider).unwrap();
        let error = provider.submit(&task(attempt)).await.unwrap_err();
        let failure = Failure {
            provider: choice.provider,
            attempt: attempt.to_string(),
            at: 0,
            error,
            of: Origin::Call,
            step: (0, 0),
            died: false,
        };
        assert!(matches!(history.after(failure, &Patience::default()), Next::Other));
    }
    assert_eq!(providers.map(|provider| provider.submits.load(Ordering::Relaxed)), [tries, tries]);
}

fn task(attempt: usize) -> Task {
    let model = Architecture { layers: vec![], input: vec![1] };
    let (weights, data) = (Digest::of(b"weights"), Digest::of(b"data"));
    let operation = Operation::Predict(PredictTask { model, weights, data });
    Task { key: "key".into(), job: "job".into(), attempt: attempt.to_string(), operation, limit: None }
}

/// Nobody had set a budget, so nothing held.
#[test]
fn whoever_sets_nothing_has_a_cap() {
    assert_eq!(BudgetConfig::default().day_usd, Some(NanoUsd(5_000_000_000)));
}

//! How long a decision takes, and the summarising before it.

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use outboard_core::{
    ErrorKind, NanoUsd, Observation,
    provider::{Capabilities, Health, PriceModel, ProviderInfo},
    task::{OperationKind, Timings},
};
use outboard_router::{Action, BreakerSettings, Budget, Candidate, CapLeft, Demand, RouterConfig, Threshold, decide};

const NOW: u64 = 1_800_000_000_000;
const OBSERVATIONS: u64 = 200;
const KINDS: [&str; 5] = ["cpu", "cuda", "runpod", "aws-lambda", "http"];

/// Every fifth starts cold, every seventh fails; none twice in a row.
fn observations(provider: &str) -> Vec<Observation> {
    let observation = |i: u64| {
        let wobble = 1.0 + (i * 37 % 101) as f64 / 100.0;
        let timings = Timings {
            queue: 0.1 * wobble,
            boot: if i.is_multiple_of(5) { 8.0 * wobble } else { 0.0 },
            download: 0.5 * wobble,
            load: 0.2 * wobble,
            compute: 20.0 * wobble,
            upload: 0.3 * wobble,
        };
        Observation {
            provider: provider.into(),
            at: NOW - (OBSERVATIONS - i) * 60_000,
            operation: OperationKind::Train,
            failure: i.is_multiple_of(7).then_some(ErrorKind::Preempted),
            timings,
            flops: 2_000_000_000_000,
            bytes_down: 5_000_000,
            bytes_up: 1_000_000,
            cost: NanoUsd(1_000_000),
        }
    };
    (0..OBSERVATIONS).map(observation).collect()
}

fn candidate(i: usize) -> Candidate {
    let kind = KINDS[i % KINDS.len()];
    let info = ProviderInfo { id: format!("{kind}-{i}"), kind: kind.into(), device: "a device".into(), region: None };
    let capabilities = Capabilities {
        operations: vec![OperationKind::Train, OperationKind::Evaluate, OperationKind::Predict],
        layers: ["linear", "relu", "gelu", "softmax", "flatten", "dropout"].map(String::from).to_vec(),
        cancels: true,
        lists: true,
        reports_progress: true,
        max_payload_bytes: Some(10_000_000),
        max_task_time: Some(Duration::from_secs(900)),
        max_concurrent_tasks: None,
    };
    let price = PriceModel {
        per_hour: NanoUsd(if i.is_multiple_of(4) { 0 } else { 500_000_000 + i as u64 }),
        granularity: Duration::from_secs(1),
        overhead: Duration::from_secs(30),
        ..PriceModel::free("a benchmark")
    };
    Candidate::new(&info, &capabilities, Ok(price), Health::Ready)
}

fn demand() -> Demand {
    Demand {
        operation: OperationKind::Train,
        layers: vec!["linear".into(), "relu".into(), "dropout".into()],
        epochs_left: 200,
        flops_per_epoch: 500_000_000_000,
        bytes_down: 5_000_000,
        bytes_there: BTreeMap::new(),
        bytes_up: 1_000_000,
        largest_payload: 5_000_000,
        deadline_left: Some(Duration::from_secs(36_000)),
        pins: vec![],
        excluded: vec![],
        poisoned: None,
        terms: RouterConfig::default().terms(),
    }
}

/// `left` of ten dollars, under three caps.
fn budget(left: u64) -> Budget {
    let cap = |name: &str| CapLeft {
        name: name.into(),
        provider: None,
        limit: Some(NanoUsd(10_000_000_000)),
        charged: NanoUsd(9_000_000_000 - left),
        reserved: NanoUsd(1_000_000_000),
    };
    let thresholds = vec![Threshold { at: 0.8, action: Action::PreferCheaper }];
    Budget { caps: ["job", "day", "month"].map(cap).to_vec(), thresholds }
}

fn benches(c: &mut Criterion) {
    let settings = BreakerSettings::default();
    for (name, left) in [("decide", 5_000_000_000), ("decide, little money", 60_000_000)] {
        let mut group = c.benchmark_group(name);
        for n in [2, 10, 100] {
            let taught = (0..n).map(|i| {
                let candidate = candidate(i);
                let observations = observations(&candidate.id);
                candidate.taught(&observations, NOW, &settings)
            });
            let (candidates, demand, budget) = (taught.collect::<Vec<_>>(), demand(), budget(left));
            let plan = decide(&candidates, &demand, &budget, NOW);
            assert!(plan.choice.is_some(), "{plan}");
            group.bench_function(BenchmarkId::from_parameter(n), |b| {
                b.iter(|| decide(black_box(&candidates), &demand, &budget, NOW));
            });
        }
        group.finish();
    }
    let (one, observations) = (candidate(2), observations(&candidate(2).id));
    c.bench_function("summarise 200 observations of one provider", |b| {
        b.iter(|| one.clone().taught(black_box(&observations), NOW, &settings));
    });
}

criterion_group! {
    name = all;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = benches
}
criterion_main!(all);

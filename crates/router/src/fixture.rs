//! Candidates and demands for tests.

use std::{collections::BTreeMap, time::Duration};

use outboard_core::{
    ErrorKind, NanoUsd, Observation,
    provider::{Capabilities, Health, PriceModel, ProviderInfo},
    task::{OperationKind, Timings},
};

use crate::{Budget, Candidate, CapLeft, Demand, Estimate, Learned, Policy, Terms};

/// A provider of this kind and id: free, ready, with what all can.
pub(crate) fn candidate(id: &str) -> Candidate {
    let info = ProviderInfo { id: id.into(), kind: id.into(), device: format!("a {id}"), region: None };
    let capabilities = Capabilities {
        operations: vec![OperationKind::Train, OperationKind::Evaluate],
        layers: ["linear", "relu"].map(String::from).to_vec(),
        cancels: true,
        lists: true,
        reports_progress: true,
        max_payload_bytes: None,
        max_task_time: None,
        max_concurrent_tasks: None,
    };
    Candidate::new(&info, &capabilities, Ok(PriceModel::free("a test")), Health::Ready)
}

/// One that bills by the second, by default as an RTX 4090 at RunPod.
pub(crate) fn paid(id: &str) -> Candidate {
    let price = PriceModel {
        per_hour: NanoUsd(1_116_000_000),
        granularity: Duration::from_secs(1),
        overhead: Duration::from_secs(60),
        ..PriceModel::free("a test")
    };
    Candidate { price: Ok(price), ..candidate(id) }
}

/// Exactly known speeds: an overhead of 10 s (2 queue, 5 start, 1 load, 2 upload of `demand`), a download of 4 s, one
/// epoch a second.
pub(crate) fn known() -> Learned {
    let exact = |value| Estimate { value, observations: 100 };
    Learned {
        queue: exact(2.0),
        cold: exact(0.5),
        cold_start: exact(10.0),
        load: exact(1.0),
        down: exact(1e6),
        up: exact(1e6),
        flops: exact(1e9),
        mtbf: exact(1e6),
    }
}

/// Training for 100 epochs.
pub(crate) fn demand() -> Demand {
    Demand {
        operation: OperationKind::Train,
        layers: vec!["linear".into(), "relu".into()],
        epochs_left: 100,
        flops_per_epoch: 1_000_000_000,
        bytes_down: 4_000_000,
        bytes_there: BTreeMap::new(),
        bytes_up: 2_000_000,
        largest_payload: 4_000_000,
        deadline_left: None,
        pins: vec![],
        excluded: vec![],
        poisoned: None,
        terms: Terms {
            policy: Policy::Balanced,
            value_of_time: NanoUsd(500_000_000),
            overhead_share: 0.2,
            local_fallback: true,
        },
    }
}

/// Only a limit for the day, of which this was charged and reserved.
pub(crate) fn day(limit: u64, charged: u64, reserved: u64) -> Budget {
    let cap = CapLeft {
        name: "day".into(),
        provider: None,
        limit: Some(NanoUsd(limit)),
        charged: NanoUsd(charged),
        reserved: NanoUsd(reserved),
    };
    Budget { caps: vec![cap], thresholds: vec![] }
}

/// An attempt that ended at `at` and took ten seconds to compute.
pub(crate) fn observation(at: u64, failure: Option<ErrorKind>) -> Observation {
    Observation {
        provider: "runpod".into(),
        at,
        operation: OperationKind::Train,
        failure,
        timings: Timings { compute: 10.0, ..Timings::default() },
        flops: 0,
        bytes_down: 0,
        bytes_up: 0,
        cost: NanoUsd::ZERO,
    }
}

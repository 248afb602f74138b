//! Why a candidate can't have a task, before anything is computed.

use outboard_core::provider::Health;

use crate::{
    Breaker, Candidate, Demand, Reason,
    budget::{Action, Crossed},
    reason::Filled,
};

/// The first reason against a candidate that needs no price; the ones that are hardest to change come first.
pub(crate) fn refuse(
    candidate: &Candidate,
    demand: &Demand,
    has_remote: bool,
    crossed: &[Crossed],
    now: u64,
) -> Option<Reason> {
    let id = &candidate.id;
    let can = &candidate.capabilities;
    let is_pinned = demand.pins.contains(id);
    let filled = |action| {
        let crossed = crossed.iter().find(|crossed| crossed.threshold.action == action)?;
        Some(Filled { cap: crossed.cap.clone(), share: crossed.share, at: crossed.threshold.at })
    };
    if !candidate.enabled {
        return Some(Reason::Disabled);
    }
    if !demand.pins.is_empty() && !is_pinned {
        return Some(Reason::NotPinned { pins: demand.pins.clone() });
    }
    if let Some(why) = &demand.poisoned {
        return Some(Reason::Poisoned(why.clone()));
    }
    if let Some((_, why)) = demand.excluded.iter().find(|(excluded, _)| excluded == id) {
        return Some(why.clone());
    }
    if candidate.is_local && !is_pinned && has_remote && !demand.terms.local_fallback {
        return Some(Reason::NoLocalFallback);
    }
    if !can.operations.contains(&demand.operation) {
        return Some(Reason::Operation { asked: demand.operation, can: can.operations.clone() });
    }
    let mut missing: Vec<String> = Vec::new();
    for layer in &demand.layers {
        if !can.layers.contains(layer) && !missing.contains(layer) {
            missing.push(layer.clone());
        }
    }
    if !missing.is_empty() {
        return Some(Reason::Layers(missing));
    }
    if let Some(limit) = can.max_payload_bytes.filter(|&limit| demand.largest_payload > limit) {
        return Some(Reason::PayloadTooLarge { bytes: demand.largest_payload, limit });
    }
    if let Some(filled) = filled(Action::Stop) {
        return Some(Reason::Stopped(filled));
    }
    if let Some(filled) = filled(Action::LocalOnly).filter(|_| !candidate.is_local) {
        return Some(Reason::LocalOnly(filled));
    }
    if let Breaker::Open(pause) = &candidate.breaker
        && let Some(left) = pause.until.checked_sub(now).filter(|&left| left > 0)
    {
        return Some(Reason::Paused { seconds: left as f64 / 1e3, why: pause.why.clone() });
    }
    if let Health::Unavailable(why) = &candidate.health {
        return Some(Reason::Unhealthy(why.clone()));
    }
    None
}

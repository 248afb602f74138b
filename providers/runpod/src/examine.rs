//! The checks of `outboard doctor` for RunPod.

use std::time::Duration;

use outboard_core::{
    NanoUsd,
    code::{self, Code},
    error::{Error, ErrorKind, Result},
    finding::{Finding, Findings},
};
use outboard_store::FolderStore;
use serde::Deserialize;

use crate::{
    Config, EndpointConfig,
    account::Account,
    api::{HealthBody, Workers},
    catalogue::Prices,
    connection::Connection,
    diagnosis::{Why, why},
    endpoints::Endpoints,
    price::price,
};

/// An endpoint, as version 1 of the REST API tells it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Facts {
    workers_min: Option<u32>,
    workers_max: Option<u32>,
    idle_timeout: Option<u64>,
}

/// Looks at the key, the endpoints, their workers, prices and bills, and tells `found`. Nothing is started, and nothing is
/// paid for.
pub async fn examine(config: &Config, store: &FolderStore, found: &Findings) {
    let made = Endpoints::new(&config.endpoints).and_then(|_| Connection::new(config));
    let connection = match made {
        Ok(connection) => connection,
        Err(error) => return found.push(Finding::error(code::RUNPOD_CONFIG, "runpod", &error)),
    };
    let count = config.endpoints.len();
    found.push(Finding::pass(code::RUNPOD_CONFIG, "runpod", format!("a key and {count} endpoints are set")));
    found.extend(connection.reach().await);
    if found.has_fail() {
        return;
    }
    let catalogue = Prices::new(store).current(&connection).await;
    let priced = price(config, catalogue.as_ref());
    let mut key = None;
    for endpoint in &config.endpoints {
        let health = connection.health(&endpoint.id).await;
        key.get_or_insert_with(|| accepted(&health));
        let facts: Result<Facts> = connection.manage(&["endpoints", &endpoint.id], &[]).await;
        found.extend(endpoint_checks(endpoint, &health, &facts, config, priced.as_ref().ok().map(|p| p.per_hour)));
    }
    found.extend(key);
    found.push(match &priced {
        Ok(price) => Finding::pass(
            code::RUNPOD_PRICE,
            "runpod",
            format!("at most {} an hour ({}, {})", price.per_hour, price.source, price.as_of),
        ),
        Err(error) => Finding::error(code::RUNPOD_PRICE, "runpod", error),
    });
    found.push(billing(config).await);
}

fn accepted(health: &Result<HealthBody>) -> Finding {
    match health {
        Err(error) if error.kind() == ErrorKind::Unauthenticated => Finding::error(code::RUNPOD_KEY, "runpod", error),
        Ok(_) => Finding::pass(code::RUNPOD_KEY, "runpod", "RunPod accepts the key"),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            Finding::pass(code::RUNPOD_KEY, "runpod", "RunPod knows the key")
        }
        Err(error) => {
            Finding::warn(code::RUNPOD_KEY, "runpod", format!("it could not be seen: {error}"), "try again later")
        }
    }
}

fn endpoint_checks(
    endpoint: &EndpointConfig,
    health: &Result<HealthBody>,
    facts: &Result<Facts>,
    config: &Config,
    per_hour: Option<NanoUsd>,
) -> Vec<Finding> {
    let of = || format!("endpoint {}", endpoint.id);
    let mut found = Vec::new();
    match health {
        Ok(HealthBody { workers, jobs }) => {
            found.push(Finding::pass(code::RUNPOD_ENDPOINT, of(), format!("it answers; {} jobs wait", jobs.in_queue)));
            found.push(workers_check(&of(), workers, jobs.in_queue, facts.as_ref().ok()));
        }
        Err(error) => found.push(Finding::error(code::RUNPOD_ENDPOINT, of(), error)),
    }
    match facts {
        Ok(facts) => found.extend(limits(&of(), facts, config, per_hour)),
        Err(error) => found.push(Finding::warn(
            code::RUNPOD_LIMITS,
            of(),
            format!("its idle time-out and its number of workers could not be seen: {error}"),
            "give the key access to read endpoints, or compare them with `idle_timeout` by hand",
        )),
    }
    found
}

/// The workers in words.
fn workers_check(of: &str, workers: &Workers, waiting: u32, facts: Option<&Facts>) -> Finding {
    const CODE: Code = code::RUNPOD_WORKERS;
    let Workers { idle, initializing, running, throttled, unhealthy, .. } = workers;
    let counts = format!(
        "{running} running, {idle} idle, {initializing} initializing, {throttled} throttled, {unhealthy} unhealthy"
    );
    let why = why(workers);
    let (reason, remedy) = why.words();
    match why {
        Why::Crashing => Finding::fail(CODE, of, format!("{reason} ({counts}; {waiting} jobs wait)"), remedy),
        Why::Throttled => Finding::warn(CODE, of, format!("{reason} ({counts})"), remedy),
        Why::NoWorkers if facts.is_some_and(|facts| facts.workers_max == Some(0)) => {
            Finding::fail(CODE, of, "it may have no workers: its maximum is 0", "raise the maximum in RunPod's console")
        }
        Why::NoWorkers if waiting > 0 => Finding::warn(CODE, of, format!("{reason} ({waiting} jobs wait)"), remedy),
        Why::NoWorkers => Finding::pass(CODE, of, "none at the moment: the next task starts one"),
        Why::Busy | Why::Starting => Finding::pass(CODE, of, counts),
    }
}

/// What the endpoint bills beyond tasks, against what is configured.
fn limits(of: &str, facts: &Facts, config: &Config, per_hour: Option<NanoUsd>) -> Vec<Finding> {
    const CODE: Code = code::RUNPOD_LIMITS;
    let mut found = Vec::new();
    if let Some(kept) = facts.workers_min.filter(|kept| *kept > 0) {
        let cost = per_hour.map(|price| NanoUsd(price.0.saturating_mul(24 * u64::from(kept))));
        let cost = cost.map_or_else(String::new, |cost| format!(": up to {cost} a day"));
        let evidence = format!("{kept} of its workers are always there, and billed{cost}");
        found.push(Finding::warn(CODE, of, evidence, "set the endpoint's minimum of workers to 0"));
    }
    if let Some(idle) = facts.idle_timeout.map(Duration::from_secs) {
        found.push(match idle > config.idle_timeout {
            true => Finding::fail(
                CODE,
                of,
                format!("its idle time-out is {idle:?}, but {:?} are reserved with each task", config.idle_timeout),
                format!("set `providers.runpod.idle_timeout = \"{}s\"`, or lower it there", idle.as_secs()),
            ),
            false => Finding::pass(CODE, of, format!("its idle time-out is {idle:?}, as reserved with each task")),
        });
    }
    found
}

async fn billing(config: &Config) -> Finding {
    const CODE: Code = code::RUNPOD_BILLING;
    let today = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    let today = today.get(..10).unwrap_or_default();
    let bills = async { Account::new(config)?.bills(today, "9999-12-31").await };
    match bills.await {
        Ok(_) => Finding::pass(CODE, "runpod", "the key may read bills: `outboard costs --reconcile` works"),
        Err(error) => Finding::warn(
            CODE,
            "runpod",
            format!("bills could not be read: {error}"),
            remedy(&error, "give the key access to billing; until then charges stay estimates"),
        ),
    }
}

fn remedy(error: &Error, otherwise: &str) -> String {
    error.advice().unwrap_or(otherwise).to_string()
}

//! The checks of `outboard doctor` for workers of one's own.

use futures_util::future::join_all;
use outboard_core::{
    code,
    finding::{Finding, Findings},
};
use outboard_protocol::envelope::WorkerHealth;

use crate::{Config, choose::takes_more, connection::Connection, endpoint::Endpoint};

/// Looks at each worker: whether it can be reached, takes the token, speaks this protocol, and has room; tells `found`. Nothing
/// is started.
pub async fn examine(config: &Config, found: &Findings) {
    let made = Endpoint::all(config).and_then(|endpoints| {
        endpoints.into_iter().map(|endpoint| Connection::new(endpoint, config)).collect::<Result<Vec<_>, _>>()
    });
    match made {
        Ok(connections) => drop(join_all(connections.iter().map(|connection| worker(connection, found))).await),
        Err(error) => found.push(Finding::error(code::PROVIDER_CONFIG, "http", &error)),
    }
}

async fn worker(connection: &Connection, found: &Findings) {
    let reached = connection.reach().await;
    let is_away = reached.iter().any(Finding::is_fail);
    found.extend(reached);
    if is_away {
        return;
    }
    let of = connection.url();
    found.push(match connection.health().await {
        Ok(health) => match takes_more(&health) {
            Ok(()) => Finding::pass(code::HTTP_WORKER, of, words(&health)),
            Err(error) => {
                let remedy = error.advice().unwrap_or_default().to_string();
                Finding::warn(code::HTTP_WORKER, of, format!("{error} ({})", words(&health)), remedy)
            }
        },
        Err(error) => Finding::error(code::HTTP_WORKER, of, &error),
    });
}

fn words(health: &WorkerHealth) -> String {
    let WorkerHealth { protocol, version, device, running, queued, max_running, max_queued, .. } = health;
    format!(
        "version {version}, protocol {protocol}, {device}; {running} of {max_running} tasks run, {queued} of {max_queued} wait"
    )
}

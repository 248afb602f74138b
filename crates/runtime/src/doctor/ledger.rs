//! The ledger: whether it is whole, and what dead clients left in it.

use std::{path::Path, time::Duration};

use outboard_core::{NanoUsd, Result, code, finding::Finding};
use outboard_ledger::Ledger;

use crate::{Config, client::left_behind};

/// How long another process may hold it.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    const OF: &str = "ledger";
    let place = &config.ledger.0;
    if !place.contains("://") && !Path::new(place).exists() {
        return vec![Finding::pass(code::LEDGER, OF, "there is none yet: the first job makes it")];
    }
    let ledger = match Ledger::open_within(place, PATIENCE).await {
        Ok(ledger) => ledger,
        Err(error) => return vec![Finding::error(code::LEDGER, OF, &error)],
    };
    let mut found = vec![match ledger.check().await {
        Ok(()) => Finding::pass(code::LEDGER, OF, "it is whole"),
        Err(error) => Finding::error(code::LEDGER, OF, &error),
    }];
    if !found.iter().any(Finding::is_fail) {
        found.push(reservations(&ledger).await.unwrap_or_else(|error| Finding::error(code::RESERVATIONS, OF, &error)));
        found.push(orphans(&ledger).await.unwrap_or_else(|error| Finding::error(code::ORPHANS, OF, &error)));
    }
    found
}

async fn reservations(ledger: &Ledger) -> Result<Finding> {
    let live = ledger.open_attempts().await?;
    let stale: Vec<_> = live.iter().filter(|attempt| attempt.reserved_at + attempt.age > attempt.expires_at).collect();
    let held: NanoUsd = stale.iter().map(|attempt| attempt.reserved).sum();
    Ok(match stale.len() {
        0 => Finding::pass(code::RESERVATIONS, "ledger", format!("{} are live, none is stale", live.len())),
        count => Finding::warn(
            code::RESERVATIONS,
            "ledger",
            format!("{count} are stale, and hold {held} of the budgets"),
            "run `outboard reap`",
        ),
    })
}

async fn orphans(ledger: &Ledger) -> Result<Finding> {
    let left = left_behind(ledger).await?;
    Ok(match &left[..] {
        [] => Finding::pass(code::ORPHANS, "jobs", "no job was left behind by its client"),
        [first, ..] => Finding::warn(
            code::ORPHANS,
            "jobs",
            format!("{} were left behind by their clients: {}", left.len(), shown(&left)),
            format!("go on with `outboard train --resume {first}`, or run `outboard reap`"),
        ),
    })
}

/// The first few.
fn shown(ids: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = ids.len().saturating_sub(SHOWN);
    let first = ids.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

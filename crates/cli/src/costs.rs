//! `outboard costs`.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use outboard::{
    Client, Error, ErrorKind, Reconciled, Result,
    ledger::{CostRow, GroupBy},
    router::CapLeft,
};
use serde_json::json;

use crate::{
    args::{By, Costs, Global},
    output::{Printer, table},
};

const DAY: Duration = Duration::from_secs(86_400);

/// Days that are shown where none are named.
const DAYS: u32 = 30;

/// Prints what was spent, and what is left.
pub(crate) async fn costs(client: &Client, asked: &Costs, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let now = SystemTime::now();
    let from = match &asked.from {
        Some(day) => parse("--from", day)?,
        None => now.checked_sub(DAYS * DAY).unwrap_or(SystemTime::UNIX_EPOCH),
    };
    let to = match &asked.to {
        Some(day) => parse("--to", day)? + DAY,
        None => now + DAY,
    };
    let (by, name) = match asked.by {
        By::Day => (GroupBy::Day, "day"),
        By::Provider => (GroupBy::Provider, "provider"),
        By::Job => (GroupBy::Job, "job"),
    };
    if asked.reconcile {
        let done = client.reconcile(from, to, asked.today).await?;
        reconciled(&done, global, printer);
    }
    let rows = client.costs(by, from, to).await?;
    if asked.csv {
        printer.line(format!("{name},attempts,charged_usd,assumed_usd,reserved_usd"));
        for CostRow { key, attempts, spent } in rows {
            let usd = [spent.charged, spent.assumed, spent.reserved].map(|amount| decimal(amount.0));
            printer.line(format!("{key},{attempts},{}", usd.join(",")));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let budgets = client.budgets().await?;
    if global.json {
        for CostRow { key, attempts, spent } in &rows {
            let object = json!({
                "event": "cost", "schema": 1, "by": name, "key": key, "attempts": attempts,
                "charged_usd": spent.charged.as_usd(), "assumed_usd": spent.assumed.as_usd(),
                "reserved_usd": spent.reserved.as_usd(),
            });
            printer.line(object.to_string());
        }
        for cap in &budgets.caps {
            let object = json!({
                "event": "budget", "schema": 1, "budget": cap.name,
                "limit_usd": cap.limit.map(|limit| limit.as_usd()), "charged_usd": cap.charged.as_usd(),
                "reserved_usd": cap.reserved.as_usd(), "left_usd": cap.left().map(|left| left.as_usd()),
            });
            printer.line(object.to_string());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = vec![[name, "attempts", "charged", "of it assumed", "reserved"].map(String::from)];
    for CostRow { key, attempts, spent } in rows {
        table.push([
            key,
            attempts.to_string(),
            spent.charged.to_string(),
            spent.assumed.to_string(),
            spent.reserved.to_string(),
        ]);
    }
    if table.len() == 1 {
        printer.line("nothing ran in this time");
    } else {
        table::print(printer, &table, &[1, 2, 3, 4]);
    }
    if !budgets.caps.is_empty() {
        let mut table = vec![["\nbudget", "limit", "charged", "reserved", "left"].map(String::from)];
        for cap in &budgets.caps {
            let CapLeft { name, limit, charged, reserved, .. } = cap;
            let amount = |amount: Option<outboard::NanoUsd>| amount.map_or("no limit".into(), |a| a.to_string());
            table.push([name.clone(), amount(*limit), charged.to_string(), reserved.to_string(), amount(cap.left())]);
        }
        table::print(printer, &table, &[1, 2, 3, 4]);
    }
    budgets.crossed.iter().for_each(|crossed| printer.line(format!("warning: {crossed}")));
    Ok(ExitCode::SUCCESS)
}

/// Prints what became of charges.
fn reconciled(rows: &[Reconciled], global: &Global, printer: &Printer) {
    if global.json {
        for Reconciled { provider, account, day, charged, billed, found, settled, left } in rows {
            let object = json!({
                "event": "reconciled", "schema": 1, "provider": provider, "account": account, "day": day,
                "charged_usd": charged.as_usd(), "billed_usd": billed.as_usd(), "found_usd": found.as_usd(),
                "settled": settled, "left": left,
            });
            printer.line(object.to_string());
        }
        return;
    }
    let mut table =
        vec![["billed by", "day", "charged", "billed", "of it found", "guesses settled", ""].map(String::from)];
    for row in rows {
        table.push([
            format!("{} {}", row.provider, row.account),
            row.day.clone(),
            row.charged.to_string(),
            row.billed.to_string(),
            row.found.to_string(),
            row.settled.to_string(),
            row.left.as_ref().map_or_else(String::new, |why| format!("left as it is: {why}")),
        ]);
    }
    if table.len() == 1 {
        printer.line("nothing was billed in this time");
    } else {
        table::print(printer, &table, &[2, 3, 4, 5]);
    }
    printer.line("");
}

/// Dollars, exactly.
fn decimal(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// The beginning of a day, UTC.
fn parse(flag: &'static str, day: &str) -> Result<SystemTime> {
    humantime::parse_rfc3339_weak(&format!("{day} 00:00:00")).map_err(|_| {
        Error::new(ErrorKind::InvalidRequest, format!("`{day}` is not a day"))
            .at("flag", flag)
            .hint("write it as 2026-11-01")
    })
}

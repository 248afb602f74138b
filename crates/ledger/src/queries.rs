//! What a ledger tells: totals, costs, attempts. All of it is summed up from attempts.

use std::time::{Duration, SystemTime};

use outboard_core::{NanoUsd, Result};
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow, query::Query};

use crate::{
    clock,
    failure::Failure,
    ledger::{Ledger, money},
    records::{Attempt, Cap, CostRow, GroupBy, Left, Scope, Span, Spent, State},
};

pub(crate) const ATTEMPT: &str =
    "SELECT id, job, sweep, task_key, provider, local, state, reserved_at, expires_at, reserved,
    charged, billed, outcome, task_id, task FROM attempts";

const LIVE: &str = "state IN ('reserved', 'submitting', 'accepted')";

/// What of an amount is summed: whole dollars and the rest, apart. So no sum overflows, whatever the amounts.
fn sum(amount: &str) -> String {
    format!(
        "CAST(COALESCE(SUM({amount} / 1000000000), 0) AS BIGINT), CAST(COALESCE(SUM({amount} % 1000000000), 0) AS BIGINT)"
    )
}

impl Ledger {
    /// What a scope has come to. What has expired but was not yet dealt with counts as held.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn spent(&self, scope: &Scope) -> Result<Spent> {
        self.run(async {
            let mut connection = self.database.pool().acquire().await?;
            spent(&mut connection, scope, self.clock.now()).await
        })
        .await
    }

    /// What is left under each cap.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn budget_left(&self, caps: &[Cap]) -> Result<Vec<Left>> {
        self.run(async {
            let mut connection = self.database.pool().acquire().await?;
            let now = self.clock.now();
            let mut all = Vec::with_capacity(caps.len());
            for cap in caps {
                let spent = spent(&mut connection, &cap.scope, now).await?;
                all.push(Left { cap: cap.clone(), spent, left: cap.limit.saturating_sub(spent.total()) });
            }
            Ok(all)
        })
        .await
    }

    /// Costs of the attempts that were reserved from `from` on and before `to`, by the names of the groups.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn costs(&self, by: GroupBy, from: SystemTime, to: SystemTime) -> Result<Vec<CostRow>> {
        let column = match by {
            GroupBy::Day => "day",
            GroupBy::Provider => "provider",
            GroupBy::Job => "job",
        };
        let (charged, assumed, held) = (
            sum("charged"),
            sum("(CASE WHEN state = 'assumed' THEN charged ELSE 0 END)"),
            sum(&format!("(CASE WHEN {LIVE} THEN reserved ELSE 0 END)")),
        );
        let select = format!(
            "SELECT {charged}, {assumed}, {held}, {column}, COUNT(*) FROM attempts
             WHERE reserved_at >= $1 AND reserved_at < $2 AND state <> 'released' GROUP BY {column} ORDER BY {column}"
        );
        self.run(async {
            let select = sqlx::query(AssertSqlSafe(select)).bind(clock::millis(from)).bind(clock::millis(to));
            let mut costs = Vec::new();
            for row in select.fetch_all(self.database.pool()).await? {
                let spent = Spent { charged: total(&row, 0)?, assumed: total(&row, 2)?, reserved: total(&row, 4)? };
                let attempts = row.try_get::<i64, _>(7)?.unsigned_abs();
                costs.push(CostRow { key: row.try_get(6)?, attempts, spent });
            }
            Ok(costs)
        })
        .await
    }

    /// The attempt of this id, if there is one.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn attempt(&self, id: &str) -> Result<Option<Attempt>> {
        self.run(async {
            let mut connection = self.database.pool().acquire().await?;
            attempt_row(&mut connection, id, self.clock.now()).await
        })
        .await
    }

    /// The attempts of a job, in the order in which they were reserved.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn attempts(&self, job: &str) -> Result<Vec<Attempt>> {
        let select = format!("{ATTEMPT} WHERE job = $1 ORDER BY reserved_at, id");
        self.list(sqlx::query(AssertSqlSafe(select)).bind(job)).await
    }

    /// The live attempts, oldest first: those that are under way, and what a process that died has left.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn open_attempts(&self) -> Result<Vec<Attempt>> {
        let select = format!("{ATTEMPT} WHERE {LIVE}");
        let mut open = self.list(sqlx::query(AssertSqlSafe(select))).await?;
        // Asked for the order, SQLite goes through all attempts.
        open.sort_by(|one, other| (one.reserved_at, &one.id).cmp(&(other.reserved_at, &other.id)));
        Ok(open)
    }

    /// The attempts whose cost is still to be found out, oldest first, at most `limit`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn assumed_attempts(&self, limit: u32) -> Result<Vec<Attempt>> {
        let select = format!("{ATTEMPT} WHERE state = 'assumed' ORDER BY reserved_at, id LIMIT $1");
        self.list(sqlx::query(AssertSqlSafe(select)).bind(i64::from(limit))).await
    }

    pub(crate) async fn list(&self, query: Query<'_, sqlx::Any, sqlx::any::AnyArguments>) -> Result<Vec<Attempt>> {
        self.run(async {
            let now = self.clock.now();
            let rows = query.fetch_all(self.database.pool()).await?;
            Ok(rows.iter().map(|row| attempt(row, now)).collect::<Result<_, _>>()?)
        })
        .await
    }
}

pub(crate) async fn attempt_row(
    connection: &mut AnyConnection,
    id: &str,
    now: i64,
) -> Result<Option<Attempt>, Failure> {
    let select = format!("{ATTEMPT} WHERE id = $1");
    let row = sqlx::query(AssertSqlSafe(select)).bind(id).fetch_optional(connection).await?;
    Ok(row.map(|row| attempt(&row, now)).transpose()?)
}

fn attempt(row: &AnyRow, now: i64) -> Result<Attempt, sqlx::Error> {
    let state = State::named(row.try_get(6)?)
        .ok_or_else(|| sqlx::Error::ColumnDecode { index: "state".into(), source: "no state of an attempt".into() })?;
    let reserved_at: i64 = row.try_get(7)?;
    let age = u64::try_from(now.saturating_sub(reserved_at)).unwrap_or_default();
    Ok(Attempt {
        id: row.try_get(0)?,
        job: row.try_get(1)?,
        sweep: row.try_get(2)?,
        task_key: row.try_get(3)?,
        provider: row.try_get(4)?,
        local: row.try_get::<i64, _>(5)? != 0,
        state,
        reserved_at: clock::time(reserved_at),
        age: Duration::from_millis(age),
        expires_at: clock::time(row.try_get(8)?),
        reserved: money(row.try_get(9)?),
        charged: money(row.try_get(10)?),
        billed: row.try_get::<Option<i64>, _>(11)?.map(|nanos| Duration::from_nanos(nanos.unsigned_abs())),
        outcome: row.try_get(12)?,
        task_id: row.try_get(13)?,
        task: row.try_get(14)?,
    })
}

/// What a scope has come to, at `now`; which part of it is assumed is left out.
pub(crate) async fn totals(connection: &mut AnyConnection, scope: &Scope, now: i64) -> Result<Spent, Failure> {
    // One statement: between two, an attempt that is settled would be neither held nor charged.
    let select = format!("SELECT * FROM ({}) AS charged, ({}) AS held", charges(scope), reservations(scope));
    let select = sqlx::query(AssertSqlSafe(select)).bind(key(scope, now)).bind(&scope.provider);
    let row = select.fetch_one(connection).await?;
    Ok(Spent { charged: total(&row, 0)?, assumed: NanoUsd::ZERO, reserved: total(&row, 2)? })
}

async fn spent(connection: &mut AnyConnection, scope: &Scope, now: i64) -> Result<Spent, Failure> {
    let (sum, column, provider) = (sum("charged"), column(scope), provider(scope));
    let select = format!(
        "SELECT * FROM ({}) AS charged, ({}) AS held,
         (SELECT {sum} FROM attempts WHERE state = 'assumed' AND {column} = $1 AND {provider}) AS assumed",
        charges(scope),
        reservations(scope)
    );
    let select = sqlx::query(AssertSqlSafe(select)).bind(key(scope, now)).bind(&scope.provider);
    let row = select.fetch_one(connection).await?;
    Ok(Spent { charged: total(&row, 0)?, assumed: total(&row, 4)?, reserved: total(&row, 2)? })
}

fn charges(scope: &Scope) -> String {
    format!(
        "SELECT {} FROM attempts WHERE {} = $1 AND {} AND charged > 0",
        sum("charged"),
        column(scope),
        provider(scope)
    )
}

fn reservations(scope: &Scope) -> String {
    format!("SELECT {} FROM attempts WHERE {}", sum("reserved"), live(scope))
}

/// When the first of the reservations in a scope that hold something expires.
pub(crate) async fn first_expiry(
    connection: &mut AnyConnection,
    scope: &Scope,
    now: i64,
) -> Result<Option<SystemTime>, Failure> {
    let select = format!("SELECT MIN(expires_at) FROM attempts WHERE reserved > 0 AND {}", live(scope));
    let select = sqlx::query_scalar(AssertSqlSafe(select)).bind(key(scope, now)).bind(&scope.provider);
    let first: Option<i64> = select.fetch_one(connection).await?;
    Ok(first.map(clock::time))
}

/// Live attempts of a scope. The column is wrapped lest SQLite take an index of it, with all that has ended.
fn live(scope: &Scope) -> String {
    format!("{LIVE} AND COALESCE({}, '') = $1 AND {}", column(scope), provider(scope))
}

/// What is compared with `$1`.
fn column(scope: &Scope) -> &'static str {
    match scope.span {
        Span::Job(_) => "job",
        Span::Sweep(_) => "sweep",
        Span::Day => "day",
        Span::Month => "month",
    }
}

/// What is compared with `$2`.
fn provider(scope: &Scope) -> &'static str {
    if scope.provider.is_some() { "provider = $2" } else { "$2 IS NULL" }
}

fn key(scope: &Scope, now: i64) -> String {
    match &scope.span {
        Span::Job(id) | Span::Sweep(id) => id.clone(),
        Span::Day => clock::day(now),
        Span::Month => clock::month(now),
    }
}

/// The two columns of a [`sum`], of which `at` is the first.
fn total(row: &AnyRow, at: usize) -> Result<NanoUsd, sqlx::Error> {
    let (dollars, rest): (i64, i64) = (row.try_get(at)?, row.try_get(at + 1)?);
    let nanos = i128::from(dollars) * 1_000_000_000 + i128::from(rest);
    // More than fits is more than any cap.
    Ok(NanoUsd(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn plan(ledger: &Ledger, select: &str, scope: &Scope) -> String {
        let select = format!("EXPLAIN QUERY PLAN {select}");
        let plan = sqlx::query(AssertSqlSafe(select)).bind("").bind(&scope.provider);
        let steps = plan.fetch_all(ledger.database.pool()).await.unwrap();
        steps.iter().map(|step| step.get::<String, _>("detail")).collect::<Vec<_>>().join("; ")
    }

    /// Whatever is summed while others wait: charges from an index alone, reservations from the live ones only.
    #[tokio::test]
    async fn sums_read_no_more_than_they_need() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path().join("ledger.db").to_str().unwrap()).await.unwrap();
        for (span, name) in [
            (Span::Job(String::new()), "job"),
            (Span::Sweep(String::new()), "sweep"),
            (Span::Day, "day"),
            (Span::Month, "month"),
        ] {
            for (scope, more) in [(Scope::from(span.clone()), ""), (Scope::from(span).on("p"), " AND provider=?")] {
                let charges = plan(&ledger, &charges(&scope), &scope).await;
                let index = format!("SEARCH attempts USING COVERING INDEX charges_by_{name} ({name}=?{more}");
                assert!(charges.starts_with(&index), "{charges}");
                let reservations = plan(&ledger, &reservations(&scope), &scope).await;
                assert_eq!(reservations, "SCAN attempts USING COVERING INDEX live");
            }
        }
    }
}

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

const ATTEMPT: &str = "SELECT id, job, sweep, task_key, provider, local, state, reserved_at, expires_at, reserved,
    charged, billed, outcome, task_id, task FROM attempts";

/// Sums of charges, of those among them that are assumed, and of what is held. Whole dollars and the rest are summed
/// apart: no sum overflows, whatever the amounts.
const SUMS: &str = "CAST(COALESCE(SUM(charged / 1000000000), 0) AS BIGINT),
    CAST(COALESCE(SUM(charged % 1000000000), 0) AS BIGINT),
    CAST(COALESCE(SUM(CASE WHEN state = 'assumed' THEN charged / 1000000000 ELSE 0 END), 0) AS BIGINT),
    CAST(COALESCE(SUM(CASE WHEN state = 'assumed' THEN charged % 1000000000 ELSE 0 END), 0) AS BIGINT),
    CAST(COALESCE(SUM(held / 1000000000), 0) AS BIGINT),
    CAST(COALESCE(SUM(held % 1000000000), 0) AS BIGINT)";

impl Ledger {
    /// What a scope has come to. What has expired but was not yet dealt with counts as held.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn spent(&self, scope: &Scope) -> Result<Spent> {
        self.run(async {
            let mut connection = self.database.pool().acquire().await?;
            totals(&mut connection, scope, self.clock.now()).await
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
                let spent = totals(&mut connection, &cap.scope, now).await?;
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
        let select = format!(
            "SELECT {SUMS}, {column}, COUNT(*) FROM attempts
             WHERE reserved_at >= $1 AND reserved_at < $2 AND state <> 'released' GROUP BY {column} ORDER BY {column}"
        );
        self.run(async {
            let select = sqlx::query(AssertSqlSafe(select)).bind(clock::millis(from)).bind(clock::millis(to));
            let mut costs = Vec::new();
            for row in select.fetch_all(self.database.pool()).await? {
                let attempts = row.try_get::<i64, _>(7)?.unsigned_abs();
                costs.push(CostRow { key: row.try_get(6)?, attempts, spent: spent(&row)? });
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
        let select =
            format!("{ATTEMPT} WHERE state IN ('reserved', 'submitting', 'accepted') ORDER BY reserved_at, id");
        self.list(sqlx::query(AssertSqlSafe(select))).await
    }

    /// The attempts whose cost is still to be found out, oldest first, at most `limit`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn assumed_attempts(&self, limit: u32) -> Result<Vec<Attempt>> {
        let select = format!("{ATTEMPT} WHERE state = 'assumed' ORDER BY reserved_at, id LIMIT $1");
        self.list(sqlx::query(AssertSqlSafe(select)).bind(i64::from(limit))).await
    }

    async fn list(&self, query: Query<'_, sqlx::Any, sqlx::any::AnyArguments>) -> Result<Vec<Attempt>> {
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
    let state = State::named(row.try_get(6)?).ok_or_else(|| sqlx::Error::ColumnDecode {
        index: "state".into(),
        source: "no state of an attempt".into(),
    })?;
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

/// What a scope has come to, at `now`. Summed from one index.
pub(crate) async fn totals(connection: &mut AnyConnection, scope: &Scope, now: i64) -> Result<Spent, Failure> {
    let select = sqlx::query(AssertSqlSafe(sums(scope))).bind(key(scope, now)).bind(&scope.provider);
    Ok(spent(&select.fetch_one(connection).await?)?)
}

fn sums(scope: &Scope) -> String {
    format!("SELECT {SUMS} FROM attempts WHERE {} AND held + charged > 0", within(scope))
}

/// When the first of the reservations in a scope that hold something expires.
pub(crate) async fn first_expiry(
    connection: &mut AnyConnection,
    scope: &Scope,
    now: i64,
) -> Result<Option<SystemTime>, Failure> {
    let select = format!(
        "SELECT MIN(expires_at) FROM attempts WHERE {} AND held + charged > 0
         AND state IN ('reserved', 'submitting', 'accepted')",
        within(scope)
    );
    let select = sqlx::query_scalar(AssertSqlSafe(select)).bind(key(scope, now)).bind(&scope.provider);
    let first: Option<i64> = select.fetch_one(connection).await?;
    Ok(first.map(clock::time))
}

fn within(scope: &Scope) -> String {
    let column = match scope.span {
        Span::Job(_) => "job",
        Span::Sweep(_) => "sweep",
        Span::Day => "day",
        Span::Month => "month",
    };
    let provider = if scope.provider.is_some() { "provider = $2" } else { "$2 IS NULL" };
    format!("{column} = $1 AND {provider}")
}

fn key(scope: &Scope, now: i64) -> String {
    match &scope.span {
        Span::Job(id) | Span::Sweep(id) => id.clone(),
        Span::Day => clock::day(now),
        Span::Month => clock::month(now),
    }
}

/// The columns of [`SUMS`], which come first.
fn spent(row: &AnyRow) -> Result<Spent, sqlx::Error> {
    let sum = |at: usize| -> Result<NanoUsd, sqlx::Error> {
        let (dollars, rest): (i64, i64) = (row.try_get(at)?, row.try_get(at + 1)?);
        let nanos = i128::from(dollars) * 1_000_000_000 + i128::from(rest);
        // More than fits is more than any cap.
        Ok(NanoUsd(u64::try_from(nanos).unwrap_or(u64::MAX)))
    };
    Ok(Spent { charged: sum(0)?, assumed: sum(2)?, reserved: sum(4)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is summed while others wait is read from an index alone.
    #[tokio::test]
    async fn totals_come_from_one_index() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path().join("ledger.db").to_str().unwrap()).await.unwrap();
        for (span, index) in [
            (Span::Job(String::new()), "costs_by_job (job=?"),
            (Span::Sweep(String::new()), "costs_by_sweep (sweep=?"),
            (Span::Day, "costs_by_day (day=?"),
            (Span::Month, "costs_by_month (month=?"),
        ] {
            for (scope, more) in [(Scope::from(span.clone()), ")"), (Scope::from(span).on("p"), " AND provider=?)")] {
                let select = format!("EXPLAIN QUERY PLAN {}", sums(&scope));
                let plan = sqlx::query(AssertSqlSafe(select)).bind("").bind(&scope.provider);
                let plan: Vec<String> = plan
                    .fetch_all(ledger.database.pool())
                    .await
                    .unwrap()
                    .iter()
                    .map(|row| row.get::<String, _>("detail"))
                    .collect();
                assert_eq!(plan, [format!("SEARCH attempts USING COVERING INDEX {index}{more}")]);
            }
        }
    }
}

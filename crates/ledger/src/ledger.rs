//! The ledger: opening it, its jobs.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use outboard_core::{Error, ErrorKind, NanoUsd, Result, code};
use sqlx::{Row, any::AnyRow};

use crate::{
    clock::{self, Clock},
    database::{Database, Kind},
    failure::{self, Failure},
    records::{JobFilter, JobRow},
};

/// How long to wait for other processes, unless told.
const PATIENCE: Duration = Duration::from_secs(10);

/// The durable record of jobs, attempts, reservations, charges and observations. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    pub(crate) database: Database,
    pub(crate) clock: Clock,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("place", &self.database.place).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the ledger in a SQLite file, or in the PostgreSQL database of a `postgres://` URL. Creates what isn't
    /// there, brings what an earlier version wrote to this one, and refuses, untouched, what a newer one wrote.
    ///
    /// # Errors
    /// `InvalidConfig`: a wrong URL. `InvalidRequest`: it can't be written, or is something else. `Unsupported`:
    /// a newer version's. `CorruptPayload`: it is damaged. `Unavailable`, `Unauthenticated`, `PermissionDenied`,
    /// `NotFound`: the server. `Timeout`: another process held it for 10 seconds. Later calls fail in the same ways.
    pub async fn open(place: &str) -> Result<Self> {
        Self::open_within(place, PATIENCE).await
    }

    /// As [`open`](Self::open), but waits no longer than `patience` for other processes, now and later.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn open_within(place: &str, patience: Duration) -> Result<Self> {
        let database = Database::open(place, patience).await.map_err(|error| error.or_code(code::LEDGER))?;
        let newest = "SELECT COALESCE(MAX(reserved_at), 0) FROM attempts";
        let newest = sqlx::query_scalar(newest).fetch_one(database.pool()).await;
        let newest = newest.map_err(|e| Failure::from(e).of(database.kind, &database.place))?;
        let clock = Clock::system(&database.place, newest);
        Ok(Self { database, clock })
    }

    /// Looks whether the database is whole: SQLite reads every page of it. A server looks after itself.
    ///
    /// # Errors
    /// `CorruptPayload` where it is not; those of [`open`](Self::open).
    pub async fn check(&self) -> Result<()> {
        if self.database.kind == Kind::Postgres {
            return Ok(());
        }
        self.run(async {
            let check = sqlx::query_scalar::<_, String>("PRAGMA quick_check(1)");
            match check.fetch_one(self.database.pool()).await?.as_str() {
                "ok" => Ok(()),
                told => Err(Error::new(ErrorKind::CorruptPayload, format!("the ledger is damaged: {told}"))
                    .or_code(code::LEDGER)
                    .hint(failure::RESTORE)
                    .into()),
            }
        })
        .await
    }

    /// Takes the time from `time` instead of the system's clock.
    #[must_use]
    pub fn with_clock(mut self, time: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = self.clock.replaced(time);
        self
    }

    /// Ends its connections. Nothing is lost without it.
    pub async fn close(self) {
        self.database.pool().close().await;
    }

    /// Notes a job, before its first attempt. Of one that was noted before, everything but its time of creation is
    /// replaced: it may have got another limit.
    ///
    /// # Errors
    /// `InvalidRequest` for a limit beyond 9 billion dollars; those of [`open`](Self::open).
    pub async fn start_job(&self, job: &JobRow) -> Result<()> {
        self.run(async {
            let insert = "INSERT INTO jobs (id, name, folder, created_at, max_cost, sweep, status)
                VALUES ($1, $2, $3, $4, $5, $6, $7)
                ON CONFLICT (id) DO UPDATE SET name = excluded.name, folder = excluded.folder,
                    max_cost = excluded.max_cost, sweep = excluded.sweep, status = excluded.status";
            sqlx::query(insert)
                .bind(&job.id)
                .bind(&job.name)
                .bind(&job.folder)
                .bind(clock::millis(job.created_at))
                .bind(job.max_cost.map(amount).transpose()?)
                .bind(&job.sweep)
                .bind(&job.status)
                .execute(self.database.pool())
                .await?;
            Ok(())
        })
        .await
    }

    /// Notes where a job stands.
    ///
    /// # Errors
    /// `NotFound`; those of [`open`](Self::open).
    pub async fn set_job_status(&self, id: &str, status: &str) -> Result<()> {
        self.run(async {
            let update = sqlx::query("UPDATE jobs SET status = $2 WHERE id = $1").bind(id).bind(status);
            match update.execute(self.database.pool()).await?.rows_affected() {
                0 => Err(no_job(id).into()),
                _ => Ok(()),
            }
        })
        .await
    }

    /// The job of this id.
    ///
    /// # Errors
    /// `NotFound`; those of [`open`](Self::open).
    pub async fn job(&self, id: &str) -> Result<JobRow> {
        self.run(async {
            let select = "SELECT id, name, folder, created_at, max_cost, sweep, status FROM jobs WHERE id = $1";
            match sqlx::query(select).bind(id).fetch_optional(self.database.pool()).await? {
                Some(row) => Ok(job(&row)?),
                None => Err(no_job(id).into()),
            }
        })
        .await
    }

    /// Jobs, newest first, at most `limit`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn jobs(&self, filter: &JobFilter, limit: u32) -> Result<Vec<JobRow>> {
        self.run(async {
            let select = "SELECT id, name, folder, created_at, max_cost, sweep, status FROM jobs
                WHERE ($1 IS NULL OR status = $1) AND ($2 IS NULL OR sweep = $2)
                ORDER BY created_at DESC, id LIMIT $3";
            let select = sqlx::query(select).bind(&filter.status).bind(&filter.sweep).bind(i64::from(limit));
            let rows = select.fetch_all(self.database.pool()).await?;
            Ok(rows.iter().map(job).collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Runs what may fail in the database; an error then names the ledger.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T> {
        work.await.map_err(|failure| failure.of(self.database.kind, &self.database.place))
    }
}

fn job(row: &AnyRow) -> Result<JobRow, sqlx::Error> {
    Ok(JobRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        folder: row.try_get(2)?,
        created_at: clock::time(row.try_get(3)?),
        max_cost: row.try_get::<Option<i64>, _>(4)?.map(money),
        sweep: row.try_get(5)?,
        status: row.try_get(6)?,
    })
}

pub(crate) fn no_job(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the ledger has no job `{id}`"))
        .hint("check the id, and that this is the ledger it was started with")
}

/// An amount as the ledger writes it.
pub(crate) fn amount(amount: NanoUsd) -> Result<i64> {
    i64::try_from(amount.0).map_err(|_| {
        Error::invalid(format!("{amount} is more than a ledger can hold: {}", NanoUsd(i64::MAX as u64)))
            .hint("check the price and the limits that it comes from")
    })
}

/// An amount as the ledger wrote it; its tables admit no negative ones.
pub(crate) fn money(amount: i64) -> NanoUsd {
    NanoUsd(amount.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_told_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db").to_str().unwrap().to_owned();
        let ledger = Ledger::open(&path).await.unwrap();
        sqlx::query("PRAGMA max_page_count = 60").fetch_one(ledger.database.pool()).await.unwrap();
        let row = |number: u32| JobRow {
            id: number.to_string(),
            name: "a long name ".repeat(200),
            folder: String::new(),
            created_at: UNIX_EPOCH,
            max_cost: None,
            sweep: None,
            status: "running".into(),
        };
        let mut number = 0;
        let error = loop {
            match ledger.start_job(&row(number)).await {
                Ok(()) => number += 1,
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidRequest, outboard_core::Retry::Never));
        assert_eq!(error.to_string(), "the ledger cannot be written: the disk is full");
        assert_eq!(error.advice(), Some("free some space, then run the command again"));
        assert_eq!(ledger.jobs(&JobFilter::default(), 1000).await.unwrap().len(), number as usize);
    }
}

//! The tables, and how a ledger of an earlier version gets those of this one.

use outboard_core::{Error, ErrorKind};
use sqlx::{AnyConnection, AssertSqlSafe, Row};

use crate::{database::Kind, failure::Failure};

/// What each version adds to the one before.
const MIGRATIONS: [&str; 1] = [include_str!("schema/1.sql")];

/// The version that this program writes.
const VERSION: i64 = MIGRATIONS.len() as i64;

/// The version of the ledger; zero where there is nothing yet.
///
/// # Errors
/// A newer one, and a database of something else: both stay as they are.
pub(crate) async fn version(connection: &mut AnyConnection, kind: Kind) -> Result<i64, Failure> {
    let tables = match kind {
        Kind::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table'",
        Kind::Postgres => "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema()",
    };
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut *connection).await?;
    if tables.is_empty() {
        return Ok(0);
    }
    if !tables.iter().any(|table| table == "outboard_ledger") {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            format!("this is not a ledger, but a database of something else: it has the table `{}`", tables[0]),
        )
        .hint("name an empty database, or a file that does not exist yet")
        .into());
    }
    let row = sqlx::query("SELECT version FROM outboard_ledger").fetch_one(&mut *connection).await?;
    let version: i64 = row.try_get(0)?;
    if version > VERSION {
        let message = format!("the ledger has version {version}, but this program knows versions up to {VERSION} only");
        return Err(Error::new(ErrorKind::Unsupported, message)
            .with_retry(outboard_core::Retry::Never)
            .hint("use the newest outboard that works with this ledger; nothing was changed")
            .into());
    }
    Ok(version)
}

/// Brings the ledger to this version. Runs in a transaction that excludes other writers.
pub(crate) async fn migrate(connection: &mut AnyConnection, kind: Kind) -> Result<(), Failure> {
    let found = version(connection, kind).await?;
    if found == 0 {
        let marker = "CREATE TABLE outboard_ledger (version BIGINT NOT NULL); INSERT INTO outboard_ledger VALUES (0)";
        sqlx::raw_sql(marker).execute(&mut *connection).await?;
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or_default()) {
        let sql = match kind {
            Kind::Sqlite => (*migration).to_owned(),
            Kind::Postgres => migration.replace("BLOB", "BYTEA"),
        };
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    // Where nothing is to be done, this shows whether anything could be.
    sqlx::query("UPDATE outboard_ledger SET version = $1 WHERE version <> $1")
        .bind(VERSION)
        .execute(connection)
        .await?;
    Ok(())
}

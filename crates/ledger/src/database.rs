//! The connection to SQLite or PostgreSQL: how it is found, what is set on it, how transactions begin.

use std::{
    io,
    path::Path,
    str::FromStr,
    time::{Duration, Instant},
};

use outboard_core::{
    Error, ErrorKind,
    error::{IoContext, Result},
};
use sqlx::{
    Any, AnyConnection, AnyPool, AssertSqlSafe, ConnectOptions, Connection, Transaction,
    any::{AnyConnectOptions, AnyPoolOptions},
};

use crate::{failure::Failure, schema};

/// Connections of one process to a PostgreSQL server.
const POSTGRES_CONNECTIONS: u32 = 4;

/// What PostgreSQL's advisory lock is taken on; within one database.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7020650413)";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) kind: Kind,
    /// Names it in errors; without a password.
    pub(crate) place: String,
    pool: AnyPool,
}

impl Database {
    /// Connects, creates what is not there, and brings it to this version. Nothing waits much longer than `patience`.
    pub(crate) async fn open(place: &str, patience: Duration) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let (kind, options, place) = match place.split_once("://") {
            Some(("postgres" | "postgresql", _)) => server(place)?,
            Some(_) => {
                return Err(Error::new(ErrorKind::InvalidConfig, "the ledger's URL is wrong")
                    .hint("name a file, or write postgres://USER@HOST:PORT/DATABASE"));
            }
            None => file(place)?,
        };
        let failed = |failure: Failure| failure.of(kind, &place);
        // Not from the pool, which tries again and again where nobody listens.
        let mut connection = match tokio::time::timeout(patience, options.connect()).await {
            Ok(connected) => connected.map_err(|e| failed(e.into()))?,
            Err(_) => {
                let message = format!("the ledger did not answer within {patience:?}");
                return Err(Error::new(ErrorKind::Unavailable, message)
                    .at("ledger", &place)
                    .hint("check that its server runs, and the host and port of its URL"));
            }
        };
        let prepared = prepare(&mut connection, kind, patience).await;
        let closed = connection.close().await;
        prepared.and(closed.map_err(Failure::from)).map_err(failed)?;

        let pool = AnyPoolOptions::new()
            // SQLite has one writer anyway; here the waiting is fair.
            .max_connections(if kind == Kind::Sqlite { 1 } else { POSTGRES_CONNECTIONS })
            // One waits for the queue in this process and then for other processes.
            .acquire_timeout(3 * patience)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(kind == Kind::Postgres)
            .after_connect(move |connection, _| Box::pin(set(connection, kind, patience)))
            .connect_lazy_with(options);
        Ok(Self { kind, place, pool })
    }

    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// A transaction that may write.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Any>, Failure> {
        Ok(match self.kind {
            // One that begins by reading could find, when it writes, that another was faster.
            Kind::Sqlite => self.pool.begin_with("BEGIN IMMEDIATE").await?,
            Kind::Postgres => self.pool.begin().await?,
        })
    }

    /// A transaction during which no other of these runs, in whatever process.
    pub(crate) async fn write_alone(&self) -> Result<Transaction<'static, Any>, Failure> {
        let mut transaction = self.write().await?;
        if self.kind == Kind::Postgres {
            sqlx::query(LOCK).execute(&mut *transaction).await?;
        }
        Ok(transaction)
    }
}

/// Creates the file, for its owner only.
fn file(place: &str) -> Result<(Kind, AnyConnectOptions, String)> {
    let path = std::path::absolute(place).doing("find", Path::new(place))?;
    let mut create = std::fs::OpenOptions::new();
    create.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut create, 0o600);
    match create.open(&path) {
        // The file is durable once its folder is.
        Ok(_) => sync_folder(&path).doing("create the ledger", &path)?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => Err(e).doing("create the ledger", &path)?,
    }
    let place = path.display().to_string();
    let encoded = path.as_os_str().as_encoded_bytes().iter().fold(String::new(), |url, &byte| match byte {
        b'/' | b'.' | b'-' | b'_' => url + &char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => url + &char::from(byte).to_string(),
        _ => url + &format!("%{byte:02X}"),
    });
    let options = AnyConnectOptions::from_str(&format!("sqlite:{encoded}"))
        .map_err(|e| Failure::from(e).of(Kind::Sqlite, &place))?;
    Ok((Kind::Sqlite, options.disable_statement_logging(), place))
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    std::fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

fn server(url: &str) -> Result<(Kind, AnyConnectOptions, String)> {
    let mut options = AnyConnectOptions::from_str(url)
        // Not even the place: where the password ends can't be told.
        .map_err(|e| Failure::from(e).of(Kind::Postgres, "the given URL"))?;
    let mut shown = options.database_url.clone();
    // Parameters may hold one too. Neither call fails where there is a host, and where there is none, there is no
    // password.
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    let says_how = options.database_url.query_pairs().any(|(key, _)| key == "sslmode" || key == "ssl-mode");
    if !says_how && std::env::var_os("PGSSLMODE").is_none() && !is_on_this_machine(&options) {
        options.database_url.query_pairs_mut().append_pair("sslmode", "verify-full");
    }
    Ok((Kind::Postgres, options.disable_statement_logging(), shown.to_string()))
}

/// A Unix socket, or loopback.
fn is_on_this_machine(options: &AnyConnectOptions) -> bool {
    let url = &options.database_url;
    let asked = url.query_pairs().filter(|(key, _)| key == "host" || key == "hostaddr").last();
    let host = asked
        .map(|(_, host)| host.into_owned())
        .or_else(|| url.host_str().map(ToOwned::to_owned).filter(|host| !host.is_empty()))
        .or_else(|| ["PGHOSTADDR", "PGHOST"].into_iter().find_map(|variable| std::env::var(variable).ok()))
        .unwrap_or_else(|| "localhost".into());
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let is_socket = host.starts_with('/') || host.to_lowercase().starts_with("%2f");
    is_socket || host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

async fn prepare(connection: &mut AnyConnection, kind: Kind, patience: Duration) -> Result<(), Failure> {
    set(connection, kind, patience).await?;
    // Before anything is written: a newer ledger stays as it is.
    schema::version(connection, kind).await?;
    let mut transaction = match kind {
        Kind::Sqlite => {
            write_ahead(connection, patience).await?;
            connection.begin_with("BEGIN IMMEDIATE").await?
        }
        Kind::Postgres => connection.begin().await?,
    };
    if kind == Kind::Postgres {
        sqlx::query(LOCK).execute(&mut *transaction).await?;
    }
    schema::migrate(&mut transaction, kind).await?;
    Ok(transaction.commit().await?)
}

/// Has SQLite write ahead. Its busy timeout doesn't hold here: two processes that create the file at once meet.
async fn write_ahead(connection: &mut AnyConnection, patience: Duration) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let done = sqlx::query("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await.map_err(Failure::from);
        match done {
            Err(failure) if failure.is_locked() && start.elapsed() < patience => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            done => return done.map(drop),
        }
    }
}

/// What holds for a connection.
async fn set(connection: &mut AnyConnection, kind: Kind, patience: Duration) -> Result<(), sqlx::Error> {
    let millis = patience.as_millis();
    let sql = match kind {
        // A commit is on disk before it returns; on macOS only so.
        Kind::Sqlite => {
            format!("PRAGMA busy_timeout = {millis}; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON")
        }
        // A server may have been told to be faster than safe. One that waits for its replicas goes on doing so. What
        // follows a lock must see what was written before it.
        Kind::Postgres => format!(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
             SET default_transaction_isolation = 'read committed'; SET lock_timeout = {millis}; SET statement_timeout = {};
             SET idle_in_transaction_session_timeout = {}",
            2 * millis,
            2 * millis
        ),
    };
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_to_other_machines_are_encrypted() {
        let given = |url: &str| server(url).unwrap().1.database_url.query().map(ToOwned::to_owned);
        for other in
            ["postgres://u:p@db.example.com/team", "postgres://u@10.0.0.7:5432/team", "postgres://u@[fd00::1]/t"]
        {
            assert_eq!(given(other).as_deref(), Some("sslmode=verify-full"), "{other}");
        }
        let elsewhere = "host=db.example.com";
        let checked = format!("{elsewhere}&sslmode=verify-full");
        assert_eq!(given(&format!("postgres://localhost/team?{elsewhere}")), Some(checked));
        for local in ["postgres://u@localhost/team", "postgres://127.0.0.1:5/team", "postgres://u@[::1]/team"] {
            assert_eq!(given(local), None, "{local}");
        }
        assert_eq!(given("postgres://u@%2Frun%2Fpostgresql/team"), None);
        assert_eq!(given("postgres:///team"), None);
        assert_eq!(given("postgres:///team?host=/run/postgresql").as_deref(), Some("host=/run/postgresql"));
        assert_eq!(given("postgres://u@db.example.com/team?sslmode=disable").as_deref(), Some("sslmode=disable"));
    }
}

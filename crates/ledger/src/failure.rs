//! What went wrong in the database, in words a user can act on.

use outboard_core::{Error, ErrorKind, Retry, code};

use crate::database::Kind;

/// A failure on its way to the caller: of the database, or ours.
#[derive(Debug)]
pub(crate) enum Failure {
    Database(sqlx::Error),
    Ours(Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl Failure {
    /// The error that names the ledger. `place` holds no password.
    pub(crate) fn of(self, kind: Kind, place: &str) -> Error {
        match self {
            Self::Ours(error) => error.at("ledger", place),
            Self::Database(error) => {
                let (error_kind, message, hint) = explain(kind, &error);
                // Another provider would find the ledger no better.
                let retry = match error_kind {
                    ErrorKind::Timeout | ErrorKind::Unavailable => Retry::Same { after: None },
                    _ => Retry::Never,
                };
                Error::new(error_kind, message)
                    .or_code(code::LEDGER)
                    .with_retry(retry)
                    .at("ledger", place)
                    .because(error)
                    .hint(hint)
            }
        }
    }

    /// Whether another process held the SQLite file.
    pub(crate) fn is_locked(&self) -> bool {
        matches!(self, Self::Database(error) if sqlite_code(error).is_some_and(|code| matches!(code & 0xff, 5 | 6)))
    }
}

type Explanation = (ErrorKind, &'static str, &'static str);

const SILENT: Explanation = (
    ErrorKind::Timeout,
    "the ledger did not answer in time",
    "try again; if that doesn't help, look for a process that hangs or a server that is down",
);

fn explain(kind: Kind, error: &sqlx::Error) -> Explanation {
    match (error, kind) {
        (sqlx::Error::PoolTimedOut, _) => SILENT,
        (sqlx::Error::Database(_), Kind::Sqlite) => sqlite(sqlite_code(error).unwrap_or_default()),
        (sqlx::Error::Database(database), Kind::Postgres) => postgres(database.code().as_deref().unwrap_or_default()),
        (sqlx::Error::Io(_), Kind::Postgres) => (
            ErrorKind::Unavailable,
            "the ledger's PostgreSQL server cannot be reached",
            "check that it runs, and the host and port of the ledger's URL",
        ),
        (sqlx::Error::Tls(_), _) => (
            ErrorKind::Unavailable,
            "no secure connection to the ledger's PostgreSQL server",
            "check the server's certificate, and `sslmode` and `sslrootcert` in the ledger's URL",
        ),
        (sqlx::Error::Configuration(_), _) => {
            (ErrorKind::InvalidConfig, "the ledger's URL is wrong", "write it as postgres://USER@HOST:PORT/DATABASE")
        }
        (sqlx::Error::ColumnDecode { .. }, _) => DAMAGED,
        _ => UNEXPECTED,
    }
}

pub(crate) const RESTORE: &str =
    "restore it from a backup; or move it and its -wal and -shm files away: a new ledger knows no earlier charges";

const DAMAGED: Explanation = (ErrorKind::CorruptPayload, "the ledger is damaged", RESTORE);

const READ_ONLY: Explanation = (
    ErrorKind::InvalidRequest,
    "the ledger cannot be written: it is read-only",
    "change its permissions, or choose another place",
);

const FULL: Explanation = (
    ErrorKind::InvalidRequest,
    "the ledger cannot be written: the disk is full",
    "free some space, then run the command again",
);

const UNEXPECTED: Explanation =
    (ErrorKind::Unexpected, "the ledger's database failed", "report this with the cause named above");

fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// By SQLite's result codes, https://sqlite.org/rescode.html, of which the low byte is the primary one.
fn sqlite(code: u32) -> Explanation {
    match code & 0xff {
        5 | 6 => (
            ErrorKind::Timeout,
            "the ledger is locked by another process",
            "try again; if that doesn't help, end the process that holds the file",
        ),
        8 => READ_ONLY,
        10 => (
            ErrorKind::InvalidRequest,
            "the ledger cannot be read or written: the disk is full or fails",
            "check the disk and its free space, then run the command again",
        ),
        11 => DAMAGED,
        13 => FULL,
        14 => (
            ErrorKind::InvalidRequest,
            "the ledger cannot be opened",
            "check that its folder exists and may be written, and that it is a file",
        ),
        26 => (
            ErrorKind::InvalidRequest,
            "the file is not a ledger: it is no SQLite database",
            "name another file, or move this one away",
        ),
        _ => UNEXPECTED,
    }
}

/// By PostgreSQL's codes, https://www.postgresql.org/docs/current/errcodes-appendix.html
fn postgres(code: &str) -> Explanation {
    match code {
        "25006" => READ_ONLY,
        "42501" => (
            ErrorKind::PermissionDenied,
            "the ledger's PostgreSQL user may not do this",
            "let the user create and write tables in the database: `GRANT ALL ON SCHEMA public TO` it",
        ),
        "3D000" => (
            ErrorKind::NotFound,
            "the ledger's PostgreSQL server has no such database",
            "create it with `createdb`, or check the name in the ledger's URL",
        ),
        "53100" => FULL,
        "55P03" | "57014" | "40P01" => SILENT,
        _ if code.starts_with("28") => (
            ErrorKind::Unauthenticated,
            "the ledger's PostgreSQL server refused the user or the password",
            "check both in the ledger's URL, or PGPASSWORD",
        ),
        _ if ["08", "53", "57"].iter().any(|class| code.starts_with(class)) => (
            ErrorKind::Unavailable,
            "the ledger's PostgreSQL server is not available",
            "try again later; the server's log says more",
        ),
        _ if code.starts_with("XX") => DAMAGED,
        _ => UNEXPECTED,
    }
}

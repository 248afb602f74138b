//! Ledgers that can't be opened, read or written: one clear error each.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    time::Duration,
};

use common::{Hammer, Place, cap, granted, job, reservation, settlement};
use outboard_core::{Error, ErrorKind, NanoUsd, Retry};
use outboard_ledger::{Ledger, Span};
use sqlx::{Connection, Executor};

on_both! {
    a_newer_ledger_is_refused_untouched,
    a_database_of_something_else_is_refused,
    a_ledger_that_is_held_is_given_up,
}

const SHORT: Duration = Duration::from_millis(300);

/// The error has this message and this advice, and names the ledger.
#[track_caller]
fn is(error: &Error, kind: ErrorKind, message: &str, advice: &str) {
    assert_eq!((error.kind(), error.to_string().as_str()), (kind, message), "{}", error.report());
    assert_eq!(error.advice(), Some(advice));
    assert_eq!(error.context()[0].0, "ledger");
    assert!(!error.report().contains("secret"), "{}", error.report());
}

async fn refused(place: &str) -> Error {
    Ledger::open_within(place, SHORT).await.unwrap_err()
}

async fn a_newer_ledger_is_refused_untouched(place: Place) {
    place.open_at_noon().await.0.close().await;
    place.execute("UPDATE outboard_ledger SET version = 7").await;
    let bytes = || place.server.is_none().then(|| fs::read(&place.name).unwrap());
    let before = bytes();
    is(
        &refused(&place.name).await,
        ErrorKind::Unsupported,
        "the ledger has version 7, but this program knows versions up to 1 only",
        "use the newest outboard that works with this ledger; nothing was changed",
    );
    assert_eq!(bytes(), before);
    place.execute("UPDATE outboard_ledger SET version = 1").await;
    assert_eq!(place.open().await.job("job").await.unwrap(), job("job"));
}

async fn a_database_of_something_else_is_refused(place: Place) {
    if place.server.is_none() {
        fs::write(&place.name, b"").unwrap();
    }
    place.execute("CREATE TABLE birds (name TEXT)").await;
    is(
        &refused(&place.name).await,
        ErrorKind::InvalidRequest,
        "this is not a ledger, but a database of something else: it has the table `birds`",
        "name an empty database, or a file that does not exist yet",
    );
    place.execute("DROP TABLE birds").await;
    place.open().await.close().await;
}

async fn a_ledger_that_is_held_is_given_up(place: Place) {
    place.open_at_noon().await.0.close().await;
    let ledger = Ledger::open_within(&place.name, SHORT).await.unwrap();
    let mut holder = place.connect().await;
    let (hold, message, advice) = match place.server {
        None => (
            "BEGIN IMMEDIATE",
            "the ledger is locked by another process",
            "try again; if that doesn't help, end the process that holds the file",
        ),
        Some(_) => (
            "BEGIN; LOCK TABLE attempts IN ACCESS EXCLUSIVE MODE; LOCK TABLE outboard_ledger IN ACCESS EXCLUSIVE MODE",
            "the ledger did not answer in time",
            "try again; if that doesn't help, look for a process that hangs or a server that is down",
        ),
    };
    holder.execute(sqlx::raw_sql(hold)).await.unwrap();
    let error = ledger.reserve(&reservation("a", 1), &[]).await.unwrap_err();
    is(&error, ErrorKind::Timeout, message, advice);
    assert_eq!(error.retry(), Retry::Same { after: None });
    is(&refused(&place.name).await, ErrorKind::Timeout, message, advice);
    holder.execute(sqlx::raw_sql("ROLLBACK")).await.unwrap();
    granted(&ledger, &reservation("a", 1)).await;
}

#[tokio::test]
async fn only_its_owner_may_read_it() {
    let place = Place::sqlite();
    let (ledger, _) = place.open_at_noon().await;
    for suffix in ["", "-wal", "-shm"] {
        let file = fs::metadata(format!("{}{suffix}", place.name)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600, "{suffix}");
    }
    ledger.close().await;
    let folder = Path::new(&place.name).parent().unwrap();
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
}

#[tokio::test]
async fn what_is_no_ledger_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("garbage"), "not a database. ".repeat(100)).unwrap();
    is(
        &refused(&path("garbage")).await,
        ErrorKind::InvalidRequest,
        "the file is not a ledger: it is no SQLite database",
        "name another file, or move this one away",
    );
    fs::create_dir(path("folder")).unwrap();
    is(
        &refused(&path("folder")).await,
        ErrorKind::InvalidRequest,
        "the ledger cannot be opened",
        "check that its folder exists and may be written, and that it is a file",
    );
    let error = refused(&path("missing/ledger.db")).await;
    assert_eq!(
        error.to_string(),
        format!("cannot create the ledger {}: no such file or folder", path("missing/ledger.db"))
    );
    for wrong in ["mysql://user:secret@host/db", "postgres://user:secret@host:port/db", "postgres://user:secret/x@:1:/"]
    {
        let error = refused(wrong).await;
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{wrong}");
        assert_eq!(error.to_string(), "the ledger's URL is wrong");
        assert!(
            error.advice().unwrap().ends_with("write it as postgres://USER@HOST:PORT/DATABASE")
                || wrong.starts_with("mysql")
        );
        assert!(!error.report().contains("secret"), "{}", error.report());
    }
}

#[tokio::test]
async fn a_damaged_ledger_is_told() {
    let advice =
        "restore it from a backup; or move it and its -wal and -shm files away: a new ledger knows no earlier charges";
    for cut in [true, false] {
        let place = Place::sqlite();
        let (ledger, _) = place.open_at_noon().await;
        for attempt in 0..200 {
            granted(&ledger, &reservation(&format!("a{attempt}"), 1)).await;
        }
        ledger.close().await;
        let mut bytes = fs::read(&place.name).unwrap();
        let half = bytes.len() / 2;
        if cut {
            bytes.truncate(half);
        } else {
            bytes[half..].fill(b'x');
        }
        fs::write(&place.name, bytes).unwrap();
        let error = match Ledger::open_within(&place.name, SHORT).await {
            Ok(ledger) => match ledger.attempts("job").await {
                Ok(_) => ledger.reserve(&reservation("b", 1), &[cap(Span::Day, 1000)]).await.unwrap_err(),
                Err(error) => error,
            },
            Err(error) => error,
        };
        is(&error, ErrorKind::CorruptPayload, "the ledger is damaged", advice);
        assert_eq!(error.retry(), Retry::Never);
    }
}

#[tokio::test]
async fn a_disk_that_is_full_loses_nothing() {
    let place = Place::sqlite();
    let ledger = place.open().await;
    ledger.start_job(&job("shared")).await.unwrap();
    // The signal that comes with the limit would end it.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""]).arg(Hammer::program());
    let mut process = Hammer::start(&mut limited, &place.name, "fill", "p", [1_000_000, 3, u64::MAX]);
    process.is_ready();
    process.go();
    assert_eq!(process.line(), "the ledger cannot be read or written: the disk is full or fails");
    let report: Vec<_> = process.lines.by_ref().map(Result::unwrap).collect();
    assert!(report[0].starts_with("  ledger: "), "{report:?}");
    assert!(
        report.contains(&"  try: check the disk and its free space, then run the command again".into()),
        "{report:?}"
    );
    let attempts = ledger.attempts("shared").await.unwrap();
    assert!(attempts.len() > 10);
    let spent = ledger.spent(&Span::Day.into()).await.unwrap();
    assert_eq!(spent.reserved, NanoUsd(3 * attempts.len() as u64));
    ledger.settle(&attempts[0].id, &settlement(2), None).await.unwrap();
}

#[tokio::test]
async fn a_ledger_of_somebody_else_is_told() {
    let place = Place::sqlite();
    place.open_at_noon().await.0.close().await;
    let folder = Path::new(&place.name).parent().unwrap();
    let program = folder.join("hammer");
    fs::copy(Hammer::program(), &program).unwrap();
    fs::set_permissions(&place.name, fs::Permissions::from_mode(0o444)).unwrap();
    // Whoever may write everything becomes somebody who may not.
    let is_root = fs::metadata(folder).unwrap().uid() == 0;
    let run = || {
        let mut command = Command::new(if is_root { "setpriv" } else { "env" });
        if is_root {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        command.arg(&program).args([&place.name, "reserve", "p", "0", "0", "0"]).output().unwrap()
    };
    for mode in [0o777, 0o555] {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        let output = run();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && told.contains("\"the ledger cannot be written: it is read-only\""),
            "{told}"
        );
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("postgres://user:secret@127.0.0.1:{port}/team?password=secret");
    // It takes the connection and says nothing.
    let error = refused(&url).await;
    let advice = "check that its server runs, and the host and port of its URL";
    is(&error, ErrorKind::Unavailable, "the ledger did not answer within 300ms", advice);
    assert_eq!(error.context()[0].1, format!("postgres://user@127.0.0.1:{port}/team"));
    drop(listener);
    let error = refused(&url).await;
    is(
        &error,
        ErrorKind::Unavailable,
        "the ledger's PostgreSQL server cannot be reached",
        "check that it runs, and the host and port of the ledger's URL",
    );
    assert_eq!(error.retry(), Retry::Same { after: None });
}

#[tokio::test]
async fn a_server_that_refuses_is_told() {
    let Some(place) = Place::postgres().await else {
        return println!("skipped: a_server_that_refuses: TEST_POSTGRES names no server");
    };
    let ledger = place.open().await;
    let (credentials, host) = place.name.split_once('@').unwrap();
    let (user, password) = credentials.rsplit_once(':').unwrap();
    assert!(!format!("{ledger:?}").contains(password), "{ledger:?}");
    ledger.close().await;
    is(
        &refused(&format!("{user}:secret@{host}")).await,
        ErrorKind::Unauthenticated,
        "the ledger's PostgreSQL server refused the user or the password",
        "check both in the ledger's URL, or PGPASSWORD",
    );
    is(
        &refused(&format!("{}_", place.name)).await,
        ErrorKind::NotFound,
        "the ledger's PostgreSQL server has no such database",
        "create it with `createdb`, or check the name in the ledger's URL",
    );
    is(
        &refused(&format!("{}?sslmode=require", place.name)).await,
        ErrorKind::Unavailable,
        "no secure connection to the ledger's PostgreSQL server",
        "check the server's certificate, and `sslmode` and `sslrootcert` in the ledger's URL",
    );
    let database = host.rsplit_once('/').unwrap().1;
    let setup = format!(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE ROLE {database} LOGIN PASSWORD 'secret';
         ALTER ROLE {database} SET search_path = public; DROP TABLE observations, attempts, jobs, outboard_ledger"
    );
    place.execute(&setup).await;
    is(
        &refused(&format!("postgres://{database}:secret@{host}")).await,
        ErrorKind::PermissionDenied,
        "the ledger's PostgreSQL user may not do this",
        "let the user create and write tables in the database: `GRANT ALL ON SCHEMA public TO` it",
    );
    place
        .execute(&format!("DROP ROLE {database}; ALTER DATABASE {database} SET default_transaction_read_only = on"))
        .await;
    is(
        &refused(&place.name).await,
        ErrorKind::InvalidRequest,
        "the ledger cannot be written: it is read-only",
        "change its permissions, or choose another place",
    );
    let mut connection = place.connect().await;
    connection.execute("SET default_transaction_read_only = off").await.unwrap();
    connection.close().await.unwrap();
    place.server.unwrap().drop_database().await;
}

//! Ledgers to test on: a SQLite file, and a database on the server that `TEST_POSTGRES` names.
#![allow(dead_code, unreachable_pub)]

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use outboard_core::NanoUsd;
use outboard_ledger::{Cap, JobRow, Ledger, Reservation, Reserved, Scope, Settlement};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};

pub const DEADLINE: Duration = Duration::from_secs(60);

/// 2026-03-01T12:00:00Z.
pub const NOON: u64 = 1_772_366_400_000;
pub const HOUR: u64 = 3_600_000;

/// Runs each test on both.
#[macro_export]
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::common::Place::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                let Some(place) = super::common::Place::postgres().await else {
                    return println!("skipped: {}: TEST_POSTGRES names no server", stringify!($test));
                };
                let clean_up = place.server.clone();
                super::$test(place).await;
                clean_up.unwrap().drop_database().await;
            })*
        }
    };
}

/// Where a test's ledger lies.
pub struct Place {
    pub name: String,
    pub server: Option<Server>,
    folder: Option<tempfile::TempDir>,
}

#[derive(Clone)]
pub struct Server {
    url: String,
    pub database: String,
}

impl Server {
    pub async fn drop_database(self) {
        execute(&self.url, &format!("DROP DATABASE {} WITH (FORCE)", self.database)).await;
    }
}

impl Place {
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // A name that is no URL as it stands.
        let name = folder.path().join("my ledger?#%41ü.db").to_str().unwrap().to_owned();
        Self { name, server: None, folder: Some(folder) }
    }

    pub async fn postgres() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let url = std::env::var("TEST_POSTGRES").ok().filter(|url| !url.is_empty())?;
        let database = format!("ledger_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        execute(&url, &format!("CREATE DATABASE {database}")).await;
        let (server, _) = url.rsplit_once('/').expect("postgres://USER:PASSWORD@HOST:PORT/DATABASE");
        let name = format!("{server}/{database}");
        Some(Self { name, server: Some(Server { url, database }), folder: None })
    }

    pub async fn open(&self) -> Ledger {
        Ledger::open(&self.name).await.unwrap()
    }

    /// A ledger with the job `job`, and its clock, which shows noon.
    pub async fn open_at_noon(&self) -> (Ledger, Arc<AtomicU64>) {
        let clock = Arc::new(AtomicU64::new(NOON));
        let ledger = self.open().await.with_clock(reading(&clock));
        ledger.start_job(&job("job")).await.unwrap();
        (ledger, clock)
    }

    /// What is run on the database behind the ledger's back.
    pub async fn execute(&self, sql: &str) {
        execute(&self.url(), sql).await;
    }

    /// A connection behind the ledger's back.
    pub async fn connect(&self) -> AnyConnection {
        connect(&self.url()).await
    }

    fn url(&self) -> String {
        match self.server {
            Some(_) => self.name.clone(),
            None => format!("sqlite:{}", self.name.replace('%', "%25").replace('?', "%3F").replace('#', "%23")),
        }
    }
}

async fn connect(url: &str) -> AnyConnection {
    sqlx::any::install_default_drivers();
    AnyConnection::connect(url).await.unwrap()
}

pub async fn execute(url: &str, sql: &str) {
    let mut connection = connect(url).await;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

pub fn reading(clock: &Arc<AtomicU64>) -> impl Fn() -> SystemTime + Send + Sync + 'static {
    let clock = clock.clone();
    move || at(clock.load(Ordering::SeqCst))
}

pub fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

pub fn job(id: &str) -> JobRow {
    JobRow {
        id: id.into(),
        name: "digits".into(),
        folder: format!("jobs/{id}"),
        created_at: at(NOON),
        max_cost: Some(NanoUsd(500)),
        sweep: None,
        status: "running".into(),
    }
}

/// A reservation for an hour from noon.
pub fn reservation(attempt: &str, amount: u64) -> Reservation {
    Reservation {
        attempt: attempt.into(),
        job: "job".into(),
        sweep: None,
        task_key: "job/1".into(),
        provider: "runpod".into(),
        local: false,
        amount: NanoUsd(amount),
        expires_at: at(NOON + HOUR),
        submitting: None,
    }
}

pub fn cap(scope: impl Into<Scope>, limit: u64) -> Cap {
    Cap { scope: scope.into(), limit: NanoUsd(limit) }
}

pub fn settlement(cost: u64) -> Settlement {
    Settlement { cost: NanoUsd(cost), billed: None, outcome: "succeeded".into(), is_assumed: false }
}

/// Reserves where there must be room.
pub async fn granted(ledger: &Ledger, reservation: &Reservation) {
    let reserved = ledger.reserve(reservation, &[]).await.unwrap();
    assert!(matches!(reserved, Reserved::Granted { .. }), "{reserved:?}");
}

/// A process that runs the example `hammer`; killed when dropped.
pub struct Hammer {
    child: Child,
    stdin: ChildStdin,
    pub lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Hammer {
    pub fn program() -> PathBuf {
        let test = std::env::current_exe().unwrap();
        let program = test.parent().unwrap().parent().unwrap().join("examples/hammer");
        assert!(program.exists(), "{} is missing: `cargo build -p outboard-ledger --examples`", program.display());
        program
    }

    /// Starts it; it has opened the ledger when this returns, and waits.
    pub fn start(command: &mut Command, place: &str, mode: &str, id: &str, numbers: [u64; 3]) -> Self {
        let numbers = numbers.map(|number| number.to_string());
        command.args([place, mode, id]).args(numbers).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdin, lines }
    }

    pub fn is_ready(&mut self) {
        assert_eq!(self.line(), "ready");
    }

    pub fn go(&mut self) {
        writeln!(self.stdin).unwrap();
    }

    pub fn line(&mut self) -> String {
        self.lines.next().expect("the process ended early").unwrap()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

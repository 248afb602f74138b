//! Measures a ledger: `cargo run --release -p outboard-ledger --example bench_ledger [LEDGER]`, a new SQLite file unless
//! given. Prints the time of one durable task, and reservations per second by threads and by processes: in an empty
//! ledger and in full ones.

use std::{
    error::Error,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use outboard_core::NanoUsd;
use outboard_ledger::{Cap, JobRow, Ledger, Reservation, Reserved, Settlement, Span};
use sqlx::{AssertSqlSafe, Connection};

const TASKS: usize = 1000;

const EARLIER: u32 = 100_000;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn caps() -> Vec<Cap> {
    let limit = NanoUsd(u64::MAX);
    [Span::Job("shared".into()), Span::Day, Span::Month].map(|span| Cap { scope: span.into(), limit }).to_vec()
}

fn reservation(attempt: String, at_once: bool) -> Reservation {
    Reservation {
        task_key: attempt.clone(),
        attempt,
        job: "shared".into(),
        sweep: None,
        provider: "runpod".into(),
        local: false,
        amount: NanoUsd(1000),
        expires_at: SystemTime::now() + Duration::from_secs(3600),
        submitting: at_once.then(|| vec![7; 2000]),
    }
}

async fn reserve(ledger: &Ledger, reservation: &Reservation, caps: &[Cap]) -> Result<()> {
    match ledger.reserve(reservation, caps).await? {
        Reserved::Granted { .. } => Ok(()),
        Reserved::Refused(refusal) => Err(format!("{refusal:?}").into()),
    }
}

/// Median and 99th percentile of whole tasks, in milliseconds.
async fn tasks(ledger: &Ledger, name: &str, caps: &[Cap], at_once: bool) -> Result<()> {
    let mut times = Vec::new();
    let settlement = Settlement { cost: NanoUsd(500), billed: None, outcome: "succeeded".into(), is_assumed: false };
    for number in 0..TASKS {
        let attempt = format!("{name}-{at_once}-{}-{number}", caps.len());
        let reservation = reservation(attempt.clone(), at_once);
        let start = Instant::now();
        reserve(ledger, &reservation, caps).await?;
        if !at_once {
            ledger.submitting(&attempt, &[7; 2000]).await?;
        }
        ledger.accepted(&attempt, "id").await?;
        ledger.settle(&attempt, &settlement, None).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let how = if at_once { "reserve and submit at once" } else { "reserve, then submit" };
    let (median, late) = (times[TASKS / 2], times[TASKS * 99 / 100]);
    println!("{name}: a task under {} caps, {how}: median {median:.2} ms, 99% {late:.2} ms", caps.len());
    Ok(())
}

async fn threads(ledger: &Ledger, name: &str, threads: usize) -> Result<()> {
    let start = Instant::now();
    let mut running = Vec::new();
    for thread in 0..threads {
        let (ledger, name) = (ledger.clone(), name.to_owned());
        running.push(tokio::spawn(async move {
            let caps = caps();
            for number in 0..TASKS / threads {
                reserve(&ledger, &reservation(format!("{name}-t{threads}-{thread}-{number}"), false), &caps).await?;
            }
            Result::Ok(())
        }));
    }
    for thread in running {
        thread.await??;
    }
    rate(name, threads, "threads", start);
    Ok(())
}

fn processes(place: &str, name: &str, processes: usize) -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("hammer");
    let mut running: Vec<Child> = Vec::new();
    for process in 0..processes {
        let (id, count) = (format!("{name}-p{processes}-{process}"), (TASKS / processes).to_string());
        let mut hammer = Command::new(&program);
        hammer.args([place, "reserve", &id, &count, "1000", &u64::MAX.to_string()]);
        running.push(hammer.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    }
    let mut outputs: Vec<_> = running.iter_mut().filter_map(|child| child.stdout.take()).map(BufReader::new).collect();
    for output in &mut outputs {
        output.read_line(&mut String::new())?;
    }
    let start = Instant::now();
    for child in &mut running {
        child.stdin.take().ok_or("no input")?.write_all(b"\n")?;
    }
    let mut granted = 0;
    for output in &mut outputs {
        let mut line = String::new();
        output.read_line(&mut line)?;
        granted += line.trim().trim_start_matches("granted ").parse::<usize>()?;
    }
    rate(name, processes, "processes", start);
    for mut child in running {
        child.wait()?;
    }
    if granted != TASKS / processes * processes { Err(format!("{granted} granted").into()) } else { Ok(()) }
}

fn rate(name: &str, number: usize, what: &str, start: Instant) {
    println!("{name}: {number} {what}: {:.0} reservations/s", TASKS as f64 / start.elapsed().as_secs_f64());
}

/// Adds attempts that are all paid for: of a year and of a hundred jobs, or, the worst case of every sum, all of today's
/// and of one job.
async fn fill(place: &str, spread: bool) -> Result<()> {
    let url = if place.starts_with("postgres") { place.to_owned() } else { format!("sqlite:{place}") };
    let share = |column: &str, parts: u32| match spread {
        true => format!("CASE WHEN i % {parts} = 0 THEN {column} ELSE 'old-' || (i % {parts}) END"),
        false => column.to_owned(),
    };
    let (job, day, month) = (share("job", 100), share("day", 365), share("month", 12));
    let insert = format!(
        "UPDATE attempts SET state = 'released' WHERE state = 'reserved';
         INSERT INTO jobs WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99)
             SELECT 'old-' || i, '', '', 0, NULL, NULL, '' FROM n WHERE TRUE ON CONFLICT DO NOTHING;
         INSERT INTO attempts (id, job, task_key, provider, local, day, month, reserved_at, expires_at, changed_at, state,
             reserved, charged)
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {EARLIER})
         SELECT '{spread}-' || i, {job}, task_key, provider, local, {day}, {month}, reserved_at, expires_at, changed_at,
             'settled', 9, 7
         FROM n, (SELECT * FROM attempts ORDER BY reserved_at DESC, id LIMIT 1) AS one"
    );
    let mut connection = sqlx::AnyConnection::connect(&url).await?;
    sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let given = std::env::args().nth(1);
    let place = given.unwrap_or_else(|| format!("bench-ledger-{}.db", std::process::id()));
    let ledger = Ledger::open(&place).await?;
    let job = JobRow {
        id: "shared".into(),
        name: "bench".into(),
        folder: String::new(),
        created_at: SystemTime::now(),
        max_cost: None,
        sweep: None,
        status: "running".into(),
    };
    ledger.start_job(&job).await?;
    for (name, spread) in [("empty", None), ("100k of a year", Some(true)), ("100k more of today", Some(false))] {
        if let Some(spread) = spread {
            fill(&place, spread).await?;
        }
        for at_once in [false, true] {
            tasks(&ledger, name, &caps(), at_once).await?;
            tasks(&ledger, name, &caps()[1..2], at_once).await?;
        }
        for number in [1, 8] {
            threads(&ledger, name, number).await?;
            processes(&place, name, number)?;
        }
    }
    ledger.close().await;
    if !place.starts_with("postgres") {
        std::fs::remove_file(place)?;
    }
    Ok(())
}

//! A process that works on a ledger, for tests and the benchmark, which start several and kill some.
//!
//! `hammer LEDGER MODE ID COUNT AMOUNT LIMIT`: says `ready`, waits for a line, works, and says what it did. Modes:
//! `reserve` asks COUNT times for AMOUNT under caps of LIMIT and says how often it was granted; `tasks` runs COUNT tasks
//! and says after each step that it is done; `fill` reserves until it can't, and says why.

use std::{
    error::Error,
    io::{BufRead, Write},
    time::{Duration, Instant, SystemTime},
};

use outboard_core::NanoUsd;
use outboard_ledger::{Cap, Ledger, Reservation, Reserved, Settlement, Span};

/// However it is left alone, it ends.
const LIFETIME: Duration = Duration::from_secs(60);

struct Hammer {
    ledger: Ledger,
    id: String,
    amount: NanoUsd,
    caps: Vec<Cap>,
}

impl Hammer {
    fn reservation(&self, number: u64) -> Reservation {
        Reservation {
            attempt: format!("{}-{number}", self.id),
            job: "shared".into(),
            sweep: None,
            task_key: format!("{}/{number}", self.id),
            provider: "runpod".into(),
            local: false,
            amount: self.amount,
            expires_at: SystemTime::now() + Duration::from_secs(3600),
            submitting: None,
        }
    }

    async fn reserve(&self, number: u64) -> outboard_core::Result<bool> {
        let reserved = self.ledger.reserve(&self.reservation(number), &self.caps).await?;
        Ok(matches!(reserved, Reserved::Granted { .. }))
    }

    /// One task, from its reservation to its end. Every third is given back.
    async fn task(&self, number: u64) -> outboard_core::Result<()> {
        let attempt = &self.reservation(number).attempt;
        if !self.reserve(number).await? {
            say(&format!("refused {attempt}"));
            return Ok(());
        }
        say(&format!("reserved {attempt}"));
        if number % 3 == 2 {
            self.ledger.release(attempt).await?;
            say(&format!("released {attempt}"));
            return Ok(());
        }
        self.ledger.submitting(attempt, b"task").await?;
        say(&format!("submitting {attempt}"));
        self.ledger.accepted(attempt, "id").await?;
        say(&format!("accepted {attempt}"));
        let cost = NanoUsd(self.amount.0 / 2);
        let settlement = Settlement { cost, billed: None, outcome: "succeeded".into(), is_assumed: false };
        self.ledger.settle(attempt, &settlement, None).await?;
        say(&format!("settled {attempt}"));
        Ok(())
    }
}

/// Errors don't matter: whoever listens may be gone.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [place, mode, id, count, amount, limit] = arguments.as_slice() else { return Err("six arguments".into()) };
    let (count, amount, limit) = (count.parse()?, NanoUsd(amount.parse()?), NanoUsd(limit.parse()?));
    let ledger = Ledger::open(place).await?;
    let caps = [Span::Day, Span::Job("shared".into())].map(|span| Cap { scope: span.into(), limit }).to_vec();
    let hammer = Hammer { ledger, id: id.clone(), amount, caps };
    say("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    let start = Instant::now();
    let mut granted = 0;
    for number in (0..count).take_while(|_| start.elapsed() < LIFETIME) {
        match mode.as_str() {
            "reserve" => granted += u64::from(hammer.reserve(number).await?),
            "tasks" => hammer.task(number).await?,
            "fill" => {
                if let Err(error) = hammer.reserve(number).await {
                    say(&error.report());
                    break;
                }
            }
            _ => return Err("no such mode".into()),
        }
    }
    say(&format!("granted {granted}"));
    Ok(())
}

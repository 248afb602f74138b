//! How an attempt goes from one state to the next.

use std::time::Duration;

use outboard_core::{Error, ErrorKind, NanoUsd, Observation, Result};
use sqlx::{AnyConnection, Row};

use crate::{
    failure::Failure,
    ledger::{Ledger, money},
    observations,
    queries::attempt_row,
    records::{Attempt, Settled, Settlement, State},
};

impl Ledger {
    /// Notes, before its task is handed over, that this is about to happen. `task` is kept until the cost is known, for
    /// whoever goes on after this process.
    ///
    /// # Errors
    /// `Conflict` where the reservation was released meanwhile, or the attempt is further on; `NotFound`; those of
    /// [`open`](Self::open).
    pub async fn submitting(&self, attempt: &str, task: &[u8]) -> Result<()> {
        self.run(async {
            let mut transaction = self.database.write().await?;
            submitting(&mut transaction, attempt, task, self.clock.stamp()).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// Notes the task's name on the provider that accepted it.
    ///
    /// # Errors
    /// `Conflict` where [`submitting`](Self::submitting) did not come before, or the task has another name already;
    /// `NotFound`; those of [`open`](Self::open).
    pub async fn accepted(&self, attempt: &str, task_id: &str) -> Result<()> {
        let update = "UPDATE attempts SET changed_at = $2, task_id = $3,
                state = CASE WHEN state = 'submitting' THEN 'accepted' ELSE state END
            WHERE id = $1 AND state NOT IN ('reserved', 'released') AND (task_id IS NULL OR task_id = $3)";
        self.run(async {
            let mut transaction = self.database.write().await?;
            let now = self.clock.stamp();
            let update = sqlx::query(update).bind(attempt).bind(now).bind(task_id);
            if update.execute(&mut *transaction).await?.rows_affected() == 0 {
                let found = existing(&mut transaction, attempt, now).await?;
                return Err(match &found.task_id {
                    Some(other) => conflict(&found, &format!("was accepted as `{other}`, not as `{task_id}`")),
                    None => misplaced(&found, "cannot be accepted"),
                });
            }
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// Turns the reservation into a charge of what the attempt cost, and keeps what was observed. The same settlement
    /// again changes nothing; one that is known replaces an assumed charge, never the reverse. A cost is charged
    /// whatever it is and wherever the attempt stands: the money is gone.
    ///
    /// # Errors
    /// `Conflict` where another cost was settled; `NotFound`; those of [`open`](Self::open).
    pub async fn settle(
        &self,
        attempt: &str,
        settlement: &Settlement,
        observation: Option<&Observation>,
    ) -> Result<Settled> {
        self.run(async {
            let mut transaction = self.database.write().await?;
            let settled = settle(&mut transaction, attempt, settlement, self.clock.stamp()).await?;
            if let Some(observation) = observation {
                observations::write(&mut transaction, observation, attempt).await?;
            }
            transaction.commit().await?;
            Ok(settled)
        })
        .await
    }

    /// Gives a reservation back where nothing was handed over.
    ///
    /// # Errors
    /// `Conflict` where a provider accepted the task, or its cost is charged; `NotFound`; those of
    /// [`open`](Self::open).
    pub async fn release(&self, attempt: &str) -> Result<()> {
        let update = "UPDATE attempts SET changed_at = $2, state = 'released', task = NULL
            WHERE id = $1 AND state IN ('reserved', 'submitting')";
        self.turn(attempt, update, &[State::Released], "cannot be released").await
    }

    /// Charges an attempt in full, until its cost is known. Changes nothing where it is.
    ///
    /// # Errors
    /// `Conflict` where nothing was handed over; `NotFound`; those of [`open`](Self::open).
    pub async fn assume(&self, attempt: &str) -> Result<()> {
        let update = "UPDATE attempts SET changed_at = $2, state = 'assumed', charged = reserved
            WHERE id = $1 AND state IN ('submitting', 'accepted')";
        self.turn(attempt, update, &[State::Assumed, State::Settled], "cannot be charged").await
    }

    async fn turn(&self, attempt: &str, update: &'static str, done: &[State], cannot: &str) -> Result<()> {
        self.run(async {
            let mut transaction = self.database.write().await?;
            let now = self.clock.stamp();
            if sqlx::query(update).bind(attempt).bind(now).execute(&mut *transaction).await?.rows_affected() == 0 {
                let found = existing(&mut transaction, attempt, now).await?;
                if !done.contains(&found.state) {
                    return Err(misplaced(&found, cannot));
                }
            }
            Ok(transaction.commit().await?)
        })
        .await
    }
}

pub(crate) async fn submitting(
    connection: &mut AnyConnection,
    attempt: &str,
    task: &[u8],
    now: i64,
) -> Result<(), Failure> {
    let update = "UPDATE attempts SET changed_at = $2, state = 'submitting', task = $3
        WHERE id = $1 AND state IN ('reserved', 'submitting')";
    let update = sqlx::query(update).bind(attempt).bind(now).bind(task);
    if update.execute(&mut *connection).await?.rows_affected() == 0 {
        return Err(misplaced(&existing(connection, attempt, now).await?, "cannot be handed over"));
    }
    Ok(())
}

async fn settle(
    connection: &mut AnyConnection,
    attempt: &str,
    settlement: &Settlement,
    now: i64,
) -> Result<Settled, Failure> {
    // Too much to write is still more than any cap.
    let cost = i64::try_from(settlement.cost.0).unwrap_or(i64::MAX);
    let billed = settlement.billed.map(nanos);
    let state = if settlement.is_assumed { State::Assumed } else { State::Settled };
    let update = "UPDATE attempts SET changed_at = $2, state = $3, charged = $4, billed = $5, outcome = $6,
            task = CASE WHEN $3 = 'settled' THEN NULL ELSE task END
        WHERE id = $1 AND state <> 'settled' RETURNING reserved";
    let row = sqlx::query(update)
        .bind(attempt)
        .bind(now)
        .bind(state.as_str())
        .bind(cost)
        .bind(billed)
        .bind(&settlement.outcome)
        .fetch_optional(&mut *connection)
        .await?;
    let reserved = match row {
        Some(row) => money(row.try_get(0)?),
        None => {
            let found = existing(connection, attempt, now).await?;
            let same = found.charged == money(cost) && found.billed.map(nanos) == billed;
            if !same && !settlement.is_assumed {
                let what = format!("was settled with {}, not {}", found.charged, settlement.cost);
                return Err(conflict(&found, &what));
            }
            return Ok(Settled { overrun: found.overrun() });
        }
    };
    let overrun = money(cost).saturating_sub(reserved);
    if overrun > NanoUsd::ZERO {
        tracing::warn!(attempt, %reserved, cost = %settlement.cost, "an attempt cost more than was reserved for it");
    }
    Ok(Settled { overrun })
}

/// As the ledger writes it; three centuries at most.
fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

async fn existing(connection: &mut AnyConnection, attempt: &str, now: i64) -> Result<Attempt, Failure> {
    attempt_row(connection, attempt, now).await?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("the ledger has no attempt `{attempt}`"))
            .hint("reserve it first; check that this is the ledger it was reserved in")
            .into()
    })
}

fn misplaced(attempt: &Attempt, cannot: &str) -> Failure {
    let why = match attempt.state {
        State::Reserved => "it was reserved, but not handed over",
        State::Submitting => "it may have been handed over",
        State::Accepted => "a provider has accepted it",
        State::Settled => "its cost is settled",
        State::Assumed => "it is charged in full, until its cost is known",
        State::Released => "its reservation was released",
    };
    conflict(attempt, &format!("{cannot}: {why}"))
}

fn conflict(attempt: &Attempt, what: &str) -> Failure {
    let hint = match attempt.state {
        State::Reserved => "mark it as submitting first",
        State::Submitting | State::Accepted | State::Assumed => "find out what became of it, then settle what it cost",
        State::Settled => "go by what was settled first",
        State::Released => "reserve again, under a new attempt id",
    };
    Error::new(ErrorKind::Conflict, format!("the attempt `{}` {what}", attempt.id)).hint(hint).into()
}

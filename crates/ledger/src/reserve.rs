//! Reserving before anything is handed over, and what becomes of reservations whose time is up.

use outboard_core::{Error, ErrorKind, NanoUsd, Result};
use sqlx::{AnyConnection, Row};

use crate::{
    clock,
    failure::Failure,
    ledger::{Ledger, amount, money, no_job},
    moves,
    queries::{attempt_row, first_expiry, totals},
    records::{Attempt, Cap, Expired, Refusal, Reservation, Reserved, State},
};

impl Ledger {
    /// Holds an amount for an attempt, if under each cap that covers it charges and live reservations leave room.
    /// What is free always fits. No other process can come between the look and the note. Reservations whose time is
    /// up are expired first. Asked again for the same attempt, says where it stands.
    ///
    /// # Errors
    /// `Conflict` where the attempt was noted with something else, or is released; `NotFound` for a job that wasn't
    /// started; `InvalidRequest` for an amount beyond 9 billion dollars; those of [`open`](Self::open).
    pub async fn reserve(&self, reservation: &Reservation, caps: &[Cap]) -> Result<Reserved> {
        self.run(async {
            let mut transaction = self.database.write_alone().await?;
            // Only now: the wait may have lasted past midnight.
            let now = self.clock.stamp();
            expire(&mut transaction, now).await?;
            let reserved = reserve(&mut transaction, reservation, caps, now).await?;
            // Also after a refusal, for what has expired.
            transaction.commit().await?;
            Ok(reserved)
        })
        .await
    }

    /// Deals with reservations whose time is up: those never handed over are released, the others charged in full, as
    /// [`State::Assumed`]. Each is told to exactly one caller.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn expire(&self) -> Result<Vec<Expired>> {
        self.run(async {
            let mut transaction = self.database.write_alone().await?;
            let expired = expire(&mut transaction, self.clock.stamp()).await?;
            transaction.commit().await?;
            Ok(expired)
        })
        .await
    }
}

async fn reserve(
    connection: &mut AnyConnection,
    reservation: &Reservation,
    caps: &[Cap],
    now: i64,
) -> Result<Reserved, Failure> {
    let asked = amount(reservation.amount)?;
    if let Some(attempt) = attempt_row(connection, &reservation.attempt, now).await? {
        let state = again(&attempt, reservation)?;
        return match (state, &reservation.submitting) {
            (State::Reserved, Some(task)) => {
                moves::submitting(connection, &reservation.attempt, task, now).await?;
                Ok(Reserved::Granted { state: State::Submitting })
            }
            _ => Ok(Reserved::Granted { state }),
        };
    }
    if let Some(refusal) = refusal(connection, reservation, caps, now).await? {
        return Ok(Reserved::Refused(refusal));
    }
    let state = if reservation.submitting.is_some() { State::Submitting } else { State::Reserved };
    let insert = "INSERT INTO attempts (id, job, sweep, task_key, provider, local, day, month, reserved_at,
            expires_at, changed_at, state, reserved, task)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $9, $11, $12, $13)";
    let inserted = sqlx::query(insert)
        .bind(&reservation.attempt)
        .bind(&reservation.job)
        .bind(&reservation.sweep)
        .bind(&reservation.task_key)
        .bind(&reservation.provider)
        .bind(i64::from(reservation.local))
        .bind(clock::day(now))
        .bind(clock::month(now))
        .bind(now)
        .bind(clock::millis(reservation.expires_at))
        .bind(state.as_str())
        .bind(asked)
        .bind(&reservation.submitting)
        .execute(connection)
        .await;
    match inserted {
        Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => Err(no_job(&reservation.job).into()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(Reserved::Granted { state }),
    }
}

/// The state of an attempt that was reserved before, if it is the same that is asked for again.
fn again(attempt: &Attempt, reservation: &Reservation) -> Result<State> {
    let conflict = |what: String| {
        Error::new(ErrorKind::Conflict, format!("the attempt `{}` {what}", attempt.id))
            .hint("give the new attempt an id of its own")
    };
    let same = attempt.job == reservation.job
        && attempt.provider == reservation.provider
        && attempt.task_key == reservation.task_key;
    if !same {
        let (key, job, provider) = (&attempt.task_key, &attempt.job, &attempt.provider);
        return Err(conflict(format!("was reserved for task `{key}` of job `{job}` on `{provider}`")));
    }
    if attempt.reserved != reservation.amount {
        return Err(conflict(format!("was reserved with {}, not {}", attempt.reserved, reservation.amount)));
    }
    if attempt.state == State::Released {
        return Err(conflict("was released".into()));
    }
    Ok(attempt.state)
}

/// Why there is no room, if there is none.
async fn refusal(
    connection: &mut AnyConnection,
    reservation: &Reservation,
    caps: &[Cap],
    now: i64,
) -> Result<Option<Refusal>, Failure> {
    let asked = reservation.amount;
    let mut found: Option<Refusal> = None;
    if asked == NanoUsd::ZERO {
        return Ok(None);
    }
    for cap in caps.iter().filter(|cap| cap.scope.covers(reservation)) {
        let spent = totals(connection, &cap.scope, now).await?;
        let fits = |taken: NanoUsd| taken.checked_add(asked).is_some_and(|total| total <= cap.limit);
        if fits(spent.total()) {
            continue;
        }
        let frees_at = match fits(spent.charged) {
            // None is left where the last was settled since.
            true => first_expiry(connection, &cap.scope, now).await?.or(Some(clock::time(now))),
            false => None,
        };
        if found.as_ref().is_none_or(|earlier| earlier.frees_at.is_some() && frees_at.is_none()) {
            let (charged, reserved) = (spent.charged, spent.reserved);
            found = Some(Refusal { cap: cap.clone(), charged, reserved, asked, frees_at });
        }
    }
    Ok(found)
}

async fn expire(connection: &mut AnyConnection, now: i64) -> Result<Vec<Expired>, Failure> {
    let update = "UPDATE attempts SET changed_at = $1,
            charged = CASE WHEN state = 'reserved' THEN 0 ELSE reserved END,
            state = CASE WHEN state = 'reserved' THEN 'released' ELSE 'assumed' END
        WHERE state IN ('reserved', 'submitting', 'accepted') AND expires_at <= $1
        RETURNING id, job, provider, reserved, state";
    let rows = sqlx::query(update).bind(now).fetch_all(connection).await?;
    let mut expired = Vec::with_capacity(rows.len());
    for row in &rows {
        let one = Expired {
            attempt: row.try_get(0)?,
            job: row.try_get(1)?,
            provider: row.try_get(2)?,
            amount: money(row.try_get(3)?),
            assumed: row.try_get::<&str, _>(4)? == State::Assumed.as_str(),
        };
        tracing::info!(attempt = one.attempt, amount = %one.amount, assumed = one.assumed, "a reservation's time is up");
        expired.push(one);
    }
    Ok(expired)
}

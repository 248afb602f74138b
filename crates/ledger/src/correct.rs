//! Charges as a provider's bill has them.

use std::time::SystemTime;

use outboard_core::{Error, ErrorKind, NanoUsd, Result};
use sqlx::AssertSqlSafe;

use crate::{
    clock,
    ledger::{Ledger, amount},
    queries::ATTEMPT,
    records::{Attempt, Correction},
};

impl Ledger {
    /// The attempts on a provider that were reserved from `from` on and before `to`, oldest first, but for those
    /// released.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn attempts_on(&self, provider: &str, from: SystemTime, to: SystemTime) -> Result<Vec<Attempt>> {
        let select = format!(
            "{ATTEMPT} WHERE reserved_at >= $1 AND reserved_at < $2 AND provider = $3 AND state <> 'released'
             ORDER BY reserved_at, id"
        );
        let select = sqlx::query(AssertSqlSafe(select));
        self.list(select.bind(clock::millis(from)).bind(clock::millis(to)).bind(provider.to_string())).await
    }

    /// Replaces charges by what the provider's bill says, all of them or none. What no attempt explains is charged as an
    /// attempt of its own, under a job of its own; the same correction again changes nothing.
    ///
    /// # Errors
    /// `Conflict` where an attempt isn't charged yet, or doesn't exist; `InvalidRequest` for an amount beyond 9 billion
    /// dollars; those of [`open`](Self::open).
    pub async fn correct(&self, correction: &Correction) -> Result<()> {
        let Correction { provider, account, day, charges, unexplained } = correction;
        self.run(async {
            let mut transaction = self.database.write().await?;
            let now = self.clock.stamp();
            for (attempt, cost) in charges {
                let update = "UPDATE attempts SET changed_at = $2, state = 'settled', charged = $3, task = NULL,
                        outcome = COALESCE(outcome, 'as billed')
                    WHERE id = $1 AND state IN ('settled', 'assumed')";
                let update = sqlx::query(update).bind(attempt).bind(now).bind(amount(*cost)?);
                if update.execute(&mut *transaction).await?.rows_affected() == 0 {
                    let message = format!("the attempt `{attempt}` is not charged, so its charge can't be corrected");
                    return Err(Error::new(ErrorKind::Conflict, message)
                        .hint("wait for its end, then try again")
                        .into());
                }
            }
            let (id, job, start) = (correction.attempt(), correction.job(), clock::millis(*day));
            let unexplained = amount(*unexplained)?;
            if unexplained > 0 {
                let insert =
                    "INSERT INTO jobs (id, name, folder, created_at, status) VALUES ($1, $2, '-', $3, 'billed')
                    ON CONFLICT (id) DO NOTHING";
                let name = format!("charges of {provider} that no task explains");
                sqlx::query(insert).bind(&job).bind(name).bind(start).execute(&mut *transaction).await?;
                let insert = "INSERT INTO attempts (id, job, task_key, provider, local, day, month, reserved_at,
                        expires_at, changed_at, state, reserved, charged, outcome, task_id)
                    VALUES ($1, $2, $1, $3, 0, $4, $5, $6, $6, $7, 'settled', 0, $8, 'found on the bill', $9)
                    ON CONFLICT (id) DO UPDATE SET changed_at = excluded.changed_at, charged = excluded.charged";
                sqlx::query(insert)
                    .bind(&id)
                    .bind(&job)
                    .bind(provider)
                    .bind(clock::day(start))
                    .bind(clock::month(start))
                    .bind(start)
                    .bind(now)
                    .bind(unexplained)
                    .bind(account)
                    .execute(&mut *transaction)
                    .await?;
            } else {
                let update = "UPDATE attempts SET changed_at = $2, charged = 0 WHERE id = $1";
                sqlx::query(update).bind(&id).bind(now).execute(&mut *transaction).await?;
            }
            Ok(transaction.commit().await?)
        })
        .await
    }
}

impl Correction {
    /// The attempt that stands for what no other explains.
    #[must_use]
    pub fn attempt(&self) -> String {
        format!("{}/{}/{}", self.job(), self.account, clock::day(clock::millis(self.day)))
    }

    fn job(&self) -> String {
        format!("bill-{}", self.provider)
    }

    /// A correction that leaves all as it is.
    #[must_use]
    pub fn new(provider: &str, account: &str, day: SystemTime) -> Self {
        let (provider, account) = (provider.to_string(), account.to_string());
        Self { provider, account, day, charges: Vec::new(), unexplained: NanoUsd::ZERO }
    }
}

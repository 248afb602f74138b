//! What ended attempts taught of their providers.

use outboard_core::{Error, ErrorKind, Observation, Result};
use sqlx::AnyConnection;

use crate::{failure::Failure, ledger::Ledger};

impl Ledger {
    /// Keeps what an attempt taught; again for the same attempt, instead of what it taught before.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn observe(&self, observation: &Observation, attempt: &str) -> Result<()> {
        self.run(async {
            let mut connection = self.database.pool().acquire().await?;
            write(&mut connection, observation, attempt).await
        })
        .await
    }

    /// What the last attempts on a provider taught, newest first, at most `limit`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn observations(&self, provider: &str, limit: u32) -> Result<Vec<Observation>> {
        let select = "SELECT observation FROM observations WHERE provider = $1
            ORDER BY ended_at DESC, attempt DESC LIMIT $2";
        self.run(async {
            let select = sqlx::query_scalar(select).bind(provider).bind(i64::from(limit));
            let rows: Vec<String> = select.fetch_all(self.database.pool()).await?;
            // A newer program may have written words that this one doesn't know.
            let read = |row: &String| {
                serde_json::from_str(row)
                    .inspect_err(|error| tracing::debug!(%error, "an observation is left out"))
                    .ok()
            };
            Ok(rows.iter().filter_map(read).collect())
        })
        .await
    }
}

pub(crate) async fn write(
    connection: &mut AnyConnection,
    observation: &Observation,
    attempt: &str,
) -> Result<(), Failure> {
    let json = serde_json::to_string(observation)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot encode an observation").because(e))?;
    let insert = "INSERT INTO observations (attempt, provider, ended_at, observation) VALUES ($1, $2, $3, $4)
        ON CONFLICT (attempt) DO UPDATE SET provider = excluded.provider, ended_at = excluded.ended_at,
            observation = excluded.observation";
    sqlx::query(insert)
        .bind(attempt)
        .bind(&observation.provider)
        .bind(i64::try_from(observation.at).unwrap_or(i64::MAX))
        .bind(json)
        .execute(connection)
        .await?;
    Ok(())
}

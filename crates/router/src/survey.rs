//! Asks providers for what only they know.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::{join, join_all};
use outboard_core::{ComputeProvider, Result, provider::Health};
use tokio::time::timeout;

use crate::{Candidate, words};

/// Asks each provider for its price and health, all at once, within `deadline`. What isn't answered is a reason against
/// it, never a zero price.
pub async fn survey(providers: &[Arc<dyn ComputeProvider>], deadline: Duration) -> Vec<Candidate> {
    join_all(providers.iter().map(|provider| ask(&**provider, deadline))).await
}

async fn ask(provider: &dyn ComputeProvider, deadline: Duration) -> Candidate {
    let price = within(deadline, provider.price());
    let health = within(deadline, provider.health());
    let (price, health) = join(price, health).await;
    let health = health.unwrap_or_else(Health::Unavailable);
    Candidate::new(provider.info(), provider.capabilities(), price, health)
}

/// The answer, or in words why there is none.
async fn within<T>(deadline: Duration, answer: impl Future<Output = Result<T>>) -> Result<T, String> {
    match timeout(deadline, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(match error.advice() {
            Some(advice) => format!("{error}; {advice}"),
            None => error.to_string(),
        }),
        Err(_) => Err(format!("no answer within {}", words::time(deadline.as_secs_f64()))),
    }
}

#[cfg(test)]
mod tests;

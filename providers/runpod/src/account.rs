//! The account behind the endpoints: what it was billed.

use std::collections::BTreeMap;

use outboard_core::{
    NanoUsd,
    error::{Error, ErrorKind, Result},
};
use serde::Deserialize;

use crate::{Config, connection::Connection};

/// What RunPod knows of the account that the key belongs to.
#[derive(Debug)]
pub struct Account {
    pub(crate) connection: Connection,
}

/// What an endpoint cost on a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Billed {
    /// The endpoint's id.
    pub endpoint: String,
    /// The day, UTC: `2026-03-01`.
    pub day: String,
    /// What it cost, all of it: starts of workers that crashed, and what other clients ran there.
    pub amount: NanoUsd,
}

/// A record of either version of the REST API.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    #[serde(alias = "serverlessId")]
    endpoint_id: Option<String>,
    #[serde(alias = "totalAmount")]
    amount: f64,
    #[serde(alias = "startTime")]
    time: String,
}

/// Version 1 gives a list, version 2 an object around one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Records {
    Bare(Vec<Record>),
    Wrapped { records: Vec<Record> },
}

impl Account {
    /// The account of this key. No request is made.
    ///
    /// # Errors
    /// `InvalidConfig` where there is no key, or an address is wrong.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Self { connection: Connection::new(config)? })
    }

    /// What its endpoints cost, by endpoint and day, from the day `from` on and before `until`: as version 1 of the REST
    /// API tells it, or version 2 where the key allows only that.
    ///
    /// # Errors
    /// `PermissionDenied` where the key may not read bills; those of the network.
    pub async fn bills(&self, from: &str, until: &str) -> Result<Vec<Billed>> {
        let midnight = |day: &str| format!("{day}T00:00:00Z");
        let query = [
            ("bucketSize", "day".to_string()),
            ("grouping", "endpointId".into()),
            ("startTime", midnight(from)),
            ("endTime", midnight(until)),
        ];
        let first: Result<Records> = self.connection.manage(&["billing", "endpoints"], &query).await;
        let records = match first {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                let second = self.connection.rest(&["billing", "serverless"], &query).await;
                // Where neither is allowed, the first one is what is meant.
                second.map_err(|_| error.hint("give the key access to billing in RunPod's console"))
            }
            first => first,
        };
        let records = match records.map_err(|error| error.with_provider("runpod").with_operation("read the bill"))? {
            Records::Bare(records) | Records::Wrapped { records } => records,
        };
        let mut sums: BTreeMap<(String, String), u64> = BTreeMap::new();
        for Record { endpoint_id, amount, time } in records {
            let (Some(endpoint), Some(day)) = (endpoint_id, time.get(..10).filter(|day| is_day(day))) else {
                return Err(Error::new(
                    ErrorKind::CorruptPayload,
                    "RunPod's bill has a record without an endpoint or a day",
                )
                .with_provider("runpod")
                .hint("look at the bill in RunPod's console"));
            };
            if (from..until).contains(&day) {
                let sum = sums.entry((endpoint, day.to_string())).or_default();
                *sum = sum.saturating_add(nanos(amount));
            }
        }
        let billed = |((endpoint, day), amount)| Billed { endpoint, day, amount: NanoUsd(amount) };
        Ok(sums.into_iter().map(billed).collect())
    }
}

/// Dollars, which RunPod writes as a floating-point number. A credit is no cost.
pub(crate) fn nanos(usd: f64) -> u64 {
    // Saturates, and takes what isn't a number for zero.
    (usd.max(0.0) * 1e9).round() as u64
}

fn is_day(text: &str) -> bool {
    text.bytes().enumerate().all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_both_versions_are_read() {
        let read = |text: &str| match serde_json::from_str::<Records>(text).unwrap() {
            Records::Bare(records) | Records::Wrapped { records } => {
                records.into_iter().map(|r| (r.endpoint_id.unwrap(), nanos(r.amount), r.time)).collect::<Vec<_>>()
            }
        };
        let first = read(
            r#"[{"amount":0.00124,"diskSpaceBilledGb":0,"endpointId":"a","time":"2026-11-01 00:00:00","timeBilledMs":4000}]"#,
        );
        assert_eq!(first, [("a".to_string(), 1_240_000, "2026-11-01 00:00:00".to_string())]);
        let second = read(
            r#"{"records":[{"serverlessId":"b","startTime":"2026-11-02T00:00:00Z","totalAmount":1.5,"gpuAmount":1.5}],"metadata":{}}"#,
        );
        assert_eq!(second[0].1, 1_500_000_000);
        assert_eq!((nanos(-1.0), nanos(f64::NAN)), (0, 0));
        assert!(is_day("2026-11-01") && !is_day("2026/11/01"));
    }
}

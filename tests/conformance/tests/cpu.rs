//! The suite over the `cpu` provider, bare and in each wrapper.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use outboard_conformance::run_all;
use outboard_wrappers::{
    MetricsProvider, Rate, RateLimitProvider, RateLimits, RetryProvider, RetrySettings, Settings, TimeoutProvider,
    TimeoutSettings, standard,
};

mod common;

use common::LocalFixture;

/// All but: unclaimed layers, unclaimed operations (it has all), a restarted client, secrets (it has none).
const PASSED: usize = 30;

#[tokio::test]
async fn bare() {
    run_all(&LocalFixture::new(|cpu| cpu)).await.assert_passed(PASSED);
}

#[tokio::test]
async fn timeout() {
    let fixture = LocalFixture::new(|cpu| Arc::new(TimeoutProvider::new(cpu, TimeoutSettings::default())));
    run_all(&fixture).await.assert_passed(PASSED);
}

#[tokio::test]
async fn rate_limit() {
    let fixture = LocalFixture::new(|cpu| Arc::new(RateLimitProvider::new(cpu, rates())));
    run_all(&fixture).await.assert_passed(PASSED);
}

#[tokio::test]
async fn retry() {
    let fixture = LocalFixture::new(|cpu| Arc::new(RetryProvider::new(cpu, RetrySettings::default())));
    run_all(&fixture).await.assert_passed(PASSED);
}

#[tokio::test]
async fn metrics() {
    let fixture = LocalFixture::new(|cpu| Arc::new(MetricsProvider::new(cpu)));
    run_all(&fixture).await.assert_passed(PASSED);
}

#[tokio::test]
async fn all_wrappers() {
    let fixture = LocalFixture::new(|cpu| standard(cpu, &Settings { rate_limit: rates(), ..Settings::default() }));
    run_all(&fixture).await.assert_passed(PASSED);
}

fn rates() -> RateLimits {
    let rate = |calls: u32| {
        let calls = calls.try_into().unwrap();
        Some(Rate { calls, per: Duration::from_secs(1), burst: calls })
    };
    RateLimits { submit: rate(100), wait: rate(500), cancel: rate(100), query: rate(100) }
}

//! The suite accepts providers that can do less, and notices each fault where it should.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::{Arc, OnceLock};

use outboard_conformance::run_all;

mod common;

use common::{
    LocalFixture,
    odd::{LOGGED_SECRET, Odd, Oddity, SECRET},
};

fn fixture(oddity: Oddity) -> LocalFixture {
    let mut fixture = LocalFixture::new(move |cpu| Arc::new(Odd::new(cpu, oddity)));
    fixture.secrets = vec![if oddity == Oddity::Logs { LOGGED_SECRET } else { SECRET }.into()];
    fixture
}

async fn assert_noticed(oddity: Oddity, by: &[&str]) {
    let report = run_all(&fixture(oddity)).await;
    assert_eq!(report.failed(), by, "{oddity:?}\n{report}");
}

#[tokio::test]
async fn a_provider_that_can_do_less_passes_fewer_cases() {
    run_all(&fixture(Oddity::IsLimited)).await.assert_passed(25);
}

#[tokio::test]
async fn a_provider_that_outlives_its_clients_passes_one_more_case() {
    let mut fixture = LocalFixture::new(|cpu| cpu);
    fixture.only = Some(OnceLock::new());
    run_all(&fixture).await.assert_passed(31);
}

#[tokio::test]
async fn what_is_not_claimed_must_be_refused() {
    let by = [
        "unclaimed_layers_are_refused",
        "unclaimed_operations_are_refused",
        "list_shows_live_tasks_only",
        "a_cancelled_task_goes_on_from_its_checkpoint",
    ];
    assert_noticed(Oddity::ClaimsTooLittle, &by).await;
}

#[tokio::test]
async fn an_attempt_that_runs_twice_is_noticed() {
    let by = ["the_same_attempt_runs_once", "a_task_whose_reply_was_lost_runs_once"];
    assert_noticed(Oddity::RunsEachSubmit, &by).await;
}

#[tokio::test]
async fn a_lost_reply_that_may_be_tried_again_is_noticed() {
    assert_noticed(Oddity::InvitesAgain, &["a_task_whose_reply_was_lost_runs_once"]).await;
}

#[tokio::test]
async fn a_missing_epoch_is_noticed() {
    let report = run_all(&fixture(Oddity::DropsAnEpoch)).await;
    // One that was cancelled within its first two epochs misses none.
    let failed: Vec<_> =
        report.failed().into_iter().filter(|name| *name != "a_task_whose_reply_was_lost_runs_once").collect();
    let by = [
        "training_ends_with_its_checkpoint",
        "events_come_in_order",
        "tasks_at_once_keep_apart",
        "the_same_attempt_runs_once",
        "the_curve_is_portable",
    ];
    assert_eq!(failed, by, "{report}");
}

#[tokio::test]
async fn a_wrong_loss_is_noticed() {
    assert_noticed(Oddity::WrongLoss, &["claimed_layers_train", "tasks_at_once_keep_apart", "the_curve_is_portable"])
        .await;
}

#[tokio::test]
async fn stopping_the_unknown_is_noticed() {
    assert_noticed(Oddity::StopsTheUnknown, &["an_unknown_task_is_not_found"]).await;
}

#[tokio::test]
async fn a_wait_without_end_is_noticed() {
    assert_noticed(Oddity::ForgetsTheLimit, &["the_limit_is_kept"]).await;
}

#[tokio::test]
async fn a_leak_is_noticed() {
    assert_noticed(Oddity::Leaks, &["secrets_stay_hidden"]).await;
}

#[tokio::test]
async fn a_logged_secret_is_noticed() {
    assert_noticed(Oddity::Logs, &["secrets_stay_hidden"]).await;
}

#[tokio::test]
async fn an_empty_list_is_noticed() {
    let by = ["list_shows_live_tasks_only", "a_task_whose_reply_was_lost_runs_once"];
    assert_noticed(Oddity::ListsNothing, &by).await;
}

#[tokio::test]
async fn a_provider_that_is_down_is_noticed() {
    assert_noticed(Oddity::IsDown, &["health_is_ready"]).await;
}

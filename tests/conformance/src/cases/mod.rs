//! The cases, a file for each subject.

use std::{future::Future, pin::Pin};

use crate::suite::{Checked, Suite};

mod cancelling;
mod claims;
mod faults;
mod limits;
mod moving;
mod operations;
mod secrets;
mod submitting;
mod waiting;

type Running<'a> = Pin<Box<dyn Future<Output = Checked> + Send + 'a>>;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: for<'a> fn(&'a Suite<'a>) -> Running<'a>,
}

macro_rules! cases {
    ($($subject:ident::$name:ident),* $(,)?) => {
        &[$(Case { name: stringify!($name), run: |suite| Box::pin($subject::$name(suite)) }),*]
    };
}

/// All cases, in their order. The last looks at what all others have seen.
pub(crate) const CASES: &[Case] = cases![
    claims::identity_stays_the_same,
    claims::price_is_known,
    claims::health_is_ready,
    claims::claimed_layers_train,
    claims::unclaimed_layers_are_refused,
    claims::unclaimed_operations_are_refused,
    claims::list_shows_live_tasks_only,
    claims::progress_arrives_while_a_task_runs,
    operations::training_ends_with_its_checkpoint,
    operations::events_come_in_order,
    operations::evaluate_matches_the_engine,
    operations::predict_matches_the_engine,
    operations::describes_its_environment,
    operations::tasks_at_once_keep_apart,
    submitting::the_same_attempt_runs_once,
    submitting::a_task_whose_reply_was_lost_runs_once,
    submitting::a_restarted_client_finds_its_task,
    waiting::no_time_is_enough_for_an_answer,
    waiting::the_limit_is_kept,
    waiting::an_old_revision_gives_what_came_since,
    waiting::a_foreign_revision_gives_everything,
    waiting::an_unknown_task_is_not_found,
    cancelling::a_cancelled_task_goes_on_from_its_checkpoint,
    cancelling::cancelling_twice_is_harmless,
    cancelling::a_queued_task_is_cancelled,
    cancelling::a_run_stops_when_told,
    limits::a_limit_ends_training_with_a_checkpoint,
    limits::an_ended_task_tells_where_its_time_went,
    faults::a_missing_blob_is_not_found,
    faults::a_damaged_blob_is_noticed,
    faults::a_blob_of_another_kind_is_noticed,
    faults::a_failing_job_is_not_tried_elsewhere,
    moving::the_curve_is_portable,
    secrets::secrets_stay_hidden,
];

//! A job that is to run: its file, its data, its output folder, and which providers could take it.

use std::{path::Path, sync::Arc};

use outboard_core::{Job, Result, code, finding::Finding};
use outboard_router::{Row, Verdict};
use outboard_store::FolderStore;

use super::{apart, machine};
use crate::{Client, Config, client::JobPlan, read_job, registry};

const OUTPUT: &str = "name another folder with `--output DIR`, or change the permissions of this one";

pub(super) async fn examine(config: &Arc<Config>, path: &Path, store: &FolderStore) -> Vec<Finding> {
    let of = path.display().to_string();
    let job = match read_job(path) {
        Ok(job) => job,
        Err(error) => return vec![Finding::error(error.code(), of, &error)],
    };
    let output = match (&job.output, std::env::current_dir()) {
        (Some(output), _) => output.clone(),
        (None, Ok(here)) => here.join("runs"),
        (None, Err(_)) => Path::new("runs").into(),
    };
    let mut found = apart(move || machine::folder_to_be("output", &output, OUTPUT)).await;
    match plan(config, job, store).await {
        Ok(planned) => {
            let (rows, parameters) = (planned.rows + planned.validation_rows, planned.parameters);
            found.push(Finding::pass(code::JOB, of, format!("it is right: {rows} rows, {parameters} parameters")));
            found.extend(planned.plan.rows.iter().map(row));
            if planned.plan.choice.is_none() {
                let remedy = "mend one of the reasons above, or enable another provider";
                found.push(Finding::fail(code::NO_PROVIDER, "job", "no provider could take it", remedy));
            }
        }
        Err(error) => found.push(Finding::error(error.code(), of, &error)),
    }
    found
}

/// By those providers that can be made: what is wrong with the others is told elsewhere.
async fn plan(config: &Arc<Config>, job: Job, store: &FolderStore) -> Result<JobPlan> {
    let (all, folder) = (config.clone(), store.clone());
    let made = move || {
        let used = registry::known(&all).into_iter().filter(|known| known.is_used);
        used.filter_map(|known| registry::provider(&all, &known.id, &folder).ok()).collect()
    };
    Client::with_providers((**config).clone(), store.clone(), apart(made).await)?.plan(job).await
}

fn row(row: &Row) -> Finding {
    let of = row.provider.as_str();
    match (&row.verdict, &row.quote) {
        (Verdict::Excluded(reason), _) => match reason.help(of) {
            Some(help) => Finding::warn(code::LIMITS, of, format!("it could not take the job: {reason}"), help),
            None => Finding {
                remedy: None,
                ..Finding::warn(code::LIMITS, of, format!("it could not take the job: {reason}"), "")
            },
        },
        (Verdict::Chosen, Some(quote)) => {
            Finding::pass(code::LIMITS, of, format!("it would get the job, for {} at most a task", quote.worst_cost))
        }
        (_, _) => Finding::pass(code::LIMITS, of, "it could take the job"),
    }
}

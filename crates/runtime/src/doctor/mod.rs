//! `outboard doctor`: whether what is configured works, check by check; and how this machine differs from another.
//!
//! The checks run at the same time, each with a deadline of its own. Those of a provider come from one function of its
//! crate, `examine`, and are wired up in `doctor::providers`.

mod consequences;
mod differences;
mod environment;
mod job;
mod ledger;
mod machine;
mod providers;

use std::{future::Future, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use futures_util::future::join_all;
use outboard_core::{
    Code, Error, ErrorKind, NanoUsd, Result, code,
    finding::{Finding, Findings, Verdict},
};
use outboard_store::FolderStore;
use tokio::time::timeout;

pub use self::{
    differences::Fact,
    environment::{Comparable, Comparison, Place},
};
use crate::{
    Config,
    client::trial,
    config::{self, Sources},
    nearest::nearest,
    registry::{self, Known},
};

/// The longest time for a check on this machine.
const LOCAL: Duration = Duration::from_secs(4);
/// The longest time for all checks of a provider, and of a job, whose data is read.
const REMOTE: Duration = Duration::from_secs(60);

/// What is to be examined.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Only these providers, and what they need.
    pub providers: Vec<String>,
    /// Also whether this job could run.
    pub job: Option<PathBuf>,
    /// Also one small task on each provider, which costs at most that much.
    pub live: Option<NanoUsd>,
}

const HOME: &str = "set OUTBOARD_HOME to a folder of yours, or change the permissions of this one";

type Check<'a> = Pin<Box<dyn Future<Output = Vec<Finding>> + Send + 'a>>;

/// Examines the machine, the configuration and all that it names, or only some providers.
///
/// # Errors
/// `InvalidRequest` for a provider that there isn't; those of the configuration where a provider is asked for. All else that
/// doesn't work is a finding.
pub async fn examine(sources: &Sources, asked: &Asked) -> Result<Vec<Finding>> {
    let is_whole = asked.providers.is_empty();
    let config = match Config::load(sources) {
        Ok(config) => Arc::new(config),
        Err(error) if is_whole => {
            let mut found = vec![Finding::error(code::CONFIG, "configuration", &error)];
            found.extend(machine::here());
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    let known = known(&config, &asked.providers)?;
    let mut found = Vec::new();
    if is_whole {
        let file = config::file(sources)?;
        let told = match file.is_file() {
            true => format!("{} is right", file.display()),
            false => "there is no outboard.toml: defaults and variables count".into(),
        };
        found.push(Finding::pass(code::CONFIG, "configuration", told));
        found.extend(machine::here());
    }
    let home = config.home.clone();
    let folder = late("home", LOCAL, apart(move || machine::folder("home", &home, HOME))).await;
    let has_home = !folder.iter().any(Finding::is_fail);
    if is_whole || !has_home {
        found.extend(folder);
    }
    if !has_home {
        return Ok(found);
    }
    let store = FolderStore::open(&config.home)?;

    let mut checks: Vec<Check<'_>> = Vec::new();
    if is_whole {
        checks.push(Box::pin(late("ledger", LOCAL, ledger::examine(&config))));
    }
    let uses_bucket = known.iter().any(|known| known.is_used && matches!(&*known.id, "runpod" | "aws-lambda"));
    if uses_bucket || (is_whole && !config.store.url.is_empty()) {
        checks.push(Box::pin(late("store", REMOTE, providers::bucket(&config))));
    }
    for known in &known {
        let (config, store) = (&config, &store);
        checks.push(Box::pin(async move {
            let found = Findings::default();
            within(&known.id, REMOTE, &found, providers::examine(config, known, store, &found)).await
        }));
    }
    if let Some(path) = &asked.job {
        checks.push(Box::pin(late("job", REMOTE, job::examine(&config, path, &store))));
    }
    found.extend(join_all(checks).await.into_iter().flatten());
    keep_one_clock(&mut found);

    if let Some(most) = asked.live {
        let is_broken = found.iter().any(Finding::is_fail);
        for Known { id, .. } in known.iter().filter(|known| known.is_used) {
            match is_broken {
                true => {
                    let evidence = "no task was run: mend what fails first";
                    found.push(Finding::warn(code::LIVE_TASK, id, evidence, "then run the command again"));
                }
                false => found.extend(trial::run(&config, id, &store, most).await),
            }
        }
    }
    Ok(found)
}

/// Those that were asked for, or else those that are used.
fn known(config: &Config, only: &[String]) -> Result<Vec<Known>> {
    let all = registry::known(config);
    if let Some(unknown) = only.iter().find(|id| all.iter().all(|known| known.id != **id)) {
        let ids: Vec<_> = all.iter().map(|known| known.id.as_str()).collect();
        return Err(Error::invalid(format!("there is no provider `{unknown}`"))
            .or_code(code::USAGE)
            .at("flag", "--provider")
            .hint(format!("use one of {}", ids.join(", "))));
    }
    let is_meant = |known: &Known| if only.is_empty() { known.is_used } else { only.contains(&known.id) };
    Ok(all.into_iter().filter(is_meant).collect())
}

/// The findings of a check, or that it was not done in time.
async fn late(of: &str, limit: Duration, check: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    let found = Findings::default();
    within(of, limit, &found, async { found.extend(check.await) }).await
}

/// What checks tell `found` in time, and that they were not all done where they were not.
async fn within(of: &str, limit: Duration, found: &Findings, checks: impl Future<Output = ()>) -> Vec<Finding> {
    if timeout(limit, checks).await.is_err() {
        let evidence = format!("it was not done within {limit:?}");
        found.push(Finding::warn(code::LATE, of, evidence, "run the command again with `--log debug`"));
    }
    found.take()
}

/// Runs what may hang on a thread of its own, for which nobody waits at the end of the program.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Whoever asked may have given up.
        let _ = tell.send(work());
    });
    match told.await {
        Ok(done) => done,
        // It panicked, and has said why.
        Err(_) => std::future::pending().await,
    }
}

/// Of several servers that agree about the time, one is enough.
fn keep_one_clock(found: &mut Vec<Finding>) {
    let mut has_one = false;
    found.retain(|finding| {
        let is_another = finding.code == code::CLOCK && finding.verdict == Verdict::Pass && has_one;
        has_one |= finding.code == code::CLOCK;
        !is_another
    });
}

/// The code of this name, to be explained.
///
/// # Errors
/// `NotFound`, with the nearest one.
pub fn explained(name: &str) -> Result<Code> {
    Code::named(name).ok_or_else(|| {
        let long = name.trim().to_uppercase();
        let long = if long.starts_with("OB-") { long } else { format!("OB-{long}") };
        let hint = match nearest(&long, Code::all().map(|code| code.name)) {
            Some(meant) => format!("outboard doctor --explain {meant}"),
            None => "list them with `outboard doctor --explain`".into(),
        };
        Error::new(ErrorKind::NotFound, format!("there is no code `{name}`")).or_code(code::USAGE).hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_explained_or_the_nearest_one_told() {
        assert_eq!(explained("runpod-key").unwrap(), code::RUNPOD_KEY);
        for (name, hint) in [
            ("OB-DATE", "outboard doctor --explain OB-DATA"),
            ("runpod-keys", "outboard doctor --explain OB-RUNPOD-KEY"),
            ("weather", "list them with `outboard doctor --explain`"),
        ] {
            assert_eq!(explained(name).unwrap_err().advice(), Some(hint), "{name}");
        }
    }

    #[tokio::test]
    async fn a_check_that_hangs_holds_up_nobody() {
        let found = late("disk", Duration::ZERO, std::future::pending()).await;
        assert_eq!((found[0].code, found[0].verdict), (code::LATE, Verdict::Warn));
        assert_eq!(found[0].evidence, "it was not done within 0ns");
    }

    #[tokio::test]
    async fn what_was_found_by_then_is_kept() {
        let found = Findings::default();
        let checks = async {
            found.push(Finding::pass(code::RUNPOD_KEY, "runpod", "accepted"));
            std::future::pending().await
        };
        let all = within("runpod", Duration::ZERO, &found, checks).await;
        assert_eq!(all.iter().map(|finding| finding.code).collect::<Vec<_>>(), [code::RUNPOD_KEY, code::LATE]);
    }

    #[test]
    fn servers_that_agree_about_the_time_are_told_once() {
        let pass = || Finding::pass(code::CLOCK, "a", "agree");
        let mut found = vec![pass(), pass(), Finding::warn(code::CLOCK, "b", "60 s", "set it"), pass()];
        keep_one_clock(&mut found);
        assert_eq!(found.iter().map(|finding| finding.verdict).collect::<Vec<_>>(), [Verdict::Pass, Verdict::Warn]);
    }
}

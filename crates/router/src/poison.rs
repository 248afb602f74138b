//! A job that makes the task process die wherever it runs.

use outboard_core::{Error, ErrorKind};

use crate::Failure;

/// Why a job is poisoned: its task process died with the same signature at the same step on two different providers.
/// Failures of network, capacity and rate never count, whatever is said of the process.
pub(crate) fn between<'a>(failures: impl Iterator<Item = &'a Failure>) -> Option<String> {
    let deaths: Vec<_> = failures.filter(|failure| failure.died && may_be_the_job(failure.error.kind())).collect();
    let (second, first) = deaths.iter().enumerate().find_map(|(i, second)| {
        let same = |first: &&&Failure| first.provider != second.provider && is_same_death(first, second);
        Some((second, deaths[..i].iter().find(same)?))
    })?;
    let ((epoch, batch), providers) = (second.step, [&first.provider, &second.provider]);
    let providers = crate::words::list(&providers);
    Some(format!("on {providers} its task process died the same way at epoch {epoch}, batch {batch}: {}", second.error))
}

/// Whether the task process died both times, in the same way at the same step.
pub(crate) fn is_same_death(one: &Failure, two: &Failure) -> bool {
    one.died && two.died && one.step == two.step && signature(one) == signature(two)
}

pub(crate) fn error(why: &str, failure: &Failure) -> Error {
    Error::new(ErrorKind::JobFailed, format!("the job would fail anywhere: {why}"))
        .with_provider(&failure.provider)
        .hint("look at the data and the model; with a checkpoint in hand, try a smaller batch or another layer")
}

/// Whether the job can be to blame.
fn may_be_the_job(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    !matches!(
        kind,
        RateLimited
            | Unavailable
            | Timeout
            | Preempted
            | CapacityUnavailable
            | QuotaExceeded
            | Unauthenticated
            | PermissionDenied
            | Cancelled
            | CorruptPayload
            | PluginIncompatible
    )
}

/// What went wrong, without what differs from one process to the next: addresses, ids, times. Short numbers stay: an
/// exit status or a signal tells one death from another.
fn signature(failure: &Failure) -> (ErrorKind, String) {
    let message = failure.error.to_string();
    let mut text = String::new();
    for word in message.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let rest = word.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        text += if digits >= 4 || word.starts_with("0x") { "#" } else { &word[..word.len() - rest.len()] };
        text += rest;
    }
    (failure.error.kind(), text)
}

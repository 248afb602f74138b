//! The id of a task: where its job is, and which attempt at which key it was.

use outboard_core::{Task, TaskId};

/// `ENDPOINT/JOB/ATTEMPT/KEY`; slashes within the attempt are escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobId {
    pub(crate) endpoint: String,
    /// None where the reply that would have told it was lost.
    pub(crate) job: Option<String>,
    pub(crate) attempt: String,
    pub(crate) key: String,
}

/// Stands for a job whose id isn't known.
const UNKNOWN: &str = "-";

impl JobId {
    /// Of a task at an endpoint that may have it.
    pub(crate) fn unnamed(endpoint: &str, task: &Task) -> Self {
        Self { endpoint: endpoint.into(), job: None, attempt: task.attempt.clone(), key: task.key.clone() }
    }

    pub(crate) fn task_id(&self) -> TaskId {
        let job = self.job.as_deref().unwrap_or(UNKNOWN);
        let attempt = self.attempt.replace('%', "%25").replace('/', "%2F");
        TaskId(format!("{}/{job}/{attempt}/{}", self.endpoint, self.key))
    }

    pub(crate) fn parse(id: &TaskId) -> Option<Self> {
        let mut parts = id.0.splitn(4, '/');
        let (endpoint, job, attempt, key) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // An id is text from outside: it must not lead elsewhere.
        let is_plain =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !is_plain(endpoint) || !is_plain(job) || attempt.is_empty() || key.is_empty() {
            return None;
        }
        Some(Self {
            endpoint: endpoint.into(),
            job: (job != UNKNOWN).then(|| job.into()),
            attempt: attempt.replace("%2F", "/").replace("%25", "%"),
            key: key.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_strange_ones_are_none() {
        for (job, attempt) in [(Some("a-1"), "job/1#%2F"), (None, "%25")] {
            let id = JobId {
                endpoint: "ep".into(),
                job: job.map(Into::into),
                attempt: attempt.into(),
                key: "job/train/0".into(),
            };
            assert_eq!(JobId::parse(&id.task_id()), Some(id));
        }
        for strange in ["", "k", "ep/job", "ep/job/a", "ep//a/k", "../job/a/k", "ep/jo?b/a/k", "ep/job//k", "ep/job/a/"]
        {
            assert_eq!(JobId::parse(&TaskId(strange.into())), None, "{strange}");
        }
    }
}

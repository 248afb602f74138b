//! The id of a task: which attempt at which key it was. Lambda itself has no name for it before its end.

use outboard_core::TaskId;

/// `ATTEMPT/KEY`; slashes within the attempt are escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskName {
    pub(crate) attempt: String,
    pub(crate) key: String,
}

impl TaskName {
    pub(crate) fn id(&self) -> TaskId {
        let attempt = self.attempt.replace('%', "%25").replace('/', "%2F");
        TaskId(format!("{attempt}/{}", self.key))
    }

    pub(crate) fn parse(id: &TaskId) -> Option<Self> {
        let (attempt, key) = id.0.split_once('/')?;
        if attempt.is_empty() || key.is_empty() {
            return None;
        }
        Some(Self { attempt: attempt.replace("%2F", "/").replace("%25", "%"), key: key.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_strange_ones_are_none() {
        for attempt in ["job/1#%2F", "%25", "a"] {
            let name = TaskName { attempt: attempt.into(), key: "job/train/0".into() };
            assert_eq!(TaskName::parse(&name.id()), Some(name));
        }
        for strange in ["", "k", "/k", "a/"] {
            assert_eq!(TaskName::parse(&TaskId(strange.into())), None, "{strange}");
        }
    }
}

//! Handing a task over.

use std::{sync::Arc, time::Duration};

use outboard_core::{
    Task, TaskId,
    error::{Error, Result, Retry},
    task::OperationKind,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    Config,
    connection::Answer,
    follow::{Follow, Followed},
    provider::{AwsLambdaProvider, Place},
    task_name::TaskName,
};

/// Lambda acknowledges nothing before the end, but what it refuses it refuses at once: that long a refusal is waited for.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// The task with a limit that the function's time-out allows. Training that gets less time than it may take leaves a
/// checkpoint; anything else must fit.
pub(crate) fn cut(task: &Task, config: &Config) -> Result<Task> {
    let longest = config.longest_task();
    let limit = task.limit.unwrap_or(longest);
    if limit > longest && task.operation.kind() != OperationKind::Train {
        let message = format!(
            "a task of {limit:?} doesn't fit: of the function's time-out of {:?} it may take {longest:?}",
            config.timeout
        );
        return Err(Error::invalid(message)
            .with_retry(Retry::Other)
            .at("task", &task.key)
            .hint("raise the function's time-out and `timeout`, up to 15 minutes, or use another provider"));
    }
    Ok(Task { limit: Some(limit.min(longest)), ..task.clone() })
}

impl AwsLambdaProvider {
    /// Hands an attempt over, or finds it; whoever does so holds its place.
    pub(crate) async fn hand_over(&self, task: &Task, place: &mut Place) -> Result<TaskId> {
        if let Some(id) = place {
            return Ok(id.clone());
        }
        let task = cut(task, &self.config)?;
        let mut name = TaskName { attempt: task.attempt.clone(), key: task.key.clone() };
        let taken = match &self.bucket {
            Some(bucket) => bucket.taken(&task).await?,
            None => None,
        };
        if let Some(attempt) = taken {
            name.attempt = attempt;
            let follow = Follow::elsewhere(name, self.config.longest_invocation());
            let (id, _) = self.remember(follow);
            return Ok(place.insert(id).clone());
        }
        let (id, followed) = self.remember(Follow::new(name, self.config.longest_invocation()));
        *place = Some(id.clone());
        tokio::spawn(self.invoker().run(task, followed.clone()));
        match refusal(&followed).await {
            None => Ok(id),
            Some(error) => {
                // The same attempt may be handed over again.
                self.forget(&id);
                *place = None;
                Err(error)
            }
        }
    }
}

/// Why an invocation was refused, where that is known soon.
async fn refusal(followed: &Arc<Followed>) -> Option<Error> {
    let deadline = Instant::now() + REFUSED_WITHIN;
    loop {
        let mut news = std::pin::pin!(followed.news.notified());
        news.as_mut().enable();
        match &followed.state.lock().await.answer {
            Some(Answer::Refused(error)) => return Some(error.clone()),
            Some(_) => return None,
            None => {}
        }
        timeout_at(deadline, news).await.ok()?;
    }
}

#[cfg(test)]
mod tests {
    use outboard_core::{
        Digest, ErrorKind, Layer,
        job::Loss,
        task::{Architecture, EvaluateTask, Operation},
    };

    use super::*;

    #[test]
    fn a_task_is_cut_to_the_functions_time_and_one_that_cannot_fit_is_refused_with_the_numbers() {
        let digest = Digest::of(b"");
        let model = Architecture { layers: vec![Layer::Relu], input: vec![3] };
        let operation = Operation::Evaluate(EvaluateTask { model, weights: digest, data: digest, loss: Loss::Mse });
        let task = |limit| Task {
            key: "k".into(),
            job: "j".into(),
            attempt: "k#1".into(),
            operation: operation.clone(),
            limit,
        };
        let config = Config { timeout: Duration::from_secs(100), ..Config::default() };
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(cut(&task(None), &config).unwrap().limit, seconds(75));
        assert_eq!(cut(&task(seconds(60)), &config).unwrap().limit, seconds(60));
        let error = cut(&task(seconds(80)), &config).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidRequest, Retry::Other));
        assert_eq!(error.to_string(), "a task of 80s doesn't fit: of the function's time-out of 100s it may take 75s");
    }
}

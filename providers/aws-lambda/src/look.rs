//! One look at a task: at what came of its invocation, and at the bucket if there is one.

use std::time::Duration;

use outboard_core::{
    error::{Error, ErrorKind, Result, Retry},
    task::{Phase, Timings, Usage},
};
use outboard_protocol::{InlineReply, TaskRecord, TaskResult, envelope::Ending};
use outboard_store::Bucket;

use crate::{
    connection::{Answer, Ended, unknown},
    follow::Follow,
    parse_error::function_error,
    price::LONGEST_INIT,
    provider::AwsLambdaProvider,
    report::Report,
};

/// How long an invocation took, as far as that is known.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    billed: Duration,
    init: Option<Duration>,
}

impl Spent {
    fn of(ended: &Ended, report: Option<&Report>) -> Self {
        match report {
            Some(report) => Self { billed: report.billed, init: report.init },
            // From here it looks longer than it was.
            None => Self { billed: ended.took, init: None },
        }
    }
}

impl AwsLambdaProvider {
    pub(crate) async fn look(&self, follow: &mut Follow) -> Result<()> {
        let before = follow.task.revision();
        if let Some(answer) = follow.answer.take() {
            if let Err(error) = self.take(follow, &answer).await {
                // What couldn't be fetched is fetched at the next look.
                follow.answer = Some(answer);
                return Err(self.locate(error));
            }
        } else if let Some(bucket) = &self.bucket
            && !follow.waits()
        {
            follow.task.begin_look();
            self.look_into(bucket, follow).await.map_err(|error| self.locate(error))?;
        }
        if follow.task.revision() != before {
            follow.task.hurry();
        }
        Ok(())
    }

    async fn look_into(&self, bucket: &Bucket, follow: &mut Follow) -> Result<()> {
        if follow.is_elsewhere {
            if let Some(record) = bucket.result(&follow.name.key).await?.filter(|record| follow.task.log.counts(record))
            {
                // Nobody told what it took: at most the longest start beside the worker's own time.
                let billed = record.result.timings.running() + LONGEST_INIT;
                return self.take_record(bucket, follow, record, Spent { billed, init: None }).await;
            }
            follow.task.runs();
        }
        if let Some(progress) = bucket.progress(&follow.name.key).await? {
            follow.task.log.merge(bucket, progress, &self.store, false).await?;
        }
        if follow.is_elsewhere && follow.task.left().is_zero() {
            let error = Error::new(ErrorKind::WorkerUnhealthy, "the worker that had the task left no result");
            self.fail(follow, error.hint("look at the function's log in CloudWatch"), None);
        }
        Ok(())
    }

    /// Takes what came of the invocation.
    async fn take(&self, follow: &mut Follow, answer: &Answer) -> Result<()> {
        match answer {
            Answer::Refused(error) => {
                let usage = self.usage(follow, Timings::default(), Spent::default());
                self.fail(follow, error.clone(), Some(usage));
            }
            Answer::Lost(error) if self.bucket.is_some() => {
                tracing::debug!(%error, "the result is looked for by its key");
                follow.is_elsewhere = true;
            }
            Answer::Lost(error) => follow.lost = Some(error.clone()),
            Answer::Ended(ended) => self.take_end(follow, ended).await?,
        }
        Ok(())
    }

    async fn take_end(&self, follow: &mut Follow, ended: &Ended) -> Result<()> {
        let report = Report::of(ended.log.as_deref());
        let spent = Spent::of(ended, report.as_ref());
        let reply = serde_json::from_slice::<InlineReply>(&ended.body).ok();
        let Some(reply) = reply.filter(|reply| !ended.is_error && reply.result.key == follow.name.key) else {
            let usage = self.usage(follow, Timings::default(), spent);
            if let Some(bucket) = &self.bucket
                && let Some(progress) = bucket.progress(&follow.name.key).await?
            {
                // Checkpoints on the way are worth having.
                follow.task.log.merge(bucket, progress, &self.store, true).await?;
            }
            self.fail(follow, function_error(&ended.body, report.as_ref()), Some(usage));
            return Ok(());
        };
        let Some(bucket) = &self.bucket else {
            let result = follow.task.log.take(reply, &self.store).await?;
            self.finish(follow, result, spent);
            return Ok(());
        };
        if let Ending::Failed(failure) = &reply.result.ended
            && failure.kind == ErrorKind::Conflict
        {
            // Another invocation of this task has the lease: its result is found by the key.
            follow.is_elsewhere = true;
            return Ok(());
        }
        let record = bucket.result(&follow.name.key).await?.filter(|record| follow.task.log.counts(record));
        match (record, &reply.result.ended) {
            (Some(record), _) => self.take_record(bucket, follow, record, spent).await?,
            (None, Ending::Finished(outcome)) if outcome.blob().is_some() => {
                let error =
                    Error::new(ErrorKind::WorkerUnhealthy, "the worker could not put its result into the store")
                        .hint("look at the function's log in CloudWatch, and at the store");
                let usage = self.usage(follow, reply.result.timings, spent);
                self.fail(follow, error, Some(usage));
            }
            // What was refused leaves nothing behind.
            (None, _) => self.finish(follow, reply.result, spent),
        }
        Ok(())
    }

    /// A result lies in the bucket.
    async fn take_record(&self, bucket: &Bucket, follow: &mut Follow, record: TaskRecord, spent: Spent) -> Result<()> {
        if let Some(progress) = bucket.progress(&follow.name.key).await? {
            follow.task.log.merge(bucket, progress, &self.store, true).await?;
        }
        match follow.task.log.collect(bucket, &record, &self.store).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.fail(follow, error.with_retry(Retry::Other), None)
            }
            Err(error) if error.kind() == ErrorKind::WorkerUnhealthy => self.fail(follow, error, None),
            collected => {
                collected?;
                self.finish(follow, record.result, spent);
            }
        }
        Ok(())
    }

    fn finish(&self, follow: &mut Follow, result: TaskResult, spent: Spent) {
        let TaskResult { ended, timings, .. } = result;
        let usage = self.usage(follow, timings, spent);
        match ended {
            Ending::Finished(outcome) => follow.task.end(Phase::Finished(outcome), Some(usage)),
            Ending::Failed(failure) => self.fail(follow, failure.into(), Some(usage)),
            // Nothing stops an invocation but its time.
            Ending::Cancelled => {
                let error = Error::new(ErrorKind::Timeout, "the function's time was up before the task had begun");
                let hint = "raise the function's time-out; large data sets take long on their first way";
                self.fail(follow, error.with_retry(Retry::Other).hint(hint), Some(usage));
            }
        }
    }

    fn usage(&self, follow: &Follow, timings: Timings, spent: Spent) -> Usage {
        let boot = spent.init.map_or(timings.boot, |init| init.as_secs_f64());
        let timings = Timings { queue: follow.queued.as_secs_f64(), boot, ..timings };
        let bytes_up = follow.task.log.bytes_up();
        Usage { timings, billed: Some(spent.billed), bytes_down: follow.bytes_down, bytes_up }
    }

    fn fail(&self, follow: &mut Follow, error: Error, usage: Option<Usage>) {
        follow.task.end(Phase::Failed(self.locate(error)), usage);
    }

    /// Adds where it happened.
    pub(crate) fn locate(&self, error: Error) -> Error {
        error.with_provider("aws-lambda").at("function", &self.config.function)
    }

    /// The answer where the reply was lost and no store tells.
    pub(crate) fn not_known(&self, follow: &Follow) -> Option<Error> {
        let lost = follow.lost.as_ref()?;
        Some(self.locate(unknown(lost, follow.task.left())))
    }
}

//! A supervisor over a real task process, which dies, hangs and is killed.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::{future::pending, path::Path, sync::Arc, time::Duration};

use common::{DEADLINE, Job, signal, task_program};
use outboard_core::{
    ErrorKind, Event, Retry,
    task::{Ended, EvaluateTask, Operation, Outcome},
};
use outboard_protocol::{
    Envelope, TaskResult,
    envelope::{Ending, Failure},
};
use outboard_store::FolderStore;
use outboard_worker::{Supervisor, TaskProgram};
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

struct Setting {
    folder: tempfile::TempDir,
    store: FolderStore,
    supervisor: Arc<Supervisor>,
}

fn setting() -> Setting {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    let supervisor = Arc::new(Supervisor::new(task_program(folder.path())));
    Setting { store, supervisor, folder }
}

impl Setting {
    async fn run(&self, envelope: &Envelope) -> TaskResult {
        timeout(DEADLINE, self.supervisor.run(envelope, pending(), |_| {})).await.unwrap()
    }

    async fn runs_well(&self, job: &Job) {
        job.prepare(&self.store);
        let result = self.run(&job.envelope("well")).await;
        assert_eq!(result.ended, Ending::Finished(job.directly().0));
    }

    /// Runs a task without end and does `what` to its process once it trains.
    async fn meddle(&self, envelope: Envelope, what: &str) -> Failure {
        Job::endless().prepare(&self.store);
        let (begun, running) = oneshot::channel();
        let (mut begun, supervisor) = (Some(begun), self.supervisor.clone());
        let task = tokio::spawn(async move {
            let observe = move |_: Event| begun.take().map_or((), |begun| begun.send(()).unwrap());
            supervisor.run(&envelope, pending(), observe).await
        });
        timeout(DEADLINE, running).await.unwrap().unwrap();
        signal(self.supervisor.pid().unwrap(), what);
        let result = timeout(DEADLINE, task).await.unwrap().unwrap();
        match result.ended {
            Ending::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn one_warm_process_runs_one_task_after_another() {
    let setting = setting();
    let job = Job::short();
    setting.runs_well(&job).await;
    let pid = setting.supervisor.pid().unwrap();
    let mut events = Vec::new();
    let result = setting.supervisor.run(&job.envelope("again"), pending(), |event| events.push(event)).await;
    let (outcome, bytes) = job.directly();
    assert_eq!(result.ended, Ending::Finished(outcome.clone()));
    assert_eq!((result.key.as_str(), result.attempt.as_str()), ("again", "again#1"));
    assert!(result.timings.boot < 0.05 && result.timings.compute > 0.0, "{:?}", result.timings);
    let Outcome::Train { checkpoint, .. } = outcome else { panic!() };
    assert_eq!(setting.store.read(&checkpoint.digest).unwrap(), bytes);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Epoch(_))).count(), 3);
    assert_eq!(events.last(), Some(&Event::Checkpoint(checkpoint)));
    assert_eq!(setting.supervisor.pid(), Some(pid));
}

#[tokio::test]
async fn a_killed_process_is_told_from_an_aborted_one_and_the_next_task_runs() {
    let setting = setting();
    let killed = setting.meddle(Job::endless().envelope("k"), "KILL").await;
    assert_eq!((killed.kind, killed.retry), (ErrorKind::OutOfMemory, Retry::Other));
    assert_eq!(killed.message, "the task process was killed, probably for memory");
    let about =
        |failure: &Failure, what: &str| failure.context.iter().find(|(name, _)| name == what).unwrap().1.clone();
    assert_eq!(about(&killed, "exit status"), "signal: 9 (SIGKILL)");
    if cfg!(target_os = "linux") {
        let used = about(&killed, "peak memory");
        assert!(used.contains("MiB of ") && !used.starts_with('0'), "{used}");
    }
    setting.runs_well(&Job::short()).await;
    let aborted = setting.meddle(Job::endless().envelope("k"), "ABRT").await;
    assert_eq!((aborted.kind, aborted.retry), (ErrorKind::WorkerUnhealthy, Retry::Other));
    assert!(aborted.message.contains("SIGABRT"), "{}", aborted.message);
    setting.runs_well(&Job::short()).await;
}

#[tokio::test]
async fn a_process_that_hangs_is_ended_after_the_patience_of_its_task() {
    let setting = setting();
    let mut envelope = Job::endless().envelope("k");
    envelope.patience_seconds = 1.0;
    let failure = setting.meddle(envelope, "STOP").await;
    assert_eq!(failure.kind, ErrorKind::WorkerUnhealthy);
    assert_eq!(failure.message, "the task process hung: nothing was heard of it for 1s");
    assert_eq!(setting.supervisor.pid(), None);
    setting.runs_well(&Job::short()).await;
}

#[tokio::test]
async fn a_process_that_died_between_two_tasks_is_replaced() {
    let setting = setting();
    setting.runs_well(&Job::short()).await;
    let pid = setting.supervisor.pid().unwrap();
    signal(pid, "KILL");
    // It is a zombie then, so that its end is seen.
    let stat = Path::new("/proc").join(pid.to_string()).join("stat");
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
        tokio::task::yield_now().await;
    }
    setting.runs_well(&Job::short()).await;
    assert_ne!(setting.supervisor.pid(), Some(pid));
}

#[tokio::test]
async fn what_is_stopped_while_it_waits_never_begins() {
    let setting = setting();
    let job = Job::endless();
    job.prepare(&setting.store);
    let first = job.envelope("first");
    let (begun, stop) = (Notify::new(), Notify::new());
    let running = setting.supervisor.run(&first, stop.notified(), |_| begun.notify_one());
    let queued = async {
        begun.notified().await;
        let queued =
            setting.supervisor.run(&job.envelope("second"), std::future::ready(()), |_| panic!("it began")).await;
        stop.notify_one();
        queued
    };
    let (first, queued) = timeout(DEADLINE, async { tokio::join!(running, queued) }).await.unwrap();
    assert_eq!(queued.ended, Ending::Cancelled);
    assert!(matches!(first.ended, Ending::Finished(_)), "{first:?}");
}

#[tokio::test]
async fn training_that_is_stopped_leaves_a_checkpoint() {
    let setting = setting();
    let job = Job::endless();
    job.prepare(&setting.store);
    let begun = Notify::new();
    let envelope = job.envelope("k");
    let run = setting.supervisor.run(&envelope, begun.notified(), |_| begun.notify_one());
    let result = timeout(DEADLINE, run).await.unwrap();
    let Ending::Finished(Outcome::Train { checkpoint, ended: Ended::Cancelled }) = result.ended else {
        panic!("{result:?}")
    };
    let stopped = outboard_protocol::Checkpoint::decode(&setting.store.read(&checkpoint.digest).unwrap()).unwrap();
    assert!(stopped.position.step > 0);
    // What can't stop by itself ends too, whether in time or not.
    let task = EvaluateTask {
        model: outboard_core::task::Architecture { layers: vec![], input: vec![32] },
        weights: checkpoint.digest,
        data: outboard_core::Digest::of(&job.data()),
        loss: serde_json::from_str("{\"type\": \"mse\"}").unwrap(),
    };
    let mut envelope = job.envelope("e");
    envelope.task.operation = Operation::Evaluate(task);
    let result = timeout(DEADLINE, setting.supervisor.run(&envelope, async {}, |_| {})).await.unwrap();
    assert!(matches!(result.ended, Ending::Cancelled | Ending::Failed(_)), "{result:?}");
}

#[tokio::test]
async fn a_damaged_blob_fails_the_task_and_is_removed_so_that_it_can_be_sent_again() {
    let setting = setting();
    let job = Job::short();
    job.prepare(&setting.store);
    let digest = outboard_core::Digest::of(&job.data());
    std::fs::write(setting.store.path(&digest), "damaged").unwrap();
    let result = setting.run(&job.envelope("k")).await;
    let Ending::Failed(failure) = result.ended else { panic!("{result:?}") };
    assert_eq!((failure.kind, failure.retry), (ErrorKind::CorruptPayload, Retry::Same { after: None }));
    assert!(!setting.store.path(&digest).exists());
    setting.runs_well(&job).await;
}

fn shell(folder: &Path, script: &str) -> Supervisor {
    let path = folder.join("script");
    std::fs::write(&path, script).unwrap();
    Supervisor::new(TaskProgram { program: "/bin/sh".into(), args: vec![path.into()] })
}

const HELLO: &str = r#"echo '{"hello": {"protocol": 1, "device": "none", "numerics": "", "layers": []}}'; read line; "#;

/// Programs that don't do as a task process should, and what is said of each.
#[tokio::test]
async fn whatever_a_process_does_becomes_a_result_with_its_last_words() {
    let folder = setting().folder;
    let cases = [
        ("echo no such library >&2; exit 3".into(), "exit status: 3", "no such library"),
        ("echo hello".into(), "cannot be read", ""),
        (r#"echo '{"alive": true}'"#.into(), "does not speak as a task process should", ""),
        (r#"echo '{"hello": {"protocol": 9}}'"#.into(), "version 9, but this program speaks version 1", ""),
        (format!("{HELLO} echo 1 >&2; echo 2 >&2; kill -SEGV $$"), "SIGSEGV", "1\n2"),
        (format!("{HELLO} echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$"), "ran out of memory", "9"),
        (
            format!("{HELLO} echo '  what():  random_device could not be read' >&2; kill -ABRT $$"),
            "died in libstdc++ (signal: 6 (SIGABRT)): random_device",
            "what()",
        ),
        (format!("{HELLO} echo '{{\"result\": 7}}'; read line"), "cannot be read", ""),
        (format!("{HELLO} head -c 3000 /dev/zero >&2; seq 1000 >&2; exit 0"), "exit status: 0", "981\n"),
    ];
    for (script, message, log) in cases {
        let envelope = Job::short().envelope("k");
        let supervisor = shell(folder.path(), &script);
        let result = timeout(DEADLINE, supervisor.run(&envelope, pending(), |_| {})).await.unwrap();
        let Ending::Failed(failure) = result.ended else { panic!("{script}: {result:?}") };
        assert!(failure.message.contains(message), "{script}: {failure:?}");
        assert!(matches!(failure.kind, ErrorKind::WorkerUnhealthy | ErrorKind::OutOfMemory), "{failure:?}");
        let lines = failure.context.iter().find(|(what, _)| what == "last log lines").map_or("", |(_, lines)| lines);
        assert!(lines.contains(log) && lines.lines().count() <= 20, "{script}: {failure:?}");
    }
    let missing = Supervisor::new(TaskProgram { program: "/no/such/program".into(), args: vec![] });
    assert_eq!(missing.start().await.unwrap_err().kind(), ErrorKind::WorkerUnhealthy);
}

#[tokio::test]
async fn a_dropped_supervisor_ends_its_process() {
    let setting = setting();
    setting.supervisor.start().await.unwrap();
    let pid = setting.supervisor.pid().unwrap();
    drop(setting.supervisor);
    let gone = async {
        while Path::new("/proc").join(pid.to_string()).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, gone).await.unwrap();
}

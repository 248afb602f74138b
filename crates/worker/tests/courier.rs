//! A task that a worker without credentials carries out, with a bucket of a real S3 server between it and the client.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../store/tests/common/mod.rs"]
mod s3;

use std::{
    fs,
    future::pending,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{DEADLINE, Job, task_program};
use outboard_core::{
    BlobStore, Digest, ErrorKind, Event, Retry,
    task::{Ended, Operation, Outcome, TrainTask},
};
use outboard_protocol::{
    Envelope, Grant, SignedUrl, TaskProgress, TaskResult,
    envelope::{Ending, Failure, decode, encode, now},
};
use outboard_store::{Bucket, FolderStore};
use outboard_worker::{Supervisor, carry};
use s3::server;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

const LONG: Duration = Duration::from_secs(600);

/// A folder, and what lies in it.
struct Place {
    folder: tempfile::TempDir,
    store: FolderStore,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    Place { store: FolderStore::open(folder.path()).unwrap(), folder }
}

impl Place {
    fn supervisor(&self) -> Supervisor {
        Supervisor::new(task_program(self.folder.path()))
    }

    async fn carry(&self, envelope: &Envelope) -> TaskResult {
        let supervisor = self.supervisor();
        timeout(DEADLINE, carry(envelope.clone(), &supervisor, &self.store, pending(), |_| {})).await.unwrap()
    }

    /// Carries out what must fail before the task process starts.
    async fn fails(&self, envelope: &Envelope) -> Failure {
        let supervisor = self.supervisor();
        let result = timeout(DEADLINE, carry(envelope.clone(), &supervisor, &self.store, pending(), |_| {})).await;
        assert_eq!(supervisor.pid(), None);
        failure(result.unwrap())
    }
}

fn failure(result: TaskResult) -> Failure {
    match result.ended {
        Ending::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// What a client does first: blobs into the bucket, an envelope with a grant.
async fn prepare(bucket: &Bucket, client: &Place, job: &Job, key: &str, slots: u32) -> Envelope {
    job.prepare(&client.store);
    let mut envelope = job.envelope(key);
    grant(bucket, client, &mut envelope, slots).await;
    envelope
}

async fn grant(bucket: &Bucket, client: &Place, envelope: &mut Envelope, slots: u32) {
    let needs = envelope.task.operation.needs();
    for digest in &needs {
        bucket.upload(digest, &client.store).await.unwrap();
    }
    envelope.store = Some(bucket.grant(&envelope.task.key, &needs, slots, LONG).await.unwrap());
}

fn train(envelope: &mut Envelope) -> &mut TrainTask {
    match &mut envelope.task.operation {
        Operation::Train(task) => task,
        other => panic!("{other:?}"),
    }
}

fn out(envelope: &mut Envelope) -> &mut Grant {
    envelope.store.as_mut().unwrap()
}

fn tamper(url: &mut SignedUrl) {
    *url = SignedUrl::new(url.as_str().replace("X-Amz-Expires=600", "X-Amz-Expires=6000")).unwrap();
}

fn checkpoint(result: &TaskResult) -> Digest {
    match &result.ended {
        Ending::Finished(outcome) => outcome.blob().unwrap(),
        other => panic!("{other:?}"),
    }
}

const CHILD: &str = "OUTBOARD_COURIER_CHILD";

/// A worker that is a process of its own, with an envelope as its only argument and nothing in its environment.
fn start_worker(folder: &Path, envelope: &Envelope) -> Child {
    fs::write(folder.join("envelope"), encode(envelope).unwrap()).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "courier_child", "--nocapture"])
        .env_clear()
        .env(CHILD, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// The worker's process; nothing by itself.
#[tokio::test]
async fn courier_child() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let folder = Path::new(&folder);
    let store = FolderStore::open(folder).unwrap();
    let envelope = decode(&fs::read(folder.join("envelope")).unwrap()).unwrap();
    let result = carry(envelope, &Supervisor::new(task_program(folder)), &store, pending(), |_| {}).await;
    fs::write(folder.join("result"), encode(&result).unwrap()).unwrap();
}

#[tokio::test]
async fn a_worker_without_credentials_trains_and_the_client_collects() {
    let Some(server) = server("a_worker_without_credentials_trains_and_the_client_collects") else { return };
    let (bucket, client, worker) = (server.bucket(), place(), place());
    let job = Job::short();
    let envelope = prepare(&bucket, &client, &job, "digits/1", 3).await;
    let mut child = start_worker(worker.folder.path(), &envelope);
    assert!(child.wait().unwrap().success());
    let result: TaskResult = decode(&fs::read(worker.folder.path().join("result")).unwrap()).unwrap();

    let record = bucket.result("digits/1").await.unwrap().unwrap();
    assert_eq!(record.result.ended, result.ended);
    let (outcome, bytes) = job.directly();
    assert_eq!(record.result.ended, Ending::Finished(outcome.clone()));
    let digest = outcome.blob().unwrap();
    let [stored] = record.stored[..] else { panic!("{record:?}") };
    assert_eq!(stored.digest, digest);
    let timings = record.result.timings;
    assert!(timings.download > 0.0 && timings.compute > 0.0 && timings.upload > 0.0, "{timings:?}");
    assert!(!client.store.has(&digest).await.unwrap());
    bucket.collect("digits/1", &record.stored, &client.store).await.unwrap();
    assert!(client.store.read(&digest).unwrap() == bytes);
    assert!(bucket.get(&digest).await.unwrap() == bytes);

    let progress = bucket.progress("digits/1").await.unwrap().unwrap();
    assert_eq!((progress.header.attempt.as_str(), progress.header.dropped), ("digits/1#1", 0));
    assert_eq!(progress.notes.iter().filter(|note| matches!(note.event, Event::Epoch(_))).count(), 3);
    assert_eq!(progress.last_stored(), Some(stored));
    let holder = bucket.holder("digits/1").await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&holder).contains("\"attempt\":\"digits/1#1\""));

    // Another one with the same envelope, and the same one once more.
    for place in [&place(), &worker] {
        let second = place.fails(&envelope).await;
        assert_eq!((second.kind, second.retry), (ErrorKind::Conflict, Retry::Never));
        assert_eq!(second.message, "another worker has taken the task `digits/1`");
    }
    assert_eq!(bucket.result("digits/1").await.unwrap().unwrap(), record);
}

#[tokio::test]
async fn what_comes_too_late_or_without_a_grant_takes_no_lease() {
    let Some(server) = server("what_comes_too_late_or_without_a_grant_takes_no_lease") else { return };
    let (bucket, client, worker) = (server.bucket(), place(), place());
    let good = prepare(&bucket, &client, &Job::short(), "k", 1).await;
    let refused = async |change: fn(&mut Envelope)| {
        let mut envelope = good.clone();
        change(&mut envelope);
        worker.fails(&envelope).await
    };
    let late = refused(|envelope| envelope.not_after = now() - 5000).await;
    assert_eq!((late.kind, late.retry), (ErrorKind::Timeout, Retry::Other));
    let over = refused(|envelope| out(envelope).until = now() - 1).await;
    assert_eq!((over.retry, over.message.as_str()), (Retry::Other, "the time is over for which the grant was made"));
    let none = refused(|envelope| envelope.store = None).await;
    assert_eq!(none.message, "the envelope brings no grant: its store is not a bucket");
    let no_slot = refused(|envelope| out(envelope).out.clear()).await;
    assert_eq!(no_slot.message, "the grant has no slot for the outcome");
    let no_blob = refused(|envelope| out(envelope).blobs.truncate(1)).await;
    assert_eq!(no_blob.message, "the grant lacks a blob that the task needs");
    let tampered = refused(|envelope| tamper(&mut out(envelope).lease)).await;
    assert_eq!(tampered.kind, ErrorKind::Unauthenticated);
    assert_eq!((bucket.holder("k").await.unwrap(), bucket.result("k").await.unwrap()), (None, None));

    let mut result = worker.carry(&good).await;
    assert_eq!(result.ended, Ending::Finished(Job::short().directly().0));
    // What the worker has already isn't fetched: the grant needs no URL for it.
    let mut again = prepare(&bucket, &client, &Job::short(), "again", 1).await;
    out(&mut again).blobs.clear();
    result.ended = worker.carry(&again).await.ended;
    assert_eq!(result.ended, Ending::Finished(Job::short().directly().0));
}

#[tokio::test]
async fn a_result_never_names_what_is_not_there() {
    let Some(server) = server("a_result_never_names_what_is_not_there") else { return };
    let (bucket, client, worker) = (server.bucket(), place(), place());
    // Neither a slot on the way nor the last one can be written.
    let mut envelope = prepare(&bucket, &client, &Job::short(), "k", 2).await;
    out(&mut envelope).out.iter_mut().for_each(tamper);
    let lost = failure(worker.carry(&envelope).await);
    assert_eq!(lost.kind, ErrorKind::Unauthenticated);
    assert!(lost.message.starts_with("the task is done, but its outcome could not be put into the store: "));
    let record = bucket.result("k").await.unwrap().unwrap();
    assert_eq!((failure(record.result), record.stored), (lost, vec![]));

    // Only the slot on the way can't: the outcome has its own.
    let mut envelope = prepare(&bucket, &client, &Job::short(), "l", 2).await;
    tamper(&mut out(&mut envelope).out[0]);
    let result = worker.carry(&envelope).await;
    let record = bucket.result("l").await.unwrap().unwrap();
    assert_eq!((record.stored[0].slot, record.stored[0].digest), (1, checkpoint(&result)));
    bucket.collect("l", &record.stored, &client.store).await.unwrap();

    // A blob that was removed from the bucket fails the task, which says so.
    let envelope = prepare(&bucket, &client, &Job::short(), "m", 1).await;
    for encoding in ["", ".zst"] {
        let _ = fs::remove_file(server.object(&format!("blobs/{}{encoding}", envelope.task.operation.needs()[0])));
    }
    let missing = place().fails(&envelope).await;
    assert_eq!((missing.kind, missing.retry), (ErrorKind::NotFound, Retry::Same { after: None }));
    assert_eq!(failure(bucket.result("m").await.unwrap().unwrap().result), missing);
}

#[tokio::test]
async fn training_that_is_stopped_leaves_its_checkpoint_in_the_bucket() {
    let Some(server) = server("training_that_is_stopped_leaves_its_checkpoint_in_the_bucket") else { return };
    let (bucket, client, worker) = (server.bucket(), place(), place());
    let envelope = prepare(&bucket, &client, &Job::endless(), "k", 1).await;
    let (begun, supervisor) = (Notify::new(), worker.supervisor());
    let run = carry(envelope, &supervisor, &worker.store, begun.notified(), |_| begun.notify_one());
    let result = timeout(DEADLINE, run).await.unwrap();
    let Ending::Finished(Outcome::Train { ended: Ended::Cancelled, .. }) = result.ended else { panic!("{result:?}") };
    let record = bucket.result("k").await.unwrap().unwrap();
    bucket.collect("k", &record.stored, &client.store).await.unwrap();
    assert!(client.store.has(&checkpoint(&result)).await.unwrap());
    // What was stopped before it began doesn't run.
    let envelope = prepare(&bucket, &client, &Job::endless(), "l", 1).await;
    let (place, stopped) = (place(), async {});
    let supervisor = place.supervisor();
    let result = carry(envelope, &supervisor, &place.store, stopped, |_| {}).await;
    assert_eq!((result.ended, supervisor.pid()), (Ending::Cancelled, None));
    assert_eq!(bucket.result("l").await.unwrap().unwrap().result.ended, Ending::Cancelled);
}

/// The first progress of which `pick` makes something.
async fn progress<T>(bucket: &Bucket, key: &str, pick: impl Fn(&TaskProgress) -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        let picked = bucket.progress(key).await.unwrap().as_ref().and_then(&pick);
        match picked {
            Some(picked) => return picked,
            None => assert!(began.elapsed() < DEADLINE, "no progress"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_worker_that_is_killed_leaves_a_checkpoint_to_go_on_from() {
    let Some(server) = server("a_worker_that_is_killed_leaves_a_checkpoint_to_go_on_from") else { return };
    let (bucket, client, worker) = (server.bucket(), place(), place());
    let job = Job::endless();
    let mut envelope = prepare(&bucket, &client, &job, "k", 64).await;
    train(&mut envelope).checkpoint_every = Duration::from_millis(1);
    let mut child = start_worker(worker.folder.path(), &envelope);
    let stored = progress(&bucket, "k", TaskProgress::last_stored).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bucket.result("k").await.unwrap(), None);

    bucket.collect("k", &[stored], &client.store).await.unwrap();
    let position = outboard_protocol::Checkpoint::decode(&client.store.read(&stored.digest).unwrap()).unwrap().position;
    let until = position.epoch + 2;
    let mut rest = job.envelope("k/rest");
    train(&mut rest).checkpoint = stored.digest;
    train(&mut rest).until_epoch = until;
    grant(&bucket, &client, &mut rest, 1).await;
    let result = place().carry(&rest).await;
    let record = bucket.result("k/rest").await.unwrap().unwrap();
    bucket.collect("k/rest", &record.stored, &client.store).await.unwrap();

    let mut unmoved = job.envelope("unmoved");
    train(&mut unmoved).until_epoch = until;
    let (outcome, bytes) = job.directly_as(&unmoved.task.operation);
    assert_eq!(result.ended, Ending::Finished(outcome));
    assert!(client.store.read(&checkpoint(&result)).unwrap() == bytes);
}

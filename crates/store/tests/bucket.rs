//! Blobs and records in a bucket of a real S3 server, which checks signatures and their time.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    process::Command,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use common::{Proxy, config, noise, server};
use outboard_core::{
    BlobStore, Digest, Error, ErrorKind, Event, Retry,
    task::{Checkpoint, Timings},
};
use outboard_protocol::{
    Encoding, PROTOCOL_VERSION, SignedUrl, Stored, TaskProgress, TaskRecord, TaskResult,
    envelope::{Ending, encode},
    grant::{Note, ProgressHeader},
};
use outboard_store::{Bucket, BucketConfig, FolderStore, Transfer, Upload, bucket::Expired};
use reqwest::{Method, header::HeaderMap};

const LONG: Duration = Duration::from_secs(600);

fn folder() -> (tempfile::TempDir, FolderStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    (folder, store)
}

async fn put(transfer: &Transfer, url: &SignedUrl, bytes: impl Into<Bytes>) -> Result<HeaderMap, Error> {
    transfer.put(url, Upload::bytes(bytes.into(), Encoding::Raw), HeaderMap::new()).await
}

#[tokio::test]
async fn blobs_come_back_raw_compressed_and_in_parts() {
    let Some(server) = server("blobs_come_back_raw_compressed_and_in_parts") else { return };
    let (bucket, (_a, here), (_b, there)) = (server.bucket(), folder(), folder());
    let text = |length: usize| b"0123456789 abc\n".repeat(length / 15);
    let mixed: Vec<u8> = [text(1 << 20), noise(19 << 20, 3)].concat();
    for (bytes, name) in
        [(noise(5000, 1), ""), (vec![], ""), (text(300_000), ".zst"), (noise(17 << 20, 2), ""), (mixed, ".zst")]
    {
        let digest = here.write(&bytes).unwrap();
        assert!(!bucket.has(&digest).await.unwrap());
        bucket.upload(&digest, &here).await.unwrap();
        bucket.upload(&digest, &here).await.unwrap();
        assert!(server.object(&format!("blobs/{digest}{name}")).exists(), "{name}");
        assert!(bucket.has(&digest).await.unwrap());
        bucket.download(&digest, &there).await.unwrap();
        assert!(there.read(&digest).unwrap() == bytes && bucket.get(&digest).await.unwrap() == bytes);
    }
    let digest = bucket.put(Bytes::from_static(b"weights")).await.unwrap();
    assert_eq!((digest, bucket.get(&digest).await.unwrap()), (Digest::of(b"weights"), Bytes::from_static(b"weights")));
    let missing = bucket.download(&Digest::of(b"other"), &there).await.unwrap_err();
    assert_eq!((missing.kind(), missing.to_string().as_str()), (ErrorKind::NotFound, "the store has no such blob"));
}

#[tokio::test]
async fn damage_is_noticed_both_ways() {
    let Some(server) = server("damage_is_noticed_both_ways") else { return };
    let (bucket, (_a, here), (_b, there)) = (server.bucket(), folder(), folder());
    for (bytes, name, damage) in [
        (noise(5000, 1), "", noise(5000, 2)),
        (noise(5000, 3), "", noise(4999, 3)),
        (b"abc".repeat(9999), ".zst", b"no frame".to_vec()),
        (b"def".repeat(9999), ".zst", zstd::bulk::compress(&b"abc".repeat(9999), 1).unwrap()),
        (b"ghi".repeat(9999), ".zst", zstd::bulk::compress(&b"ghi".repeat(9999), 1).unwrap()[..20].to_vec()),
    ] {
        let digest = here.write(&bytes).unwrap();
        bucket.upload(&digest, &here).await.unwrap();
        fs::write(server.object(&format!("blobs/{digest}{name}")), damage).unwrap();
        for error in [bucket.download(&digest, &there).await.unwrap_err(), bucket.get(&digest).await.unwrap_err()] {
            assert_eq!((error.kind(), error.retry()), (ErrorKind::CorruptPayload, Retry::Same { after: None }));
            assert!(error.report().contains(&digest.to_string()), "{}", error.report());
        }
        assert!(!there.has(&digest).await.unwrap());
    }
    let digest = here.write(b"whole").unwrap();
    fs::write(here.path(&digest), b"other").unwrap();
    assert_eq!(bucket.upload(&digest, &here).await.unwrap_err().kind(), ErrorKind::CorruptPayload);
    assert!(!bucket.has(&digest).await.unwrap());
}

#[tokio::test]
async fn a_download_that_was_cut_goes_on_where_it_stopped() {
    let Some(server) = server("a_download_that_was_cut_goes_on_where_it_stopped") else { return };
    let (_a, here) = folder();
    for bytes in [noise(3 << 20, 1), [b"0123456789 abc\n".repeat(9000), noise(3 << 20, 2)].concat()] {
        let digest = here.write(&bytes).unwrap();
        server.bucket().upload(&digest, &here).await.unwrap();
        let (_b, there) = folder();
        let proxy = Proxy::cutting(server.address, 2 << 20);
        Bucket::open(&config(proxy.address)).unwrap().download(&digest, &there).await.unwrap();
        assert!(there.read(&digest).unwrap() == bytes);
        // Looked for by both names on up to two connections, of which one goes on to the cut; then one for the rest.
        let connections = proxy.count.load(Ordering::Relaxed);
        assert!((2..=4).contains(&connections), "{connections}");
    }
    // What is cut before anything came isn't asked for again: others decide on that.
    let digest = here.write(&noise(1 << 20, 4)).unwrap();
    server.bucket().upload(&digest, &here).await.unwrap();
    let grant = server.bucket().grant("k", &[digest], 1, LONG).await.unwrap();
    let proxy = Proxy::cutting(server.address, 0);
    let url = grant.blobs[0].url.as_str().replace(&server.address.to_string(), &proxy.address.to_string());
    let url = SignedUrl::new(url).unwrap();
    let (_b, there) = folder();
    let transfer = Transfer::new(url.as_str()).unwrap();
    let error = transfer.download(|| Ok(url.clone()), Encoding::Raw, &digest, &there).await.unwrap_err();
    assert_eq!(error.to_string(), "the connection to the store was cut");
    assert_eq!(proxy.count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_url_that_was_changed_or_has_expired_is_refused() {
    let Some(server) = server("a_url_that_was_changed_or_has_expired_is_refused") else { return };
    let (bucket, (_a, here)) = (server.bucket(), folder());
    let digest = here.write(b"weights").unwrap();
    bucket.upload(&digest, &here).await.unwrap();
    let grant = bucket.grant("k", &[digest], 2, LONG).await.unwrap();
    let transfer = Transfer::new(grant.lease.as_str()).unwrap();
    let url = grant.blobs[0].url.as_str();
    let (_, read) = transfer.call(Method::GET, &grant.blobs[0].url, 100).await.unwrap();
    assert_eq!(read, "weights");

    let other = Digest::of(b"other").to_string();
    for tampered in [url.replace(&digest.to_string(), &other), url.replace("X-Amz-Expires=600", "X-Amz-Expires=6000")] {
        assert_ne!(tampered, url);
        let error = transfer.call(Method::GET, &SignedUrl::new(tampered).unwrap(), 100).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert_eq!(
            error.to_string(),
            "the store refuses the signature: the secret key is wrong, or the URL was changed"
        );
        assert!(!error.report().contains("X-Amz") && !format!("{error:?}").contains("X-Amz"), "{error:?}");
    }
    // A URL for reading doesn't write, one for a slot doesn't reach another, one for the lease needs its condition.
    assert_eq!(put(&transfer, &grant.blobs[0].url, "x").await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    let elsewhere = SignedUrl::new(grant.out[0].as_str().replace("out/0", "out/9")).unwrap();
    assert_eq!(put(&transfer, &elsewhere, "x").await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(put(&transfer, &grant.lease, "x").await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(bucket.holder("k").await.unwrap(), None);

    let short = bucket.grant("k", &[digest], 1, Duration::from_secs(1)).await.unwrap();
    // The server is asked until its clock says so; how long that takes doesn't matter.
    let error = loop {
        match transfer.call(Method::GET, &short.blobs[0].url, 100).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Other));
    assert_eq!(error.to_string(), "the time is over for which a URL of the store was signed");
}

#[tokio::test]
async fn what_the_store_refuses_is_told_with_what_to_do() {
    let Some(server) = server("what_the_store_refuses_is_told_with_what_to_do") else { return };
    let probe = async |change: fn(&mut BucketConfig)| {
        let mut config = server.config();
        change(&mut config);
        Bucket::open(&config).unwrap().probe().await.unwrap_err()
    };
    let wrong_secret = probe(|config| config.secret_access_key = Some("wr0ng".into())).await;
    assert_eq!((wrong_secret.kind(), wrong_secret.retry()), (ErrorKind::Unauthenticated, Retry::Other));
    assert_eq!(wrong_secret.advice(), Some("check `secret_access_key`, or AWS_SECRET_ACCESS_KEY"));
    let unknown_key = probe(|config| config.access_key_id = Some("NOBODY".into())).await;
    assert_eq!(unknown_key.kind(), ErrorKind::Unauthenticated);
    let no_bucket = probe(|config| config.url = "s3://other/jobs".into()).await;
    assert_eq!(no_bucket.to_string(), "the store has no bucket of this name");
    assert_eq!(no_bucket.advice(), Some("create it, or check `url` and `endpoint`"));
    let address = server.address;
    drop(server);
    let down = Bucket::open(&config(address)).unwrap().probe().await.unwrap_err();
    assert_eq!((down.kind(), down.retry()), (ErrorKind::Unavailable, Retry::Same { after: None }));
    assert_eq!(down.to_string(), "nothing listens at the store's address");
    assert_eq!(down.advice(), Some("start the store, or check `endpoint`"));
    for error in [wrong_secret, unknown_key, no_bucket, down] {
        let shown = format!("{} {error:?}", error.report());
        assert!(["s3cret", "wr0ng", "X-Amz-Sig"].iter().all(|secret| !shown.contains(secret)), "{shown}");
        assert!(error.report().contains("store: http://127.0.0.1:"), "{}", error.report());
    }
}

#[tokio::test]
async fn a_probe_leaves_nothing_behind() {
    let Some(server) = server("a_probe_leaves_nothing_behind") else { return };
    let probe = server.bucket().probe().await.unwrap();
    assert!(probe.holds_conditions);
    assert_eq!(probe.to_string(), "a task runs at most once, and its result is found by its key");
    let left = fs::read_dir(server.object("probe")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_contenders_gets_the_lease() {
    let Some(server) = server("one_of_many_contenders_gets_the_lease") else { return };
    // The server looks first and writes then, which is no race of ours: it is given one request at a time.
    let proxy = Proxy::one_by_one(server.address);
    for round in 0..20 {
        let key = format!("job/{round}");
        let grant = Bucket::open(&config(proxy.address)).unwrap().grant(&key, &[], 1, LONG).await.unwrap();
        let contenders = (0..16).map(|me: usize| {
            let (key, grant, address) = (key.clone(), grant.clone(), proxy.address);
            tokio::spawn(async move {
                let holder = Bytes::from(me.to_string());
                // Half of them hold the credentials, half only the grant.
                let won = match me % 2 {
                    0 => Bucket::open(&config(address)).unwrap().lease(&key, holder).await,
                    _ => Transfer::new(grant.lease.as_str()).unwrap().create(&grant.lease, holder).await,
                };
                won.unwrap().then_some(me)
            })
        });
        let contenders: Vec<_> = contenders.collect();
        let mut winners = Vec::new();
        for contender in contenders {
            winners.extend(contender.await.unwrap());
        }
        let [winner] = winners[..] else { panic!("{winners:?}") };
        assert_eq!(server.bucket().holder(&key).await.unwrap().unwrap(), winner.to_string());
    }
}

fn checkpoint(bytes: &[u8]) -> Checkpoint {
    Checkpoint { digest: Digest::of(bytes), epoch: 1, step_in_epoch: 0 }
}

#[tokio::test]
async fn what_a_worker_left_is_collected_and_forgotten() {
    let Some(server) = server("what_a_worker_left_is_collected_and_forgotten") else { return };
    let (bucket, (_a, here)) = (server.bucket(), folder());
    let grant = bucket.grant("../k/#1", &[], 3, LONG).await.unwrap();
    let transfer = Transfer::new(grant.lease.as_str()).unwrap();
    assert_eq!(bucket.progress("../k/#1").await.unwrap(), None);
    assert_eq!(bucket.result("../k/#1").await.unwrap(), None);

    let (raw, packed) = (noise(5000, 1), b"abc".repeat(9999));
    let zstd = zstd::bulk::compress(&packed, 1).unwrap();
    let stored = [
        Stored { digest: Digest::of(&raw), slot: 0, encoding: Encoding::Raw, bytes: raw.len() as u64 },
        Stored { digest: Digest::of(&packed), slot: 2, encoding: Encoding::Zstd, bytes: zstd.len() as u64 },
    ];
    put(&transfer, &grant.out[0], raw.clone()).await.unwrap();
    put(&transfer, &grant.out[2], zstd).await.unwrap();
    let progress = TaskProgress {
        header: ProgressHeader { protocol: PROTOCOL_VERSION, attempt: "a".into(), dropped: 0 },
        notes: vec![Note { event: Event::Checkpoint(checkpoint(&raw)), stored: Some(stored[0]) }],
    };
    put(&transfer, &grant.progress, progress.encode().unwrap()).await.unwrap();
    assert_eq!(bucket.progress("../k/#1").await.unwrap(), Some(progress));
    let result = TaskResult {
        protocol: PROTOCOL_VERSION,
        key: "../k/#1".into(),
        attempt: "a".into(),
        ended: Ending::Cancelled,
        timings: Timings::default(),
    };
    let record = TaskRecord { result, stored: stored.to_vec() };
    assert!(transfer.create(&grant.result, encode(&record).unwrap().into()).await.unwrap());
    assert!(!transfer.create(&grant.result, "again".into()).await.unwrap());
    assert_eq!(bucket.result("../k/#1").await.unwrap().unwrap(), record);

    bucket.collect("../k/#1", &stored, &here).await.unwrap();
    bucket.collect("../k/#1", &stored, &here).await.unwrap();
    assert!(here.read(&stored[0].digest).unwrap() == raw && here.read(&stored[1].digest).unwrap() == packed);
    assert!(
        bucket.get(&stored[0].digest).await.unwrap() == raw && bucket.get(&stored[1].digest).await.unwrap() == packed
    );
    let wrong = Stored { digest: Digest::of(b"other"), ..stored[0] };
    assert_eq!(bucket.collect("../k/#1", &[wrong], &here).await.unwrap_err().kind(), ErrorKind::CorruptPayload);
    assert!(!bucket.has(&wrong.digest).await.unwrap());
    let empty = Stored { slot: 1, ..wrong };
    assert_eq!(bucket.collect("../k/#1", &[empty], &here).await.unwrap_err().kind(), ErrorKind::NotFound);

    assert!(bucket.lease("other", "me".into()).await.unwrap());
    let old = SystemTime::now() - Duration::from_secs(7200);
    let age = Duration::from_secs(3600);
    let tasks = server.object("tasks");
    assert_eq!(bucket.expire(age, |_| false).await.unwrap(), Expired::default());
    for entry in walk(&server.object("")) {
        fs::File::options().append(true).open(entry).unwrap().set_modified(old).unwrap();
    }
    assert!(bucket.lease("young", "me".into()).await.unwrap());
    let keep = [Digest::of(b"other"), stored[1].digest];
    let expired = bucket.expire(age, |digest| keep.contains(digest)).await.unwrap();
    assert_eq!(expired, Expired { tasks: 1, blobs: 1 });
    assert!(!bucket.has(&stored[0].digest).await.unwrap() && bucket.has(&stored[1].digest).await.unwrap());
    assert_eq!(bucket.result("../k/#1").await.unwrap(), None);
    assert!(bucket.holder("other").await.unwrap().is_some() && bucket.holder("young").await.unwrap().is_some());
    bucket.remove("other").await.unwrap();
    bucket.remove("other").await.unwrap();
    assert!(bucket.lease("other", "you".into()).await.unwrap());
    assert_eq!(walk(&tasks).len(), 2);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn a_grant_that_cannot_be_is_refused() {
    let Some(server) = server("a_grant_that_cannot_be_is_refused") else { return };
    let bucket = server.bucket();
    let missing = bucket.grant("k", &[Digest::of(b"a")], 1, LONG).await.unwrap_err();
    assert_eq!((missing.kind(), missing.to_string().as_str()), (ErrorKind::NotFound, "the store has no such blob"));
    for (slots, valid) in [(0, LONG), (1025, LONG), (1, Duration::ZERO), (1, Duration::from_secs(8 * 24 * 3600))] {
        let error = bucket.grant("k", &[], slots, valid).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{slots} {valid:?}");
    }
    let grant = bucket.grant("k", &[], 1024, LONG).await.unwrap();
    assert!(encode(&grant).unwrap().len() < 1 << 20);
    let shown = format!("{bucket:?} {grant:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("X-Amz"), "{}", &shown[..500]);
}

const LARGE: usize = 64 << 20;
const CHILD: &str = "OUTBOARD_STREAMING_CHILD";

/// Peak of this process's memory, in bytes.
#[cfg(target_os = "linux")]
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// The child process of the next test; nothing by itself.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn streaming_child() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let address = std::env::var("OUTBOARD_STREAMING_ADDRESS").unwrap().parse().unwrap();
    let (bucket, here) = (Bucket::open(&config(address)).unwrap(), FolderStore::open(folder.as_ref()).unwrap());
    let (_b, there) = self::folder();
    let digest = here.list().unwrap()[0].0;
    let before = peak();
    bucket.upload(&digest, &here).await.unwrap();
    bucket.download(&digest, &there).await.unwrap();
    println!("grew by {} of {LARGE} bytes", peak() - before);
    assert!(peak() - before < LARGE / 2);
    assert_eq!(there.verify(&digest).unwrap(), LARGE as u64);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_large_blob_is_streamed_both_ways() {
    let Some(server) = server("a_large_blob_is_streamed_both_ways") else { return };
    let (folder, here) = folder();
    here.write(&noise(LARGE, 9)).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "streaming_child", "--nocapture"])
        .env(CHILD, folder.path())
        .env("OUTBOARD_STREAMING_ADDRESS", server.address.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", text.lines().find(|line| line.contains("grew by")).unwrap());
}

//! A worker over HTTP, as any client meets it.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::{net::SocketAddr, path::Path, time::Duration};

use common::{DEADLINE, Job, signal, task_program};
use outboard_core::{
    Digest, ErrorKind, Event, Retry,
    task::{Ended, Outcome},
};
use outboard_protocol::{
    Envelope,
    envelope::{DIGEST_HEADER, Ending, Failure, StateMessage, WirePhase, WorkerHealth},
};
use outboard_store::FolderStore;
use outboard_worker::{Server, ServerConfig, Tls, Token};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

const TOKEN: &str = "0123456789abcdef";

struct Worker {
    url: String,
    client: Client,
    running: Option<JoinHandle<()>>,
    folder: tempfile::TempDir,
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

fn config(folder: &Path) -> ServerConfig {
    ServerConfig::new(folder.into(), Token::new(TOKEN).unwrap(), task_program(folder))
}

async fn start(change: impl FnOnce(&mut ServerConfig)) -> Worker {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    change(&mut config);
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let server = Server::start(config).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("{scheme}://{}/v1", listener.local_addr().unwrap());
    let running = tokio::spawn(async { server.run(listener, std::future::pending()).await.unwrap() });
    Worker { url, client: client(), running: Some(running), folder }
}

fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().timeout(DEADLINE).build().unwrap()
}

impl Worker {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(TOKEN)
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    async fn health(&self) -> WorkerHealth {
        serde_json::from_slice(&self.get("/health").await.bytes().await.unwrap()).unwrap()
    }

    async fn put(&self, bytes: &[u8]) -> StatusCode {
        let path = format!("/blobs/{}", Digest::of(bytes));
        self.request(Method::PUT, &path).body(bytes.to_vec()).send().await.unwrap().status()
    }

    async fn prepare(&self, job: &Job) {
        for blob in [job.data(), job.start()] {
            assert!(self.put(&blob).await.is_success());
        }
    }

    async fn post(&self, envelope: &Envelope) -> Response {
        let body = serde_json::to_vec(envelope).unwrap();
        self.request(Method::POST, "/tasks").body(body).send().await.unwrap()
    }

    async fn state(&self, key: &str, seen: u64) -> StateMessage {
        let reply = self.get(&format!("/tasks/{key}?seen={seen}")).await;
        assert_eq!(reply.status(), StatusCode::OK);
        serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap()
    }

    /// All that happened, and how it ended.
    async fn ended(&self, key: &str) -> (Vec<Event>, Ending) {
        let (mut seen, mut events) = (0, Vec::new());
        let following = async {
            loop {
                let state = self.state(key, seen).await;
                seen = state.revision;
                events.extend(state.events);
                if let WirePhase::Ended(result) = state.phase {
                    return result.ended;
                }
            }
        };
        let ended = timeout(DEADLINE, following).await.unwrap();
        (events, ended)
    }

    async fn is_running(&self, key: &str) {
        let mut seen = 0;
        loop {
            let state = self.state(key, seen).await;
            seen = state.revision;
            match state.phase {
                WirePhase::Running if !state.events.is_empty() => return,
                WirePhase::Ended(result) => panic!("{result:?}"),
                _ => {}
            }
        }
    }
}

async fn failure(reply: Response) -> (u16, Failure) {
    let (status, digest) = (reply.status().as_u16(), reply.headers()[DIGEST_HEADER].clone());
    let body = reply.bytes().await.unwrap();
    assert_eq!(digest.to_str().unwrap(), Digest::of(&body).to_string());
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn whoever_lacks_the_token_gets_nothing() {
    let worker = start(|_| {}).await;
    for path in ["/health", "/tasks", "/tasks/k", &format!("/blobs/{}", Digest::of(b"")), "/nowhere"] {
        let bare = worker.client.get(format!("{}{path}", worker.url));
        for (request, message) in [
            (bare.try_clone().unwrap(), "the request has no token"),
            (bare.bearer_auth("0123456789abcdeX"), "the token is wrong"),
        ] {
            let (status, failure) = failure(request.send().await.unwrap()).await;
            assert_eq!((status, failure.kind, &*failure.message), (401, ErrorKind::Unauthenticated, message));
            assert_eq!(failure.hint.unwrap(), "send the token of the worker's --token-file");
        }
    }
    assert_eq!(failure(worker.get("/nowhere").await).await.0, 404);
}

#[tokio::test]
async fn health_says_what_there_is() {
    let worker = start(|config| config.max_queued = 3).await;
    let health = worker.health().await;
    assert_eq!((health.protocol, health.running, health.queued), (outboard_protocol::PROTOCOL_VERSION, 0, 0));
    assert_eq!((health.max_running, health.max_queued, health.blobs, health.draining), (1, 3, 0, false));
    assert!(health.device.contains("1 thread") && !health.numerics.is_empty(), "{health:?}");
    assert!(health.layers.contains(&"linear".to_string()), "{health:?}");
    assert_eq!(worker.put(b"one").await, StatusCode::CREATED);
    assert_eq!(worker.put(b"one").await, StatusCode::OK);
    assert_eq!(worker.health().await.blobs, 1);
}

#[tokio::test]
async fn blobs_come_and_go_whole_encoded_or_from_where_they_stopped() {
    let worker = start(|_| {}).await;
    let blob: Vec<u8> = (0..300_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    let path = format!("/blobs/{}", Digest::of(&blob));
    let packed = zstd::bulk::compress(&blob, 1).unwrap();
    let put = worker.request(Method::PUT, &path).header("content-encoding", "zstd").body(packed);
    assert_eq!(put.send().await.unwrap().status(), StatusCode::CREATED);

    let head = worker.request(Method::HEAD, &path).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], blob.len().to_string());
    assert!(worker.get(&path).await.bytes().await.unwrap() == blob);
    let packed = worker.request(Method::GET, &path).header("accept-encoding", "gzip, zstd").send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "zstd");
    let packed = packed.bytes().await.unwrap();
    assert!(packed.len() < blob.len() / 2 && zstd::decode_all(&packed[..]).unwrap() == blob);
    let rest = worker.request(Method::GET, &path).header("range", "bytes=1000000-").send().await.unwrap();
    assert_eq!(rest.status(), StatusCode::PARTIAL_CONTENT);
    assert!(rest.bytes().await.unwrap() == blob[1_000_000..]);
    let beyond = worker.request(Method::GET, &path).header("range", "bytes=9999999-").send().await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn what_is_damaged_too_large_or_a_bomb_is_refused_and_leaves_nothing() {
    let worker = start(|config| config.max_blob_bytes = 10_000).await;
    let bomb = zstd::bulk::compress(&vec![0; 50 << 20], 3).unwrap();
    assert!(bomb.len() < 10_000);
    for (digest, encoding, body, status, kind) in [
        (Digest::of(b"right"), "identity", b"wrong".to_vec(), 422, ErrorKind::CorruptPayload),
        (Digest::of(&[7; 20_000]), "identity", vec![7; 20_000], 413, ErrorKind::PayloadTooLarge),
        (Digest::of(&vec![0; 50 << 20]), "zstd", bomb, 413, ErrorKind::PayloadTooLarge),
        (Digest::of(b"x"), "zstd", b"no zstd".to_vec(), 422, ErrorKind::CorruptPayload),
        (Digest::of(b"x"), "br", b"x".to_vec(), 415, ErrorKind::Unsupported),
    ] {
        let request = worker.request(Method::PUT, &format!("/blobs/{digest}")).header("content-encoding", encoding);
        let (found, failure) = failure(request.body(body).send().await.unwrap()).await;
        assert_eq!((found, failure.kind), (status, kind), "{failure:?}");
    }
    assert_eq!(std::fs::read_dir(worker.folder.path().join("blobs")).unwrap().count(), 0);
    assert_eq!(failure(worker.get("/blobs/xyz").await).await.0, 400);
    assert_eq!(failure(worker.get(&format!("/blobs/{}", Digest::of(b"none"))).await).await.0, 404);
}

#[tokio::test]
async fn a_task_that_must_not_start_is_refused_with_why() {
    let worker = start(|_| {}).await;
    let job = Job::short();
    let (status, missing) = failure(worker.post(&job.envelope("k")).await).await;
    assert_eq!((status, missing.kind), (424, ErrorKind::NotFound));
    let named: Vec<_> = missing.context.iter().map(|(what, digest)| (what.as_str(), digest.clone())).collect();
    assert_eq!(named, [job.data(), job.start()].map(|blob| ("blob", Digest::of(&blob).to_string())));

    worker.prepare(&job).await;
    let mut late = job.envelope("k");
    late.not_after -= 100_000;
    let (status, late) = failure(worker.post(&late).await).await;
    assert_eq!((status, late.kind, late.retry), (410, ErrorKind::Timeout, Retry::Other));

    let mut newer = serde_json::to_value(job.envelope("k")).unwrap();
    newer["protocol"] = 9.into();
    let send = |body: Vec<u8>, digest: Digest| {
        worker.request(Method::POST, "/tasks").header(DIGEST_HEADER, digest.to_string()).body(body).send()
    };
    let body = serde_json::to_vec(&newer).unwrap();
    let (status, newer) = failure(send(body.clone(), Digest::of(&body)).await.unwrap()).await;
    assert_eq!((status, newer.kind), (400, ErrorKind::Unsupported));
    assert!(newer.message.contains("version 9, but this program speaks version 1"), "{}", newer.message);
    let (status, damaged) = failure(send(body, Digest::of(b"")).await.unwrap()).await;
    assert_eq!((status, damaged.kind), (400, ErrorKind::CorruptPayload));
    let (status, large) = failure(send(vec![b' '; 17 << 20], Digest::of(b"")).await.unwrap()).await;
    assert_eq!((status, large.kind), (413, ErrorKind::PayloadTooLarge));
    assert_eq!(worker.get("/tasks").await.text().await.unwrap(), "[]");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_again_and_a_queued_task_can_be_cancelled() {
    let worker = start(|config| config.max_queued = 1).await;
    worker.prepare(&Job::endless()).await;
    assert_eq!(worker.post(&Job::endless().envelope("a")).await.status(), StatusCode::ACCEPTED);
    worker.is_running("a").await;
    assert_eq!(worker.post(&Job::endless().envelope("b")).await.status(), StatusCode::ACCEPTED);
    assert_eq!(worker.post(&Job::endless().envelope("b")).await.status(), StatusCode::OK);
    let full = worker.post(&Job::endless().envelope("c")).await;
    assert_eq!(full.headers()["retry-after"], "2");
    let (status, full) = failure(full).await;
    assert_eq!((status, full.kind), (429, ErrorKind::RateLimited));
    assert_eq!(full.message, "the worker has 2 tasks, 1 of them running, and takes no more");
    let health = worker.health().await;
    assert_eq!((health.running, health.queued), (1, 1));

    for (key, is_trained) in [("b", false), ("a", true)] {
        worker.request(Method::DELETE, &format!("/tasks/{key}")).send().await.unwrap();
        match worker.ended(key).await.1 {
            Ending::Cancelled if !is_trained => {}
            Ending::Finished(Outcome::Train { ended: Ended::Cancelled, .. }) if is_trained => {}
            other => panic!("{key}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn overtaken_checkpoints_are_removed_and_results_and_blobs_expire() {
    let worker = start(|config| {
        (config.result_ttl, config.blob_ttl) = (Duration::from_millis(1), Duration::from_millis(1));
    })
    .await;
    let job = Job::short();
    worker.prepare(&job).await;
    let mut envelope = job.envelope("k");
    let outboard_core::task::Operation::Train(task) = &mut envelope.task.operation else { panic!() };
    task.checkpoint_every = Duration::ZERO;
    assert_eq!(worker.post(&envelope).await.status(), StatusCode::ACCEPTED);
    // Whatever of it can still be seen: everything expires at once here.
    let gone = async {
        while worker.get("/tasks/k?wait_ms=100").await.status() != StatusCode::NOT_FOUND
            || worker.health().await.blobs > 0
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, gone).await.unwrap();

    let worker = start(|_| {}).await;
    worker.prepare(&job).await;
    worker.post(&envelope).await;
    let (events, _) = worker.ended("k").await;
    let told: Vec<_> =
        events.iter().filter_map(|e| if let Event::Checkpoint(c) = e { Some(c.digest) } else { None }).collect();
    let store = FolderStore::open(worker.folder.path()).unwrap();
    assert!(told.iter().rev().take(2).all(|digest| store.read(digest).is_ok()));
    // 30 batches made 31 checkpoints. Data and start are left, and the last two, which are the same one.
    assert_eq!(worker.health().await.blobs, 3);
}

/// The example program as a worker of its own.
fn spawn(folder: &Path, token: &Path) -> (tokio::process::Child, impl Future<Output = SocketAddr>) {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut child = tokio::process::Command::new(common::program())
        .args(["--listen", "127.0.0.1:0", "--threads", "1", "--token-file"])
        .args([token.as_os_str(), "--store".as_ref(), folder.as_os_str()])
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = async move {
        loop {
            let line = lines.next_line().await.unwrap().expect("the worker ended early");
            if let Some(rest) = line.split("http://").nth(1).filter(|_| line.starts_with("listening")) {
                // Whoever reads on keeps the worker from blocking.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return rest.split(' ').next().unwrap().parse().unwrap();
            }
        }
    };
    (child, address)
}

#[tokio::test]
async fn a_worker_that_ends_leaves_checkpoints_and_one_that_starts_again_remembers() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let store = folder.path().join("store");
    let reach = |address: SocketAddr| Worker {
        url: format!("http://{address}/v1"),
        client: client(),
        running: None,
        folder: tempfile::tempdir().unwrap(),
    };

    let (mut process, address) = spawn(&store, &token);
    let worker = reach(timeout(DEADLINE, address).await.unwrap());
    worker.prepare(&Job::endless()).await;
    worker.post(&Job::short().envelope("short")).await;
    let (events, done) = worker.ended("short").await;
    assert_eq!(done, Ending::Finished(Job::short().directly().0));
    worker.post(&Job::endless().envelope("drained")).await;
    worker.is_running("drained").await;
    signal(process.id().unwrap(), "TERM");
    assert!(timeout(DEADLINE, process.wait()).await.unwrap().unwrap().success());

    let (mut process, address) = spawn(&store, &token);
    let worker = reach(timeout(DEADLINE, address).await.unwrap());
    let remembered = worker.ended("short").await;
    let lasting = |events: &[Event]| -> Vec<Event> {
        events.iter().filter(|event| !matches!(event, Event::Progress(_))).cloned().collect()
    };
    assert_eq!((lasting(&remembered.0), remembered.1), (lasting(&events), done));
    let Ending::Failed(drained) = worker.ended("drained").await.1 else { panic!() };
    assert_eq!((drained.kind, &*drained.message), (ErrorKind::Preempted, "the worker is shutting down"));
    let checkpoint = &drained.context.iter().find(|(what, _)| what == "checkpoint").unwrap().1;
    assert_eq!(worker.get(&format!("/blobs/{checkpoint}")).await.status(), StatusCode::OK);

    worker.post(&Job::endless().envelope("killed")).await;
    worker.is_running("killed").await;
    process.kill().await.unwrap();
    let (_process, address) = spawn(&store, &token);
    let worker = reach(timeout(DEADLINE, address).await.unwrap());
    let Ending::Failed(killed) = worker.ended("killed").await.1 else { panic!() };
    assert_eq!(killed.message, "the worker was restarted while it ran the task");
    // Another attempt at the same task may run.
    let mut again = Job::short().envelope("killed");
    again.task.attempt = "killed#2".into();
    assert_eq!(worker.post(&again).await.status(), StatusCode::ACCEPTED);
    assert_eq!(worker.ended("killed").await.1, Ending::Finished(Job::short().directly().0));
}

#[tokio::test]
async fn https_is_spoken_to_whoever_trusts_the_certificate() {
    let made = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut worker = start(|config| config.tls = Some(Tls::read(&certificate, &key).unwrap())).await;

    // A client that never agrees on encryption holds up nobody.
    let address = worker.url.trim_start_matches("https://").trim_end_matches("/v1").to_string();
    let _silent = tokio::net::TcpStream::connect(&address).await.unwrap();
    let refused = worker.request(Method::GET, "/health").send().await.unwrap_err();
    assert!(format!("{refused:?}").contains("UnknownIssuer"), "{refused:?}");
    let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    worker.client = Client::builder().no_proxy().tls_certs_merge([trusted]).build().unwrap();
    assert_eq!(worker.health().await.running, 0);
    worker.url = worker.url.replace("https", "http");
    assert!(worker.request(Method::GET, "/health").send().await.is_err());

    let error = Tls::read(&key, &certificate).unwrap_err();
    assert_eq!(error.to_string(), "the file holds no certificate in PEM form");
    let error = Tls::read(&certificate, &certificate).unwrap_err();
    assert_eq!(error.to_string(), "the file holds no private key in PEM form");
    let other = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    std::fs::write(&key, other.signing_key.serialize_pem()).unwrap();
    let error = Tls::read(&certificate, &key).unwrap_err();
    assert_eq!(error.to_string(), "the certificate and the key don't go together");
}

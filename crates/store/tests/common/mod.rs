//! A real S3 server on loopback, and ways to disturb it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use outboard_store::{Bucket, BucketConfig};

/// Holds the path of the program `s3s-fs`; `cargo xtask test store` sets it.
pub const SERVER: &str = "TEST_S3_SERVER";

/// A server with one bucket, `data`; ended when dropped.
pub struct Server {
    child: Child,
    pub folder: tempfile::TempDir,
    pub address: SocketAddr,
}

/// The server, or a word on why the test doesn't run.
pub fn server(test: &str) -> Option<Server> {
    match std::env::var_os(SERVER) {
        Some(program) => Some(Server::start(program.as_ref())),
        None => {
            println!("skipped: {test}: {SERVER} is not set; `cargo xtask test store` sets it");
            None
        }
    }
}

impl Server {
    fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let mut child = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", "0", "--access-key", "KEY", "--secret-key", "s3cret"])
            .arg(folder.path())
            .env("RUST_LOG", "s3s_fs=info")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = output.find_map(|line| {
            let line = line.unwrap();
            let (_, address) = line.split_once("server is running at http://")?;
            Some(address.trim().parse().unwrap())
        });
        // Its log must not fill the pipe.
        thread::spawn(move || output.for_each(drop));
        Self { child, folder, address: address.expect("the server did not start") }
    }

    pub fn config(&self) -> BucketConfig {
        config(self.address)
    }

    pub fn bucket(&self) -> Bucket {
        Bucket::open(&self.config()).unwrap()
    }

    /// The file of an object.
    pub fn object(&self, name: &str) -> PathBuf {
        self.folder.path().join("data/jobs/1").join(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn config(address: SocketAddr) -> BucketConfig {
    BucketConfig {
        url: "s3://data/jobs/1".into(),
        endpoint: Some(format!("http://{address}")),
        access_key_id: Some("KEY".into()),
        secret_access_key: Some("s3cret".into()),
        ..BucketConfig::default()
    }
}

/// A proxy before a server, and what it does to connections.
pub struct Proxy {
    pub address: SocketAddr,
    /// Connections so far.
    pub count: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Proxy {
    /// Cuts the first connection of which more than this many bytes come from the server.
    pub fn cutting(server: SocketAddr, after: usize) -> Self {
        let cut = Arc::new(AtomicBool::new(false));
        Self::start(move |client| {
            let cut = cut.clone();
            thread::spawn(move || forward(server, client, after, &cut));
        })
    }

    /// Lets one connection through at a time: what the server does for one is done before the next begins.
    pub fn one_by_one(server: SocketAddr) -> Self {
        Self::start(move |client| forward(server, client, usize::MAX, &AtomicBool::new(true)))
    }

    fn start(mut serve: impl FnMut(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (count, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let proxy = Self { address: listener.local_addr().unwrap(), count: count.clone(), is_over: is_over.clone() };
        thread::spawn(move || {
            for client in listener.incoming() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                serve(client.unwrap());
            }
        });
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// Both ways until one of them ends, or until more than `after` bytes came back and nothing was cut before.
fn forward(server: SocketAddr, mut client: TcpStream, after: usize, is_cut: &AtomicBool) {
    let Ok(mut server) = TcpStream::connect(server) else { return };
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let up = thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    let (mut buffer, mut passed) = (vec![0; 16 << 10], 0);
    while let Ok(n @ 1..) = server.read(&mut buffer) {
        passed += n;
        if passed > after && !is_cut.swap(true, Ordering::Relaxed) {
            break;
        }
        if client.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = server.shutdown(std::net::Shutdown::Both);
    let _ = up.join();
}

/// Bytes that nothing compresses.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

//! The worker as the `outboard` program starts it.

use std::{net::SocketAddr, path::PathBuf, thread::available_parallelism, time::Duration};

use outboard_core::error::{Error, ErrorKind, Result};
use outboard_store::FolderStore;
use tokio::net::TcpListener;

use crate::{
    Tls, Token, serve_stdio,
    server::{Server, ServerConfig},
    supervisor::TaskProgram,
};

/// What the flags say.
#[derive(Clone, Debug)]
pub struct Options {
    /// Be a task process, on standard input and output.
    pub stdio: bool,
    /// Be a worker, on this address.
    pub listen: Option<SocketAddr>,
    /// Folder of the store.
    pub store: PathBuf,
    /// File of the token that clients must show; needed with `listen`.
    pub token_file: Option<PathBuf>,
    /// Certificate and key, each a PEM file, to speak HTTPS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Threads of a task process; 0 shares the cores among those that run at the same time.
    pub threads: usize,
    /// See [`ServerConfig`].
    pub max_running: u32,
    /// See [`ServerConfig`].
    pub max_queued: u32,
    /// See [`ServerConfig`].
    pub max_blob_bytes: u64,
    /// See [`ServerConfig`].
    pub result_ttl: Duration,
    /// See [`ServerConfig`].
    pub drain: Duration,
    /// This program, and the arguments before `--stdio --store STORE --threads THREADS` that make it a task process.
    pub program: TaskProgram,
}

/// Runs until standard input ends, or the process is asked to end (ctrl-c, SIGTERM).
///
/// # Errors
/// `InvalidConfig` where the options don't go together or the token file won't do; as [`serve_stdio`] and
/// [`Server::start`].
pub async fn main(options: Options) -> Result<()> {
    match (options.stdio, options.listen) {
        (true, None) => stdio(options).await,
        (false, Some(address)) => listen(options, address).await,
        _ => Err(Error::new(ErrorKind::InvalidConfig, "give either --stdio or --listen ADDRESS")),
    }
}

async fn stdio(options: Options) -> Result<()> {
    let store = FolderStore::open(&options.store)?;
    tokio::task::spawn_blocking(move || serve_stdio(store, options.threads))
        .await
        .map_err(|e| Error::new(ErrorKind::Unexpected, "the task process failed").because(e))?
}

async fn listen(options: Options, address: SocketAddr) -> Result<()> {
    let token = options.token_file.as_deref().ok_or_else(|| {
        Error::new(ErrorKind::InvalidConfig, "a worker that listens needs a token")
            .hint("umask 077; openssl rand -hex 32 > token, then add --token-file token")
    })?;
    let tls = options.tls.as_ref().map(|(certificate, key)| Tls::read(certificate, key)).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let config = ServerConfig {
        tls,
        max_running: options.max_running,
        max_queued: options.max_queued,
        max_blob_bytes: options.max_blob_bytes,
        result_ttl: options.result_ttl,
        drain: options.drain,
        ..ServerConfig::new(options.store.clone(), Token::read(token)?, task_program(&options))
    };
    let cannot = |e: std::io::Error| {
        Error::new(ErrorKind::InvalidConfig, format!("cannot listen on {address}: {e}")).hint("choose another address")
    };
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let shutdown = shutdown()?;
    let server = Server::start(config).await?;
    if !address.ip().is_loopback() && scheme == "http" {
        tracing::warn!(%address, "whoever is on the way can read the token: give the worker --tls-cert and --tls-key");
    }
    eprintln!(
        "listening on {scheme}://{address} ({}, {} task{} at a time)",
        server.device(),
        options.max_running,
        if options.max_running == 1 { "" } else { "s" }
    );
    server.run(listener, shutdown).await
}

fn task_program(options: &Options) -> TaskProgram {
    let threads = match options.threads {
        0 => (available_parallelism().map_or(1, usize::from) / options.max_running.max(1) as usize).max(1),
        threads => threads,
    };
    let mut program = options.program.clone();
    program.args.extend(["--stdio".into(), "--store".into(), options.store.clone().into()]);
    program.args.extend(["--threads".into(), threads.to_string().into()]);
    program
}

/// Completes when the process is asked to end.
fn shutdown() -> Result<impl Future<Output = ()> + Send + 'static> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot listen to signals").because(e))?;
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    })
}

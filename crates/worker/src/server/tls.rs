//! HTTPS: connections that are encrypted before a byte of a request is read.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::serve::Listener;
use outboard_core::error::{Error, ErrorKind, IoContext, Result};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Longest time for a client to agree on encryption.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections that are encrypted, but not yet served.
const WAITING: usize = 64;

/// A certificate with its key, as a worker shows it.
#[derive(Clone, Debug)]
pub struct Tls(Arc<ServerConfig>);

impl Tls {
    /// Reads the certificate, with those that vouch for it, and its key, each a PEM file.
    ///
    /// # Errors
    /// `InvalidConfig` where a file holds none, or both don't belong together; `NotFound`.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let wrong = |path: &Path, what: &str| {
            Error::new(ErrorKind::InvalidConfig, format!("the file holds no {what} in PEM form"))
                .at("file", path.display())
                .hint("docs/workers.md says how to make both")
        };
        let bytes = std::fs::read(certificate).doing("read the certificate", certificate)?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes).filter_map(std::result::Result::ok).collect();
        if certificates.is_empty() {
            return Err(wrong(certificate, "certificate"));
        }
        let bytes = std::fs::read(key).doing("read the key", key)?;
        let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| wrong(key, "private key"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, private))
            .map_err(|e| {
                Error::new(ErrorKind::InvalidConfig, "the certificate and the key don't go together")
                    .at("certificate", certificate.display())
                    .at("key", key.display())
                    .because(e)
                    .hint("name the key that the certificate was made with")
            })?;
        Ok(Self(Arc::new(config)))
    }
}

/// A listener whose connections are encrypted. A client that is slow to agree holds up no other one.
pub(super) struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    accepting: JoinHandle<()>,
}

impl TlsListener {
    pub(super) fn new(listener: TcpListener, tls: &Tls) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(tls.0.clone());
        let (sender, ready) = mpsc::channel(WAITING);
        let accepting = tokio::spawn(accept(listener, acceptor, sender));
        Ok(Self { address, ready, accepting })
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    mut listener: TcpListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    loop {
        let (stream, client) = Listener::accept(&mut listener).await;
        let _ = stream.set_nodelay(true);
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                // Where nobody takes it, the worker is ending.
                Ok(Ok(stream)) => drop(sender.send((stream, client)).await),
                Ok(Err(error)) => tracing::debug!(%client, %error, "no encryption was agreed on"),
                Err(_) => tracing::debug!(%client, "no encryption was agreed on in time"),
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The accepting task ends only with this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

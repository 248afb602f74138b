//! A network on loopback that delays, cuts, truncates and damages what crosses it.
//!
//! It forwards bytes and knows of HTTP only this much: a piece that begins with a method begins an exchange, and a body
//! follows an empty line.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::weather::{Fault, Weather};

/// Bytes that are forwarded at a time.
const PIECE: usize = 64 << 10;

/// How long a connection is kept that nobody uses: a test that hangs must end.
const IDLE: Duration = Duration::from_secs(120);

/// A proxy in front of one server. It ends, with all its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// The line between a client and a server.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// How long a request takes to get there, beyond its bytes, and its reply to come back.
    pub round_trip: Duration,
    /// Each way, for each connection.
    pub bytes_per_second: u64,
}

#[derive(Debug)]
struct Shared {
    server: Mutex<SocketAddr>,
    weather: Mutex<Weather>,
    link: Mutex<Option<Link>>,
    met: Mutex<BTreeMap<&'static str, usize>>,
    exchanges: Mutex<usize>,
    bytes: Mutex<(u64, u64)>,
    over: Notify,
}

impl Proxy {
    /// A proxy in front of `server`, on a port of its own.
    ///
    /// # Errors
    /// Where there is no port.
    pub async fn start(server: SocketAddr, weather: Weather) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            weather: Mutex::new(weather),
            link: Mutex::default(),
            met: Mutex::default(),
            exchanges: Mutex::default(),
            bytes: Mutex::default(),
            over: Notify::new(),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the weather, for exchanges that begin from here on.
    pub fn set(&self, weather: Weather) {
        *lock(&self.shared.weather) = weather;
    }

    /// How slow the network is from here on; until then it is as fast as loopback.
    pub fn slow(&self, link: Link) {
        *lock(&self.shared.link) = Some(link);
    }

    /// The server has moved.
    pub fn lead_to(&self, server: SocketAddr) {
        *lock(&self.shared.server) = server;
    }

    /// Exchanges so far.
    #[must_use]
    pub fn exchanges(&self) -> usize {
        *lock(&self.shared.exchanges)
    }

    /// Bytes to the server and from it.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        *lock(&self.shared.bytes)
    }

    /// Faults so far, by name.
    #[must_use]
    pub fn met(&self) -> BTreeMap<&'static str, usize> {
        lock(&self.shared.met).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.over.notify_waiters();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let over = shared.over.notified();
            tokio::select! {
                _ = connect(client, &shared) => {}
                () = over => {}
            }
        });
    }
}

/// What the two directions of a connection say to each other: the fault of the running exchange.
#[derive(Debug, Default)]
struct Exchange(Mutex<Option<Fault>>);

/// How a direction ended.
enum End {
    /// One side has closed it.
    Closed,
    /// Both sides are to see a reset.
    Reset,
}

async fn connect(client: TcpStream, shared: &Shared) -> io::Result<()> {
    let server = *lock(&shared.server);
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let exchange = Exchange::default();
    let end = tokio::select! {
        end = requests(&mut from_client, &mut to_server, &exchange, shared) => end,
        end = replies(&mut from_server, &mut to_client, &exchange, shared) => end,
    };
    if matches!(end, Ok(End::Reset)) {
        for halves in [(from_client, to_client), (from_server, to_server)] {
            if let Ok(stream) = halves.0.reunite(halves.1) {
                stream.set_zero_linger()?;
            }
        }
    }
    Ok(())
}

async fn requests(
    client: &mut OwnedReadHalf,
    server: &mut OwnedWriteHalf,
    exchange: &Exchange,
    shared: &Shared,
) -> io::Result<End> {
    let mut piece = vec![0; PIECE];
    // Bytes of the running request.
    let mut sent = 0;
    loop {
        let n = read(client, &mut piece).await?;
        if n == 0 {
            return Ok(End::Closed);
        }
        let piece = &mut piece[..n];
        let begins = begins_request(piece);
        travel(shared, n, begins).await;
        if begins {
            sent = 0;
            let fault = lock(&shared.weather).draw(piece);
            *lock(&exchange.0) = fault;
            *lock(&shared.exchanges) += 1;
            if let Some(fault) = fault {
                *lock(&shared.met).entry(fault.name()).or_default() += 1;
            }
        }
        let fault = *lock(&exchange.0);
        match fault {
            Some(Fault::ResetRequest) => return Ok(End::Reset),
            Some(Fault::CutRequest(after)) if sent + n > after => {
                server.write_all(&piece[..after.saturating_sub(sent)]).await?;
                return Ok(End::Reset);
            }
            Some(Fault::CorruptRequest) if corrupt(piece) => *lock(&exchange.0) = None,
            _ => {}
        }
        sent += n;
        lock(&shared.bytes).0 += n as u64;
        server.write_all(piece).await?;
    }
}

async fn replies(
    server: &mut OwnedReadHalf,
    client: &mut OwnedWriteHalf,
    exchange: &Exchange,
    shared: &Shared,
) -> io::Result<End> {
    let mut piece = vec![0; PIECE];
    // Bytes of the running reply.
    let mut sent = 0;
    loop {
        let n = read(server, &mut piece).await?;
        if n == 0 {
            return Ok(End::Closed);
        }
        let piece = &mut piece[..n];
        if piece.starts_with(b"HTTP/1.1 ") {
            sent = 0;
        }
        let fault = *lock(&exchange.0);
        match fault {
            Some(Fault::LoseReply) => return Ok(End::Reset),
            Some(Fault::HalfOpen) => continue,
            Some(Fault::Delay(time)) => {
                sleep(time).await;
                *lock(&exchange.0) = None;
            }
            Some(Fault::TruncateReply(after)) if sent + n > after => {
                client.write_all(&piece[..after.saturating_sub(sent)]).await?;
                return Ok(End::Closed);
            }
            Some(Fault::ResetReply(after)) if sent + n > after => {
                client.write_all(&piece[..after.saturating_sub(sent)]).await?;
                return Ok(End::Reset);
            }
            Some(Fault::CorruptReply) if corrupt(piece) => *lock(&exchange.0) = None,
            _ => {}
        }
        sent += n;
        travel(shared, n, false).await;
        lock(&shared.bytes).1 += n as u64;
        client.write_all(piece).await?;
    }
}

/// Takes as long as bytes take on the line.
async fn travel(shared: &Shared, bytes: usize, begins: bool) {
    let link = *lock(&shared.link);
    let Some(Link { round_trip, bytes_per_second }) = link else { return };
    let first = if begins { round_trip } else { Duration::ZERO };
    sleep(first + Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64)).await;
}

async fn read(from: &mut OwnedReadHalf, piece: &mut [u8]) -> io::Result<usize> {
    timeout(IDLE, from.read(piece)).await.unwrap_or(Ok(0))
}

fn begins_request(piece: &[u8]) -> bool {
    ["GET /", "HEAD /", "POST /", "PUT /", "DELETE /"].iter().any(|method| piece.starts_with(method.as_bytes()))
}

/// Changes a byte of the body, if the piece has one.
fn corrupt(piece: &mut [u8]) -> bool {
    let is_head = begins_request(piece) || piece.starts_with(b"HTTP/1.1 ");
    let body = match piece.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(end) if is_head => end + 4,
        _ if is_head => return false,
        _ => 0,
    };
    // Not the last one: that may be the end of a chunk.
    let at = body + (piece.len() - body) / 2;
    match piece.get_mut(at) {
        Some(byte) => {
            // A digit stays a digit: the body can be read, but says something else.
            *byte ^= 1;
            true
        }
        None => false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

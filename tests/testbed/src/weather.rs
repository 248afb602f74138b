//! Which fault an exchange meets.

use std::{collections::VecDeque, time::Duration};

/// What happens to one exchange: a request and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request is not heard: the connection is reset before it gets through.
    ResetRequest,
    /// The request gets through up to so many bytes, then the connection is reset.
    CutRequest(usize),
    /// A byte of the request's body is another one.
    CorruptRequest,
    /// The request is heard and carried out; its reply is lost with the connection.
    LoseReply,
    /// The reply ends after so many bytes, as if it were complete.
    TruncateReply(usize),
    /// The connection is reset after so many bytes of the reply.
    ResetReply(usize),
    /// A byte of the reply's body is another one.
    CorruptReply,
    /// The reply comes this much later.
    Delay(Duration),
    /// Nothing comes back, and the connection stays open.
    HalfOpen,
}

impl Fault {
    /// One of each kind, as short exchanges meet them.
    pub const EVERY: [Self; 9] = [
        Self::ResetRequest,
        Self::CutRequest(200),
        Self::CorruptRequest,
        Self::LoseReply,
        Self::TruncateReply(150),
        Self::ResetReply(150),
        Self::CorruptReply,
        Self::Delay(Duration::from_millis(50)),
        Self::HalfOpen,
    ];

    /// A label for figures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ResetRequest => "reset request",
            Self::CutRequest(_) => "cut request",
            Self::CorruptRequest => "corrupt request",
            Self::LoseReply => "lost reply",
            Self::TruncateReply(_) => "truncated reply",
            Self::ResetReply(_) => "reset reply",
            Self::CorruptReply => "corrupt reply",
            Self::Delay(_) => "delay",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Decides what happens to each exchange, in the order in which they begin.
#[derive(Debug)]
pub struct Weather {
    /// Faults for the next exchanges whose request line begins so.
    script: VecDeque<(&'static str, Fault)>,
    /// Share of the other exchanges that meet a fault.
    rate: f64,
    /// Which ones, each as likely.
    kinds: Vec<Fault>,
    random: fastrand::Rng,
}

impl Weather {
    /// No faults.
    #[must_use]
    pub fn fair() -> Self {
        Self { script: VecDeque::new(), rate: 0.0, kinds: Vec::new(), random: fastrand::Rng::with_seed(0) }
    }

    /// A share `rate` of all exchanges meets one of `kinds`; the same seed gives the same draws.
    #[must_use]
    pub fn foul(rate: f64, kinds: &[Fault], seed: u64) -> Self {
        Self { rate, kinds: kinds.to_vec(), random: fastrand::Rng::with_seed(seed), ..Self::fair() }
    }

    /// The next exchange whose request line begins with `request` (such as `POST /v1/tasks`) meets `fault`.
    #[must_use]
    pub fn then(mut self, request: &'static str, fault: Fault) -> Self {
        self.script.push_back((request, fault));
        self
    }

    /// What happens to the exchange that begins with these bytes.
    pub(crate) fn draw(&mut self, request: &[u8]) -> Option<Fault> {
        if let Some(at) = self.script.iter().position(|(prefix, _)| request.starts_with(prefix.as_bytes())) {
            return self.script.remove(at).map(|(_, fault)| fault);
        }
        if self.kinds.is_empty() || self.random.f64() >= self.rate {
            return None;
        }
        self.random.choice(&self.kinds).copied()
    }
}

//! Requests that got no reply.

use std::{error::Error as StdError, io};

use outboard_core::error::{Error, ErrorKind, Retry};

/// Why there was no reply, in words.
pub(crate) fn transport_error(error: reqwest::Error) -> Error {
    // The URL is told apart from this.
    let error = error.without_url();
    if let Some(tls) = find(&error, as_tls) {
        let message = format!("the worker can't be reached safely: {tls}");
        let hint = match tls {
            rustls::Error::InvalidCertificate(_) => "let this system trust the worker's certificate",
            _ => "check that the worker speaks https at this port",
        };
        return Error::new(ErrorKind::Unavailable, message).with_retry(Retry::Other).hint(hint);
    }
    let is_refused =
        find(&error, |e| e.downcast_ref::<io::Error>()).is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    let (kind, message, hint) = match () {
        () if is_refused => (
            ErrorKind::Unavailable,
            "nothing listens at the worker's address",
            "start it there with `outboard worker --listen`, or check `url`",
        ),
        () if error.is_connect() && error.is_timeout() => {
            (ErrorKind::Unavailable, "the worker can't be reached in time", "check the network and `url`")
        }
        () if error.is_connect() => {
            (ErrorKind::Unavailable, "the worker can't be reached", "check the network and `url`")
        }
        () if error.is_timeout() => (
            ErrorKind::Timeout,
            "the worker did not answer in time",
            "look at the worker's log, or raise `request_timeout`",
        ),
        () => {
            (ErrorKind::Unavailable, "the connection to the worker was cut", "check the network and the worker's log")
        }
    };
    Error::new(kind, message).because(error).hint(hint)
}

/// The first cause of which `pick` makes something.
fn find<'e, T: ?Sized>(
    error: &'e (dyn StdError + 'static),
    pick: impl Fn(&'e (dyn StdError + 'static)) -> Option<&'e T>,
) -> Option<&'e T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = pick(error) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// An I/O error tells the causes of what it holds, but not what it holds; and it may hold another one.
fn as_tls<'e>(mut error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    loop {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        error = error.downcast_ref::<io::Error>()?.get_ref()?;
    }
}

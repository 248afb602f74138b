//! What every HTTP client of ours needs: TLS, words for requests that got no reply, waiting times.

use std::{
    error::Error as StdError,
    io,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use hyper_util::client::proxy::matcher::Matcher;
use outboard_core::{
    code,
    error::{Error, ErrorKind, Retry},
};
use reqwest::{
    ClientBuilder, Url,
    header::{HeaderMap, RETRY_AFTER},
    redirect, retry,
};

/// Whoever should answer, in words.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// As in "the worker can't be reached".
    pub name: &'static str,
    /// The key of the configuration that holds its address.
    pub address: &'static str,
    /// What to try where nothing listens.
    pub start: &'static str,
    /// What to try where it takes too long.
    pub slow: &'static str,
    /// What to look at where the connection was cut.
    pub log: &'static str,
}

/// A client that neither follows redirections nor tries again: both would happen unseen by the one layer that does.
/// Nothing between this machine and itself is a proxy's business.
pub fn client(is_loopback: bool) -> ClientBuilder {
    // Another part of the program may have installed one, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("outboard/", env!("CARGO_PKG_VERSION")))
        .retry(retry::never())
        .redirect(redirect::Policy::none());
    if is_loopback { builder.no_proxy() } else { builder }
}

/// Whether a URL's host is this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The waiting time that a reply asks for: seconds, or an HTTP date.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
    }
}

/// The proxy through which the environment has requests for a URL go, without its password. Addresses of this machine have
/// none, see [`client`].
#[must_use]
pub fn proxy(url: &Url) -> Option<String> {
    if url.host_str().is_none_or(is_loopback) {
        return None;
    }
    let proxy = Matcher::from_env().intercept(&url.as_str().parse().ok()?)?;
    let (scheme, host) = (proxy.uri().scheme_str().unwrap_or("http"), proxy.uri().host()?);
    let port = proxy.uri().port_u16().map_or_else(String::new, |port| format!(":{port}"));
    Some(format!("{scheme}://{host}{port}"))
}

/// Why there was no reply, in words. The URL is left out: it may hold a secret.
#[must_use]
pub fn transport_error(error: reqwest::Error, peer: &Peer) -> Error {
    let proxy = error.url().and_then(proxy);
    let error = error.without_url();
    let Peer { name, address, start, slow, log } = peer;
    if let Some(tls) = find(&error, as_tls) {
        let message = format!("the {name} can't be reached safely: {tls}");
        let hint = match tls {
            rustls::Error::InvalidCertificate(_) => format!("let this system trust the {name}'s certificate"),
            _ => format!("check that the {name} speaks https at this port"),
        };
        return Error::new(ErrorKind::Unavailable, message).or_code(code::TLS).with_retry(Retry::Other).hint(hint);
    }
    if let Some(proxy) = proxy.filter(|_| error.is_connect()) {
        return Error::new(ErrorKind::Unavailable, format!("the {name} can't be reached through the proxy {proxy}"))
            .or_code(code::PROXY)
            .because(error)
            .hint("check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or list the host in NO_PROXY");
    }
    let is_refused =
        find(&error, |e| e.downcast_ref::<io::Error>()).is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    let check = format!("check the network and {address}");
    let (kind, message, hint) = match () {
        () if is_refused => {
            (ErrorKind::Unavailable, format!("nothing listens at the {name}'s address"), (*start).to_string())
        }
        () if error.is_connect() && error.is_timeout() => {
            (ErrorKind::Unavailable, format!("the {name} can't be reached in time"), check)
        }
        () if error.is_connect() => (ErrorKind::Unavailable, format!("the {name} can't be reached"), check),
        () if error.is_timeout() => {
            (ErrorKind::Timeout, format!("the {name} did not answer in time"), (*slow).to_string())
        }
        () => (
            ErrorKind::Unavailable,
            format!("the connection to the {name} was cut"),
            format!("check the network and {log}"),
        ),
    };
    let code = if error.is_connect() { code::NETWORK } else { kind.code() };
    Error::new(kind, message).or_code(code).because(error).hint(hint)
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

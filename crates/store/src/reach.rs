//! Whether an address answers: what lies in between, and whether both clocks agree.

use std::time::{Duration, SystemTime};

use outboard_core::{code, finding::Finding};
use reqwest::{Client, Url, header::DATE};
use tokio::time::{Instant, timeout};

use crate::transport::{self, Peer, transport_error};

/// The longest time for an answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Clocks that differ by more are told.
const ODD: Duration = Duration::from_secs(30);
/// Clocks that differ by more make signed URLs and deadlines fail.
const WRONG: Duration = Duration::from_secs(300);

/// Asks for the root of `url`'s host: any answer will do, and nothing is paid for. What stands in the way, a proxy, a
/// certificate or the network, has a code of its own.
pub async fn reach(client: &Client, url: &Url, peer: &Peer) -> Vec<Finding> {
    let mut root = url.clone();
    root.set_path("/");
    root.set_query(None);
    let of = match (root.host_str(), root.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_string(),
    };
    let began = Instant::now();
    let answer = match timeout(LIMIT, client.get(root).send()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            let error = transport_error(error, peer);
            return vec![Finding::error(error.code(), of, &error)];
        }
        Err(_) => {
            let evidence = format!("no answer within {LIMIT:?}");
            return vec![Finding::fail(code::NETWORK, of, evidence, format!("check the network and {}", peer.address))];
        }
    };
    let took = began.elapsed();
    let through = transport::proxy(url).map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
    let mut found = vec![Finding::pass(
        code::NETWORK,
        of.as_str(),
        format!("it answers within {:.2} s{through}", took.as_secs_f64()),
    )];
    let date = answer.headers().get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    found.extend(date.map(|theirs| clock(of, theirs, SystemTime::now(), took)));
    found
}

/// As [`reach`], by a client that trusts what the system trusts, and knows no secret. Nothing where `address` is no URL.
pub async fn reach_address(address: &str, peer: &Peer) -> Vec<Finding> {
    let Ok(url) = Url::parse(address) else { return Vec::new() };
    match transport::client(url.host_str().is_some_and(transport::is_loopback)).build() {
        Ok(client) => reach(&client, &url, peer).await,
        Err(error) => vec![Finding::fail(
            code::TLS,
            url.host_str().unwrap_or_default(),
            format!("no client can be made: {}", error.without_url()),
            "check this system's certificates",
        )],
    }
}

/// Their clock against ours. A date has whole seconds, and was written at some time during the request.
fn clock(of: String, theirs: SystemTime, ours: SystemTime, took: Duration) -> Finding {
    let (ahead, apart) = match ours.duration_since(theirs) {
        Ok(apart) => ("ahead of", apart),
        Err(behind) => ("behind", behind.duration()),
    };
    let apart = apart.saturating_sub(took + Duration::from_secs(1));
    let told = format!("this machine's clock is {} s {ahead} the server's", apart.as_secs());
    let remedy = "turn on time synchronisation (`timedatectl set-ntp true`)";
    match apart {
        apart if apart > WRONG => Finding::fail(code::CLOCK, of, told, remedy),
        apart if apart > ODD => Finding::warn(code::CLOCK, of, told, remedy),
        _ => Finding::pass(code::CLOCK, of, "this machine's clock and the server's agree"),
    }
}

#[cfg(test)]
mod tests {
    use outboard_core::finding::Verdict;

    use super::*;

    #[test]
    fn clocks_that_differ_are_told_with_how_much() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |behind: i64| match behind {
            ..0 => now + Duration::from_secs(behind.unsigned_abs()),
            _ => now - Duration::from_secs(behind.unsigned_abs()),
        };
        for (behind, verdict, told) in [
            (0, Verdict::Pass, "agree"),
            (20, Verdict::Pass, "agree"),
            (-20, Verdict::Pass, "agree"),
            (62, Verdict::Warn, "is 60 s ahead of the server's"),
            (-62, Verdict::Warn, "is 60 s behind the server's"),
            (3602, Verdict::Fail, "is 3600 s ahead of the server's"),
        ] {
            let found = clock("a".into(), at(behind), now, Duration::from_secs(1));
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert!(found.evidence.contains(told), "{found:?}");
        }
    }
}

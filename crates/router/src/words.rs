//! Numbers as users read them.

use outboard_core::{ErrorKind, NanoUsd};

/// A time in its fitting unit, to two or three digits.
pub(crate) fn time(seconds: f64) -> String {
    const YEAR: f64 = 365.0 * 86_400.0;
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 119.5 => format!("{s:.0} s"),
        s if s < 119.5 * 60.0 => format!("{:.0} min", s / 60.0),
        s if s < 47.95 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s if s < YEAR => format!("{:.0} days", s / 86_400.0),
        _ => "more than a year".into(),
    }
}

/// Bytes in the fitting power of 1000.
pub(crate) fn bytes(n: u64) -> String {
    match n as f64 {
        x if x < 1e3 => format!("{n} bytes"),
        x if x < 999.5e3 => format!("{:.0} kB", x / 1e3),
        x if x < 999.5e6 => format!("{:.1} MB", x / 1e6),
        x => format!("{:.1} GB", x / 1e9),
    }
}

/// Two times, in seconds where they would read the same.
pub(crate) fn two_times(a: f64, b: f64) -> (String, String) {
    apart(a, b, time, |s| format!("{s:.3} s"))
}

/// Two numbers of bytes, to the byte where they would read the same.
pub(crate) fn two_sizes(a: u64, b: u64) -> (String, String) {
    apart(a, b, bytes, |n| format!("{n} bytes"))
}

fn apart<T: Copy>(a: T, b: T, coarse: impl Fn(T) -> String, fine: impl Fn(T) -> String) -> (String, String) {
    let (rough_a, rough_b) = (coarse(a), coarse(b));
    if rough_a == rough_b { (fine(a), fine(b)) } else { (rough_a, rough_b) }
}

/// What may be spent, rounded up to what a reader cares for.
pub(crate) fn at_most(amount: NanoUsd) -> NanoUsd {
    let step = step(amount);
    NanoUsd(amount.0.checked_next_multiple_of(step).unwrap_or(amount.0))
}

/// What is left, rounded down to what a reader cares for.
pub(crate) fn at_least(amount: NanoUsd) -> NanoUsd {
    NanoUsd(amount.0 - amount.0 % step(amount))
}

/// Cents from a dollar, hundredths of a cent from a cent, two digits below.
fn step(amount: NanoUsd) -> u64 {
    match amount.0 {
        1_000_000_000.. => 10_000_000,
        10_000_000.. => 100_000,
        n => 10u64.pow(n.checked_ilog10().unwrap_or(0).saturating_sub(1)),
    }
}

/// A share in whole percent, rounded down: nothing is full before it is.
pub(crate) fn percent(share: f64) -> String {
    // 0.29 is a bit less in binary.
    const ROUNDING: f64 = 1e-9;
    format!("{} %", (share * 100.0 + ROUNDING).floor())
}

/// `1 failure`, `2 failures`.
pub(crate) fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `a`, `b` and `c`, in code marks.
pub(crate) fn list<S: AsRef<str>>(names: &[S]) -> String {
    let marked: Vec<_> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match &*marked {
        [] => "nothing".into(),
        [one] => one.clone(),
        [some @ .., last] => format!("{} and {last}", some.join(", ")),
    }
}

/// A kind of failure, as it reads after "the last one because".
pub(crate) fn because(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::WorkerUnhealthy => "its workers crash or don't start",
        ErrorKind::Unavailable => "it could not be reached",
        ErrorKind::Timeout => "it did not answer in time",
        ErrorKind::RateLimited => "it got too many requests",
        ErrorKind::CapacityUnavailable => "it had no free machine",
        ErrorKind::Preempted => "its machine was taken away",
        ErrorKind::QuotaExceeded => "a quota is used up",
        ErrorKind::Unauthenticated => "it refused the credentials",
        ErrorKind::PermissionDenied => "the credentials don't allow this",
        ErrorKind::CorruptPayload => "bytes arrived damaged",
        ErrorKind::PluginIncompatible => "its plugin speaks another version",
        _ => "it failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let shown = [0.0, 0.25, 0.9996, 4.16, 41.6, 119.4, 720.0, 86_400.0, 5e5, 1e9, f64::INFINITY].map(time);
        let expected =
            ["0 ms", "250 ms", "1.0 s", "4.2 s", "42 s", "119 s", "12 min", "24.0 h", "6 days"].map(String::from);
        assert_eq!(shown[..9], expected);
        assert_eq!(shown[9..], ["more than a year", "more than a year"]);
        assert_eq!([12, 12_345, 37_540_000, 2_100_000_000].map(bytes), ["12 bytes", "12 kB", "37.5 MB", "2.1 GB"]);
        assert_eq!([0.29, 0.999, 1.0, 1.234].map(percent), ["29 %", "99 %", "100 %", "123 %"]);
        assert_eq!(list(&["a", "b", "c"]), "`a`, `b` and `c`");
        assert_eq!(list::<&str>(&[]), "nothing");
    }

    #[test]
    fn a_comparison_never_shows_the_same_twice() {
        assert_eq!(two_times(600.4, 600.0), ("600.400 s".into(), "600.000 s".into()));
        assert_eq!(two_times(7200.0, 600.0), ("2.0 h".into(), "10 min".into()));
        assert_eq!(two_sizes(10_000_001, 10_000_000), ("10000001 bytes".into(), "10000000 bytes".into()));
    }

    #[test]
    fn money_is_rounded_away_from_the_reader() {
        let shown = |nanos, round: fn(NanoUsd) -> NanoUsd| round(NanoUsd(nanos)).to_string();
        assert_eq!(shown(61_234_567, at_most), "$0.0613");
        assert_eq!(shown(61_234_567, at_least), "$0.0612");
        assert_eq!(shown(1_230_000_001, at_most), "$1.24");
        assert_eq!(shown(3_141, at_most), "$0.0000032");
        assert_eq!(shown(0, at_least), "$0.00");
        assert_eq!(at_most(NanoUsd(u64::MAX)), NanoUsd(u64::MAX));
    }
}

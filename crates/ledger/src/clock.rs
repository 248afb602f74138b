//! What time it is, and how the ledger writes it: milliseconds since 1970, UTC.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The last millisecond of the year 9999, the last that has a date.
const LAST: i64 = 253_402_300_799_999;

/// A clock may lie this far before the newest record without a word.
const TOLERANCE_MILLIS: i64 = 60_000;

#[derive(Clone)]
pub(crate) struct Clock {
    /// Names the ledger.
    place: Arc<str>,
    time: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    newest: Arc<AtomicI64>,
    warned: Arc<AtomicBool>,
}

impl Clock {
    /// The system's clock, for a ledger whose newest record is of that time.
    pub(crate) fn system(place: &str, newest: i64) -> Self {
        Self {
            place: place.into(),
            time: Arc::new(SystemTime::now),
            newest: Arc::new(AtomicI64::new(newest)),
            warned: Arc::new(AtomicBool::new(false)),
        }
    }

    pub(crate) fn replaced(mut self, time: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.time = Arc::new(time);
        self
    }

    pub(crate) fn now(&self) -> i64 {
        millis((self.time)())
    }

    /// The time of a record that is about to be written. Says once if the clock was put back.
    pub(crate) fn stamp(&self) -> i64 {
        let now = self.now();
        let newest = self.newest.fetch_max(now, Ordering::Relaxed);
        if newest.saturating_sub(now) > TOLERANCE_MILLIS && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                ledger = %self.place,
                clock = %text(now),
                newest_record = %text(newest),
                "the clock lies before the ledger's newest record; budgets count by the day that the clock shows: set it right"
            );
        }
        now
    }
}

pub(crate) fn millis(time: SystemTime) -> i64 {
    let passed = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    i64::try_from(passed).unwrap_or(LAST).min(LAST)
}

pub(crate) fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis.clamp(0, LAST) as u64)
}

/// `2026-03-01T12:00:00Z`.
fn text(millis: i64) -> String {
    humantime::format_rfc3339_seconds(time(millis)).to_string()
}

/// `2026-03-01`.
pub(crate) fn day(millis: i64) -> String {
    text(millis)[..10].to_owned()
}

/// `2026-03`.
pub(crate) fn month(millis: i64) -> String {
    text(millis)[..7].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_months_are_utc() {
        let leap = 1_709_251_199_999; // 2024-02-29T23:59:59.999Z
        assert_eq!((day(leap), month(leap)), ("2024-02-29".into(), "2024-02".into()));
        assert_eq!((day(leap + 1), month(leap + 1)), ("2024-03-01".into(), "2024-03".into()));
    }

    #[test]
    fn any_time_has_a_date() {
        let far = UNIX_EPOCH + Duration::from_secs(u64::MAX / 4);
        assert_eq!(day(millis(far)), "9999-12-31");
        assert_eq!(day(millis(UNIX_EPOCH - Duration::from_secs(9))), "1970-01-01");
        let now = SystemTime::now();
        assert!(now.duration_since(time(millis(now))).unwrap() < Duration::from_millis(1));
    }
}

//! What Lambda reports of an invocation, in the last line of its log.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};

/// The line that begins with `REPORT`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) billed: Duration,
    /// The start of a machine, where one was started for it.
    pub(crate) init: Option<Duration>,
    pub(crate) memory_mb: f64,
    pub(crate) used_mb: f64,
}

impl Report {
    /// From the end of a log, as Lambda sends it.
    pub(crate) fn of(log_result: Option<&str>) -> Option<Self> {
        let log = STANDARD.decode(log_result?).ok()?;
        let log = String::from_utf8_lossy(&log);
        Self::parse(log.lines().rfind(|line| line.starts_with("REPORT "))?)
    }

    /// By key: order, separators and further keys differ.
    fn parse(line: &str) -> Option<Self> {
        let number = |key: &str| {
            let (_, rest) = line.split_once(key)?;
            let number: f64 = rest.split_whitespace().next()?.parse().ok()?;
            (number.is_finite() && number >= 0.0).then_some(number)
        };
        let time = |key: &str| Duration::try_from_secs_f64(number(key)? / 1e3).ok();
        Some(Self {
            billed: time("Billed Duration:")?,
            init: time("Init Duration:"),
            memory_mb: number("Memory Size:").unwrap_or_default(),
            used_mb: number("Max Memory Used:").unwrap_or_default(),
        })
    }

    /// Whether the memory was used up.
    pub(crate) fn is_full(&self) -> bool {
        self.memory_mb > 0.0 && self.used_mb >= self.memory_mb
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_lines_and_those_of_emulators_are_read() {
        let real = "REPORT RequestId: bf5f58db\tDuration: 395.99 ms\tBilled Duration: 662 ms\tMemory Size: 512 MB\t\
                    Max Memory Used: 301 MB\tInit Duration: 265.72 ms\t";
        let expected = Report {
            billed: Duration::from_millis(662),
            init: Some(Duration::from_secs_f64(0.26572)),
            memory_mb: 512.0,
            used_mb: 301.0,
        };
        let log = format!("START RequestId: bf5f58db Version: 1\nEND RequestId: bf5f58db\n{real}\n");
        assert_eq!(Report::of(Some(&STANDARD.encode(log))), Some(expected));
        let emulated = "REPORT RequestId: x  Init Duration: 0.23 ms  Duration: 11.5 ms Billed Duration: 12 ms";
        let report = Report::parse(emulated).unwrap();
        assert_eq!(report.billed, Duration::from_millis(12));
        assert!(report.init.is_some() && !report.is_full());
        assert!(Report::parse(&real.replace("301", "512")).unwrap().is_full());
        assert!(Report::parse(&real.replace("Init Duration: 265.72 ms", "")).unwrap().init.is_none());
    }

    #[test]
    fn what_is_no_report_is_none() {
        for log in ["", "REPORT", "REPORT RequestId: x Billed Duration: ? ms", "Billed Duration: 1 ms", "\u{0}"] {
            assert_eq!(Report::of(Some(&STANDARD.encode(log))), None, "{log}");
        }
        assert_eq!((Report::of(Some("?")), Report::of(None)), (None, None));
    }
}

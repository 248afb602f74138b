//! What is printed.

pub(crate) mod curve;
pub(crate) mod json;
pub(crate) mod text;

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use outboard::Error;

use crate::args::Global;

/// Standard output, line by line. Once nobody reads any more it stays silent: a job goes on without its audience.
#[derive(Debug, Default)]
pub(crate) struct Printer {
    closed: AtomicBool,
}

impl Printer {
    /// Prints a line.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        if !self.closed.load(Ordering::Relaxed) && writeln!(std::io::stdout().lock(), "{}", text.as_ref()).is_err() {
            self.closed.store(true, Ordering::Relaxed);
        }
    }
}

/// Prints a failure that no command has printed: text to standard error, and the last line of JSON where that was asked.
pub(crate) fn error(global: &Global, printer: &Printer, error: &Error) {
    if global.json {
        json::failed(printer, None, error);
    }
    text::error(error);
}

/// How this program was called, for commands that can be pasted.
pub(crate) fn program() -> String {
    std::env::args().next().filter(|name| name.contains('/')).unwrap_or_else(|| "outboard".into())
}

//! What is printed.

pub(crate) mod curve;
pub(crate) mod json;
pub(crate) mod quality;
pub(crate) mod table;
pub(crate) mod text;

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
    sync::OnceLock,
};

use outboard::{Error, Result, code};

use crate::args::Global;

/// Standard output, line by line. Once nobody reads any more it stays silent: a job goes on without its audience.
#[derive(Debug, Default)]
pub(crate) struct Printer {
    failure: OnceLock<io::Error>,
}

impl Printer {
    /// Prints a line.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        if self.failure.get().is_none()
            && let Err(error) = writeln!(io::stdout().lock(), "{}", text.as_ref())
        {
            // The first failure is the one that counts.
            let _ = self.failure.set(error);
        }
    }

    /// Whether everything was printed, or the reader had enough.
    ///
    /// # Errors
    /// `InvalidRequest` where it can't be printed, say because the disk is full.
    pub(crate) fn check(&self) -> Result<()> {
        match self.failure.get() {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Error::invalid(format!("cannot write to standard output: {error}"))
                    .hint("check where it goes, then run the command again"))
            }
            _ => Ok(()),
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

/// Prints why the command line can't be parsed; or the help or the version that was asked for.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // Whoever closed the stream doesn't want to know.
    let _ = error.print();
    if error.use_stderr() {
        text::to_stderr(&text::where_explained(code::USAGE));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// How this program was called, for commands that can be pasted.
pub(crate) fn program() -> String {
    std::env::args().next().filter(|name| name.contains('/')).unwrap_or_else(|| "outboard".into())
}

//! Lines for people: a progress bar on a terminal, plain lines otherwise.

use std::{io::Write, path::Path, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use outboard::{
    Code, Error, Event, Move, Report, RunEvent, Started, Status,
    task::{Epoch, Progress},
};

use super::{Printer, curve, program};

/// Prints the events of a run.
#[derive(Debug)]
pub(crate) struct Text<'a> {
    printer: &'a Printer,
    bar: ProgressBar,
    epochs: u32,
}

impl<'a> Text<'a> {
    /// A bar on standard error where that is a terminal.
    pub(crate) fn new(printer: &'a Printer) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
            bar.set_style(style);
        }
        Self { printer, bar, epochs: 0 }
    }

    /// Prints one event.
    pub(crate) fn event(&mut self, job: &str, event: &RunEvent) {
        match event {
            RunEvent::Started(started) => self.started(job, started),
            RunEvent::Task(Event::Epoch(epoch)) => self.epoch(epoch),
            RunEvent::Task(Event::Progress(progress)) => self.progress(progress),
            RunEvent::Task(Event::Warning { message }) => {
                self.bar.suspend(|| to_stderr(&format!("warning: {message}")))
            }
            RunEvent::Task(_) => {}
        }
    }

    fn print(&self, line: &str) {
        self.bar.suspend(|| self.printer.line(line));
    }

    fn started(&mut self, job: &str, started: &Started) {
        self.epochs = started.epochs;
        let held_out = match started.validation_rows {
            0 => String::new(),
            rows => format!(" ({rows} held out)"),
        };
        self.print(&format!(
            "job {job} on {} ({}): {} rows{held_out}, {} parameters",
            started.provider,
            started.device,
            grouped(started.rows),
            grouped(started.parameters)
        ));
        match started.resumed_at {
            Some((epoch, 0)) => self.print(&format!("going on after epoch {epoch}")),
            Some((epoch, step)) => self.print(&format!("going on after batch {step} of epoch {}", epoch + 1)),
            None => {}
        }
        let validation = if started.validation_rows > 0 { "   val. loss    accuracy" } else { "" };
        self.print(&format!("\n  epoch        loss    accuracy{validation}    samples/s"));
    }

    fn epoch(&self, epoch: &Epoch) {
        let cell = |value: Option<f64>| value.map_or(format!("{:>12}", "-"), |value| format!("{value:>12.4}"));
        let validation = match epoch.validation_loss {
            Some(_) => cell(epoch.validation_loss) + &cell(epoch.validation_accuracy),
            None => String::new(),
        };
        self.print(&format!(
            "{:>7}{}{}{validation}{:>13}",
            format!("{}/{}", epoch.epoch, self.epochs),
            cell(Some(epoch.loss)),
            cell(epoch.accuracy),
            grouped(epoch.samples_per_second as u64)
        ));
    }

    fn progress(&self, progress: &Progress) {
        self.bar.set_length(progress.steps);
        self.bar.set_position(progress.step);
        let eta = Duration::from_secs(progress.eta_seconds.clamp(0.0, 1e9) as u64);
        self.bar.set_message(format!(
            "epoch {}/{}  loss {:.4}  {}/s  {} left",
            progress.epoch,
            self.epochs,
            progress.loss,
            grouped(progress.samples_per_second as u64),
            humantime::format_duration(eta)
        ));
    }

    /// Prints a line below all others.
    pub(crate) fn note(&self, line: &str) {
        self.printer.line(line);
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints what the run came to. `data` is the file that the model was trained on.
    pub(crate) fn finished(&self, report: &Report, data: Option<&Path>) {
        self.clear();
        if report.status != Status::Succeeded {
            self.printer.line(format!(
                "\ninterrupted in epoch {}; everything up to the last batch is saved",
                report.epochs + 1
            ));
            self.printer.line(format!("go on with: {} train --resume {}", program(), report.job));
            return;
        }
        if let Some(curve) = curve::draw(&report.history) {
            self.printer.line(format!("\n{curve}"));
        }
        self.printer.line("");
        let row = |name: &str, value: String| self.printer.line(format!("{name:<10}{value}"));
        if let Some(metrics) = report.metrics {
            let over = if metrics.validation_loss.is_some() { "held-out rows" } else { "training rows" };
            if let Some(accuracy) = metrics.validation_accuracy.or(metrics.accuracy) {
                row("accuracy", format!("{accuracy:.4} on {over}"));
            }
            row("loss", format!("{:.4} on {over}", metrics.validation_loss.unwrap_or(metrics.loss)));
        }
        let early = if report.stopped_early { ", stopped early" } else { "" };
        let best = report.best_epoch.map_or(String::new(), |best| format!(", kept the best: {best}"));
        row("epochs", format!("{}{early}{best}", report.epochs));
        row("time", format!("{:.2} s{}", report.seconds, phases(report)));
        row("cost", if report.cost.0 == 0 { "$0.00 (free)".into() } else { report.cost.to_string() });
        row("provider", report.provider.clone());
        for (n, Move { from, to, epoch, why }) in report.moves.iter().enumerate() {
            let name = if n == 0 { "moves" } else { "" };
            row(name, format!("{from} to {to} after epoch {epoch}: {why}"));
        }
        if let Some(model) = &report.model {
            let (program, model) = (program(), shown(model));
            row("model", model.clone());
            let data = data.map_or("DATA.csv".into(), shown);
            self.printer.line("");
            row("evaluate", format!("{program} evaluate {model} {data}"));
            row("predict", format!("{program} predict {model} {data}"));
        }
    }
}

/// Where the time of the tasks went, but for what is too short to be told.
fn phases(report: &Report) -> String {
    let t = &report.timings;
    let phases = [
        (t.compute, "computing"),
        (t.queue, "waiting"),
        (t.boot, "starting"),
        (t.download + t.upload, "in transfers"),
        (t.load, "loading"),
    ];
    let told = phases.iter().filter(|(seconds, _)| *seconds >= 0.005);
    let told: Vec<_> = told.map(|(seconds, what)| format!("{seconds:.2} s {what}")).collect();
    if told.is_empty() { String::new() } else { format!(": {}", told.join(", ")) }
}

/// Prints a failure to standard error.
pub(crate) fn error(error: &Error) {
    // Commands in the advice name the program as it was called, so that they can be pasted.
    let report = error.report().replace("outboard train --resume", &format!("{} train --resume", program()));
    to_stderr(&format!("error: {report}\n{}", where_explained(error.code())));
}

/// The last line of every failure.
pub(crate) fn where_explained(code: Code) -> String {
    format!("  code: {code} ({} doctor --explain {code})", program())
}

/// Prints a line to standard error. Whoever closed it doesn't want to know.
pub(crate) fn to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A path as short as the working directory allows, quoted for a shell where it needs to be.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path).display().to_string();
    let plain = short.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+=:@,%".contains(c));
    if plain { short } else { format!("'{}'", short.replace('\'', r"'\''")) }
}

/// `1,234,567`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn paths_can_be_pasted() {
        assert_eq!(shown(Path::new("/a b/it's")), r"'/a b/it'\''s'");
        assert_eq!(shown(Path::new("/a/b.csv")), "/a/b.csv");
    }
}

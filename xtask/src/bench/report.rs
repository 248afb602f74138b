//! The measurements as a table and as JSON, with the goals.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    measure::{Measurements, Round, Setting},
    peer::FirstStep,
    statistics::Summary,
};

const MIB: f64 = 1024.0 * 1024.0;

/// Something to reach.
struct Goal {
    name: String,
    value: String,
    met: bool,
}

/// What is said of a setting.
struct Line<'a> {
    setting: &'a Setting,
    ours: Summary,
    eager: Summary,
    fused: Summary,
    to_eager: Summary,
    to_fused: Summary,
    share_of_peak: Option<Summary>,
}

impl<'a> Line<'a> {
    fn new(setting: &'a Setting) -> Self {
        let of = |value: fn(&Round) -> f64| Summary::of(setting.rounds.iter().map(value));
        let shares: Vec<f64> = setting.rounds.iter().filter_map(|round| round.share_of_peak).collect();
        Self {
            setting,
            ours: of(|round| round.ours),
            eager: of(|round| round.eager),
            fused: of(|round| round.fused),
            to_eager: of(|round| round.ours / round.eager),
            to_fused: of(|round| round.ours / round.fused),
            share_of_peak: (!shares.is_empty()).then(|| Summary::of(shares)),
        }
    }
}

/// Start and memory of a peer.
struct Start {
    name: &'static str,
    seconds: Summary,
    peak_rss_bytes: f64,
}

impl Start {
    fn new(name: &'static str, starts: &[FirstStep]) -> Self {
        Self {
            name,
            seconds: Summary::of(starts.iter().map(|start| start.time.as_secs_f64())),
            peak_rss_bytes: Summary::of(starts.iter().map(|start| start.peak_rss_bytes)).median,
        }
    }
}

struct Report<'a> {
    lines: Vec<Line<'a>>,
    starts: [Start; 2],
    goals: Vec<Goal>,
}

impl<'a> Report<'a> {
    fn new(measurements: &'a Measurements) -> Self {
        let lines: Vec<_> = measurements.settings.iter().map(Line::new).collect();
        let [ours, pytorch] =
            [Start::new("outboard", &measurements.our_starts), Start::new("pytorch", &measurements.pytorch_starts)];
        let wanted = measurements.goals;
        let mut goals: Vec<_> = lines
            .iter()
            .filter(|line| line.setting.threads == 2)
            .map(|line| {
                let optimizer = line.setting.optimizer;
                let ratio = wanted.ratios[usize::from(optimizer == "adam")];
                Goal {
                    name: format!("{optimizer} on 2 threads at least {ratio} x PyTorch eager"),
                    value: format!("{:.2} x", line.to_eager.median),
                    met: line.to_eager.median >= ratio,
                }
            })
            .collect();
        let shares = lines.iter().filter_map(|line| Some((line, line.share_of_peak?, wanted.share_of_peak?)));
        goals.extend(shares.map(|(line, found, share)| Goal {
            name: format!("{} on 1 thread at least {:.0} % of the FMA peak", line.setting.optimizer, share * 100.0),
            value: format!("{:.0} %", found.median * 100.0),
            met: found.median >= share,
        }));
        if let Some(seconds) = wanted.start_seconds {
            goals.push(Goal {
                name: format!("start to first step within {:.0} ms", seconds * 1e3),
                value: format!("{:.1} ms", ours.seconds.median * 1e3),
                met: ours.seconds.median <= seconds,
            });
            goals.push(Goal {
                name: "peak memory below PyTorch's".into(),
                value: format!("{:.0} of {:.0} MiB", ours.peak_rss_bytes / MIB, pytorch.peak_rss_bytes / MIB),
                met: ours.peak_rss_bytes < pytorch.peak_rss_bytes,
            });
        }
        Self { lines, starts: [ours, pytorch], goals }
    }
}

/// For people.
pub(super) fn table(measurements: &Measurements) -> String {
    let report = Report::new(measurements);
    let rounds = measurements.settings.first().map_or(0, |setting| setting.rounds.len());
    let mut text = format!(
        "\n{}, batch {}. Samples per second and their ratios, medians of {rounds} rounds; in \
         brackets the middle half.\n\n{:<9}{:>8}{:>10}{:>10}{:>10}  {:<20}{:<20}{}\n",
        measurements.model.name(),
        measurements.model.batch(),
        "optimizer",
        "threads",
        "outboard",
        "eager",
        "fused",
        "to eager",
        "to fused",
        "share of FMA peak",
    );
    let ratio = |Summary { median, low, high }| format!("{median:.2} ({low:.2}-{high:.2})");
    // Writing to a string cannot fail.
    for line in &report.lines {
        let _ = writeln!(
            text,
            "{:<9}{:>8}{:>10.0}{:>10.0}{:>10.0}  {:<20}{:<20}{}",
            line.setting.optimizer,
            line.setting.threads,
            line.ours.median,
            line.eager.median,
            line.fused.median,
            ratio(line.to_eager),
            ratio(line.to_fused),
            line.share_of_peak.map_or("-".into(), |share| format!("{:.0} %", share.median * 100.0)),
        );
    }
    let _ = writeln!(text, "\n{:<10}{:>20}{:>18}", "", "start to first step", "peak memory");
    for Start { name, seconds, peak_rss_bytes } in &report.starts {
        let _ = writeln!(text, "{name:<10}{:>17.1} ms{:>14.0} MiB", seconds.median * 1e3, peak_rss_bytes / MIB);
    }
    text.push('\n');
    for Goal { name, value, met } in &report.goals {
        let _ = writeln!(text, "{}: {name}: {value}", verdict(*met));
    }
    text
}

/// For programs.
pub(super) fn json(measurements: &Measurements) -> Value {
    let report = Report::new(measurements);
    let summary = |Summary { median, low, high }| json!({"median": median, "low": low, "high": high});
    let throughput = report.lines.iter().map(|line| {
        json!({
            "optimizer": line.setting.optimizer,
            "threads": line.setting.threads,
            "rounds": line.setting.rounds.len(),
            "samples_per_second": {
                "outboard": summary(line.ours), "eager": summary(line.eager), "fused": summary(line.fused),
            },
            "ratio": {"eager": summary(line.to_eager), "fused": summary(line.to_fused)},
            "share_of_fma_peak": line.share_of_peak.map(summary),
        })
    });
    let starts = report.starts.iter().map(|start| {
        json!({
            "name": start.name,
            "seconds_to_first_step": summary(start.seconds),
            "peak_rss_bytes": start.peak_rss_bytes,
        })
    });
    let goals = report.goals.iter().map(|goal| json!({"goal": goal.name, "value": goal.value, "met": goal.met}));
    json!({
        "model": measurements.model.name(),
        "batch": measurements.model.batch(),
        "throughput": throughput.collect::<Vec<_>>(),
        "starts": starts.collect::<Vec<_>>(),
        "goals": goals.collect::<Vec<_>>(),
    })
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::model::Model;

    #[test]
    fn goals_are_judged_by_the_median_of_ratios() {
        let setting = |threads, optimizer, ours| Setting {
            threads,
            optimizer,
            rounds: vec![Round { ours, eager: 1000.0, fused: 2000.0, share_of_peak: (threads == 1).then_some(0.64) }],
        };
        let start = |millis, peak_rss_bytes| vec![FirstStep { time: Duration::from_millis(millis), peak_rss_bytes }];
        let measurements = Measurements {
            model: Model::Mlp,
            goals: Model::Mlp.goals(),
            settings: vec![setting(2, "sgd", 2780.0), setting(2, "adam", 2400.0), setting(1, "sgd", 2200.0)],
            our_starts: start(20, 20.0 * MIB),
            pytorch_starts: start(3600, 300.0 * MIB),
        };
        let table = table(&measurements);
        assert!(table.contains("met: sgd on 2 threads at least 2.5 x PyTorch eager: 2.78 x\n"), "{table}");
        assert!(table.contains("missed: adam on 2 threads at least 2.5 x PyTorch eager: 2.40 x\n"), "{table}");
        assert!(table.contains("met: start to first step within 50 ms: 20.0 ms\n"), "{table}");
        assert!(table.contains("met: peak memory below PyTorch's: 20 of 300 MiB\n"), "{table}");
        assert!(table.contains("met: sgd on 1 thread at least 55 % of the FMA peak: 64 %\n"), "{table}");
        assert_eq!(json(&measurements)["throughput"][1]["ratio"]["eager"]["median"], 2.4);
        assert_eq!(json(&measurements)["goals"].as_array().map(Vec::len), Some(5));
    }
}

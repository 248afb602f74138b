//! What is believed of a provider before it has run anything.

/// One number for each quantity of [`Learned`](crate::Learned), in seconds, bytes per second and floating-point
/// operations per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Priors {
    /// Waiting for a turn.
    pub queue: f64,
    /// Probability that a machine or a process has to be started.
    pub cold: f64,
    /// That start.
    pub cold_start: f64,
    /// Decoding blobs, planning the model.
    pub load: f64,
    /// Bytes per second to the provider.
    pub down: f64,
    /// Bytes per second from the provider.
    pub up: f64,
    /// Floating-point operations per second that training reaches.
    pub flops: f64,
    /// Running time between two losses of running work.
    pub mtbf: f64,
}

const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;

/// A folder on this machine.
const DISK: f64 = 1e9;

/// A worker in a data centre, through a home's connection of about 200 Mbit/s down and 80 Mbit/s up. Its `down` is
/// that home's upload.
const TO_CLOUD: f64 = 10e6;
const FROM_CLOUD: f64 = 25e6;

/// One core trains at 57 to 68 % of an FMA peak of 102 GFLOP/s (AVX2, measured with the engine's probes); a machine that
/// isn't known has at least one such core, and small layers reach half of that.
const CPU: f64 = 30e9;

/// A mid-range card's 20 to 80 TFLOP/s in f32 on paper, of which layers of a few hundred features reach a twentieth.
const GPU: f64 = 2e12;

impl Priors {
    /// Priors of a provider's kind; cautious ones where the kind is unknown.
    #[must_use]
    pub fn of(kind: &str) -> Self {
        match kind {
            // Runs in this process: nothing starts, nothing travels.
            "cpu" => Self {
                queue: 0.0,
                cold: 0.0,
                cold_start: 0.0,
                load: 0.02,
                down: DISK,
                up: DISK,
                flops: CPU,
                mtbf: 30.0 * DAY,
            },
            // A child process with libtorch: 0.3 s to the first step without a GPU, seconds with CUDA's start.
            "cuda" => Self {
                queue: 0.0,
                cold: 0.2,
                cold_start: 4.0,
                load: 0.1,
                down: DISK,
                up: DISK,
                flops: GPU,
                mtbf: 30.0 * DAY,
            },
            // Published replies show delays of 0.8, 3.4, 9.9 and 31.6 s: the long ones are cold starts.
            "runpod" => Self {
                queue: 1.0,
                cold: 0.5,
                cold_start: 30.0,
                load: 1.0,
                down: TO_CLOUD,
                up: FROM_CLOUD,
                flops: GPU,
                mtbf: 12.0 * HOUR,
            },
            // `Init Duration` of small functions is about 0.3 s; a larger image takes longer. Up to 6 cores, no GPU.
            "aws-lambda" => Self {
                queue: 0.1,
                cold: 0.5,
                cold_start: 1.0,
                load: 0.1,
                down: TO_CLOUD,
                up: FROM_CLOUD,
                flops: CPU,
                mtbf: DAY,
            },
            // A worker that the user started: its task process starts in a fraction of a second and is kept warm.
            "http" => Self {
                queue: 0.1,
                cold: 0.1,
                cold_start: 0.5,
                load: 0.05,
                down: TO_CLOUD,
                up: FROM_CLOUD,
                // Who sets up another machine has a faster one in mind; the first tasks tell.
                flops: 4.0 * CPU,
                mtbf: 7.0 * DAY,
            },
            // A plugin may be anything: slow to start, no faster than a core.
            _ => Self {
                queue: 1.0,
                cold: 0.5,
                cold_start: 10.0,
                load: 0.5,
                down: TO_CLOUD,
                up: FROM_CLOUD,
                flops: CPU,
                mtbf: DAY,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number with a unit, as the docs write it.
    fn shown(value: f64, units: &[(f64, &str)]) -> String {
        let unit = units.iter().rev().find(|(size, _)| value >= *size);
        unit.map_or_else(|| value.to_string(), |(size, unit)| format!("{} {unit}", value / size))
    }

    #[test]
    fn the_docs_state_every_prior() {
        let docs = include_str!("../../../docs/routing.md");
        for kind in ["cpu", "cuda", "runpod", "aws-lambda", "http", "others"] {
            let Priors { queue, cold, cold_start, load, down, up, flops, mtbf } = Priors::of(kind);
            let time = |value: f64| if value == 0.0 { "0".into() } else { format!("{value} s") };
            let bandwidth = |value| shown(value, &[(1e6, "MB/s"), (1e9, "GB/s")]);
            let mtbf = if mtbf == DAY { "1 day".into() } else { shown(mtbf, &[(HOUR, "h"), (DAY, "days")]) };
            let name = if kind == "others" { kind.into() } else { format!("`{kind}`") };
            let row = [
                name,
                time(queue),
                cold.to_string(),
                time(cold_start),
                time(load),
                bandwidth(down),
                bandwidth(up),
                shown(flops, &[(1e9, "G"), (1e12, "T")]),
                mtbf,
            ];
            let row = format!("| {} |", row.join(" | "));
            assert!(docs.contains(&row), "{row}");
        }
    }
}

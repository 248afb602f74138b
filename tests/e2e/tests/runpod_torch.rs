//! Jobs of the real program on RunPod's stand-in, with the worker for PyTorch under RunPod's own SDK: it gives the curve of
//! the CPU, also where a job moves; whatever is killed, no more is lost than what came after the last checkpoint, and the
//! ledger never says less than RunPod's meter. Each drill prints its figures.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use outboard_e2e::{User, is_thorough, wait};
use outboard_testbed::{Fault, Weather};
use serde_json::Value;

mod common;

use common::{Platform, charged, python, s3, torch_worker, until};

/// Epochs that take a while in PyTorch, on one thread.
const JOB: [(&str, &str); 4] = [
    ("out = 64", "out = 256 }, { type = \"dropout\", p = 0.2 }, { type = \"linear\", out = 64"),
    ("epochs = 20", "epochs = 10"),
    ("batch_size = 64", "batch_size = 4"),
    ("lr = 1e-3", "lr = 1e-4"),
];
const EPOCHS: usize = 10;
/// The worker stays until the test ends, and is paid for.
const KEYS: &str = "idle_timeout = \"2m\"\nmax_task_time = \"1h\"\n";
/// Largest relative difference of a loss from that of an unmoved job on this machine.
const GATE: f64 = 1e-3;

async fn platform(test: &str) -> Option<Platform> {
    let (python, sources, server) = (python(test)?, torch_worker(test)?, s3::server(test)?);
    let keep = |endpoint: &mut outboard_testbed::runpod::EndpointSettings| {
        endpoint.idle_timeout = Duration::from_secs(120);
    };
    Some(Platform::torch(python, &sources, Some(server), keep).await)
}

fn user(platform: &Platform) -> User {
    let user = platform.user(KEYS);
    user.job(&JOB);
    user
}

fn train(user: &User, more: &[&str]) -> Run {
    let often = ["train", "--json", "--set", "checkpoint.every=200ms"];
    let mut child = user.start(&[&often, more].concat());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Run { child, lines, seen: Seen(Vec::new()) }
}

/// A run, and what it has printed so far.
struct Run {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Seen,
}

impl Run {
    /// Reads on until such an event.
    fn until(&mut self, event: &str) -> bool {
        let lines = self.lines.by_ref().map_while(Result::ok);
        lines.map(|line| serde_json::from_str(&line).unwrap()).any(|line: Value| {
            let is_it = line["event"] == event;
            self.seen.0.push(line);
            is_it
        })
    }

    /// Waits for its end; its exit code.
    fn end(mut self) -> (i32, Seen) {
        self.until("no event of this name");
        let done = wait(self.child);
        // Done, interrupted, killed.
        assert!([0, 4, -1].contains(&done.code), "{}", done.stderr);
        (done.code, self.seen)
    }
}

struct Seen(Vec<Value>);

impl Seen {
    fn losses(&self) -> Vec<Losses> {
        losses(self.0.iter().filter(|line| line["event"] == "epoch"))
    }

    /// Epochs and batches of the last checkpoint that was told.
    fn checkpoint(&self) -> Option<(u64, u64)> {
        let last = self.0.iter().rfind(|line| line["event"] == "checkpoint")?;
        Some((last["epoch"].as_u64()?, last["step_in_epoch"].as_u64()?))
    }

    fn job(&self) -> String {
        self.0.iter().find_map(|line| line["job"].as_str()).unwrap().into()
    }
}

/// Number, loss and held-out loss of an epoch.
type Losses = (usize, f64, f64);

fn losses<'a>(epochs: impl Iterator<Item = &'a Value>) -> Vec<Losses> {
    let number = |line: &Value, name: &str| line[name].as_f64().unwrap();
    epochs
        .map(|line| (line["epoch"].as_u64().unwrap() as usize, number(line, "loss"), number(line, "validation_loss")))
        .collect()
}

/// What the job's folder says, whoever was told of it.
fn kept(user: &User) -> Vec<Losses> {
    let file = fs::read_to_string(user.path().join("out/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    losses(lines.iter())
}

/// The curve of this machine.
fn here() -> &'static [Losses] {
    static HERE: OnceLock<Vec<Losses>> = OnceLock::new();
    HERE.get_or_init(|| {
        let user = User::new();
        user.job(&JOB);
        let (code, seen) = train(&user, &["job.toml", "--output", "out"]).end();
        assert_eq!((code, seen.losses().len()), (0, EPOCHS));
        seen.losses()
    })
}

/// Each epoch once, with the losses of this machine; the largest relative difference.
fn assert_curve(found: &[Losses], expected: &[Losses], what: &str) -> f64 {
    let numbers: Vec<usize> = found.iter().map(|(epoch, ..)| *epoch).collect();
    assert_eq!(numbers, (1..=EPOCHS).collect::<Vec<_>>(), "{what}");
    let apart = |a: f64, b: f64| (a - b).abs() / b;
    let both = found.iter().zip(expected);
    let worst = both.map(|(a, b)| apart(a.1, b.1).max(apart(a.2, b.2))).fold(0.0, f64::max);
    assert!(worst <= GATE, "{what}: {found:?} instead of {expected:?}");
    worst
}

fn assert_covers(platform: &Platform, user: &User, what: &str) -> String {
    let (charged, metered) = (charged(user), platform.metered());
    assert!(charged >= metered && metered > 0, "{what}: {charged} nano-USD charged, {metered} metered");
    format!("charged {charged} nano-USD, metered {metered}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_curve_is_that_of_the_cpu_unmoved_and_moved_at_every_epoch() {
    let Some(platform) = platform("the_curve_is_that_of_the_cpu_unmoved_and_moved_at_every_epoch").await else {
        return;
    };
    let expected = here();
    let unmoved = user(&platform);
    let (code, done) = train(&unmoved, &["job.toml", "--output", "out"]).end();
    assert_eq!((code, &done.0.last().unwrap()["provider"]), (0, &"runpod".into()));
    let worst = assert_curve(&kept(&unmoved), expected, "unmoved");
    println!("figure: unmoved on PyTorch: losses at most {worst:.1e} from the CPU's");

    let moved = user(&platform);
    let here = ["--set", "providers.cpu.enabled=true", "--set", "providers.runpod.enabled=false"];
    let (mut providers, mut job): (Vec<Value>, Option<String>) = (Vec::new(), None);
    loop {
        let mut arguments = match &job {
            Some(job) => vec!["--resume", job.as_str()],
            None => vec!["job.toml", "--output", "out"],
        };
        if providers.len() % 2 == 1 {
            arguments.extend(here);
        }
        let mut run = train(&moved, &arguments);
        if run.until("epoch") {
            signal("INT", run.child.id());
        }
        let (code, seen) = run.end();
        providers.push(seen.0.last().unwrap()["provider"].clone());
        if code == 0 {
            break;
        }
        job = Some(seen.job());
        assert!(providers.len() < 20, "it doesn't get on");
    }
    let worst = assert_curve(&kept(&moved), expected, "moved");
    let moves = providers.windows(2).filter(|pair| pair[0] != pair[1]).count();
    println!("figure: {moves} moves between PyTorch on RunPod and the CPU: losses at most {worst:.1e} from the CPU's");
    assert!(moves >= 3, "{providers:?}");
    let all_charged = charged(&unmoved) + charged(&moved);
    assert!(all_charged >= platform.metered(), "{all_charged} nano-USD charged");
}

/// It may have ended by itself.
fn signal(name: &str, process: u32) {
    let _ = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).stderr(Stdio::null()).status();
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    TaskProcess,
    Worker,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    Epoch,
    Upload,
}

/// Drill: the task process or the whole worker dies, in an epoch or while it uploads.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_loses_no_more_than_came_after_the_last_checkpoint() {
    use self::{Moment::*, Victim::*};
    let test = "what_is_killed_loses_no_more_than_came_after_the_last_checkpoint";
    if python(test).is_none() || torch_worker(test).is_none() {
        return;
    }
    let mut drills = vec![(TaskProcess, "ABRT", Epoch), (Worker, "KILL", Upload)];
    if is_thorough() {
        for victim in [TaskProcess, Worker] {
            for signal in ["KILL", "ABRT"] {
                drills.extend([Epoch, Upload].map(|moment| (victim, signal, moment)));
            }
        }
        drills.drain(..2);
    }
    let expected = here();
    for (victim, signal, moment) in drills {
        let Some(platform) = platform(test).await else { return };
        let what = format!("{victim:?} killed with {signal} while in {moment:?}");
        let network = platform.network.as_ref().unwrap();
        let user = user(&platform);
        let mut run = train(&user, &["job.toml", "--output", "out"]);
        assert!(run.until("epoch") && run.until("checkpoint"), "{what}");
        if moment == Upload {
            // The next blob or record of the worker's is on its way for long.
            let slow = Fault::Delay(Duration::from_secs(5));
            network.set(Weather::fair().then("PUT /data/jobs/1/tasks/", slow));
            until(|| !network.met().is_empty()).await;
        }
        let known = run.seen.checkpoint().unwrap();
        match victim {
            TaskProcess => self::signal(signal, platform.task_process().unwrap()),
            Worker => assert_eq!(platform.runpod.signal_containers("ep1", signal), 1, "{what}"),
        }
        let began = Instant::now();
        let (code, done) = run.end();
        assert_eq!(code, 0, "{what}");
        let worst = assert_curve(&kept(&user), expected, &what);
        let shown = user.run(&["jobs", "show", &done.job(), "--json"]).last();
        let attempts: Vec<_> = shown["attempts"].as_array().unwrap().iter().collect();
        // `JOB/train/EPOCH.STEP/N` says where it began.
        let starts: Vec<(u64, u64)> =
            attempts.iter().map(|attempt| start(attempt["attempt"].as_str().unwrap())).collect();
        assert!(starts.len() >= 2 && starts.windows(2).all(|pair| pair[0] <= pair[1]), "{what}: {starts:?}");
        assert!(starts[1] >= known, "{what}: went on from {:?}, but {known:?} was there", starts[1]);
        assert!(attempts.iter().all(|attempt| attempt["state"] != "submitting" && attempt["state"] != "accepted"));
        let covers = assert_covers(&platform, &user, &what);
        println!(
            "figure: {what}: went on from {:?} (told before: {known:?}), done after {:.1?}, losses at most {worst:.1e} from the \
             CPU's; {covers}",
            starts[1],
            began.elapsed()
        );
    }
}

fn start(key: &str) -> (u64, u64) {
    let place = key.split('/').nth(2).unwrap().split_once('.').unwrap();
    (place.0.parse().unwrap(), place.1.parse().unwrap())
}

/// Drill: the client dies at random points, and another process goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_goes_on_from_the_last_checkpoint() {
    let test = "a_client_that_is_killed_goes_on_from_the_last_checkpoint";
    let Some(platform) = platform(test).await else { return };
    let expected = here();
    let rounds = if is_thorough() { 10 } else { 3 };
    let mut random = fastrand::Rng::with_seed(11);
    let (mut all_charged, mut again) = (0, 0);
    for round in 0..rounds {
        let user = user(&platform);
        let mut run = train(&user, &["job.toml", "--output", "out"]);
        assert!(run.until("started"));
        let (process, after) = (run.child.id(), Duration::from_millis(random.u64(0..6000)));
        let killing = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            signal("KILL", process);
        });
        let (_, first) = tokio::task::spawn_blocking(move || run.end()).await.unwrap();
        killing.await.unwrap();
        let (code, second) = train(&user, &["--resume", &first.job()]).end();
        assert_eq!(code, 0, "round {round}");
        if let (Some(told), Some(at)) = (first.checkpoint(), second.0[0]["resumed_at"].as_object()) {
            let place = (at["epoch"].as_u64().unwrap(), at["step"].as_u64().unwrap());
            assert!(place >= told, "round {round}: went on from {place:?}, but {told:?} was there");
        }
        again += (first.losses().len() + second.losses().len()).saturating_sub(EPOCHS);
        assert_curve(&kept(&user), expected, &format!("round {round}, killed after {after:?}"));
        all_charged += charged(&user);
    }
    let metered = platform.metered();
    println!(
        "figure: {rounds} clients of PyTorch on RunPod killed: {again} epochs were trained twice; charged {all_charged} nano-USD, \
         metered {metered}"
    );
    assert!(all_charged >= metered, "{all_charged} nano-USD charged, {metered} metered");
}

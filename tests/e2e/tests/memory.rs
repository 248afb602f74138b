//! Jobs whose data set is several times the memory that their processes may have.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    process::Command,
};

use outboard_e2e::{Done, User, Worker};

/// Memory that isn't backed by a file, of each process.
const LIMIT_MIB: u64 = 48;
const ROWS: usize = 48 * 1024;
const COLUMNS: usize = 1024;

const JOB: &str = r#"[model]
layers = [{ type = "linear", out = 16 }, "relu", { type = "linear", out = 4 }]
[data]
train = "x.npy"
labels = "y.npy"
validation = 0.1
[train]
loss = "cross_entropy"
epochs = 1
batch_size = 64
"#;

fn npy(path: &Path, dtype: &str, shape: &str, write: impl FnOnce(&mut dyn Write)) {
    let mut header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}");
    header += &" ".repeat(53 + 64 - header.len() % 64);
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(b"\x93NUMPY\x01\x00").unwrap();
    file.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    write(&mut file);
    file.flush().unwrap();
}

/// A user with 192 MiB of floats, of which a fourth of each row says its class.
fn user() -> User {
    let user = User::new();
    user.write("job.toml", JOB);
    let mut random = fastrand::Rng::with_seed(7);
    let noise: Vec<f32> = (0..2 * COLUMNS).map(|_| random.f32()).collect();
    npy(&user.path().join("x.npy"), "<f4", &format!("({ROWS}, {COLUMNS})"), |file| {
        for row in 0..ROWS {
            let mut numbers = noise[random.usize(..COLUMNS)..][..COLUMNS].to_vec();
            numbers[row % 4 * (COLUMNS / 4)..][..COLUMNS / 4].iter_mut().for_each(|x| *x += 0.5);
            numbers.iter().for_each(|x| file.write_all(&x.to_le_bytes()).unwrap());
        }
    });
    npy(&user.path().join("y.npy"), "|u1", &format!("({ROWS},)"), |file| {
        (0..ROWS).for_each(|row| file.write_all(&[(row % 4) as u8]).unwrap());
    });
    user
}

/// The same command in processes that may have so much memory, and no more threads than they need.
fn within(mib: u64, command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -d \"$0\" && exec \"$@\"", &(mib * 1024).to_string()]);
    limited.arg(command.get_program()).args(command.get_args()).env("TOKIO_WORKER_THREADS", "2");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.current_dir(command.get_current_dir().unwrap_or(Path::new(".")));
    limited
}

fn trained(user: &User, output: &str, limit: Option<u64>) -> Vec<u8> {
    let mut command = user.command(&["train", "job.toml", "--output", output, "--set", "providers.cpu.threads=2"]);
    if let Some(mib) = limit {
        command = within(mib, &command);
    }
    let done = Done::of(&mut command);
    assert_eq!(done.code, 0, "{}", done.stderr);
    std::fs::read(user.path().join(output).join("model.safetensors")).unwrap()
}

#[test]
fn a_data_set_of_four_times_the_memory_trains_to_the_same_bytes() {
    let user = user();
    let bytes = trained(&user, "free", None);
    assert!(trained(&user, "limited", Some(LIMIT_MIB)) == bytes);
    let size = ROWS * COLUMNS * 4 / (1 << 20);
    println!("on cpu: {size} MiB of data within {LIMIT_MIB} MiB of memory");

    // The other half of the way: a client, a worker and its task process, each within the limit.
    let worker = Worker::start_with(&user.path().join("worker"), |command| within(LIMIT_MIB, &command));
    let entry = Worker::entry(worker.address());
    let http = format!("providers.cpu.enabled = false\n[providers.http]\nenabled = true\nworkers = [{entry}]\n");
    user.write("outboard.toml", &http);
    assert!(trained(&user, "there", Some(LIMIT_MIB)) == bytes);
    println!("on http: the same, client, worker and task process each within {LIMIT_MIB} MiB");
}

//! Bytes from a stranger: decoders refuse or read them, never panic, and never allocate for more than is there.
#![allow(clippy::unwrap_used)]

use std::{alloc::System, time::Duration};

use cap::Cap;
use outboard_core::{
    Digest, Layer, Task,
    job::Loss,
    task::{Architecture, EvaluateTask, Operation},
};
use outboard_protocol::{
    Checkpoint, Dataset, Envelope, ModelFile, Position, Target, TaskResult, Tensor, envelope, tensors,
};
use proptest::{prelude::*, test_runner::TestRunner};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What a decoder may take for a message of so many bytes: JSON and text grow, tensors don't.
fn allowance(bytes: usize) -> usize {
    (1 << 20) + 64 * bytes
}

/// Reads `bytes` as everything that travels. All allocations stay below a limit that would kill the process.
fn read(bytes: &[u8]) {
    ALLOCATOR.set_limit(ALLOCATOR.allocated() + allowance(bytes.len())).unwrap();
    let _ = Checkpoint::decode(bytes);
    let _ = Dataset::decode(bytes);
    let _ = ModelFile::decode(bytes);
    let _ = tensors::decode(bytes);
    let _ = envelope::decode::<Envelope>(bytes);
    let _ = envelope::decode::<TaskResult>(bytes);
    let _ = serde_json::from_slice::<envelope::StateMessage>(bytes);
    let _ = envelope::decode::<envelope::WorkerHealth>(bytes);
    ALLOCATOR.set_limit(usize::MAX).unwrap();
}

fn samples() -> Vec<Vec<u8>> {
    let tensor = Tensor { shape: vec![2, 3], data: vec![0.5; 6] };
    let tensors = [("model.0.weight".to_string(), tensor)].into();
    let checkpoint = Checkpoint { position: Position::start("job", 7), tensors };
    let data = Dataset {
        shape: vec![3],
        x: vec![0.25; 12].into(),
        y: Target::Classes(vec![0, 1, 2, 3].into()),
        weights: None,
    };
    let digest = Digest::of(b"");
    let model = Architecture { layers: vec![Layer::Linear { out: 2, bias: true }, Layer::Relu], input: vec![3] };
    let operation = Operation::Evaluate(EvaluateTask { model, weights: digest, data: digest, loss: Loss::Mse });
    let task = Task {
        key: "k".into(),
        job: "j".into(),
        attempt: "k#1".into(),
        operation,
        limit: Some(Duration::from_secs(9)),
    };
    let envelope = Envelope::new(task, Duration::from_secs(60), Duration::from_secs(10));
    vec![checkpoint.encode().unwrap(), data.encode().unwrap(), envelope::encode(&envelope).unwrap()]
}

/// A safetensors file whose header promises what isn't there.
fn promising(shape: &str, offsets: &str) -> Vec<u8> {
    let header = format!("{{\"x\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes
}

/// One test, since the allocator's limit is that of the process.
#[test]
fn hostile_bytes_are_refused_within_bounds() {
    for (shape, offsets) in [
        ("[1073741824]", "[0,4294967296]"),
        ("[4294967296,4294967296]", "[0,0]"),
        ("[18446744073709551615]", "[0,18446744073709551615]"),
        ("[0,18446744073709551615]", "[0,0]"),
        ("[1]", "[4,0]"),
        ("[2]", "[0,4]"),
    ] {
        let bytes = promising(shape, offsets);
        read(&bytes);
        assert!(Dataset::decode(&bytes).is_err(), "{shape} {offsets}");
    }
    // A header that claims to be longer than the file, or longer than any.
    for length in [100, 100_000_001, u64::MAX] {
        read(&[&length.to_le_bytes()[..], b"{}"].concat());
    }
    // Deep nesting must not exhaust the stack.
    read("[".repeat(1_000_000).as_bytes());
    read(format!("{{\"protocol\":1,\"task\":{}", "{\"a\":".repeat(200_000)).as_bytes());

    let samples = samples();
    let change =
        (0..samples.len(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), any::<u16>());
    let config = ProptestConfig { cases: 3000, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    let run = runner.run(&change, |(which, changes, cut)| {
        let mut bytes = samples[which].clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut % 4 == 0 {
            bytes.truncate(usize::from(cut) % bytes.len());
        }
        read(&bytes);
        Ok(())
    });
    run.unwrap();
}

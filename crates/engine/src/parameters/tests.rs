use std::{collections::HashMap, path::Path};

use outboard_core::{job::Optimizer, layer::Initial};
use safetensors::SafeTensors;
use serde_json::Value;

use super::*;

fn floats(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Optimizers fed with the gradients that PyTorch was fed end within 1e-6 of where float64 PyTorch ends, whether the
/// update is applied block by block or after clipping.
#[test]
fn optimizers_agree_with_pytorch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/optimizers");
    let mut cases = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let case: Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["case"]).unwrap();
        let optimizer: Optimizer = serde_json::from_value(case["optimizer"].clone()).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();

        let tensors = ["a.weight", "b.bias"];
        let (mut layout, mut values) = (Vec::new(), Vec::new());
        for tensor in tensors {
            let start = file.tensor(&format!("start.{tensor}")).unwrap();
            let from = values.len();
            values.extend(floats(start.data()));
            let shape = start.shape().to_vec();
            let parameter =
                Parameter { name: tensor.into(), shape, initial: Initial::Constant(0.0), role: Role::Weight };
            let place = Place { transposed: false, ..Place::new(parameter, from) };
            layout.push(place);
        }
        let n = values.len();
        let state = [0, 1].map(|i| if i < state_names(&optimizer).len() { vec![0.0; n] } else { Vec::new() });
        let mut parameters =
            Parameters { layout, values, gradients: vec![0.0; n], state, trained: vec![true; 2], update: None };
        let gradients: HashMap<_, _> =
            tensors.map(|t| (t, floats(file.tensor(&format!("grads.{t}")).unwrap().data()))).into();
        let (norm, value) = (case["clip_norm"].as_f64(), case["clip_value"].as_f64());
        for (step, lr) in case["lr"].as_array().unwrap().iter().enumerate() {
            let update = Update::new(&optimizer, step as u64, lr.as_f64().unwrap());
            let clipping = norm.is_some() || value.is_some();
            parameters.update = (!clipping).then_some(update);
            for tensor in tensors {
                let slot = parameters.slot(tensor);
                let size = parameters.values(slot).len();
                let now = &gradients[tensor][step * size..][..size];
                // A block smaller than the tensor, so that its edges are met.
                parameters.update(&[(slot, 7)], |_, index, gradient| {
                    gradient.copy_from_slice(&now[index * 7..][..gradient.len()])
                });
            }
            if clipping {
                parameters.update_clipped(update, norm, value);
            }
        }
        for tensor in tensors {
            let view = file.tensor(&format!("end64.{tensor}")).unwrap();
            let right: Vec<f64> =
                view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
            let found = parameters.values(parameters.slot(tensor));
            let off: f64 = found.iter().zip(&right).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
            let error = (off / right.iter().map(|b| b * b).sum::<f64>()).sqrt();
            assert!(error <= 1e-6, "{name}: {tensor} is off by {error:e}");
        }
        cases += 1;
    }
    assert!(cases >= 12, "only {cases} optimizers were checked");
}

//! Parameters, statistics, and the optimizer's state. What is trained lies in one flat tensor, of which the layers see
//! views: an optimizer then needs a few operations for all of it.

use outboard_core::{
    error::{Error, ErrorKind, Result},
    job::Train,
    layer::{Parameter, Planned},
};
use outboard_engine::optimizer::{Update, state_names};
use outboard_protocol::{Tensor as Plain, Tensors};
use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    error::{Torch, failed},
    optimizer,
};

/// A batch norm's count of batches stays here: a 32-bit float counts no further.
const MOST_BATCHES: f32 = 16_777_216.0;

/// All tensors of a model, in state-dict order.
#[derive(Debug)]
pub(crate) struct Parameters {
    known: Vec<Parameter>,
    pub(crate) tensors: Vec<Tensor>,
    device: Device,
    /// Steps since the counts of batches were set.
    steps: f32,
    trained: Trained,
}

/// What is trained, end to end.
#[derive(Debug)]
pub(crate) struct Trained {
    /// Which tensors of the model, and where each begins.
    places: Vec<(usize, i64)>,
    pub(crate) values: Tensor,
    pub(crate) gradients: Tensor,
    /// State tensors of the optimizer: none, one or two.
    pub(crate) state: Vec<Tensor>,
}

impl Parameters {
    pub(crate) fn new(plan: &[Planned], weights: &Tensors, device: Device) -> Result<Self> {
        let known: Vec<Parameter> = plan.iter().flat_map(|planned| planned.parameters.clone()).collect();
        let tensors = known.iter().map(|parameter| {
            let Parameter { name, shape, .. } = parameter;
            let corrupt = |what: String| Error::new(ErrorKind::CorruptPayload, what);
            let found = weights.get(name).ok_or_else(|| corrupt(format!("the weights lack the tensor `{name}`")))?;
            if found.shape != *shape {
                let found = &found.shape;
                return Err(corrupt(format!(
                    "tensor `{name}` of the weights is {found:?}, but the model needs {shape:?}"
                )));
            }
            // A count of batches is not computed with.
            let device = if is_count(name) { Device::Cpu } else { device };
            upload(&found.data, shape, device).map_err(failed)
        });
        let tensors = tensors.collect::<Result<_>>()?;
        let none = || Tensor::f_zeros([0], (Kind::Float, device)).map_err(failed);
        let trained = Trained { places: Vec::new(), values: none()?, gradients: none()?, state: Vec::new() };
        Ok(Self { known, tensors, device, steps: 0.0, trained })
    }

    /// Lays what is trained end to end.
    pub(crate) fn prepare_training(&mut self, train: &Train, state: Option<&Tensors>) -> Result<()> {
        let is_trained = |p: &Parameter| p.is_trainable() && !train.is_frozen(&p.name);
        let indices: Vec<usize> = (0..self.known.len()).filter(|&i| is_trained(&self.known[i])).collect();
        if indices.is_empty() {
            return Ok(());
        }
        self.lay(&indices, state_names(&train.optimizer).len()).map_err(failed)?;
        let Some(state) = state else { return Ok(()) };
        for (key, into) in state_names(&train.optimizer).iter().zip(&mut self.trained.state) {
            let mut parts = Vec::new();
            for &(index, _) in &self.trained.places {
                let Parameter { name, shape, .. } = &self.known[index];
                let name = format!("{name}.{key}");
                let missing = || format!("the checkpoint lacks optimizer state `{name}` of shape {shape:?}");
                let found = state.get(&name).filter(|found| found.shape == *shape);
                let found = found.ok_or_else(|| Error::new(ErrorKind::CorruptPayload, missing()))?;
                parts.extend_from_slice(&found.data);
            }
            *into = upload(&parts, &[parts.len()], self.device).map_err(failed)?;
        }
        Ok(())
    }

    fn lay(&mut self, indices: &[usize], states: usize) -> Torch<()> {
        let parts = indices.iter().map(|&i| self.tensors[i].f_reshape([-1])).collect::<Torch<Vec<_>>>()?;
        let values = Tensor::f_cat(&parts, 0)?;
        let mut start = 0;
        let mut places = Vec::new();
        for (&index, part) in indices.iter().zip(&parts) {
            let length = part.size()[0];
            let view = values.f_narrow(0, start, length)?.f_view(self.tensors[index].size().as_slice())?;
            self.tensors[index] = view.f_detach()?.f_set_requires_grad(true)?;
            places.push((index, start));
            start += length;
        }
        let zeros = || Tensor::f_zeros([start], (Kind::Float, self.device));
        let state = (0..states).map(|_| zeros()).collect::<Torch<_>>()?;
        self.trained = Trained { places, gradients: zeros()?, values, state };
        Ok(())
    }

    /// Computes the gradients of `loss` and lays them end to end.
    pub(crate) fn differentiate(&mut self, loss: &Tensor) -> Torch<()> {
        let inputs: Vec<&Tensor> = self.trained.places.iter().map(|(index, _)| &self.tensors[*index]).collect();
        if inputs.is_empty() {
            return Ok(());
        }
        let gradients = Tensor::f_run_backward(&[loss], &inputs, false, false)?;
        let flat = gradients.iter().map(|gradient| gradient.f_reshape([-1])).collect::<Torch<Vec<_>>>()?;
        no_grad(|| Tensor::f_cat_out(&self.trained.gradients, &flat, 0)).map(drop)?;
        Ok(())
    }

    /// Sets the gradients, end to end.
    pub(crate) fn set_gradients(&mut self, gradients: &[f32]) -> Torch<()> {
        self.trained.gradients = upload(gradients, &[gradients.len()], self.device)?;
        Ok(())
    }

    /// Clips the gradients, by value first, and moves what is trained.
    pub(crate) fn update(&mut self, update: Update, clip_norm: Option<f64>, clip_value: Option<f64>) -> Torch<()> {
        self.steps += 1.0;
        if self.trained.places.is_empty() {
            return Ok(());
        }
        no_grad(|| {
            if let Some(limit) = clip_value {
                self.trained.gradients.f_clamp_(-limit, limit).map(drop)?;
            }
            if let Some(limit) = clip_norm {
                let norm = self.trained.gradients.f_norm()?;
                // As the engine's `clip_factor`, on the device.
                let factor = norm.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(limit)?.f_clamp_max(1.0)?;
                self.trained.gradients.f_mul_(&factor).map(drop)?;
            }
            optimizer::apply(update, &mut self.trained)
        })
    }

    /// The weights, by state-dict name.
    pub(crate) fn weights(&self) -> Torch<Tensors> {
        let read = self.known.iter().zip(&self.tensors).map(|(parameter, tensor)| {
            let mut data = download(tensor)?;
            if is_count(&parameter.name) {
                data.iter_mut().for_each(|count| *count = (*count + self.steps).min(MOST_BATCHES));
            }
            Ok((parameter.name.clone(), Plain { shape: parameter.shape.clone(), data }))
        });
        read.collect()
    }

    /// The gradients of trained parameters, as the last step left them.
    pub(crate) fn gradients(&self) -> Torch<Tensors> {
        Ok(self.cut(&download(&self.trained.gradients)?, |name| name.into()).collect())
    }

    /// The optimizer's state, named `NAME.KEY`.
    pub(crate) fn optimizer_state(&self, train: &Train) -> Torch<Tensors> {
        let mut all = Tensors::new();
        for (key, state) in state_names(&train.optimizer).iter().zip(&self.trained.state) {
            all.extend(self.cut(&download(state)?, |name| format!("{name}.{key}")));
        }
        Ok(all)
    }

    /// What lies end to end, as named tensors.
    fn cut(&self, flat: &[f32], name: impl Fn(&str) -> String) -> impl Iterator<Item = (String, Plain)> {
        self.trained.places.iter().map(move |&(index, start)| {
            let parameter = &self.known[index];
            let data = flat[start as usize..][..parameter.len()].to_vec();
            (name(&parameter.name), Plain { shape: parameter.shape.clone(), data })
        })
    }
}

fn is_count(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

/// Numbers as a tensor on the device.
pub(crate) fn upload(data: &[f32], shape: &[usize], device: Device) -> Torch<Tensor> {
    let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    Tensor::f_from_slice(data)?.f_view(shape.as_slice())?.f_to_device(device)
}

/// A tensor's numbers, row-major. Waits for the device.
pub(crate) fn download(tensor: &Tensor) -> Torch<Vec<f32>> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let count = tensor.numel();
    let mut data = vec![0.0; count];
    tensor.f_copy_data(&mut data, count)?;
    Ok(data)
}

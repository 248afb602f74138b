//! A model on a device.

use std::ops::Range;

use outboard_core::{
    Layer,
    error::{Error, ErrorKind, Result},
    job::{self, Train},
    layer::Planned,
};
use outboard_engine::{
    Model,
    kernels::{Step, StepSums},
    loss::LossSums,
    optimizer::{Update, state_names},
};
use outboard_protocol::{Augmentation, Dataset, Tensors};
use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    data::{Batch, Data, Rows},
    device::Machine,
    dropout::{Dropouts, Elements},
    error::{Torch, failed, first_line, is_out_of_memory},
    layers::{Pass, chain},
    loss::Loss,
    parameters::{Parameters, download},
};

/// Steps whose outputs are kept until their right answers are counted together: fewer operations for each step.
const TOGETHER: usize = 32;
/// Outputs that are kept at most.
const KEPT: usize = 1 << 20;

/// A model with its weights.
#[derive(Debug)]
pub struct TorchModel {
    machine: Machine,
    plan: Vec<Planned>,
    parameters: Parameters,
    elements: Elements,
    /// Rows that evaluation takes at a time.
    rows: usize,
    loss: Option<Loss>,
    /// Whether images change, which is done beside the device.
    augments: bool,
    order: Vec<u32>,
    order_there: Tensor,
    /// Steps whose right answers weren't counted: loss, outputs, targets.
    recent: Vec<(Tensor, Option<(Tensor, Tensor)>)>,
    /// Losses of steps before, and their right answers.
    counted: Vec<(Tensor, Tensor)>,
}

impl TorchModel {
    pub(crate) fn new(machine: Machine, plan: Vec<Planned>, weights: &Tensors, rows: usize) -> Result<Self> {
        let parameters = Parameters::new(&plan, weights, machine.device)?;
        let order_there = Tensor::f_zeros([0], (Kind::Int64, machine.device)).map_err(failed)?;
        Ok(Self {
            machine,
            plan,
            parameters,
            elements: Elements::default(),
            rows,
            loss: None,
            augments: false,
            order: Vec::new(),
            order_there,
            recent: Vec::new(),
            counted: Vec::new(),
        })
    }

    fn device(&self) -> Device {
        self.machine.device
    }

    /// Runs features through the model; a list of numbers for each row.
    fn forward(&self, x: Tensor, dropouts: Option<Dropouts<'_>>) -> Torch<Tensor> {
        let padding_index = match &self.plan[0] {
            planned @ Planned { layer: Layer::Embedding { padding_index, .. }, .. } if planned.keeps_padding() => {
                *padding_index
            }
            _ => None,
        };
        let padding = match padding_index {
            Some(index) => {
                let padding = x.f_eq(index as f64)?;
                // A row of nothing but padding counts as having none.
                let some = padding.f_all_dim(1, true)?.f_logical_not()?;
                Some(padding.f_logical_and(&some)?)
            }
            None => None,
        };
        let pass = Pass { training: dropouts.is_some(), dropouts, bf16: self.machine.bf16, padding };
        chain(&self.plan, &self.parameters.tensors, x, &pass)?.f_to_kind(Kind::Float)?.f_flatten(1, -1)
    }

    /// The outputs of some rows as training sees them, and the gradients of their loss.
    fn differentiate(&mut self, data: &Data, step: &Step<'_>, places: Range<usize>) -> Torch<(Tensor, Tensor, Tensor)> {
        let (start, length) = (places.start as i64, places.len() as i64);
        let there = self.order_there.f_narrow(0, start, length)?;
        let train = step.train;
        let augmentation = self.augments.then(|| Augmentation::new(&train.augment, train.seed, step.epoch));
        let Batch { x, y, weights } = data.batch(Rows { here: &self.order[places], there: &there }, augmentation)?;
        let dropouts = Dropouts { seed: step.plan.seed, step: step.plan.step, elements: &self.elements };
        let output = self.forward(x, Some(dropouts))?;
        let loss = self.loss.as_ref().ok_or_else(|| tch::TchError::Shape("training was not prepared".into()))?;
        let loss = loss.of_batch(&output, &y, weights.as_ref())?;
        self.parameters.differentiate(&loss)?;
        Ok((loss.f_detach()?, output.f_detach()?, y))
    }

    fn try_step(&mut self, data: &Data, step: &Step<'_>) -> Torch<()> {
        let (loss, output, y) = self.differentiate(data, step, step.places.clone())?;
        let has_accuracy = self.loss.as_ref().is_some_and(Loss::has_accuracy);
        let kept = self.recent.len() * output.numel();
        self.recent.push((loss, has_accuracy.then_some((output, y))));
        if let Some(update) = step.plan.update {
            self.parameters.update(update, step.plan.clip_norm, step.plan.clip_value)?;
        }
        if self.recent.len() >= TOGETHER || kept > KEPT { self.fold() } else { Ok(()) }
    }

    /// Counts the right answers of recent steps, on the device.
    fn fold(&mut self) -> Torch<()> {
        let (losses, answers): (Vec<_>, Vec<_>) = std::mem::take(&mut self.recent).into_iter().unzip();
        if losses.is_empty() {
            return Ok(());
        }
        let (outputs, targets): (Vec<_>, Vec<_>) = answers.into_iter().flatten().unzip();
        let correct = match &self.loss {
            Some(loss) if !outputs.is_empty() => {
                loss.correct(&Tensor::f_cat(&outputs, 0)?, &Tensor::f_cat(&targets, 0)?)?
            }
            _ => Tensor::f_zeros([0i64; 0], (Kind::Int64, self.device()))?,
        };
        self.counted.push((Tensor::f_stack(&losses, 0)?, correct.f_to_kind(Kind::Double)?));
        Ok(())
    }

    fn try_sums(&mut self) -> Torch<StepSums> {
        self.fold()?;
        let (losses, correct): (Vec<_>, Vec<_>) = std::mem::take(&mut self.counted).into_iter().unzip();
        if losses.is_empty() {
            return Ok(StepSums::default());
        }
        // One wait for the device, not two.
        let correct = Tensor::f_stack(&correct, 0)?.f_sum(None)?.f_view([1])?;
        let all = Tensor::f_cat(&[Tensor::f_cat(&losses, 0)?.f_to_kind(Kind::Double)?, correct], 0)?;
        let mut losses: Vec<f64> = Vec::try_from(all.f_to_device(Device::Cpu)?)?;
        let correct = losses.pop().unwrap_or_default() as u64;
        Ok(StepSums { losses, correct })
    }

    /// Halves the batch until a step of it fits, and says which did.
    fn out_of_memory(&mut self, data: &Data, step: &Step<'_>, why: &tch::TchError) -> Error {
        let mut size = step.places.len();
        let error = Error::new(ErrorKind::OutOfMemory, format!("a step of {size} rows does not fit in memory"))
            .at("device", &self.machine.words)
            .at("libtorch", first_line(why));
        while size > 1 {
            size /= 2;
            let tried = self.differentiate(data, step, step.places.start..step.places.start + size);
            match tried {
                Ok(_) => return fits(error, size),
                Err(error) if is_out_of_memory(&error) => {}
                Err(_) => break,
            }
        }
        none_fits(error)
    }

    /// Gives the outputs of rows to `each`, as many at a time as there is memory for.
    fn in_parts(
        &self,
        data: &Data,
        rows: Range<usize>,
        mut each: impl FnMut(Range<usize>, Tensor) -> Torch<()>,
    ) -> Result<()> {
        let mut most = self.rows;
        let mut from = rows.start;
        while from < rows.end {
            let part = from..(from + most).min(rows.end);
            let made = no_grad(|| {
                let y = self.forward(data.features(part.clone())?, None)?;
                each(part.clone(), y)
            });
            match made {
                Ok(()) => from = part.end,
                Err(error) if is_out_of_memory(&error) && most > 1 => most /= 2,
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Refuses what cannot fit, before anything runs: weights, gradients, optimizer state, and half of what the layers
    /// give, of which libtorch keeps at least that much for the way back.
    fn check_room(&self, train: &Train) -> Result<()> {
        let Some(free) = self.machine.free_bytes() else { return Ok(()) };
        let weights: usize = self.plan.iter().flat_map(|planned| &planned.parameters).map(|p| p.len()).sum();
        let states = state_names(&train.optimizer).len();
        // The weights are there already.
        let fixed = weights as u64 * 4 * (1 + states as u64);
        let row = self.plan.iter().map(Planned::width).fold(0, usize::saturating_add) as u64 * 2;
        let size = train.batch_size.min(self.rows) as u64;
        if fixed.saturating_add(row.saturating_mul(size)) <= free {
            return Ok(());
        }
        let error = Error::new(ErrorKind::OutOfMemory, format!("a batch of {size} rows does not fit in memory"))
            .at("device", &self.machine.words)
            .at("free", format!("{} MiB", free >> 20));
        Err(match free.saturating_sub(fixed) / row.max(1) {
            0 => none_fits(error),
            most => fits(error, most as usize),
        })
    }

    /// The gradients of trained parameters, as the last step left them.
    ///
    /// # Errors
    /// Those of the step.
    pub fn gradients(&self) -> Result<Tensors> {
        self.parameters.gradients().map_err(failed)
    }

    /// Moves what is trained as if a step had come to these gradients, end to end.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn apply(
        &mut self,
        gradients: &[f32],
        update: Update,
        clip_norm: Option<f64>,
        clip_value: Option<f64>,
    ) -> Result<()> {
        let set = self.parameters.set_gradients(gradients);
        set.and_then(|()| self.parameters.update(update, clip_norm, clip_value)).map_err(failed)
    }

    /// The outputs of all rows, in the order that was set, as a training step sees them.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn training_outputs(&self, data: &Data, step: &Step<'_>) -> Result<Vec<f32>> {
        let dropouts = Dropouts { seed: step.plan.seed, step: step.plan.step, elements: &self.elements };
        let outputs = || download(&no_grad(|| self.forward(data.features(0..data.rows())?, Some(dropouts)))?);
        outputs().map_err(failed)
    }
}

fn fits(error: Error, size: usize) -> Error {
    error.at("fits", size).hint(format!("set `batch_size` to at most {size}"))
}

fn none_fits(error: Error) -> Error {
    error.hint("use a smaller model, or a device with more memory: not even one row fits")
}

impl Model for TorchModel {
    type Data = Data;

    fn place(&self, data: Dataset) -> Result<Data> {
        let room = if self.augments { 0 } else { self.machine.room() };
        Data::new(data, self.machine.clone(), room).map_err(failed)
    }

    fn prepare_training(&mut self, train: &Train, state: Option<&Tensors>) -> Result<()> {
        self.check_room(train)?;
        self.augments = !train.augment.is_empty();
        self.loss = Some(Loss::new(&train.loss, self.device()).map_err(failed)?);
        self.parameters.prepare_training(train, state)
    }

    fn begin_epoch(&mut self, order: Vec<u32>) -> Result<()> {
        let there: Vec<i64> = order.iter().map(|&row| i64::from(row)).collect();
        self.order_there =
            Tensor::f_from_slice(&there).and_then(|there| there.f_to_device(self.device())).map_err(failed)?;
        self.order = order;
        Ok(())
    }

    fn step(&mut self, data: &Data, step: &Step<'_>) -> Result<()> {
        match self.try_step(data, step) {
            Err(error) if is_out_of_memory(&error) => Err(self.out_of_memory(data, step, &error)),
            done => done.map_err(failed),
        }
    }

    fn sums(&mut self) -> Result<StepSums> {
        self.try_sums().map_err(failed)
    }

    fn evaluate(&mut self, data: &Data, loss: &job::Loss) -> Result<LossSums> {
        let loss = Loss::new(loss, self.device()).map_err(failed)?;
        let mut total = Tensor::f_zeros([3], (Kind::Double, self.device())).map_err(failed)?;
        self.in_parts(data, 0..data.rows(), |rows, output| {
            let y = data.targets(rows)?.ok_or_else(|| tch::TchError::Shape("the data has no target".into()))?;
            total.f_add_(&loss.sums(&output, &y)?).map(drop)?;
            Ok(())
        })?;
        let read = total.f_to_device(Device::Cpu).and_then(Vec::<f64>::try_from).map_err(failed)?;
        Ok(LossSums { loss: read[0], weight: read[1], correct: read[2] as u64 })
    }

    fn predict(&mut self, data: &Data, rows: Range<usize>) -> Result<Vec<f32>> {
        let mut outputs = Vec::new();
        self.in_parts(data, rows, |_, output| {
            outputs.extend(download(&output)?);
            Ok(())
        })?;
        Ok(outputs)
    }

    fn weights(&self) -> Result<Tensors> {
        self.parameters.weights().map_err(failed)
    }

    fn optimizer_state(&self, train: &Train) -> Result<Tensors> {
        self.parameters.optimizer_state(train).map_err(failed)
    }
}

//! Losses with their gradients, and accuracy (`docs/protocol.md`, section 8).

use outboard_core::job::{ClassWeights, Loss};

use crate::simd::{exp, sigmoid, simd};

/// Targets of a batch.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// A class index for each row, already checked against the number of classes.
    Classes(&'a [i64]),
    /// As many numbers as the model has outputs, row after row.
    Values(&'a [f32]),
}

/// Sums over rows, from which loss and accuracy follow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSums {
    /// Of loss × weight.
    pub loss: f64,
    /// Of weights: elements, rows, or class weights.
    pub weight: f64,
    /// Of right answers: rows, or elements for a binary loss.
    pub correct: u64,
}

impl LossSums {
    /// The mean loss.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.loss / self.weight
    }

    /// Adds the sums of other rows.
    pub fn add(&mut self, other: Self) {
        self.loss += other.loss;
        self.weight += other.weight;
        self.correct += other.correct;
    }
}

/// Sums over a batch of `outputs` per row. `weights` says how much each row counts; all the same where there are none.
/// Where `gradient` is given it receives the gradient of the mean loss, one element for each output.
#[must_use]
pub fn evaluate(
    loss: &Loss,
    outputs: usize,
    y: &[f32],
    targets: Targets<'_>,
    weights: Option<&[f32]>,
    gradient: Option<&mut [f32]>,
) -> LossSums {
    simd(
        #[inline(always)]
        || match (loss, targets) {
            (Loss::CrossEntropy { label_smoothing, class_weights }, Targets::Classes(classes)) => {
                let by_class = class_weights.as_ref().and_then(ClassWeights::each);
                cross_entropy(*label_smoothing as f32, by_class, outputs, y, Rows { classes, weights }, gradient)
            }
            (Loss::BceWithLogits { positive_weight }, Targets::Values(values)) => {
                let p = *positive_weight as f32;
                let mut sums = elementwise(y, values, weights, gradient, |x, t| {
                    // log(1 + exp(-|x|)) without overflow.
                    let tail = exp(-x.abs()).ln_1p();
                    let loss = (1.0 - t) * x + (1.0 + (p - 1.0) * t) * (tail + (-x).max(0.0));
                    (loss, (1.0 - t) * sigmoid(x) - p * t * sigmoid(-x))
                });
                sums.correct = y.iter().zip(values).filter(|&(x, t)| (*x > 0.0) == (*t > 0.5)).count() as u64;
                sums
            }
            (Loss::Mse, Targets::Values(values)) => {
                elementwise(y, values, weights, gradient, |x, t| ((x - t) * (x - t), 2.0 * (x - t)))
            }
            (Loss::L1, Targets::Values(values)) => elementwise(y, values, weights, gradient, |x, t| {
                ((x - t).abs(), if x == t { 0.0 } else { (x - t).signum() })
            }),
            (Loss::Huber { delta }, Targets::Values(values)) => {
                let delta = *delta as f32;
                elementwise(y, values, weights, gradient, move |x, t| {
                    let d = x - t;
                    let near = d.abs() <= delta;
                    (if near { 0.5 * d * d } else { delta * (d.abs() - 0.5 * delta) }, d.clamp(-delta, delta))
                })
            }
            (loss, targets) => unreachable!("{loss:?} on {targets:?}: ruled out when the data set is checked"),
        },
    )
}

#[inline(always)]
fn elementwise(
    y: &[f32],
    t: &[f32],
    weights: Option<&[f32]>,
    gradient: Option<&mut [f32]>,
    f: impl Fn(f32, f32) -> (f32, f32),
) -> LossSums {
    if let Some(weights) = weights {
        return weighted(y, t, weights, gradient, f);
    }
    let mut sums = LossSums { weight: y.len() as f64, ..LossSums::default() };
    let share = 1.0 / y.len() as f32;
    match gradient {
        Some(gradient) => {
            for ((&x, &t), g) in y.iter().zip(t).zip(gradient) {
                let (loss, slope) = f(x, t);
                sums.loss += f64::from(loss);
                *g = slope * share;
            }
        }
        None => y.iter().zip(t).for_each(|(&x, &t)| sums.loss += f64::from(f(x, t).0)),
    }
    sums
}

/// As [`elementwise`], where rows count by their weights.
#[inline(always)]
fn weighted(
    y: &[f32],
    t: &[f32],
    weights: &[f32],
    mut gradient: Option<&mut [f32]>,
    f: impl Fn(f32, f32) -> (f32, f32),
) -> LossSums {
    let outputs = y.len() / weights.len();
    let total = weights.iter().map(|w| f64::from(*w)).sum::<f64>() * outputs as f64;
    let mut sums = LossSums { weight: total, ..LossSums::default() };
    let share = (1.0 / total) as f32;
    for (i, (&x, &t)) in y.iter().zip(t).enumerate() {
        let weight = weights[i / outputs];
        let (loss, slope) = f(x, t);
        sums.loss += f64::from(loss) * f64::from(weight);
        if let Some(gradient) = gradient.as_deref_mut() {
            gradient[i] = slope * weight * share;
        }
    }
    sums
}

/// Rows with a class each.
struct Rows<'a> {
    classes: &'a [i64],
    weights: Option<&'a [f32]>,
}

#[inline(always)]
fn cross_entropy(
    smoothing: f32,
    by_class: Option<&[f32]>,
    outputs: usize,
    y: &[f32],
    Rows { classes, weights }: Rows<'_>,
    mut gradient: Option<&mut [f32]>,
) -> LossSums {
    let weight_of = |class: usize| by_class.map_or(1.0, |w| w[class]);
    let of_row = |row: usize| weights.map_or(1.0, |w| w[row]);
    let total = classes.iter().enumerate();
    let total: f64 = total.map(|(i, &class)| f64::from(of_row(i)) * f64::from(weight_of(class as usize))).sum();
    let mut sums = LossSums { weight: total, ..LossSums::default() };
    let even = smoothing / outputs as f32;
    let share = (1.0 / total) as f32;
    let wanted = gradient.is_some();
    let mut scratch = vec![0.0; if wanted { 0 } else { outputs }];
    for (i, (row, &class)) in y.chunks_exact(outputs).zip(classes).enumerate() {
        let (class, even) = (class as usize, even * of_row(i));
        // Powers go where the gradient will be, so that each is computed once.
        let powers = match gradient.as_deref_mut() {
            Some(gradient) => &mut gradient[i * outputs..(i + 1) * outputs],
            None => &mut scratch[..],
        };
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        sums.correct += u64::from(row.iter().position(|&x| x == max) == Some(class));
        let mut sum = 0.0;
        for (power, &x) in powers.iter_mut().zip(row) {
            *power = exp(x - max);
            sum += *power;
        }
        let log_sum = sum.ln();
        let log_p = |x: f32| x - max - log_sum;
        let hard = (1.0 - smoothing) * of_row(i) * weight_of(class);
        let mut loss = hard * -log_p(row[class]);
        let mut pull = hard;
        if smoothing > 0.0 {
            for (c, &x) in row.iter().enumerate() {
                loss += even * weight_of(c) * -log_p(x);
                pull += even * weight_of(c);
            }
        }
        sums.loss += f64::from(loss);
        if wanted {
            let scale = pull / sum * share;
            powers.iter_mut().for_each(|p| *p *= scale);
            if smoothing > 0.0 {
                powers.iter_mut().enumerate().for_each(|(c, p)| *p -= even * weight_of(c) * share);
            }
            powers[class] -= hard * share;
        }
    }
    sums
}

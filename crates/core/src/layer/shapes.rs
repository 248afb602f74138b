//! What each layer makes of a sample's shape, and the tensors it needs.

use super::{
    BatchNorm, Extent, Layer, Pool, Recurrent,
    plan::{DROPOUT, Initial, Parameter, Planned, Role, Site},
};
use crate::error::{Error, Result};

const ZERO: Initial = Initial::Constant(0.0);
const ONE: Initial = Initial::Constant(1.0);

/// Token numbers beyond this aren't exact in a 32-bit float.
const MAX_TOKENS: usize = 1 << 24;

/// Fills in shape, tensors and inner layers.
pub(super) fn fill(planned: &mut Planned, site: &mut Site<'_>) -> Result<()> {
    let layer = planned.layer.clone();
    let input = planned.input.clone();
    let layer = &layer;
    let at = Place { site, layer, input: &input };
    let (output, parameters) = match layer {
        Layer::Linear { out, bias } => at.linear(*out, *bias)?,
        Layer::Dropout { p } => {
            at.share("p", *p)?;
            (input.clone(), Vec::new())
        }
        Layer::Flatten => (vec![at.elements()?], Vec::new()),
        Layer::Conv1d { out, kernel, stride, padding, dilation, groups, bias } => {
            let window = Window {
                sides: vec![Side { kernel: *kernel, stride: *stride, padding: *padding, dilation: *dilation }],
            };
            at.conv(*out, &window, *groups, *bias)?
        }
        Layer::Conv2d { out, kernel, stride, padding, dilation, groups, bias } => {
            let side = |pick: fn(&Extent) -> usize| Side {
                kernel: pick(kernel),
                stride: pick(stride),
                padding: pick(padding),
                dilation: pick(dilation),
            };
            let window = Window { sides: vec![side(|e| e.height), side(|e| e.width)] };
            at.conv(*out, &window, *groups, *bias)?
        }
        Layer::MaxPool1d(pool) | Layer::AvgPool1d(pool) => (at.pool(&pool.sides())?, Vec::new()),
        Layer::MaxPool2d(pool) | Layer::AvgPool2d(pool) => (at.pool(&pool.sides())?, Vec::new()),
        Layer::AdaptiveAvgPool1d { out } => (at.adaptive(&[*out])?, Vec::new()),
        Layer::AdaptiveAvgPool2d { out } => (at.adaptive(&out.sides())?, Vec::new()),
        Layer::BatchNorm1d(norm) => at.batch_norm(norm, &[1, 2])?,
        Layer::BatchNorm2d(norm) => at.batch_norm(norm, &[3])?,
        Layer::LayerNorm { eps } => {
            at.above_zero("eps", *eps)?;
            let features = at.last()?;
            (input.clone(), at.norm("", features))
        }
        Layer::Embedding { tokens, out, padding_index } => at.embedding(*tokens, *out, *padding_index)?,
        Layer::PositionalEmbedding => {
            at.sequence()?;
            let weight = Initial::Normal { zero_row: None };
            (input.clone(), vec![at.site.parameter("weight", &input, weight, Role::Table)])
        }
        Layer::Residual { layers } => {
            if layers.is_empty() {
                return Err(at.wrong("`layers` is empty").hint("list the layers whose output is added to their input"));
            }
            let body = at.site.plan_body(layers, &input)?;
            let output = body.last().map_or(&input, |last| &last.output);
            if *output != input {
                return Err(at
                    .wrong(format!("its layers turn {input:?} into {output:?}, but the two are added"))
                    .hint(format!("make its last layer give {input:?}")));
            }
            let parameters = body.iter().flat_map(|inner| inner.parameters.clone()).collect();
            planned.body = body;
            (input.clone(), parameters)
        }
        Layer::TransformerEncoder { heads, ff, dropout, .. } => {
            planned.dropout = *at.site.inner_dropouts;
            *at.site.inner_dropouts += 4 * DROPOUT;
            at.encoder(*heads, *ff, *dropout)?
        }
        Layer::Lstm(keys) => at.recurrent(keys, 4)?,
        Layer::Gru(keys) => at.recurrent(keys, 3)?,
        Layer::MeanPool | Layer::LastPool => {
            let [_, features] = at.sequence()?;
            (vec![features], Vec::new())
        }
        Layer::Relu | Layer::Gelu { .. } | Layer::Silu | Layer::Tanh | Layer::Sigmoid | Layer::Softmax => {
            (input.clone(), Vec::new())
        }
    };
    (planned.output, planned.parameters) = (output, parameters);
    Ok(())
}

/// Where a filter or a pooling window goes along one dimension.
struct Side {
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
}

struct Window {
    sides: Vec<Side>,
}

impl Window {
    fn kernel(&self) -> Vec<usize> {
        self.sides.iter().map(|side| side.kernel).collect()
    }
}

/// A pooling layer's keys, along each dimension.
trait Sides {
    fn sides(&self) -> Window;
}

impl Sides for Pool<usize> {
    fn sides(&self) -> Window {
        let Self { kernel, stride, padding } = *self;
        Window { sides: vec![Side { kernel, stride: stride.unwrap_or(kernel), padding, dilation: 1 }] }
    }
}

impl Sides for Pool<Extent> {
    fn sides(&self) -> Window {
        let (kernel, stride, padding) = (self.kernel, self.stride.unwrap_or(self.kernel), self.padding);
        let side = |kernel, stride, padding| Side { kernel, stride, padding, dilation: 1 };
        Window {
            sides: vec![
                side(kernel.height, stride.height, padding.height),
                side(kernel.width, stride.width, padding.width),
            ],
        }
    }
}

type Made = (Vec<usize>, Vec<Parameter>);

/// A layer, where it stands, and what comes in.
struct Place<'a, 'b> {
    site: &'a mut Site<'b>,
    layer: &'a Layer,
    input: &'a [usize],
}

impl Place<'_, '_> {
    fn wrong(&self, what: impl AsRef<str>) -> Error {
        self.site.wrong(self.layer, what)
    }

    fn at_least_one(&self, key: &str, value: usize) -> Result<()> {
        match value {
            0 => Err(self
                .wrong(format!("`{key}` is 0, but must be at least 1"))
                .hint(format!("set `{key}` to 1 or more"))),
            _ => Ok(()),
        }
    }

    fn outputs(&self, out: usize) -> Result<()> {
        match out {
            0 => Err(self
                .wrong("`out` is 0, but a layer needs at least one output")
                .hint("set `out` to the number of features that this layer should give")),
            _ => Ok(()),
        }
    }

    fn share(&self, key: &str, p: f64) -> Result<()> {
        match (0.0..1.0).contains(&p) {
            true => Ok(()),
            false => Err(self
                .wrong(format!("`{key}` is {p}, but the share of zeroes must be at least 0 and below 1"))
                .hint(format!("set `{key}` to 0.1 to 0.5"))),
        }
    }

    fn above_zero(&self, key: &str, value: f64) -> Result<()> {
        match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(self
                .wrong(format!("`{key}` is {value}, but must be a number above 0"))
                .hint(format!("leave `{key}` out, or set it to 1e-5"))),
        }
    }

    /// An input of another rank than the layer takes.
    fn needs(&self, shape: &str, hint: &str) -> Error {
        self.wrong(format!("its input is {:?}, but it takes {shape}", self.input)).hint(hint)
    }

    fn elements(&self) -> Result<usize> {
        let elements = self.input.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        elements.ok_or_else(|| self.wrong(format!("its input of shape {:?} is too large", self.input)))
    }

    fn last(&self) -> Result<usize> {
        self.input.last().copied().ok_or_else(|| self.wrong("its input has no dimension"))
    }

    fn sequence(&self) -> Result<[usize; 2]> {
        match *self.input {
            [positions, features] => Ok([positions, features]),
            _ => Err(self.needs(
                "[positions, features]",
                "begin with `embedding`, or set `model.input` to the positions and features of a row",
            )),
        }
    }

    fn linear(&self, out: usize, bias: bool) -> Result<Made> {
        self.outputs(out)?;
        let features = self.last()?;
        let mut parameters = vec![self.weight("weight", &[out, features], Initial::fan_in(features))];
        if bias {
            parameters.push(self.weight("bias", &[out], Initial::fan_in(features)));
        }
        Ok(([&self.input[..self.input.len() - 1], &[out]].concat(), parameters))
    }

    fn weight(&self, name: &str, shape: &[usize], initial: Initial) -> Parameter {
        self.site.parameter(name, shape, initial, Role::Weight)
    }

    /// Channels and the dimensions that `window` moves along.
    fn channels(&self, window: &Window) -> Result<(usize, &[usize])> {
        match self.input.split_first() {
            Some((&channels, rest)) if rest.len() == window.sides.len() => Ok((channels, rest)),
            _ if window.sides.len() == 1 => Err(self.needs(
                "[channels, length]",
                "set `model.input` to the channels and the length of a row, such as `input = [1, 100]`",
            )),
            _ => Err(self.needs(
                "[channels, height, width]",
                "set `model.input` to the shape of a row, such as `input = [1, 28, 28]`",
            )),
        }
    }

    /// How often `window` fits along each dimension.
    fn places(&self, window: &Window, sizes: &[usize]) -> Result<Vec<usize>> {
        let place = |(side, &size): (&Side, &usize)| {
            self.at_least_one("kernel", side.kernel)?;
            self.at_least_one("stride", side.stride)?;
            self.at_least_one("dilation", side.dilation)?;
            let reach = (side.kernel - 1).checked_mul(side.dilation).and_then(|n| n.checked_add(1));
            let padded = side.padding.checked_mul(2).and_then(|n| n.checked_add(size));
            match (reach, padded) {
                (Some(reach), Some(padded)) if reach <= padded => Ok((padded - reach) / side.stride + 1),
                _ => Err(self
                    .wrong(format!(
                        "a kernel of {:?} is larger than its input of {sizes:?} with its padding",
                        window.kernel()
                    ))
                    .hint("use a smaller `kernel` or more `padding`, or pool less before it")),
            }
        };
        window.sides.iter().zip(sizes).map(place).collect()
    }

    fn conv(&self, out: usize, window: &Window, groups: usize, bias: bool) -> Result<Made> {
        self.outputs(out)?;
        self.at_least_one("groups", groups)?;
        let (channels, sizes) = self.channels(window)?;
        if !channels.is_multiple_of(groups) || !out.is_multiple_of(groups) {
            return Err(self
                .wrong(format!("{channels} channels and `out` = {out} can't both be cut into {groups} groups"))
                .hint("set `groups` to a number that divides both"));
        }
        let places = self.places(window, sizes)?;
        let filter = [&[channels / groups][..], &window.kernel()].concat();
        let inputs = filter.iter().fold(1usize, |n, &d| n.saturating_mul(d));
        let mut parameters = vec![self.weight("weight", &[&[out][..], &filter].concat(), Initial::fan_in(inputs))];
        if bias {
            parameters.push(self.weight("bias", &[out], Initial::fan_in(inputs)));
        }
        Ok(([&[out][..], &places].concat(), parameters))
    }

    fn pool(&self, window: &Window) -> Result<Vec<usize>> {
        let (channels, sizes) = self.channels(window)?;
        let places = self.places(window, sizes)?;
        if let Some(side) = window.sides.iter().find(|side| side.padding > side.kernel / 2) {
            let (padding, kernel) = (side.padding, side.kernel);
            return Err(self
                .wrong(format!("`padding` is {padding}, but must be at most half of the kernel's {kernel}"))
                .hint(format!("set `padding` to at most {}", kernel / 2)));
        }
        Ok([&[channels][..], &places].concat())
    }

    fn adaptive(&self, out: &[usize]) -> Result<Vec<usize>> {
        let side = |&kernel: &usize| Side { kernel, stride: 1, padding: 0, dilation: 1 };
        let (channels, _) = self.channels(&Window { sides: out.iter().map(side).collect() })?;
        out.iter().try_for_each(|&size| self.at_least_one("out", size))?;
        Ok([&[channels][..], out].concat())
    }

    fn batch_norm(&self, norm: &BatchNorm, ranks: &[usize]) -> Result<Made> {
        self.above_zero("eps", norm.eps)?;
        if !(0.0..=1.0).contains(&norm.momentum) {
            return Err(self
                .wrong(format!("`momentum` is {}, but must be from 0 to 1", norm.momentum))
                .hint("leave `momentum` out, or set it to 0.1"));
        }
        if !ranks.contains(&self.input.len()) {
            return Err(match ranks {
                [3] => self.needs("[channels, height, width]", "use `batch_norm1d`, or set `model.input`"),
                _ => self.needs("[features] or [channels, length]", "use `batch_norm2d` for images"),
            });
        }
        let channels = self.input[0];
        let mut parameters = self.norm("", channels);
        let statistic = |name, shape: &[usize], initial| self.site.parameter(name, shape, initial, Role::Statistic);
        parameters.push(statistic("running_mean", &[channels], ZERO));
        parameters.push(statistic("running_var", &[channels], ONE));
        parameters.push(statistic("num_batches_tracked", &[], ZERO));
        Ok((self.input.to_vec(), parameters))
    }

    /// Weight and bias of a normalisation.
    fn norm(&self, prefix: &str, features: usize) -> Vec<Parameter> {
        vec![
            self.weight(&format!("{prefix}weight"), &[features], ONE),
            self.weight(&format!("{prefix}bias"), &[features], ZERO),
        ]
    }

    fn embedding(&self, tokens: usize, out: usize, padding_index: Option<usize>) -> Result<Made> {
        self.outputs(out)?;
        self.at_least_one("tokens", tokens)?;
        if !self.site.is_first {
            return Err(self
                .wrong("it takes whole numbers, so it can only be the first layer")
                .hint("move it to the front of `model.layers`"));
        }
        if tokens > MAX_TOKENS {
            return Err(self
                .wrong(format!("`tokens` is {tokens}, but must be at most {MAX_TOKENS}"))
                .hint("use a smaller vocabulary"));
        }
        if let Some(index) = padding_index.filter(|&index| index >= tokens) {
            return Err(self
                .wrong(format!("`padding_index` is {index}, but must be one of the {tokens} tokens"))
                .hint(format!("set `padding_index` to at most {}", tokens - 1)));
        }
        let weight = Initial::Normal { zero_row: padding_index };
        let weight = self.site.parameter("weight", &[tokens, out], weight, Role::Table);
        Ok(([self.input, &[out]].concat(), vec![weight]))
    }

    fn encoder(&self, heads: usize, ff: usize, dropout: f64) -> Result<Made> {
        self.at_least_one("heads", heads)?;
        self.at_least_one("ff", ff)?;
        self.share("dropout", dropout)?;
        let [_, d] = self.sequence()?;
        if d % heads != 0 {
            return Err(self
                .wrong(format!("{d} features can't be shared by {heads} heads"))
                .hint(format!("set `heads` to a number that divides {d}")));
        }
        // Xavier's bound for the three projections as one matrix.
        let xavier = Initial::Uniform((6.0 / (4.0 * d as f64)).sqrt());
        let mut parameters = vec![
            self.weight("self_attn.in_proj_weight", &[d.saturating_mul(3), d], xavier),
            self.weight("self_attn.in_proj_bias", &[d.saturating_mul(3)], ZERO),
            self.weight("self_attn.out_proj.weight", &[d, d], Initial::fan_in(d)),
            self.weight("self_attn.out_proj.bias", &[d], ZERO),
            self.weight("linear1.weight", &[ff, d], Initial::fan_in(d)),
            self.weight("linear1.bias", &[ff], Initial::fan_in(d)),
            self.weight("linear2.weight", &[d, ff], Initial::fan_in(ff)),
            self.weight("linear2.bias", &[d], Initial::fan_in(ff)),
        ];
        parameters.extend(self.norm("norm1.", d));
        parameters.extend(self.norm("norm2.", d));
        Ok((self.input.to_vec(), parameters))
    }

    fn recurrent(&self, keys: &Recurrent, gates: usize) -> Result<Made> {
        self.outputs(keys.out)?;
        let [positions, features] = self.sequence()?;
        let rows = keys.out.saturating_mul(gates);
        let initial = Initial::fan_in(keys.out);
        let mut parameters = vec![
            self.weight("weight_ih_l0", &[rows, features], initial),
            self.weight("weight_hh_l0", &[rows, keys.out], initial),
        ];
        if keys.bias {
            parameters.push(self.weight("bias_ih_l0", &[rows], initial));
            parameters.push(self.weight("bias_hh_l0", &[rows], initial));
        }
        Ok((vec![positions, keys.out], parameters))
    }
}

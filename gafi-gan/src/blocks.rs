//! Building blocks of the networks: spectrally normalised layers, conditional batch norms, self-attention, and
//! BigGAN-Deep's bottleneck blocks in StudioGAN's order.
//!
//! Two rearrangements save work and change only rounding. A 1x1 convolution commutes with nearest-neighbour upsampling
//! and with average pooling, so skips convolve at the smaller of the two sizes. Attention's gate multiplies the weight
//! of its output convolution instead of that convolution's result.

use candle_core::{Result, Tensor, Var};
use gafi_kernels::ops;
use gafi_kernels::trunk::{Activation, Tape, Value};
use gafi_nn::layers::RunningStats;
use gafi_nn::{Init, Scope};

use crate::pass::{Form, Pass};
use crate::spectral::Spectral;

/// Added to the variance in batch norms; PyTorch's default.
pub const BN_EPS: f64 = 1e-5;

/// A convolution with spectral normalisation.
#[derive(Debug)]
pub struct SnConv {
    weight: Spectral,
    bias: Option<Var>,
    stride: usize,
    padding: usize,
}

impl SnConv {
    /// Stride 1, an odd square `kernel`, the same height and width out as in, with bias. Weights start orthogonal.
    pub fn same(mut scope: Scope<'_>, input: usize, output: usize, kernel: usize, form: Form) -> gafi_nn::Result<Self> {
        let weight = Spectral::new(&mut scope, &[output, input, kernel, kernel], Init::Orthogonal, form)?;
        let bias = Some(scope.param("bias", output, Init::Zeros)?);
        Ok(Self { weight, bias, stride: 1, padding: kernel / 2 })
    }

    /// 4x4, stride 2, padding 1, with bias, for training: halves height and width. Weights start as PyTorch's default.
    pub fn halving(mut scope: Scope<'_>, input: usize, output: usize) -> gafi_nn::Result<Self> {
        let weight = Spectral::new(&mut scope, &[output, input, 4, 4], Init::FanIn, Form::Training)?;
        let bias = Some(scope.param("bias", output, Init::Zeros)?);
        Ok(Self { weight, bias, stride: 2, padding: 1 })
    }

    /// 1x1, without bias. Weights start orthogonal.
    fn pointwise(mut scope: Scope<'_>, input: usize, output: usize, form: Form) -> gafi_nn::Result<Self> {
        let weight = Spectral::new(&mut scope, &[output, input, 1, 1], Init::Orthogonal, form)?;
        Ok(Self { weight, bias: None, stride: 1, padding: 0 })
    }

    /// Maps x (N, I, H, W) to (N, O, H / stride, W / stride).
    pub fn forward(&self, tape: &mut Tape, x: Value, pass: Pass) -> Result<Value> {
        tape.conv2d(x, &self.weight.weight(pass)?, self.bias(pass).as_ref(), self.stride, self.padding)
    }

    /// Upsamples x (N, I, H, W) by nearest neighbour and convolves it to (N, O, 2H, 2W).
    pub fn forward_upsampled(&self, tape: &mut Tape, x: Value, pass: Pass) -> Result<Value> {
        tape.upsample2x_conv2d(x, &self.weight.weight(pass)?, self.bias(pass).as_ref(), self.padding)
    }

    fn bias(&self, pass: Pass) -> Option<Tensor> {
        self.bias.as_ref().map(|bias| pass.var(bias))
    }
}

/// A linear layer with spectral normalisation.
#[derive(Debug)]
pub struct SnLinear {
    weight: Spectral,
    bias: Option<Var>,
}

impl SnLinear {
    /// A layer from `input` to `output` features. Weights start orthogonal, a bias at 0.
    pub fn new(mut scope: Scope<'_>, input: usize, output: usize, bias: bool, form: Form) -> gafi_nn::Result<Self> {
        let weight = Spectral::new(&mut scope, &[output, input], Init::Orthogonal, form)?;
        let bias = if bias { Some(scope.param("bias", output, Init::Zeros)?) } else { None };
        Ok(Self { weight, bias })
    }

    /// Maps x (N, I) to (N, O).
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| pass.var(bias));
        ops::linear(x, &self.weight.weight(pass)?, bias.as_ref())
    }
}

/// Batch norm of x (N, C, H, W) with gain and shift (C) or (N, C), then relu. `pass` chooses the statistics.
fn normalise(
    stats: &RunningStats,
    tape: &mut Tape,
    x: Value,
    gain: &Tensor,
    shift: &Tensor,
    pass: Pass,
) -> Result<Value> {
    let moments = stats.moments(tape, x, pass.momentum)?;
    tape.batch_norm(x, gain, shift, &moments, pass.momentum.is_some(), BN_EPS, Some(Activation::RELU))
}

/// Batch norm, then relu. Gain and shift are one parameter per channel.
#[derive(Debug)]
pub struct Norm {
    gain: Var,
    shift: Var,
    stats: RunningStats,
}

impl Norm {
    /// Creates the parameters `weight` (1) and `bias` (0) and the running statistics.
    pub fn new(mut scope: Scope<'_>, channels: usize) -> gafi_nn::Result<Self> {
        Ok(Self {
            gain: scope.param("weight", channels, Init::Ones)?,
            shift: scope.param("bias", channels, Init::Zeros)?,
            stats: RunningStats::new(scope, channels)?,
        })
    }

    /// Computes relu(norm(x)) of x (N, C, H, W).
    pub fn forward(&self, tape: &mut Tape, x: Value, pass: Pass) -> Result<Value> {
        normalise(&self.stats, tape, x, &pass.var(&self.gain), &pass.var(&self.shift), pass)
    }
}

/// Conditional batch norm, then relu. The gain 1 + g(c) and the shift b(c) are spectrally normalised linear maps of a
/// condition c (Brock et al. 2019, arXiv 1809.11096).
#[derive(Debug)]
pub struct CondNorm {
    gain: SnLinear,
    shift: SnLinear,
    stats: RunningStats,
}

impl CondNorm {
    /// A norm of `channels` under a condition of `cond` values.
    pub fn new(mut scope: Scope<'_>, channels: usize, cond: usize, form: Form) -> gafi_nn::Result<Self> {
        Ok(Self {
            gain: SnLinear::new(scope.sub("gain"), cond, channels, false, form)?,
            shift: SnLinear::new(scope.sub("shift"), cond, channels, false, form)?,
            stats: RunningStats::new(scope, channels)?,
        })
    }

    /// Computes relu(norm(x)) of x (N, C, H, W) under the condition c (N, cond).
    pub fn forward(&self, tape: &mut Tape, x: Value, c: &Tensor, pass: Pass) -> Result<Value> {
        let gain = (self.gain.forward(c, pass)? + 1.0)?;
        normalise(&self.stats, tape, x, &gain, &self.shift.forward(c, pass)?, pass)
    }
}

/// Conditional batch norm, then relu. The gain 1 + g and the shift are looked up by class.
#[derive(Debug)]
pub struct ClassNorm {
    gain: Var,
    shift: Var,
    stats: RunningStats,
}

impl ClassNorm {
    /// A norm of `channels` for `classes`. All classes start with gain 1 and shift 0.
    pub fn new(mut scope: Scope<'_>, channels: usize, classes: usize) -> gafi_nn::Result<Self> {
        Ok(Self {
            gain: scope.sub("gain").param("weight", (classes, channels), Init::Zeros)?,
            shift: scope.sub("shift").param("weight", (classes, channels), Init::Zeros)?,
            stats: RunningStats::new(scope, channels)?,
        })
    }

    /// Computes relu(norm(x)) of x (N, C, H, W) for labels (N), u32.
    pub fn forward(&self, tape: &mut Tape, x: Value, labels: &Tensor, pass: Pass) -> Result<Value> {
        let gain = (pass.var(&self.gain).index_select(labels, 0)? + 1.0)?;
        let shift = pass.var(&self.shift).index_select(labels, 0)?;
        normalise(&self.stats, tape, x, &gain, &shift, pass)
    }
}

/// Self-attention (Zhang et al. 2019, arXiv 1805.08318). Keys and values are max-pooled 2x2; the gate starts at 0.
#[derive(Debug)]
pub struct Attention {
    query: SnConv,
    key: SnConv,
    value: SnConv,
    out: Spectral,
    scale: Var,
}

impl Attention {
    /// An attention over `channels`, at least 8.
    pub fn new(mut scope: Scope<'_>, channels: usize, form: Form) -> gafi_nn::Result<Self> {
        let narrow = channels / 8;
        let half = channels / 2;
        Ok(Self {
            query: SnConv::pointwise(scope.sub("query"), channels, narrow, form)?,
            key: SnConv::pointwise(scope.sub("key"), channels, narrow, form)?,
            value: SnConv::pointwise(scope.sub("value"), channels, half, form)?,
            out: Spectral::new(&mut scope.sub("out"), &[channels, half, 1, 1], Init::Orthogonal, form)?,
            scale: scope.param("scale", 1, Init::Zeros)?,
        })
    }

    /// Maps x (N, C, H, W), with even H and W, to the same shape.
    pub fn forward(&self, tape: &mut Tape, x: Value, pass: Pass) -> Result<Value> {
        let query = self.query.forward(tape, x, pass)?;
        let key = self.key.forward(tape, x, pass)?;
        let value = self.value.forward(tape, x, pass)?;
        let key = tape.max_pool2x2(key)?;
        let value = tape.max_pool2x2(value)?;
        let attended = tape.attend(query, key, value)?;
        let gate = self.out.weight(pass)?.broadcast_mul(&pass.var(&self.scale).reshape((1, 1, 1, 1))?)?;
        let attended = tape.conv2d(attended, &gate, None, 1, 0)?;
        tape.add(x, attended)
    }
}

/// BigGAN-Deep's generator block: a bottleneck of a quarter of the input channels, with four conditional batch norms.
#[derive(Debug)]
pub struct GenBlock {
    norms: [CondNorm; 4],
    convs: [SnConv; 4],
    skip: SnConv,
    up: bool,
}

impl GenBlock {
    /// A block from `input` to `output` channels, conditioned on `cond` values. It doubles height and width if `up`.
    pub fn new(
        mut scope: Scope<'_>,
        input: usize,
        output: usize,
        cond: usize,
        up: bool,
        form: Form,
    ) -> gafi_nn::Result<Self> {
        let hidden = input / 4;
        let mut norm = |k: usize, channels| CondNorm::new(scope.sub(format_args!("norm{k}")), channels, cond, form);
        let norms = [norm(0, input)?, norm(1, hidden)?, norm(2, hidden)?, norm(3, hidden)?];
        let convs = bottleneck(&mut scope, input, hidden, output, form)?;
        let skip = SnConv::same(scope.sub("skip"), input, output, 1, form)?;
        Ok(Self { norms, convs, skip, up })
    }

    /// Maps x (N, I, H, W) under the condition c (N, cond) to (N, O, H, W), or (N, O, 2H, 2W) if it doubles the size.
    pub fn forward(&self, tape: &mut Tape, x: Value, c: &Tensor, pass: Pass) -> Result<Value> {
        let [first, second, third, fourth] = &self.convs;
        let h = self.norms[0].forward(tape, x, c, pass)?;
        let h = first.forward(tape.before_norm(), h, pass)?;
        let h = self.norms[1].forward(tape, h, c, pass)?;
        let tape = tape.before_norm();
        let h = if self.up { second.forward_upsampled(tape, h, pass)? } else { second.forward(tape, h, pass)? };
        let h = self.norms[2].forward(tape, h, c, pass)?;
        let h = third.forward(tape.before_norm(), h, pass)?;
        let h = self.norms[3].forward(tape, h, c, pass)?;
        let h = fourth.forward(tape, h, pass)?;
        let skip = self.skip.forward(tape, x, pass)?;
        let skip = if self.up { tape.upsample2x(skip)? } else { skip };
        tape.add(h, skip)
    }
}

/// BigGAN-Deep's discriminator block: a bottleneck of a quarter of the output channels.
#[derive(Debug)]
pub struct DiscBlock {
    convs: [SnConv; 4],
    skip: Option<SnConv>,
    down: bool,
}

impl DiscBlock {
    /// A block from `input` to `output` channels. It halves height and width if `down`.
    pub fn new(mut scope: Scope<'_>, input: usize, output: usize, down: bool) -> gafi_nn::Result<Self> {
        let convs = bottleneck(&mut scope, input, output / 4, output, Form::Training)?;
        let skip = || SnConv::same(scope.sub("skip"), input, output, 1, Form::Training);
        let skip = (input != output || down).then(skip).transpose()?;
        Ok(Self { convs, skip, down })
    }

    /// Maps x (N, I, H, W) to (N, O, H, W), or (N, O, H / 2, W / 2) if it halves the size.
    pub fn forward(&self, tape: &mut Tape, x: Value, pass: Pass) -> Result<Value> {
        let mut h = x;
        for (k, conv) in self.convs.iter().enumerate() {
            if self.down && k + 1 == self.convs.len() {
                h = tape.avg_pool2x2(h)?;
            }
            let relu = tape.activation(h, Activation::RELU)?;
            h = conv.forward(tape, relu, pass)?;
        }
        // The released program pools before the 1x1 convolution in some blocks and after it in others; the two
        // commute.
        let x = if self.down { tape.avg_pool2x2(x)? } else { x };
        let skip = match &self.skip {
            Some(skip) => skip.forward(tape, x, pass)?,
            None => x,
        };
        tape.add(h, skip)
    }
}

/// The convolutions of a bottleneck: 1x1, 3x3, 3x3, 1x1.
fn bottleneck(
    scope: &mut Scope<'_>,
    input: usize,
    hidden: usize,
    output: usize,
    form: Form,
) -> gafi_nn::Result<[SnConv; 4]> {
    let mut conv = |k: usize, i, o, size| SnConv::same(scope.sub(format_args!("conv{k}")), i, o, size, form);
    Ok([
        conv(0, input, hidden, 1)?,
        conv(1, hidden, hidden, 3)?,
        conv(2, hidden, hidden, 3)?,
        conv(3, hidden, output, 1)?,
    ])
}

/// The head of a discriminator: a linear output plus the projection of the features on the class embedding (Miyato and
/// Koyama 2018, arXiv 1802.05637).
///
/// The features are not scaled down: with scaling, the class signal was too weak to produce images of the right class.
#[derive(Debug)]
pub struct Projection {
    weight: Spectral,
    bias: Var,
    embedding: Spectral,
}

impl Projection {
    /// A head over `features` for `classes`. `spectral` normalises both weights, or neither.
    pub fn new(
        scope: &mut Scope<'_>,
        features: usize,
        classes: usize,
        init: Init,
        spectral: bool,
    ) -> gafi_nn::Result<Self> {
        let weight = |mut scope: Scope<'_>, rows: usize, init: Init| {
            let shape = [rows, features];
            if spectral {
                Spectral::new(&mut scope, &shape, init, Form::Training)
            } else {
                Spectral::plain(&mut scope, &shape, init)
            }
        };
        Ok(Self {
            weight: weight(scope.sub("linear"), 1, init)?,
            bias: scope.sub("linear").param("bias", 1, Init::Zeros)?,
            // Without normalisation the initial scale matters: PyTorch's default for embeddings.
            embedding: weight(
                scope.sub("embedding"),
                classes,
                if spectral { init } else { Init::Normal { std: 1.0 } },
            )?,
        })
    }

    /// Maps features h (N, features) and labels (N), u32, to logits (N).
    pub fn forward(&self, h: &Tensor, labels: &Tensor, pass: Pass) -> Result<Tensor> {
        let class = self.embedding.weight(pass)?.index_select(labels, 0)?;
        let linear = ops::linear(h, &self.weight.weight(pass)?, Some(&pass.var(&self.bias)))?;
        linear.squeeze(1)? + (class * h)?.sum(1)?
    }
}

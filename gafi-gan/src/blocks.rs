//! The parts that the networks are made of: spectrally normalised layers, batch norms with conditions, self-attention, and
//! BigGAN-Deep's two bottleneck blocks in StudioGAN's order.
//!
//! Two rearrangements save work and change nothing but rounding. A 1x1 convolution commutes with nearest upsampling and
//! with average pooling, so skips convolve at the smaller of the two sizes. And attention's gate multiplies the weight of
//! the convolution behind it rather than that convolution's output.

use candle_core::{Result, Tensor, Var};
use gafi_kernels::ops;
use gafi_kernels::trunk::{Tape, Value};
use gafi_nn::layers::RunningStats;
use gafi_nn::{Init, Scope};

use crate::pass::{Form, Pass, Statistics};
use crate::spectral::Spectral;

/// Added to variances. PyTorch's default.
pub const BN_EPS: f64 = 1e-5;

/// A convolution of stride 1 that keeps the size, spectrally normalised, orthogonally initialised.
#[derive(Debug)]
pub struct SnConv {
    weight: Spectral,
    bias: Option<Var>,
    stride: usize,
    padding: usize,
}

impl SnConv {
    /// `input` to `output` channels with an odd square `kernel`, with bias.
    pub fn same(mut scope: Scope<'_>, input: usize, output: usize, kernel: usize, form: Form) -> gafi_nn::Result<Self> {
        let weight = Spectral::new(&mut scope, &[output, input, kernel, kernel], Init::Orthogonal, form)?;
        let bias = Some(scope.param("bias", output, Init::Zeros)?);
        Ok(Self { weight, bias, stride: 1, padding: kernel / 2 })
    }

    /// 4x4, stride 2, padding 1: halves the size. Initial weights as PyTorch's default.
    pub fn halving(mut scope: Scope<'_>, input: usize, output: usize, form: Form) -> gafi_nn::Result<Self> {
        let weight = Spectral::new(&mut scope, &[output, input, 4, 4], torch_default(input * 16), form)?;
        let bias = Some(scope.param("bias", output, Init::Zeros)?);
        Ok(Self { weight, bias, stride: 2, padding: 1 })
    }

    /// 1x1 without bias.
    fn pointwise(mut scope: Scope<'_>, input: usize, output: usize, form: Form) -> gafi_nn::Result<Self> {
        let weight = Spectral::new(&mut scope, &[output, input, 1, 1], Init::Orthogonal, form)?;
        Ok(Self { weight, bias: None, stride: 1, padding: 0 })
    }

    /// x (N, I, H, W) to (N, O, H / stride, W / stride).
    pub fn forward(&self, tape: &mut Tape, x: Value, pass: Pass) -> Result<Value> {
        tape.conv2d(x, &self.weight.weight(pass)?, self.bias(pass).as_ref(), self.stride, self.padding)
    }

    /// x (N, I, H, W), upsampled, to (N, O, 2H, 2W).
    pub fn forward_upsampled(&self, tape: &mut Tape, x: Value, pass: Pass) -> Result<Value> {
        tape.upsample2x_conv2d(x, &self.weight.weight(pass)?, self.bias(pass).as_ref(), self.padding)
    }

    fn bias(&self, pass: Pass) -> Option<Tensor> {
        self.bias.as_ref().map(|bias| pass.var(bias))
    }
}

/// PyTorch's default initialisation of linear and convolutional weights: uniform within 1 / sqrt(fan-in).
pub(crate) fn torch_default(fan_in: usize) -> Init {
    Init::Uniform { bound: 1.0 / (fan_in.max(1) as f64).sqrt() }
}

/// A linear map, spectrally normalised.
#[derive(Debug)]
pub struct SnLinear {
    weight: Spectral,
    bias: Option<Var>,
}

impl SnLinear {
    /// `input` to `output` features.
    pub fn new(
        mut scope: Scope<'_>,
        input: usize,
        output: usize,
        bias: bool,
        init: Init,
        form: Form,
    ) -> gafi_nn::Result<Self> {
        let weight = Spectral::new(&mut scope, &[output, input], init, form)?;
        let bias = if bias { Some(scope.param("bias", output, Init::Zeros)?) } else { None };
        Ok(Self { weight, bias })
    }

    /// x (N, I) to (N, O).
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| pass.var(bias));
        ops::linear(x, &self.weight.weight(pass)?, bias.as_ref())
    }
}

/// Batch norm of x (N, C, H, W) with gain and shift (C) or (N, C), and relu behind it; the statistics are `pass`'s.
fn normalise(
    stats: &RunningStats,
    tape: &mut Tape,
    x: Value,
    gain: &Tensor,
    shift: &Tensor,
    pass: Pass,
) -> Result<Value> {
    let (moments, training) = match pass.statistics {
        Statistics::Batch { momentum } => (stats.observe(tape, x, momentum)?, true),
        Statistics::Running => (stats.moments(), false),
    };
    tape.batch_norm(x, gain, shift, &moments, training, BN_EPS, Some(0.0))
}

/// Batch norm and relu; gain and shift are parameters.
#[derive(Debug)]
pub struct Norm {
    gain: Var,
    shift: Var,
    stats: RunningStats,
}

impl Norm {
    /// Parameters `weight` and `bias` and the running statistics of `channels`.
    pub fn new(mut scope: Scope<'_>, channels: usize) -> gafi_nn::Result<Self> {
        Ok(Self {
            gain: scope.param("weight", channels, Init::Ones)?,
            shift: scope.param("bias", channels, Init::Zeros)?,
            stats: RunningStats::new(scope, channels)?,
        })
    }

    /// relu(norm(x)), x (N, C, H, W).
    pub fn forward(&self, tape: &mut Tape, x: Value, pass: Pass) -> Result<Value> {
        normalise(&self.stats, tape, x, &pass.var(&self.gain), &pass.var(&self.shift), pass)
    }
}

/// Batch norm and relu whose gain, 1 + g(c), and shift, b(c), are spectrally normalised linear maps of a condition c
/// (Brock et al. 2019, arXiv 1809.11096).
#[derive(Debug)]
pub struct CondNorm {
    gain: SnLinear,
    shift: SnLinear,
    stats: RunningStats,
}

impl CondNorm {
    /// For `channels` under a condition of `cond` values.
    pub fn new(mut scope: Scope<'_>, channels: usize, cond: usize, form: Form) -> gafi_nn::Result<Self> {
        Ok(Self {
            gain: SnLinear::new(scope.sub("gain"), cond, channels, false, Init::Orthogonal, form)?,
            shift: SnLinear::new(scope.sub("shift"), cond, channels, false, Init::Orthogonal, form)?,
            stats: RunningStats::new(scope, channels)?,
        })
    }

    /// relu(norm(x)), x (N, C, H, W), c (N, cond).
    pub fn forward(&self, tape: &mut Tape, x: Value, c: &Tensor, pass: Pass) -> Result<Value> {
        let gain = (self.gain.forward(c, pass)? + 1.0)?;
        normalise(&self.stats, tape, x, &gain, &self.shift.forward(c, pass)?, pass)
    }
}

/// Batch norm and relu whose gain, 1 + g, and shift are looked up by class.
#[derive(Debug)]
pub struct ClassNorm {
    gain: Var,
    shift: Var,
    stats: RunningStats,
}

impl ClassNorm {
    /// For `channels` and `classes`; all classes start alike.
    pub fn new(mut scope: Scope<'_>, channels: usize, classes: usize) -> gafi_nn::Result<Self> {
        Ok(Self {
            gain: scope.sub("gain").param("weight", (classes, channels), Init::Zeros)?,
            shift: scope.sub("shift").param("weight", (classes, channels), Init::Zeros)?,
            stats: RunningStats::new(scope, channels)?,
        })
    }

    /// relu(norm(x)), x (N, C, H, W), labels (N) u32.
    pub fn forward(&self, tape: &mut Tape, x: Value, labels: &Tensor, pass: Pass) -> Result<Value> {
        let gain = (pass.var(&self.gain).index_select(labels, 0)? + 1.0)?;
        let shift = pass.var(&self.shift).index_select(labels, 0)?;
        normalise(&self.stats, tape, x, &gain, &shift, pass)
    }
}

/// Self-attention with a gate that starts closed (Zhang et al. 2019, arXiv 1805.08318): keys and values are pooled 2x2.
#[derive(Debug)]
pub struct Attention {
    query: SnConv,
    key: SnConv,
    value: SnConv,
    out: Spectral,
    scale: Var,
}

impl Attention {
    /// For `channels`, 8 at least.
    pub fn new(mut scope: Scope<'_>, channels: usize, form: Form) -> gafi_nn::Result<Self> {
        let (narrow, half) = (channels / 8, channels / 2);
        Ok(Self {
            query: SnConv::pointwise(scope.sub("query"), channels, narrow, form)?,
            key: SnConv::pointwise(scope.sub("key"), channels, narrow, form)?,
            value: SnConv::pointwise(scope.sub("value"), channels, half, form)?,
            out: Spectral::new(&mut scope.sub("out"), &[channels, half, 1, 1], Init::Orthogonal, form)?,
            scale: scope.param("scale", 1, Init::Zeros)?,
        })
    }

    /// x (N, C, H, W), H and W even, to the same shape.
    pub fn forward(&self, tape: &mut Tape, x: Value, pass: Pass) -> Result<Value> {
        let query = self.query.forward(tape, x, pass)?;
        let key = self.key.forward(tape, x, pass)?;
        let value = self.value.forward(tape, x, pass)?;
        let (key, value) = (tape.max_pool2x2(key)?, tape.max_pool2x2(value)?);
        let seen = tape.attend(query, key, value)?;
        let gate = self.out.weight(pass)?.broadcast_mul(&pass.var(&self.scale).reshape((1, 1, 1, 1))?)?;
        let seen = tape.conv2d(seen, &gate, None, 1, 0)?;
        tape.add(x, seen)
    }
}

/// BigGAN-Deep's generator block: a bottleneck of a quarter of the input's width with four conditional batch norms.
#[derive(Debug)]
pub struct GenBlock {
    norms: [CondNorm; 4],
    convs: [SnConv; 4],
    skip: SnConv,
    up: bool,
}

impl GenBlock {
    /// `input` to `output` channels; doubles the size when `up`.
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

    /// x (N, I, H, W), c (N, cond) to (N, O, H, W) or (N, O, 2H, 2W).
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

/// BigGAN-Deep's discriminator block: a bottleneck of a quarter of the output's width.
#[derive(Debug)]
pub struct DiscBlock {
    convs: [SnConv; 4],
    skip: Option<SnConv>,
    down: bool,
}

impl DiscBlock {
    /// `input` to `output` channels; halves the size when `down`.
    pub fn new(mut scope: Scope<'_>, input: usize, output: usize, down: bool, form: Form) -> gafi_nn::Result<Self> {
        let convs = bottleneck(&mut scope, input, output / 4, output, form)?;
        let skip =
            if input != output || down { Some(SnConv::same(scope.sub("skip"), input, output, 1, form)?) } else { None };
        Ok(Self { convs, skip, down })
    }

    /// x (N, I, H, W) to (N, O, H, W) or (N, O, H/2, W/2).
    pub fn forward(&self, tape: &mut Tape, x: Value, pass: Pass) -> Result<Value> {
        let mut h = x;
        for (k, conv) in self.convs.iter().enumerate() {
            if self.down && k + 1 == self.convs.len() {
                h = tape.avg_pool2x2(h)?;
            }
            let relu = tape.leaky_relu(h, 0.0)?;
            h = conv.forward(tape, relu, pass)?;
        }
        // The published order of pooling and convolution differs between the first block and the others; they commute.
        let x = if self.down { tape.avg_pool2x2(x)? } else { x };
        let skip = match &self.skip {
            Some(skip) => skip.forward(tape, x, pass)?,
            None => x,
        };
        tape.add(h, skip)
    }
}

/// 1x1, 3x3, 3x3, 1x1.
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

/// The end of a discriminator: a linear output plus the projection of the features on the class's embedding (Miyato and
/// Koyama 2018, arXiv 1802.05637).
///
/// The features are not scaled: scaled down, the class's signal was too weak to make images of the class that was asked for.
#[derive(Debug)]
pub struct Projection {
    weight: Spectral,
    bias: Var,
    embedding: Spectral,
}

impl Projection {
    /// For `features` and `classes`; both weights spectrally normalised, or neither.
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
            // Where no norm scales it anyway, as wide as torch draws its embeddings.
            embedding: weight(
                scope.sub("embedding"),
                classes,
                if spectral { init } else { Init::Normal { std: 1.0 } },
            )?,
        })
    }

    /// h (N, features), labels (N) u32 to logits (N).
    pub fn forward(&self, h: &Tensor, labels: &Tensor, pass: Pass) -> Result<Tensor> {
        let class = self.embedding.weight(pass)?.index_select(labels, 0)?;
        let linear = ops::linear(h, &self.weight.weight(pass)?, Some(&pass.var(&self.bias)))?;
        linear.squeeze(1)? + (class * h)?.sum(1)?
    }
}

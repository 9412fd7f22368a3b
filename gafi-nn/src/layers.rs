//! Layers: convolution, linear, batch norm. Each holds its parameters and computes its output.
//!
//! The mode is an argument, not a state, so a network can be evaluated during training without switching it.

use candle_core::{Tensor, Var};
use gafi_core::{Error, ImageSpec};
use gafi_kernels::ops;
use gafi_kernels::trunk::{Activation, Moments, Tape, Value};

use crate::error::Result;
use crate::optim::move_towards;
use crate::params::{Init, Scope};

/// The mode of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Weights get gradients; batch norms use the batch's statistics and update the running ones.
    Train,
    /// Weights get no gradients, the input does; batch norms use the running statistics. An image's result does not
    /// depend on its batch.
    Eval,
}

impl Mode {
    /// The tensor of `var`, detached from the graph in [`Mode::Eval`].
    pub fn weight(self, var: &Var) -> Tensor {
        match self {
            Self::Train => var.as_tensor().clone(),
            Self::Eval => var.as_detached_tensor(),
        }
    }
}

/// Checks that images have channels and at least `min` x `min` pixels.
pub(crate) fn check_image(image: &ImageSpec, min: usize) -> gafi_core::Result<()> {
    if image.height < min || image.width < min || image.channels == 0 {
        return Err(Error::config("image", image, format!("at least {min}x{min} pixels and one channel")));
    }
    Ok(())
}

/// Convolution (N, I, H, W) to (N, O, H', W') with a square kernel.
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// Weight (O, I, K, K).
    pub weight: Var,
    /// Bias (O).
    pub bias: Option<Var>,
    stride: usize,
    padding: usize,
}

/// Hyper-parameters of a [`Conv2d`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Zeros padded on each side.
    pub padding: usize,
    /// Whether there is a bias. It starts at 0.
    pub bias: bool,
}

impl ConvShape {
    /// Stride 1, an odd `kernel`, the same height and width out as in, with bias.
    pub const fn same(input: usize, output: usize, kernel: usize) -> Self {
        Self { input, output, kernel, stride: 1, padding: kernel / 2, bias: true }
    }
}

impl Conv2d {
    /// Creates the parameters `weight`, drawn by `init`, and `bias`, if there is one, in `scope`.
    pub fn new(mut scope: Scope<'_>, shape: ConvShape, init: Init) -> Result<Self> {
        let ConvShape { input, output, kernel, stride, padding, bias } = shape;
        let weight = scope.param("weight", (output, input, kernel, kernel), init)?;
        let bias = if bias { Some(scope.param("bias", output, Init::Zeros)?) } else { None };
        Ok(Self { weight, bias, stride, padding })
    }

    /// Maps x (N, I, H, W) to (N, O, H', W').
    pub fn forward(&self, tape: &mut Tape, x: Value, mode: Mode) -> candle_core::Result<Value> {
        let bias = self.bias.as_ref().map(|bias| mode.weight(bias));
        tape.conv2d(x, &mode.weight(&self.weight), bias.as_ref(), self.stride, self.padding)
    }
}

/// A linear layer from (N, I) to (N, O).
#[derive(Debug, Clone)]
pub struct Linear {
    /// Weight (O, I).
    pub weight: Var,
    /// Bias (O).
    pub bias: Option<Var>,
}

impl Linear {
    /// Creates the parameters `weight`, drawn by `init`, and `bias` (0), if there is one, in `scope`.
    pub fn new(mut scope: Scope<'_>, input: usize, output: usize, bias: bool, init: Init) -> Result<Self> {
        let weight = scope.param("weight", (output, input), init)?;
        let bias = if bias { Some(scope.param("bias", output, Init::Zeros)?) } else { None };
        Ok(Self { weight, bias })
    }

    /// Maps x (N, I) to (N, O).
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| mode.weight(bias));
        Ok(ops::linear(x, &mode.weight(&self.weight), bias.as_ref())?)
    }
}

/// Batch normalisation over (N, H, W) (Ioffe and Szegedy 2015, arXiv 1502.03167), optionally followed by relu.
///
/// The running statistics are the buffers `running_mean` and `running_var` (unbiased). Their momentum is 0.1 in
/// PyTorch's terms, 0.9 in Keras'.
#[derive(Debug, Clone)]
pub struct BatchNorm2d {
    /// Gain (C).
    pub gain: Var,
    /// Bias (C).
    pub bias: Var,
    /// Running statistics.
    pub stats: RunningStats,
    eps: f64,
}

impl BatchNorm2d {
    /// Creates the parameters `weight` (1) and `bias` (0) and the running statistics in `scope`.
    pub fn new(mut scope: Scope<'_>, channels: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            gain: scope.param("weight", channels, Init::Ones)?,
            bias: scope.param("bias", channels, Init::Zeros)?,
            stats: RunningStats::new(scope, channels)?,
            eps,
        })
    }

    /// Normalises x (N, C, H, W), followed by relu if `relu`. [`Mode::Train`] updates the running statistics.
    pub fn forward(&self, tape: &mut Tape, x: Value, mode: Mode, relu: bool) -> candle_core::Result<Value> {
        let train = mode == Mode::Train;
        let moments = self.stats.moments(tape, x, train.then_some(MOMENTUM))?;
        let gain = mode.weight(&self.gain);
        let bias = mode.weight(&self.bias);
        tape.batch_norm(x, &gain, &bias, &moments, train, self.eps, relu.then_some(Activation::RELU))
    }
}

/// Running mean and variance of each channel, for plain and conditional batch norms.
#[derive(Debug, Clone)]
pub struct RunningStats {
    /// Mean (C), initially 0.
    pub mean: Var,
    /// Unbiased variance (C), initially 1.
    pub var: Var,
}

/// Weight of a batch's statistics in the running ones.
const MOMENTUM: f64 = 0.1;

impl RunningStats {
    /// Creates the buffers `running_mean` and `running_var` in `scope`.
    pub fn new(mut scope: Scope<'_>, channels: usize) -> Result<Self> {
        Ok(Self {
            mean: scope.buffer("running_mean", channels, Init::Zeros)?,
            var: scope.buffer("running_var", channels, Init::Ones)?,
        })
    }

    /// The statistics that a batch norm uses. With a `momentum` they are those of x (N, C, H, W), and the running ones are
    /// updated: running += momentum * (batch - running). Without one they are the running ones.
    ///
    /// With `momentum` 1 / k for the k-th of several batches, the running ones become the mean over all batches (standing
    /// statistics).
    pub fn moments(&self, tape: &Tape, x: Value, momentum: Option<f64>) -> candle_core::Result<Moments> {
        let Some(momentum) = momentum else {
            return Ok(Moments { mean: self.mean.as_detached_tensor(), var: self.var.as_detached_tensor(), count: 0 });
        };
        let moments = tape.moments(x)?;
        // A single value has no unbiased variance. PyTorch fails; a variance of 0 is harmless.
        let count = moments.count as f64;
        let unbias = if moments.count > 1 { count / (count - 1.0) } else { 1.0 };
        move_towards(&self.mean, &moments.mean, 1.0 - momentum, momentum)?;
        move_towards(&self.var, &moments.var, 1.0 - momentum, momentum * unbias)?;
        Ok(moments)
    }
}

//! Layers: parameters plus the op that uses them.
//!
//! The mode is an argument, not a state: one network can train and be looked at without being switched. In
//! [`Mode::Eval`] weights enter detached, so that no graph is kept of them; gradients still reach the input.

use candle_core::{Tensor, Var};
use gafi_kernels::ops;
use gafi_kernels::trunk::{Moments, Tape, Value};

use crate::error::Result;
use crate::optim::move_towards;
use crate::params::{Init, Scope};

/// Whether a forward pass trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Gradients for the weights; batch norm uses and records the batch's statistics.
    Train,
    /// No gradients for the weights; batch norm uses its running statistics. The result for an image does not depend on
    /// its batch.
    Eval,
}

impl Mode {
    /// `var` for this mode: with its gradient, or without.
    pub fn weight(self, var: &Var) -> Tensor {
        match self {
            Self::Train => var.as_tensor().clone(),
            Self::Eval => var.as_detached_tensor(),
        }
    }
}

/// Convolution (N, I, H, W) to (N, O, H', W') with a square kernel.
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// (O, I, K, K)
    pub weight: Var,
    /// (O)
    pub bias: Option<Var>,
    stride: usize,
    padding: usize,
}

/// The shape of a [`Conv2d`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels in.
    pub input: usize,
    /// Channels out.
    pub output: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Step of the kernel.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: usize,
    /// Whether a bias, zero at the start, is added.
    pub bias: bool,
}

impl ConvShape {
    /// A convolution that keeps the image's size (odd kernel, stride 1, half padding), with bias.
    pub const fn same(input: usize, output: usize, kernel: usize) -> Self {
        Self { input, output, kernel, stride: 1, padding: kernel / 2, bias: true }
    }
}

impl Conv2d {
    /// Parameters `weight` (drawn by `init`) and, if asked, `bias` in `scope`.
    pub fn new(mut scope: Scope<'_>, shape: ConvShape, init: Init) -> Result<Self> {
        let ConvShape { input, output, kernel, stride, padding, bias } = shape;
        let weight = scope.param("weight", (output, input, kernel, kernel), init)?;
        let bias = if bias { Some(scope.param("bias", output, Init::Zeros)?) } else { None };
        Ok(Self { weight, bias, stride, padding })
    }

    /// x (N, I, H, W) to (N, O, H', W').
    pub fn forward(&self, tape: &mut Tape, x: Value, mode: Mode) -> candle_core::Result<Value> {
        let bias = self.bias.as_ref().map(|bias| mode.weight(bias));
        tape.conv2d(x, &mode.weight(&self.weight), bias.as_ref(), self.stride, self.padding)
    }
}

/// Fully connected layer (N, I) to (N, O).
#[derive(Debug, Clone)]
pub struct Linear {
    /// (O, I)
    pub weight: Var,
    /// (O)
    pub bias: Option<Var>,
}

impl Linear {
    /// Parameters `weight` (drawn by `init`) and, if asked, `bias` (zero) in `scope`.
    pub fn new(mut scope: Scope<'_>, input: usize, output: usize, bias: bool, init: Init) -> Result<Self> {
        let weight = scope.param("weight", (output, input), init)?;
        let bias = if bias { Some(scope.param("bias", output, Init::Zeros)?) } else { None };
        Ok(Self { weight, bias })
    }

    /// x (N, I) to (N, O).
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| mode.weight(bias));
        Ok(ops::linear(x, &mode.weight(&self.weight), bias.as_ref())?)
    }
}

/// Batch normalisation over (N, H, W) (Ioffe and Szegedy 2015, arXiv 1502.03167), optionally with the relu behind it.
///
/// Running statistics are buffers `running_mean` and `running_var` (unbiased), moved by 0.1 towards the batch's:
/// PyTorch's momentum 0.1 is Keras' 0.9.
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
    /// Parameters `weight` (1) and `bias` (0) and the running statistics of `channels` in `scope`.
    pub fn new(mut scope: Scope<'_>, channels: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            gain: scope.param("weight", channels, Init::Ones)?,
            bias: scope.param("bias", channels, Init::Zeros)?,
            stats: RunningStats::new(scope, channels)?,
            eps,
        })
    }

    /// x (N, C, H, W) normalised, and its negative part cut off if `relu`. In [`Mode::Train`] the running statistics move.
    pub fn forward(&self, tape: &mut Tape, x: Value, mode: Mode, relu: bool) -> candle_core::Result<Value> {
        let moments = match mode {
            Mode::Train => self.stats.observe(tape, x, MOMENTUM)?,
            Mode::Eval => self.stats.moments(),
        };
        let (gain, bias) = (mode.weight(&self.gain), mode.weight(&self.bias));
        tape.batch_norm(x, &gain, &bias, &moments, mode == Mode::Train, self.eps, relu.then_some(0.0))
    }
}

/// Running mean and variance of each channel, shared by plain and conditional batch norm.
#[derive(Debug, Clone)]
pub struct RunningStats {
    /// (C), starts at 0.
    pub mean: Var,
    /// (C), unbiased, starts at 1.
    pub var: Var,
}

/// How far running statistics move towards a batch's.
const MOMENTUM: f64 = 0.1;

impl RunningStats {
    /// Buffers `running_mean` and `running_var` in `scope`.
    pub fn new(mut scope: Scope<'_>, channels: usize) -> Result<Self> {
        Ok(Self {
            mean: scope.buffer("running_mean", channels, 0.0)?,
            var: scope.buffer("running_var", channels, 1.0)?,
        })
    }

    /// The running statistics as moments.
    pub fn moments(&self) -> Moments {
        Moments { mean: self.mean.as_detached_tensor(), var: self.var.as_detached_tensor(), count: 0 }
    }

    /// The statistics of x (N, C, H, W), towards which the running ones are moved by `momentum`.
    ///
    /// With `momentum` 1 / k for the k-th of many batches they become the plain mean over all of them (standing statistics).
    pub fn observe(&self, tape: &Tape, x: Value, momentum: f64) -> candle_core::Result<Moments> {
        let moments = tape.moments(x)?;
        // One value a channel has no unbiased variance; PyTorch refuses, the biased 0 harms less.
        let count = moments.count as f64;
        let unbias = if moments.count > 1 { count / (count - 1.0) } else { 1.0 };
        move_towards(&self.mean, &moments.mean, 1.0 - momentum, momentum)?;
        move_towards(&self.var, &moments.var, 1.0 - momentum, momentum * unbias)?;
        Ok(moments)
    }
}

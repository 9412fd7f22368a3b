//! SGDW, SGD and Adam with a state that can be saved.
//!
//! Candle's SGD has no momentum and its AdamW hides its moments, so neither could be resumed. On the CPU one pass over
//! each tensor updates moments and weights in place, in parallel chunks. A value depends only on its own history, so
//! the number of threads changes no result. On other devices the update is composed of Candle's ops.
//!
//! A parameter without a gradient is left unchanged, even by weight decay, as in PyTorch.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Tensor, Var};
#[cfg(feature = "cuda")]
use gafi_kernels::cuda;
use rayon::prelude::*;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::params::{Params, copy, load_exact};

/// Minimum number of values updated by one task.
const CHUNK: usize = 16 * 1024;

/// An optimiser of the parameters of one network.
pub trait Optimizer: Send {
    /// Updates every parameter that has a gradient in `grads`, with the learning rate `lr`.
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()>;
    /// The state to resume from: copies of the moments and the step count, by name.
    fn state(&self) -> Result<BTreeMap<String, Tensor>>;
    /// Restores an [`Optimizer::state`]. Names and shapes must match exactly.
    fn load(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()>;
}

/// Stochastic gradient descent with momentum and decoupled weight decay (SGDW, Loshchilov and Hutter 2019, arXiv
/// 1711.05101).
///
/// A step computes `w -= decay * w`, then `buf = momentum * buf + lr * g`, then `w -= lr * g + momentum * buf` with
/// Nesterov momentum or `w -= buf` without. The learning rate is inside the buffer, as in Keras, so a drop takes effect
/// over several steps; PyTorch keeps it outside.
///
/// The decay is NOT multiplied by the learning rate, so a schedule does not change it, and it applies to every
/// parameter, including gains and biases of batch norms. All of it is as in the released program (TensorFlow Addons'
/// `SGDW`).
#[derive(Debug)]
pub struct Sgdw {
    /// Momentum, 0 to below 1.
    pub momentum: f64,
    /// Whether to use Nesterov momentum.
    pub nesterov: bool,
    /// Share of each weight subtracted in each step, 0 to below 1.
    pub weight_decay: f64,
    slots: Vec<Slot>,
}

impl Sgdw {
    /// An optimiser of all trainable parameters of `params`. Its buffers start at 0.
    pub fn new(params: &Params, momentum: f64, nesterov: bool, weight_decay: f64) -> Result<Self> {
        Ok(Self { momentum, nesterov, weight_decay, slots: slots(params)? })
    }
}

impl Optimizer for Sgdw {
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        let momentum = self.momentum;
        let decay = self.weight_decay;
        let (look, ahead) = if self.nesterov { (1.0, momentum) } else { (0.0, 1.0) };
        #[cfg(feature = "cuda")]
        if on_gpu(self.slots.iter().map(|slot| &slot.var)) {
            let grads = gradients(self.slots.iter().map(|slot| &slot.var), grads)?;
            let rows = self
                .slots
                .iter()
                .zip(&grads)
                .filter_map(|(slot, grad)| Some([slot.var.as_tensor(), grad.as_ref()?, slot.buf.as_tensor()]));
            let step = cuda::SgdStep {
                momentum: momentum as f32,
                keep: (1.0 - decay) as f32,
                lr: lr as f32,
                look,
                ahead: ahead as f32,
            };
            return Ok(cuda::sgd(&rows.collect::<Vec<_>>(), &step)?);
        }
        for Slot { var, buf, .. } in &self.slots {
            let Some(grad) = grads.get(var) else { continue };
            let grad = grad.detach().contiguous()?;
            move_towards(buf, &grad, momentum, lr)?;
            if var.device().is_cpu() {
                update_weights(var, &grad, buf, (1.0 - decay) as f32, look * lr as f32, ahead as f32)?;
            } else {
                let buf = buf.as_detached_tensor();
                let update = if self.nesterov { ((grad * lr)? + (buf * momentum)?)? } else { buf };
                var.set(&((var.as_detached_tensor() * (1.0 - decay))? - update)?)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        copies(buffers(&self.slots))
    }

    fn load(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        load_exact("optimiser", &buffers(&self.slots), state)
    }
}

/// Stochastic gradient descent with momentum as PyTorch computes it: with g the gradient plus `weight_decay * w`, a step is
/// `buf = momentum * buf + g`, then `w -= lr * (g + momentum * buf)` with Nesterov momentum or `w -= lr * buf` without.
///
/// The learning rate of the biases of batch norms is multiplied by `bias_rate`, and their weight decay divided by it.
#[derive(Debug)]
pub struct Sgd {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
    bias_rate: f64,
    pub(crate) slots: Vec<Slot>,
}

impl Sgd {
    /// An optimiser of all trainable parameters of `params`. Its buffers start at 0. `momentum` is 0 to below 1; `bias_rate`
    /// applies to parameters whose name ends with `bias` in a layer whose name contains `norm`.
    pub fn new(params: &Params, momentum: f64, nesterov: bool, weight_decay: f64, bias_rate: f64) -> Result<Self> {
        Ok(Self { momentum, nesterov, weight_decay, bias_rate, slots: slots(params)? })
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        for Slot { name, var, buf } in &self.slots {
            let Some(grad) = grads.get(var) else { continue };
            let grad = grad.detach().contiguous()?;
            let rate = if name.contains("norm") && name.ends_with("bias") { self.bias_rate } else { 1.0 };
            let lr = lr * rate;
            let decay = self.weight_decay / rate;
            let (look, ahead) = if self.nesterov { (1.0, self.momentum) } else { (0.0, 1.0) };
            if var.device().is_cpu() {
                let keep = (1.0 - look * lr * decay) as f32;
                let momentum = self.momentum as f32;
                let decay = decay as f32;
                zip3(buf, &grad, var, move |b, g, w| momentum * b + (g + decay * w))?;
                update_weights(var, &grad, buf, keep, (look * lr) as f32, (ahead * lr) as f32)?;
            } else {
                let weights = var.as_detached_tensor();
                let grad = (grad + (&weights * decay)?)?;
                buf.set(&((buf.as_detached_tensor() * self.momentum)? + &grad)?)?;
                let update = ((grad * look)? + (buf.as_detached_tensor() * ahead)?)?;
                var.set(&(weights - (update * lr)?)?)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        copies(buffers(&self.slots))
    }

    fn load(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        load_exact("optimiser", &buffers(&self.slots), state)
    }
}

/// Adam (Kingma and Ba 2015, arXiv 1412.6980) with Keras' semantics: a step is `w -= lr * sqrt(1 - beta2^t) / (1 -
/// beta1^t) * m / (sqrt(v) + eps)`, the reordered form at the end of the paper's section 2. Its `eps` is the paper's
/// epsilon hat: beside a second moment that is not yet bias-corrected, it weighs more in early steps than PyTorch's.
///
/// All parameters share one step count, the number of calls of [`Optimizer::step`].
#[derive(Debug)]
pub struct Adam {
    /// Decay of the first moment, 0 to below 1.
    pub beta1: f64,
    /// Decay of the second moment, 0 to below 1.
    pub beta2: f64,
    /// Added to the square root of the uncorrected second moment, above 0.
    pub eps: f64,
    steps: u64,
    slots: Vec<(String, Var, Var, Var)>,
}

impl Adam {
    /// An optimiser of all trainable parameters of `params`. Its moments start at 0.
    pub fn new(params: &Params, beta1: f64, beta2: f64, eps: f64) -> Result<Self> {
        let slots = params.vars().map(|(name, var)| Ok((name.to_string(), var.clone(), zeros(var)?, zeros(var)?)));
        Ok(Self { beta1, beta2, eps, steps: 0, slots: slots.collect::<Result<_>>()? })
    }

    fn moments(&self) -> BTreeMap<String, &Var> {
        let both = self.slots.iter().flat_map(|(name, _, m, v)| [(format!("m.{name}"), m), (format!("v.{name}"), v)]);
        both.collect()
    }
}

impl Optimizer for Adam {
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        self.steps += 1;
        let b1 = self.beta1;
        let b2 = self.beta2;
        let steps = self.steps.min(i32::MAX as u64) as i32;
        let rate = lr * (1.0 - b2.powi(steps)).sqrt() / (1.0 - b1.powi(steps));
        #[cfg(feature = "cuda")]
        if on_gpu(self.slots.iter().map(|(_, var, ..)| var)) {
            let grads = gradients(self.slots.iter().map(|(_, var, ..)| var), grads)?;
            let rows = self.slots.iter().zip(&grads).filter_map(|((_, var, m, v), grad)| {
                Some([var.as_tensor(), grad.as_ref()?, m.as_tensor(), v.as_tensor()])
            });
            let step = cuda::AdamStep { beta1: b1, beta2: b2, rate: rate as f32, eps: self.eps as f32 };
            return Ok(cuda::adam(&rows.collect::<Vec<_>>(), &step)?);
        }
        for (_, var, m, v) in &self.slots {
            let Some(grad) = grads.get(var) else { continue };
            let grad = grad.detach().contiguous()?;
            move_towards(m, &grad, b1, 1.0 - b1)?;
            if var.device().is_cpu() {
                let beta = b2 as f32;
                let rest = (1.0 - b2) as f32;
                zip2(v, &grad, move |v, g| beta * v + rest * (g * g))?;
                let rate = rate as f32;
                let eps = self.eps as f32;
                zip3(var, m, v, move |w, m, v| w - rate * (m / (v.sqrt() + eps)))?;
            } else {
                v.set(&((v.as_detached_tensor() * b2)? + (grad.sqr()? * (1.0 - b2))?)?)?;
                let below = (v.as_detached_tensor().sqrt()? + self.eps)?;
                var.set(&(var.as_detached_tensor() - ((m.as_detached_tensor() / below)? * rate)?)?)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = copies(self.moments())?;
        checkpoint::add_count(&mut state, "step", self.steps)?;
        Ok(state)
    }

    fn load(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let steps = checkpoint::count(state, "step")?;
        let mut moments = state.clone();
        moments.remove("step");
        load_exact("optimiser", &self.moments(), &moments)?;
        self.steps = steps;
        Ok(())
    }
}

/// Whether the parameters are on a GPU, where one kernel launch updates many of them.
#[cfg(feature = "cuda")]
fn on_gpu<'a>(mut vars: impl Iterator<Item = &'a Var>) -> bool {
    vars.next().is_some_and(|var| var.device().is_cuda())
}

/// The contiguous gradient of each parameter, where there is one.
#[cfg(feature = "cuda")]
fn gradients<'a>(vars: impl Iterator<Item = &'a Var>, grads: &GradStore) -> Result<Vec<Option<Tensor>>> {
    vars.map(|var| Ok(grads.get(var).map(|grad| grad.detach().contiguous()).transpose()?)).collect()
}

/// A parameter with its momentum buffer.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) var: Var,
    pub(crate) buf: Var,
}

/// All trainable parameters of `params`, with buffers of zeros.
fn slots(params: &Params) -> Result<Vec<Slot>> {
    params.vars().map(|(name, var)| Ok(Slot { name: name.into(), var: var.clone(), buf: zeros(var)? })).collect()
}

/// The momentum buffers, by their names in the state of an optimiser.
pub(crate) fn buffers<'a>(slots: impl IntoIterator<Item = &'a Slot>) -> BTreeMap<String, &'a Var> {
    slots.into_iter().map(|slot| (format!("momentum.{}", slot.name), &slot.buf)).collect()
}

/// Copies of all values.
pub(crate) fn copies(vars: BTreeMap<String, &Var>) -> Result<BTreeMap<String, Tensor>> {
    vars.into_iter().map(|(name, var)| Ok((name, copy(var)?))).collect()
}

/// A buffer of zeros of the shape of `var`.
fn zeros(var: &Var) -> Result<Var> {
    if var.dtype() != DType::F32 {
        return Err(Error::Input { what: "parameter", expected: "f32".into(), found: var.dtype().as_str().into() });
    }
    Ok(Var::zeros(var.shape(), DType::F32, var.device())?)
}

/// Sets var to keep * var + share * to, in place.
pub(crate) fn move_towards(var: &Var, to: &Tensor, keep: f64, share: f64) -> candle_core::Result<()> {
    if var.device().is_cpu() {
        let keep = keep as f32;
        let share = share as f32;
        return zip2(var, to, move |x, y| keep * x + share * y);
    }
    var.set(&((var.as_detached_tensor() * keep)? + (to * share)?)?)
}

/// SGD's update on the CPU: `w = keep * w - (look * g + ahead * buf)`.
fn update_weights(var: &Var, grad: &Tensor, buf: &Var, keep: f32, look: f32, ahead: f32) -> candle_core::Result<()> {
    zip3(var, grad, buf, move |w, g, b| keep * w - (look * g + ahead * b))
}

/// Sets each value of `var`, on the CPU, to `f` of it and the value of `other` at its place.
fn zip2(var: &Var, other: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> candle_core::Result<()> {
    var.inplace_op2(other, &Zip2(f))
}

/// Sets each value of `var`, on the CPU, to `f` of it and the values of `a` and `b` at its place.
fn zip3(var: &Var, a: &Tensor, b: &Tensor, f: impl Fn(f32, f32, f32) -> f32 + Sync) -> candle_core::Result<()> {
    var.inplace_op3(a, b, &Zip3(f))
}

struct Zip2<F>(F);

impl<F: Fn(f32, f32) -> f32 + Sync> InplaceOp2 for Zip2<F> {
    fn name(&self) -> &'static str {
        "zip2"
    }
    fn cpu_fwd(&self, d: &mut CpuStorage, dl: &Layout, s: &CpuStorage, sl: &Layout) -> candle_core::Result<()> {
        let Self(f) = self;
        let d = target(d, dl)?;
        let s = source(s, sl, d.len())?;
        d.par_chunks_mut(CHUNK).zip(s.par_chunks(CHUNK)).for_each(|(d, s)| {
            d.iter_mut().zip(s).for_each(|(d, s)| *d = f(*d, *s));
        });
        Ok(())
    }
}

struct Zip3<F>(F);

impl<F: Fn(f32, f32, f32) -> f32 + Sync> InplaceOp3 for Zip3<F> {
    fn name(&self) -> &'static str {
        "zip3"
    }
    fn cpu_fwd(
        &self,
        d: &mut CpuStorage,
        dl: &Layout,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> candle_core::Result<()> {
        let Self(f) = self;
        let d = target(d, dl)?;
        let a = source(a, al, d.len())?;
        let b = source(b, bl, d.len())?;
        d.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((d, a), b)| {
            d.iter_mut().zip(a).zip(b).for_each(|((d, a), b)| *d = f(*d, *a, *b));
        });
        Ok(())
    }
}

/// Where the values of a contiguous tensor are.
fn range(layout: &Layout) -> candle_core::Result<Range<usize>> {
    let Some((from, to)) = layout.contiguous_offsets() else {
        candle_core::bail!("an in-place update needs contiguous tensors, found strides {:?}", layout.stride())
    };
    Ok(from..to)
}

fn target<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[range(layout)?]),
        _ => candle_core::bail!("an in-place update needs f32"),
    }
}

/// The new values for an update of `count` values.
fn source<'a>(storage: &'a CpuStorage, layout: &Layout, count: usize) -> candle_core::Result<&'a [f32]> {
    let values = &storage.as_slice::<f32>()?[range(layout)?];
    if values.len() != count {
        candle_core::bail!("an in-place update of {count} values needs as many new ones, found {}", values.len())
    }
    Ok(values)
}

//! Muon (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon>) for convolutions, as in airbench94_muon.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::optim::{Optimizer, Sgd, Slot, buffers, copies, move_towards};
use crate::params::load_exact;

/// Coefficients of the quintic Newton-Schulz iteration. They move small singular values up as fast as possible and settle all
/// of them between 0.5 and 1.5 instead of at 1, which was found to train as well.
const QUINTIC: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
/// Iterations for one update.
const ITERATIONS: usize = 3;
/// Added to norms before they divide.
const EPS: f64 = 1e-7;

/// Configuration of the optimiser [`Muon`](crate::OptimizerKind::Muon): how the filters of convolutions are updated.
///
/// With W a filter tensor (O, I, K, K) as a matrix (O, I K K) and g its gradient, a step is `buf = momentum * buf + g`, then
/// `W = W * sqrt(O) / |W| - lr * orthogonal(g + momentum * buf)`, where |W| is the Frobenius norm. `orthogonal` brings all
/// singular values of a matrix near 1, so rare directions of the gradient count as much as dominant ones. Scaling W takes
/// the place of weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct MuonConfig {
    /// Highest learning rate of convolution filters, above 0. The schedule scales it as it scales `lr`. A step changes
    /// weights of root mean square r by about r times the rate.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub lr: f64,
    /// Nesterov momentum of convolution filters, 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub momentum: f64,
}

impl Default for MuonConfig {
    /// The values of airbench94_muon.
    fn default() -> Self {
        Self { lr: 0.24, momentum: 0.6 }
    }
}

/// Muon for the filters of convolutions, [`Sgd`] for all other parameters. [`MuonConfig`] has the formula.
#[derive(Debug)]
pub(crate) struct Muon {
    momentum: f64,
    /// Learning rate of the filters, as a multiple of that of the other parameters.
    rate: f64,
    filters: Vec<Slot>,
    others: Sgd,
}

impl Muon {
    /// Takes the filters from `sgd`, which keeps the other parameters. Filters have `rate` times the learning rate of a step.
    pub(crate) fn new(mut sgd: Sgd, momentum: f64, rate: f64) -> Self {
        let filters = sgd.slots.extract_if(.., |slot| slot.var.rank() == 4).collect();
        Self { momentum, rate, filters, others: sgd }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.filters.iter().chain(&self.others.slots)
    }
}

impl Optimizer for Muon {
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        for Slot { var, buf, .. } in &self.filters {
            let Some(grad) = grads.get(var) else { continue };
            let grad = grad.detach().contiguous()?;
            move_towards(buf, &grad, self.momentum, 1.0)?;
            let ahead = (grad + (buf.as_detached_tensor() * self.momentum)?)?;
            let rows = var.dim(0)?;
            let update = orthogonal(&ahead.reshape((rows, ()))?)?.reshape(var.shape())?;
            let weights = var.as_detached_tensor();
            let scale = ((norm(&weights)? + EPS)?.recip()? * (rows as f64).sqrt())?;
            var.set(&(weights.broadcast_mul(&scale)? - (update * (lr * self.rate))?)?)?;
        }
        self.others.step(grads, lr)
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        copies(buffers(self.slots()))
    }

    fn load(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        load_exact("optimiser", &buffers(self.slots()), state)
    }
}

/// The Frobenius norm, a scalar.
fn norm(x: &Tensor) -> candle_core::Result<Tensor> {
    x.sqr()?.sum_all()?.sqrt()
}

/// A matrix with the singular vectors of `matrix` (R, C) and singular values near 1.
fn orthogonal(matrix: &Tensor) -> candle_core::Result<Tensor> {
    let (rows, cols) = matrix.dims2()?;
    let tall = rows > cols;
    let mut x = matrix.broadcast_div(&(norm(matrix)? + EPS)?)?;
    if tall {
        x = x.t()?.contiguous()?;
    }
    for _ in 0..ITERATIONS {
        let gram = x.matmul(&x.t()?)?;
        let polynomial = ((&gram * QUINTIC.1)? + (gram.matmul(&gram)? * QUINTIC.2)?)?;
        x = ((&x * QUINTIC.0)? + polynomial.matmul(&x)?)?;
    }
    if tall { x.t()?.contiguous() } else { Ok(x) }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use gafi_core::Stream;
    use gafi_core::stream::unit_f32;
    use nalgebra::DMatrix;

    use super::*;

    /// Singular values of `matrix`, in descending order.
    fn singular(matrix: &Tensor) -> Vec<f64> {
        let rows: Vec<Vec<f32>> = matrix.to_vec2().unwrap();
        DMatrix::from_fn(rows.len(), rows[0].len(), |i, j| f64::from(rows[i][j])).singular_values().as_slice().to_vec()
    }

    #[test]
    fn singular_values_become_alike() {
        for (rows, cols) in [(6, 20), (20, 6), (8, 24)] {
            // Rows of different scales, so that the singular values differ.
            let mut rng = Stream::new(1).rng();
            let value = |i: usize| (2.0 * unit_f32(&mut rng) - 1.0) * (1 + i / cols % 3) as f32;
            let scaled: Vec<f32> = (0..rows * cols).map(value).collect();
            let matrix = Tensor::from_vec(scaled, (rows, cols), &Device::Cpu).unwrap();
            let before = singular(&matrix);
            let after = singular(&orthogonal(&matrix).unwrap());
            assert!(before[0] / before[5] > 2.0, "{rows}x{cols}: {before:?}");
            assert!(after.iter().all(|s| (0.3..1.5).contains(s)), "{rows}x{cols}: {before:?} became {after:?}");
            // The scale of the gradient does not matter.
            let other = orthogonal(&(&matrix * 100.0).unwrap()).unwrap();
            let off = (other - orthogonal(&matrix).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
            assert!(off.to_scalar::<f32>().unwrap() < 1e-5);
        }
    }

    #[test]
    fn a_gradient_of_zeros_changes_only_the_scale() {
        let zeros = Tensor::zeros((3, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
        let update: Vec<f32> = orthogonal(&zeros).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert!(update.iter().all(|v| *v == 0.0));
    }
}

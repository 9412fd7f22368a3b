//! Spectral normalisation (Miyato et al. 2018, arXiv 1802.05957): a weight is divided by an estimate of its largest
//! singular value. Each forward pass in training refines the estimate by one power iteration.
//!
//! Semantics are those of PyTorch's `parametrizations.spectral_norm`. A weight (O, ...) is a matrix W of O rows; `u`
//! and `v` are buffers. An iteration sets `u = normalise(W v)`, then `v = normalise(W^T u)`. sigma = u^T W v, with u
//! and v constant, so the gradient flows through W alone. Evaluation does not iterate.
//!
//! On the CPU the iteration runs on slices and the division is one op with a fused gradient. Composed of a dozen tensor
//! operations per layer, spectral norm would cost the small network more than its convolutions.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor, Var};
use gafi_nn::{Init, Scope};
use rayon::prelude::*;

use crate::pass::{Form, Pass};

/// Lower limit of the vectors' norms, so that no division is by zero; the published program's value.
pub const EPS: f32 = 1e-6;

/// Iterations on the random initial `u` and `v` before the first forward pass; PyTorch's value.
const WARM_UP: usize = 15;

/// Matrices with more values than this are processed in parallel.
const PARALLEL: usize = 64 * 1024;

/// A spectrally normalised weight. In [`Form::Inference`] the weight is already divided.
#[derive(Debug, Clone)]
pub struct Spectral {
    weight: Var,
    vectors: Option<(Var, Var)>,
}

impl Spectral {
    /// Creates the parameter `weight` of `shape` (O, ...) in `scope` and, in [`Form::Training`], the buffers `u` (O)
    /// and `v` (the product of the other dimensions).
    pub fn new(scope: &mut Scope<'_>, shape: &[usize], init: Init, form: Form) -> gafi_nn::Result<Self> {
        // Loading replaces these values; drawing orthogonal matrices would take seconds at the published width.
        let init = if form == Form::Inference { Init::Zeros } else { init };
        let weight = scope.param("weight", shape, init)?;
        let vectors = match form {
            Form::Inference => None,
            Form::Training => {
                let rows = shape.first().copied().unwrap_or(1);
                let u = scope.buffer_init("u", rows, Init::Normal { std: 1.0 })?;
                let v = scope.buffer_init("v", weight.elem_count() / rows.max(1), Init::Normal { std: 1.0 })?;
                for _ in 0..WARM_UP {
                    iterate(&weight, &u, &v)?;
                }
                Some((u, v))
            }
        };
        Ok(Self { weight, vectors })
    }

    /// A weight without normalisation, for heads where it is optional.
    pub fn plain(scope: &mut Scope<'_>, shape: &[usize], init: Init) -> gafi_nn::Result<Self> {
        Ok(Self { weight: scope.param("weight", shape, init)?, vectors: None })
    }

    /// The normalised weight. Runs a power iteration first if `pass` asks for one.
    pub fn weight(&self, pass: Pass) -> Result<Tensor> {
        let Some((u, v)) = &self.vectors else { return Ok(pass.var(&self.weight)) };
        if pass.iterate {
            iterate(&self.weight, u, v)?;
        }
        normalised(&pass.var(&self.weight), &u.as_detached_tensor(), &v.as_detached_tensor())
    }
}

/// Converts a generator's state from [`Form::Training`] to [`Form::Inference`]: divides every weight that has vectors
/// `u` and `v` by its sigma, and drops the vectors.
pub fn bake(state: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let mut out = BTreeMap::new();
    for (name, tensor) in state {
        let beside = |part: &str, other: &str| {
            let stem = name.strip_suffix(part).filter(|stem| stem.is_empty() || stem.ends_with('.'))?;
            state.get(&format!("{stem}{other}"))
        };
        if beside("u", "weight").is_some() || beside("v", "weight").is_some() {
            continue;
        }
        let baked = match (beside("weight", "u"), beside("weight", "v")) {
            (Some(u), Some(v)) => normalised(tensor, u, v)?,
            _ => tensor.clone(),
        };
        out.insert(name.clone(), baked);
    }
    Ok(out)
}

/// weight / (u^T W v), differentiable in `weight`.
pub(crate) fn normalised(weight: &Tensor, u: &Tensor, v: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if weight.device().is_cuda() && weight.dtype() == DType::F32 {
        return gafi_kernels::cuda::spectral_divide(weight, u, v);
    }
    if !weight.device().is_cpu() || weight.dtype() != DType::F32 {
        return composed(weight, u, v);
    }
    let (rows, cols) = (u.elem_count(), v.elem_count());
    let mut product = vec![0f32; rows];
    with_values(weight, |w| with_values(v, |v| times(w, cols, v, &mut product)))??;
    let sigma = with_values(u, |u| dot(u, &product))?;
    // Copies, because the next forward pass changes the vectors before this one's backward pass may read them.
    let op = Divide { u: u.copy()?, v: v.copy()?, sigma };
    if weight.elem_count() != rows * cols {
        candle_core::bail!(
            "spectral norm: expected a weight of {rows} x {cols} values, found shape {:?}",
            weight.dims()
        )
    }
    if weight.track_op() { weight.apply_op1(op) } else { weight.apply_op1_no_bwd(&op) }
}

/// [`normalised`] composed of Candle's operations: for other devices, and the reference of the tests.
fn composed(weight: &Tensor, u: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (rows, cols) = (u.elem_count(), v.elem_count());
    let matrix = weight.reshape((rows, cols))?;
    let sigma = u.reshape((1, rows))?.matmul(&matrix.matmul(&v.reshape((cols, 1))?)?)?;
    matrix.broadcast_div(&sigma)?.reshape(weight.shape())
}

/// One power iteration on `u` and `v`.
fn iterate(weight: &Var, u: &Var, v: &Var) -> Result<()> {
    let (rows, cols) = (u.elem_count(), v.elem_count());
    let weight = weight.as_detached_tensor();
    if weight.device().is_cpu() {
        let mut left = vec![0f32; rows];
        let mut right = vec![0f32; cols];
        with_values(&weight, |w| -> Result<()> {
            with_values(&v.as_detached_tensor(), |v| times(w, cols, v, &mut left))?;
            normalise(&mut left);
            transposed_times(w, cols, &left, &mut right);
            normalise(&mut right);
            Ok(())
        })??;
        u.set(&Tensor::from_vec(left, rows, u.device())?)?;
        return v.set(&Tensor::from_vec(right, cols, v.device())?);
    }
    #[cfg(feature = "cuda")]
    if weight.device().is_cuda() {
        return gafi_kernels::cuda::power_iteration(&weight, u, v, EPS);
    }
    let unit = |t: Tensor| -> Result<Tensor> {
        let norm = t.sqr()?.sum_all()?.sqrt()?.maximum(f64::from(EPS))?;
        t.broadcast_div(&norm)
    };
    let matrix = weight.reshape((rows, cols))?;
    let left = unit(matrix.matmul(&v.as_detached_tensor().reshape((cols, 1))?)?)?;
    let right = unit(matrix.t()?.matmul(&left)?)?;
    u.set(&left.reshape(rows)?)?;
    v.set(&right.reshape(cols)?)
}

/// Division of W by sigma. With N = W / sigma and G the gradient of N, dL/dW = (G - sum(G * N) u v^T) / sigma.
struct Divide {
    u: Tensor,
    v: Tensor,
    sigma: f32,
}

impl CustomOp1 for Divide {
    fn name(&self) -> &'static str {
        "spectral-divide"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((from, to)) = layout.contiguous_offsets() else {
            candle_core::bail!("spectral norm needs a contiguous weight, found strides {:?}", layout.stride())
        };
        let weight = &storage.as_slice::<f32>()?[from..to];
        let out = weight.iter().map(|w| w / self.sigma).collect();
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let cols = self.v.elem_count().max(1);
        let values = with_values(grad, |g| {
            with_values(res, |n| {
                let along = dot(g, n);
                with_values(&self.u, |u| {
                    with_values(&self.v, |v| {
                        let mut out = vec![0f32; g.len()];
                        let rows = out.chunks_exact_mut(cols).zip(g.chunks_exact(cols)).zip(u);
                        for ((out, g), u) in rows {
                            let scale = along * u;
                            for ((out, g), v) in out.iter_mut().zip(g).zip(v) {
                                *out = (g - scale * v) / self.sigma;
                            }
                        }
                        out
                    })
                })
            })
        })????;
        Ok(Some(Tensor::from_vec(values, res.shape(), res.device())?))
    }
}

/// Calls `f` with the values of a CPU tensor, without a copy if it is contiguous.
fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((from, to))) => Ok(f(&values[from..to])),
        _ => {
            let found = tensor.dtype().as_str();
            candle_core::bail!(
                "spectral norm: expected f32 on the CPU, found {found} on {:?}",
                tensor.device().location()
            )
        }
    }
}

/// out = W x, W (out.len(), cols).
fn times(w: &[f32], cols: usize, x: &[f32], out: &mut [f32]) {
    if cols == 0 {
        return;
    }
    if w.len() > PARALLEL {
        out.par_iter_mut().zip(w.par_chunks_exact(cols)).for_each(|(out, row)| *out = dot(row, x));
    } else {
        out.iter_mut().zip(w.chunks_exact(cols)).for_each(|(out, row)| *out = dot(row, x));
    }
}

/// out = W^T x, W (x.len(), out.len()). Each value is a sum over the rows in order, however many threads share the
/// columns.
fn transposed_times(w: &[f32], cols: usize, x: &[f32], out: &mut [f32]) {
    let stripe = |from: usize, out: &mut [f32]| {
        out.fill(0.0);
        for (row, x) in w.chunks_exact(cols.max(1)).zip(x) {
            out.iter_mut().zip(&row[from..]).for_each(|(out, w)| *out += w * x);
        }
    };
    if w.len() > PARALLEL {
        out.par_chunks_mut(256).enumerate().for_each(|(i, out)| stripe(i * 256, out));
    } else {
        stripe(0, out);
    }
}

fn normalise(x: &mut [f32]) {
    let norm = dot(x, x).sqrt().max(EPS);
    x.iter_mut().for_each(|x| *x /= norm);
}

/// Dot product in 16 running sums: a fixed order that the compiler vectorises.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a16.remainder().iter().zip(b16.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a16.zip(b16) {
        for lane in 0..16 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use gafi_core::Stream;
    use gafi_nn::Params;

    fn spectral(shape: &[usize]) -> (Params, Spectral) {
        let mut params = Params::new(&Device::Cpu, Stream::new(4));
        let spectral = Spectral::new(&mut params.root(), shape, Init::HeNormal, Form::Training).unwrap();
        (params, spectral)
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_largest_singular_value_becomes_one() {
        let (_params, spectral) = spectral(&[6, 5, 3, 3]);
        let mut weight = spectral.weight(Pass::TRAIN).unwrap();
        for _ in 0..200 {
            weight = spectral.weight(Pass::TRAIN).unwrap();
        }
        // An independent power iteration on W W^T agrees.
        let w = weight.detach().reshape((6, 45)).unwrap();
        let gram = w.matmul(&w.t().unwrap()).unwrap();
        let mut x = Tensor::ones((6, 1), DType::F32, &Device::Cpu).unwrap();
        for _ in 0..300 {
            let y = gram.matmul(&x).unwrap();
            x = y.broadcast_div(&y.sqr().unwrap().sum_all().unwrap().sqrt().unwrap()).unwrap();
        }
        let top = flat(&x.t().unwrap().matmul(&gram.matmul(&x).unwrap()).unwrap())[0].sqrt();
        assert!((top - 1.0).abs() < 1e-4, "{top}");
    }

    #[test]
    fn evaluation_does_not_iterate() {
        let (params, spectral) = spectral(&[4, 7]);
        let before = params.state().unwrap();
        spectral.weight(Pass::EVAL).unwrap();
        let after = params.state().unwrap();
        assert_eq!(flat(&before["u"]), flat(&after["u"]));
        spectral.weight(Pass::FROZEN).unwrap();
        assert_ne!(flat(&before["u"]), flat(&params.state().unwrap()["u"]));
    }

    #[test]
    fn gradient_agrees_with_finite_differences_and_with_the_composition() {
        let (_params, spectral) = spectral(&[3, 2, 2, 2]);
        let (u, v) = spectral.vectors.clone().unwrap();
        let u = u.as_detached_tensor();
        let v = v.as_detached_tensor();
        let probe =
            Tensor::from_vec((0..24).map(|i| (i as f32 * 0.7).sin()).collect(), (3, 2, 2, 2), &Device::Cpu).unwrap();
        let loss = |w: &Tensor| (normalised(w, &u, &v).unwrap() * &probe).unwrap().sum_all().unwrap();
        let grads = loss(&spectral.weight).backward().unwrap();
        let grad = flat(grads.get(&spectral.weight).unwrap());

        let composition = (composed(&spectral.weight, &u, &v).unwrap() * &probe).unwrap().sum_all().unwrap();
        let grads = composition.backward().unwrap();
        for (a, b) in grad.iter().zip(flat(grads.get(&spectral.weight).unwrap())) {
            assert!((a - b).abs() < 1e-5, "{a} against {b}");
        }
        let base = flat(&spectral.weight);
        for (i, expected) in grad.iter().enumerate() {
            let at = |step: f32| {
                let mut values = base.clone();
                values[i] += step;
                let w = Tensor::from_vec(values, (3, 2, 2, 2), &Device::Cpu).unwrap();
                f64::from(loss(&w).to_scalar::<f32>().unwrap())
            };
            let found = (at(2e-2) - at(-2e-2)) / 4e-2;
            assert!((found - f64::from(*expected)).abs() < 2e-3, "value {i}: {found} against {expected}");
        }
    }

    #[test]
    fn parallel_products_equal_serial_ones() {
        let (rows, cols) = (300, 301);
        let w: Vec<f32> = (0..rows * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let x: Vec<f32> = (0..cols).map(|i| (i as f32).cos()).collect();
        let mut out = vec![0.0; rows];
        times(&w, cols, &x, &mut out);
        let mut back = vec![0.0; cols];
        transposed_times(&w, cols, &out, &mut back);
        for (r, out) in out.iter().enumerate() {
            assert_eq!(*out, dot(&w[r * cols..(r + 1) * cols], &x));
        }
        for (c, found) in back.iter().enumerate() {
            let expected: f32 = (0..rows).fold(0.0, |sum, r| sum + w[r * cols + c] * out[r]);
            assert_eq!(*found, expected);
        }
    }

    #[test]
    fn baking_divides_and_drops_the_vectors() {
        let mut params = Params::new(&Device::Cpu, Stream::new(4));
        let layer = Spectral::new(&mut params.root().sub("conv"), &[3, 4], Init::HeNormal, Form::Training).unwrap();
        params.root().sub("menu").param("weight", 2, Init::Ones).unwrap();
        let baked = bake(&params.state().unwrap()).unwrap();
        assert_eq!(baked.keys().collect::<Vec<_>>(), ["conv.weight", "menu.weight"]);
        assert_eq!(flat(&baked["conv.weight"]), flat(&layer.weight(Pass::EVAL).unwrap()));
        assert_eq!(flat(&baked["menu.weight"]), [1.0, 1.0]);
    }
}

//! Spectral normalisation (Miyato et al. 2018, arXiv 1802.05957): a weight is divided by an estimate of its largest
//! singular value. Each forward pass in training refines the estimate by one power iteration.
//!
//! Semantics are those of the released program (`models/layers.py`). A weight (O, ...) is a matrix W of O rows; `u` is a
//! buffer. Every forward pass sets `v = unit(W^T u)`, `u' = unit(W v)` and sigma = u'^T W v; in training, u' replaces u.
//! Nothing is held constant, so the gradient of sigma flows through v, too: it is u' v^T + u q^T with
//! q = (W^T u' - sigma v) / |W^T u|. PyTorch, whose v is constant, has the first term alone. The two agree once u has
//! converged, where q is 0.
//!
//! On the CPU all of it runs on slices, and the division is one op with a fused gradient. Composed of a dozen tensor
//! operations per layer, spectral norm would cost the small network more than its convolutions.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor, Var};
use gafi_nn::{Init, Scope};
use rayon::prelude::*;

use crate::pass::{Form, Pass};

/// Added to the norm of a vector before a division by it; the released program's value.
pub const EPS: f32 = 1e-12;

/// Matrices with more values than this are processed in parallel.
const PARALLEL: usize = 64 * 1024;

/// A spectrally normalised weight. In [`Form::Inference`] the weight is already divided.
#[derive(Debug, Clone)]
pub struct Spectral {
    weight: Var,
    u: Option<Var>,
}

impl Spectral {
    /// Creates the parameter `weight` of `shape` (O, ...) in `scope` and, in [`Form::Training`], the buffer `u` (O).
    pub fn new(scope: &mut Scope<'_>, shape: &[usize], init: Init, form: Form) -> gafi_nn::Result<Self> {
        if form == Form::Inference {
            // Loading replaces these values; drawing orthogonal matrices would take seconds at the published width.
            return Self::plain(scope, shape, Init::Zeros);
        }
        let rows = shape.first().copied().unwrap_or(1);
        // Keras' default (Glorot) for a weight (1, O).
        let bound = (6.0 / (rows as f64 + 1.0)).sqrt();
        let u = scope.buffer("u", rows, Init::Uniform { bound })?;
        Ok(Self { weight: scope.param("weight", shape, init)?, u: Some(u) })
    }

    /// A weight that is used as it is: of a head without normalisation, or already divided.
    pub fn plain(scope: &mut Scope<'_>, shape: &[usize], init: Init) -> gafi_nn::Result<Self> {
        Ok(Self { weight: scope.param("weight", shape, init)?, u: None })
    }

    /// The normalised weight. Keeps the refined vector if `pass` asks for it.
    pub fn weight(&self, pass: Pass) -> Result<Tensor> {
        let Some(u) = &self.u else { return Ok(pass.var(&self.weight)) };
        let (weight, refined) = normalised(&pass.var(&self.weight), &u.as_detached_tensor())?;
        if pass.iterate {
            u.set(&refined)?;
        }
        Ok(weight)
    }
}

/// Converts a generator's state from [`Form::Training`] to [`Form::Inference`]: divides every weight that has a vector
/// `u` by its sigma, and drops the vectors.
pub fn bake(state: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let mut out = BTreeMap::new();
    for (name, tensor) in state {
        let beside = |part: &str, other: &str| {
            let stem = name.strip_suffix(part).filter(|stem| stem.is_empty() || stem.ends_with('.'))?;
            state.get(&format!("{stem}{other}"))
        };
        if beside("u", "weight").is_some() {
            continue;
        }
        let baked = match beside("weight", "u") {
            Some(u) => normalised(tensor, u)?.0,
            None => tensor.clone(),
        };
        out.insert(name.clone(), baked);
    }
    Ok(out)
}

/// weight / (u^T W v) of a weight stored by PyTorch with both vectors.
pub(crate) fn divided(weight: &Tensor, u: &Tensor, v: &Tensor) -> Result<Tensor> {
    let mut product = vec![0f32; u.elem_count()];
    with_values(weight, |w| with_values(v, |v| times(w, v.len(), v, &mut product)))??;
    let sigma = with_values(u, |u| dot(u, &product))?;
    let values: Vec<f32> = with_values(weight, |w| w.iter().map(|w| w / sigma).collect())?;
    Tensor::from_vec(values, weight.shape(), weight.device())
}

/// The weight, divided by its sigma and differentiable in `weight`, and the refined u.
fn normalised(weight: &Tensor, u: &Tensor) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if weight.device().is_cuda() && weight.dtype() == DType::F32 {
        return gafi_kernels::cuda::spectral_norm(weight, u, EPS);
    }
    if !weight.device().is_cpu() || weight.dtype() != DType::F32 {
        return composed(weight, u);
    }
    let rows = u.elem_count();
    let cols = weight.elem_count() / rows.max(1);
    if weight.elem_count() != rows * cols {
        candle_core::bail!("spectral norm: expected a weight of {rows} rows, found shape {:?}", weight.dims())
    }
    let old = u.flatten_all()?.to_vec1::<f32>()?;
    let op = with_values(weight, |w| {
        let mut v = vec![0f32; cols];
        transposed_times(w, cols, &old, &mut v);
        let norm = unit(&mut v);
        let mut new = vec![0f32; rows];
        times(w, cols, &v, &mut new);
        let product = new.clone();
        unit(&mut new);
        let sigma = dot(&new, &product);
        let mut rest = Vec::new();
        if weight.track_op() {
            rest.resize(cols, 0f32);
            transposed_times(w, cols, &new, &mut rest);
            rest.iter_mut().zip(&v).for_each(|(rest, v)| *rest = (*rest - sigma * v) / norm);
        }
        Divide { new, old, v, rest, sigma }
    })?;
    let new = Tensor::from_slice(&op.new, rows, weight.device())?;
    let weight = if weight.track_op() { weight.apply_op1(op)? } else { weight.apply_op1_no_bwd(&op)? };
    Ok((weight, new))
}

/// [`normalised`] composed of Candle's operations: for other devices, and the reference of the tests.
fn composed(weight: &Tensor, u: &Tensor) -> Result<(Tensor, Tensor)> {
    let unit = |t: Tensor| -> Result<Tensor> { t.broadcast_div(&(t.sqr()?.sum_all()?.sqrt()? + f64::from(EPS))?) };
    let rows = u.elem_count();
    let matrix = weight.reshape((rows, ()))?;
    let v = unit(matrix.t()?.matmul(&u.detach().reshape((rows, 1))?)?)?;
    let product = matrix.matmul(&v)?;
    let new = unit(product.clone())?;
    let sigma = new.t()?.matmul(&product)?;
    Ok((matrix.broadcast_div(&sigma)?.reshape(weight.shape())?, new.detach().reshape(rows)?))
}

/// Division of W by sigma. With N = W / sigma and G the gradient of N, dL/dW = (G - sum(G * N) (u' v^T + u q^T)) /
/// sigma.
struct Divide {
    /// u'.
    new: Vec<f32>,
    /// u.
    old: Vec<f32>,
    v: Vec<f32>,
    /// q; empty without a gradient.
    rest: Vec<f32>,
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
        let cols = self.v.len().max(1);
        let values = with_values(grad, |g| {
            with_values(res, |n| {
                let along = dot(g, n);
                let mut out = vec![0f32; g.len()];
                let rows = out.chunks_exact_mut(cols).zip(g.chunks_exact(cols)).zip(self.new.iter().zip(&self.old));
                for ((out, g), (new, old)) in rows {
                    let (new, old) = (along * new, along * old);
                    for (((out, g), v), rest) in out.iter_mut().zip(g).zip(&self.v).zip(&self.rest) {
                        *out = (g - (new * v + old * rest)) / self.sigma;
                    }
                }
                out
            })
        })??;
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
            let device = tensor.device().location();
            candle_core::bail!("spectral norm: expected f32 on the CPU, found {found} on {device:?}")
        }
    }
}

/// out = W x, W (out.len(), cols).
fn times(w: &[f32], cols: usize, x: &[f32], out: &mut [f32]) {
    // Chunks of 0 would panic; W is empty then.
    let cols = cols.max(1);
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

/// Scales `x` to length 1 and returns the length that it had.
fn unit(x: &mut [f32]) -> f32 {
    let norm = dot(x, x).sqrt() + EPS;
    x.iter_mut().for_each(|x| *x /= norm);
    norm
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
        // One iteration from a random u: far from convergence, where the share of v in the gradient is large.
        let (_params, spectral) = spectral(&[3, 2, 2, 2]);
        let u = spectral.u.clone().unwrap().as_detached_tensor();
        let probe =
            Tensor::from_vec((0..24).map(|i| (i as f32 * 0.7).sin()).collect(), (3, 2, 2, 2), &Device::Cpu).unwrap();
        let loss = |w: &Tensor| (normalised(w, &u).unwrap().0 * &probe).unwrap().sum_all().unwrap();
        let grads = loss(&spectral.weight).backward().unwrap();
        let grad = flat(grads.get(&spectral.weight).unwrap());

        let (composition, refined) = composed(&spectral.weight, &u).unwrap();
        let found = normalised(&spectral.weight, &u).unwrap();
        for (a, b) in
            flat(&found.0).into_iter().chain(flat(&found.1)).zip([&composition, &refined].into_iter().flat_map(flat))
        {
            assert!((a - b).abs() < 1e-5, "{a} against {b}");
        }
        let grads = (composition * &probe).unwrap().sum_all().unwrap().backward().unwrap();
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
            let found = (at(1e-2) - at(-1e-2)) / 2e-2;
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

//! Named parameters and buffers of a network.
//!
//! Candle's `VarMap` iterates in hash order and mixes batch-norm buffers with the trainable variables. Here the two are
//! separate and in name order, so optimiser states, averages and checkpoints are the same on every run. A parameter
//! draws its initial values from the stream of its name, so the order in which layers are created does not matter.

use std::collections::BTreeMap;
use std::fmt::Display;

use candle_core::{DType, Device, Shape, Tensor, Var};
use gafi_core::Stream;
use rand_distr::{Distribution, StandardNormal};

use crate::error::{Error, Result};

/// Distribution of the initial values of a parameter or buffer of shape (rows, rest...).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Normal with mean 0 and standard deviation sqrt(2 / fan-in) (He et al. 2015, arXiv 1502.01852, section 2.2), in
    /// Keras' truncated form: values beyond two standard deviations of the untruncated normal are redrawn, and the scale
    /// compensates for that. Fan-in is the product of all dimensions but the first.
    HeNormal,
    /// A (semi-)orthogonal matrix of rows x rest with gain 1 (Saxe et al. 2014, arXiv 1312.6120).
    Orthogonal,
    /// Uniform with the bound 1 / sqrt(fan-in); PyTorch's default for linear layers and convolutions.
    FanIn,
    /// A convolution (O, I, K, K) whose first I outputs are its inputs, unchanged; the others are drawn like
    /// [`Init::FanIn`].
    Identity,
    /// Uniform in [-bound, bound).
    Uniform {
        /// The bound.
        bound: f64,
    },
}

/// Standard deviation of a standard normal truncated at 2; the constant in Keras' `VarianceScaling`.
const TRUNCATED_STD: f64 = 0.879_625_661_034_239_8;

impl Init {
    /// The values for a parameter of `shape`, drawn from `stream`.
    fn values(self, shape: &[usize], stream: &Stream) -> Vec<f32> {
        let count = shape.iter().product::<usize>();
        let rest = shape.iter().skip(1).product::<usize>().max(1);
        let mut rng = stream.rng();
        let mut normal = || -> f64 { StandardNormal.sample(&mut rng) };
        let uniform = |bound: f64| -> Vec<f32> {
            let mut rng = stream.rng();
            let value = |_| ((2.0 * f64::from(gafi_core::stream::unit_f32(&mut rng)) - 1.0) * bound) as f32;
            (0..count).map(value).collect()
        };
        match self {
            Self::Zeros => vec![0.0; count],
            Self::Ones => vec![1.0; count],
            Self::Normal { std } => (0..count).map(|_| (std * normal()) as f32).collect(),
            Self::HeNormal => {
                let std = (2.0 / rest as f64).sqrt() / TRUNCATED_STD;
                let mut within = || std::iter::repeat_with(&mut normal).find(|x| x.abs() <= 2.0).unwrap_or(0.0);
                (0..count).map(|_| (std * within()) as f32).collect()
            }
            Self::Uniform { bound } => uniform(bound),
            Self::FanIn => uniform(1.0 / (rest as f64).sqrt()),
            Self::Identity => {
                let mut values = uniform(1.0 / (rest as f64).sqrt());
                let inputs = shape.get(1).copied().unwrap_or(1);
                let taps = rest / inputs;
                for (output, filter) in values.chunks_exact_mut(rest).enumerate().take(inputs) {
                    filter.fill(0.0);
                    filter[output * taps + taps / 2] = 1.0;
                }
                values
            }
            Self::Orthogonal => {
                let draw = (0..count).map(|_| normal()).collect();
                orthogonal(draw, count / rest, rest)
            }
        }
    }
}

/// Gram-Schmidt on the shorter side of a Gaussian matrix (rows x cols, row-major), in f64. Each vector is
/// orthogonalised twice ("twice is enough", Giraud et al. 2005). The diagonal of R is positive, so Q is uniform (Haar).
fn orthogonal(draw: Vec<f64>, rows: usize, cols: usize) -> Vec<f32> {
    let wide = rows <= cols;
    let (n, len) = if wide { (rows, cols) } else { (cols, rows) };
    let at = |v: usize, i: usize| if wide { v * cols + i } else { i * cols + v };
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(n);
    for v in 0..n {
        let mut vector: Vec<f64> = (0..len).map(|i| draw[at(v, i)]).collect();
        for _ in 0..2 {
            for other in &basis {
                let along = dot(&vector, other);
                vector.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
        }
        let norm = dot(&vector, &vector).sqrt().max(f64::MIN_POSITIVE);
        vector.iter_mut().for_each(|a| *a /= norm);
        basis.push(vector);
    }
    let mut out = vec![0.0f32; rows * cols];
    for (v, vector) in basis.iter().enumerate() {
        for (i, value) in vector.iter().enumerate() {
            out[at(v, i)] = *value as f32;
        }
    }
    out
}

/// Dot product in eight running sums: a fixed order that the compiler vectorises.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// The trainable parameters and the buffers of a network, all f32, in name order.
#[derive(Debug)]
pub struct Params {
    device: Device,
    init: Stream,
    vars: BTreeMap<String, Var>,
    buffers: BTreeMap<String, Var>,
    // Values that may still be created.
    left: usize,
}

impl Params {
    /// An empty set on `device`. Parameters draw their initial values from children of `init`.
    pub fn new(device: &Device, init: Stream) -> Self {
        Self { device: device.clone(), init, vars: BTreeMap::new(), buffers: BTreeMap::new(), left: usize::MAX }
    }

    /// An empty set that holds at most `most` values, for loading a state of that size. A layer that would exceed it fails before
    /// it allocates memory, because a description from a file may claim any size.
    pub fn of_at_most(most: usize, device: &Device) -> Self {
        // Every value is replaced, so the seed does not matter.
        Self { left: most, ..Self::new(device, Stream::new(0)) }
    }

    /// The root scope, in which layers create their parameters.
    pub fn root(&mut self) -> Scope<'_> {
        Scope { params: self, prefix: String::new() }
    }

    /// The trainable parameters, in name order.
    pub fn vars(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.vars.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The buffers (running statistics, spectral-norm vectors), in name order. They get no gradient.
    pub fn buffers(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.buffers.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// Number of trainable values.
    pub fn count(&self) -> usize {
        self.vars.values().map(|var| var.elem_count()).sum()
    }

    /// Copies of all parameters and buffers, by name. Further training does not change them.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        self.vars().chain(self.buffers()).map(|(name, var)| Ok((name.to_string(), copy(var)?))).collect()
    }

    /// Sets all parameters and buffers from `state`, which must have exactly their names and shapes.
    ///
    /// # Errors
    /// [`Error::State`] with the first tensor that is missing, unexpected or has the wrong shape; nothing is changed then.
    pub fn load(&self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let targets = self.vars().chain(self.buffers()).map(|(name, var)| (name.to_string(), var)).collect();
        load_exact("parameters", &targets, state)
    }
}

/// A prefix of parameter names, in which a layer creates its parameters.
#[derive(Debug)]
pub struct Scope<'a> {
    params: &'a mut Params,
    prefix: String,
}

impl Scope<'_> {
    /// The device of the parameters.
    pub fn device(&self) -> &Device {
        &self.params.device
    }

    /// The scope `name` inside this one. Names are joined by dots.
    pub fn sub(&mut self, name: impl Display) -> Scope<'_> {
        let prefix = self.full(name);
        Scope { params: self.params, prefix }
    }

    /// The full name of the parameter `name` in this scope.
    fn full(&self, name: impl Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    /// Creates a trainable parameter. The returned `Var` shares its storage with the one in [`Params`].
    pub fn param(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Var> {
        self.create(name, shape.into(), init, true)
    }

    /// Creates a buffer. It gets no gradient.
    pub fn buffer(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Var> {
        self.create(name, shape.into(), init, false)
    }

    fn create(&mut self, name: &str, shape: Shape, init: Init, trainable: bool) -> Result<Var> {
        let name = self.full(name);
        let count = shape.dims().iter().try_fold(1usize, |count, &side| count.checked_mul(side));
        let Some(left) = count.and_then(|count| self.params.left.checked_sub(count)) else {
            return Err(Error::State {
                what: "parameters".into(),
                name,
                expected: format!("a network no larger than its weights, with {} values left", self.params.left),
                found: format!("shape {:?}", shape.dims()),
            });
        };
        self.params.left = left;
        if self.params.vars.contains_key(&name) || self.params.buffers.contains_key(&name) {
            return Err(Error::Duplicate { name });
        }
        let values = init.values(shape.dims(), &self.params.init.child(&name));
        let var = Var::from_vec(values, shape, &self.params.device)?;
        let map = if trainable { &mut self.params.vars } else { &mut self.params.buffers };
        map.insert(name, var.clone());
        Ok(var)
    }
}

/// A copy of the values of `var`, with its own storage and detached from any graph.
pub(crate) fn copy(var: &Var) -> Result<Tensor> {
    Ok(var.as_detached_tensor().copy()?)
}

/// Sets every target from `source`, which must have exactly their names, shapes and types. Everything is checked before
/// anything is set.
pub(crate) fn load_exact(
    what: &str,
    targets: &BTreeMap<String, &Var>,
    source: &BTreeMap<String, Tensor>,
) -> Result<()> {
    let wrong = |name: &str, expected: String, found: String| Error::State {
        what: what.into(),
        name: name.into(),
        expected,
        found,
    };
    for (name, var) in targets {
        let Some(tensor) = source.get(name) else {
            return Err(wrong(name, describe(var), "nothing".into()));
        };
        if tensor.dims() != var.dims() || tensor.dtype() != DType::F32 {
            return Err(wrong(name, describe(var), describe(tensor)));
        }
    }
    for (name, tensor) in source {
        if !targets.contains_key(name) {
            return Err(wrong(name, "nothing".into(), describe(tensor)));
        }
    }
    for (name, var) in targets {
        if let Some(tensor) = source.get(name) {
            var.set(&tensor.to_device(var.device())?)?;
        }
    }
    Ok(())
}

fn describe(tensor: &Tensor) -> String {
    format!("{} of shape {:?}", tensor.dtype().as_str(), tensor.dims())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_larger_than_its_weights_takes_no_memory() {
        let mut params = Params::of_at_most(10, &Device::Cpu);
        params.root().param("a", (2, 3), Init::Ones).unwrap();
        params.root().buffer("b", 4, Init::Zeros).unwrap();
        for shape in [vec![1], vec![1 << 40, 1 << 10], vec![usize::MAX, 8]] {
            let error = params.root().param("c", shape, Init::HeNormal).unwrap_err().to_string();
            assert!(error.contains("c: expected a network no larger than its weights, with 0 values left"), "{error}");
        }
    }

    fn values(shape: (usize, usize), init: Init) -> Vec<f32> {
        let mut params = Params::new(&Device::Cpu, Stream::new(3));
        let var = params.root().sub("layer").param("weight", shape, init).unwrap();
        var.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn orthogonal_rows_or_columns_are_orthonormal() {
        for (rows, cols) in [(5, 12), (12, 5), (7, 7), (1, 9)] {
            let q = values((rows, cols), Init::Orthogonal);
            let q = Tensor::from_vec(q, (rows, cols), &Device::Cpu).unwrap();
            let gram = if rows <= cols { q.matmul(&q.t().unwrap()) } else { q.t().unwrap().matmul(&q) };
            for (i, row) in gram.unwrap().to_vec2::<f32>().unwrap().into_iter().enumerate() {
                for (j, value) in row.into_iter().enumerate() {
                    assert!((value - f32::from(u8::from(i == j))).abs() < 1e-5, "{rows}x{cols} ({i},{j}): {value}");
                }
            }
        }
    }

    #[test]
    fn random_inits_have_their_standard_deviation() {
        let std = |v: &[f32]| (v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / v.len() as f64).sqrt();
        let he = values((200, 50), Init::HeNormal);
        assert!((std(&he) - 0.2).abs() < 0.005);
        // Cut at two deviations: 2 * 0.2 / 0.8796.
        let largest = he.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(largest < 0.45475 && largest > 0.44, "{largest}");
        assert!((std(&values((200, 50), Init::Normal { std: 0.02 })) - 0.02).abs() < 0.0005);
        let uniform = values((200, 50), Init::Uniform { bound: 0.3 });
        assert!(uniform.iter().all(|x| x.abs() <= 0.3));
        assert!((std(&uniform) - 0.3 / 3f64.sqrt()).abs() < 0.005);
    }

    #[test]
    fn initial_values_do_not_depend_on_the_order_of_creation() {
        let build = |names: [&str; 2]| {
            let mut params = Params::new(&Device::Cpu, Stream::new(5));
            for name in names {
                params.root().sub(name).param("weight", (3, 2), Init::HeNormal).unwrap();
            }
            params.vars().map(|(n, v)| (n.to_string(), v.to_vec2::<f32>().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(build(["a", "b"]), build(["b", "a"]));
        assert_ne!(build(["a", "b"])[0].1, build(["a", "b"])[1].1);
    }

    #[test]
    fn load_requires_exactly_its_names_and_shapes() {
        let mut params = Params::new(&Device::Cpu, Stream::new(5));
        params.root().param("w", (3, 2), Init::HeNormal).unwrap();
        params.root().buffer("mean", 2, Init::Zeros).unwrap();
        assert!(matches!(params.root().buffer("w", 2, Init::Zeros), Err(Error::Duplicate { .. })));
        let state = params.state().unwrap();
        params.load(&state).unwrap();
        let error = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
            let mut state = state.clone();
            change(&mut state);
            params.load(&state).unwrap_err().to_string()
        };
        assert_eq!(error(&|s| drop(s.remove("mean"))), "parameters: mean: expected f32 of shape [2], found nothing");
        let four = Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(
            error(&|s| drop(s.insert("w".into(), four.clone()))),
            "parameters: w: expected f32 of shape [3, 2], found f32 of shape [4]"
        );
        assert_eq!(
            error(&|s| drop(s.insert("x".into(), four.clone()))),
            "parameters: x: expected nothing, found f32 of shape [4]"
        );
    }

    #[test]
    fn a_state_is_a_copy() {
        let mut params = Params::new(&Device::Cpu, Stream::new(5));
        let w = params.root().param("w", 3, Init::Ones).unwrap();
        let state = params.state().unwrap();
        w.set(&Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(state["w"].to_vec1::<f32>().unwrap(), [1.0; 3]);
    }
}

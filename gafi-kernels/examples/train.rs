//! Trains a small convolutional network twice, with this crate's trunks and in plain Candle, and compares the filters and
//! the time: `cargo run -p gafi-kernels --example train`.
#![allow(clippy::print_stdout, reason = "a program")]

use std::time::Instant;

use candle_core::{Device, Result, Tensor, Var};
use gafi_kernels::ops;
use gafi_kernels::trunk::{self, Activation, Batch, Output, Settings, Tape, Value};

const IMAGES: usize = 40;
const CLASSES: usize = 10;
const STEPS: usize = 10;
const EPS: f64 = 1e-5;
const RATE: f64 = 0.5;
/// Positions of the last maps: the features are means over them.
const POSITIONS: f64 = 16.0 * 16.0;

/// Two blocks of convolution, batch norm and relu, then a linear layer.
struct Net {
    filters: [Var; 2],
    gains: [Var; 2],
    shifts: [Var; 2],
    head: Var,
}

impl Net {
    fn new() -> Result<Self> {
        let [wide, deep] = [32, 64];
        Ok(Self {
            filters: [var(&[wide, 3, 3, 3], 0.3)?, var(&[deep, wide, 3, 3], 0.1)?],
            gains: [constant(wide, 1.0)?, constant(deep, 1.0)?],
            shifts: [constant(wide, 0.0)?, constant(deep, 0.0)?],
            head: var(&[CLASSES, deep], 0.01)?,
        })
    }

    fn vars(&self) -> impl Iterator<Item = &Var> {
        self.filters.iter().chain(&self.gains).chain(&self.shifts).chain([&self.head])
    }

    /// One block on a tape.
    fn block(&self, tape: &mut Tape, x: Value, i: usize) -> Result<Value> {
        let x = tape.before_norm().conv2d(x, &self.filters[i], None, 1 + i, 1)?;
        let moments = tape.moments(x)?;
        tape.batch_norm(x, &self.gains[i], &self.shifts[i], &moments, true, EPS, Some(Activation::RELU))
    }

    /// The logits, with both blocks as one trunk.
    fn with_trunk(&self, images: &Tensor) -> Result<Tensor> {
        let settings = Settings { batch: Batch::FusedMoments, ..Settings::default() };
        let features = trunk::run(images, settings, |tape, x| {
            let x = self.block(tape, x, 0)?;
            Ok(Output::Sums(self.block(tape, x, 1)?))
        })?;
        ops::linear(&(features / POSITIONS)?, &self.head, None)
    }

    /// The logits in plain Candle.
    fn with_candle(&self, images: &Tensor) -> Result<Tensor> {
        let mut x = images.clone();
        for i in 0..2 {
            x = x.conv2d(&self.filters[i], 1, 1 + i, 1, 1)?;
            let mean = x.mean_keepdim((0, 2, 3))?;
            let centred = x.broadcast_sub(&mean)?;
            let variance = centred.sqr()?.mean_keepdim((0, 2, 3))?;
            let normed = centred.broadcast_div(&(variance + EPS)?.sqrt()?)?;
            let gain = self.gains[i].reshape((1, (), 1, 1))?;
            let shift = self.shifts[i].reshape((1, (), 1, 1))?;
            x = normed.broadcast_mul(&gain)?.broadcast_add(&shift)?.relu()?;
        }
        x.mean((2, 3))?.matmul(&self.head.t()?)
    }

    /// Trains by plain gradient descent; prints the last loss and the time.
    fn train(&self, name: &str, forward: impl Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
        let (images, labels) = data()?;
        let start = Instant::now();
        let mut loss = 0.0;
        for _ in 0..STEPS {
            let value = ops::cross_entropy(&forward(&images)?, &labels)?;
            let gradients = value.backward()?;
            for var in self.vars() {
                let gradient = gradients.get(var).expect("every parameter has a gradient");
                var.set(&(var.as_detached_tensor() - (gradient * RATE)?)?)?;
            }
            loss = value.to_scalar::<f32>()?;
        }
        println!("{name}: loss {loss:.5}, {:.0} ms per step", start.elapsed().as_secs_f64() * 1e3 / STEPS as f64);
        Ok(())
    }
}

fn var(shape: &[usize], scale: f64) -> Result<Var> {
    Var::from_tensor(&noise(shape, scale)?)
}

fn constant(len: usize, value: f32) -> Result<Var> {
    Var::from_tensor(&Tensor::full(value, len, &Device::Cpu)?)
}

/// Stripes whose width depends on the class, with noise.
fn data() -> Result<(Tensor, Vec<u32>)> {
    let labels: Vec<u32> = (0..IMAGES).map(|i| (i % CLASSES) as u32).collect();
    let stripe = |i: usize| {
        let class = labels[i / (3 * 32 * 32)] as f32;
        ((i % 32) as f32 * (0.3 + 0.25 * class)).sin()
    };
    let stripes: Vec<f32> = (0..IMAGES * 3 * 32 * 32).map(stripe).collect();
    let images = Tensor::from_vec(stripes, (IMAGES, 3, 32, 32), &Device::Cpu)?;
    Ok(((images + noise(&[IMAGES, 3, 32, 32], 0.5)?)?, labels))
}

/// Numbers in -scale..scale without structure, the same in every run.
fn noise(shape: &[usize], scale: f64) -> Result<Tensor> {
    let number = |i: u32| {
        let x = (i ^ (i >> 16)).wrapping_add(1).wrapping_mul(0x7feb_352d);
        ((x ^ (x >> 15)).wrapping_mul(0x846c_a68b) >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let count = shape.iter().product::<usize>() as u32;
    Tensor::from_vec((0..count).map(number).collect(), shape, &Device::Cpu)? * scale
}

fn main() -> Result<()> {
    let plain = Net::new()?;
    plain.train("plain Candle", |x| plain.with_candle(x))?;
    let fast = Net::new()?;
    fast.train("gafi-kernels", |x| fast.with_trunk(x))?;
    for (i, (a, b)) in plain.filters.iter().zip(&fast.filters).enumerate() {
        let difference = (a.as_detached_tensor() - b.as_detached_tensor())?.abs()?.max_all()?.to_scalar::<f32>()?;
        println!("filters {i}: largest difference after {STEPS} steps {difference:.1e}");
    }
    Ok(())
}

//! Small networks, built by hand or at random, that run on a tape and as a composition of Candle ops.

use candle_core::{Device, Result, Tensor, bail};
use gafi_kernels::trunk::{Activation, Moments, Output, Settings, Tape, Value, run};

use super::{compose, noise};

/// Added to variances.
const EPS: f64 = 1e-4;

/// The shape of a value: (N, C, H, W).
type Shape = [usize; 4];

/// The mean and variance of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norm {
    /// Those of the batch.
    Train,
    /// Constants.
    Eval,
}

/// One op. Values and parameters are given by their index.
#[derive(Clone, Debug)]
enum Step {
    ExtraInput { tensor: usize },
    Conv { x: usize, w: usize, bias: Option<usize>, stride: usize, pad: usize },
    UpConv { x: usize, w: usize, bias: Option<usize>, pad: usize },
    Norm { x: usize, gain: usize, shift: usize, norm: Norm, activation: Option<Activation> },
    Activation { x: usize, activation: Activation },
    Add { a: usize, b: usize, relu: bool },
    AvgPool { x: usize },
    MaxPool { x: usize },
    Upsample { x: usize },
    SubsamplePad { x: usize, channels: usize },
    Attend { query: usize, key: usize, value: usize },
}

/// Properties of a value.
#[derive(Clone, Copy, Debug)]
struct ValueInfo {
    shape: Shape,
    /// Whether it is a norm or an activation.
    view: bool,
    /// Whether neighbours may be equal. No maximum is taken of them, as rounding would decide it.
    ties: bool,
}

/// A network: its steps, each of which computes one value, and the shapes of its parameters. Value 0 is the input.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    steps: Vec<Step>,
    values: Vec<ValueInfo>,
    params: Vec<Vec<usize>>,
    /// Whether the result is sums over positions instead of maps.
    pub(crate) sums: bool,
}

/// Whether neighbours after the activation may be equal. A GELU rounds to 0 far below 0.
fn flat(activation: Activation) -> bool {
    matches!(activation, Activation::Leaky(0.0) | Activation::Gelu)
}

fn composed_activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Leaky(slope) => compose::leaky_relu(x, f64::from(slope)),
        Activation::Gelu => x.gelu_erf(),
        other => bail!("no composition of {other:?}"),
    }
}

impl Chain {
    /// A network without steps, for an input of this shape.
    pub(crate) fn new(shape: Shape) -> Self {
        let input = ValueInfo { shape, view: false, ties: false };
        Self { steps: Vec::new(), values: vec![input], params: Vec::new(), sums: false }
    }

    fn param(&mut self, shape: &[usize]) -> usize {
        self.params.push(shape.to_vec());
        self.params.len() - 1
    }

    fn push(&mut self, step: Step, shape: Shape, view: bool, ties: bool) -> usize {
        self.steps.push(step);
        self.values.push(ValueInfo { shape, view, ties });
        self.values.len() - 1
    }

    pub(crate) fn extra_input(&mut self, shape: Shape) -> usize {
        let tensor = self.param(&shape);
        self.push(Step::ExtraInput { tensor }, shape, false, false)
    }

    pub(crate) fn conv(&mut self, x: usize, cout: usize, k: usize, stride: usize, pad: usize, bias: bool) -> usize {
        let ValueInfo { shape: [n, c, h, w], ties, .. } = self.values[x];
        let out = |size: usize| (size + 2 * pad - k) / stride + 1;
        let weights = self.param(&[cout, c, k, k]);
        let bias = bias.then(|| self.param(&[cout]));
        self.push(Step::Conv { x, w: weights, bias, stride, pad }, [n, cout, out(h), out(w)], false, ties && k < 2)
    }

    pub(crate) fn upconv(&mut self, x: usize, cout: usize, k: usize, pad: usize, bias: bool) -> usize {
        let [n, c, h, w] = self.values[x].shape;
        let out = |size: usize| 2 * size + 2 * pad - k + 1;
        let weights = self.param(&[cout, c, k, k]);
        let bias = bias.then(|| self.param(&[cout]));
        self.push(Step::UpConv { x, w: weights, bias, pad }, [n, cout, out(h), out(w)], false, k < 3)
    }

    /// A norm, with a gain and a shift for each image if `conditional`.
    pub(crate) fn norm(&mut self, x: usize, norm: Norm, conditional: bool, activation: Option<Activation>) -> usize {
        let ValueInfo { shape, ties, .. } = self.values[x];
        let per = if conditional { &shape[..2] } else { &shape[1..2] };
        let gain = self.param(per);
        let shift = self.param(per);
        self.push(Step::Norm { x, gain, shift, norm, activation }, shape, true, ties || activation.is_some_and(flat))
    }

    pub(crate) fn activation(&mut self, x: usize, activation: Activation) -> usize {
        let ValueInfo { shape, ties, .. } = self.values[x];
        self.push(Step::Activation { x, activation }, shape, true, ties || flat(activation))
    }

    pub(crate) fn add(&mut self, a: usize, b: usize, relu: bool) -> usize {
        let ValueInfo { shape, ties, .. } = self.values[a];
        let other = self.values[b];
        assert_eq!(shape, other.shape);
        self.push(Step::Add { a, b, relu }, shape, false, relu || ties && other.ties)
    }

    /// An op that changes the size: a pool, upsampling or the shortcut.
    fn resized(&mut self, x: usize, step: Step) -> usize {
        let ValueInfo { shape: [n, c, h, w], ties, .. } = self.values[x];
        let (shape, ties) = match step {
            Step::Upsample { .. } => ([n, c, 2 * h, 2 * w], true),
            Step::SubsamplePad { channels, .. } => ([n, channels, h.div_ceil(2), w.div_ceil(2)], true),
            _ => ([n, c, h / 2, w / 2], ties),
        };
        self.push(step, shape, false, ties)
    }

    pub(crate) fn avg_pool(&mut self, x: usize) -> usize {
        self.resized(x, Step::AvgPool { x })
    }

    pub(crate) fn max_pool(&mut self, x: usize) -> usize {
        self.resized(x, Step::MaxPool { x })
    }

    pub(crate) fn upsample(&mut self, x: usize) -> usize {
        self.resized(x, Step::Upsample { x })
    }

    pub(crate) fn subsample_pad(&mut self, x: usize, channels: usize) -> usize {
        self.resized(x, Step::SubsamplePad { x, channels })
    }

    pub(crate) fn attend(&mut self, query: usize, key: usize, value: usize) -> usize {
        let ValueInfo { shape: [n, _, h, w], ties, .. } = self.values[query];
        let v = self.values[value].shape[1];
        self.push(Step::Attend { query, key, value }, [n, v, h, w], false, ties)
    }

    /// The same network without kinks. Rounding may move a value across a kink, which changes its gradient.
    pub(crate) fn smooth(&self) -> Self {
        let mut chain = self.clone();
        for step in &mut chain.steps {
            match step {
                Step::Norm { activation: Some(Activation::Leaky(slope)), .. }
                | Step::Activation { activation: Activation::Leaky(slope), .. } => *slope = 0.9,
                Step::Add { relu, .. } => *relu = false,
                Step::MaxPool { x } => *step = Step::AvgPool { x: *x },
                _ => {}
            }
        }
        chain
    }

    /// Input and parameters of moderate size.
    pub(crate) fn inputs(&self, seed: u64) -> Vec<Tensor> {
        let params = self.params.iter().enumerate().map(|(i, shape)| {
            let t = noise(shape, seed + 1 + i as u64);
            // Weights that keep the magnitude of values.
            let fan_in = if shape.len() == 4 { shape[1..].iter().product::<usize>() as f64 } else { 1.0 };
            let weights = self.steps.iter().all(|step| !matches!(step, Step::ExtraInput { tensor } if *tensor == i));
            if weights { t * (3.0 / fan_in).sqrt() } else { Ok(t) }.expect("a product")
        });
        std::iter::once(noise(&self.values[0].shape, seed)).chain(params).collect()
    }

    /// The same for `times` as many images: the batch and all per-image parameters, repeated.
    pub(crate) fn repeated(&self, seed: u64, times: usize) -> Result<Vec<Tensor>> {
        let of_images = |i: usize| {
            self.steps.iter().any(|step| match *step {
                Step::ExtraInput { tensor } => tensor == i,
                Step::Norm { gain, shift, .. } => (gain == i || shift == i) && self.params[i].len() == 2,
                _ => false,
            })
        };
        let repeat = |(i, t): (usize, Tensor)| {
            if i == 0 || of_images(i - 1) { Tensor::cat(&vec![t; times], 0) } else { Ok(t) }
        };
        self.inputs(seed).into_iter().enumerate().map(repeat).collect()
    }

    /// Runs on a tape.
    pub(crate) fn on_tape(&self, t: &[Tensor], settings: Settings) -> Result<Tensor> {
        run(&t[0], settings, |tape, x| {
            let mut values = vec![x];
            for step in &self.steps {
                let value = self.record(step, tape, &values, &t[1..])?;
                values.push(value);
            }
            let last = values[values.len() - 1];
            Ok(if self.sums { Output::Sums(last) } else { Output::Maps(last) })
        })
    }

    fn record(&self, step: &Step, tape: &mut Tape, v: &[Value], p: &[Tensor]) -> Result<Value> {
        match *step {
            Step::ExtraInput { tensor } => tape.extra_input(&p[tensor]),
            Step::Conv { x, w, bias, stride, pad } => {
                tape.before_norm().conv2d(v[x], &p[w], bias.map(|b| &p[b]), stride, pad)
            }
            Step::UpConv { x, w, bias, pad } => {
                tape.before_norm().upsample2x_conv2d(v[x], &p[w], bias.map(|b| &p[b]), pad)
            }
            Step::Norm { x, gain, shift, norm, activation } => {
                let moments = if norm == Norm::Train { tape.moments(v[x])? } else { constants(tape.dims(v[x]).1)? };
                let rows = |t: &Tensor| if t.rank() == 2 { tape.rows(t) } else { Ok(t.clone()) };
                let gain = rows(&p[gain])?;
                let shift = rows(&p[shift])?;
                tape.batch_norm(v[x], &gain, &shift, &moments, norm == Norm::Train, EPS, activation)
            }
            Step::Activation { x, activation } => tape.activation(v[x], activation),
            Step::Add { a, b, relu: false } => tape.add(v[a], v[b]),
            Step::Add { a, b, relu: true } => tape.add_relu(v[a], v[b]),
            Step::AvgPool { x } => tape.avg_pool2x2(v[x]),
            Step::MaxPool { x } => tape.max_pool2x2(v[x]),
            Step::Upsample { x } => tape.upsample2x(v[x]),
            Step::SubsamplePad { x, channels } => tape.subsample_pad(v[x], channels),
            Step::Attend { query, key, value } => tape.attend(v[query], v[key], v[value]),
        }
    }

    /// Runs as a composition of Candle ops.
    pub(crate) fn composed(&self, t: &[Tensor]) -> Result<Tensor> {
        let mut v = vec![t[0].clone()];
        let p = &t[1..];
        for step in &self.steps {
            v.push(match *step {
                Step::ExtraInput { tensor } => p[tensor].clone(),
                Step::Conv { x, w, bias, stride, pad } => {
                    compose::conv2d(&v[x], &p[w], bias.map(|b| &p[b]), stride, pad)?
                }
                Step::UpConv { x, w, bias, pad } => {
                    compose::conv2d(&compose::upsample2x(&v[x])?, &p[w], bias.map(|b| &p[b]), 1, pad)?
                }
                Step::Norm { x, gain, shift, norm, activation } => {
                    let Moments { mean, var, .. } = constants(v[x].dim(1)?)?;
                    let fixed = (norm == Norm::Eval).then_some((&mean, &var));
                    let y = compose::batch_norm(&v[x], &p[gain], &p[shift], fixed, EPS, None)?;
                    activation.map_or(Ok(y.clone()), |activation| composed_activation(&y, activation))?
                }
                Step::Activation { x, activation } => composed_activation(&v[x], activation)?,
                Step::Add { a, b, relu: false } => (&v[a] + &v[b])?,
                Step::Add { a, b, relu: true } => compose::add_relu(&v[a], &v[b])?,
                Step::AvgPool { x } => compose::avg_pool2x2(&v[x])?,
                Step::MaxPool { x } => compose::max_pool2x2(&v[x])?,
                Step::Upsample { x } => compose::upsample2x(&v[x])?,
                Step::SubsamplePad { x, channels } => compose::subsample_pad(&v[x], channels)?,
                Step::Attend { query, key, value } => compose::attend(&v[query], &v[key], &v[value])?,
            });
        }
        let last = &v[v.len() - 1];
        if self.sums { compose::global_sum(last) } else { Ok(last.clone()) }
    }

    /// A network of `steps` random steps on earlier values. Norms use batch statistics only if `training`.
    pub(crate) fn random(seed: u64, steps: usize, training: bool) -> Self {
        let mut draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let shape = [1 + draw.below(3), draw.of(&[3, 5, 16, 32]), 4 + draw.below(6), 4 + draw.below(6)];
        let mut chain = Chain::new(shape);
        while chain.steps.len() < steps {
            chain.random_step(&mut draw, training);
        }
        chain.sums = draw.below(3) == 0;
        chain
    }

    fn random_step(&mut self, draw: &mut Draw, training: bool) {
        // Mostly the last value, so that most of the chain reaches the output.
        let last = self.values.len() - 1;
        let x = if draw.below(4) == 0 { draw.below(last + 1) } else { last };
        let ValueInfo { shape, view, ties } = self.values[x];
        let [n, c, h, w] = shape;
        let cout = draw.of(&[4, 7, 16, 16, 32]);
        let bias = draw.below(2) == 0;
        let activation = draw.of(&[Activation::RELU, Activation::RELU, Activation::Leaky(0.2), Activation::Gelu]);
        // The value of the step, or x if none was added.
        let _ = match draw.below(14) {
            0..=2 => self.conv(x, cout, 3, 1, 1, bias),
            3 if h.min(w) >= 2 => self.conv(x, cout, 4, 2, 1, bias),
            4 => self.conv(x, cout, 1, 1, 0, bias),
            5 if h.max(w) <= 6 => self.upconv(x, cout, 3, 1, bias),
            6 | 7 if !view && n * h * w >= 8 => {
                let norm = if training && draw.below(2) == 0 { Norm::Train } else { Norm::Eval };
                let activation = (draw.below(3) > 0).then_some(activation);
                self.norm(x, norm, draw.below(2) == 0, activation)
            }
            8 if !view => self.activation(x, activation),
            9 | 10 => {
                // This may be x itself.
                let same: Vec<usize> = (0..=last).filter(|&v| self.values[v].shape == shape).collect();
                let other = draw.of(&same);
                self.add(x, other, draw.below(2) == 0)
            }
            11 if h.min(w) >= 2 && !ties && draw.below(2) == 0 => self.max_pool(x),
            11 if h.min(w) >= 2 => self.avg_pool(x),
            12 => match draw.below(3) {
                0 if h.max(w) <= 5 => self.upsample(x),
                1 => self.subsample_pad(x, c + draw.below(9)),
                _ => self.extra_input(shape),
            },
            13 => {
                let keys: Vec<usize> = (0..=last).filter(|&v| self.values[v].shape[1] == c).collect();
                let key = draw.of(&keys);
                let at = self.values[key].shape;
                let values: Vec<usize> = (0..=last).filter(|&v| self.values[v].shape[2..] == at[2..]).collect();
                self.attend(x, key, draw.of(&values))
            }
            _ => x,
        };
    }
}

/// Moments that do not depend on the batch.
fn constants(channels: usize) -> Result<Moments> {
    let values = |from: f32, step: f32| (0..channels).map(|i| from + step * (i % 5) as f32).collect::<Vec<_>>();
    let tensor = |v: Vec<f32>| Tensor::from_vec(v, channels, &Device::Cpu);
    Ok(Moments { mean: tensor(values(-0.2, 0.1))?, var: tensor(values(0.5, 0.2))?, count: 0 })
}

/// A generator of small random numbers.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

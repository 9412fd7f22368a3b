//! Exponential moving average of a network's weights. Buffers are copied, as in StudioGAN, or averaged too, as in the
//! released program ([`Ema::average_buffers`]).

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use crate::error::Result;
use crate::optim::move_towards;
use crate::params::{Params, copy, load_exact};

/// Configuration of a moving average.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EmaConfig {
    /// Weight of the old average in each update, 0 to below 1.
    #[cfg_attr(feature = "schema", schemars(example = 0.999, range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub decay: f64,
    /// Before this step an update copies the weights. StudioGAN's value for BigGAN-Deep: 1000.
    #[serde(default)]
    pub start: u64,
    /// Whether the decay grows as (1 + t) / (10 + t), with t counted from `start`, until it reaches `decay`
    /// (TensorFlow's `num_updates` rule). Makes the average useful early in a short training.
    #[serde(default)]
    pub warm_up: bool,
}

impl From<f64> for EmaConfig {
    fn from(decay: f64) -> Self {
        Self { decay, start: 0, warm_up: false }
    }
}

impl EmaConfig {
    /// The decay of the update after step `step`, counted from 0.
    pub fn decay_at(&self, step: u64) -> f64 {
        if step < self.start {
            return 0.0;
        }
        let t = (step - self.start) as f64;
        if self.warm_up { self.decay.min((1.0 + t) / (10.0 + t)) } else { self.decay }
    }
}

/// The moving average of a network's weights.
#[derive(Debug)]
pub struct Ema {
    config: EmaConfig,
    average_buffers: bool,
    vars: BTreeMap<String, Var>,
    buffers: BTreeMap<String, Var>,
}

impl Ema {
    /// An average that starts as a copy of `params` and copies buffers.
    pub fn new(params: &Params, config: impl Into<EmaConfig>) -> Result<Self> {
        let own = |(name, var): (&str, &Var)| Ok((name.to_string(), Var::from_tensor(&copy(var)?)?));
        Ok(Self {
            config: config.into(),
            average_buffers: false,
            vars: params.vars().map(own).collect::<Result<_>>()?,
            buffers: params.buffers().map(own).collect::<Result<_>>()?,
        })
    }

    /// Averages buffers as parameters are.
    #[must_use]
    pub fn average_buffers(self) -> Self {
        Self { average_buffers: true, ..self }
    }

    /// Updates the average after optimiser step `step`, counted from 0: `average = d * average + (1 - d) * parameter`.
    ///
    /// `params` must have the names and shapes of the set that the average was created from.
    pub fn update(&mut self, params: &Params, step: u64) -> Result<()> {
        let decay = self.config.decay_at(step);
        let buffer_decay = if self.average_buffers { decay } else { 0.0 };
        move_all(&self.vars, params.vars(), decay)?;
        move_all(&self.buffers, params.buffers(), buffer_decay)
    }

    /// Updates the average, buffers included: `average = decay * average + (1 - decay) * value`.
    pub(crate) fn move_by(&mut self, params: &Params, decay: f64) -> Result<()> {
        move_all(&self.vars, params.vars(), decay)?;
        move_all(&self.buffers, params.buffers(), decay)
    }

    /// Copies of the averaged parameters and the buffers, by the names of [`Params::state`]; [`Params::load`] and [`Ema::load`]
    /// accept them.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.vars.iter().chain(&self.buffers).map(|(name, var)| Ok((name.clone(), copy(var)?))).collect()
    }

    /// Resumes from [`Ema::weights`]. Names and shapes must match exactly.
    pub fn load(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let targets = self.vars.iter().chain(&self.buffers).map(|(name, var)| (name.clone(), var)).collect();
        load_exact("average", &targets, state)
    }
}

/// Moves each of `averages` towards its current value, whose share is 1 - `decay`.
fn move_all<'a>(
    averages: &BTreeMap<String, Var>,
    current: impl Iterator<Item = (&'a str, &'a Var)>,
    decay: f64,
) -> Result<()> {
    let pairs = current.filter_map(|(name, now)| Some((averages.get(name)?, now)));
    #[cfg(feature = "cuda")]
    let pairs = {
        let all: Vec<_> = pairs.collect();
        if all.first().is_some_and(|(average, _)| average.device().is_cuda()) {
            let rows: Vec<_> = all.iter().map(|(average, now)| [average.as_tensor(), now.as_tensor()]).collect();
            return Ok(gafi_kernels::cuda::average(&rows, decay)?);
        }
        all.into_iter()
    };
    for (average, now) in pairs {
        let now = now.as_detached_tensor();
        if decay == 0.0 {
            average.set(&now)?;
        } else {
            move_towards(average, &now, decay, 1.0 - decay)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Init;
    use candle_core::{DType, Device};
    use gafi_core::Stream;

    fn set(var: &Var, value: f64) {
        var.set(&Tensor::full(value as f32, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }

    fn first(ema: &Ema, name: &str) -> f32 {
        ema.weights().unwrap()[name].to_vec1::<f32>().unwrap()[0]
    }

    #[test]
    fn averages_parameters_and_copies_buffers() {
        let mut params = Params::new(&Device::Cpu, Stream::new(1));
        let w = params.root().param("w", 3, Init::Ones).unwrap();
        let mean = params.root().buffer("mean", 3, Init::Zeros).unwrap();
        let mut ema = Ema::new(&params, 0.75).unwrap();
        set(&w, 5.0);
        set(&mean, 8.0);
        ema.update(&params, 0).unwrap();
        assert_eq!((first(&ema, "w"), first(&ema, "mean")), (2.0, 8.0));
        ema.update(&params, 1).unwrap();
        assert_eq!(first(&ema, "w"), 2.75);
        // Further updates leave an earlier state unchanged, and a restored average continues like the original.
        let state = ema.weights().unwrap();
        let mut other = Ema::new(&params, 0.75).unwrap();
        other.load(&state).unwrap();
        ema.update(&params, 2).unwrap();
        assert_eq!(state["w"].to_vec1::<f32>().unwrap()[0], 2.75);
        other.update(&params, 2).unwrap();
        assert_eq!(first(&other, "w"), first(&ema, "w"));
    }

    #[test]
    fn buffers_are_averaged_where_asked_for() {
        let mut params = Params::new(&Device::Cpu, Stream::new(1));
        let mean = params.root().buffer("mean", 3, Init::Ones).unwrap();
        let mut ema = Ema::new(&params, EmaConfig { decay: 0.75, start: 1, warm_up: false }).unwrap().average_buffers();
        set(&mean, 8.0);
        ema.update(&params, 0).unwrap();
        assert_eq!(first(&ema, "mean"), 8.0, "a copy until the start");
        set(&mean, 16.0);
        ema.update(&params, 1).unwrap();
        assert_eq!(first(&ema, "mean"), 10.0);
    }

    #[test]
    fn copies_before_its_start_and_warms_up() {
        let late = EmaConfig { decay: 0.9, start: 2, warm_up: false };
        assert_eq!([0, 1, 2, 3].map(|t| late.decay_at(t)), [0.0, 0.0, 0.9, 0.9]);
        let warm = EmaConfig { decay: 0.9, start: 2, warm_up: true };
        assert_eq!([2, 3, 10_000].map(|t| warm.decay_at(t)), [0.1, 2.0 / 11.0, 0.9]);
        let mut params = Params::new(&Device::Cpu, Stream::new(1));
        let w = params.root().param("w", 2, Init::Zeros).unwrap();
        let mut ema = Ema::new(&params, late).unwrap();
        set(&w, 4.0);
        ema.update(&params, 1).unwrap();
        assert_eq!(first(&ema, "w"), 4.0);
    }

    #[test]
    fn a_state_of_another_shape_is_refused() {
        let mut params = Params::new(&Device::Cpu, Stream::new(1));
        params.root().param("w", 2, Init::Zeros).unwrap();
        let mut ema = Ema::new(&params, 0.5).unwrap();
        let state = BTreeMap::from([("w".to_string(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap())]);
        assert!(ema.load(&state).unwrap_err().to_string().starts_with("average: w: expected"));
    }
}

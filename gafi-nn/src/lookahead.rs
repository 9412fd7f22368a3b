//! Lookahead: every few steps a moving average of the weights is updated, and the weights are set to it (Zhang et al. 2019,
//! arXiv 1907.08610). The share of the old average grows during the training (Jordan 2024, arXiv 2404.00498).

use serde::{Deserialize, Serialize};

use crate::ema::Ema;
use crate::error::Result;
use crate::params::Params;

/// Configuration of a lookahead.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LookaheadConfig {
    /// Steps between two moves, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub every: u64,
    /// Share of the old average that is kept for each step at the end of the training, 0 to below 1. Earlier, the kept share is
    /// multiplied by the cube of the fraction of the training that is done.
    #[cfg_attr(feature = "schema", schemars(range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub decay: f64,
}

impl Default for LookaheadConfig {
    /// The published values.
    fn default() -> Self {
        Self { every: 5, decay: 0.95 }
    }
}

/// A lookahead of the parameters and buffers of one network.
#[derive(Debug)]
pub(crate) struct Lookahead {
    config: LookaheadConfig,
    pub(crate) average: Ema,
}

impl Lookahead {
    pub(crate) fn new(params: &Params, config: LookaheadConfig) -> Result<Self> {
        Ok(Self { config, average: Ema::new(params, 0.0)? })
    }

    /// To be called after every step, with `steps` of `total` done. Every few steps it updates the average and sets the
    /// parameters to it; after the last step it sets them without an update.
    pub(crate) fn update(&mut self, params: &Params, steps: u64, total: u64) -> Result<()> {
        let last = steps == total;
        if !steps.is_multiple_of(self.config.every) && !last {
            return Ok(());
        }
        let done = steps as f64 / total.max(1) as f64;
        let decay = self.config.decay.powf(self.config.every as f64) * done.powi(3);
        self.average.move_by(params, if last { 1.0 } else { decay })?;
        params.load(&self.average.weights()?)
    }
}

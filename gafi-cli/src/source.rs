//! The source that GaFi's students learn from: a generator's samples, drawn wide (`gafi-expand`), then filtered by the
//! teacher (`gafi-filter`). The two crates do not know each other; this is where they meet.

use gafi_core::{Context, Inputs, Result, SampleSource};
use gafi_expand::{Expanded, StdRange, latent_stream};
use gafi_filter::{FilterRule, Filtered};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How samples are made: kind `gafi`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Always `gafi`; other kinds are registered with [`gafi_core::Openers::with_source`].
    pub kind: String,
    /// The generator's checkpoint, in steps; its last one when absent.
    pub checkpoint: Option<u64>,
    /// Standard deviation of the latents: a number, or [lo, hi] for one drawn per sample.
    pub std: StdRange,
    /// The teacher's rule; absent: every sample is taken as it comes.
    pub filter: Option<FilterRule>,
    /// Seed of the latents.
    pub seed: u64,
}

impl SourceConfig {
    /// Samples of `checkpoint` as the generator was trained: std 1, unfiltered.
    pub fn plain(checkpoint: u64, seed: u64) -> Self {
        Self { kind: "gafi".into(), checkpoint: Some(checkpoint), std: StdRange::default(), filter: None, seed }
    }
}

/// Opens a source of kind `gafi`: port `generator`, and port `teacher` where it filters.
///
/// # Errors
/// What configuration, generator and teacher say.
pub fn open_source(config: &Value, inputs: &Inputs, cx: &Context) -> Result<Box<dyn SampleSource>> {
    let config: SourceConfig = serde_json::from_value(config.clone())
        .map_err(|e| gafi_core::Error::config("source", config, format!("a source of kind gafi: {e}")))?;
    config.std.check()?;
    let generator = cx.openers.open_generator(inputs.require("recycle", "generator")?, config.checkpoint)?;
    let expanded = Expanded::new(generator, config.std, latent_stream(config.seed))?;
    let Some(rule) = config.filter else { return Ok(Box::new(expanded)) };
    rule.check()?;
    let teacher = cx.openers.open_scorer(inputs.require("recycle", "teacher")?)?;
    Ok(Box::new(Filtered::new(expanded, teacher, rule)?))
}

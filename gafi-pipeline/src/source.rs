//! The sources that GaFi's students learn from: a generator's samples, drawn wide (`gafi-expand`), then judged by the
//! teacher (`gafi-filter`); several of these mixed; and images that are there already. The crates do not know each other;
//! this is where they meet.

use std::num::NonZeroU64;

use gafi_core::{Context, Dataset, Generator, Inputs, Mixed, Result, SampleSource, SourceSpec};
use gafi_expand::{ClassStds, Expanded, latent_stream};
use gafi_filter::{FilterRule, Filtered, RowsSource};
use serde::{Deserialize, Serialize};

/// How samples of one generator are made: kind `gafi`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Always `gafi`; other kinds are registered with [`gafi_core::ModelLoaders::with_source`].
    pub kind: String,
    /// Index of the generator among those of port `generators`.
    #[serde(default, skip_serializing_if = "is_first")]
    pub generator: usize,
    /// The generator's checkpoint, in steps; its last one when absent.
    pub checkpoint: Option<u64>,
    /// Standard deviation of the latents: a number, [lo, hi] for one drawn per sample, or one of these for each class.
    pub std: ClassStds,
    /// The teacher's rule; absent: every sample is taken as it comes, and nobody judges it.
    pub filter: Option<FilterRule>,
    /// Seed of the latents.
    pub seed: u64,
}

fn is_first(generator: &usize) -> bool {
    *generator == 0
}

impl SourceConfig {
    /// Samples of `checkpoint` as the generator was trained: std 1, unfiltered.
    pub fn plain(checkpoint: u64, seed: u64) -> Self {
        let (kind, std) = ("gafi".into(), ClassStds::default());
        Self { kind, generator: 0, checkpoint: Some(checkpoint), std, filter: None, seed }
    }

    /// Opens the source: port `generators`, and port `teacher` if it filters.
    ///
    /// # Errors
    /// When a port is empty, a network cannot be opened, or std or rule are out of range.
    pub fn open(&self, inputs: &Inputs, cx: &Context) -> Result<Box<dyn SampleSource>> {
        filtered(self.open_unfiltered(inputs, cx)?, self.filter.clone(), inputs, cx)
    }

    /// Opens the generator's samples as they are before the filter.
    ///
    /// # Errors
    /// As [`SourceConfig::open`].
    pub fn open_unfiltered(&self, inputs: &Inputs, cx: &Context) -> Result<Expanded<Box<dyn Generator>>> {
        let generators = inputs.all("generators");
        let generator = generators.get(self.generator).ok_or_else(|| {
            inputs.error("generators", format!("at least {}", self.generator + 1), generators.len().to_string())
        })?;
        let generator = cx.models.open_generator(generator, self.checkpoint)?;
        Expanded::new(generator, self.std.clone(), latent_stream(self.seed))
    }
}

/// Samples of several generators (GaFi's MultiGAN): kind `gafi-mixed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixedConfig {
    /// Always `gafi-mixed`.
    pub kind: String,
    /// One a generator, each with its own checkpoint, deviation and threshold.
    pub sources: Vec<SourceConfig>,
    /// Samples of a class that one generator supplies before it is the next one's turn: 1 for equal shares of every set, the
    /// number of images a class for one generator each generation.
    pub turn: NonZeroU64,
}

/// The images of a dataset, each once, in their order: kind `rows`. A class that is used up is an error of whoever wants more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsConfig {
    /// Always `rows`.
    pub kind: String,
    /// The teacher's rule; absent: every image is taken as it comes.
    pub filter: Option<FilterRule>,
}

/// Opens a source of kind `rows`: port `samples`, and port `teacher` where it filters.
///
/// # Errors
/// What configuration, dataset and teacher say.
pub fn open_rows(spec: &SourceSpec, inputs: &Inputs, cx: &Context) -> Result<Box<dyn SampleSource>> {
    let config: RowsConfig = spec.parse()?;
    let rows = RowsSource::new(Dataset::open(inputs.require("samples")?)?);
    filtered(rows, config.filter, inputs, cx)
}

/// Opens a source of kind `gafi`: its generator's port, and port `teacher` where it filters.
///
/// # Errors
/// What configuration, generator and teacher say.
pub fn open_source(spec: &SourceSpec, inputs: &Inputs, cx: &Context) -> Result<Box<dyn SampleSource>> {
    spec.parse::<SourceConfig>()?.open(inputs, cx)
}

/// Opens a source of kind `gafi-mixed`.
///
/// # Errors
/// What configuration, generators and teacher say.
pub fn open_mixed(spec: &SourceSpec, inputs: &Inputs, cx: &Context) -> Result<Box<dyn SampleSource>> {
    let config: MixedConfig = spec.parse()?;
    let sources = config.sources.iter().map(|s| s.open(inputs, cx)).collect::<Result<Vec<_>>>()?;
    Ok(Box::new(Mixed::new(sources, config.turn)?))
}

/// `source` as it comes, or what the teacher keeps of it.
fn filtered(
    source: impl SampleSource + 'static,
    rule: Option<FilterRule>,
    inputs: &Inputs,
    cx: &Context,
) -> Result<Box<dyn SampleSource>> {
    let Some(rule) = rule else { return Ok(Box::new(source)) };
    rule.check()?;
    let teacher = cx.models.open_scorer(inputs.require("teacher")?)?;
    Ok(Box::new(Filtered::new(source, teacher, rule)?.until(cx.stop.clone())))
}

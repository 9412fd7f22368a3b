//! The sources that students learn from. This is where the techniques meet: a generator's samples with wide latents
//! (`gafi-expand`), of which a teacher keeps some (`gafi-filter`); several of these mixed; and the images of a dataset.

use std::num::NonZeroU64;

use gafi_core::{Context, Dataset, Generator, Inputs, Mixed, ModelLoaders, Result, SampleSource, SourceSpec};
use gafi_expand::{Expanded, StdRange, latent_stream};
use gafi_filter::{FilterRule, Filtered, RowsSource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A source of one of the kinds of this crate. A host program registers kinds of its own with
/// [`ModelLoaders::with_source`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Source {
    /// Samples of one generator.
    Gafi(GafiSource),
    /// Samples of several generators.
    Mixed(MixedSource),
    /// The images of a dataset.
    Rows(RowsOptions),
}

/// Samples of one generator, filtered if there is a rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GafiSource {
    /// Index of the generator among those of port `generators`.
    #[serde(skip_serializing_if = "is_first")]
    pub generator: usize,
    /// The generator's checkpoint, in steps; the last one when absent.
    pub checkpoint: Option<u64>,
    /// Standard deviation of the latents: a number, or [lo, hi] to draw one per sample.
    pub std: StdRange,
    /// The rule of the classifier at port `teacher`; unfiltered when absent.
    pub filter: Option<FilterRule>,
    /// Seed of the latents.
    pub seed: u64,
}

/// Samples of several generators (GaFi's MultiGAN).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MixedSource {
    /// One source for each generator.
    pub sources: Vec<GafiSource>,
    /// Samples of a class that one source supplies before the next one's turn: 1 for equal shares of every set, the images of
    /// a class in a set for one generator in each generation.
    pub turn: NonZeroU64,
}

/// The images of the dataset at port `samples`, each once, in order. A consumer that pulls more fails.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RowsOptions {
    /// The rule of the classifier at port `teacher`; unfiltered when absent.
    pub filter: Option<FilterRule>,
}

fn is_first(generator: &usize) -> bool {
    *generator == 0
}

impl Source {
    const KINDS: [&str; 3] = ["gafi", "mixed", "rows"];

    /// Parses `spec`; `None` for a kind of another crate.
    ///
    /// # Errors
    /// When the options don't fit the kind.
    pub fn parse(spec: &SourceSpec) -> Result<Option<Self>> {
        if Self::KINDS.contains(&spec.kind.as_str()) { spec.parse().map(Some) } else { Ok(None) }
    }

    /// The same as a specification, for the configuration of a stage.
    ///
    /// # Errors
    /// When a value cannot be written as JSON.
    pub fn to_spec(&self) -> Result<SourceSpec> {
        SourceSpec::of(self)
    }

    /// The sources of single generators that it consists of.
    pub fn generators(&self) -> &[GafiSource] {
        match self {
            Self::Gafi(source) => std::slice::from_ref(source),
            Self::Mixed(mixed) => &mixed.sources,
            Self::Rows(_) => &[],
        }
    }

    /// Replaces the seed of the latents.
    pub fn with_seed(mut self, seed: u64) -> Self {
        match &mut self {
            Self::Gafi(source) => source.seed = seed,
            Self::Mixed(mixed) => mixed.sources.iter_mut().for_each(|source| source.seed = seed),
            Self::Rows(_) => {}
        }
        self
    }

    /// Opens it on the ports `generators`, `samples` and `teacher`.
    ///
    /// # Errors
    /// When a port that it needs is empty, a network cannot be opened, or a value is out of range.
    pub fn open(&self, inputs: &Inputs, cx: &Context) -> Result<Box<dyn SampleSource>> {
        match self {
            Self::Gafi(source) => source.open(inputs, cx),
            Self::Mixed(mixed) => {
                let sources = mixed.sources.iter().map(|source| source.open(inputs, cx)).collect::<Result<Vec<_>>>()?;
                Ok(Box::new(Mixed::new(sources, mixed.turn)?))
            }
            Self::Rows(options) => {
                let rows = RowsSource::new(Dataset::open(inputs.require("samples")?)?);
                filtered(rows, options.filter.as_ref(), inputs, cx)
            }
        }
    }
}

impl GafiSource {
    /// Samples of `checkpoint` as the generator was trained: std 1, unfiltered.
    pub fn plain(checkpoint: u64, seed: u64) -> Self {
        Self { checkpoint: Some(checkpoint), seed, ..Self::default() }
    }

    /// Opens it on the ports `generators` and, if it filters, `teacher`.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open(&self, inputs: &Inputs, cx: &Context) -> Result<Box<dyn SampleSource>> {
        filtered(self.open_unfiltered(inputs, cx)?, self.filter.as_ref(), inputs, cx)
    }

    /// Opens the generator's samples without the filter.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open_unfiltered(&self, inputs: &Inputs, cx: &Context) -> Result<Expanded<Box<dyn Generator>>> {
        let generators = inputs.all("generators");
        let generator = generators.get(self.generator).ok_or_else(|| {
            inputs.error("generators", format!("at least {}", self.generator + 1), generators.len().to_string())
        })?;
        let generator = cx.models.open_generator(generator, self.checkpoint)?;
        Expanded::new(generator, self.std, latent_stream(self.seed))
    }
}

/// `source`, filtered by the teacher if there is a rule.
fn filtered(
    source: impl SampleSource + 'static,
    rule: Option<&FilterRule>,
    inputs: &Inputs,
    cx: &Context,
) -> Result<Box<dyn SampleSource>> {
    let Some(rule) = rule else { return Ok(Box::new(source)) };
    rule.check()?;
    let teacher = cx.models.open_scorer(inputs.require("teacher")?)?;
    Ok(Box::new(Filtered::new(source, teacher, rule.clone())?.until(cx.stop.clone())))
}

/// Registers the kinds `gafi`, `mixed` and `rows`.
pub fn register_sources(loaders: ModelLoaders) -> ModelLoaders {
    Source::KINDS.iter().fold(loaders, |loaders, kind| {
        loaders.with_source(kind, Box::new(|spec, inputs, cx| spec.parse::<Source>()?.open(inputs, cx)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: serde_json::Value) -> Result<Option<Source>> {
        Source::parse(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn keys_have_defaults_and_unknown_ones_are_refused() {
        assert_eq!(parse(json!({"kind": "gafi"})).unwrap(), Some(Source::Gafi(GafiSource::default())));
        assert!(parse(json!({"kind": "gafi", "deviation": 2.0})).unwrap_err().to_string().contains("deviation"));
        assert_eq!(parse(json!({"kind": "foreign", "any": 1})).unwrap(), None);
    }

    #[test]
    fn a_specification_parses_back() {
        let gafi = GafiSource { std: StdRange::Fixed(1.3), ..GafiSource::plain(40, 7) };
        let second = GafiSource { generator: 1, ..gafi.clone() };
        let mixed = MixedSource { sources: vec![gafi.clone(), second], turn: NonZeroU64::MIN };
        for source in [Source::Gafi(gafi), Source::Mixed(mixed), Source::Rows(RowsOptions::default())] {
            assert_eq!(Source::parse(&source.to_spec().unwrap()).unwrap(), Some(source));
        }
    }
}

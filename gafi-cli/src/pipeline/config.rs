//! The configuration of the whole of GaFi: the stages' own configurations and the grids of the search.

use gafi_core::Stream;
use gafi_data::ImportConfig;
use gafi_expand::StdRange;
use gafi_filter::FilterRule;
use gafi_gan::GanConfig;
use gafi_nn::ClassifierConfig;
use gafi_recycle::{Plan, Renewal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::Usage;
use crate::overrides::{merge, parse_toml};

/// What `gafi-cli pipeline` runs. Seeds in the stages' configurations are replaced by ones derived from `seed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineConfig {
    /// Seed of everything.
    pub seed: u64,
    /// Real images.
    pub data: ImportConfig,
    /// The classifier that filters, trained on all real training images.
    pub teacher: ClassifierConfig,
    /// The generator.
    pub gan: GanConfig,
    /// The classifier that is trained on generated images, and on real ones for reference.
    pub student: ClassifierConfig,
    /// Images of each class in a synthetic set, and in the real reference's; the smallest class of the real training images
    /// when absent.
    pub per_class: Option<u64>,
    /// The grids.
    pub search: SearchConfig,
    /// Renewal of the final student's images; published: all, every epoch.
    pub recycle: Renewal,
}

impl Default for PipelineConfig {
    /// The paper's values for CIFAR-10, without a set of real images.
    fn default() -> Self {
        Self {
            seed: 0,
            data: ImportConfig::default(),
            // Three times a student's epochs, with a student's milestones.
            teacher: ClassifierConfig { epochs: 300, ..ClassifierConfig::default() },
            gan: GanConfig::default(),
            student: ClassifierConfig::default(),
            per_class: None,
            search: SearchConfig::default(),
            recycle: Renewal { period: 1, factor: 1.0 },
        }
    }
}

/// What the search tries; the defaults are the paper's for CIFAR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchConfig {
    /// Checkpoints, in steps; all of the generator's when empty.
    pub checkpoints: Vec<u64>,
    /// Standard deviations of the latents.
    pub stds: Vec<StdRange>,
    /// Thresholds of the teacher's probability.
    pub thresholds: Vec<f64>,
    /// Renewal of a trial's images; published: all, every 10 epochs. A period that no trial reaches is no renewal.
    pub recycle: Renewal,
    /// What happens when a class cannot be filled; its threshold is replaced by the searched one.
    pub filter: FilterRule,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            checkpoints: Vec::new(),
            stds: (0..=20).map(|i| StdRange::Fixed(f64::from(100 + 5 * i) / 100.0)).collect(),
            thresholds: (0..10).map(|i| f64::from(i) / 10.0).collect(),
            recycle: Renewal { period: 10, factor: 1.0 },
            filter: FilterRule::default(),
        }
    }
}

impl PipelineConfig {
    /// Checks what the stages cannot see: that the grids are not empty.
    ///
    /// # Errors
    /// [`gafi_core::Error::Config`] naming the key.
    pub fn check(&self) -> gafi_core::Result<()> {
        for (key, empty) in
            [("search.stds", self.search.stds.is_empty()), ("search.thresholds", self.search.thresholds.is_empty())]
        {
            if empty {
                return Err(gafi_core::Error::config(key, "[]", "at least one value"));
            }
        }
        if self.per_class == Some(0) {
            return Err(gafi_core::Error::config("per_class", 0, "at least 1"));
        }
        for std in &self.search.stds {
            std.check()?;
        }
        for &threshold in &self.search.thresholds {
            FilterRule { threshold: threshold.into(), ..self.search.filter.clone() }.check()?;
        }
        for renewal in [self.search.recycle, self.recycle] {
            Plan::new(Some(renewal), 1, self.per_class.unwrap_or(1) as usize, Stream::new(0))?;
        }
        self.data.validate()
    }
}

/// The compiled-in presets: name and TOML.
pub const PRESETS: [(&str, &str); 2] =
    [("quickstart", include_str!("../presets/quickstart.toml")), ("smoke", include_str!("../presets/smoke.toml"))];

/// The defaults with the preset `name` laid over them, as a tree.
///
/// # Errors
/// [`Usage`] listing the presets when there is none of that name.
pub fn preset(name: Option<&str>) -> anyhow::Result<Value> {
    let mut tree = serde_json::to_value(PipelineConfig::default())?;
    if let Some(name) = name {
        let known = || PRESETS.map(|(name, _)| name).join(", ");
        let text = PRESETS.iter().find(|(n, _)| *n == name).map(|(_, text)| *text);
        merge(&mut tree, parse_toml(text.ok_or_else(|| Usage(format!("no preset {name:?}; there are {}", known())))?)?);
    }
    Ok(tree)
}

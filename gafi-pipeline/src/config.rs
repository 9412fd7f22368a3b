//! The configuration of the whole of GaFi: the stages' own configurations and the grids of the search.

use std::collections::BTreeSet;
use std::path::PathBuf;

use gafi_core::Protocol;
use gafi_data::ImportConfig;
use gafi_expand::StdRange;
use gafi_filter::FilterRule;
use gafi_gan::GanConfig;
use gafi_nn::{ClassifierConfig, Distill};
use gafi_recycle::Renewal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::overrides::{merge, parse_toml};
use crate::usage::Usage;

/// What `gafi-cli pipeline` runs. Seeds in the stages' configurations are replaced by ones derived from `seed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineConfig {
    /// Seed of everything but which real images are held out: that is `data.seed`'s, so that runs of several seeds have one split.
    pub seed: u64,
    /// Real images.
    pub data: ImportConfig,
    /// The classifier that filters, trained on all real training images.
    pub teacher: ClassifierConfig,
    /// The generator.
    pub gan: GanConfig,
    /// The classifier that is trained on generated images, and on real ones for reference.
    pub student: ClassifierConfig,
    /// Images of each class in a synthetic set, and in the real reference's, which looks so much more often at fewer where there
    /// are fewer; the smallest class of the real training images when absent. At least 1.
    #[schemars(example = 500)]
    #[schemars(range(min = 1))]
    pub per_class: Option<u64>,
    /// The grids.
    pub search: SearchConfig,
    /// Renewal of the final student's images; published: all, every epoch.
    pub recycle: Renewal,
    /// How choices are made: on a validation split, or as the paper's program does, on the test split.
    pub protocol: Protocol,
    /// Generators, 1 to 8, of different seeds, each with its own search; with more than one a student of all of them is trained as
    /// well, in equal shares (`gafi-multi`) and in turns (`gafi-multi-turns`): one after the other for as many images as a set has, which
    /// is one renewal of all, or several of a part; no such row where renewals are too few for each to have a turn. Published: 6
    /// for Fashion-MNIST, 3 for the others.
    #[schemars(range(min = 1, max = 8))]
    pub generators: usize,
    /// Folders of generators that are there already, of whatever origin: they are used in the place of training any, and then
    /// `gan` and `generators` count for nothing.
    pub trained_generators: Vec<PathBuf>,
    /// Rows of the report that are trained beside `gafi`.
    pub rows: Vec<RowKind>,
    /// Ways beyond the paper, each with a row of its own.
    pub variants: Vec<Variant>,
}

/// A combination of the three techniques, each at what the search found for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RowKind {
    /// None of them: samples as they come, a set that stays.
    Baseline,
    /// Dynamic Sample Filtering.
    Filter,
    /// The Expansion Trick.
    Expand,
    /// Dynamic Dataset Recycle.
    Recycle,
    /// Filtering and expansion.
    FilterExpand,
    /// Filtering and recycling.
    FilterRecycle,
    /// Expansion and recycling.
    ExpandRecycle,
}

impl RowKind {
    /// All of them, as they are reported.
    pub const ALL: [Self; 7] = [
        Self::Baseline,
        Self::Filter,
        Self::Expand,
        Self::Recycle,
        Self::FilterExpand,
        Self::FilterRecycle,
        Self::ExpandRecycle,
    ];

    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Filter => "filter",
            Self::Expand => "expand",
            Self::Recycle => "recycle",
            Self::FilterExpand => "filter+expand",
            Self::FilterRecycle => "filter+recycle",
            Self::ExpandRecycle => "expand+recycle",
        }
    }

    /// Whether filtering, expansion and recycling are part of it.
    pub const fn techniques(self) -> (bool, bool, bool) {
        match self {
            Self::Baseline => (false, false, false),
            Self::Filter => (true, false, false),
            Self::Expand => (false, true, false),
            Self::Recycle => (false, false, true),
            Self::FilterExpand => (true, true, false),
            Self::FilterRecycle => (true, false, true),
            Self::ExpandRecycle => (false, true, true),
        }
    }
}

/// What the student is told about an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// The class it was asked for as.
    #[default]
    Hard,
    /// The probabilities that the teacher gives to each class; see [`gafi_nn::Distill`].
    Soft,
}

/// A way beyond the paper: a search of its own on the checkpoint that was found, then a student renewed as the final one is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Variant {
    /// Its row in the report: a name that no other row has.
    pub name: String,
    /// What the student is told about an image.
    pub labels: Labels,
    /// How much soft labels count, and at which temperature.
    pub distill: Distill,
    /// Whether images that the teacher does not recognise are rejected.
    pub filter: bool,
    /// Standard deviations to search; that of the main search when empty.
    pub stds: Vec<StdRange>,
    /// Thresholds to search, where it filters; that of the main search when empty.
    #[schemars(inner(range(min = 0, max = 1)))]
    pub thresholds: Vec<f64>,
    /// The synthetic set of its student, as a multiple of `per_class`, at least 1. The students of its search have the usual one.
    #[schemars(range(min = 1))]
    pub times: u32,
}

impl Default for Variant {
    fn default() -> Self {
        Self {
            name: String::new(),
            labels: Labels::Hard,
            distill: Distill::default(),
            filter: true,
            stds: Vec::new(),
            thresholds: Vec::new(),
            times: 1,
        }
    }
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
            protocol: Protocol::Holdout,
            generators: 1,
            trained_generators: Vec::new(),
            rows: RowKind::ALL.to_vec(),
            variants: Vec::new(),
        }
    }
}

/// How the search spends its students.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The paper's: every value of every grid, at full length.
    #[default]
    Grid,
    /// Checkpoints and thresholds by classifiers that are solved for, a quarter of them then by short students (successive halving,
    /// Jamieson and Talwalkar 2016, arXiv 1502.07943); deviations by a bisection of short students.
    Halving,
}

/// What the search tries; the defaults are the paper's for CIFAR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchConfig {
    /// How the grids are searched.
    pub strategy: Strategy,
    /// Other strategies to run as well, each reported with a row of its own, for comparison.
    pub compare: Vec<Strategy>,
    /// Checkpoints, in steps; all of the generator's when empty.
    #[schemars(inner(range(min = 1)))]
    pub checkpoints: Vec<u64>,
    /// Standard deviations of the latents: numbers above 0, or `[lo, hi]` for one drawn for each sample.
    pub stds: Vec<StdRange>,
    /// Thresholds of the teacher's probability, each 0 to below 1.
    #[schemars(inner(range(min = 0, max = 1)))]
    pub thresholds: Vec<f64>,
    /// Renewal of a trial's images; published: all, every 10 epochs. A period that no trial reaches is no renewal.
    pub recycle: Renewal,
    /// What happens when a class cannot be filled; its threshold is replaced by the searched one.
    pub filter: FilterRule,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            strategy: Strategy::Grid,
            compare: Vec::new(),
            checkpoints: Vec::new(),
            stds: (0..=20).map(|i| StdRange::Fixed(f64::from(100 + 5 * i) / 100.0)).collect(),
            thresholds: (0..10).map(|i| f64::from(i) / 10.0).collect(),
            recycle: Renewal { period: 10, factor: 1.0 },
            filter: FilterRule::default(),
        }
    }
}

impl PipelineConfig {
    /// Generators, trained here or before.
    pub fn generator_count(&self) -> usize {
        if self.trained_generators.is_empty() { self.generators } else { self.trained_generators.len() }
    }

    /// Sizes of the variants' sets above the usual one, as multiples of it, rising.
    pub fn larger_sets(&self) -> Vec<u32> {
        let larger: BTreeSet<u32> = self.variants.iter().map(|v| v.times).filter(|&times| times > 1).collect();
        larger.into_iter().collect()
    }
}

/// The compiled-in presets: name and TOML. A preset that extends another names it in its first key, `extends`.
pub const PRESETS: [(&str, &str); 10] = [
    ("quickstart", include_str!("../presets/quickstart.toml")),
    ("gafi-plus", include_str!("../presets/gafi-plus.toml")),
    ("cpu", include_str!("../presets/cpu.toml")),
    ("gpu", include_str!("../presets/gpu.toml")),
    ("paper-fashion-mnist", include_str!("../presets/paper-fashion-mnist.toml")),
    ("paper-cifar10", include_str!("../presets/paper-cifar10.toml")),
    ("paper-cifar100", include_str!("../presets/paper-cifar100.toml")),
    ("paper-cinic10", include_str!("../presets/paper-cinic10.toml")),
    ("paper-dermamnist", include_str!("../presets/paper-dermamnist.toml")),
    ("smoke", include_str!("../presets/smoke.toml")),
];

const EXTENDS: &str = "extends";

/// The defaults with the preset `name` laid over them, as a tree.
///
/// # Errors
/// [`Usage`] listing the presets when there is none of that name.
pub fn preset(name: Option<&str>) -> anyhow::Result<Value> {
    let mut tree = serde_json::to_value(PipelineConfig::default())?;
    if let Some(name) = name {
        let known = || PRESETS.map(|(name, _)| name).join(", ");
        let text = PRESETS.iter().find(|(n, _)| *n == name).map(|(_, text)| *text);
        let mut own = parse_toml(text.ok_or_else(|| Usage(format!("no preset {name:?}; there are {}", known())))?)?;
        if let Some(base) = own.as_object_mut().and_then(|own| own.remove(EXTENDS)) {
            tree = preset(base.as_str())?;
        }
        merge(&mut tree, own);
    }
    Ok(tree)
}

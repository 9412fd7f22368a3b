//! The configuration of a pipeline: its stages' configurations, and the grids of its search.

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

/// The share of the validation images on which a search screens settings, unless `data.screen_fraction` is set. Three quarters
/// are left for the students' scores.
const SCREEN_FRACTION: f64 = 0.25;

/// The configuration of a pipeline. Seeds in the stages' tables are replaced by ones derived from `seed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineConfig {
    /// Seed of everything except the split of the real images, which has `data.seed`: runs of several seeds share one split.
    pub seed: u64,
    /// Real images.
    pub data: ImportConfig,
    /// The classifier that filters, trained on all real training images.
    pub teacher: ClassifierConfig,
    /// The generator.
    pub gan: GanConfig,
    /// The classifier that is trained on generated images, and on real ones for reference.
    pub student: ClassifierConfig,
    /// Images of each class in a synthetic set, 1 to 2^24. When absent: as many as the smallest real class has. The reference
    /// `real` also sees as many of each class in an epoch, and over its epochs all real training images in turn.
    #[schemars(example = 500)]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub per_class: Option<u64>,
    /// The search.
    pub search: SearchConfig,
    /// Renewal of the final student's images; published: all of them, every epoch.
    pub recycle: Renewal,
    /// The split used to choose among students: a validation split or, as in the released program, the test split.
    /// Under `holdout` the GAN trains on training images only, because choices need images that it did not see; under
    /// `paper` it trains on training and validation images, as published. Teacher and references choose their epoch on
    /// the validation split.
    pub protocol: Protocol,
    /// Number of generators, 1 to 8, each with its own seed and search. With more than one, two rows learn from all of them:
    /// `gafi-multi` from equal shares, `gafi-multi-turns` from a whole set of each in turn (if the set is renewed often enough
    /// for each to have a turn). Published: 6 for Fashion-MNIST, 3 for the others.
    #[schemars(range(min = 1, max = 8))]
    pub generators: usize,
    /// Folders of generators that exist already, trained here or imported. No GAN is trained then: `gan` and `generators` are
    /// ignored.
    pub trained_generators: Vec<PathBuf>,
    /// Rows of the results table besides `gafi`.
    pub rows: Vec<RowKind>,
    /// Where the rows of the ablation get their std and threshold.
    pub ablation: Ablation,
    /// Methods beyond the paper, each with a row of its own.
    pub variants: Vec<Variant>,
    /// What row `real` is, from which the gap is measured. When absent: `teacher` under protocol `paper`, as published, if
    /// teacher and student differ only in the length of their training; else `student`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real: Option<RealTraining>,
    /// Whether there is also a row `real-subset`: the student's classifier trained on `per_class` real images of each class, the
    /// same ones in every epoch.
    pub real_subset: bool,
    /// How often rows `real`, `baseline` and `gafi` are trained, 1 to 1000. The first training is the row. The others change only
    /// the student's seed (initial weights, order of the images, augmentation), so their spread is the randomness of a student's
    /// training alone.
    #[schemars(range(min = 1, max = 1000))]
    pub student_seeds: u32,
    /// Comparisons declared beforehand, as pairs of rows: `[["gafi", "baseline"]]`. Their p-values are adjusted together (Holm).
    pub comparisons: Vec<[String; 2]>,
    /// Whether training images of teacher, student and GAN are mirrored at random: `true`, `false`, or `"auto"`, which mirrors them
    /// unless that changes their class. When absent: as `teacher.augment.flip`, `student.augment.flip` and `gan.flip` say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flip: Option<Flip>,
}

/// What the row `real` is: a classifier trained on all real training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RealTraining {
    /// The student's classifier with a student's epochs and steps. An epoch has `per_class` images of each class, and the next
    /// epoch continues with the images that follow.
    Student,
    /// The teacher, whose classifier must be the student's. It sees all images in each of its own epochs.
    Teacher,
}

/// Whether training images are mirrored at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Flip {
    /// Decided by [`crate::adapt_mirroring`] from the images. Until then the stages' own keys apply.
    Auto(Auto),
    /// Always or never, whatever the stages' own keys say.
    Fixed(bool),
}

/// The word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Auto {
    /// Chosen from the images.
    Auto,
}

/// Where the rows of an ablation get their values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ablation {
    /// From short searches of their own, with the main search's checkpoint: `filter` searches its threshold at std 1, `expand`
    /// its std without a filter, `filter-expand` both. Renewal is not searched.
    #[default]
    Own,
    /// From the search of row `gafi`, which chose them for all techniques together. This trains nothing.
    Gafi,
}

/// A combination of techniques, each with the value that a search chose; see [`Ablation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RowKind {
    /// No technique: a fixed set of unfiltered samples.
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

/// Rows of generated images that `student_seeds` repeats.
pub(crate) const REPEATED_ROWS: [&str; 2] = [RowKind::Baseline.name(), GAFI_ROW];

/// The row of all techniques together.
pub(crate) const GAFI_ROW: &str = "gafi";
/// The row of the final student of generator `number`, from 0.
pub(crate) fn final_row(number: usize) -> String {
    match number {
        0 => GAFI_ROW.into(),
        number => format!("{GAFI_ROW}-{}", number + 1),
    }
}

/// The row of several generators in equal shares.
pub(crate) const MULTI_ROW: &str = "gafi-multi";
/// The row of several generators in turns.
pub(crate) const TURNS_ROW: &str = "gafi-multi-turns";

impl RowKind {
    /// All of them, in the order of the results table.
    pub const ALL: [Self; 7] = [
        Self::Baseline,
        Self::Filter,
        Self::Expand,
        Self::Recycle,
        Self::FilterExpand,
        Self::FilterRecycle,
        Self::ExpandRecycle,
    ];

    /// Its name in the results table.
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

    /// Its techniques.
    pub const fn techniques(self) -> Techniques {
        Techniques {
            filter: matches!(self, Self::Filter | Self::FilterExpand | Self::FilterRecycle),
            expand: matches!(self, Self::Expand | Self::FilterExpand | Self::ExpandRecycle),
            recycle: matches!(self, Self::Recycle | Self::FilterRecycle | Self::ExpandRecycle),
        }
    }
}

/// The techniques of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Techniques {
    /// Dynamic Sample Filtering.
    pub filter: bool,
    /// The Expansion Trick.
    pub expand: bool,
    /// Dynamic Dataset Recycle.
    pub recycle: bool,
}

/// The labels that a student learns from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// The class that was requested from the generator.
    #[default]
    Hard,
    /// The teacher's probabilities of all classes. Together with renewal, this is Generative Knowledge Distillation of Knowledge
    /// Recycling (arXiv 2407.15526), by two of GaFi's authors.
    Soft,
}

/// A method beyond the paper: a search of its own that starts at the best checkpoint, then a student whose set is renewed like
/// the final one's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Variant {
    /// Name of its row; no other row may have it.
    pub name: String,
    /// The labels that its student learns from.
    pub labels: Labels,
    /// Weight and temperature of soft labels.
    pub distill: Distill,
    /// Whether samples that the teacher does not recognise are rejected.
    pub filter: bool,
    /// Standard deviations of the latents to search. When empty: the main search's choice.
    pub stds: Vec<StdRange>,
    /// Thresholds to search, if it filters. When empty: the main search's choice.
    #[schemars(inner(range(min = 0, max = 1)))]
    pub thresholds: Vec<f64>,
    /// Whether its samples come from the generator as initialised, which knows nothing of the real images but the number of
    /// classes. With soft labels, the row shows what a teacher passes on by itself. It has no search and no filter.
    pub untrained: bool,
    /// Size of its student's set, as a multiple of `per_class`, 1 to 1000. Its search uses sets of the usual size.
    #[schemars(range(min = 1, max = 1000))]
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
            untrained: false,
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
            ablation: Ablation::default(),
            variants: Vec::new(),
            real: None,
            real_subset: false,
            student_seeds: 1,
            comparisons: Vec::new(),
            flip: None,
        }
    }
}

/// How a search tries values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// As published: a student of full length for each value.
    #[default]
    Grid,
    /// Checkpoints are ranked by classifiers in closed form, and short students compare the best quarter (successive halving,
    /// Jamieson and Talwalkar 2016, arXiv 1502.07943). Standard deviations and thresholds are bisected with short students.
    Halving,
}

impl Strategy {
    /// Its name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Halving => "halving",
        }
    }

    /// The row of its choice, if it is one of `search.compare`.
    pub(crate) const fn row(self) -> &'static str {
        match self {
            Self::Grid => "gafi-grid",
            Self::Halving => "gafi-halving",
        }
    }
}

/// What the search tries; the defaults are the published values for CIFAR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchConfig {
    /// How values are tried.
    pub strategy: Strategy,
    /// Further strategies to run for comparison, each with a row of its own.
    pub compare: Vec<Strategy>,
    /// Checkpoints to try, in steps. When empty: all of the generator's.
    #[schemars(inner(range(min = 1)))]
    pub checkpoints: Vec<u64>,
    /// Standard deviations of the latents to try: numbers above 0, or `[lo, hi]` to draw one for each sample.
    pub stds: Vec<StdRange>,
    /// Thresholds of the teacher's probability to try, each at least 0 and below 1.
    #[schemars(inner(range(min = 0, max = 1)))]
    pub thresholds: Vec<f64>,
    /// Renewal of a trial's images; published: all of them, every 10 epochs.
    pub recycle: Renewal,
    /// The filter's bounds, and what happens when a class runs out of samples. The search sets its `threshold`.
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
    /// The configuration as it runs, with everything that follows from other keys written out: `flip` in the stages' own keys,
    /// `real`, the share of the validation images that screening needs, and whether the GAN keeps its untrained generator.
    #[must_use]
    pub fn resolved(&self) -> Self {
        let mut config = self.clone();
        if let Some(Flip::Fixed(flip)) = config.flip {
            config.teacher.augment.flip = flip;
            config.student.augment.flip = flip;
            config.gan.flip = flip;
        }
        let published = self.protocol == Protocol::Paper && self.teacher_is_student();
        config.real.get_or_insert(if published { RealTraining::Teacher } else { RealTraining::Student });
        if self.screens() && config.data.screen_fraction == 0.0 {
            config.data.screen_fraction = SCREEN_FRACTION;
        }
        config.gan.save_untrained |= self.variants.iter().any(|variant| variant.untrained);
        config
    }

    /// Whether the row `real` is the teacher.
    pub(crate) fn real_is_teacher(&self) -> bool {
        self.real == Some(RealTraining::Teacher)
    }

    /// Whether teacher and student differ only in their length.
    pub(crate) fn teacher_is_student(&self) -> bool {
        let ClassifierConfig { epochs, ref milestones, warm_up, .. } = self.teacher;
        self.teacher == ClassifierConfig { epochs, milestones: milestones.clone(), warm_up, ..self.student.clone() }
    }

    /// Whether a search screens settings by closed-form classifiers.
    pub(crate) fn screens(&self) -> bool {
        self.strategies().contains(&Strategy::Halving)
    }

    /// The strategies of the first generator's searches, each once, the main one first.
    pub(crate) fn strategies(&self) -> Vec<Strategy> {
        let mut strategies = vec![self.search.strategy];
        for &strategy in &self.search.compare {
            if !strategies.contains(&strategy) {
                strategies.push(strategy);
            }
        }
        strategies
    }
}

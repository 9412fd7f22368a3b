//! Stage `audit`: measures a synthetic dataset against the real one that it replaces.

use gafi_core::{
    ArtifactWriter, ClassifierInfo, Confusion, Context, Dataset, DatasetInfo, Error, Inputs, Kind, Port, Result, Rows,
    Split, Stage, StageInfo, Stream, check_positive,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::duplicates::{Duplicates, near_duplicates};
use crate::measures::{AuditMeasures, ScoredSet, audit};
use crate::rows::{read_pixels, sample_of_each};

const PORTS: &[Port] = &[
    Port::required("synthetic", Kind::Dataset),
    Port::required("real", Kind::Dataset),
    Port::required("teacher", Kind::Classifier),
];

/// The file of an audit's artifact that holds its [`AuditRecord`].
pub const AUDIT_FILE: &str = "audit.json";

/// Stage `audit`. It holds the pixels (8-bit) and features (f32) of both sets in memory, and a block of products per
/// thread.
///
/// The time grows with the product of the sets' sizes, which `limit_per_class` bounds. Set it also to compare sets of
/// different sizes, because the measures depend on the size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Number of neighbours k of precision, recall, density and coverage, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub neighbours: usize,
    /// Measure a random sample of this many rows of each class of both sets; all rows when absent.
    pub limit_per_class: Option<usize>,
    /// Number of closest pairs to list.
    pub near_duplicates: usize,
}

impl Default for Audit {
    /// k as in Naeem et al. 2020.
    fn default() -> Self {
        Self { neighbours: 5, limit_per_class: None, near_duplicates: 20 }
    }
}

/// The result of an [`Audit`]. The manifest names the measured artifacts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AuditRecord {
    /// Names of the classes, in the order of the arrays below.
    pub classes: Vec<String>,
    /// Number of images per class in the whole synthetic set.
    pub balance: ClassBalance,
    /// Measures in the teacher's features.
    pub measures: AuditMeasures,
    /// How the teacher classifies the measured synthetic images: for each class, the number by predicted class.
    pub predicted: Confusion,
    /// A sentence if `predicted` looks like permuted labels, a generator that ignores its label, or an untrained one.
    pub hint: Option<String>,
    /// Near-duplicates in pixels.
    pub duplicates: Duplicates,
}

/// How evenly the classes are filled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassBalance {
    /// Number of rows of each class.
    pub counts: Vec<u64>,
    /// The smallest count divided by the largest; 1 when all are equal.
    pub ratio: f64,
}

impl ClassBalance {
    fn of(counts: &[u64]) -> Self {
        let smallest = counts.iter().copied().min().unwrap_or(0);
        let largest = counts.iter().copied().max().unwrap_or(0).max(1);
        Self { counts: counts.to_vec(), ratio: smallest as f64 / largest as f64 }
    }
}

impl Audit {
    /// Number of rows of `info` that are measured.
    fn measured_rows(&self, info: &DatasetInfo) -> u64 {
        let most = self.limit_per_class.map_or(u64::MAX, |n| n as u64);
        info.counts.iter().fold(0, |sum, &n| sum.saturating_add(n.min(most)))
    }
}

impl Stage for Audit {
    fn info(&self) -> StageInfo {
        StageInfo { name: "audit", revision: 4, ports: PORTS, output: Kind::Trials }
    }

    fn config(&self) -> Value {
        json!(self)
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        check_positive("neighbours", self.neighbours)?;
        if self.limit_per_class == Some(0) {
            return Err(Error::config("limit_per_class", 0, "at least 1, or no value for all rows"));
        }
        let wrong = |port: &str, expected: String, found: String| Err(inputs.error(port, expected, found));
        let synthetic = DatasetInfo::of(inputs.require("synthetic")?)?;
        let real = DatasetInfo::of(inputs.require("real")?)?;
        // A real training set may be audited for comparison. Validation and test images stay held out; `train-val` is allowed
        // as `real` because it is what a GAN under protocol `paper` trained on.
        if !matches!(synthetic.split, Split::Synthetic | Split::Train) {
            let found = format!("split {}", synthetic.split);
            return wrong("synthetic", "a dataset of split synthetic or train".into(), found);
        }
        if !matches!(real.split, Split::Train | Split::TrainVal) {
            return wrong("real", "a dataset of split train or train-val".into(), format!("split {}", real.split));
        }
        let teacher = ClassifierInfo::of(inputs.require("teacher")?)?;
        let expected = real.image.of_classes(&real.classes);
        for (port, image, classes) in
            [("synthetic", synthetic.image, &synthetic.classes), ("teacher", teacher.image, &teacher.classes)]
        {
            if (image, classes) != (real.image, &real.classes) {
                return wrong(port, expected, image.of_classes(classes));
            }
        }
        for (port, info) in [("synthetic", &synthetic), ("real", &real)] {
            let rows = self.measured_rows(info);
            if rows <= self.neighbours as u64 {
                let expected = format!("more than {} rows, the value of neighbours", self.neighbours);
                return wrong(port, expected, format!("{rows} rows to measure"));
            }
        }
        Ok(())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let synthetic = Dataset::open(inputs.require("synthetic")?)?;
        let real = Dataset::open(inputs.require("real")?)?;
        let mut teacher = cx.models.open_scorer(inputs.require("teacher")?)?;
        let mut score = |set: &Dataset| -> Result<_> {
            let stream = Stream::new(0).child("rows");
            let rows = sample_of_each(set, self.limit_per_class.unwrap_or(usize::MAX), &stream);
            let pixels = read_pixels(set, &rows, cx)?;
            let scored = ScoredSet::score(set, &rows, &pixels, &mut *teacher, cx)?;
            Ok((rows, pixels, scored))
        };
        let (synthetic_rows, synthetic_pixels, synthetic_scored) = score(&synthetic)?;
        let (real_rows, real_pixels, real_scored) = score(&real)?;
        let classes = real.info().classes.clone();
        let measures = audit(&synthetic_scored, &real_scored, classes.len(), self.neighbours, cx)?;
        let bytes = real.info().image.bytes();
        let mut duplicates = near_duplicates(&synthetic_pixels, &real_pixels, bytes, self.near_duplicates, cx)?;
        // From rows of the measured subsets to rows of the datasets.
        for (nearest, others) in
            [(&mut duplicates.to_real, &real_rows), (&mut duplicates.to_synthetic, &synthetic_rows)]
        {
            for pair in &mut nearest.closest {
                (pair.synthetic, pair.other) = (synthetic_rows[pair.synthetic], others[pair.other]);
            }
        }
        let balance = ClassBalance::of(&synthetic.info().counts);
        let predicted = synthetic_scored.confusion(classes.len());
        let hint = predicted.diagnose().map(|found| found.describe(&classes));
        let overall = &measures.overall;
        out.set_content(&json!({
            "balance": balance.ratio,
            "acceptance": overall.acceptance,
            "fidelity": overall.fidelity,
            "hint": hint,
            "near_real": duplicates.to_real.near,
            "equal_real": duplicates.to_real.equal,
        }))?;
        out.write_json(AUDIT_FILE, &AuditRecord { classes, balance, measures, predicted, hint, duplicates })
    }
}

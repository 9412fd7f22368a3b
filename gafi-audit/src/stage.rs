//! Stage `audit`: from a synthetic set, the real one it should replace, and a teacher, to a record of the former's health.

use gafi_core::{
    ArtifactWriter, ClassifierInfo, Context, Dataset, DatasetInfo, Error, Inputs, Kind, Port, Result, Rows, Split,
    Stage, StageInfo,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::duplicates::{Duplicates, near_duplicates};
use crate::measures::{Audited, Judged, audit};
use crate::probe::first_of_each;

/// Inputs of stage `audit`.
pub const PORTS: &[Port] = &[
    Port::required("synthetic", Kind::Dataset),
    Port::required("real", Kind::Dataset),
    Port::required("teacher", Kind::Classifier),
];

/// The file of an audit's artifact that holds its [`AuditRecord`].
pub const AUDIT: &str = "audit.json";

const NAME: &str = "audit";
const REVISION: u32 = 2;

/// Stage `audit`. In memory are the pixels of both sets (8-bit), their features (f32), and a block of products for each thread.
///
/// The time grows with the product of the sets' sizes; `limit_per_class` bounds it. Measures of sets of different sizes cannot be
/// compared, which is another use of the limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// The k of precision, recall, density and coverage, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub neighbours: usize,
    /// Measure the first so many rows of each class of both sets; all when absent.
    pub limit_per_class: Option<usize>,
    /// How many of the closest pairs are named.
    pub near_duplicates: usize,
}

impl Default for Audit {
    /// k is that of Naeem et al.
    fn default() -> Self {
        Self { neighbours: 5, limit_per_class: None, near_duplicates: 20 }
    }
}

/// What an audit found. The artifacts it was made of are in the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRecord {
    /// Names of the classes, in the order of the tables below.
    pub classes: Vec<String>,
    /// How many images of each class the whole synthetic set has.
    pub balance: Balance,
    /// What the teacher says, of the measured rows.
    pub measures: Audited,
    /// What their pixels say.
    pub duplicates: Duplicates,
}

/// How evenly classes are filled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// Rows of each class.
    pub counts: Vec<u64>,
    /// The smallest by the largest: 1 when all are the same.
    pub ratio: f64,
}

impl Balance {
    fn of(counts: &[u64]) -> Self {
        let smallest = counts.iter().copied().min().unwrap_or(0);
        let largest = counts.iter().copied().max().unwrap_or(0).max(1);
        Self { counts: counts.to_vec(), ratio: smallest as f64 / largest as f64 }
    }
}

impl Audit {
    /// Rows of `info` that are measured.
    fn measured(&self, info: &DatasetInfo) -> u64 {
        let most = self.limit_per_class.map_or(u64::MAX, |n| n as u64);
        info.counts.iter().fold(0, |sum, &n| sum.saturating_add(n.min(most)))
    }
}

impl Stage for Audit {
    fn info(&self) -> StageInfo {
        StageInfo { name: NAME, revision: REVISION, ports: PORTS, output: Kind::Trials }
    }

    fn config(&self) -> Value {
        json!(self)
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        if self.neighbours == 0 {
            return Err(Error::config("neighbours", 0, "at least 1"));
        }
        if self.limit_per_class == Some(0) {
            return Err(Error::config("limit_per_class", 0, "at least 1, or none for all rows"));
        }
        let wrong = |port: &str, expected: String, found: String| {
            Err(Error::Input { stage: NAME.into(), port: port.into(), expected, found })
        };
        let synthetic = DatasetInfo::of(inputs.require("synthetic")?)?;
        let real = DatasetInfo::of(inputs.require("real")?)?;
        // A real training set may be audited like a synthetic one, for comparison. What is held out stays out of sight.
        if !matches!(synthetic.split, Split::Synthetic | Split::Train) {
            let found = format!("split {}", synthetic.split);
            return wrong("synthetic", "a dataset of split synthetic or train".into(), found);
        }
        if real.split != Split::Train {
            return wrong("real", "a dataset of split train".into(), format!("split {}", real.split));
        }
        let teacher: ClassifierInfo = inputs.require("teacher")?.content()?;
        let expected = format!("{} images of classes {}", real.image, real.classes.join(", "));
        for (port, image, classes) in
            [("synthetic", synthetic.image, &synthetic.classes), ("teacher", teacher.image, &teacher.classes)]
        {
            if (image, classes) != (real.image, &real.classes) {
                return wrong(port, expected, format!("{image} images of classes {}", classes.join(", ")));
            }
        }
        for (port, info) in [("synthetic", &synthetic), ("real", &real)] {
            let rows = self.measured(info);
            if rows <= self.neighbours as u64 {
                let expected = format!("more rows than the {} neighbours of each", self.neighbours);
                return wrong(port, expected, format!("{rows} rows to measure"));
            }
        }
        Ok(())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let synthetic = Dataset::open(inputs.require("synthetic")?)?;
        let real = Dataset::open(inputs.require("real")?)?;
        let mut teacher = cx.models.open_scorer(inputs.require("teacher")?)?;
        let mut judge = |set: &Dataset| -> Result<_> {
            let (rows, mut pixels) = (first_of_each(set, self.limit_per_class.unwrap_or(usize::MAX)), Vec::new());
            let judged = Judged::of(set, &rows, &mut *teacher, |images| pixels.extend_from_slice(images), cx)?;
            Ok((rows, judged, pixels))
        };
        let (synthetic_rows, synthetic_judged, synthetic_pixels) = judge(&synthetic)?;
        let (real_rows, real_judged, real_pixels) = judge(&real)?;
        let classes = real.info().classes.clone();
        let measures = audit(&synthetic_judged, &real_judged, classes.len(), self.neighbours, cx)?;
        let bytes = real.info().image.bytes();
        let mut duplicates = near_duplicates(&synthetic_pixels, &real_pixels, bytes, self.near_duplicates, cx)?;
        // Rows of the datasets, not of what was measured of them.
        for (nearest, others) in
            [(&mut duplicates.to_real, &real_rows), (&mut duplicates.to_synthetic, &synthetic_rows)]
        {
            for pair in &mut nearest.closest {
                (pair.synthetic, pair.other) = (synthetic_rows[pair.synthetic], others[pair.other]);
            }
        }
        let balance = Balance::of(&synthetic.info().counts);
        let overall = &measures.overall;
        out.set_content(&json!({
            "balance": balance.ratio,
            "acceptance": overall.acceptance,
            "fidelity": overall.fidelity,
            "near_real": duplicates.to_real.near,
            "equal_real": duplicates.to_real.equal,
        }))?;
        out.write_json(AUDIT, &AuditRecord { classes, balance, measures, duplicates })
    }
}

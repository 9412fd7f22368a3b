//! What a teacher makes of a set, and what follows from it: a pure function from two judged sets to measures.

use gafi_core::{ClassId, Context, Error, Result, Rows, Scored, Scorer, argmax};
use serde::{Deserialize, Serialize};

use crate::prdc::{FeatureSet, Fidelity};

/// Images that are read and judged at a time.
const BATCH: usize = 256;

/// What a teacher says of a labelled set. All features are in memory, n * dim f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Length of an image's features.
    pub dim: usize,
    /// The class that each image is meant to be of.
    pub labels: Vec<ClassId>,
    /// Features (n, dim).
    pub features: Vec<f32>,
    /// Whether the teacher takes each image for its class: that one is the likeliest, the first of equals.
    pub accepted: Vec<bool>,
    /// The teacher's probability of each image's class.
    pub confidence: Vec<f32>,
}

impl Judged {
    /// Of no images, by a teacher whose features are of length `dim`.
    pub fn new(dim: usize) -> Self {
        Self { dim, labels: Vec::new(), features: Vec::new(), accepted: Vec::new(), confidence: Vec::new() }
    }

    /// Adds images labelled `labels`, of which the teacher says `scored`.
    ///
    /// # Errors
    /// [`Error::Other`] when it says too much, too little, or what is no number.
    pub fn push(&mut self, labels: &[ClassId], scored: &Scored) -> Result<()> {
        let (n, dim) = (labels.len(), self.dim);
        let bad = |why: String| Err(Error::other("asking the teacher")(why));
        let Scored { probabilities, features } = scored;
        let classes = probabilities.len().checked_div(n).unwrap_or(0);
        if features.len() != n * dim || probabilities.len() != n * classes {
            let (p, f) = (probabilities.len(), features.len());
            return bad(format!("expected {} features and whole rows for {n} images, found {f} and {p}", n * dim));
        }
        let (mut accepted, mut confidence) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for (i, label) in labels.iter().enumerate() {
            let row = &probabilities[i * classes..(i + 1) * classes];
            let (Some(likeliest), Some(&probability)) = (argmax(row), row.get(label.index())) else {
                return bad(format!("expected probabilities, one of {label} among them, found {row:?}"));
            };
            accepted.push(likeliest == label.index());
            confidence.push(probability);
        }
        self.labels.extend_from_slice(labels);
        self.features.extend_from_slice(features);
        self.accepted.extend(accepted);
        self.confidence.extend(confidence);
        Ok(())
    }

    /// Asks `teacher` about rows `chosen` of `rows`, a batch at a time; shows `see` their pixels.
    ///
    /// # Errors
    /// [`Error::Input`] when the teacher gives no features, or judges other images or classes; [`Error::Interrupted`]; what files
    /// and teacher say.
    pub fn of(
        rows: &dyn Rows,
        chosen: &[usize],
        teacher: &mut dyn Scorer,
        mut see: impl FnMut(&[u8]),
        cx: &Context,
    ) -> Result<Self> {
        let info = rows.info();
        let wrong = |expected: String, found: String| {
            Err(Error::Input { stage: "audit".into(), port: "teacher".into(), expected, found })
        };
        let Some(dim) = teacher.feature_dim().filter(|&dim| dim > 0) else {
            return wrong("a classifier that gives features".into(), "one that gives probabilities only".into());
        };
        if (*teacher.image(), teacher.classes()) != (info.image, info.classes.len()) {
            let found = format!("{} classes of {} images", teacher.classes(), teacher.image());
            return wrong(format!("one that judges {} classes of {} images", info.classes.len(), info.image), found);
        }
        let mut judged = Self::new(dim);
        let mut task = cx.progress.begin("judge", Some(chosen.len() as u64));
        let mut pixels = Vec::new();
        for batch in chosen.chunks(BATCH) {
            cx.checkpoint()?;
            pixels.resize(batch.len() * info.image.bytes(), 0);
            rows.read(batch, &mut pixels)?;
            let labels: Vec<ClassId> = batch.iter().map(|&row| rows.label(row)).collect();
            judged.push(&labels, &teacher.score_with_features(&pixels)?)?;
            see(&pixels);
            task.advance(batch.len() as u64);
        }
        Ok(judged)
    }

    /// The rows of `class`.
    fn class(&self, class: ClassId) -> Self {
        let mut part = Self::new(self.dim);
        for row in (0..self.labels.len()).filter(|&row| self.labels[row] == class) {
            part.labels.push(class);
            part.features.extend_from_slice(&self.features[row * self.dim..(row + 1) * self.dim]);
            part.accepted.push(self.accepted[row]);
            part.confidence.push(self.confidence[row]);
        }
        part
    }
}

/// Measures of a synthetic set, or of one class of it, against real images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measures {
    /// Synthetic images that were measured.
    pub synthetic: u64,
    /// Real images that they were measured against.
    pub real: u64,
    /// Share of the synthetic images that the teacher takes for what they are labelled; null of none.
    pub acceptance: Option<f64>,
    /// Its mean probability of what they are labelled; null of none.
    pub confidence: Option<f64>,
    /// How they lie to the real ones in its features; null where there are no more than k of either.
    pub fidelity: Option<Fidelity>,
}

/// Measures of a set and of each of its classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audited {
    /// Of all classes together.
    pub overall: Measures,
    /// Of each class by itself, among the real images of that class alone.
    pub per_class: Vec<Measures>,
}

/// Measures `synthetic` against `real`, both judged by the same teacher of `classes` classes, with balls that reach to the `k`-th
/// neighbour; with a `k` of 0 nothing that needs balls.
///
/// # Errors
/// [`Error::Config`] when the sets have features of different lengths or features are not finite;
/// [`Error::Interrupted`].
pub fn audit(synthetic: &Judged, real: &Judged, classes: usize, k: usize, cx: &Context) -> Result<Audited> {
    let mut task = cx.progress.begin("compare", Some(classes as u64 + 1));
    let overall = measure(synthetic, real, k, cx)?;
    task.advance(1);
    let per_class = ClassId::all(classes).map(|class| {
        let measures = measure(&synthetic.class(class), &real.class(class), k, cx)?;
        task.advance(1);
        Ok(measures)
    });
    Ok(Audited { overall, per_class: per_class.collect::<Result<_>>()? })
}

fn measure(synthetic: &Judged, real: &Judged, k: usize, cx: &Context) -> Result<Measures> {
    let (n, m) = (synthetic.labels.len(), real.labels.len());
    let mut fidelity = None;
    if k > 0 && n.min(m) > k {
        cx.checkpoint()?;
        let real = FeatureSet::new(&real.features, real.dim, k)?;
        cx.checkpoint()?;
        let synthetic = FeatureSet::new(&synthetic.features, synthetic.dim, k)?;
        cx.checkpoint()?;
        fidelity = Some(synthetic.fidelity(&real)?);
    }
    let mean = |sum: f64| (n > 0).then(|| sum / n as f64);
    Ok(Measures {
        synthetic: n as u64,
        real: m as u64,
        acceptance: mean(synthetic.accepted.iter().filter(|&&yes| yes).count() as f64),
        confidence: mean(synthetic.confidence.iter().map(|&p| f64::from(p)).sum()),
        fidelity,
    })
}

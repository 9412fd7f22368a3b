//! Measures of a synthetic set against a real one, both scored by the same teacher.

use gafi_core::{ClassId, Confusion, Context, Dataset, Error, INFERENCE_BATCH, Result, Rows, Scored, Scorer, argmax};
use serde::{Deserialize, Serialize};

use crate::prdc::{FeatureSet, Fidelity};

/// A labelled set with a teacher's scores. All features are in memory: n * dim f32.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredSet {
    /// Length of an image's features.
    dim: usize,
    /// Label of each image.
    labels: Vec<ClassId>,
    /// Features (n, dim).
    features: Vec<f32>,
    /// The class that the teacher predicts for each image (argmax; ties go to the first class).
    predicted: Vec<ClassId>,
    /// The teacher's probability of each image's label.
    confidence: Vec<f32>,
}

impl ScoredSet {
    /// An empty set, scored by a teacher with features of length `dim`.
    pub fn new(dim: usize) -> Self {
        Self { dim, labels: Vec::new(), features: Vec::new(), predicted: Vec::new(), confidence: Vec::new() }
    }

    /// Adds images with their labels (n) and the teacher's scores.
    ///
    /// # Errors
    /// [`Error::Other`] when the scores have the wrong length or hold NaN.
    pub fn push(&mut self, labels: &[ClassId], scored: &Scored) -> Result<()> {
        let n = labels.len();
        let dim = self.dim;
        let bad = |why: String| Err(Error::other("scoring images with the teacher")(why));
        let Scored { probabilities, features } = scored;
        let classes = probabilities.len().checked_div(n).unwrap_or(0);
        if features.len() != n * dim || probabilities.len() != n * classes {
            return bad(format!(
                "expected {} features and {n} equal rows of probabilities, found {} and {} values",
                n * dim,
                features.len(),
                probabilities.len()
            ));
        }
        let mut predicted = Vec::with_capacity(n);
        let mut confidence = Vec::with_capacity(n);
        for (i, label) in labels.iter().enumerate() {
            let row = &probabilities[i * classes..(i + 1) * classes];
            let (Some(likeliest), Some(&probability)) = (argmax(row), row.get(label.index())) else {
                return bad(format!("expected probabilities of all classes up to {label}, found {row:?}"));
            };
            predicted.push(ClassId(likeliest as u32));
            confidence.push(probability);
        }
        self.labels.extend_from_slice(labels);
        self.features.extend_from_slice(features);
        self.predicted.extend(predicted);
        self.confidence.extend(confidence);
        Ok(())
    }

    /// Scores `rows` of `dataset`, whose pixels are `pixels`, with `teacher`.
    ///
    /// # Errors
    /// [`Error::Input`] when the teacher has no features, or takes other images or classes; [`Error::Interrupted`]; the
    /// errors of the teacher.
    pub(crate) fn score(
        dataset: &Dataset,
        rows: &[usize],
        pixels: &[u8],
        teacher: &mut dyn Scorer,
        cx: &Context,
    ) -> Result<Self> {
        let info = dataset.info();
        let wrong = |expected: String, found: String| Err(Error::input("audit", "teacher", expected, found));
        let Some(dim) = teacher.feature_dim().filter(|&dim| dim > 0) else {
            return wrong("a classifier with features".into(), "one that returns probabilities only".into());
        };
        if (*teacher.image(), teacher.classes()) != (info.image, info.classes.len()) {
            let expected = format!("a classifier of {} images in {} classes", info.image, info.classes.len());
            return wrong(expected, format!("one of {} images in {} classes", teacher.image(), teacher.classes()));
        }
        let mut scored = Self::new(dim);
        let mut task = cx.progress.begin("score", Some(rows.len() as u64));
        let bytes = INFERENCE_BATCH * info.image.bytes();
        for (rows, pixels) in rows.chunks(INFERENCE_BATCH).zip(pixels.chunks(bytes)) {
            cx.checkpoint()?;
            let labels: Vec<ClassId> = rows.iter().map(|&row| dataset.label(row)).collect();
            scored.push(&labels, &teacher.score_with_features(pixels)?)?;
            task.advance(rows.len() as u64);
        }
        Ok(scored)
    }

    /// How the teacher classifies the images of each of `classes` classes.
    ///
    /// # Panics
    /// If a label is not below `classes`.
    pub fn confusion(&self, classes: usize) -> Confusion {
        let mut confusion = Confusion::new(classes);
        self.labels.iter().zip(&self.predicted).for_each(|(&label, &predicted)| confusion.add(label, predicted, 1));
        confusion
    }

    /// The images of `class`.
    fn class(&self, class: ClassId) -> Self {
        let mut part = Self::new(self.dim);
        for row in (0..self.labels.len()).filter(|&row| self.labels[row] == class) {
            part.labels.push(class);
            part.features.extend_from_slice(&self.features[row * self.dim..(row + 1) * self.dim]);
            part.predicted.push(self.predicted[row]);
            part.confidence.push(self.confidence[row]);
        }
        part
    }
}

/// Measures of a synthetic set, or of one of its classes, against real images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Measures {
    /// Number of synthetic images.
    pub synthetic: u64,
    /// Number of real images.
    pub real: u64,
    /// Share of the synthetic images whose label the teacher predicts, in [0, 1]; `None` without images.
    pub acceptance: Option<f64>,
    /// The teacher's mean probability of the synthetic images' labels; `None` without images.
    pub confidence: Option<f64>,
    /// Distribution measures in the teacher's features; `None` when either set has no more than k images.
    pub fidelity: Option<Fidelity>,
}

/// Measures of a whole set and of each of its classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AuditMeasures {
    /// All classes together.
    pub overall: Measures,
    /// Each class by itself, against the real images of that class.
    pub per_class: Vec<Measures>,
}

/// Measures `synthetic` against `real`, both scored by the same teacher of `classes` classes. `k` is the number of
/// neighbours of precision, recall, density and coverage.
///
/// # Errors
/// [`Error::Config`] when `k` is 0, the features of the two sets differ in length, or a feature is not finite;
/// [`Error::Interrupted`].
pub fn audit(synthetic: &ScoredSet, real: &ScoredSet, classes: usize, k: usize, cx: &Context) -> Result<AuditMeasures> {
    let mut task = cx.progress.begin("compare", Some(classes as u64 + 1));
    let overall = measure(synthetic, real, k, cx)?;
    task.advance(1);
    let per_class = ClassId::all(classes).map(|class| {
        let measures = measure(&synthetic.class(class), &real.class(class), k, cx)?;
        task.advance(1);
        Ok(measures)
    });
    Ok(AuditMeasures { overall, per_class: per_class.collect::<Result<_>>()? })
}

fn measure(synthetic: &ScoredSet, real: &ScoredSet, k: usize, cx: &Context) -> Result<Measures> {
    let n = synthetic.labels.len();
    let m = real.labels.len();
    let mut fidelity = None;
    if n.min(m) > k {
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
        acceptance: mean(
            synthetic.labels.iter().zip(&synthetic.predicted).filter(|(label, p)| label == p).count() as f64
        ),
        confidence: mean(synthetic.confidence.iter().map(|&p| f64::from(p)).sum()),
        fidelity,
    })
}

//! Scores. Only validation scores can drive a choice: `ValScore` and `TestScore` are different types, created by different
//! sets, and selection takes only the first.

use serde::{Deserialize, Serialize};

#[cfg(feature = "artifacts")]
use crate::artifact::Artifact;
use crate::control::RunControl;
#[cfg(feature = "artifacts")]
use crate::dataset::Dataset;
use crate::dataset_info::DatasetInfo;
use crate::error::{Error, Result};
use crate::model::{INFERENCE_BATCH, Scorer};
use crate::rows::Rows;
use crate::spec::{ClassId, Split};

/// The evaluation of a classifier on a labelled set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Number of images.
    pub n: u64,
    /// Accuracy, in [0, 1].
    pub accuracy: f64,
    /// Accuracy on each class, in [0, 1].
    pub per_class: Vec<f64>,
    /// Number of images of class `row` that were classified as `column`.
    pub confusion: Vec<Vec<u64>>,
}

/// Evaluates `scorer` on all of `rows`, [`INFERENCE_BATCH`] at a time.
///
/// # Errors
/// [`Error::NonFinite`] when a probability is not a number; errors of the scorer; [`Error::Interrupted`].
pub fn evaluate(scorer: &mut dyn Scorer, rows: &dyn Rows, control: &RunControl) -> Result<Evaluation> {
    let info = rows.info();
    let classes = info.classes.len();
    if scorer.classes() != classes || *scorer.image() != info.image {
        let expected = format!("{} classes of {} images, as the classifier has", scorer.classes(), scorer.image());
        let found = format!("{classes} classes of {} images", info.image);
        return Err(Error::input("evaluate", "dataset", expected, found));
    }
    let mut confusion = vec![vec![0u64; classes]; classes];
    let mut pixels = Vec::new();
    for start in (0..rows.len()).step_by(INFERENCE_BATCH) {
        control.checkpoint()?;
        let batch: Vec<usize> = (start..rows.len().min(start + INFERENCE_BATCH)).collect();
        pixels.resize(batch.len() * info.image.bytes(), 0);
        rows.read(&batch, &mut pixels)?;
        let probabilities = scorer.score(&pixels)?;
        if probabilities.len() != batch.len() * classes {
            let expected = format!("{classes} probabilities for each of {} images", batch.len());
            return Err(Error::input("evaluate", "classifier", expected, format!("{} values", probabilities.len())));
        }
        for (&row, p) in batch.iter().zip(probabilities.chunks_exact(classes)) {
            let best = argmax(p).ok_or(Error::NonFinite {
                step: row as u64,
                term: "a probability of the classifier".into(),
                value: f64::NAN,
            })?;
            confusion[rows.label(row).index()][best] += 1;
        }
    }
    Ok(Evaluation::of(confusion))
}

/// Evaluates predictions, one class for each of `rows`, in order.
///
/// # Errors
/// [`Error::Input`] when there are more or fewer predictions than rows, or a class is out of range.
pub fn evaluate_labels(predicted: &[ClassId], rows: &dyn Rows) -> Result<Evaluation> {
    let classes = rows.info().classes.len();
    let wrong = |expected: String, found: String| Err(Error::input("evaluate", "predictions", expected, found));
    if predicted.len() != rows.len() {
        return wrong(format!("one for each of {} rows", rows.len()), predicted.len().to_string());
    }
    let mut confusion = vec![vec![0u64; classes]; classes];
    for (row, class) in predicted.iter().enumerate() {
        let Some(count) = confusion[rows.label(row).index()].get_mut(class.index()) else {
            return wrong(format!("a class below {classes} for row {row}"), class.to_string());
        };
        *count += 1;
    }
    Ok(Evaluation::of(confusion))
}

impl Evaluation {
    /// From a square confusion matrix with a row for each label and a column for each prediction.
    fn of(confusion: Vec<Vec<u64>>) -> Self {
        let share = |right: u64, all: u64| if all == 0 { 0.0 } else { right as f64 / all as f64 };
        let n = confusion.iter().flatten().sum();
        let right = confusion.iter().enumerate().map(|(c, row)| row[c]).sum();
        let per_class = confusion.iter().enumerate().map(|(c, row)| share(row[c], row.iter().sum())).collect();
        Self { n, accuracy: share(right, n), per_class, confusion }
    }
}

/// The index of the largest value, the first on a tie; `None` when a value is not a number, or without values.
pub fn argmax(values: &[f32]) -> Option<usize> {
    let mut best = None;
    for (i, &v) in values.iter().enumerate() {
        match best {
            _ if v.is_nan() => return None,
            Some((_, top)) if v <= top => {}
            _ => best = Some((i, v)),
        }
    }
    best.map(|(i, _)| i)
}

/// Accuracy on a validation split, in [0, 1]. It drives all choices.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValScore(#[serde(deserialize_with = "accuracy")] f64);

impl ValScore {
    /// The accuracy.
    pub fn accuracy(self) -> f64 {
        self.0
    }
}

/// Accuracy on a test split, in [0, 1]. It is reported and drives no choice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TestScore(#[serde(deserialize_with = "accuracy")] f64);

impl TestScore {
    /// The score that a recorded evaluation of `split` holds; `None` unless that is the test split.
    pub fn recorded(split: Split, evaluation: &Evaluation) -> Option<Self> {
        (split == Split::Test).then_some(Self(evaluation.accuracy))
    }

    /// The accuracy.
    pub fn accuracy(self) -> f64 {
        self.0
    }
}

// A file may hold anything; a value that is not an accuracy must not win a comparison.
fn accuracy<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    let value = f64::deserialize(from)?;
    if (0.0..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(serde::de::Error::custom(format!("expected an accuracy from 0 to 1, found {value}")))
}

/// A set whose scores drive choices, and the only source of [`ValScore`]s: validation images or, under [`Protocol::Paper`], test
/// images that were imported for this (see [`Split::TestAsVal`]).
pub struct ValSet(Box<dyn Rows>);

impl ValSet {
    /// A validation set of `rows`.
    ///
    /// # Errors
    /// [`Error::Input`] for another split.
    pub fn new(rows: Box<dyn Rows>) -> Result<Self> {
        if !rows.info().split.chooses() {
            of_split(rows.info(), Split::Val)?;
        }
        Ok(Self(rows))
    }

    /// The protocol of choices made with it.
    pub fn protocol(&self) -> Protocol {
        if self.0.info().split == Split::TestAsVal { Protocol::Paper } else { Protocol::Holdout }
    }

    /// Opens a dataset artifact of the validation split.
    ///
    /// # Errors
    /// As [`ValSet::new`] and [`Dataset::open`].
    #[cfg(feature = "artifacts")]
    pub fn open(artifact: &Artifact) -> Result<Self> {
        Self::new(Box::new(Dataset::open(artifact)?))
    }

    /// Shape, classes, counts.
    pub fn info(&self) -> &DatasetInfo {
        self.0.info()
    }

    /// Scores a classifier.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn score(&self, scorer: &mut dyn Scorer, control: &RunControl) -> Result<ValScore> {
        Ok(ValScore(evaluate(scorer, &*self.0, control)?.accuracy))
    }
}

/// A set of the test split, and the only source of [`TestScore`]s.
pub struct TestSet(Box<dyn Rows>);

impl TestSet {
    /// A test set of `rows`.
    ///
    /// # Errors
    /// [`Error::Input`] for another split.
    pub fn new(rows: Box<dyn Rows>) -> Result<Self> {
        of_split(rows.info(), Split::Test)?;
        Ok(Self(rows))
    }

    /// Opens a dataset artifact of the test split.
    ///
    /// # Errors
    /// As [`TestSet::new`] and [`Dataset::open`].
    #[cfg(feature = "artifacts")]
    pub fn open(artifact: &Artifact) -> Result<Self> {
        Self::new(Box::new(Dataset::open(artifact)?))
    }

    /// Scores a classifier, with the complete evaluation.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn score(&self, scorer: &mut dyn Scorer, control: &RunControl) -> Result<(TestScore, Evaluation)> {
        let evaluation = evaluate(scorer, &*self.0, control)?;
        Ok((TestScore(evaluation.accuracy), evaluation))
    }

    /// Scores predictions, one class for each row.
    ///
    /// # Errors
    /// As [`evaluate_labels`].
    pub fn score_labels(&self, predicted: &[ClassId]) -> Result<(TestScore, Evaluation)> {
        let evaluation = evaluate_labels(predicted, &*self.0)?;
        Ok((TestScore(evaluation.accuracy), evaluation))
    }
}

fn of_split(info: &DatasetInfo, split: Split) -> Result<()> {
    if info.split == split {
        return Ok(());
    }
    let expected = format!("a dataset of split {split}");
    Err(Error::input("score", split.to_string(), expected, format!("split {}", info.split)))
}

/// The best of `trials` by validation score, the first on a tie.
///
/// A test score does not compile here:
/// ```compile_fail,E0308
/// fn best(trials: Vec<(u32, gafi_core::TestScore)>) -> Option<u32> {
///     gafi_core::select_best(trials).map(|(t, _)| t)
/// }
/// ```
pub fn select_best<T>(trials: impl IntoIterator<Item = (T, ValScore)>) -> Option<(T, ValScore)> {
    trials.into_iter().fold(None, |best, (t, score)| match best {
        Some((_, top)) if score <= top => best,
        _ => Some((t, score)),
    })
}

/// How choices were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// All choices, the epoch included, are made on a validation split; the test split is read once, at the end.
    Holdout,
    /// As in the paper's released program: checkpoint, std, threshold and epoch are chosen by accuracy on the test split, and that
    /// accuracy is reported. It is optimistic and not comparable with held-out accuracy.
    Paper,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The name in JSON.
        self.serialize(f)
    }
}

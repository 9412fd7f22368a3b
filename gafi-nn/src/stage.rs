//! The stages `train-classifier` and `evaluate`.

use std::sync::Arc;

use gafi_core::{
    Artifact, ArtifactWriter, ClassifierInfo, Context, Dataset, DatasetInfo, EpochData, Error, Evaluation, FixedData,
    Inputs, Kind, LearnerSpec, Port, Result, Rows, START_PORT, Split, Stage, StageInfo, Stream, Subset, TestScore,
    TestSet, ValSet, check_positive, evaluate, fit, warm_start,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::ClassifierConfig;
use crate::training_set::{PerEpoch, SoftLabelled};
use crate::tta::{Tta, TtaScorer};

/// The stage `train-classifier`: trains a classifier, keeps the epoch with the best validation accuracy, and writes the
/// weights with the trial record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TrainClassifier {
    /// Network and training.
    pub classifier: ClassifierConfig,
    /// Seed of everything random.
    pub seed: u64,
    /// Train on this many images of each class, at least 1, drawn by the seed; on all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_class: Option<usize>,
    /// Images of each class in an epoch, at least 1; all images when absent. Each epoch continues in a permutation of
    /// the class where the last one stopped, so over time the training sees every image. A class with fewer images
    /// repeats some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_epoch: Option<usize>,
}

/// A classifier whose probabilities are the soft labels of the training images.
const TEACHER_PORT: &str = "teacher";

impl Stage for TrainClassifier {
    fn info(&self) -> StageInfo {
        StageInfo {
            name: "train-classifier",
            revision: 5,
            ports: const {
                &[
                    Port::required("train", Kind::Dataset),
                    Port::required("val", Kind::Dataset),
                    Port::optional(START_PORT, Kind::Classifier),
                    Port::optional(TEACHER_PORT, Kind::Classifier),
                ]
            },
            output: Kind::Classifier,
        }
    }

    fn config(&self) -> Value {
        // Plain data with string keys always has a JSON form.
        serde_json::to_value(self).unwrap_or_default()
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        self.classifier.check()?;
        let train = DatasetInfo::of(inputs.require("train")?)?;
        let val = DatasetInfo::of(inputs.require("val")?)?;
        self.classifier.check_data(&train.image, train.classes.len())?;
        if !matches!(train.split, Split::Train | Split::Synthetic) {
            let found = format!("split {}", train.split);
            return Err(inputs.error("train", "a dataset of split train or synthetic", found));
        }
        if !val.split.chooses() {
            return Err(inputs.error("val", "a dataset of split val", format!("split {}", val.split)));
        }
        if (val.image, &val.classes) != (train.image, &train.classes) {
            let found = val.image.of_classes(&val.classes);
            return Err(inputs.error("val", train.image.of_classes(&train.classes), found));
        }
        check_positive("per_epoch", self.per_epoch.unwrap_or(1))?;
        if let Some(teacher) = inputs.get(TEACHER_PORT) {
            let teacher = ClassifierInfo::of(teacher)?;
            if self.classifier.distill.is_none() {
                let expected = "no teacher, or classifier.distill to learn its probabilities";
                return Err(inputs.error(TEACHER_PORT, expected, "a teacher"));
            }
            if (teacher.image, &teacher.classes) != (train.image, &train.classes) {
                let found = teacher.image.of_classes(&teacher.classes);
                return Err(inputs.error(TEACHER_PORT, train.image.of_classes(&train.classes), found));
            }
        }
        if let Some(n) = self.per_class {
            let fewest = train.counts.iter().copied().min().unwrap_or(0);
            if n == 0 || n as u64 > fewest {
                let expected = format!("1 to {fewest}, the number of images of the smallest class");
                return Err(Error::config("per_class", n, expected));
            }
        }
        Ok(())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let mut train: Arc<dyn Rows> = Arc::new(Dataset::open(inputs.require("train")?)?);
        let val = ValSet::open(inputs.require("val")?)?;
        if let Some(n) = self.per_class {
            train = Arc::new(Subset::per_class(train, n, &Stream::new(self.seed).child("per-class"))?);
        }
        if let Some(teacher) = inputs.get(TEACHER_PORT) {
            train = Arc::new(SoftLabelled::new(train, &mut *cx.models.open_scorer(teacher)?, cx)?);
        }
        let info = train.info();
        let spec = LearnerSpec::of(&self.classifier)?;
        let mut learner = cx.models.new_learner(&spec, info.image, &info.classes, self.seed)?;
        warm_start(&mut *learner, inputs, val.info())?;
        let mut data: Box<dyn EpochData> = match self.per_epoch {
            Some(n) => Box::new(PerEpoch::new(train, n, Stream::new(self.seed).child("per-epoch"))),
            None => Box::new(FixedData(&*train)),
        };
        fit(&mut *learner, &mut *data, &val, self.config(), out, cx)?;
        Ok(())
    }
}

/// The stage `evaluate`: measures a classifier's accuracy on a dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Evaluate {
    /// Test-time augmentation; none by default. The tables of a pipeline never use it.
    #[serde(skip_serializing_if = "Tta::is_none")]
    pub tta: Tta,
}

/// The result of an evaluation. The manifest names classifier and dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationRecord {
    /// The split evaluated.
    pub split: Split,
    /// Names of the classes, in the order of the tables in `evaluation`.
    pub classes: Vec<String>,
    /// Accuracy on the test split, which results report; absent for other splits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<TestScore>,
    /// Accuracy in total and per class, and the confusion matrix.
    pub evaluation: Evaluation,
}

impl EvaluationRecord {
    /// File of the record in an evaluation artifact.
    pub const FILE: &str = "evaluation.json";

    /// Reads the record of an evaluation artifact.
    ///
    /// # Errors
    /// Those of [`Artifact::read_json`]; [`Error::Format`] when the tables do not have a row and a column for each class, or their
    /// counts do not add up to `n`.
    pub fn read(artifact: &Artifact) -> Result<Self> {
        let record: Self = artifact.read_json(Self::FILE)?;
        let wrong = |place: &str, expected: String, found: String| {
            Err(Error::format(artifact.path().join(Self::FILE), place, expected, found))
        };
        let Evaluation { n, per_class, confusion, .. } = &record.evaluation;
        let classes = record.classes.len();
        let lengths = confusion.iter().map(Vec::len).chain([confusion.len(), per_class.len()]);
        if let Some(found) = lengths.into_iter().find(|&length| length != classes) {
            return wrong("tables", format!("{classes} rows and columns, one for each class"), found.to_string());
        }
        let sum = confusion.iter().flatten().try_fold(0u64, |sum, &count| sum.checked_add(count));
        if sum != Some(*n) || !(1..=MAX_IMAGES).contains(n) {
            let found = format!("n = {n} and counts of {}", sum.map_or("more than 2^64".into(), |sum| sum.to_string()));
            return wrong("counts", format!("1 to {MAX_IMAGES} images, each counted once"), found);
        }
        Ok(record)
    }
}

/// Maximum number of images of an evaluation. Counts of several can be added.
const MAX_IMAGES: u64 = 1 << 53;

impl Stage for Evaluate {
    fn info(&self) -> StageInfo {
        StageInfo {
            name: "evaluate",
            revision: 3,
            ports: const { &[Port::required("classifier", Kind::Classifier), Port::required("dataset", Kind::Dataset)] },
            output: Kind::Trials,
        }
    }

    fn config(&self) -> Value {
        // Plain data with string keys always has a JSON form.
        serde_json::to_value(self).unwrap_or_default()
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        let classifier = ClassifierInfo::of(inputs.require("classifier")?)?;
        let data = DatasetInfo::of(inputs.require("dataset")?)?;
        if (classifier.image, &classifier.classes) != (data.image, &data.classes) {
            let expected = format!("the classifier's {}", classifier.image.of_classes(&classifier.classes));
            return Err(inputs.error("dataset", expected, data.image.of_classes(&data.classes)));
        }
        Ok(())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let scorer = cx.models.open_scorer(inputs.require("classifier")?)?;
        let mut scorer = TtaScorer { scorer, tta: self.tta };
        let dataset = inputs.require("dataset")?;
        let DatasetInfo { split, classes, .. } = DatasetInfo::of(dataset)?;
        let (test, evaluation) = if split == Split::Test {
            let (score, evaluation) = TestSet::open(dataset)?.score(&mut scorer, cx)?;
            (Some(score), evaluation)
        } else {
            (None, evaluate(&mut scorer, &Dataset::open(dataset)?, cx)?)
        };
        out.set_content(&serde_json::json!({ "split": split, "n": evaluation.n, "accuracy": evaluation.accuracy }))?;
        out.write_json(EvaluationRecord::FILE, &EvaluationRecord { split, classes, test, evaluation })
    }
}

//! The stage of `evaluate --predictions`: scores the predictions of a classifier that ran elsewhere, and writes the same record
//! as stage `evaluate`.

use std::path::{Path, PathBuf};

use gafi_core::{
    ArtifactWriter, Context, Dataset, DatasetInfo, Error, Inputs, Kind, Port, Result, Split, Stage, StageInfo, TestSet,
    evaluate_labels, hash_file,
};
use gafi_data::{LabelForm, PredictionOptions, read_predictions};
use gafi_nn::EvaluationRecord;
use serde_json::{Value, json};

/// Scores the predictions in a file against the labels of a dataset.
#[derive(Debug, Clone)]
pub(crate) struct EvaluatePredictions {
    file: PathBuf,
    // BLAKE3 of the file: its content counts, not its path.
    hash: String,
    options: PredictionOptions,
}

impl EvaluatePredictions {
    /// The predictions in `file`; see [`read_predictions`].
    pub(crate) fn new(file: &Path, options: PredictionOptions) -> Result<Self> {
        Ok(Self { file: file.into(), hash: hash_file(file)?.blake3, options })
    }
}

impl Stage for EvaluatePredictions {
    fn info(&self) -> StageInfo {
        StageInfo {
            name: "evaluate-predictions",
            revision: 2,
            ports: const { &[Port::required("dataset", Kind::Dataset)] },
            output: Kind::Trials,
        }
    }

    fn config(&self) -> Value {
        let labels = self.options.labels.map(|labels| match labels {
            LabelForm::Names => "names",
            LabelForm::Numbers => "numbers",
        });
        json!({ "predictions": self.hash, "column": self.options.column, "labels": labels })
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        let info = DatasetInfo::of(inputs.require("dataset")?)?;
        read_predictions(&self.file, &info.classes, info.rows(), &self.options).map(drop)
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
        let dataset = inputs.require("dataset")?;
        let info = DatasetInfo::of(dataset)?;
        let predicted = read_predictions(&self.file, &info.classes, info.rows(), &self.options)?;
        if hash_file(&self.file)?.blake3 != self.hash {
            let expected = "the bytes it had when the stage was configured";
            return Err(Error::format(&self.file, "content", expected, "other bytes"));
        }
        let (test, evaluation) = if info.split == Split::Test {
            let (score, evaluation) = TestSet::open(dataset)?.score_labels(&predicted)?;
            (Some(score), evaluation)
        } else {
            (None, evaluate_labels(&predicted, &Dataset::open(dataset)?)?)
        };
        let DatasetInfo { split, classes, .. } = info;
        out.set_content(&json!({ "split": split, "n": evaluation.n, "accuracy": evaluation.accuracy }))?;
        out.write_json(EvaluationRecord::FILE, &EvaluationRecord { split, classes, test, evaluation })
    }
}

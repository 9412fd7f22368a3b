//! The stage behind `evaluate --predictions`: a classifier that was trained and run elsewhere is measured by what it
//! predicted, and leaves the record that one of ours leaves.

use std::path::{Path, PathBuf};

use gafi_core::{
    ArtifactWriter, Context, Dataset, DatasetInfo, Error, Inputs, Kind, Port, Result, Rows, Stage, evaluate_labels,
    hash_file,
};
use gafi_data::read_predictions;
use gafi_nn::{EVALUATION, EvaluationRecord};
use serde_json::{Value, json};

/// Measures predictions in a file against the labels of a dataset.
#[derive(Debug, Clone)]
pub(crate) struct EvaluatePredictions {
    file: PathBuf,
    // BLAKE3 of the file: what is measured, wherever it lies.
    hash: String,
}

impl EvaluatePredictions {
    /// The predictions in `file`; see [`read_predictions`].
    pub(crate) fn new(file: &Path) -> Result<Self> {
        Ok(Self { file: file.into(), hash: hash_file(file)?.blake3 })
    }
}

impl Stage for EvaluatePredictions {
    fn name(&self) -> &'static str {
        "evaluate-predictions"
    }

    fn revision(&self) -> u32 {
        1
    }

    fn ports(&self) -> &'static [Port] {
        const { &[Port::required("dataset", Kind::Dataset)] }
    }

    fn output(&self) -> Kind {
        Kind::Trials
    }

    fn config(&self) -> Value {
        json!({ "predictions": self.hash })
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        let info = DatasetInfo::of(inputs.require(self.name(), "dataset")?)?;
        read_predictions(&self.file, &info.classes, info.rows()).map(drop)
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
        let data = Dataset::open(inputs.require(self.name(), "dataset")?)?;
        let predicted = read_predictions(&self.file, &data.info().classes, data.len() as u64)?;
        if hash_file(&self.file)?.blake3 != self.hash {
            return Err(Error::format(&self.file, "content", "what it held a moment ago", "other bytes"));
        }
        let evaluation = evaluate_labels(&predicted, &data)?;
        let DatasetInfo { split, classes, .. } = data.info().clone();
        out.set_content(&json!({ "split": split, "n": evaluation.n, "accuracy": evaluation.accuracy }))?;
        out.write_json(EVALUATION, &EvaluationRecord { split, classes, evaluation })
    }
}

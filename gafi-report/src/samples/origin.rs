//! The origin of a run's samples: the source of its student `gafi`.

use anyhow::{Context as _, Result, bail};
use gafi_core::{Artifact, GeneratorInfo, Inputs};
use gafi_pipeline::{GafiSource, Source};

use crate::facts::GAFI;
use crate::run::Run;

/// A source of samples with the artifacts that it needs.
pub(crate) struct Origin<'a> {
    pub(crate) generator: &'a Artifact,
    pub(crate) teacher: &'a Artifact,
    pub(crate) source: GafiSource,
    /// Real training images.
    pub(crate) train: Option<&'a Artifact>,
    /// The samples in words.
    pub(crate) description: String,
}

impl<'a> Origin<'a> {
    /// The source of the student `gafi`; before that is trained, the last checkpoint of the first generator at std 1, unfiltered.
    ///
    /// # Errors
    /// When the teacher or the generator is not trained yet, or the source is not of kind `gafi`.
    pub(crate) fn of(run: &'a Run) -> Result<Self> {
        let record = run.record();
        let teacher = run.artifact(record.roles.teacher.as_ref().context("the teacher is not trained yet")?)?;
        let first = record.roles.generators.first().context("there is no generator yet")?;
        let mut generator = run.artifact(&first.artifact)?;
        // What the GAN learned from, so that memorised validation images show too.
        let train = record.roles.train_val.as_ref().or(record.roles.train.as_ref());
        let train = train.map(|train| run.artifact(train)).transpose()?;
        let (source, whose) = match record.row(GAFI) {
            Some(row) => {
                let student = run.artifact(&row.artifact)?;
                let source = student.config().get("source").cloned().unwrap_or_default();
                let source =
                    serde_json::from_value(source).with_context(|| format!("the source of {}", student.path))?;
                let Source::Gafi(source) = source else {
                    bail!("the student gafi of {} does not learn from one generator", run.name);
                };
                let ids = student.artifact.manifest().made_by.inputs.get("generators");
                let id = ids.and_then(|ids| ids.get(source.generator)).context("the student has no generator")?;
                generator = run.by_id(id).context("the student's generator is not in the record")?;
                (GafiSource { generator: 0, ..source }, "with the settings of row gafi")
            }
            None => {
                let info = GeneratorInfo::of(&generator.artifact)?;
                (GafiSource::plain(info.steps().last().unwrap_or(0), 0), "before any choice")
            }
        };
        let GafiSource { checkpoint, std, .. } = &source;
        let checkpoint = checkpoint.map_or("last checkpoint".into(), |step| format!("checkpoint {step}"));
        let description = format!("generator {}, {checkpoint}, std {std}, {whose}", generator.path);
        let train = train.map(|train| &train.artifact);
        Ok(Self { generator: &generator.artifact, teacher: &teacher.artifact, source, train, description })
    }

    /// The inputs of the source.
    pub(crate) fn inputs(&self) -> Inputs {
        Inputs::new().with("generators", self.generator).with("teacher", self.teacher)
    }
}

//! Stage `recycle`: trains a student on synthetic images.

use gafi_core::{
    ArtifactWriter, ClassifierInfo, Context, DatasetInfo, Error, GeneratorInfo, ImageSpec, Inputs, Kind, LearnerSpec,
    Port, Result, START_PORT, SampleSource, SourceSpec, Split, Stage, StageInfo, Stream, ValSet, fit, warm_start,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::plan::{Plan, Renewal};
use crate::recycle::Recycled;

/// A source needs generators or samples; sources that filter need the teacher. The validation set chooses the epoch.
/// With a `start` classifier, the student starts from its weights.
const PORTS: &[Port] = &[
    Port::many("generators", Kind::Generator),
    Port::optional("samples", Kind::Dataset),
    Port::optional("teacher", Kind::Classifier),
    Port::optional(START_PORT, Kind::Classifier),
    Port::required("val", Kind::Dataset),
];

const NAME: &str = "recycle";

/// Stage `recycle`: trains a student on `per_class` samples of each class, which are renewed between epochs, and keeps the best
/// epoch on the validation set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Recycle {
    /// The source of samples, seed included: an object whose `kind` names a registered source.
    pub source: SourceSpec,
    /// Samples of each class in the set, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub per_class: u64,
    /// How the set is renewed; no renewals when absent.
    pub recycle: Option<Renewal>,
    /// The student: an object whose `architecture.name` names a registered learner.
    pub learner: LearnerSpec,
    /// Seed of the student, and of the choice of replaced images.
    pub seed: u64,
}

impl Default for Recycle {
    /// Unfiltered samples of source kind `gafi` without renewals, and a learner of architecture `resnet`.
    fn default() -> Self {
        Self {
            source: SourceSpec::named("gafi"),
            per_class: 1000,
            recycle: None,
            learner: LearnerSpec::named("resnet"),
            seed: 0,
        }
    }
}

impl Recycle {
    fn plan(&self, classes: usize) -> Result<Plan> {
        let per_class = usize::try_from(self.per_class)
            .map_err(|_| Error::config("per_class", self.per_class, "a number of images that memory can hold"))?;
        Plan::new(self.recycle, classes, per_class, Stream::new(self.seed).child(NAME))
    }
}

/// Checks that `port` has the image shape and the classes of the validation set.
fn check_images(inputs: &Inputs, port: &str, val: &DatasetInfo, image: &ImageSpec, classes: &[String]) -> Result<()> {
    if *image == val.image && classes == val.classes {
        return Ok(());
    }
    let expected = format!("{}, as the validation set has", val.image.of_classes(&val.classes));
    Err(inputs.error(port, expected, image.of_classes(classes)))
}

impl Stage for Recycle {
    fn info(&self) -> StageInfo {
        StageInfo { name: NAME, revision: 6, ports: PORTS, output: Kind::Classifier }
    }

    fn config(&self) -> Value {
        json!(self)
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        self.source.check()?;
        self.learner.check()?;
        let val = DatasetInfo::of(inputs.require("val")?)?;
        self.plan(val.classes.len())?;
        if !val.split.chooses() {
            return Err(inputs.error("val", "a dataset of split val", format!("split {}", val.split)));
        }
        let generators = inputs.all("generators");
        if let Some(samples) = inputs.get("samples") {
            let samples = DatasetInfo::of(samples)?;
            // Images used for choices or for testing must not be trained on.
            if !matches!(samples.split, Split::Train | Split::Synthetic) {
                let found = format!("split {}", samples.split);
                return Err(inputs.error("samples", "a dataset of split train or synthetic", found));
            }
            check_images(inputs, "samples", &val, &samples.image, &samples.classes)?;
        } else if generators.is_empty() {
            return Err(inputs.error("generators", "a generator, or samples", "nothing"));
        }
        for generator in generators {
            let generator = GeneratorInfo::of(generator)?;
            check_images(inputs, "generators", &val, &generator.image, &generator.classes)?;
        }
        for port in ["teacher", START_PORT] {
            let Some(classifier) = inputs.get(port) else { continue };
            let classifier = ClassifierInfo::of(classifier)?;
            check_images(inputs, port, &val, &classifier.image, &classifier.classes)?;
        }
        Ok(())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let val = ValSet::open(inputs.require("val")?)?;
        let source = cx.models.open_source(&self.source, inputs, cx)?;
        check_images(inputs, "source", val.info(), source.image(), source.classes())?;
        let mut learner = cx.models.new_learner(&self.learner, val.info().image, &val.info().classes, self.seed)?;
        warm_start(&mut *learner, inputs, val.info())?;
        let mut data = Recycled::new(source, self.plan(val.info().classes.len())?)?;
        fit(&mut *learner, &mut data, &val, self.config(), out, cx).map(drop)
    }
}

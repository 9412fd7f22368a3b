//! Stage `recycle`: trains a student on synthetic images alone.

use gafi_core::{
    ArtifactWriter, ClassifierInfo, Context, DatasetInfo, Error, ImageSpec, Inputs, Kind, Port, Result, START_PORT,
    SampleSource, Split, Stage, Stream, ValSet, fit, warm_start,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::plan::{Plan, Renewal};
use crate::recycle::Recycled;

/// Names of the ports for generators: one is needed, the others are there for sources that mix several.
pub const GENERATORS: [&str; 8] = [
    "generator",
    "generator-2",
    "generator-3",
    "generator-4",
    "generator-5",
    "generator-6",
    "generator-7",
    "generator-8",
];

/// Name of the port for images that are there already: a source that only hands them over.
pub const SAMPLES: &str = "samples";

/// Inputs of stage `recycle`. A source needs a generator or samples; the teacher is there for sources that filter; the
/// validation set chooses the epoch. With a classifier to start from, the student begins with its weights.
pub const PORTS: &[Port] = &[
    Port::optional(GENERATORS[0], Kind::Generator),
    Port::optional(GENERATORS[1], Kind::Generator),
    Port::optional(GENERATORS[2], Kind::Generator),
    Port::optional(GENERATORS[3], Kind::Generator),
    Port::optional(GENERATORS[4], Kind::Generator),
    Port::optional(GENERATORS[5], Kind::Generator),
    Port::optional(GENERATORS[6], Kind::Generator),
    Port::optional(GENERATORS[7], Kind::Generator),
    Port::optional(SAMPLES, Kind::Dataset),
    Port::optional("teacher", Kind::Classifier),
    Port::optional(START_PORT, Kind::Classifier),
    Port::required("val", Kind::Dataset),
];

const NAME: &str = "recycle";

/// Stage `recycle`: trains a student on `per_class` generated images of each class, renewed meanwhile, and keeps the epoch
/// that does best on the validation set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Recycle {
    /// Where samples come from: an object whose `kind` names one of the host program's sources. It holds the seed of the
    /// samples.
    pub source: Value,
    /// Images of each class in the set, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub per_class: u64,
    /// How the set is renewed; never, when absent.
    pub recycle: Option<Renewal>,
    /// The student: an object whose `architecture.name` names one of the host program's learners.
    pub learner: Value,
    /// Seed of the student, and of which images are replaced.
    pub seed: u64,
}

impl Default for Recycle {
    fn default() -> Self {
        Self { source: Value::Null, per_class: 1000, recycle: None, learner: Value::Null, seed: 0 }
    }
}

impl Recycle {
    fn plan(&self, classes: usize) -> Result<Plan> {
        let per_class = usize::try_from(self.per_class)
            .map_err(|_| Error::config("per_class", self.per_class, "a number of images that memory can hold"))?;
        Plan::new(self.recycle, classes, per_class, Stream::new(self.seed).child(NAME))
    }
}

/// What `port` shows, and whether that is what the validation set shows.
fn fits(port: &str, val: &DatasetInfo, image: &ImageSpec, classes: &[String]) -> Result<()> {
    if *image == val.image && classes == val.classes {
        return Ok(());
    }
    Err(Error::Input {
        stage: NAME.into(),
        port: port.into(),
        expected: format!("{} images of classes {}, as the validation set has", val.image, val.classes.join(", ")),
        found: format!("{image} images of classes {}", classes.join(", ")),
    })
}

/// That `samples` may be trained on: what chooses or is measured with may not.
fn check_samples(samples: &DatasetInfo, val: &DatasetInfo) -> Result<()> {
    if matches!(samples.split, Split::Train | Split::Synthetic) {
        return fits(SAMPLES, val, &samples.image, &samples.classes);
    }
    Err(Error::Input {
        stage: NAME.into(),
        port: SAMPLES.into(),
        expected: "a dataset of split train or synthetic".into(),
        found: format!("split {}", samples.split),
    })
}

impl Stage for Recycle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn revision(&self) -> u32 {
        3
    }

    fn ports(&self) -> &'static [Port] {
        PORTS
    }

    fn output(&self) -> Kind {
        Kind::Classifier
    }

    fn config(&self) -> Value {
        json!(self)
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        if self.source.get("kind").and_then(Value::as_str).is_none() {
            return Err(Error::config("source", &self.source, "an object whose `kind` names a source"));
        }
        let architecture = self.learner.get("architecture");
        if architecture.and_then(|a| a.get("name")).and_then(Value::as_str).is_none() {
            return Err(Error::config("learner", &self.learner, "an object whose `architecture.name` names a learner"));
        }
        let val = DatasetInfo::of(inputs.require(NAME, "val")?)?;
        self.plan(val.classes.len())?;
        if !val.split.chooses() {
            return Err(Error::Input {
                stage: NAME.into(),
                port: "val".into(),
                expected: "a dataset of split val".into(),
                found: format!("split {}", val.split),
            });
        }
        match inputs.get(SAMPLES) {
            None => drop(inputs.require(NAME, GENERATORS[0])?),
            Some(samples) => check_samples(&DatasetInfo::of(samples)?, &val)?,
        }
        // What else a generator says of itself is between its trainer and its loader.
        for port in GENERATORS {
            let Some(generator) = inputs.get(port) else { continue };
            let part = |key: &str| generator.manifest().content.get(key).cloned().unwrap_or_default();
            let image = serde_json::from_value(part("image")).unwrap_or(val.image);
            let classes: Vec<String> = serde_json::from_value(part("classes")).unwrap_or_else(|_| val.classes.clone());
            fits(port, &val, &image, &classes)?;
        }
        for port in ["teacher", START_PORT] {
            let Some(classifier) = inputs.get(port) else { continue };
            let classifier: ClassifierInfo = classifier.content()?;
            fits(port, &val, &classifier.image, &classifier.classes)?;
        }
        Ok(())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let val = ValSet::open(inputs.require(NAME, "val")?)?;
        let source = cx.models.open_source(&self.source, inputs, cx)?;
        fits("source", val.info(), source.image(), source.classes())?;
        let mut learner = cx.models.new_learner(&self.learner, val.info().image, &val.info().classes, self.seed)?;
        warm_start(&mut *learner, inputs, val.info(), NAME)?;
        let mut data = Recycled::new(source, self.plan(val.info().classes.len())?)?;
        fit(&mut *learner, &mut data, &val, self.config(), out, cx)?;
        Ok(())
    }
}

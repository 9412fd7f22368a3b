//! Stage `probe`: rates a source of samples without training a network, so that a search can screen many sources.

use std::num::NonZeroUsize;

use gafi_core::{
    ArtifactWriter, ClassId, ClassTally, Context, Dataset, DatasetInfo, Error, ImageSpec, Inputs, Kind, Port, Result,
    Rows, SampleSource, SourceSpec, Split, Stage, StageInfo, Stream, check_positive,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::patches::PatchFeatures;
use crate::prdc::share;
use crate::ridge::RidgeClassifier;
use crate::rows::{read_pixels, sample_of_each};

/// The file of a probe's artifact that holds its [`ProbeRecord`].
pub const PROBE_FILE: &str = "probe.json";

const PORTS: &[Port] = &[
    Port::many("generators", Kind::Generator),
    Port::optional("samples", Kind::Dataset),
    Port::optional("teacher", Kind::Classifier),
    Port::required("real", Kind::Dataset),
];

/// Stage `probe`: draws samples, fits a [`RidgeClassifier`] to [`PatchFeatures`] of them, and evaluates it on real images of split
/// `screen`. Training images would favour a generator that memorised them; `val` and `test` are for the students' scores.
///
/// It holds `per_class` synthetic and at most as many real images per class in memory, and their features (up to 1,280 f32
/// each).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// The source of the samples: a kind of source and its settings.
    pub source: SourceSpec,
    /// Samples of each class, at least 1. At most as many real images of each class are used. Results of different sizes are not
    /// comparable.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub per_class: usize,
    /// Seed of the choice of real images and of their patches. Results of different seeds are not comparable.
    pub seed: u64,
}

impl Default for Probe {
    /// Unfiltered samples of source kind `gafi`.
    fn default() -> Self {
        Self { source: SourceSpec::named("gafi"), per_class: 200, seed: 0 }
    }
}

/// The result of a [`Probe`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ProbeRecord {
    /// Accuracy on the real images of the classifier fitted to the samples, in [0, 1]. Use it to rank sources; it is
    /// not comparable with a student's accuracy.
    pub accuracy: f64,
    /// Samples that the classifier was fitted to; fewer than requested when the source ran out.
    pub synthetic: u64,
    /// Real images that it was evaluated on.
    pub real: u64,
    /// What the source drew and accepted, over all classes.
    pub tally: ClassTally,
}

impl Stage for Probe {
    fn info(&self) -> StageInfo {
        StageInfo { name: "probe", revision: 6, ports: PORTS, output: Kind::Trials }
    }

    fn config(&self) -> Value {
        json!(self)
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        check_positive("per_class", self.per_class)?;
        let real = DatasetInfo::of(inputs.require("real")?)?;
        if real.split != Split::Screen {
            let expected = "a dataset of split screen, which an import with screen_fraction above 0 makes";
            return Err(inputs.error("real", expected, format!("split {}", real.split)));
        }
        self.source.check()
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let real = Dataset::open(inputs.require("real")?)?;
        let info = real.info();
        let mut source = cx.models.open_source(&self.source, inputs, cx)?;
        if (*source.image(), source.classes()) != (info.image, &info.classes) {
            let expected = source.image().of_classes(source.classes());
            let found = info.image.of_classes(&info.classes);
            return Err(inputs.error("real", expected, found));
        }
        let (pixels, labels) = self.draw(&mut *source, cx)?;
        let tally = source.tally().total();
        drop(source);

        // Depends on the seed alone: every source gets the same real images and patches, so records can be compared.
        let stream = Stream::new(self.seed);
        let rows = sample_of_each(&real, self.per_class, &stream.child("real"));
        let real_pixels = read_pixels(&real, &rows, cx)?;
        let (features, real_features) = features(info.image, &pixels, &real_pixels, &stream.child("patches"), cx)?;
        let classifier = RidgeClassifier::fit(&features, &labels, info.classes.len())?;
        cx.checkpoint()?;
        let predicted = classifier.predict(&real_features)?;
        let accuracy = share(predicted.iter().zip(&rows).map(|(class, &row)| *class == real.label(row)));
        out.set_content(&json!({
            "closed_form_accuracy": accuracy,
            "acceptance": tally.accepted as f64 / tally.drawn.max(1) as f64,
        }))?;
        let record = ProbeRecord { accuracy, synthetic: labels.len() as u64, real: rows.len() as u64, tally };
        out.write_json(PROBE_FILE, &record)
    }
}

impl Probe {
    /// Pixels and labels of `per_class` samples of each class; fewer when the source runs out.
    fn draw(&self, source: &mut dyn SampleSource, cx: &Context) -> Result<(Vec<u8>, Vec<ClassId>)> {
        let classes = source.classes().len();
        let mut task = cx.progress.begin("draw", Some((self.per_class * classes) as u64));
        let mut pixels = Vec::new();
        let mut labels = Vec::new();
        for class in ClassId::all(classes) {
            let mut missing = self.per_class;
            while let Some(most) = NonZeroUsize::new(missing) {
                cx.checkpoint()?;
                let batch = match source.pull(class, most) {
                    Ok(Some(batch)) if batch.len() > missing => {
                        let why = format!("expected at most {missing} samples, found {}", batch.len());
                        return Err(Error::other(format!("drawing samples of {class}"))(why));
                    }
                    Ok(Some(batch)) if !batch.is_empty() => batch,
                    Ok(_) => break,
                    Err(Error::Exhausted(exhausted)) => {
                        return Err(exhausted.with_others(source, self.per_class as u64));
                    }
                    Err(error) => return Err(error),
                };
                missing -= batch.len();
                task.advance(batch.len() as u64);
                labels.resize(labels.len() + batch.len(), class);
                pixels.extend(batch.images);
            }
        }
        Ok((pixels, labels))
    }
}

/// Features of the synthetic and the real images, from patches of the real ones. If the real images have no patches,
/// because each is of one colour, the pixels are the features.
fn features(
    image: ImageSpec,
    synthetic: &[u8],
    real: &[u8],
    stream: &Stream,
    cx: &Context,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let Some(patches) = PatchFeatures::pick(image, real, stream)? else {
        let floats = |pixels: &[u8]| pixels.iter().map(|&v| f32::from(v)).collect();
        return Ok((floats(synthetic), floats(real)));
    };
    cx.checkpoint()?;
    let synthetic = patches.features(synthetic)?;
    cx.checkpoint()?;
    Ok((synthetic, patches.features(real)?))
}

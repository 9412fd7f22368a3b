//! An ONNX file as a scorer.

use gafi_core::stream::below;
use gafi_core::{Error, ImageSpec, Result, Scored, Scorer, Stream};

use crate::architecture::{ARCHITECTURE, ClassifierArchitecture, More};
use crate::arrangement::Arrangement;
use crate::config::{ClassifierConfig, Scores, class_names, scaling};
use crate::model::{Model, Values};
use crate::network::{Network, Row, Rows};

/// How far the sum of an image's probabilities may be from 1.
const SUM_SLACK: f32 = 1e-2;

/// A classifier that is an ONNX file.
#[derive(Debug)]
pub struct OnnxScorer {
    network: Network,
    /// Names of the tensors, and the scaling of pixels.
    pub(crate) architecture: ClassifierArchitecture,
    pub(crate) arrangement: Arrangement,
    /// Factor and offset of each channel.
    scaling: Vec<[f32; 2]>,
    pub(crate) classes: Vec<String>,
    feature_dim: Option<usize>,
}

impl OnnxScorer {
    /// Prepares `model`.
    ///
    /// # Errors
    /// [`Error::Config`] when `config` does not match the file, [`Error::Format`] when the file is not a classifier.
    pub(crate) fn new(model: &Model, config: &ClassifierConfig) -> Result<Self> {
        let inputs = model.free_inputs(&config.constants)?;
        let [port] = &inputs[..] else {
            let expected = "one input, images (give others a value with `constants`, as in constants.NAME = 1.0)";
            return Err(Error::format(&model.path, "inputs", expected, model.inputs_text()));
        };
        if let Some(name) = &config.images {
            model.input("images", name)?;
        }
        if port.values != Values::F32 {
            return Err(Error::format(&model.path, format!("input {}", port.name), "type F32", port.to_string()));
        }
        let arrangement = Arrangement::of(&port.row, config.layout, config.shape, "images")?;
        let scaling = scaling(config, arrangement.image.channels)?;
        let scores = model.output("scores", config.scores.as_deref(), 0)?;
        let scores = scores.ok_or_else(|| Error::format(&model.path, "outputs", "scores", "none"))?;
        let features = match &config.features {
            Some(name) => model.output("features", Some(name), 0)?,
            None => model.output("features", None, 1)?.filter(|name| *name != scores),
        };
        let wanted: Vec<&str> = [Some(scores), features].into_iter().flatten().collect();
        let network = Network::new(model, &config.constants, &wanted)?;
        let [count] = network.outputs[0].row[..] else {
            let found = format!("(N, {:?})", network.outputs[0].row);
            return Err(Error::format(&model.path, format!("output {scores}"), "scores (N, classes)", found));
        };
        let architecture = ClassifierArchitecture {
            name: ARCHITECTURE.into(),
            images: port.name.clone(),
            scores: scores.into(),
            features: features.map(Into::into),
            range: config.range,
            mean: config.mean.clone(),
            std: config.std.clone(),
            gives: config.gives,
            more: More::new(&arrangement, &config.constants),
        };
        let classes = class_names(&config.classes, count)?;
        let feature_dim = features.map(|_| network.outputs[1].row.iter().product());
        Ok(Self { network, architecture, arrangement, scaling, classes, feature_dim })
    }

    /// Scores an image of noise and a grey one, twice each.
    ///
    /// # Errors
    /// [`Error::Format`] when scores are not finite or differ between two runs, [`Error::Config`] when they should be
    /// probabilities and are not.
    pub(crate) fn check_scores(&self, model: &Model) -> Result<()> {
        let mut rng = Stream::new(0).child("probe").rng();
        let noise: Vec<u8> = (0..self.arrangement.image.bytes()).map(|_| below(&mut rng, 256) as u8).collect();
        let grey = vec![128; self.arrangement.image.bytes()];
        for image in [&noise, &grey] {
            if self.score_images(image)? != self.score_images(image)? {
                let expected = "the same scores in two runs of the same image";
                return Err(Error::format(&model.path, "test images", expected, "different scores"));
            }
        }
        let raw = self.scores(&[noise, grey].concat())?;
        if self.architecture.gives == Scores::Logits && raw.iter().all(|scores| are_probabilities(&scores[0]).is_ok()) {
            tracing::warn!(
                "the scores look like probabilities; if the file includes the softmax, set gives = \"probabilities\""
            );
        }
        Ok(())
    }

    /// The raw outputs for each image.
    fn scores(&self, pixels: &[u8]) -> Result<Vec<Rows>> {
        let ImageSpec { height, width, .. } = self.arrangement.image;
        let image = |pixels: &[u8]| {
            let channels = pixels.chunks(height * width).zip(&self.scaling);
            let scaled = channels
                .flat_map(|(channel, [factor, offset])| channel.iter().map(move |v| f32::from(*v) * factor + offset));
            self.arrangement.arranged(scaled.collect())
        };
        let images: Vec<_> = pixels.chunks(self.arrangement.image.bytes()).map(image).collect();
        let samples: Vec<_> = images.iter().map(|values| vec![Row::Floats(values)]).collect();
        self.network.run(&samples, &|k| format!("image {k}"))
    }

    /// Probabilities and features of each image.
    fn score_images(&self, pixels: &[u8]) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
        let scored = |mut outputs: Rows| {
            let features = if self.feature_dim.is_some() { outputs.swap_remove(1) } else { Vec::new() };
            let scores = outputs.swap_remove(0);
            match self.architecture.gives {
                Scores::Logits => Ok((softmax(&scores), features)),
                Scores::Probabilities => match are_probabilities(&scores) {
                    Ok(()) => Ok((scores, features)),
                    Err(found) => {
                        let expected = format!("logits, because the file returned {found}");
                        Err(Error::config("gives", "probabilities", expected))
                    }
                },
            }
        };
        self.scores(pixels)?.into_iter().map(scored).collect()
    }

    fn score_all(&self, pixels: &[u8]) -> Result<Scored> {
        let image = self.arrangement.image;
        if !pixels.len().is_multiple_of(image.bytes()) {
            let expected = format!("whole images of {} bytes ({image})", image.bytes());
            return Err(Error::config("pixels", format!("{} bytes", pixels.len()), expected));
        }
        let (probabilities, features): (Vec<_>, Vec<_>) = self.score_images(pixels)?.into_iter().unzip();
        Ok(Scored { probabilities: probabilities.concat(), features: features.concat() })
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let parts: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f32 = parts.iter().sum();
    parts.into_iter().map(|part| part / sum).collect()
}

/// Checks that `scores` are probabilities; the error names the value that is not.
fn are_probabilities(scores: &[f32]) -> Result<(), String> {
    let sum: f32 = scores.iter().sum();
    match scores.iter().find(|score| !(0.0..=1.0).contains(*score)) {
        Some(score) => Err(score.to_string()),
        None if (sum - 1.0).abs() > SUM_SLACK => Err(format!("a sum of {sum}")),
        None => Ok(()),
    }
}

impl Scorer for OnnxScorer {
    fn image(&self) -> &ImageSpec {
        &self.arrangement.image
    }

    fn classes(&self) -> usize {
        self.classes.len()
    }

    fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>> {
        Ok(self.score_all(pixels)?.probabilities)
    }

    fn feature_dim(&self) -> Option<usize> {
        self.feature_dim
    }

    fn score_with_features(&mut self, pixels: &[u8]) -> Result<Scored> {
        if self.feature_dim.is_none() {
            return Err(Error::other("computing features by an ONNX classifier")("the file has no output of features"));
        }
        self.score_all(pixels)
    }
}

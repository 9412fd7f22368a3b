//! An ONNX file as a scorer.

use gafi_core::stream::below;
use gafi_core::{Error, ImageSpec, Result, Scored, Scorer, Stream};
use rayon::prelude::*;

use crate::architecture::ClassifierArchitecture;
use crate::config::{ClassifierConfig, Scores, class_names, scaling};
use crate::model::Model;
use crate::network::{Network, Row};

/// How far the sum of an image's probabilities may be from 1.
const SUM_SLACK: f32 = 1e-2;

/// A classifier that is an ONNX file.
#[derive(Debug)]
pub struct OnnxScorer {
    network: Network,
    architecture: ClassifierArchitecture,
    image: ImageSpec,
    /// Factor and offset of each channel.
    scaling: Vec<[f32; 2]>,
    classes: Vec<String>,
    feature_dim: Option<usize>,
}

impl OnnxScorer {
    /// Prepares `model`.
    ///
    /// # Errors
    /// [`Error::Config`] when `config` does not match the file, [`Error::Format`] when the file is not a classifier.
    pub(crate) fn new(model: &Model, config: &ClassifierConfig) -> Result<Self> {
        let [port] = &model.inputs[..] else {
            return Err(Error::format(&model.path, "inputs", "one input, images", model.inputs_text()));
        };
        if let Some(name) = &config.images {
            model.input("images", name)?;
        }
        let image = match port.row[..] {
            [channels @ (1 | 3), height, width] if !port.values.is_integer() => ImageSpec::new(channels, height, width),
            _ => {
                let expected = "images F32 (N, C, H, W) with 1 or 3 channels";
                return Err(Error::format(&model.path, format!("input {}", port.name), expected, port.to_string()));
            }
        };
        let scaling = scaling(config, image.channels)?;
        let scores = model.output("scores", config.scores.as_deref(), 0)?;
        let scores = scores.ok_or_else(|| Error::format(&model.path, "outputs", "scores", "none"))?;
        let features = match &config.features {
            Some(name) => model.output("features", Some(name), 0)?,
            None => model.output("features", None, 1)?.filter(|name| *name != scores),
        };
        let wanted: Vec<&str> = [Some(scores), features].into_iter().flatten().collect();
        let network = Network::new(model, &wanted)?;
        let [count] = network.outputs()[0].row[..] else {
            let found = format!("(N, {:?})", network.outputs()[0].row);
            return Err(Error::format(&model.path, format!("output {scores}"), "scores (N, classes)", found));
        };
        let architecture = ClassifierArchitecture::new(&port.name, scores, features, config);
        let classes = class_names(&config.classes, count)?;
        let feature_dim = features.map(|_| network.outputs()[1].row.iter().product());
        Ok(Self { network, architecture, image, scaling, classes, feature_dim })
    }

    /// Names of the tensors, and the scaling of pixels.
    pub(crate) fn architecture(&self) -> &ClassifierArchitecture {
        &self.architecture
    }

    /// Names of the classes.
    pub(crate) fn class_names(&self) -> &[String] {
        &self.classes
    }

    /// Scores an image of noise and a grey one, twice each.
    ///
    /// # Errors
    /// [`Error::Format`] when scores are not finite or differ between two runs, [`Error::Config`] when they should be
    /// probabilities and are not.
    pub(crate) fn check_scores(&self, model: &Model) -> Result<()> {
        let mut rng = Stream::new(0).child("probe").rng();
        let noise: Vec<u8> = (0..self.image.bytes()).map(|_| below(&mut rng, 256) as u8).collect();
        let grey = vec![128; self.image.bytes()];
        for image in [&noise, &grey] {
            if self.score_image(image)? != self.score_image(image)? {
                let expected = "the same scores in two runs of the same image";
                return Err(Error::format(&model.path, "test images", expected, "different scores"));
            }
        }
        let raw = [self.scores(&noise)?, self.scores(&grey)?];
        if self.architecture.gives == Scores::Logits && raw.iter().all(|scores| are_probabilities(&scores[0]).is_ok()) {
            tracing::warn!(
                "the scores look like probabilities; if the file includes the softmax, set gives = \"probabilities\""
            );
        }
        Ok(())
    }

    /// The raw outputs for one image.
    fn scores(&self, pixels: &[u8]) -> Result<Vec<Vec<f32>>> {
        let plane = self.image.height * self.image.width;
        let channels = pixels.chunks(plane).zip(&self.scaling);
        let values: Vec<f32> = channels
            .flat_map(|(channel, [factor, offset])| channel.iter().map(move |v| f32::from(*v) * factor + offset))
            .collect();
        self.network.run(&[Row::Floats(&values)], "an image")
    }

    /// Probabilities and features of one image.
    fn score_image(&self, pixels: &[u8]) -> Result<(Vec<f32>, Vec<f32>)> {
        let mut outputs = self.scores(pixels)?;
        let features = if self.feature_dim.is_some() { outputs.swap_remove(1) } else { Vec::new() };
        let scores = outputs.swap_remove(0);
        match self.architecture.gives {
            Scores::Logits => Ok((softmax(&scores), features)),
            Scores::Probabilities => match are_probabilities(&scores) {
                Ok(()) => Ok((scores, features)),
                Err(found) => {
                    Err(Error::config("gives", "probabilities", format!("logits, because the file returned {found}")))
                }
            },
        }
    }

    fn score_all(&self, pixels: &[u8]) -> Result<Scored> {
        let bytes = self.image.bytes();
        if !pixels.len().is_multiple_of(bytes) {
            let expected = format!("whole images of {bytes} bytes ({})", self.image);
            return Err(Error::config("pixels", format!("{} bytes", pixels.len()), expected));
        }
        let scored: Vec<_> = pixels.par_chunks(bytes).map(|image| self.score_image(image)).collect::<Result<_>>()?;
        let (probabilities, features): (Vec<_>, Vec<_>) = scored.into_iter().unzip();
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
        &self.image
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

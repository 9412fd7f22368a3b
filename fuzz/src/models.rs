//! Weights and networks: state dicts of other programs, checkpoints, ONNX files.

use std::sync::OnceLock;

use candle_core::Device;
use gafi_core::{Artifact, ClassId, Generator, Inputs, Scorer, Split, execute};
use gafi_gan::import::{state_dict, studiogan};
use gafi_gan::{Architecture, Checkpoints, GanConfig, Length, SmallConfig, TrainGan};
use gafi_nn::{ClassifierConfig, ResNetConfig, TrainClassifier};
use gafi_onnx::{GeneratorConfig, ImportOnnx};

use crate::scratch::{CLASSES, Squares, artifact, cx, folder, put, show};

/// A stage that trains a small GAN, and its input.
pub(crate) fn gan() -> (TrainGan, Inputs) {
    let small = SmallConfig { z: 2, shared: 2, g: vec![2], d: vec![2], ..SmallConfig::default() };
    let config = GanConfig {
        architecture: Architecture::Small(small),
        length: Length::Steps(2),
        checkpoints: Checkpoints::At(vec![1, 2]),
        batch: 2,
        samples_per_class: 1,
        ..GanConfig::small()
    };
    let train = Squares { channels: 1, size: 8, rows: 4, split: Split::Train }.write("train");
    (TrainGan { config, device: Device::Cpu }, Inputs::new().with("train", &train))
}

/// The configuration of the smallest classifier.
pub(crate) fn classifier_config() -> ClassifierConfig {
    let architecture = ResNetConfig { depth: 8, width: 1 };
    ClassifierConfig {
        architecture: architecture.into(),
        epochs: 2,
        batch: 8,
        warm_up: 0.0,
        milestones: Vec::new(),
        ..ClassifierConfig::default()
    }
}

/// A stage that trains it, and its inputs.
pub(crate) fn training() -> (TrainClassifier, Inputs) {
    let set = |split, name| Squares { channels: 1, size: 8, rows: 4, split }.write(name);
    let inputs = Inputs::new().with("train", &set(Split::Train, "train")).with("val", &set(Split::Val, "val"));
    (TrainClassifier { classifier: classifier_config(), ..TrainClassifier::default() }, inputs)
}

/// A generator and a classifier.
pub(crate) fn trained() -> &'static (Artifact, Artifact) {
    static TRAINED: OnceLock<(Artifact, Artifact)> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let (stage, inputs) = gan();
        let generator = execute(&stage, &inputs, &folder().join("gan"), cx()).expect("a small GAN trains").artifact;
        let (stage, inputs) = training();
        let classifier = execute(&stage, &inputs, &folder().join("classifier"), cx()).expect("a classifier trains");
        (generator, classifier.artifact)
    })
}

/// `model`, the artifact with its only file of weights replaced.
fn with_weights(name: &str, model: &Artifact, file: &str, weights: &[u8]) -> Artifact {
    let path = artifact(name, model.kind(), model.manifest().content.clone(), &[(file, weights)]);
    Artifact::open(path).expect("it was just written")
}

fn checkpoint_file() -> String {
    let mut files = trained().0.manifest().files.keys();
    files.rfind(|name| name.starts_with("checkpoint")).expect("a generator has checkpoints").clone()
}

fn sample(mut generator: Box<dyn Generator>) {
    let latents = vec![0.5; generator.latent_dim()];
    if let Some(pixels) = show(generator.generate(&latents, &[ClassId(0)])) {
        assert_eq!(pixels.len(), generator.image().bytes());
    }
}

fn score(mut scorer: Box<dyn Scorer>) {
    let pixels = vec![9; scorer.image().bytes()];
    if let Some(probabilities) = show(scorer.score(&pixels)) {
        assert_eq!(probabilities.len(), scorer.classes());
    }
}

pub(crate) fn generator_weights() -> Vec<Vec<u8>> {
    vec![trained().0.read(&checkpoint_file()).expect("a new artifact is whole")]
}

pub(crate) fn generator(input: &[u8]) {
    let model = with_weights("other-gan", &trained().0, &checkpoint_file(), input);
    if let Some(generator) = show(cx().models.open_generator(&model, None)) {
        sample(generator);
    }
}

pub(crate) fn classifier_weights() -> Vec<Vec<u8>> {
    vec![trained().1.read("weights.safetensors").expect("a new artifact is whole")]
}

pub(crate) fn classifier(input: &[u8]) {
    let model = with_weights("other-classifier", &trained().1, "weights.safetensors", input);
    if let Some(scorer) = show(cx().models.open_scorer(&model)) {
        score(scorer);
    }
}

macro_rules! golden {
    ($krate:literal, $file:literal) => {
        include_bytes!(concat!("../../", $krate, "/tests/goldens/", $file)).to_vec()
    };
}

pub(crate) fn state_dicts() -> Vec<Vec<u8>> {
    vec![golden!("gafi-gan", "studiogan_biggan.pth"), golden!("gafi-gan", "studiogan_deep.safetensors")]
}

pub(crate) fn state_dict(input: &[u8]) {
    let path = put("state.pth", input);
    if let Some(state) = show(state_dict::read(std::slice::from_ref(&path), None, &studiogan::SOME)) {
        show(studiogan::generator(&path, &state));
    }
}

/// Imports an ONNX file, and runs it once.
fn onnx(stage: Option<ImportOnnx>, name: &str) -> Option<Artifact> {
    let dest = folder().join(name);
    let _ = std::fs::remove_dir_all(&dest);
    let artifact = show(execute(&stage?, &Inputs::new(), &dest, cx()))?.artifact;
    show(artifact.verify());
    Some(artifact)
}

fn model(input: &[u8]) -> std::path::PathBuf {
    put("dcgan.onnx.data", golden!("gafi-onnx", "dcgan.onnx.data").as_slice());
    put("model.onnx", input)
}

pub(crate) fn onnx_generators() -> Vec<Vec<u8>> {
    vec![
        golden!("gafi-onnx", "dcgan.onnx"),
        golden!("gafi-onnx", "biggan.onnx"),
        golden!("gafi-onnx", "bad_deaf.onnx"),
        golden!("gafi-onnx", "bad_shape.onnx"),
    ]
}

pub(crate) fn onnx_generator(input: &[u8]) {
    let classes = [&CLASSES[..], &["bird"]].concat().into_iter().map(String::from).collect();
    let config = GeneratorConfig { classes, ..GeneratorConfig::default() };
    let artifact = onnx(show(ImportOnnx::generator(&model(input), config)), "onnx-generator");
    if let Some(generator) = artifact.and_then(|artifact| show(cx().models.open_generator(&artifact, None))) {
        sample(generator);
    }
}

pub(crate) fn onnx_classifiers() -> Vec<Vec<u8>> {
    vec![golden!("gafi-onnx", "classifier.onnx"), golden!("gafi-onnx", "bad_nan.onnx")]
}

pub(crate) fn onnx_classifier(input: &[u8]) {
    let artifact = onnx(show(ImportOnnx::classifier(&model(input), Default::default())), "onnx-classifier");
    if let Some(scorer) = artifact.and_then(|artifact| show(cx().models.open_scorer(&artifact))) {
        score(scorer);
    }
}

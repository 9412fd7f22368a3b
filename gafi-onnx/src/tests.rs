//! Files exported by PyTorch, compared with PyTorch's outputs (by `tests/goldens/export.py`); independence of the
//! batch; refused files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gafi_core::stream::below;
use gafi_core::{ClassId, Error, Generator, ImageSpec, Scorer, Stream};
use rayon::ThreadPoolBuilder;
use safetensors::{Dtype, SafeTensors};

use crate::config::{ClassifierConfig, GeneratorConfig, Scores};
use crate::generator::OnnxGenerator;
use crate::model::{FILE, Model};
use crate::scorer::OnnxScorer;

/// Largest difference from PyTorch's values.
const CLOSE: f32 = 1e-4;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(file)
}

fn model(name: &str) -> Model {
    Model::read(&golden(&format!("{name}.onnx"))).unwrap()
}

/// The tensors of a golden file: shape, and values as floats.
fn io(name: &str) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(golden(&format!("{name}_io.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8], dtype: Dtype| -> Vec<f32> {
        match dtype {
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
            other => panic!("{other:?}"),
        }
    };
    file.iter().map(|(name, t)| (name.to_string(), (t.shape().to_vec(), values(t.data(), t.dtype())))).collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|k| format!("class {k}")).collect()
}

fn with_classes(count: usize) -> GeneratorConfig {
    GeneratorConfig { classes: names(count), ..GeneratorConfig::default() }
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn is_not_trivial(values: &[f32]) {
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let spread = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
    assert!(spread > 0.001, "a golden file with almost constant values: {spread}");
}

/// Asserts that the images generated from a golden file's latents and labels equal PyTorch's.
fn generates(generator: &OnnxGenerator, name: &str, [z, y, images]: [&str; 3]) {
    let io = io(name);
    let ((_, z), (labels, y), (shape, expected)) = (&io[z], &io[y], &io[images]);
    is_not_trivial(expected);
    let each = expected.len() / shape[0];
    let latents = z.chunks(generator.latent_dim());
    for (row, (z, expected)) in latents.zip(expected.chunks(each)).enumerate() {
        let class = match labels[..] {
            [_, classes] => y[row * classes..][..classes].iter().position(|v| *v == 1.0).unwrap(),
            _ => y[row] as usize,
        };
        let off = worst(&generator.values(z, ClassId(class as u32)).unwrap(), expected);
        assert!(off <= CLOSE, "{name}, row {row}: {off}");
    }
}

#[test]
fn generators_equal_pytorch() {
    let biggan = OnnxGenerator::new(&model("biggan"), &with_classes(3)).unwrap();
    assert_eq!((*biggan.image(), biggan.latent_dim()), (ImageSpec::new(3, 16, 16), 6));
    generates(&biggan, "biggan", ["z", "y", "images"]);
    biggan.check_samples(&model("biggan")).unwrap();

    // One-hot labels, weights in a second file, a fixed batch of two.
    let dcgan = model("dcgan");
    assert_eq!(dcgan.files.keys().collect::<Vec<_>>(), ["dcgan.onnx.data", FILE]);
    assert_eq!(dcgan.inputs.iter().map(|port| port.batch).collect::<Vec<_>>(), [Some(2); 2]);
    let config = GeneratorConfig { range: [0.0, 1.0], ..GeneratorConfig::default() };
    let generator = OnnxGenerator::new(&dcgan, &config).unwrap();
    assert_eq!(
        (generator.image(), generator.classes()),
        (&ImageSpec::new(1, 16, 16), &["0", "1"].map(String::from)[..])
    );
    generates(&generator, "dcgan", ["noise", "label", "out"]);
    generator.check_samples(&dcgan).unwrap();

    let stylegan = OnnxGenerator::new(&model("stylegan"), &with_classes(4)).unwrap();
    generates(&stylegan, "stylegan", ["z", "y", "images"]);
}

#[test]
fn classifiers_equal_pytorch() {
    let model = model("classifier");
    // The golden images are normalised already, so they are mapped back to pixels.
    let config =
        ClassifierConfig { mean: vec![0.5, 0.4, 0.3], std: vec![0.2, 0.25, 0.3], ..ClassifierConfig::default() };
    let mut scorer = OnnxScorer::new(&model, &config).unwrap();
    scorer.check_scores(&model).unwrap();
    let io = io("classifier");
    let ((shape, x), (_, logits), (features, expected)) = (&io["x"], &io["logits"], &io["features"]);
    is_not_trivial(logits);
    let plane = shape[2] * shape[3];
    let back = |(k, v): (usize, &f32)| {
        let channel = k / plane % shape[1];
        (255.0 * (f64::from(*v) * config.std[channel] + config.mean[channel])).round() as u8
    };
    let pixels: Vec<u8> = x.iter().enumerate().map(back).collect();
    let scored = scorer.score_with_features(&pixels).unwrap();
    assert_eq!((scorer.feature_dim(), scorer.classes()), (Some(features[1]), 3));
    assert!(worst(&scored.features, expected) <= CLOSE);
    for (found, logits) in scored.probabilities.chunks(3).zip(logits.chunks(3)) {
        let sum: f32 = logits.iter().map(|l| l.exp()).sum();
        let expected: Vec<f32> = logits.iter().map(|l| l.exp() / sum).collect();
        assert!(worst(found, &expected) <= CLOSE, "{found:?} {expected:?}");
    }
    assert_eq!(scorer.score(&pixels).unwrap(), scored.probabilities);

    // Another output by name; logits are refused as probabilities.
    let config = ClassifierConfig { scores: Some("features".into()), ..ClassifierConfig::default() };
    let other = OnnxScorer::new(&model, &config).unwrap();
    assert_eq!((other.classes(), other.feature_dim()), (16, None));
    let config = ClassifierConfig { gives: Scores::Probabilities, ..ClassifierConfig::default() };
    let error = OnnxScorer::new(&model, &config).unwrap().score(&pixels).unwrap_err();
    assert!(matches!(error, Error::Config { .. }) && error.to_string().contains("expected logits"), "{error}");
}

#[test]
fn samples_depend_on_neither_batch_nor_threads() {
    for (name, config) in
        [("biggan", with_classes(3)), ("dcgan", GeneratorConfig::default()), ("stylegan", with_classes(4))]
    {
        let mut generator = OnnxGenerator::new(&model(name), &config).unwrap();
        let d = generator.latent_dim();
        let n = 7;
        let bytes = generator.image().bytes();
        let mut rng = Stream::new(5).rng();
        let latents: Vec<f32> = (0..n * d).map(|_| below(&mut rng, 1000) as f32 / 250.0 - 2.0).collect();
        let classes = generator.classes().len();
        let labels: Vec<ClassId> = (0..n).map(|k| ClassId((k % classes) as u32)).collect();
        let one = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let three = ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let together = one.install(|| generator.generate(&latents, &labels)).unwrap();
        assert_eq!(three.install(|| generator.generate(&latents, &labels)).unwrap(), together, "{name}");
        for k in (0..n).rev() {
            let alone = generator.generate(&latents[k * d..(k + 1) * d], &labels[k..=k]).unwrap();
            assert_eq!(alone, together[k * bytes..(k + 1) * bytes], "{name}, sample {k}");
        }
    }
    let mut scorer = OnnxScorer::new(&model("classifier"), &ClassifierConfig::default()).unwrap();
    let bytes = scorer.image().bytes();
    let mut rng = Stream::new(6).rng();
    let pixels: Vec<u8> = (0..5 * bytes).map(|_| below(&mut rng, 256) as u8).collect();
    let together = scorer.score_with_features(&pixels).unwrap();
    for (k, image) in pixels.chunks(bytes).enumerate() {
        let alone = scorer.score_with_features(image).unwrap();
        assert_eq!(alone.probabilities, together.probabilities[k * 3..][..3]);
        assert_eq!(alone.features, together.features[k * 16..][..16]);
    }
}

#[test]
fn the_range_maps_values_to_pixels() {
    let generator = OnnxGenerator::new(&model("biggan"), &with_classes(3)).unwrap();
    assert_eq!(generator.pixels(&[-1.0, 1.0, 0.0, 0.004, -7.0, 7.0]), [0, 255, 128, 128, 0, 255]);
    let config = GeneratorConfig { range: [0.0, 1.0], ..with_classes(3) };
    let generator = OnnxGenerator::new(&model("biggan"), &config).unwrap();
    assert_eq!(generator.pixels(&[0.0, 1.0, 0.5, 0.2]), [0, 255, 128, 51]);
    let config = GeneratorConfig { range: [100.0, 101.0], ..with_classes(3) };
    let generator = OnnxGenerator::new(&model("biggan"), &config).unwrap();
    let error = generator.check_samples(&model("biggan")).unwrap_err().to_string();
    assert!(error.starts_with("range = [100.0, 101.0]: expected") && error.contains("have values from -"), "{error}");
}

/// The error with which a generator file is refused, if not on reading then on checking its first samples.
fn refused(name: &str, config: &GeneratorConfig) -> String {
    let done = Model::read(&golden(&format!("{name}.onnx")))
        .and_then(|model| OnnxGenerator::new(&model, config).and_then(|generator| generator.check_samples(&model)));
    done.unwrap_err().to_string()
}

#[test]
fn files_that_are_not_generators_are_refused() {
    let plain = GeneratorConfig::default();
    let says = |name: &str, config: &GeneratorConfig, parts: &[&str]| {
        let text = refused(name, config);
        assert!(parts.iter().all(|part| text.contains(part)), "{name}: {text}");
    };
    says("bad_random", &plain, &["operators: expected", "without random numbers", "found RandomNormalLike"]);
    says("bad_unknown", &plain, &["operators: expected", "found com.example.Wobble"]);
    says("bad_nan", &plain, &["output images of a sample of class 0", "expected finite values, found -inf at index"]);
    says("bad_shape", &plain, &["output images", "images (N, C, H, W) with 1 or 3 channels, found (N, [4])"]);
    says("bad_deaf", &plain, &["depend on the latents", "the same image for two different latents"]);
    says("classifier", &plain, &["inputs: expected two inputs", "found x F32 (N, 3, 16, 16)"]);
    says("biggan", &plain, &["classes = none", "integer labels"]);
    says("dcgan", &with_classes(3), &["expected 2 names"]);
    let named = |latents: Option<&str>, labels: Option<&str>, images: Option<&str>| {
        let own = |name: Option<&str>| name.map(String::from);
        GeneratorConfig { latents: own(latents), labels: own(labels), images: own(images), ..with_classes(3) }
    };
    says("biggan", &named(Some("latent"), None, None), &["latents = latent", "z F32 (N, 6), y I64 (N)"]);
    says("biggan", &named(Some("y"), None, None), &["latents = y I64 (N)", "an input of type F32"]);
    says("biggan", &named(Some("z"), Some("z"), None), &["labels = z", "another input"]);
    says("biggan", &named(None, None, Some("x")), &["images = x", "an output of the file, one of images"]);
    // More class names than rows of the embedding.
    says("biggan", &with_classes(9), &["a sample of class 8", "the ONNX runtime can compute"]);
    let generator = OnnxGenerator::new(&model("biggan"), &named(Some("z"), Some("y"), Some("images")));
    let mut generator = generator.unwrap();
    for (latents, label) in [(&[0.0; 5][..], 0), (&[0.0; 6][..], 3), (&[f32::NAN; 6][..], 0)] {
        assert!(matches!(generator.generate(latents, &[ClassId(label)]), Err(Error::Config { .. })));
    }
}

#[test]
fn damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("g.onnx");
    let says = |expected: &str| {
        let text = Model::read(&path).and_then(|m| OnnxGenerator::new(&m, &GeneratorConfig::default())).unwrap_err();
        assert!(text.to_string().contains(expected), "{text}");
    };
    says("g.onnx");
    std::fs::write(&path, "nothing of the kind").unwrap();
    says("g.onnx: content: expected an ONNX model");
    std::fs::write(&path, "").unwrap();
    says("found no graph");
    // The weights' file is missing, then too short.
    let bytes = std::fs::read(golden("dcgan.onnx")).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    says("cannot read the weights of the model from");
    std::fs::write(dir.path().join("dcgan.onnx.data"), [0; 10]).unwrap();
    says("in dcgan.onnx.data, found 10 bytes");
    // A path outside the folder is never opened. It has the same length, so the file stays valid.
    let name = b"dcgan.onnx.data";
    let mut out = bytes.clone();
    let places: Vec<usize> = (0..out.len() - name.len()).filter(|k| out[*k..].starts_with(name)).collect();
    places.iter().for_each(|k| out[*k..k + name.len()].copy_from_slice(b"../../../secret"));
    std::fs::write(&path, &out).unwrap();
    says("external data: expected weights in the file itself, or in a file next to it");
    // Truncated anywhere before the list of opset versions at its end.
    for end in (0..bytes.len() - 40).step_by(bytes.len() / 40) {
        std::fs::write(&path, &bytes[..end]).unwrap();
        assert!(Model::read(&path).is_err(), "cut after {end} bytes");
    }
}

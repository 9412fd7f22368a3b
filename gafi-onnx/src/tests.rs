//! Files exported by PyTorch, compared with PyTorch's outputs (by `tests/goldens/export.py`); independence of the
//! batch; refused files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gafi_core::stream::below;
use gafi_core::{ClassId, Error, Generator, ImageSpec, Scorer, Stream};
use rayon::ThreadPoolBuilder;
use safetensors::{Dtype, SafeTensors};

use crate::config::{ClassifierConfig, GeneratorConfig, Scores};
use crate::fuse::fuse;
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
            Dtype::I32 => data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
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
fn generates(generator: &OnnxGenerator, name: &str, names: [&str; 3]) {
    equal(generator, &io(name), names);
}

fn equal(generator: &OnnxGenerator, io: &BTreeMap<String, (Vec<usize>, Vec<f32>)>, [z, y, images]: [&str; 3]) {
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
        assert!(off <= CLOSE, "row {row}: {off}");
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
    let config = GeneratorConfig::default();
    let generator = OnnxGenerator::new(&dcgan, &config).unwrap();
    assert_eq!(generator.guesses(&config).len(), 1);
    assert_eq!(generator.architecture.range, [0.0, 1.0]);
    assert_eq!(
        (generator.image(), generator.classes()),
        (&ImageSpec::new(1, 16, 16), &["0", "1"].map(String::from)[..])
    );
    generates(&generator, "dcgan", ["noise", "label", "out"]);
    generator.check_samples(&dcgan).unwrap();

    let stylegan = OnnxGenerator::new(&model("stylegan"), &with_classes(4)).unwrap();
    generates(&stylegan, "stylegan", ["z", "y", "images"]);

    let channels_last = OnnxGenerator::new(&model("channels_last"), &with_classes(3)).unwrap();
    assert_eq!(channels_last.image(), &ImageSpec::new(3, 12, 12));
    assert_eq!(channels_last.guesses(&with_classes(3)), ["images (N, 12, 12, 3): read as 3x12x12, channels last"]);
    // The golden file has the channels last.
    let mut io = io("channels_last");
    let (shape, images) = &io["images"];
    let first: Vec<f32> = images
        .chunks(12 * 12 * 3)
        .flat_map(|image| (0..3).flat_map(|c| image.iter().skip(c).step_by(3)))
        .copied()
        .collect();
    let shape = vec![shape[0], 3, 12, 12];
    io.insert("images".into(), (shape, first));
    equal(&channels_last, &io, ["z", "y", "images"]);
    channels_last.check_samples(&model("channels_last")).unwrap();
}

#[test]
fn flat_images_and_constants_equal_pytorch() {
    let flat = model("flat");
    let constants = BTreeMap::from([("psi".to_string(), f64::from(0.7f32))]);
    let config = GeneratorConfig { constants, ..with_classes(3) };
    // Labels come first, and are those of as many values as there are classes.
    let generator = OnnxGenerator::new(&flat, &config).unwrap();
    assert_eq!((generator.image(), generator.latent_dim()), (&ImageSpec::new(1, 6, 6), 5));
    let guesses = generator.guesses(&config);
    assert_eq!(guesses[0], "images (N, 36): read as 1x6x6");
    assert!(guesses[1].starts_with("range: black is 0 and white 1"), "{guesses:?}");
    generates(&generator, "flat", ["noise", "label", "out"]);
    generator.check_samples(&flat).unwrap();
    let explicit = GeneratorConfig { shape: Some([1, 4, 9]), range: Some([0.0, 1.0]), ..config.clone() };
    let other = OnnxGenerator::new(&flat, &explicit).unwrap();
    assert_eq!((*other.image(), other.guesses(&explicit)), (ImageSpec::new(1, 4, 9), vec![]));
    generates(&other, "flat", ["noise", "label", "out"]);
    // Another constant gives other images.
    let half = GeneratorConfig { constants: BTreeMap::from([("psi".to_string(), 0.5)]), ..config.clone() };
    let half = OnnxGenerator::new(&flat, &half).unwrap();
    let values = |generator: &OnnxGenerator| generator.values(&[1.0; 5], ClassId(1)).unwrap();
    assert_ne!(values(&half), values(&generator));

    let says = |constants: &[(&str, f64)], part: &str| {
        let constants = constants.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        let error =
            OnnxGenerator::new(&flat, &GeneratorConfig { constants, ..with_classes(3) }).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    says(&[], "found label F32 (N, 3), noise F32 (N, 5), psi F32 ()");
    says(&[], "give others a value with `constants`");
    says(&[("phi", 1.0)], "constants.phi = phi: expected an input of the file, one of label F32 (N, 3)");
    says(&[("psi", f64::NAN)], "constants.psi = NaN: expected a finite number");
    says(&[("psi", 1.0), ("noise", 1.0)], "inputs: expected two inputs");

    let model = model("flat_classifier");
    let constants = BTreeMap::from([("temperature".to_string(), 0.5)]);
    let config = ClassifierConfig { constants, ..ClassifierConfig::default() };
    let mut scorer = OnnxScorer::new(&model, &config).unwrap();
    scorer.check_scores(&model).unwrap();
    assert_eq!(
        (scorer.image(), scorer.arrangement.guess.as_deref()),
        (&ImageSpec::new(1, 6, 6), Some("images (N, 36): read as 1x6x6"))
    );
    let io = io("flat_classifier");
    let pixels: Vec<u8> = io["x"].1.iter().map(|v| (v * 255.0).round() as u8).collect();
    let found = scorer.score(&pixels).unwrap();
    for (found, logits) in found.chunks(3).zip(io["logits"].1.chunks(3)) {
        let sum: f32 = logits.iter().map(|l| l.exp()).sum();
        assert!(worst(found, &logits.iter().map(|l| l.exp() / sum).collect::<Vec<_>>()) <= CLOSE);
    }
}

#[test]
fn upsampling_is_fused_with_the_convolution_after_it() {
    let mut graph = model("channels_last").proto.graph.unwrap();
    fuse(&mut graph, 18);
    let count = |op: &str| graph.node.iter().filter(|node| node.op_type == op).count();
    // Two upsamplings, and a last convolution to three channels.
    assert_eq!((count("ConvTranspose"), count("Conv")), (3, 0));
    // Bilinear upsampling is not repetition.
    let mut graph = model("stylegan").proto.graph.unwrap();
    fuse(&mut graph, 18);
    let transposed = graph.node.iter().filter(|node| node.op_type == "ConvTranspose").count();
    assert_eq!(transposed, 1, "the last convolution");
}

#[test]
fn every_position_in_a_batch_gives_the_same_bits() {
    let psi = GeneratorConfig { constants: [("psi".to_string(), 1.0)].into(), ..with_classes(3) };
    let mut fixed = model("flat");
    fixed.inputs.iter_mut().filter(|port| !port.scalar).for_each(|port| port.batch = Some(2));
    for (name, model, config, together) in [
        ("flat", model("flat"), psi.clone(), 16),
        ("flat in pairs", fixed, psi, 2),
        ("channels_last", model("channels_last"), with_classes(3), 16),
        // Instance norm, softmax, sums.
        ("dcgan", model("dcgan"), with_classes(2), 1),
        ("biggan", model("biggan"), with_classes(3), 1),
        ("stylegan", model("stylegan"), with_classes(4), 1),
    ] {
        let generator = OnnxGenerator::new(&model, &config).unwrap();
        assert_eq!(generator.network.samples, together, "{name}");
        let d = generator.latent_dim();
        let mut rng = Stream::new(7).rng();
        let mut draw =
            |n: usize| -> Vec<f32> { (0..n * d).map(|_| below(&mut rng, 1000) as f32 / 250.0 - 2.0).collect() };
        let sample = draw(1);
        let alone = generator.values(&sample, ClassId(1)).unwrap();
        for batch in [2, 16, 17, 33] {
            for place in 0..batch {
                let mut latents = draw(batch);
                latents[place * d..][..d].copy_from_slice(&sample);
                let mut labels = vec![ClassId(0); batch];
                labels[place] = ClassId(1);
                let found = &generator.all_values(&latents, &labels).unwrap()[place];
                let same = found.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same && found.len() == alone.len(), "{name}: place {place} of {batch}");
            }
        }
    }
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
    let config = GeneratorConfig { range: Some([0.0, 1.0]), ..with_classes(3) };
    let generator = OnnxGenerator::new(&model("biggan"), &config).unwrap();
    assert_eq!(generator.pixels(&[0.0, 1.0, 0.5, 0.2]), [0, 255, 128, 51]);
    let config = GeneratorConfig { range: Some([100.0, 101.0]), ..with_classes(3) };
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
    let seven = GeneratorConfig { shape: Some([1, 1, 7]), ..GeneratorConfig::default() };
    says("bad_shape", &seven, &["shape = [1, 1, 7]", "[channels, height, width] of images (N, 4)"]);
    says("bad_deaf", &plain, &["depend on the latents", "the same image for two different latents"]);
    says("classifier", &plain, &["inputs: expected two inputs", "found x F32 (N, 3, 16, 16)"]);
    says("biggan", &plain, &["classes = none", "class numbers"]);
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

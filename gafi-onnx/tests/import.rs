//! The import stages and their artifacts.

use std::path::{Path, PathBuf};

use gafi_core::{Artifact, ClassId, Context, GeneratorInfo, Inputs, Kind, ModelLoaders, Stage, execute};
use gafi_onnx::{ClassifierConfig, GeneratorConfig, ImportOnnx, OnnxGenerator, register};

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(file)
}

fn make(stage: &dyn Stage, dest: &Path) -> Artifact {
    execute(stage, &Inputs::new(), dest, &Context::default()).unwrap();
    Artifact::open(dest).unwrap()
}

#[test]
fn a_generator_artifact_is_self_contained() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["dcgan.onnx", "dcgan.onnx.data"] {
        std::fs::copy(golden(file), dir.path().join(file)).unwrap();
    }
    let config = GeneratorConfig { range: Some([0.0, 1.0]), step: 70, ..GeneratorConfig::default() };
    let stage = || ImportOnnx::generator(&dir.path().join("dcgan.onnx"), config.clone()).unwrap();
    let made = make(&stage(), &dir.path().join("generator"));
    made.verify().unwrap();
    assert_eq!(made.kind(), Kind::Generator);
    assert_eq!(made.manifest().files.keys().collect::<Vec<_>>(), ["dcgan.onnx.data", "model.onnx"]);
    let info: GeneratorInfo = made.content().unwrap();
    let names = ["latents", "labels", "images"].map(|key| info.architecture.options[key].as_str().unwrap());
    assert_eq!((names, info.checkpoints[0].step), (["noise", "label", "out"], 70));
    // The name of the file does not matter; the weights do.
    std::fs::copy(dir.path().join("dcgan.onnx"), dir.path().join("copy.onnx")).unwrap();
    let copy = ImportOnnx::generator(&dir.path().join("copy.onnx"), config.clone()).unwrap();
    assert_eq!(make(&copy, &dir.path().join("again")).id(), made.id());
    let mut weights = std::fs::read(golden("dcgan.onnx.data")).unwrap();
    weights[3] ^= 1;
    std::fs::write(dir.path().join("dcgan.onnx.data"), &weights).unwrap();
    assert_ne!(stage().config(), copy.config());

    // Without the original files, and after a move.
    for file in ["dcgan.onnx", "copy.onnx", "dcgan.onnx.data"] {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    let moved = dir.path().join("moved");
    std::fs::rename(made.path(), &moved).unwrap();
    let moved = Artifact::open(moved).unwrap();
    let mut generator = register(ModelLoaders::default()).open_generator(&moved, Some(70)).unwrap();
    let image = generator.generate(&[0.5; 5], &[ClassId(1)]).unwrap();
    assert_eq!(image.len(), 16 * 16);
    assert!(OnnxGenerator::open(&moved, Some(71)).unwrap_err().to_string().contains("checkpoint = 71"));
    // Modified weights are refused.
    std::fs::write(moved.path().join("dcgan.onnx.data"), &weights).unwrap();
    assert!(OnnxGenerator::open(&moved, None).unwrap_err().to_string().contains("expected BLAKE3"));
}

#[test]
fn guesses_and_constants_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let classes = ["a", "b", "c"].map(String::from).to_vec();
    let config = GeneratorConfig { classes, constants: [("psi".into(), 0.5)].into(), ..GeneratorConfig::default() };
    let made = make(&ImportOnnx::generator(&golden("flat.onnx"), config.clone()).unwrap(), &dir.path().join("flat"));
    let info: GeneratorInfo = made.content().unwrap();
    let options = serde_json::to_value(&info.architecture.options).unwrap();
    let expected = serde_json::json!({
        "latents": "noise", "labels": "label", "images": "out", "range": [0.0, 1.0],
        "layout": "nchw", "shape": [1, 6, 6], "constants": { "psi": 0.5 },
    });
    assert_eq!(options, expected);
    let mut generator = register(ModelLoaders::default()).open_generator(&made, None).unwrap();
    assert_eq!(generator.generate(&[0.5; 10], &[ClassId(1), ClassId(2)]).unwrap().len(), 72);
    let config = GeneratorConfig { constants: Default::default(), ..config };
    let stage = ImportOnnx::generator(&golden("channels_last.onnx"), config).unwrap();
    let info: GeneratorInfo = make(&stage, &dir.path().join("last")).content().unwrap();
    assert_eq!(info.architecture.options["layout"], "nhwc");
}

#[test]
fn a_teacher_keeps_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let config = ClassifierConfig {
        mean: vec![0.5, 0.4, 0.3],
        std: vec![0.2],
        classes: ["a", "b", "c"].map(String::from).to_vec(),
        ..ClassifierConfig::default()
    };
    let made = make(&ImportOnnx::classifier(&golden("classifier.onnx"), config).unwrap(), &dir.path().join("teacher"));
    assert_eq!(made.kind(), Kind::Classifier);
    let loaders = register(ModelLoaders::default());
    let mut scorer = loaders.open_scorer(&made).unwrap();
    assert_eq!((scorer.classes(), scorer.feature_dim()), (3, Some(16)));
    let scored = scorer.score(&vec![90; scorer.image().bytes()]).unwrap();
    assert!((scored.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    let plain = ImportOnnx::classifier(&golden("classifier.onnx"), ClassifierConfig::default()).unwrap();
    let plain = make(&plain, &dir.path().join("plain"));
    let other = loaders.open_scorer(&plain).unwrap().score(&vec![90; scorer.image().bytes()]).unwrap();
    assert_ne!(other, scored);
    assert!(OnnxGenerator::open(&made, None).unwrap_err().to_string().contains("expected generator, found classifier"));
}

#[test]
fn a_refused_file_leaves_no_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("generator");
    let stage = ImportOnnx::generator(&golden("bad_nan.onnx"), GeneratorConfig::default()).unwrap();
    execute(&stage, &Inputs::new(), &dest, &Context::default()).unwrap_err();
    assert!(!dest.exists());
    assert!(ImportOnnx::generator(&golden("bad_random.onnx"), GeneratorConfig::default()).is_err());
}

//! Compares imported StudioGAN generators with PyTorch, and tests the errors of the import. The expected values come
//! from `tests/goldens/studiogan.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use gafi_core::*;
use gafi_gan::import::{Imported, state_dict, studiogan};
use gafi_gan::networks::{Form, GeneratorNet, Pass};
use gafi_gan::*;
use gafi_nn::{Params, checkpoint};

type Tensors = BTreeMap<String, Tensor>;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(file)
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Runs the imported network on the golden's latents and labels and compares the images with PyTorch's.
fn equals_pytorch(imported: &Imported, name: &str) {
    let io =
        checkpoint::bytes_to_tensors(&std::fs::read(golden(&format!("{name}_io.safetensors"))).unwrap(), &Device::Cpu)
            .unwrap();
    let mut params = Params::new(&Device::Cpu, Stream::new(1));
    let Imported { architecture, image, classes, weights, .. } = imported;
    let net = GeneratorNet::new(params.root(), architecture, image, *classes, Form::Inference).unwrap();
    params.load(weights).unwrap();
    let images = net.forward(&io["z"], &io["y"].to_dtype(DType::U32).unwrap(), Pass::EVAL).unwrap();
    assert_eq!(images.dims(), io["images"].dims());
    let expected = flat(&io["images"]);
    let spread = expected.iter().map(|v| v * v).sum::<f32>() / expected.len() as f32;
    assert!((0.05..0.8).contains(&spread), "golden images with too little or too much contrast: {spread}");
    let worst = flat(&images).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-4, "{name}: {worst}");
}

fn read(path: &Path) -> Result<Tensors> {
    state_dict::read(&[path.into()], None, &studiogan::SOME)
}

fn imported(file: &str) -> Imported {
    studiogan::generator(&golden(file), &read(&golden(file)).unwrap()).unwrap()
}

#[test]
fn biggan_deep_is_read_off_its_shapes_and_equals_pytorch() {
    let deep = imported("studiogan_deep.safetensors");
    let config = BigGanConfig { ch: 4, depth: 2, z: 3, shared: 2 };
    assert_eq!(
        (&deep.architecture, deep.image, deep.classes),
        (&Architecture::BigGanDeep(config.clone()), ImageSpec::new(3, 32, 32), 2)
    );
    equals_pytorch(&deep, "studiogan_deep");

    // For 64 pixels, stored in half precision.
    let deep = imported("studiogan_deep64.safetensors");
    let config = BigGanConfig { z: 2, shared: 1, ..config };
    assert_eq!((&deep.architecture, deep.image.height), (&Architecture::BigGanDeep(config), 64));
    equals_pytorch(&deep, "studiogan_deep64");
}

#[test]
fn biggan_equals_pytorch_from_safetensors_and_from_pth() {
    let plain = imported("studiogan_biggan.safetensors");
    let config = PlainBigGanConfig { z: 8, shared: 3, widths: vec![16; 4], attention: vec![2] };
    assert_eq!((&plain.architecture, plain.classes), (&Architecture::PlainBigGan(config), 3));
    equals_pytorch(&plain, "studiogan_biggan");

    let pickled = imported("studiogan_biggan.pth");
    assert_eq!(pickled.architecture, plain.architecture);
    assert_eq!(pickled.weights.keys().collect::<Vec<_>>(), plain.weights.keys().collect::<Vec<_>>());
    for (name, tensor) in &pickled.weights {
        assert_eq!(flat(tensor), flat(&plain.weights[name]), "{name}");
    }
}

/// The error for the state dict of `file` after a change.
fn error(file: &str, change: impl Fn(&mut Tensors)) -> String {
    let mut state = read(&golden(file)).unwrap();
    change(&mut state);
    studiogan::generator(Path::new("g.pth"), &state).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn missing_misshapen_and_unknown_tensors_are_listed() {
    let plain = "studiogan_biggan.safetensors";
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let text = error(plain, |state| {
        state.remove("blocks.1.0.bn2.gain.weight_u");
        state.remove("bn4.running_mean");
        state.insert("blocks.2.0.sigma".into(), zeros(&[3]));
        state.insert("info_mix_linear.bias".into(), zeros(&[7]));
        state.insert("bn4.bias".into(), Tensor::full(f32::NAN, 16, &Device::Cpu).unwrap());
    });
    for part in [
        "g.pth: state dict: expected the tensors of a generator of 3x32x32 images in 3 classes",
        "\"widths\":[16,16,16,16]",
        "missing: blocks.1.0.bn2.gain.weight_u [16], bn4.running_mean [16]; ",
        "wrong shape: blocks.2.0.sigma [3], expected [1]; ",
        "unknown (InfoGAN's inputs are not supported): info_mix_linear.bias [7]; ",
        "not finite: bn4.bias",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // Long lists are shortened.
    let text = error("studiogan_deep.safetensors", |state| state.retain(|name, _| !name.ends_with("weight_v")));
    assert!(text.contains("blocks.0.0.conv2d0.weight_v [16]") && text.contains("more"), "{text}");
}

#[test]
fn unsupported_generators_are_refused_with_the_reason() {
    let deep = "studiogan_deep.safetensors";
    let text = error(deep, |state| drop(state.remove("shared.weight")));
    assert!(text.contains("shared.weight: expected the shared embedding of the classes (without one"), "{text}");
    assert!(text.contains("no such tensor beside blocks.0.0.bn1.bias.weight_orig, "), "{text}");
    let text = error(deep, |state| state.retain(|name, _| !name.contains("conv2d0")));
    assert!(text.contains("big_resnet_deep_legacy has none and is not supported"), "{text}");
    let text = error(deep, |state| state.retain(|name, _| !name.contains("conv1x1_") && !name.ends_with("sigma")));
    assert!(text.contains("attention before the last stage") && text.contains("after [] blocks"), "{text}");
    let text = error("studiogan_biggan.safetensors", |state| {
        let first = state["blocks.0.0.conv2d0.weight_orig"].clone();
        state.insert("blocks.1.0.conv2d0.weight_orig".into(), first.narrow(1, 0, 8).unwrap());
    });
    assert!(text.contains("each starting with the channels of the one before") && text.contains("(8, 16)"), "{text}");
}

#[test]
fn a_generator_is_found_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.safetensors");
    let state = read(&golden("studiogan_biggan.safetensors")).unwrap();
    let write = |parts: &[(&str, &Tensors)]| {
        let mut all = Tensors::new();
        for (prefix, part) in parts {
            all.extend(part.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())));
        }
        std::fs::write(&path, checkpoint::tensors_to_bytes(&all).unwrap()).unwrap();
    };
    let with = |key: Option<&str>| state_dict::read(std::slice::from_ref(&path), key, &studiogan::SOME);
    let bias = |state: &Tensors| flat(&state["bn4.bias"]);
    let mut average = state.clone();
    average.insert("bn4.bias".into(), Tensor::zeros(16, DType::F32, &Device::Cpu).unwrap());
    for prefix in ["module.", "_orig_mod.", "module._orig_mod.", "generator.", "model.netG.module."] {
        write(&[(prefix, &state)]);
        assert_eq!(with(None).unwrap().len(), state.len(), "{prefix}");
    }
    // Of several networks an average comes first; a discriminator is not one of them.
    let judge: Tensors = [("blocks.0.0.conv2d1.weight".to_string(), state["bn4.bias"].clone())].into();
    for names in [["generator.", "g_ema."], ["", "ema.module."], ["a.", "model_EMA."], ["g.", "netG-avg."]] {
        write(&[(names[0], &state), (names[1], &average), ("discriminator.", &judge)]);
        assert_eq!(bias(&with(None).unwrap()), [0.0; 16], "{names:?}");
        // The key of the top level is empty.
        let other = with(Some(names[0].trim_end_matches('.'))).unwrap();
        assert_eq!(bias(&other), bias(&state), "{names:?}");
    }
    write(&[("generator.", &state), ("g_ema.", &average), ("discriminator.", &judge)]);
    let error = with(Some("netG")).unwrap_err().to_string();
    assert!(error.starts_with("key = netG: expected a network of "), "{error}");
    assert!(error.ends_with(r#"all.safetensors: "g_ema", "generator""#), "{error}");
    // What the file has is listed.
    write(&[("d.", &judge), ("model.0.", &[("weight".to_string(), state["bn4.bias"].clone())].into())]);
    let error = with(None).unwrap_err().to_string();
    let part = "expected a state dict with some of the tensors shared.weight, ";
    assert!(error.contains(part) && error.ends_with("found d.blocks.0.0.conv2d1.weight, model.0.weight"), "{error}");
}

#[test]
fn weights_without_spectral_norm_are_copied() {
    let file = golden("studiogan_biggan.safetensors");
    let mut state = read(&file).unwrap();
    let whole = studiogan::generator(&file, &state).unwrap();
    let name = "blocks.3.0.conv2d2.weight";
    for end in ["_orig", "_u", "_v"] {
        state.remove(&format!("{name}{end}"));
    }
    state.insert(name.into(), whole.weights["stage2.block.conv1.weight"].clone());
    equals_pytorch(&studiogan::generator(&file, &state).unwrap(), "studiogan_biggan");
}

#[test]
fn an_imported_generator_is_an_artifact_like_a_trained_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = |classes: &[&str]| ImportGeneratorConfig {
        from: Origin::Studiogan,
        files: vec![golden("studiogan_biggan.pth")],
        classes: classes.iter().map(|name| name.to_string()).collect(),
        step: 700,
        key: None,
    };
    let import = |classes: &[&str], to: &str| {
        let stage = ImportGenerator::new(config(classes), &Device::Cpu)?;
        execute(&stage, &Inputs::new(), &dir.path().join(to), &Context::default())
    };
    let made = import(&["cat", "dog", "eel"], "gan").unwrap();
    made.artifact.verify().unwrap();
    let manifest = serde_json::to_value(made.artifact.manifest()).unwrap();
    let source = &manifest["made_by"]["config"]["files"][0];
    let hash = hash_file(&golden("studiogan_biggan.pth")).unwrap();
    assert_eq!(
        (&source["name"], &source["blake3"]),
        (&"studiogan_biggan.pth".into(), &hash.blake3.into()),
        "{manifest}"
    );
    assert_eq!(manifest["content"]["architecture"]["name"], "biggan");
    assert!(import(&["cat", "dog", "eel"], "gan").unwrap().cached);
    assert!(import(&[], "gan").unwrap_err().to_string().contains("holds another result"));

    // Through the loaders, as every stage gets it: the pixels are PyTorch's.
    let loaders = register(ModelLoaders::default(), &Device::Cpu);
    let io = std::fs::read(golden("studiogan_biggan_io.safetensors")).unwrap();
    let io = checkpoint::bytes_to_tensors(&io, &Device::Cpu).unwrap();
    let labels: Vec<_> = io["y"].to_dtype(DType::U32).unwrap().to_vec1::<u32>().unwrap();
    let labels: Vec<_> = labels.into_iter().map(ClassId).collect();
    let mut generator = loaders.open_generator(&made.artifact, Some(700)).unwrap();
    assert_eq!((generator.classes()[2].as_str(), generator.latent_dim()), ("eel", 8));
    let pixels = generator.generate(&flat(&io["z"]), &labels).unwrap();
    let expected = gafi_nn::pixels::to_u8(&io["images"]).unwrap();
    assert!(pixels.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1));
    assert_eq!(pixels.len(), expected.len());
    assert_eq!(generator.generate(&flat(&io["z"])[8..], &labels[1..]).unwrap(), pixels[pixels.len() / 2..]);

    let info: GeneratorInfo = made.artifact.content().unwrap();
    let png =
        image::load_from_memory(&made.artifact.read(info.checkpoints[0].samples.as_ref().unwrap()).unwrap()).unwrap();
    assert_eq!((png.width(), png.height()), (34 * 10 + 2, 34 * 3 + 2));

    let error = import(&["cat"], "other").unwrap_err().to_string();
    assert_eq!(error, "classes = cat: expected 3 names, one for each class of the generator");
    assert!(!dir.path().join("other").exists());
}

#[test]
fn biggan_cannot_be_trained() {
    let config = PlainBigGanConfig { z: 8, shared: 3, widths: vec![16; 4], attention: vec![] };
    let config = GanConfig { architecture: Architecture::PlainBigGan(config), ..GanConfig::default() };
    let error = config.check(&ImageSpec::new(3, 32, 32), 3, 100).unwrap_err().to_string();
    assert_eq!(error, "architecture.name = biggan: expected biggan-deep or small; a biggan can only be imported");
}

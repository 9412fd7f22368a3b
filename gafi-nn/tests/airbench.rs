//! The network `airbench`, its whitening and SGD against PyTorch (`goldens/airbench.py`).

mod common;

use candle_core::{Device, Tensor};
use gafi_core::{ClassId, ImageSpec, Learner, MemoryDataset, RunControl, Split, Stream};
use gafi_nn::checkpoint::{bytes_to_tensors, section};
use gafi_nn::layers::Mode;
use gafi_nn::loss::smoothed_cross_entropy;
use gafi_nn::{
    AirbenchConfig, ClassifierArchitecture, ClassifierConfig, ClassifierLearner, ClassifierNet, LookaheadConfig,
    Optimizer, OptimizerKind, Params, Sgd, pixels,
};

use common::{Tensors, assert_close, assert_shown};

const IMAGE: ImageSpec = ImageSpec::new(2, 18, 17);
const CONFIG: AirbenchConfig = AirbenchConfig { width: 8 };

fn goldens() -> Tensors {
    bytes_to_tensors(include_bytes!("goldens/airbench.safetensors"), &Device::Cpu).unwrap()
}

/// The 40 images of the goldens.
fn dataset(goldens: &Tensors) -> MemoryDataset {
    let mut data = MemoryDataset::new(IMAGE, vec!["a".into(), "b".into()], Split::Train);
    let pixels = goldens["pixels"].flatten_all().unwrap().to_vec1::<u8>().unwrap();
    for (i, image) in pixels.chunks(IMAGE.bytes()).enumerate() {
        data.push(image, ClassId(i as u32 % 2));
    }
    data
}

/// The network of the goldens, whitened by their images.
fn network(goldens: &Tensors) -> (Params, ClassifierNet) {
    let mut params = Params::new(&Device::Cpu, Stream::new(1));
    let net = ClassifierNet::new(&mut params.root(), &CONFIG.into(), &IMAGE, 5).unwrap();
    let rows: Vec<usize> = (0..40).collect();
    net.prepare(&dataset(goldens), &rows).unwrap();
    let mut state = params.state().unwrap();
    state.extend(section(goldens, "initial"));
    params.load(&state).unwrap();
    (params, net)
}

/// Images and labels of step `step`.
fn batch(goldens: &Tensors, step: usize) -> (Tensor, Vec<u32>) {
    let images = goldens["pixels"].narrow(0, 8 * step, 8).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let labels = goldens["y"].get(step).unwrap().to_vec1::<i64>().unwrap();
    (pixels::to_tensor(&images, &IMAGE, &Device::Cpu).unwrap(), labels.into_iter().map(|l| l as u32).collect())
}

#[test]
fn whitening_logits_and_running_statistics() {
    let goldens = goldens();
    let (params, net) = network(&goldens);
    for name in ["whiten.weight", "whiten.bias"] {
        assert_close(name, &params.state().unwrap()[name], &goldens[name], 1e-4);
    }
    let x = batch(&goldens, 0).0;
    assert_close("train", &net.forward(&x, Mode::Train).unwrap(), &goldens["logits.train"], 1e-4);
    assert_close("eval", &net.forward(&x, Mode::Eval).unwrap(), &goldens["logits.eval"], 1e-4);
}

#[test]
fn gradients_and_sgd() {
    let goldens = goldens();
    let (params, net) = network(&goldens);
    let mut optimizer = Sgd::new(&params, 0.85, true, 2e-3, 64.0).unwrap();
    for (step, lr) in [0.05, 0.05, 0.01].into_iter().enumerate() {
        let (x, y) = batch(&goldens, step);
        let logits = net.forward(&x, Mode::Train).unwrap();
        let grads = smoothed_cross_entropy(&logits, &y, 0.2).unwrap().backward().unwrap();
        if step == 0 {
            let all = params.vars().map(|(name, var)| (name.to_string(), grads.get(var).unwrap().clone())).collect();
            assert_shown(&goldens, "grad", &all, 1e-3);
        }
        optimizer.step(&grads, lr).unwrap();
        if step == 0 {
            assert_shown(&goldens, "sgd1", &params.state().unwrap(), 1e-3);
        }
    }
    assert_shown(&goldens, "sgd3", &params.state().unwrap(), 1e-3);
    assert_shown(&goldens, "momentum3", &section(&optimizer.state().unwrap(), "momentum"), 2e-3);
}

#[test]
fn muon() {
    let goldens = goldens();
    let (params, net) = network(&goldens);
    let config = ClassifierConfig {
        optimizer: OptimizerKind::Muon,
        lr: 0.05,
        momentum: 0.85,
        weight_decay: 2e-3,
        bias_rate: 64.0,
        ..ClassifierConfig::default()
    };
    let mut optimizer = config.optimizer(&params).unwrap();
    // The filters' rate follows the schedule: 0.24 at the highest rate of the others, 0.05.
    for (step, lr) in [0.05, 0.05, 0.1 / 0.24 * 0.05].into_iter().enumerate() {
        let (x, y) = batch(&goldens, step);
        let logits = net.forward(&x, Mode::Train).unwrap();
        let grads = smoothed_cross_entropy(&logits, &y, 0.2).unwrap().backward().unwrap();
        optimizer.step(&grads, lr).unwrap();
        if step == 0 {
            assert_shown(&goldens, "muon1", &params.state().unwrap(), 1e-3);
        }
        // Saved and restored, it goes on with the same buffers.
        let state = optimizer.state().unwrap();
        optimizer = config.optimizer(&params).unwrap();
        optimizer.load(&state).unwrap();
    }
    assert_shown(&goldens, "muon3", &params.state().unwrap(), 1e-3);
}

fn config(epochs: u32) -> ClassifierConfig {
    ClassifierConfig {
        architecture: CONFIG.into(),
        epochs,
        batch: 8,
        lr: 0.3,
        optimizer: OptimizerKind::Sgd,
        bias_rate: 64.0,
        lookahead: Some(LookaheadConfig { every: 3, ..LookaheadConfig::default() }),
        whitening_epochs: 1,
        ..ClassifierConfig::default()
    }
}

fn learner(config: ClassifierConfig) -> ClassifierLearner {
    ClassifierLearner::new(config, IMAGE, 2, 5, &Device::Cpu).unwrap()
}

#[test]
fn a_resumed_training_equals_an_uninterrupted_one() {
    let data = dataset(&goldens());
    let mut whole = learner(config(3));
    let mut cut = learner(config(3));
    for _ in 0..3 {
        whole.train_epoch(&data, &RunControl::default()).unwrap();
        cut.train_epoch(&data, &RunControl::default()).unwrap();
        let snapshot = cut.snapshot().unwrap();
        cut = learner(config(3));
        cut.restore(&snapshot).unwrap();
    }
    assert!(whole.weights().unwrap() == cut.weights().unwrap());
}

#[test]
fn the_whitening_bias_is_trained_in_the_first_epochs_only() {
    let data = dataset(&goldens());
    let bias = |learner: &ClassifierLearner| learner.params().state().unwrap()["whiten.bias"].to_vec1::<f32>().unwrap();
    let mut learner = learner(ClassifierConfig { lookahead: None, ..config(3) });
    let mut seen = Vec::new();
    for _ in 0..3 {
        learner.train_epoch(&data, &RunControl::default()).unwrap();
        seen.push(bias(&learner));
    }
    // In the first epoch it moved away from what whitening sets.
    assert_ne!(seen[0], goldens()["whiten.bias"].to_vec1::<f32>().unwrap());
    assert_eq!((&seen[0], &seen[0]), (&seen[1], &seen[2]));
}

#[test]
fn trained_weights_are_not_whitened_again() {
    let data = dataset(&goldens());
    let mut first = learner(config(1));
    first.train_epoch(&data, &RunControl::default()).unwrap();
    let weights = first.weights().unwrap();
    let mut second = learner(ClassifierConfig { lr: 1e-12, lookahead: None, ..config(1) });
    second.begin_with(&weights).unwrap();
    let mut other = MemoryDataset::new(IMAGE, vec!["a".into(), "b".into()], Split::Train);
    (0..16).for_each(|i| other.push(&[i as u8 * 10; IMAGE.bytes()], ClassId(i % 2)));
    second.train_epoch(&other, &RunControl::default()).unwrap();
    let of = |bytes: &[u8]| {
        let weight = &bytes_to_tensors(bytes, &Device::Cpu).unwrap()["whiten.weight"];
        weight.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(of(&weights), of(&second.weights().unwrap()));
}

#[test]
fn images_must_have_16_pixels_and_widths_a_range() {
    let small = ImageSpec::new(3, 15, 16);
    let config = ClassifierConfig { architecture: CONFIG.into(), ..ClassifierConfig::default() };
    assert!(config.check_data(&small, 2).unwrap_err().to_string().contains("at least 16x16"));
    let narrow = ClassifierArchitecture::Airbench(AirbenchConfig { width: 7 });
    assert!(narrow.check("a").unwrap_err().to_string().contains("a.width = 7"));
}

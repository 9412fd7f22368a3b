//! Compares the network, its gradients and the optimisers with PyTorch. The expected values come from `goldens/nn.py`,
//! in f64.

mod common;

use candle_core::{Device, Tensor};
use gafi_core::{ImageSpec, Stream};
use gafi_kernels::ops;
use gafi_nn::checkpoint::{bytes_to_tensors, section};
use gafi_nn::layers::Mode;
use gafi_nn::loss::smoothed_cross_entropy;
use gafi_nn::{Adam, Ema, Optimizer, Params, ResNet, ResNetConfig, Sgdw};

use common::{Tensors, assert_close, assert_shown};

fn goldens() -> Tensors {
    bytes_to_tensors(include_bytes!("goldens/nn.safetensors"), &Device::Cpu).unwrap()
}

fn network(goldens: &Tensors) -> (Params, ResNet) {
    let mut params = Params::new(&Device::Cpu, Stream::new(1));
    let architecture = ResNetConfig { width: 4, ..Default::default() };
    let net = ResNet::new(&mut params.root(), &architecture, &ImageSpec::new(3, 8, 8), 5).unwrap();
    params.load(&section(goldens, "initial")).unwrap();
    (params, net)
}

/// The images (6, 3, 8, 8) and labels of step `step`.
fn batch(goldens: &Tensors, step: usize) -> (Tensor, Vec<u32>) {
    let labels = goldens["y"].get(step).unwrap().to_vec1::<i64>().unwrap();
    (goldens["x"].get(step).unwrap().contiguous().unwrap(), labels.into_iter().map(|l| l as u32).collect())
}

#[test]
fn logits_and_buffers() {
    let goldens = goldens();
    let (params, net) = network(&goldens);
    let x = batch(&goldens, 0).0.narrow(0, 0, 2).unwrap();
    assert_close("eval", &net.forward(&x, Mode::Eval).unwrap(), &goldens["logits.eval"], 1e-5);
    let before = params.state().unwrap();
    assert_close("buffers before", &before["stem.norm.running_mean"], &goldens["initial.stem.norm.running_mean"], 0.0);
    assert_close("train", &net.forward(&x, Mode::Train).unwrap(), &goldens["logits.train"], 1e-5);
    let after = params.state().unwrap();
    let buffers = section(&goldens, "buffers");
    assert_eq!(buffers.len(), 2 * 19);
    for (name, expected) in buffers {
        assert_close(&name, &after[&name], &expected, 1e-5);
    }
    assert_close("eval after", &net.forward(&x, Mode::Eval).unwrap(), &goldens["logits.eval_after"], 1e-5);
}

#[test]
fn loss_and_gradients() {
    let goldens = goldens();
    let (params, net) = network(&goldens);
    let (x, y) = batch(&goldens, 0);
    let logits = net.forward(&x, Mode::Train).unwrap();
    let smoothed = smoothed_cross_entropy(&logits, &y, 0.1).unwrap();
    assert_close("smoothed loss", &smoothed, &goldens["loss.smoothed"], 1e-5);
    let loss = ops::cross_entropy(&logits, &y).unwrap();
    assert_close("loss", &loss, &goldens["loss"], 1e-5);
    let grads = loss.backward().unwrap();
    let grads = params.vars().map(|(name, var)| (name.to_string(), grads.get(var).unwrap().clone())).collect();
    assert_shown(&goldens, "grad", &grads, 5e-5);
}

/// Runs three steps of `optimizer`, with `look` after each.
fn three_steps(
    goldens: &Tensors,
    net: &ResNet,
    optimizer: &mut dyn Optimizer,
    lr: [f64; 3],
    mut look: impl FnMut(usize, &mut dyn Optimizer),
) {
    for (step, lr) in lr.into_iter().enumerate() {
        let (x, y) = batch(goldens, step);
        let loss = ops::cross_entropy(&net.forward(&x, Mode::Train).unwrap(), &y).unwrap();
        optimizer.step(&loss.backward().unwrap(), lr).unwrap();
        look(step, optimizer);
    }
}

#[test]
fn sgdw_and_ema() {
    let goldens = goldens();
    let (params, net) = network(&goldens);
    let mut optimizer = Sgdw::new(&params, 0.9, true, 1e-3).unwrap();
    let mut ema = Ema::new(&params, 0.8).unwrap();
    three_steps(&goldens, &net, &mut optimizer, [0.05, 0.05, 0.005], |step, _| {
        ema.update(&params, step as u64).unwrap();
        if step == 0 {
            assert_shown(&goldens, "sgdw1", &params.state().unwrap(), 1e-5);
        }
    });
    assert_shown(&goldens, "sgdw3", &params.state().unwrap(), 2e-5);
    assert_shown(&goldens, "momentum3", &section(&optimizer.state().unwrap(), "momentum"), 1e-5);
    assert_shown(&goldens, "ema3", &ema.weights().unwrap(), 1e-5);
}

#[test]
fn adam() {
    let goldens = goldens();
    let (params, net) = network(&goldens);
    let mut optimizer = Adam::new(&params, 0.5, 0.999, 1e-4).unwrap();
    three_steps(&goldens, &net, &mut optimizer, [2e-3; 3], |step, _| {
        if step == 0 {
            assert_shown(&goldens, "adam1", &params.state().unwrap(), 1e-5);
        }
    });
    assert_shown(&goldens, "adam3", &params.state().unwrap(), 2e-5);
}

#[test]
fn an_optimiser_resumes_from_its_state() {
    let goldens = goldens();
    type Make = fn(&Params) -> Box<dyn Optimizer>;
    let kinds: [Make; 2] = [
        |params| Box::new(Sgdw::new(params, 0.9, true, 1e-3).unwrap()),
        |params| Box::new(Adam::new(params, 0.5, 0.999, 1e-6).unwrap()),
    ];
    for make in kinds {
        let (params, net) = network(&goldens);
        let mut optimizer = make(&params);
        let mut kept = None;
        three_steps(&goldens, &net, &mut *optimizer, [0.01; 3], |step, optimizer| {
            if step == 1 {
                kept = Some((params.state().unwrap(), optimizer.state().unwrap()));
            }
        });
        let (weights, state) = kept.unwrap();
        let (other, other_net) = network(&goldens);
        let mut resumed = make(&other);
        other.load(&weights).unwrap();
        resumed.load(&state).unwrap();
        let (x, y) = batch(&goldens, 2);
        let loss = ops::cross_entropy(&other_net.forward(&x, Mode::Train).unwrap(), &y).unwrap();
        resumed.step(&loss.backward().unwrap(), 0.01).unwrap();
        for (name, expected) in params.state().unwrap() {
            assert_close(&name, &other.state().unwrap()[&name], &expected, 0.0);
        }
        let mut short = state.clone();
        short.pop_first();
        assert!(resumed.load(&short).is_err());
    }
}

#[test]
fn gradients_equal_finite_differences() {
    // Central differences through the whole network, including the statistics of its batch norms.
    let goldens = goldens();
    let (params, net) = network(&goldens);
    let (x, y) = batch(&goldens, 1);
    let loss = || ops::cross_entropy(&net.forward(&x, Mode::Train).unwrap(), &y).unwrap();
    let grads = loss().backward().unwrap();
    for name in ["stem.conv.weight", "stage2.0.conv1.weight", "stage3.2.norm2.weight", "head.weight"] {
        let (_, var) = params.vars().find(|(n, _)| *n == name).unwrap();
        // Along the gradient the slope is the gradient's length, which is large compared with rounding errors.
        let grad = grads.get(var).unwrap().detach();
        let length = grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let along = (&grad * (1e-3 / f64::from(length))).unwrap();
        let start = var.as_detached_tensor().copy().unwrap();
        let at = |sign: f64| {
            var.set(&(&start + (&along * sign).unwrap()).unwrap()).unwrap();
            f64::from(loss().to_scalar::<f32>().unwrap())
        };
        let slope = (at(1.0) - at(-1.0)) / 2e-3;
        var.set(&start).unwrap();
        let off = (slope - f64::from(length)).abs() / f64::from(length);
        assert!(off < 0.03, "{name}: slope {slope}, gradient {length}");
    }
}

//! Compares networks, losses and updates with PyTorch. The expected values come from `tests/goldens/gan.py`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use gafi_core::{ImageSpec, Stream};
use gafi_gan::diffaugment::{Draws, diff_augment};
use gafi_gan::networks::{Form, GeneratorNet, Pass};
use gafi_gan::players::Players;
use gafi_gan::spectral::bake;
use gafi_gan::*;
use gafi_nn::{EmaConfig, Params, checkpoint};

type Tensors = BTreeMap<String, Tensor>;

fn golden(name: &str) -> Tensors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(format!("{name}.safetensors"));
    let all = checkpoint::bytes_to_tensors(&std::fs::read(path).unwrap(), &Device::Cpu).unwrap();
    let float = |t: Tensor| if t.dtype() == DType::I64 { t.to_dtype(DType::U32) } else { t.to_dtype(DType::F32) };
    all.into_iter().map(|(name, tensor)| (name, float(tensor).unwrap())).collect()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Splits a row of values into tensors shaped like those of `like`, in the order of their names.
fn cut(values: &Tensor, like: &Tensors) -> Tensors {
    let values = flat(values);
    assert_eq!(values.len(), like.values().map(Tensor::elem_count).sum::<usize>(), "{:?}", like.keys());
    let mut at = 0;
    let piece = |(name, t): (&String, &Tensor)| {
        at += t.elem_count();
        (name.clone(), Tensor::from_slice(&values[at - t.elem_count()..at], t.dims(), &Device::Cpu).unwrap())
    };
    like.iter().map(piece).collect()
}

fn of<'a>(items: impl Iterator<Item = (&'a str, &'a Var)>) -> Tensors {
    items.map(|(name, var)| (name.to_string(), var.as_detached_tensor().copy().unwrap())).collect()
}

fn close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    for (i, (a, b)) in flat(found).into_iter().zip(flat(expected)).enumerate() {
        assert!((a - b).abs() <= tolerance, "{what}, value {i}: found {a}, PyTorch has {b}");
    }
}

fn all_close(what: &str, found: &Tensors, expected: &Tensors, tolerance: f32) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in found {
        close(&format!("{what} {name}"), tensor, &expected[name], tolerance);
    }
}

fn big(ch: usize, depth: usize, z: usize, shared: usize) -> Architecture {
    Architecture::BigGanDeep(BigGanConfig { ch, depth, z, shared })
}

fn small(g: &[usize], d: &[usize]) -> Architecture {
    Architecture::Small(SmallConfig { z: 6, shared: 4, g: g.into(), d: d.into(), spectral_head: true })
}

fn forward(name: &str, architecture: Architecture, image: ImageSpec, classes: usize) {
    let golden = golden(name);
    let config = GanConfig { architecture, ..GanConfig::default() };
    let players = Players::new(&config, &image, classes, &Device::Cpu, &Stream::new(1)).unwrap();
    players.g_params.load(&cut(&golden["g"], &players.g_params.state().unwrap())).unwrap();
    players.d_params.load(&cut(&golden["d"], &players.d_params.state().unwrap())).unwrap();
    let (x, y, z) = (&golden["x"], &golden["y"], &golden["z"]);
    close("G in training", &players.generator.forward(z, y, Pass::TRAIN).unwrap(), &golden["g_train"], 1e-4);
    close("D in training", &players.discriminator.forward(x, y, Pass::TRAIN).unwrap(), &golden["d_train"], 2e-4);
    if let (Some(g), Some(d)) = (golden.get("g_buffers"), golden.get("d_buffers")) {
        let found = of(players.g_params.buffers());
        all_close("G buffer", &found, &cut(g, &found), 2e-5);
        let found = of(players.d_params.buffers());
        all_close("D buffer", &found, &cut(d, &found), 2e-5);
    }
    let before = players.g_params.state().unwrap();
    close("G in evaluation", &players.generator.forward(z, y, Pass::EVAL).unwrap(), &golden["g_eval"], 1e-4);
    close("D in evaluation", &players.discriminator.forward(x, y, Pass::EVAL).unwrap(), &golden["d_eval"], 2e-4);
    all_close("G after evaluation", &players.g_params.state().unwrap(), &before, 0.0);

    // The inference form computes the same function.
    let mut params = Params::new(&Device::Cpu, Stream::new(9));
    let baked = GeneratorNet::new(params.root(), &config.architecture, &image, classes, Form::Inference).unwrap();
    params.load(&bake(&before).unwrap()).unwrap();
    close("G in inference form", &baked.forward(z, y, Pass::EVAL).unwrap(), &golden["g_eval"], 1e-4);
}

#[test]
fn biggan_deep_equals_pytorch() {
    forward("biggan_forward", big(4, 2, 6, 4), ImageSpec::new(3, 32, 32), 3);
}

#[test]
fn biggan_deep_for_64_pixels_equals_pytorch() {
    forward("biggan64_forward", big(4, 1, 1, 1), ImageSpec::new(1, 64, 64), 2);
}

#[test]
fn the_small_gan_equals_pytorch() {
    forward("small_forward", small(&[8, 6, 4], &[4, 6, 8]), ImageSpec::new(1, 32, 32), 3);
}

/// Compares a whole training step: two updates of D on one real batch, one of G, one of the moving average.
fn update(name: &str, config: GanConfig, image: ImageSpec, classes: usize) {
    let golden = golden(name);
    let config = GanConfig { d_steps: 2, ema: EmaConfig { decay: 0.9, start: 0, warm_up: false }, ..config };
    let mut players = Players::new(&config, &image, classes, &Device::Cpu, &Stream::new(1)).unwrap();
    players.g_params.load(&cut(&golden["g"], &players.g_params.state().unwrap())).unwrap();
    players.d_params.load(&cut(&golden["d"], &players.d_params.state().unwrap())).unwrap();
    players.ema.load(&players.g_params.state().unwrap()).unwrap();
    let (x, y, z) = (&golden["x"], &golden["y"], &golden["z"]);
    for k in 0..2 {
        let found = players.update_discriminator(x, y, &z.get(k).unwrap(), None).unwrap();
        close("D's loss", &found.loss, &golden[&format!("d_loss{k}")], 1e-4);
    }
    let like = of(players.d_params.vars());
    let moments = checkpoint::section(&players.state().unwrap(), "discriminator-adam.m");
    let expected = cut(&golden["d_moment"], &like);
    moments_close("D", &moments, &expected);
    let (found, after) =
        (players.d_params.state().unwrap(), cut(&golden["d_after"], &players.d_params.state().unwrap()));
    weights_close("D", &found, &after, &expected, &config);

    let g_loss = players.update_generator(y, &z.get(2).unwrap(), None).unwrap();
    players.ema.update(&players.g_params, 0).unwrap();
    close("G's loss", &g_loss, &golden["g_loss"], 1e-4);
    let moments = checkpoint::section(&players.state().unwrap(), "generator-adam.m");
    let expected = cut(&golden["g_moment"], &of(players.g_params.vars()));
    moments_close("G", &moments, &expected);
    let like = players.g_params.state().unwrap();
    weights_close("G", &like, &cut(&golden["g_after"], &like), &expected, &config);
    weights_close("G's average", &players.ema.weights().unwrap(), &cut(&golden["ema"], &like), &expected, &config);
    // G's update leaves D's weights alone but runs D's power iterations.
    let found = of(players.d_params.buffers());
    all_close("D's buffer after G's update", &found, &cut(&golden["d_buffers"], &found), 1e-4);
}

fn largest(t: &Tensor) -> f32 {
    flat(t).iter().fold(0f32, |m, v| m.max(v.abs()))
}

/// Compares first moments, which are gradients up to a factor, relative to the largest of their tensor. The gradient of
/// a bias before a batch norm is only rounding error, because the norm cancels the bias.
fn moments_close(who: &str, found: &Tensors, expected: &Tensors) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let rounding = 1e-5 * expected.values().map(largest).fold(0f32, f32::max);
    for (name, tensor) in found {
        let scale = largest(&expected[name]);
        assert!(scale > rounding || name.ends_with("bias"), "{who} {name}: no gradient in the golden");
        close(&format!("{who}'s moment {name}"), tensor, &expected[name], 1e-3 * scale + 0.1 * rounding);
    }
}

/// Adam's first steps are close to lr * sign(g), so weights whose gradient is within rounding of zero are not compared.
fn weights_close(who: &str, found: &Tensors, expected: &Tensors, moments: &Tensors, config: &GanConfig) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let mut in_all = 0;
    let mut all = 0;
    let rounding = 1e-5 * moments.values().map(largest).fold(0f32, f32::max);
    for (name, tensor) in found {
        let Some(moment) = moments.get(name) else {
            close(&format!("{who} buffer {name}"), tensor, &expected[name], 1e-4);
            continue;
        };
        if largest(moment) < rounding {
            continue;
        }
        let floor = 2e-3 * largest(moment);
        let mut compared = 0;
        let moment = flat(moment);
        all += moment.len();
        for (i, (a, b)) in flat(tensor).into_iter().zip(flat(&expected[name])).enumerate() {
            if moment[i].abs() > floor {
                compared += 1;
                let tolerance = 0.05 * config.g_lr as f32;
                assert!((a - b).abs() <= tolerance, "{who} {name}, value {i}: found {a}, PyTorch has {b}");
            }
        }
        assert!(compared > 0, "{who} {name}: nothing compared");
        in_all += compared;
    }
    assert!(4 * in_all > 3 * all, "{who}: compared {in_all} of {all}");
}

#[test]
fn a_training_step_of_biggan_deep_equals_pytorch() {
    let config = GanConfig { architecture: big(4, 1, 4, 2), ..GanConfig::default() };
    update("biggan_update", config, ImageSpec::new(1, 32, 32), 3);
}

#[test]
fn a_training_step_of_the_small_gan_equals_pytorch() {
    let config =
        GanConfig { architecture: small(&[8, 6], &[4, 6]), loss: Loss::NonSaturating, eps: 1e-8, ..GanConfig::small() };
    update("small_update", config, ImageSpec::new(1, 16, 16), 3);
}

#[test]
fn diff_augment_equals_pytorch() {
    let golden = golden("diffaugment");
    let n = golden["x"].dim(0).unwrap();
    let get = |name: &str| flat(&golden[name]);
    let (b, s, c) = (get("brightness"), get("saturation"), get("contrast"));
    let pair = |a: Vec<f32>, b: Vec<f32>| (0..n).map(|i| [a[i] as i64, b[i] as i64]).collect();
    let draws = Draws {
        colour: (0..n).map(|i| [b[i], s[i], c[i]]).collect(),
        shift: pair(get("ty"), get("tx")),
        centre: pair(get("cy"), get("cx")),
    };
    let x = Var::from_tensor(&golden["x"]).unwrap();
    let y = diff_augment(&[Augment::Cutout, Augment::Colour, Augment::Translation], &x, &draws).unwrap();
    close("augmented", &y, &golden["y"], 1e-5);
    let grads = (y * &golden["weight"]).unwrap().sum_all().unwrap().backward().unwrap();
    close("gradient", grads.get(&x).unwrap(), &golden["grad"], 1e-5);
}

#[test]
fn losses_equal_pytorch() {
    let golden = golden("loss");
    for (loss, name) in [(Loss::Hinge, "hinge"), (Loss::NonSaturating, "non-saturating")] {
        let get = |part: &str| &golden[&format!("{name}/{part}")];
        let (real, fake) = (Var::from_tensor(get("real")).unwrap(), Var::from_tensor(get("fake")).unwrap());
        let d = loss.discriminator(&real, &fake).unwrap();
        close("D", &d, get("d"), 1e-6);
        let grads = d.backward().unwrap();
        close("D by real", grads.get(&real).unwrap(), get("d_real"), 1e-6);
        close("D by fake", grads.get(&fake).unwrap(), get("d_fake"), 1e-6);
        let g = loss.generator(&fake).unwrap();
        close("G", &g, get("g"), 1e-6);
        close("G by fake", g.backward().unwrap().get(&fake).unwrap(), get("g_fake"), 1e-6);
    }
}

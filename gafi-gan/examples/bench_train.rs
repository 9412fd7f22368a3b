//! One case of `cargo xtask bench`: seconds per training step or per batch of inference, printed as a line of JSON.
//!
//! `cargo run -p gafi-gan --example bench_train -- classifier-train|classifier-infer|airbench-train|airbench-infer|gan-train|
//! gan-sample WIDTH BATCH [REPS [f32|tf32|bf16 [cpu|cuda]]]`
//!
//! The median over the repetitions on 3x32x32 images of ten classes. The networks are the paper's: ResNet-20 with SGD
//! and Nesterov momentum; airbench; BigGAN-Deep of depth 2 with three discriminator updates per generator update.

use std::time::Instant;

use candle_core::{Device, Tensor};
use gafi_core::{ClassId, Generator as _, ImageSpec, Stream};
use gafi_gan::players::Players;
use gafi_gan::spectral::bake;
use gafi_gan::{Architecture, BigGanConfig, GanConfig, Sampler};
use gafi_kernels::ops;
use gafi_nn::layers::Mode;
use gafi_nn::{AirbenchConfig, ClassifierArchitecture, ClassifierNet, Dtype, Optimizer, Params, ResNetConfig, Sgdw};

// The program's allocator. glibc returns every large tensor to the system, and page faults take a fifth of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Median seconds of `reps` calls, after two warm-up calls.
fn median(reps: usize, device: &Device, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::with_capacity(reps);
    for call in 0..reps + 2 {
        let begun = Instant::now();
        work()?;
        device.synchronize()?;
        if call >= 2 {
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Peak memory of this process, in MiB.
fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(f64::NAN, |kb| kb / 1024.0)
}

#[expect(clippy::print_stdout, reason = "the example prints its measurement")]
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let what = args.first().map_or("classifier-train", String::as_str);
    let width = number(1, 16);
    let n = number(2, 128);
    let reps = number(3, 5);
    let dtype: Dtype = serde_json::from_value(args.get(4).map_or("f32", String::as_str).into())?;
    let image = ImageSpec::new(3, 32, 32);
    let device = gafi_nn::device::select(args.get(5).map_or("cpu", String::as_str))?;
    let wave = |len: usize| -> Vec<f32> { (0..len).map(|i| (i as f32 * 0.731).sin()).collect() };
    let x = Tensor::from_vec(wave(n * image.bytes()), (n, 3, 32, 32), &device)?;
    let labels: Vec<u32> = (0..n as u32).map(|i| i % 10).collect();
    let seconds = match what {
        "classifier-train" | "classifier-infer" | "airbench-train" | "airbench-infer" => {
            let mut params = Params::new(&device, Stream::new(1));
            let architecture: ClassifierArchitecture = if what.starts_with("airbench") {
                AirbenchConfig { width }.into()
            } else {
                ResNetConfig { width, ..ResNetConfig::default() }.into()
            };
            let mut net = ClassifierNet::new(&mut params.root(), &architecture, &image, 10)?;
            net.set_precision(dtype.precision(&device));
            let mut optimizer = Sgdw::new(&params, 0.9, true, 0.0)?;
            if what.ends_with("train") {
                median(reps, &device, || {
                    let loss = ops::cross_entropy(&net.forward(&x, Mode::Train)?, &labels)?;
                    Ok(optimizer.step(&loss.backward()?, 0.1)?)
                })?
            } else {
                median(reps, &device, || Ok(net.forward(&x, Mode::Eval).map(drop)?))?
            }
        }
        "gan-train" | "gan-sample" => {
            let architecture = BigGanConfig { ch: width, depth: 2, ..BigGanConfig::default() };
            let config =
                GanConfig { architecture: Architecture::BigGanDeep(architecture), dtype, ..GanConfig::default() };
            let latent = config.architecture.latent();
            let mut players = Players::new(&config, &image, 10, &device, &Stream::new(1))?;
            let z = wave(n * latent);
            if what == "gan-sample" {
                let names: Vec<String> = (0..10).map(|class: u32| class.to_string()).collect();
                // As in use: averaged weights in inference form, to pixels.
                let mut sampler = Sampler::new(&config.architecture, &image, &names, &device)?;
                sampler.load(&bake(&players.ema.weights()?)?)?;
                let labels: Vec<ClassId> = labels.into_iter().map(ClassId).collect();
                median(reps, &device, || Ok(sampler.generate(&z, &labels).map(drop)?))?
            } else {
                let z = Tensor::from_vec(z, (n, latent), &device)?;
                let y = Tensor::from_vec(labels, n, &device)?;
                median(reps, &device, || {
                    for _ in 0..3 {
                        players.update_discriminator(&x, &y, &z, None)?;
                    }
                    players.update_generator(&y, &z, None)?;
                    Ok(())
                })?
            }
        }
        other => return Err(format!("unknown case {other}").into()),
    };
    let threads = rayon::current_num_threads();
    println!(
        "{{\"bench\":\"{what}\",\"width\":{width},\"batch\":{n},\"threads\":{threads},\"dtype\":{},\"seconds\":{seconds:.5},\"peak_rss_mb\":{:.0}}}",
        serde_json::to_value(dtype)?,
        peak_rss_mb()
    );
    Ok(())
}

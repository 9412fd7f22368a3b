//! Cases of `cargo xtask bench`: seconds per training step or per batch of inference, printed as a line of JSON for each case.
//!
//! `cargo run -p gafi-gan --example bench_train -- classifier-train|classifier-infer|airbench-train|airbench-infer|gan-train|
//! gan-sample WIDTH BATCH [REPS [f32|tf32|bf16 [cpu|cuda]]]`
//!
//! CASE and dtype may be lists separated by commas; then each case is measured in each dtype, and the peak memory is that of the
//! process so far. Medians over the repetitions on 3x32x32 images of ten classes: `seconds` until the device has finished,
//! `enqueue_s` until the calls have returned. Where the two are equal on a GPU, launches limit the speed, or the case reads its
//! result back, as `gan-sample` does. The networks are the paper's: ResNet-20 with SGD and Nesterov momentum; airbench;
//! BigGAN-Deep of depth 2 with three discriminator updates per generator update. A sampler computes in f32, whatever the dtype.

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

/// Median seconds of `reps` calls, after two warm-up calls: until they return, and until the device has finished.
fn median(reps: usize, device: &Device, mut work: impl FnMut() -> Result<()>) -> Result<[f64; 2]> {
    let mut times = [Vec::with_capacity(reps), Vec::with_capacity(reps)];
    for call in 0..reps + 2 {
        let begun = Instant::now();
        work()?;
        let enqueued = begun.elapsed();
        device.synchronize()?;
        if call >= 2 {
            times[0].push(enqueued.as_secs_f64());
            times[1].push(begun.elapsed().as_secs_f64());
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
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
    let list = |i: usize, default| args.get(i).map_or(default, String::as_str).split(',');
    let width = number(1, 16);
    let n = number(2, 128);
    let reps = number(3, 5);
    let device = gafi_nn::device::select(args.get(5).map_or("cpu", String::as_str))?;
    let threads = rayon::current_num_threads();
    for name in list(4, "f32") {
        let dtype: Dtype = serde_json::from_value(name.into())?;
        for what in list(0, "classifier-train") {
            let [enqueue, seconds] = measure(what, width, n, reps, dtype, &device)?;
            println!(
                "{{\"bench\":\"{what}\",\"width\":{width},\"batch\":{n},\"threads\":{threads},\"dtype\":\"{name}\",\"seconds\":{seconds:.6},\"enqueue_s\":{enqueue:.6},\"peak_rss_mb\":{:.0}}}",
                peak_rss_mb()
            );
        }
    }
    Ok(())
}

/// Median seconds of one case at one width, as [`median`] returns them; `n` is the batch.
fn measure(what: &str, width: usize, n: usize, reps: usize, dtype: Dtype, device: &Device) -> Result<[f64; 2]> {
    let image = ImageSpec::new(3, 32, 32);
    let wave = |len: usize| -> Vec<f32> { (0..len).map(|i| (i as f32 * 0.731).sin()).collect() };
    let x = Tensor::from_vec(wave(n * image.bytes()), (n, 3, 32, 32), device)?;
    let labels: Vec<u32> = (0..n as u32).map(|i| i % 10).collect();
    match what {
        "classifier-train" | "classifier-infer" | "airbench-train" | "airbench-infer" => {
            let mut params = Params::new(device, Stream::new(1));
            let architecture: ClassifierArchitecture = if what.starts_with("airbench") {
                AirbenchConfig { width }.into()
            } else {
                ResNetConfig { width, ..ResNetConfig::default() }.into()
            };
            let mut net = ClassifierNet::new(&mut params.root(), &architecture, &image, 10)?;
            net.set_precision(dtype.precision(device));
            let mut optimizer = Sgdw::new(&params, 0.9, true, 0.0)?;
            if what.ends_with("train") {
                median(reps, device, || {
                    let loss = ops::cross_entropy(&net.forward(&x, Mode::Train)?, &labels)?;
                    Ok(optimizer.step(&loss.backward()?, 0.1)?)
                })
            } else {
                median(reps, device, || Ok(net.forward(&x, Mode::Eval).map(drop)?))
            }
        }
        "gan-train" | "gan-sample" => {
            let architecture = BigGanConfig { ch: width, depth: 2, ..BigGanConfig::default() };
            let config =
                GanConfig { architecture: Architecture::BigGanDeep(architecture), dtype, ..GanConfig::default() };
            let latent = config.architecture.latent();
            let mut players = Players::new(&config, &image, 10, device, &Stream::new(1))?;
            let z = wave(n * latent);
            if what == "gan-sample" {
                let names: Vec<String> = (0..10).map(|class: u32| class.to_string()).collect();
                // As in use: averaged weights in inference form, to pixels.
                let mut sampler = Sampler::new(&config.architecture, &image, &names, device)?;
                sampler.load(&bake(&players.ema.weights()?)?)?;
                let labels: Vec<ClassId> = labels.into_iter().map(ClassId).collect();
                median(reps, device, || Ok(sampler.generate(&z, &labels).map(drop)?))
            } else {
                let z = Tensor::from_vec(z, (n, latent), device)?;
                let y = Tensor::from_vec(labels, n, device)?;
                median(reps, device, || {
                    for _ in 0..3 {
                        players.update_discriminator(&x, &y, &z, None)?;
                    }
                    players.update_generator(&y, &z, None)?;
                    Ok(())
                })
            }
        }
        other => Err(format!("unknown case {other}").into()),
    }
}

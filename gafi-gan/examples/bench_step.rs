//! Times the parts of a GAN's training step: `cargo run -p gafi-gan --example bench_step -- [small|CH DEPTH] [REPS]`.
//!
//! Prints a line for each part with the median over the repetitions in milliseconds; 1x32x32 images, batch 64, ten
//! classes.

use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use gafi_core::{ImageSpec, Stream};
use gafi_gan::networks::Pass;
use gafi_gan::players::Players;
use gafi_gan::{Architecture, BigGanConfig, GanConfig};

// The program's allocator. glibc returns every large tensor to the system, and page faults take a fifth of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(clippy::print_stdout)]
fn timed<T>(label: &str, reps: usize, mut f: impl FnMut() -> Result<T>) -> Result<()> {
    let mut times = Vec::with_capacity(reps);
    for _ in 0..reps + 2 {
        let begun = Instant::now();
        f()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.drain(..2);
    times.sort_by(f64::total_cmp);
    println!("{label:34} {:8.3} ms (fastest {:.3})", times[times.len() / 2], times[0]);
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let big = args.first().is_some_and(|a| a != "small");
    let number = |i: usize, default: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (config, reps) = if big {
        let architecture = BigGanConfig { ch: number(0, 16), depth: number(1, 1), ..BigGanConfig::default() };
        (GanConfig { architecture: Architecture::BigGanDeep(architecture), ..GanConfig::default() }, number(2, 5))
    } else {
        (GanConfig::small(), number(1, 100))
    };
    let image = ImageSpec::new(1, 32, 32);
    let device = Device::Cpu;
    let n = config.batch;
    let mut players = Players::new(&config, &image, 10, &device, &Stream::new(1))?;
    let wave = |len: usize| -> Vec<f32> { (0..len).map(|i| (i as f32 * 0.731).sin()).collect() };
    let x = Tensor::from_vec(wave(n * 1024), (n, 1, 32, 32), &device)?;
    let z = Tensor::from_vec(wave(n * config.architecture.latent()), (n, config.architecture.latent()), &device)?;
    let y = Tensor::from_vec((0..n as u32).map(|i| i % 10).collect(), n, &device)?;
    let both = Tensor::cat(&[&x, &x], 0)?;
    let yy = Tensor::cat(&[&y, &y], 0)?;

    timed("G forward, no graph", reps, || players.generator.forward(&z, &y, Pass::FROZEN))?;
    timed("G forward", reps, || players.generator.forward(&z, &y, Pass::TRAIN))?;
    timed("G forward, evaluation", reps, || players.generator.forward(&z, &y, Pass::EVAL))?;
    timed("G forward and backward", reps, || players.generator.forward(&z, &y, Pass::TRAIN)?.sum_all()?.backward())?;
    timed("D forward, 2N", reps, || players.discriminator.forward(&both, &yy, Pass::TRAIN))?;
    timed("D forward and backward, 2N", reps, || {
        players.discriminator.forward(&both, &yy, Pass::TRAIN)?.sum_all()?.backward()
    })?;
    let error = |e: gafi_nn::Error| candle_core::Error::wrap(e);
    timed("D update", reps, || players.update_discriminator(&x, &y, &z, None).map_err(error))?;
    timed("G update", reps, || players.update_generator(&y, &z, None).map_err(error))?;
    timed("moving average", reps, || players.ema.update(&players.g_params, 1).map_err(error))?;
    Ok(())
}

//! Times the ops that training lives on and prints GFLOP/s and milliseconds. An op by itself pays for the way from NCHW and
//! back, which a network pays once; its FLOP are those of the definition, 2 for each multiply-add, whatever an algorithm saves.
//!
//! `cargo run -p gafi-nn --example bench_ops [substring of a line]`; the best of several runs of about 0.2 s each. Set
//! RAYON_NUM_THREADS to see a single core.

use std::time::{Duration, Instant};

use candle_core::{Device, Result, Tensor, Var};
use gafi_nn::ops;
use gafi_nn::trunk::{Output, Settings, run};

// As the program has it: the tensors at the ends of an op cost allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Numbers without structure, the same in each run.
fn noise(shape: &[usize]) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Seconds that one call takes, the best of five series.
fn time(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let (start, mut calls) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(100) {
            work()?;
            calls += 1;
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(calls));
    }
    Ok(best)
}

/// Seconds of forward, of forward and input gradient, and of forward and weight gradient.
fn directions(x: &Tensor, w: &Tensor, op: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<[f64; 3]> {
    let (vx, vw) = (Var::from_tensor(x)?, Var::from_tensor(w)?);
    let forward = time(|| op(x, w).map(drop))?;
    let input = time(|| op(&vx, w)?.backward().map(drop))?;
    let weight = time(|| op(x, &vw)?.backward().map(drop))?;
    Ok([forward, input - forward, weight - forward])
}

#[expect(clippy::print_stdout, reason = "its purpose")]
fn main() -> Result<()> {
    let only = std::env::args().nth(1).unwrap_or_default();
    println!("{} threads", rayon::current_num_threads());
    println!("{:<44}{:>24}{:>24}{:>24}", "convolution (GFLOP/s, ms)", "forward", "input gradient", "weight gradient");
    // Batch, channels in and out, size, kernel, stride, padding, upsampled before.
    for (n, cin, cout, size, k, stride, pad, up) in [
        (64, 16, 16, 32, 3, 1, 1, false),
        (64, 16, 16, 16, 3, 1, 1, false),
        (64, 32, 32, 32, 3, 1, 1, false),
        (64, 32, 32, 16, 3, 1, 1, false),
        (64, 64, 64, 32, 3, 1, 1, false),
        (64, 128, 128, 16, 3, 1, 1, false),
        (64, 256, 256, 8, 3, 1, 1, false),
        (64, 512, 128, 16, 1, 1, 0, false),
        (64, 3, 16, 32, 3, 1, 1, false),
        (64, 16, 3, 32, 3, 1, 1, false),
        (64, 16, 32, 32, 3, 2, 1, false),
        (64, 3, 16, 32, 4, 2, 1, false),
        (64, 16, 32, 16, 4, 2, 1, false),
        (64, 64, 64, 4, 3, 1, 1, true),
        (64, 32, 16, 16, 3, 1, 1, true),
    ] {
        let name = format!("{n}x {cin}->{cout} {size}x{size} k{k} s{stride}{}", if up { " upsampled" } else { "" });
        if !name.contains(&only) {
            continue;
        }
        let (x, w) = (noise(&[n, cin, size, size])?, noise(&[cout, cin, k, k])?);
        let op = |x: &Tensor, w: &Tensor| {
            if up { ops::upsample2x_conv2d(x, w, None, pad) } else { ops::conv2d(x, w, None, stride, pad) }
        };
        let out = op(&x, &w)?.dim(2)?;
        let flop = 2.0 * (n * cin * cout * out * out * k * k) as f64;
        print!("{name:<44}");
        for seconds in directions(&x, &w, op)? {
            print!("{:>14.1} {:>9.3}", flop / seconds / 1e9, seconds * 1e3);
        }
        println!();
    }

    let x = noise(&[128, 16, 32, 32])?;
    let (tracked, other) = (Var::from_tensor(&x)?, noise(&[128, 16, 32, 32])?);
    let (gain, bias) = (Var::from_tensor(&noise(&[16])?)?, Var::from_tensor(&noise(&[16])?)?);
    let report = |name: &str, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        if name.contains(&only) {
            println!("{name:<44}{:>9.3} ms", time(work)? * 1e3);
        }
        Ok(())
    };
    println!("on (128, 16, 32, 32), with the way from NCHW and back");
    report("there and back", &mut || run(&x, Settings::default(), |_, x| Ok(Output::Maps(x))).map(drop))?;
    report("channel_moments", &mut || ops::channel_moments(&x).map(drop))?;
    report("batch_norm + relu forward", &mut || {
        let moments = ops::channel_moments(&x)?;
        ops::batch_norm(&x, &gain, &bias, &moments, true, 1e-5, true).map(drop)
    })?;
    report("batch_norm + relu forward and backward", &mut || {
        let moments = ops::channel_moments(&tracked)?;
        ops::batch_norm(&tracked, &gain, &bias, &moments, true, 1e-5, true)?.backward().map(drop)
    })?;
    report("add_relu forward and backward", &mut || ops::add_relu(&tracked, &other)?.backward().map(drop))?;
    report("avg_pool2x2 forward and backward", &mut || ops::avg_pool2x2(&tracked)?.backward().map(drop))?;
    report("max_pool2x2 forward and backward", &mut || ops::max_pool2x2(&tracked)?.backward().map(drop))?;
    report("upsample2x forward and backward", &mut || ops::upsample2x(&tracked)?.backward().map(drop))?;
    let pooled = Var::from_tensor(&noise(&[64, 16, 16, 16])?)?;
    report("attend forward and backward, (64, 16, 16, 16)", &mut || {
        ops::attend(&pooled, &pooled, &pooled)?.backward().map(drop)
    })?;
    report("tanh forward", &mut || ops::tanh(&x).map(drop))?;
    Ok(())
}

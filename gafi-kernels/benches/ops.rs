//! Times the ops that dominate training: `cargo bench -p gafi-kernels --profile dev [-- PART OF A NAME]`.
//!
//! A single op includes the conversion from and to NCHW, which a trunk pays once. A convolution's "elements" are FLOP: 2 for
//! each multiply-add of the definition, whatever the algorithm saves. Gradients are timed without the forward pass. Set
//! RAYON_NUM_THREADS=1 to measure a single core. (Profile `dev` is optimised and is what users build; `bench` differs.)

use std::time::Duration;

use candle_core::{Device, Result, Tensor, Var};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput};
use gafi_kernels::ops;
use gafi_kernels::trunk::{Output, Settings, run};

// The allocator of the program; the tensors at both ends of an op are allocated.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Numbers without structure, the same in every run.
fn noise(shape: &[usize]) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Times the forward pass of an op.
fn forward(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, op: impl Fn() -> Result<Tensor>) {
    group.bench_function(name, |b| b.iter(|| op().expect("shapes fit")));
}

/// Times the backward pass of an op.
fn backward(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, op: impl Fn() -> Result<Tensor>) {
    let forward = || op().expect("shapes fit");
    group.bench_function(name, |b| {
        b.iter_batched(forward, |y| y.backward().expect("an op with gradients"), BatchSize::PerIteration);
    });
}

fn convolutions(criterion: &mut Criterion) -> Result<()> {
    // Batch, channels in and out, size, kernel, stride, padding, whether upsampled.
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
        let x = noise(&[n, cin, size, size])?;
        let w = noise(&[cout, cin, k, k])?;
        let vx = Var::from_tensor(&x)?;
        let vw = Var::from_tensor(&w)?;
        let op = |x: &Tensor, w: &Tensor| {
            if up { ops::upsample2x_conv2d(x, w, None, pad) } else { ops::conv2d(x, w, None, stride, pad) }
        };
        let out = op(&x, &w)?.dim(2)?;
        let name = format!("{n}x {cin}->{cout} {size}x{size} k{k} s{stride}{}", if up { " upsampled" } else { "" });
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(2 * (n * cin * cout * out * out * k * k) as u64));
        forward(&mut group, "forward", || op(&x, &w));
        backward(&mut group, "input gradient", || op(&vx, &w));
        backward(&mut group, "weight gradient", || op(&x, &vw));
    }
    Ok(())
}

fn others(criterion: &mut Criterion) -> Result<()> {
    let x = Var::from_tensor(&noise(&[128, 16, 32, 32])?)?;
    let other = noise(&[128, 16, 32, 32])?;
    let gain = Var::from_tensor(&noise(&[16])?)?;
    let bias = Var::from_tensor(&noise(&[16])?)?;
    let pooled = Var::from_tensor(&noise(&[64, 16, 16, 16])?)?;
    let norm = || ops::batch_norm(&x, &gain, &bias, &ops::channel_moments(&x)?, true, 1e-5, true);
    let mut group = criterion.benchmark_group("(128, 16, 32, 32)");
    forward(&mut group, "NCHW to maps and back", || run(&other, Settings::default(), |_, x| Ok(Output::Maps(x))));
    forward(&mut group, "channel_moments", || Ok(ops::channel_moments(&x)?.mean));
    forward(&mut group, "tanh", || ops::tanh(&other));
    type Op<'a> = (&'a str, &'a dyn Fn() -> Result<Tensor>);
    let both: [Op<'_>; 6] = [
        ("batch_norm + relu", &norm),
        ("add_relu", &|| ops::add_relu(&x, &other)),
        ("avg_pool2x2", &|| ops::avg_pool2x2(&x)),
        ("max_pool2x2", &|| ops::max_pool2x2(&x)),
        ("upsample2x", &|| ops::upsample2x(&x)),
        ("attend, (64, 16, 16, 16)", &|| ops::attend(&pooled, &pooled, &pooled)),
    ];
    for (name, op) in both {
        forward(&mut group, name, op);
        backward(&mut group, &format!("{name}, gradient"), op);
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    convolutions(&mut criterion)?;
    others(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

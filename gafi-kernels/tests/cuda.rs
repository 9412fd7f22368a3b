//! A GPU against the CPU: every primitive of trunks, a residual network, and losses.
//!
//! Without a GPU these tests print that they were skipped, and pass. The same kernels are also tested without one, emulated
//! on the CPU (`src/cuda/tests.rs`, `src/trunk/cuda/tests.rs`).
#![cfg(feature = "cuda")]

mod ops_support;

use candle_core::{Device, Result, Tensor, Var};
use gafi_kernels::trunk::{Activation, Batch, Moments, Output, Settings, Tape, Value, run};
use gafi_kernels::{Bf16Support, Precision, bf16_support, cuda, ops};
use ops_support::{noise, values};

/// Records a net of parameters.
type Net<'a> = &'a (dyn Fn(&mut Tape, Value, &[Tensor]) -> Result<Output> + Sync);

/// A differentiable function of one tensor.
type Op<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// The first GPU, or `None` with a note on stderr.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn gpu() -> Option<Device> {
    let device = cuda::open(0).ok();
    if device.is_none() {
        eprintln!("skipped: no usable GPU");
    }
    device
}

/// Panics unless |got - want| <= tolerance * |want|, as vectors.
fn assert_near(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) -> Result<()> {
    assert_eq!(got.dims(), want.dims(), "{what}: shape");
    let got = values(&got.to_device(&Device::Cpu)?)?;
    let want = values(want)?;
    let off = got.iter().zip(&want).map(|(g, w)| (g - w).powi(2)).sum::<f64>().sqrt();
    let size = want.iter().map(|w| w.powi(2)).sum::<f64>().sqrt();
    assert!(off <= tolerance * size.max(1e-3), "{what}: off by {off} of {size}");
    Ok(())
}

/// The result of a net on one device, then the gradients of sum(result * noise) with respect to x and the parameters.
fn results(device: &Device, precision: Precision, x: &Tensor, params: &[Tensor], net: Net<'_>) -> Result<Vec<Tensor>> {
    let var = |t: &Tensor| Var::from_tensor(&t.to_device(device)?);
    let x = var(x)?;
    let vars = params.iter().map(var).collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let settings = Settings { precision, batch: Batch::FusedMoments };
    let y = run(&x, settings, |tape, x| net(tape, x, &tensors))?;
    let mut grads = (&y * noise(y.dims(), 99).to_device(device)?)?.sum_all()?.backward()?;
    let mut all = vec![y.detach()];
    for var in [&x].into_iter().chain(&vars) {
        all.push(grads.remove(var).expect("a gradient"));
    }
    Ok(all)
}

/// Compares a net on the GPU with the CPU: f32 to 1e-4, TF32 with f32 to 1e-2, bf16 to `bf16`.
fn check(what: &str, bf16: f64, x: &[usize], params: &[&[usize]], net: Net<'_>) -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let x = noise(x, 1);
    let params: Vec<Tensor> = params.iter().enumerate().map(|(i, shape)| noise(shape, 10 + i as u64)).collect();
    for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Tf32, 1e-2), (Precision::Bf16, bf16)] {
        // GPUs before Ampere have no TF32, which is then f32, and no bf16.
        if precision == Precision::Bf16 && bf16_support(&gpu) != Bf16Support::Fast {
            continue;
        }
        let got = results(&gpu, precision, &x, &params, net)?;
        let want = results(&Device::Cpu, precision, &x, &params, net)?;
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_near(&format!("{what}, {precision:?}, {i}"), got, want, tolerance)?;
        }
        // A repeated run gives the same bits.
        let again = results(&gpu, precision, &x, &params, net)?;
        for (first, second) in got.iter().zip(&again) {
            assert_eq!(values(first)?, values(second)?, "{what}, {precision:?}: a repeated run");
        }
    }
    Ok(())
}

/// Batch norm with batch statistics.
fn norm(tape: &mut Tape, x: Value, gain: &Tensor, shift: &Tensor, activation: Option<Activation>) -> Result<Value> {
    let moments = tape.moments(x)?;
    tape.batch_norm(x, gain, shift, &moments, true, 1e-3, activation)
}

#[test]
fn convolutions_match() -> Result<()> {
    // Channel counts that suit tensor cores and others, including grey and colour images as input and result.
    for (cin, cout, k, stride, pad) in [
        (1, 16, 3, 1, 1),
        (3, 16, 3, 1, 1),
        (16, 32, 3, 2, 1),
        (16, 32, 4, 2, 1),
        (64, 64, 3, 1, 1),
        (64, 3, 3, 1, 1),
        (64, 1, 3, 1, 1),
        (16, 8, 1, 1, 0),
        (8, 16, 1, 2, 0),
        (1, 5, 5, 2, 2),
    ] {
        check("conv2d", 2e-2, &[4, cin, 17, 16], &[&[cout, cin, k, k], &[cout]], &|t, x, p| {
            t.conv2d(x, &p[0], Some(&p[1]), stride, pad).map(Output::Maps)
        })?;
    }
    check("upsample2x_conv2d", 2e-2, &[4, 16, 9, 8], &[&[24, 16, 3, 3]], &|t, x, p| {
        t.upsample2x_conv2d(x, &p[0], None, 1).map(Output::Maps)
    })
}

#[test]
fn norms_match() -> Result<()> {
    for c in [3, 64] {
        check("norm", 2e-2, &[6, c, 16, 16], &[&[c], &[c]], &|t, x, p| {
            norm(t, x, &p[0], &p[1], None).map(Output::Maps)
        })?;
        check("conditional norm, leaky", 5e-2, &[6, c, 8, 9], &[&[6, c], &[6, c]], &|t, x, p| {
            norm(t, x, &p[0], &p[1], Some(Activation::Leaky(0.2))).map(Output::Maps)
        })?;
    }
    Ok(())
}

#[test]
fn pointwise_ops_pools_and_shortcuts_match() -> Result<()> {
    type Step = fn(&mut Tape, Value) -> Result<Value>;
    let steps: [(&str, Step); 9] = [
        ("leaky_relu", |t, x| t.activation(x, Activation::Leaky(0.2))),
        ("gelu", |t, x| t.activation(x, Activation::Gelu)),
        ("add", |t, x| t.add(x, x)),
        ("add_relu", |t, x| t.add_relu(x, x)),
        ("avg_pool2x2", |t, x| t.avg_pool2x2(x)),
        ("max_pool2x2", |t, x| t.max_pool2x2(x)),
        ("upsample2x", |t, x| t.upsample2x(x)),
        ("subsample_pad by packs", |t, x| t.subsample_pad(x, 24)),
        ("subsample_pad", |t, x| t.subsample_pad(x, 11)),
    ];
    for (what, step) in steps {
        check(what, 2e-2, &[3, 8, 7, 6], &[], &|t, x, _| step(t, x).map(Output::Maps))?;
        check(what, 2e-2, &[3, 8, 7, 6], &[], &|t, x, _| step(t, x).map(Output::Sums))?;
    }
    Ok(())
}

#[test]
fn attention_matches() -> Result<()> {
    check("attend", 4e-2, &[3, 16, 8, 8], &[&[8, 16, 1, 1], &[8, 16, 1, 1]], &|t, x, p| {
        let q = t.conv2d(x, &p[0], None, 1, 0)?;
        let k = t.conv2d(x, &p[1], None, 1, 0)?;
        let (k, v) = (t.max_pool2x2(k)?, t.max_pool2x2(x)?);
        t.attend(q, k, v).map(Output::Maps)
    })
}

/// Parameters of [`residual`].
const RESIDUAL: [&[usize]; 12] = [
    &[16, 3, 3, 3],
    &[16],
    &[16],
    &[32, 16, 3, 3],
    &[32],
    &[32],
    &[32, 32, 3, 3],
    &[32],
    &[32],
    &[32, 16, 1, 1],
    &[32],
    &[32],
];

/// A stem and a residual block.
fn residual(t: &mut Tape, x: Value, p: &[Tensor]) -> Result<Output> {
    let stem = t.before_norm().conv2d(x, &p[0], None, 1, 1)?;
    let stem = norm(t, stem, &p[1], &p[2], Some(Activation::RELU))?;
    let a = t.before_norm().conv2d(stem, &p[3], None, 2, 1)?;
    let a = norm(t, a, &p[4], &p[5], Some(Activation::RELU))?;
    let a = t.before_norm().conv2d(a, &p[6], None, 1, 1)?;
    let a = norm(t, a, &p[7], &p[8], None)?;
    let b = t.before_norm().conv2d(stem, &p[9], None, 2, 0)?;
    let b = norm(t, b, &p[10], &p[11], None)?;
    t.add_relu(a, b).map(Output::Sums)
}

#[test]
fn a_residual_network_matches() -> Result<()> {
    // In bf16 the signs of values near zero may differ, and with them the gradients of a relu.
    check("residual network", 1e-1, &[8, 3, 16, 16], &RESIDUAL, &residual)
}

/// Threads share the stream, the handles of cuBLAS and cuDNN, and the memory pool.
#[test]
fn concurrent_threads_get_the_same_results() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let x = noise(&[16, 3, 24, 24], 1);
    let params: Vec<Tensor> = RESIDUAL.iter().enumerate().map(|(i, shape)| noise(shape, 10 + i as u64)).collect();
    let head = noise(&[10, 32], 5).to_device(&gpu)?;
    let job = || -> Result<Vec<Vec<f64>>> {
        let mut all = results(&gpu, Precision::F32, &x, &params, &residual)?;
        all.push(ops::linear(&all[0], &head, None)?);
        all.iter().map(values).collect()
    };
    let alone = job()?;
    std::thread::scope(|scope| -> Result<()> {
        let jobs: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..8).map(|_| job()).collect::<Result<Vec<_>>>())).collect();
        for each in jobs {
            assert!(each.join().expect("no panic")?.iter().all(|found| *found == alone));
        }
        Ok(())
    })
}

/// Samples and scores must not depend on the rest of their batch, nor on their place in it.
#[test]
fn results_do_not_depend_on_the_place_in_the_batch() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mean = noise(&[64], 3).to_device(&gpu)?;
    let var = (noise(&[64], 4) + 2.0)?.to_device(&gpu)?;
    let moments = Moments { mean, var, count: 0 };
    for n in [64, 256] {
        let x = noise(&[1, 3, 32, 32], 1).to_device(&gpu)?.repeat((n, 1, 1, 1))?;
        let p: Vec<Tensor> = [[64, 3, 3, 3], [64, 64, 3, 3], [128, 64, 3, 3], [3, 128, 3, 3]]
            .iter()
            .map(|shape| noise(shape, 7).to_device(&gpu))
            .collect::<Result<_>>()?;
        let settings = Settings { precision: Precision::F32, batch: Batch::Pieces };
        let maps = run(&x, settings, |t, x| {
            let x = t.conv2d(x, &p[0], None, 1, 1)?;
            let x = t.batch_norm(x, &moments.var, &moments.mean, &moments, false, 1e-3, Some(Activation::RELU))?;
            let x = t.conv2d(x, &p[1], None, 2, 1)?;
            let x = t.upsample2x_conv2d(x, &p[2], None, 1)?;
            let x = t.conv2d(x, &p[3], None, 1, 1)?;
            Ok(Output::Maps(x))
        })?;
        let wide = maps.flatten_from(1)?;
        let linear = ops::linear(&wide, &noise(&[40, wide.dim(1)?], 8).to_device(&gpu)?, None)?;
        for (what, of_all) in [("convolutions", wide), ("linear", linear)] {
            let of_all = values(&of_all)?;
            let first = &of_all[..of_all.len() / n];
            for (place, image) in of_all.chunks_exact(first.len()).enumerate() {
                assert!(image == first, "{what}: place {place} of {n}");
            }
        }
    }
    Ok(())
}

#[test]
fn losses_and_activations_match() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let labels: Vec<u32> = (0..37).map(|i| i * 7 % 100).collect();
    let ops: [Op<'_>; 2] = [&|x| ops::cross_entropy(x, &labels), &|x| ops::tanh(x)];
    for op in ops {
        let both = |device: &Device| -> Result<[Tensor; 2]> {
            let x = Var::from_tensor(&(noise(&[37, 100], 3) * 5.0)?.to_device(device)?)?;
            let y = op(&x)?;
            let mut grads = y.sqr()?.sum_all()?.backward()?;
            Ok([y.detach(), grads.remove(&x).expect("a gradient")])
        };
        for (got, want) in both(&gpu)?.iter().zip(&both(&Device::Cpu)?) {
            assert_near("loss", got, want, 1e-5)?;
        }
    }
    Ok(())
}

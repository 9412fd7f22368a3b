//! All other ops: against compositions of Candle ops in f64, against finite differences, on any number of threads, and on
//! extreme input.

mod ops_support;

use candle_core::{DType, Device, Result, Tensor};
use gafi_kernels::ops;
use gafi_kernels::trunk::{Moments, Output, Settings, run};
use ops_support::{Function, assert_close, bits, check, compose, noise, same_on_any_threads, values, with_gradients};
use proptest::prelude::*;

fn from(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).expect("a tensor on the CPU")
}

/// Batch norm with batch statistics.
fn train_norm(t: &[Tensor], relu: bool) -> Result<Tensor> {
    ops::batch_norm(&t[0], &t[1], &t[2], &ops::channel_moments(&t[0])?, true, 1e-5, relu)
}

fn check_norm(shape: &[usize; 4], conditional: bool, relu: bool, seed: u64) -> Result<()> {
    let per: &[usize] = if conditional { &shape[..2] } else { &shape[1..2] };
    let x = ((noise(shape, seed) * 3.0)? + 0.7)?;
    let inputs = [x, noise(per, seed + 1), noise(per, seed + 2)];
    let all = |value: f32| Tensor::full(value, shape[1], &Device::Cpu);
    let moments = Moments { mean: all(0.3)?, var: all(1.7)?, count: 5 };
    let slope = relu.then_some(0.0);
    check(&|t| train_norm(t, relu), &|t| compose::batch_norm(&t[0], &t[1], &t[2], None, 1e-5, slope), &inputs)?;
    check(
        &|t| ops::batch_norm(&t[0], &t[1], &t[2], &moments, false, 1e-5, relu),
        &|t| compose::batch_norm(&t[0], &t[1], &t[2], Some((&moments.mean, &moments.var)), 1e-5, slope),
        &inputs,
    )
}

/// The ops of one tensor (N, C, H, W) with their references.
fn unary() -> Vec<(&'static str, Function<'static>, Function<'static>)> {
    vec![
        ("upsample2x", &|t| ops::upsample2x(&t[0]), &|t| compose::upsample2x(&t[0])),
        ("avg_pool2x2", &|t| ops::avg_pool2x2(&t[0]), &|t| compose::avg_pool2x2(&t[0])),
        ("max_pool2x2", &|t| ops::max_pool2x2(&t[0]), &|t| compose::max_pool2x2(&t[0])),
        // Shifted, as a sum near zero would consist of rounding errors.
        ("global_sum", &|t| ops::global_sum(&(&t[0] + 5.0)?), &|t| compose::global_sum(&(&t[0] + 5.0)?)),
        ("relu", &|t| ops::relu(&t[0]), &|t| compose::leaky_relu(&t[0], 0.0)),
        ("leaky_relu", &|t| ops::leaky_relu(&t[0], 0.1), &|t| compose::leaky_relu(&t[0], 0.1)),
        (
            "shortcut",
            &|t| run(&t[0], Settings::default(), |tape, x| Ok(Output::Maps(tape.subsample_pad(x, 8)?))),
            &|t| compose::subsample_pad(&t[0], 8),
        ),
        ("tanh", &|t| ops::tanh(&t[0]), &|t| t[0].tanh()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_batch_norm(
        // Covers channel blocks of 16, of 8 and of 1.
        (n, c, h, w) in (2usize..5, 1usize..28, 2usize..9, 2usize..30),
        (conditional, relu) in (any::<bool>(), any::<bool>()),
        seed in 0u64..1000,
    ) {
        check_norm(&[n, c, h, w], conditional, relu, seed).expect("shapes fit");
    }

    #[test]
    fn any_unary(shape in (1usize..4, 1usize..5, 2usize..9, 2usize..40), seed in 0u64..1000) {
        let x = (noise(&[shape.0, shape.1, shape.2, shape.3], seed) * 3.0).expect("a product");
        for (name, op, reference) in unary() {
            check(op, reference, std::slice::from_ref(&x)).expect(name);
        }
    }

    #[test]
    fn any_add_relu((n, c, h, w) in (1usize..4, 1usize..5, 1usize..9, 1usize..9), seed in 0u64..1000) {
        let inputs = [noise(&[n, c, h, w], seed), noise(&[n, c, h, w], seed + 1)];
        check(&|t| ops::add_relu(&t[0], &t[1]), &|t| compose::add_relu(&t[0], &t[1]), &inputs).expect("equal shapes");
    }

    #[test]
    fn any_attention(
        (n, c, v) in (1usize..4, 1usize..9, 1usize..20),
        (h, w, h2, w2) in (1usize..7, 1usize..7, 1usize..7, 1usize..7),
        seed in 0u64..1000,
    ) {
        let inputs = [noise(&[n, c, h, w], seed), noise(&[n, c, h2, w2], seed + 1), noise(&[n, v, h2, w2], seed + 2)];
        let inputs = [(&inputs[0] * 2.0).expect("a product"), inputs[1].clone(), inputs[2].clone()];
        check(&|t| ops::attend(&t[0], &t[1], &t[2]), &|t| compose::attend(&t[0], &t[1], &t[2]), &inputs)
            .expect("shapes fit");
    }

    #[test]
    fn any_cross_entropy((n, c) in (1usize..9, 1usize..40), seed in 0u64..1000) {
        let labels: Vec<u32> = (0..n).map(|i| ((i * 7 + seed as usize) % c) as u32).collect();
        let logits = (noise(&[n, c], seed) * 5.0).expect("a product");
        check(&|t| ops::cross_entropy(&t[0], &labels), &|t| compose::cross_entropy(&t[0], &labels), &[logits])
            .expect("labels fit");
    }

    #[test]
    fn any_soft_cross_entropy((n, c) in (1usize..9, 1usize..40), seed in 0u64..1000) {
        let logits = noise(&[n, c], seed);
        let raw = noise(&[n, c], seed + 1).exp().and_then(|t| t.flatten_all()?.to_vec1::<f32>()).expect("numbers");
        let sums: Vec<f32> = raw.chunks(c).map(|p| p.iter().sum()).collect();
        let targets: Vec<f32> = raw.iter().enumerate().map(|(i, v)| v / sums[i / c]).collect();
        let composed = |t: &[Tensor]| compose::soft_cross_entropy(&t[0], &targets);
        check(&|t| ops::soft_cross_entropy(&t[0], targets.clone()), &composed, &[logits]).expect("targets fit");
    }

    #[test]
    fn any_linear((n, i, o) in (1usize..9, 1usize..20, 1usize..20), seed in 0u64..1000) {
        let inputs = [noise(&[n, i], seed), noise(&[o, i], seed + 1), noise(&[o], seed + 2)];
        check(
            &|t| ops::linear(&t[0], &t[1], Some(&t[2])),
            &|t| t[0].matmul(&t[1].t()?)?.broadcast_add(&t[2]),
            &inputs,
        ).expect("shapes fit");
    }
}

#[test]
fn moments_are_accurate_far_from_zero() -> Result<()> {
    let x = (noise(&[5, 3, 17, 13], 1) + 100.0)?;
    let got = ops::channel_moments(&x)?;
    let (mean, var) = compose::channel_moments(&x)?;
    assert_eq!(got.count, 5 * 17 * 13);
    for (g, w) in [(got.mean, mean), (got.var, var)] {
        for (g, w) in values(&g)?.into_iter().zip(values(&w)?) {
            assert!((g - w).abs() <= 2e-7 * w.abs(), "{g} for {w}");
        }
    }
    let constant = ops::channel_moments(&Tensor::full(0.1f32, (2, 2, 3, 3), &Device::Cpu)?)?;
    assert_eq!(constant.mean.to_vec1::<f32>()?, [0.1, 0.1]);
    assert!(constant.var.to_vec1::<f32>()?.iter().all(|v| (0.0..1e-9).contains(v)));
    Ok(())
}

#[test]
fn tanh_and_attention_handle_extreme_values() -> Result<()> {
    let tiny = ops::tanh(&from(&[1e-30, -1e-6, 0.0, 20.0, -20.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN], &[8]))?;
    let tiny = tiny.to_vec1::<f32>()?;
    assert_eq!(&tiny[..7], &[1e-30, -1e-6, 0.0, 1.0, -1.0, 1.0, -1.0]);
    assert!(tiny[7].is_nan());
    for i in -4000..4000 {
        let x = i as f32 * 0.0025;
        let got = ops::tanh(&from(&[x], &[1]))?.to_vec1::<f32>()?[0];
        let want = f64::from(x).tanh();
        assert!((f64::from(got) - want).abs() <= 4e-7 * want.abs(), "tanh({x}) = {got} for {want}");
    }
    // With unit vectors as keys and values, the result is the attention weights.
    let unit = Tensor::eye(3, DType::F32, &Device::Cpu)?.reshape((1, 3, 3, 1))?;
    let logits = from(&[1e30, 0.0, -1e30, 0.0, 0.0, 0.0], &[2, 3]).t()?.reshape((1, 3, 2, 1))?;
    let rows = ops::attend(&logits, &unit, &unit)?.reshape((3, 2))?.t()?.to_vec2::<f32>()?;
    assert_eq!(rows[0], [1.0, 0.0, 0.0]);
    assert!(rows[1].iter().all(|v| (v - 1.0 / 3.0).abs() < 1e-7));
    Ok(())
}

#[test]
fn nan_propagates() -> Result<()> {
    let x = from(&[f32::NAN, 1.0, -1.0, 2.0], &[1, 1, 2, 2]);
    for y in [
        ops::relu(&x)?,
        ops::leaky_relu(&x, 0.2)?,
        ops::add_relu(&x, &x)?,
        ops::max_pool2x2(&x)?,
        ops::avg_pool2x2(&x)?,
        ops::global_sum(&x)?,
        ops::upsample2x(&x)?,
        train_norm(&[x.clone(), from(&[1.0], &[1]), from(&[0.0], &[1])], true)?,
    ] {
        assert!(y.flatten_all()?.to_vec1::<f32>()?[0].is_nan(), "{y}");
    }
    let moments = ops::channel_moments(&x)?;
    assert!(values(&moments.mean)?[0].is_nan() && values(&moments.var)?[0].is_nan());
    let one = from(&[1.0], &[1, 1, 1, 1]);
    for y in [ops::attend(&x, &one, &one)?, ops::attend(&one, &x, &x)?] {
        assert!(y.flatten_all()?.to_vec1::<f32>()?[0].is_nan(), "{y}");
    }
    assert!(ops::cross_entropy(&x.reshape((1, 4))?, &[1])?.to_scalar::<f32>()?.is_nan());
    Ok(())
}

#[test]
fn the_first_of_equal_maxima_gets_the_gradient() -> Result<()> {
    let x = candle_core::Var::from_tensor(&from(&[1.0, 3.0, 3.0, 3.0], &[1, 1, 2, 2]))?;
    let grads = ops::max_pool2x2(&x)?.sum_all()?.backward()?;
    assert_eq!(grads.get(&x).expect("x").flatten_all()?.to_vec1::<f32>()?, [0.0, 1.0, 0.0, 0.0]);
    Ok(())
}

#[test]
fn images_smaller_than_a_window_pool_to_nothing() -> Result<()> {
    let ops: [fn(&Tensor) -> Result<Tensor>; 2] = [ops::avg_pool2x2, ops::max_pool2x2];
    for op in ops {
        let (y, grads) = with_gradients(&|t| op(&t[0]), &[noise(&[2, 3, 1, 5], 1)])?;
        assert_eq!((y.dims(), grads[0].dims()), (&[2, 3, 0, 2][..], &[2, 3, 1, 5][..]));
        assert!(bits(&grads[0])?.into_iter().all(|b| b == 0));
    }
    Ok(())
}

#[test]
fn strided_inputs_are_supported() -> Result<()> {
    let x = noise(&[4, 6, 5, 8], 1);
    let view = |x: &Tensor| x.transpose(1, 3)?.narrow(0, 1, 2);
    for (name, op, _) in unary() {
        let seen = op(&[view(&x)?])?;
        assert_eq!(bits(&seen)?, bits(&op(&[view(&x)?.contiguous()?])?)?, "{name}");
    }
    let gain = noise(&[8, 2], 2);
    let bias = noise(&[8, 2], 3);
    let norm = |x: &Tensor, gain: &Tensor, bias: &Tensor| train_norm(&[x.clone(), gain.clone(), bias.clone()], true);
    let strided = norm(&view(&x)?, &gain.t()?, &bias.t()?)?;
    let copied = norm(&view(&x)?.contiguous()?, &gain.t()?.contiguous()?, &bias.t()?.contiguous()?)?;
    assert_eq!(bits(&strided)?, bits(&copied)?);
    let sums = ops::add_relu(&view(&x)?, &view(&x)?)?;
    assert_close("add_relu", &sums, &(view(&x)? * 2.0)?.relu()?, 1e-6)?;
    let key = noise(&[5, 3, 8, 2], 4).transpose(0, 2)?.narrow(0, 3, 2)?;
    let seen = ops::attend(&view(&x)?, &view(&x)?, &view(&x)?)?;
    let plain = view(&x)?.contiguous()?;
    assert_eq!(bits(&seen)?, bits(&ops::attend(&plain, &plain, &plain)?)?);
    assert!(ops::attend(&view(&x)?, &view(&x)?, &key).is_err(), "positions of key and value");
    Ok(())
}

#[test]
fn results_do_not_depend_on_threads() -> Result<()> {
    // Large enough for several tasks.
    let inputs = [noise(&[6, 5, 40, 50], 1), noise(&[6, 5], 2), noise(&[6, 5], 3)];
    same_on_any_threads(|| {
        let mut all = Vec::new();
        for (_, op, _) in unary() {
            let (y, grads) = with_gradients(op, &inputs[..1])?;
            all.extend([y, grads[0].clone()]);
        }
        let (y, grads) = with_gradients(&|t| train_norm(t, true), &inputs)?;
        all.push(y);
        all.extend(grads);
        Ok(all)
    })
}

#[test]
fn errors_name_the_shapes() {
    let x = noise(&[2, 3, 4, 4], 1);
    let one = noise(&[3], 2);
    let moments = ops::channel_moments(&x).expect("four dimensions");
    let norm = |x: &Tensor, gain: &Tensor, bias: &Tensor, moments: &Moments| {
        ops::batch_norm(x, gain, bias, moments, true, 1e-5, false).expect_err("batch_norm").to_string()
    };
    assert!(norm(&x, &noise(&[4], 1), &one, &moments).contains("gain [4]"));
    assert!(norm(&x, &one, &noise(&[2, 3], 1), &moments).contains("shift [2, 3]"));
    assert!(norm(&x, &noise(&[3, 2], 1), &noise(&[3, 2], 1), &moments).contains("[3, 2]"));
    assert!(norm(&noise(&[2, 3], 1), &one, &one, &moments).contains("[2, 3]"));
    assert!(norm(&noise(&[1, 3, 4, 4], 1), &one, &one, &moments).contains("32 values"));
    let key = noise(&[2, 5, 4, 4], 1);
    assert!(ops::attend(&x, &key, &x).expect_err("channels").to_string().contains("(2, 5, 4, 4)"));
    assert!(ops::attend(&noise(&[1, 3, 4, 4], 1), &x, &x).is_err(), "batches");
    assert!(ops::attend(&x, &noise(&[2, 3, 0, 4], 1), &noise(&[2, 3, 0, 4], 1)).is_err(), "no key positions");
    assert!(ops::add_relu(&x, &noise(&[2, 3, 4, 5], 1)).expect_err("shapes").to_string().contains("(2, 3, 4, 5)"));
    assert!(ops::relu(&x.to_dtype(DType::F64).expect("a copy")).expect_err("type").to_string().contains("F64"));
    assert!(ops::relu(&noise(&[2, 0, 4, 4], 1)).is_err(), "no channels");
    let short = Moments { mean: noise(&[1], 1), ..moments };
    assert!(norm(&x, &one, &one, &short).contains("moments [1]"));

    assert!(ops::add_relu(&x, &one).expect_err("rank").to_string().contains("[3]"));
    assert!(ops::cross_entropy(&noise(&[2, 3], 1), &[0]).expect_err("labels").to_string().contains("1 labels"));
    assert!(ops::cross_entropy(&noise(&[2, 3], 1), &[0, 3]).expect_err("label").to_string().contains("label 3"));
    assert!(ops::channel_moments(&noise(&[0, 3, 2, 2], 1)).is_err());
    assert!(ops::linear(&noise(&[2, 3], 1), &noise(&[4, 5], 1), None).is_err());
    for (name, op, _) in unary() {
        let flat = op(&[noise(&[7], 1)]);
        assert_eq!(flat.is_err(), name != "tanh", "{name}");
    }
}

//! Trunks on the emulated GPU against compositions of Candle ops in f64, including gradients.
//!
//! Each net is written twice: on the tape, and as a composition that Candle differentiates. Together the nets use every
//! primitive.

#[path = "../../../tests/ops_support/compose.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod compose;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::activation::Activation;
use crate::cuda::tests::{assert_close, available, noise, values};
use crate::geometry::Maps;
use crate::precision::Precision;
use crate::trunk::backend::{Backend, Data, Moments, Pre, Source};
use crate::trunk::tape::{Output, Tape, Value};

fn backend(precision: Precision) -> Arc<dyn Backend> {
    super::backend(&Device::Cpu, precision).unwrap()
}

/// A net of x and parameters, on the tape and as a composition of Candle ops.
type Recording<'a> = &'a dyn Fn(&mut Tape, Value, &[Tensor]) -> Result<Output>;
type Composition<'a> = &'a dyn Fn(&Tensor, &[Tensor]) -> Result<Tensor>;

/// Runs a net both ways, in both precisions, on x and parameters of these shapes, and compares the result and all gradients:
/// to 1e-5 in f32, and in bf16 to `bf16`, which allows for the rounding in that net.
fn check(what: &str, bf16: f64, x: &[usize], params: &[&[usize]], tape: Recording<'_>, composed: Composition<'_>) {
    if !available() {
        return;
    }
    let x = noise(x, 1);
    let params: Vec<Tensor> = params.iter().enumerate().map(|(i, shape)| noise(shape, 10 + i as u32)).collect();
    let vars = |dtype: DType| -> (Var, Vec<Var>) {
        let var = |t: &Tensor| Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap();
        (var(&x), params.iter().map(var).collect())
    };
    let plain = |vars: &[Var]| vars.iter().map(|var| var.as_tensor().clone()).collect::<Vec<_>>();

    let (wide_x, wide) = vars(DType::F64);
    let want = composed(&wide_x, &plain(&wide)).unwrap();
    let grad = noise(want.dims(), 99);
    let loss = (&want * grad.to_dtype(DType::F64).unwrap()).unwrap().sum_all().unwrap();
    let wanted = loss.backward().unwrap();

    for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, bf16)] {
        let (x, vars) = vars(DType::F32);
        let mut record = Tape::new(backend(precision), 0, x.dim(0).unwrap(), true);
        let input = record.input(&x).unwrap();
        let output = tape(&mut record, input, &plain(&vars)).unwrap();
        assert_close(&format!("{what}, {precision:?}"), &record.output(output).unwrap(), &want, tolerance);
        let (dx, grads) = record.backward(output, &grad).unwrap();
        assert_close(&format!("{what}, {precision:?}: dx"), &dx.unwrap(), wanted.get(&wide_x).unwrap(), tolerance);
        let mut compared = 0;
        for (i, (var, wide)) in vars.iter().zip(&wide).enumerate() {
            let Some(at) = record.params().iter().position(|p| p.id() == var.id()) else { continue };
            let want = wanted.get(wide).unwrap();
            let name = format!("{what}, {precision:?}: parameter {i}");
            assert_close(&name, grads[at].as_ref().unwrap(), want, tolerance);
            compared += 1;
        }
        assert_eq!(compared, vars.len(), "{what}: every parameter has a gradient");
    }
}

/// Batch norm with batch statistics, on the tape.
fn norm(tape: &mut Tape, x: Value, gain: &Tensor, shift: &Tensor, activation: Option<Activation>) -> Result<Value> {
    let moments = tape.moments(x)?;
    tape.batch_norm(x, gain, shift, &moments, true, 1e-3, activation)
}

/// The same as a composition.
fn normed(x: &Tensor, gain: &Tensor, shift: &Tensor) -> Result<Tensor> {
    compose::batch_norm(x, gain, shift, None, 1e-3, None)
}

/// A residual block whose shortcut is a convolution of stride 2.
fn residual(channels: [usize; 3], size: [usize; 2]) {
    let [c, d, e] = channels;
    check(
        &format!("residual block {channels:?} {size:?}"),
        0.2,
        &[3, c, size[0], size[1]],
        &[&[d, c, 3, 3], &[d], &[d], &[e, d, 3, 3], &[e], &[e], &[e, c, 1, 1], &[e], &[e, e, 3, 3]],
        &|t, x, p| {
            let a = t.conv2d(x, &p[0], None, 1, 1)?;
            let a = norm(t, a, &p[1], &p[2], Some(Activation::RELU))?;
            let a = t.conv2d(a, &p[3], None, 2, 1)?;
            let a = norm(t, a, &p[4], &p[5], None)?;
            let b = t.conv2d(x, &p[6], Some(&p[7]), 2, 0)?;
            let sum = t.add_relu(a, b)?;
            let c = t.conv2d(sum, &p[8], None, 1, 1)?;
            let d = t.add(c, sum)?;
            Ok(Output::Sums(d))
        },
        &|x, p| {
            let a = normed(&compose::conv2d(x, &p[0], None, 1, 1)?, &p[1], &p[2])?.relu()?;
            let a = normed(&compose::conv2d(&a, &p[3], None, 2, 1)?, &p[4], &p[5])?;
            let b = compose::conv2d(x, &p[6], Some(&p[7]), 2, 0)?;
            let sum = compose::add_relu(&a, &b)?;
            let c = compose::conv2d(&sum, &p[8], None, 1, 1)?;
            compose::global_sum(&(c + sum)?)
        },
    );
}

#[test]
fn residual_blocks_match_for_single_channels_and_packs() {
    residual([3, 5, 6], [8, 8]);
    residual([4, 8, 12], [7, 6]);
}

#[test]
fn conditional_norms_and_upsampling_match() {
    for c in [4, 6] {
        check(
            "generator block",
            0.2,
            &[3, c, 5, 4],
            &[&[3, c], &[3, c], &[c, c, 3, 3], &[3], &[3, c], &[3, c], &[3, c, 3, 3]],
            &|t, x, p| {
                let a = norm(t, x, &p[0], &p[1], Some(Activation::Leaky(0.2)))?;
                let a = t.upsample2x_conv2d(a, &p[2], None, 1)?;
                let b = t.upsample2x(x)?;
                let sum = t.add(a, b)?;
                let y = norm(t, sum, &p[4], &p[5], Some(Activation::RELU))?;
                let y = t.conv2d(y, &p[6], Some(&p[3]), 1, 1)?;
                Ok(Output::Maps(y))
            },
            &|x, p| {
                let a = compose::leaky_relu(&normed(x, &p[0], &p[1])?, 0.2)?;
                let a = compose::conv2d(&compose::upsample2x(&a)?, &p[2], None, 1, 1)?;
                let sum = (a + compose::upsample2x(x)?)?;
                let y = normed(&sum, &p[4], &p[5])?.relu()?;
                compose::conv2d(&y, &p[6], Some(&p[3]), 1, 1)
            },
        );
    }
}

#[test]
fn pools_and_shortcuts_match_for_odd_sizes() {
    for (c, wide, h, w) in [(4, 12, 9, 5), (3, 8, 6, 5), (8, 16, 5, 8), (4, 10, 8, 8)] {
        check(
            "pools and shortcuts",
            0.04,
            &[2, c, h, w],
            &[&[c, c, 3, 3], &[c], &[c], &[wide, c, 1, 1]],
            &|t, x, p| {
                let a = t.conv2d(x, &p[0], None, 1, 1)?;
                let a = norm(t, a, &p[1], &p[2], Some(Activation::Leaky(0.1)))?;
                let b = t.max_pool2x2(a)?;
                let b = t.conv2d(b, &p[3], None, 1, 0)?;
                let d = t.activation(x, Activation::Gelu)?;
                let d = t.avg_pool2x2(d)?;
                let d = t.conv2d(d, &p[3], None, 1, 0)?;
                let sum = t.add(b, d)?;
                let e = t.subsample_pad(a, wide)?;
                let e = t.avg_pool2x2(e)?;
                let f = t.avg_pool2x2(sum)?;
                let sum = t.add(e, f)?;
                let sum = t.activation(sum, Activation::RELU)?;
                Ok(Output::Maps(sum))
            },
            &|x, p| {
                let a = compose::conv2d(x, &p[0], None, 1, 1)?;
                let a = compose::leaky_relu(&normed(&a, &p[1], &p[2])?, 0.1)?;
                let b = compose::conv2d(&compose::max_pool2x2(&a)?, &p[3], None, 1, 0)?;
                let d = compose::avg_pool2x2(&x.gelu_erf()?)?;
                let sum = (b + compose::conv2d(&d, &p[3], None, 1, 0)?)?;
                let e = compose::avg_pool2x2(&compose::subsample_pad(&a, wide)?)?;
                (e + compose::avg_pool2x2(&sum)?)?.relu()
            },
        );
    }
}

#[test]
fn attention_matches() {
    for c in [4, 3] {
        check(
            "attention",
            0.04,
            &[2, c, 6, 4],
            &[&[5, c, 1, 1], &[5, c, 1, 1], &[c, c, 1, 1], &[c], &[c]],
            &|t, x, p| {
                let q = t.conv2d(x, &p[0], None, 1, 0)?;
                let k = t.conv2d(x, &p[1], None, 1, 0)?;
                let k = t.max_pool2x2(k)?;
                let v = t.conv2d(x, &p[2], None, 1, 0)?;
                let v = t.max_pool2x2(v)?;
                let v = norm(t, v, &p[3], &p[4], Some(Activation::Leaky(0.2)))?;
                let y = t.attend(q, k, v)?;
                let y = t.add(y, x)?;
                Ok(Output::Maps(y))
            },
            &|x, p| {
                let q = compose::conv2d(x, &p[0], None, 1, 0)?;
                let k = compose::max_pool2x2(&compose::conv2d(x, &p[1], None, 1, 0)?)?;
                let v = compose::max_pool2x2(&compose::conv2d(x, &p[2], None, 1, 0)?)?;
                let v = compose::leaky_relu(&normed(&v, &p[3], &p[4])?, 0.2)?;
                compose::attend(&q, &k, &v)? + x
            },
        );
    }
}

#[test]
fn running_statistics_are_constants() {
    let mean = (noise(&[4], 5) * 0.3).unwrap();
    let var = (noise(&[4], 6) + 2.0).unwrap();
    let moments = Moments { mean, var, count: 0 };
    check(
        "running statistics",
        0.04,
        &[3, 4, 4, 5],
        &[&[4], &[4]],
        &|t, x, p| {
            let y = t.batch_norm(x, &p[0], &p[1], &moments, false, 1e-3, Some(Activation::Leaky(0.1)))?;
            Ok(Output::Sums(y))
        },
        &|x, p| {
            let y = compose::batch_norm(x, &p[0], &p[1], Some((&moments.mean, &moments.var)), 1e-3, None)?;
            compose::global_sum(&compose::leaky_relu(&y, 0.1)?)
        },
    );
}

#[test]
fn moments_are_accurate_far_from_zero() {
    if !available() {
        return;
    }
    // Several partial sums, several columns of blocks, and both variants of the kernel.
    for (n, h, w, c) in [(4, 40, 40, 8), (5, 9, 9, 300), (2, 70, 70, 3), (1, 1, 1, 5)] {
        let backend = backend(Precision::F32);
        let x = (noise(&[n, c, h, w], 7) + 1000.0).unwrap();
        let found = backend.moments(Maps { n, h, w, c }, &backend.load(&x).unwrap()).unwrap();
        let wide = x.to_dtype(DType::F64).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
        let wide = wide.reshape((c, n * h * w)).unwrap();
        let mean = wide.mean_keepdim(1).unwrap();
        let var = wide.broadcast_sub(&mean).unwrap().sqr().unwrap().mean(1).unwrap();
        assert_close("mean", &found.mean, &mean.squeeze(1).unwrap(), 1e-7);
        assert_close("variance", &found.var, &var, 1e-5);
        assert_eq!(found.count, n * h * w);
    }
}

#[test]
fn the_first_of_equal_maxima_gets_the_gradient() {
    if !available() {
        return;
    }
    let backend = backend(Precision::F32);
    let x = Tensor::from_vec(vec![1f32, 1., 0., 2., 2., 9.], (1, 1, 2, 3), &Device::Cpu).unwrap();
    let maps = Maps { n: 1, h: 2, w: 3, c: 1 };
    let data = backend.load(&x).unwrap();
    let source = Source { data: &data, maps, pre: Pre::None };
    let dy = backend.load(&Tensor::full(5f32, (1, 1, 1, 1), &Device::Cpu).unwrap()).unwrap();
    let dx = backend.max_pool_gradient(source, &dy).unwrap();
    let dx = backend.store(Source { data: &dx, maps, pre: Pre::None }).unwrap();
    assert_eq!(values(&dx), [0., 0., 0., 5., 0., 0.]);
}

#[test]
fn maps_smaller_than_a_block_launch_one() {
    if !available() {
        return;
    }
    let backend = backend(Precision::F32);
    // No window of 2x2, so no pixel gets a gradient; four channels are one pack of one thread.
    let maps = Maps { n: 1, h: 1, w: 2, c: 4 };
    let data = backend.load(&noise(&[1, 4, 1, 2], 1)).unwrap();
    let source = Source { data: &data, maps, pre: Pre::None };
    let dx = backend.max_pool_gradient(source, &data).unwrap();
    let dx = backend.store(Source { data: &dx, maps, pre: Pre::None }).unwrap();
    assert_eq!(values(&dx), [0.0; 8]);
}

#[test]
fn bf16_rounds_like_candle() {
    if !available() {
        return;
    }
    let backend = backend(Precision::Bf16);
    let odd = [f32::INFINITY, f32::NEG_INFINITY, -0.0, 1.003_906_3, 1.011_718_8, f32::MAX, 1e-40];
    let x = Tensor::cat(&[&noise(&[500], 3), &Tensor::new(&odd, &Device::Cpu).unwrap()], 0).unwrap();
    let x = x.reshape((1, 3, 13, 13)).unwrap();
    let Data::Tensor(data) = backend.load(&x).unwrap() else { panic!("not a tensor") };
    let want = x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().to_dtype(DType::BF16).unwrap();
    assert_eq!(values(&data), values(&want));
    let nan = backend.load(&Tensor::full(f32::from_bits(0x7fff_ffff), (1, 1, 1, 1), &Device::Cpu).unwrap()).unwrap();
    let Data::Tensor(nan) = nan else { panic!("not a tensor") };
    assert!(values(&nan)[0].is_nan());
}

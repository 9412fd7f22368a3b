//! Convolutions against Candle's in f64, against finite differences, and against themselves on other threads and batches.

mod ops_support;

use candle_core::{Result, Tensor};
use gafi_kernels::ops;
use ops_support::{assert_close, bits, check, compose, noise, same_on_any_threads, with_gradients};
use proptest::prelude::*;

/// The reference for `upsample2x_conv2d`.
fn upsample_then_conv(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, padding: usize) -> Result<Tensor> {
    compose::conv2d(&compose::upsample2x(x)?, w, bias, 1, padding)
}

fn check_conv(x: &[usize], w: &[usize], stride: usize, padding: usize, seed: u64) -> Result<()> {
    let inputs = [noise(x, seed), noise(w, seed + 1), noise(&[w[0]], seed + 2)];
    check(
        &|t| ops::conv2d(&t[0], &t[1], Some(&t[2]), stride, padding),
        &|t| compose::conv2d(&t[0], &t[1], Some(&t[2]), stride, padding),
        &inputs,
    )?;
    check(
        &|t| ops::conv2d(&t[0], &t[1], None, stride, padding),
        &|t| compose::conv2d(&t[0], &t[1], None, stride, padding),
        &inputs[..2],
    )
}

fn check_upsampled(x: &[usize], w: &[usize], padding: usize, seed: u64) -> Result<()> {
    let inputs = [noise(x, seed), noise(w, seed + 1), noise(&[w[0]], seed + 2)];
    check(
        &|t| ops::upsample2x_conv2d(&t[0], &t[1], Some(&t[2]), padding),
        &|t| upsample_then_conv(&t[0], &t[1], Some(&t[2]), padding),
        &inputs,
    )
}

#[test]
fn convolutions_match_the_reference() -> Result<()> {
    check_conv(&[3, 1, 32, 32], &[8, 1, 3, 3], 1, 1, 1)?;
    check_conv(&[2, 16, 16, 16], &[16, 16, 3, 3], 1, 1, 2)?;
    check_conv(&[2, 16, 16, 16], &[32, 16, 3, 3], 2, 1, 3)?;
    check_conv(&[2, 16, 16, 16], &[24, 16, 4, 4], 2, 1, 4)?;
    check_conv(&[2, 40, 8, 8], &[12, 40, 1, 1], 1, 0, 5)?;
    check_conv(&[2, 16, 8, 8], &[1, 16, 3, 3], 1, 1, 6)?;
    check_upsampled(&[2, 20, 4, 4], &[16, 20, 3, 3], 1, 7)?;
    check_upsampled(&[2, 6, 5, 3], &[4, 6, 1, 1], 0, 8)?;
    // Whole panels of channels, for Winograd's transforms: whole and partial tiles, one image and several.
    check_conv(&[1, 16, 8, 8], &[16, 16, 3, 3], 1, 1, 10)?;
    check_conv(&[3, 16, 5, 7], &[32, 16, 3, 3], 1, 1, 11)?;
    check_conv(&[3, 32, 1, 1], &[16, 32, 3, 3], 1, 1, 12)?;
    check_conv(&[1, 48, 1, 6], &[16, 48, 3, 3], 1, 1, 13)?;
    check_conv(&[3, 64, 4, 4], &[80, 64, 3, 3], 1, 1, 14)?;
    // Whole panels on one side only; other paddings, kernels and strides.
    check_conv(&[2, 16, 6, 5], &[17, 16, 3, 3], 1, 1, 15)?;
    check_conv(&[2, 3, 6, 5], &[16, 3, 3, 3], 1, 1, 16)?;
    check_conv(&[2, 16, 6, 5], &[3, 16, 3, 3], 1, 1, 17)?;
    check_conv(&[2, 16, 6, 5], &[16, 16, 3, 3], 1, 0, 18)?;
    check_conv(&[2, 16, 6, 5], &[16, 16, 2, 2], 1, 1, 19)?;
    check_conv(&[2, 32, 7, 6], &[16, 32, 3, 3], 2, 1, 20)?;
    check_conv(&[2, 32, 8, 8], &[16, 32, 4, 4], 2, 1, 21)?;
    check_upsampled(&[3, 16, 3, 5], &[16, 16, 3, 3], 1, 22)?;
    // Padding too wide for the folded form.
    check_upsampled(&[2, 2, 3, 3], &[3, 2, 1, 1], 1, 9)
}

/// Numbers of channels, often whole panels of 16.
fn channels() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..20, prop::sample::select(vec![16usize, 32, 48])]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_convolution(
        n in 1usize..4,
        (cin, cout) in (channels(), channels()),
        (h, w) in (1usize..12, 1usize..12),
        k in 1usize..5,
        (stride, padding, seed) in (1usize..3, 0usize..2, 0u64..1000),
    ) {
        prop_assume!(h + 2 * padding >= k && w + 2 * padding >= k);
        check_conv(&[n, cin, h, w], &[cout, cin, k, k], stride, padding, seed).expect("shapes fit");
    }

    #[test]
    fn any_convolution_of_whole_panels(
        n in prop::sample::select(vec![1usize, 2, 3, 17]),
        (cin, cout) in (1usize..4, 1usize..4),
        (h, w, seed) in (1usize..10, 1usize..10, 0u64..1000),
    ) {
        check_conv(&[n, 16 * cin, h, w], &[16 * cout, 16 * cin, 3, 3], 1, 1, seed).expect("shapes fit");
    }

    #[test]
    fn any_upsampled_convolution(
        n in 1usize..4,
        (cin, cout) in (channels(), channels()),
        (h, w) in (1usize..8, 1usize..8),
        k in 1usize..5,
        (padding, seed) in (0usize..3, 0u64..1000),
    ) {
        prop_assume!(2 * h + 2 * padding >= k && 2 * w + 2 * padding >= k);
        check_upsampled(&[n, cin, h, w], &[cout, cin, k, k], padding, seed).expect("shapes fit");
    }
}

#[test]
fn strided_and_offset_inputs_are_supported() -> Result<()> {
    let x = noise(&[7, 10, 3, 9], 1);
    let w = noise(&[3, 3, 5, 8], 2);
    // Channels-last images from the middle of a larger tensor; transposed and cropped weights.
    let x = x.transpose(1, 2)?.transpose(2, 3)?.narrow(0, 2, 4)?;
    let w = w.transpose(0, 2)?.narrow(3, 4, 3)?;
    assert!(!x.is_contiguous() && !w.is_contiguous());
    let (y, grads) = with_gradients(&|t| ops::conv2d(&t[0], &t[1], None, 1, 1), &[x.contiguous()?, w.contiguous()?])?;
    let (from_views, view_grads) = with_gradients(
        &|t| {
            let x = t[0].transpose(1, 2)?.transpose(2, 3)?.narrow(0, 2, 4)?;
            ops::conv2d(&x, &t[1].transpose(0, 2)?.narrow(3, 4, 3)?, None, 1, 1)
        },
        &[noise(&[7, 10, 3, 9], 1), noise(&[3, 3, 5, 8], 2)],
    )?;
    assert_eq!(bits(&y)?, bits(&from_views)?);
    let seen = view_grads[0].transpose(1, 2)?.transpose(2, 3)?.narrow(0, 2, 4)?;
    assert_close("gradient of the viewed part", &seen.contiguous()?, &grads[0], 1e-6)?;
    let unseen = view_grads[0].narrow(0, 0, 2)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert_eq!(unseen, 0.0);
    // A broadcast upstream gradient, which is not contiguous.
    let v = candle_core::Var::from_tensor(&x.contiguous()?)?;
    let summed = ops::conv2d(&v, &w, None, 1, 1)?.sum((0, 2, 3))?.sum_all()?.backward()?;
    let ones = Tensor::ones_like(&y)?;
    let by_hand = (ops::conv2d(&v, &w, None, 1, 1)? * ones)?.sum_all()?.backward()?;
    assert_close("broadcast gradient", &summed.get(&v).expect("x").clone(), by_hand.get(&v).expect("x"), 1e-6)
}

#[test]
fn results_do_not_depend_on_threads() -> Result<()> {
    for (x, w, stride, padding) in [
        ([19, 5, 9, 9], [11, 5, 3, 3], 1, 1),
        ([1, 20, 12, 12], [40, 20, 3, 3], 1, 1),
        ([19, 16, 5, 7], [32, 16, 3, 3], 1, 1),
        ([5, 32, 12, 12], [16, 32, 3, 3], 1, 1),
        ([2, 17, 8, 8], [33, 17, 1, 1], 1, 0),
        ([9, 6, 10, 10], [12, 6, 4, 4], 2, 1),
    ] {
        let inputs = [noise(&x, 1), noise(&w, 2), noise(&w[..1], 3)];
        same_on_any_threads(|| {
            let (y, mut grads) = with_gradients(&|t| ops::conv2d(&t[0], &t[1], Some(&t[2]), stride, padding), &inputs)?;
            grads.push(y);
            Ok(grads)
        })?;
        same_on_any_threads(|| {
            let (y, mut grads) = with_gradients(&|t| ops::upsample2x_conv2d(&t[0], &t[1], Some(&t[2]), 0), &inputs)?;
            grads.push(y);
            Ok(grads)
        })?;
    }
    Ok(())
}

#[test]
fn results_do_not_depend_on_the_batch() -> Result<()> {
    type Op = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let cases: [(usize, [usize; 4], Op); 5] = [
        (9, [21, 9, 3, 3], |x, w| ops::conv2d(x, w, None, 1, 1)),
        (16, [32, 16, 3, 3], |x, w| ops::conv2d(x, w, None, 1, 1)),
        (9, [21, 9, 4, 4], |x, w| ops::conv2d(x, w, None, 2, 1)),
        (40, [17, 40, 1, 1], |x, w| ops::conv2d(x, w, None, 1, 0)),
        (9, [21, 9, 3, 3], |x, w| ops::upsample2x_conv2d(x, w, None, 1)),
    ];
    for (cin, w, op) in cases {
        for size in [(7, 7), (1, 2)] {
            let w = noise(&w, 2);
            let x = noise(&[13, cin, size.0, size.1], 1);
            if size.0 + 2 < w.dim(2)? {
                continue;
            }
            let together = op(&x, &w)?;
            for i in 0..13 {
                let alone = op(&x.narrow(0, i, 1)?, &w)?;
                assert_eq!(bits(&alone)?, bits(&together.narrow(0, i, 1)?)?, "image {i} of {x:?}, {w:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn untracked_inputs_get_no_gradient() -> Result<()> {
    let x = noise(&[2, 3, 6, 6], 1);
    let w = candle_core::Var::from_tensor(&noise(&[4, 3, 3, 3], 2))?;
    let grads = ops::conv2d(&x, &w, None, 1, 1)?.sum_all()?.backward()?;
    assert!(grads.get(&w).is_some() && grads.get(&x).is_none());
    Ok(())
}

#[test]
fn an_empty_batch_has_zero_gradients() -> Result<()> {
    for c in [3, 16] {
        let (y, grads) = with_gradients(
            &|t| ops::conv2d(&t[0], &t[1], Some(&t[2]), 1, 1),
            &[noise(&[0, c, 6, 6], 1), noise(&[16, c, 3, 3], 2), noise(&[16], 3)],
        )?;
        assert_eq!((y.dims(), grads[0].dims()), (&[0, 16, 6, 6][..], &[0, c, 6, 6][..]));
        assert!(bits(&grads[1])?.into_iter().chain(bits(&grads[2])?).all(|b| b == 0));
    }
    Ok(())
}

#[test]
fn errors_name_the_shapes() {
    let fails = |x: &[usize], w: &[usize], b: &[usize], stride: usize| {
        let (x, w, b) = (noise(x, 1), noise(w, 2), noise(b, 3));
        let plain = ops::conv2d(&x, &w, Some(&b), stride, 0).expect_err("conv2d").to_string();
        let up = ops::upsample2x_conv2d(&x, &w, Some(&b), 0).map(|_| String::new()).unwrap_or_else(|e| e.to_string());
        (plain, up)
    };
    let (plain, up) = fails(&[2, 3, 6, 6], &[4, 5, 3, 3], &[4], 1);
    assert!(plain.contains("conv2d") && plain.contains("[4, 5, 3, 3]") && plain.contains("[2, 3, 6, 6]"), "{plain}");
    assert!(up.contains("upsample2x_conv2d") && up.contains("[4, 5, 3, 3]"), "{up}");
    let (plain, up) = fails(&[2, 3, 6, 6], &[4, 3, 3, 3], &[5], 1);
    assert!(plain.contains("bias [5]") && up.contains("bias [5]"), "{plain} / {up}");
    assert!(fails(&[2, 3, 6, 6], &[4, 3, 3, 2], &[4], 1).0.contains("[4, 3, 3, 2]"));
    assert!(fails(&[2, 3, 6], &[4, 3, 3, 3], &[4], 1).0.contains("[2, 3, 6]"));
    assert!(fails(&[2, 3, 2, 2], &[4, 3, 3, 3], &[4], 1).0.contains("kernel 3"));
    assert!(fails(&[2, 3, 6, 6], &[4, 3, 3, 3], &[4], 0).0.contains("stride 0"));
}

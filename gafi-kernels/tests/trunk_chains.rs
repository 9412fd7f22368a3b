//! Networks on a tape: views in front of every op, values with several readers, batches whole and in pieces.
#![expect(clippy::print_stdout, reason = "shows the failing case")]

mod ops_support;

use candle_core::{Result, Tensor, Var};
use gafi_kernels::Precision;
use gafi_kernels::trunk::{Activation, Batch, Output, Settings, Tape, Value, run};
use ops_support::chain::{Chain, Norm};
use ops_support::{
    assert_close, assert_within, bits, check, check_composed, compose, noise, same_on_any_threads, scales, values,
    well_conditioned, with_gradients,
};

const FUSED: Settings = Settings { precision: Precision::F32, batch: Batch::FusedMoments };
const PIECES: Settings = Settings { precision: Precision::F32, batch: Batch::Pieces };
const BF16: Settings = Settings { precision: Precision::Bf16, batch: Batch::Whole };

/// Three stages of a ResNet: conv-norm-relu-conv-norm-add-relu, the second and third of which halve the size.
fn residual(shape: [usize; 4], norm: Norm) -> Chain {
    let mut chain = Chain::new(shape);
    let x = chain.conv(0, 16, 3, 1, 1, false);
    let mut skip = chain.norm(x, norm, false, Some(Activation::RELU));
    for (channels, stride) in [(16, 1), (32, 2)] {
        let h = chain.conv(skip, channels, 3, stride, 1, false);
        let h = chain.norm(h, norm, false, Some(Activation::RELU));
        let h = chain.conv(h, channels, 3, 1, 1, false);
        let h = chain.norm(h, norm, false, None);
        let shortcut = if stride == 1 { skip } else { chain.subsample_pad(skip, channels) };
        skip = chain.add(h, shortcut, true);
    }
    chain.sums = true;
    chain
}

/// A generator block: conditional norms before its convolutions, the second of which is upsampled, and an upsampled skip
/// connection; then gated attention with smaller keys and values.
fn generator(shape: [usize; 4], norm: Norm) -> Chain {
    let mut chain = Chain::new(shape);
    let x = chain.conv(0, 16, 1, 1, 0, true);
    let h = chain.norm(x, norm, true, Some(Activation::RELU));
    let h = chain.conv(h, 16, 3, 1, 1, true);
    let h = chain.norm(h, norm, true, Some(Activation::Leaky(0.2)));
    let h = chain.upconv(h, 8, 3, 1, true);
    let skip = chain.conv(x, 8, 1, 1, 0, false);
    let skip = chain.upsample(skip);
    let x = chain.add(h, skip, false);
    let query = chain.conv(x, 4, 1, 1, 0, false);
    let key = chain.conv(x, 4, 1, 1, 0, false);
    let key = chain.max_pool(key);
    let value = chain.conv(x, 5, 1, 1, 0, false);
    let value = chain.max_pool(value);
    let attended = chain.attend(query, key, value);
    let gated = chain.conv(attended, 8, 1, 1, 0, false);
    let x = chain.add(gated, x, false);
    let h = chain.norm(x, norm, false, Some(Activation::RELU));
    chain.conv(h, 3, 3, 1, 1, true);
    chain
}

/// A discriminator block: activations before its convolutions, average pools after them, and an extra input.
fn discriminator(shape: [usize; 4]) -> Chain {
    let mut chain = Chain::new(shape);
    let x = chain.conv(0, 16, 4, 2, 1, true);
    let h = chain.activation(x, Activation::RELU);
    let h = chain.conv(h, 8, 1, 1, 0, true);
    let h = chain.activation(h, Activation::Leaky(0.2));
    let h = chain.conv(h, 16, 3, 1, 1, true);
    let extra = chain.extra_input([shape[0], 16, shape[2] / 2, shape[3] / 2]);
    let h = chain.add(h, extra, false);
    let h = chain.activation(h, Activation::Leaky(0.2));
    let h = chain.avg_pool(h);
    let skip = chain.avg_pool(x);
    let x = chain.add(h, skip, false);
    chain.activation(x, Activation::RELU);
    chain.sums = true;
    chain
}

fn named() -> Vec<(&'static str, Chain)> {
    vec![
        ("residual", residual([3, 3, 8, 8], Norm::Train)),
        ("residual, odd", residual([2, 1, 7, 9], Norm::Eval)),
        ("generator", generator([2, 6, 4, 4], Norm::Train)),
        ("generator, odd", generator([3, 5, 3, 5], Norm::Eval)),
        ("discriminator", discriminator([3, 3, 12, 8])),
        ("discriminator, odd", discriminator([1, 2, 11, 9])),
    ]
}

/// The result on a tape, and its gradients.
fn on_tape(chain: &Chain, settings: Settings, inputs: &[Tensor]) -> Result<(Tensor, Vec<Tensor>)> {
    with_gradients(&|t| chain.on_tape(t, settings), inputs)
}

#[test]
fn networks_match_plain_candle_and_finite_differences() -> Result<()> {
    for (i, (name, chain)) in named().iter().enumerate() {
        println!("{name}");
        let inputs = chain.inputs(100 * i as u64);
        check(&|t| chain.on_tape(t, Settings::default()), &|t| chain.composed(t), &inputs)?;
        check_composed(&|t| chain.on_tape(t, FUSED), &|t| chain.composed(t), &inputs)?;
    }
    Ok(())
}

#[test]
fn random_networks_match_plain_candle() -> Result<()> {
    let mut skipped = 0;
    for seed in 0..200 {
        let chain = Chain::random(seed, 2 + seed as usize % 9, true);
        println!("{seed}: {chain:?}");
        let inputs = chain.inputs(seed);
        let composed = |t: &[Tensor]| chain.composed(t);
        if !well_conditioned(&composed, &inputs)? {
            skipped += 1;
            continue;
        }
        let settings = if seed % 3 == 0 { FUSED } else { Settings::default() };
        check_composed(&|t| chain.on_tape(t, settings), &composed, &inputs)?;
    }
    assert!(skipped < 10, "{skipped} ill-conditioned networks were skipped");
    Ok(())
}

/// A norm or an activation in front of each op, and in front of the output.
#[test]
fn every_op_reads_every_view() -> Result<()> {
    type Reader = fn(&mut Chain, usize) -> usize;
    let readers: [(&str, Reader); 14] = [
        ("conv", |c, v| c.conv(v, 5, 3, 1, 1, true)),
        ("winograd", |c, v| c.conv(v, 16, 3, 1, 1, true)),
        ("strided", |c, v| c.conv(v, 5, 4, 2, 1, false)),
        ("pointwise", |c, v| c.conv(v, 16, 1, 1, 0, false)),
        ("upconv", |c, v| c.upconv(v, 4, 3, 1, true)),
        ("upsample", |c, v| c.upsample(v)),
        ("avg_pool", |c, v| c.avg_pool(v)),
        ("max_pool", |c, v| c.max_pool(v)),
        ("shortcut", |c, v| c.subsample_pad(v, 21)),
        ("add", |c, v| c.add(v, 0, false)),
        ("add_relu", |c, v| c.add(0, v, true)),
        ("attend", |c, v| c.attend(v, v, v)),
        ("sums", |c, v| {
            c.sums = true;
            v
        }),
        ("maps", |_, v| v),
    ];
    type View = fn(&mut Chain) -> usize;
    let views: [(&str, View); 8] = [
        ("norm", |c| c.norm(0, Norm::Train, false, None)),
        ("norm, relu", |c| c.norm(0, Norm::Train, false, Some(Activation::RELU))),
        ("conditional norm, leaky", |c| c.norm(0, Norm::Train, true, Some(Activation::Leaky(0.2)))),
        ("fixed norm, relu", |c| c.norm(0, Norm::Eval, false, Some(Activation::RELU))),
        ("conditional fixed norm", |c| c.norm(0, Norm::Eval, true, None)),
        ("leaky", |c| c.activation(0, Activation::Leaky(0.1))),
        ("gelu", |c| c.activation(0, Activation::Gelu)),
        ("norm, gelu", |c| c.norm(0, Norm::Train, false, Some(Activation::Gelu))),
    ];
    for (view_name, view) in views {
        for (i, (name, reader)) in readers.into_iter().enumerate() {
            println!("{view_name} in front of {name}");
            let mut chain = Chain::new([3, 16, 5, 6]);
            let seen = view(&mut chain);
            reader(&mut chain, seen);
            let op = |t: &[Tensor]| chain.on_tape(t, Settings::default());
            check_composed(&op, &|t| chain.composed(t), &chain.inputs(i as u64))?;
        }
    }
    Ok(())
}

#[test]
fn a_value_may_be_added_to_itself_and_have_three_readers() -> Result<()> {
    for relu in [false, true] {
        let mut twice = Chain::new([2, 5, 4, 3]);
        twice.add(0, 0, relu);
        check(&|t| twice.on_tape(t, Settings::default()), &|t| twice.composed(t), &twice.inputs(1))?;

        let mut view_twice = Chain::new([2, 5, 4, 3]);
        let h = view_twice.norm(0, Norm::Train, false, Some(Activation::Leaky(0.2)));
        view_twice.add(h, h, relu);
        check(&|t| view_twice.on_tape(t, Settings::default()), &|t| view_twice.composed(t), &view_twice.inputs(2))?;

        let mut thrice = Chain::new([2, 16, 4, 3]);
        let x = thrice.conv(0, 16, 3, 1, 1, true);
        let a = thrice.conv(x, 16, 3, 1, 1, false);
        let b = thrice.activation(x, Activation::Leaky(0.2));
        let sum = thrice.add(a, b, relu);
        let sum = thrice.add(x, sum, false);
        // Both terms share the incoming gradient, and each accumulates another one.
        thrice.add(sum, x, relu);
        check(&|t| thrice.on_tape(t, Settings::default()), &|t| thrice.composed(t), &thrice.inputs(3))?;
    }
    Ok(())
}

#[test]
fn a_tensor_may_be_used_twice() -> Result<()> {
    // As input and as extra input; and a weight in two convolutions.
    let f = |t: &[Tensor]| {
        run(&t[0], Settings::default(), |tape, x| {
            let a = tape.extra_input(&t[0])?;
            let b = tape.extra_input(&t[2])?;
            let a = tape.conv2d(a, &t[1], None, 1, 1)?;
            let x = tape.conv2d(x, &t[1], None, 1, 1)?;
            let sum = tape.add(a, x)?;
            let again = tape.extra_input(&t[2])?;
            let both = tape.add(b, again)?;
            Ok(Output::Maps(tape.add(sum, both)?))
        })
    };
    let composed = |t: &[Tensor]| (compose::conv2d(&t[0], &t[1], None, 1, 1)? + &t[2])? * 2.0;
    check(&f, &composed, &[noise(&[2, 3, 4, 5], 1), noise(&[4, 3, 3, 3], 2), noise(&[2, 4, 4, 5], 3)])
}

#[test]
fn a_batch_in_pieces_equals_the_whole_batch_bit_by_bit() -> Result<()> {
    let mut chains: Vec<Chain> = (0..30).map(|seed| Chain::random(seed, 8, false)).collect();
    chains.extend([residual([1, 3, 8, 8], Norm::Eval), generator([2, 6, 4, 4], Norm::Eval)]);
    chains.push(discriminator([3, 2, 8, 10]));
    for (seed, chain) in chains.iter().enumerate() {
        // Two pieces, the second smaller.
        let inputs = chain.repeated(seed as u64, 11)?;
        for precision in [Precision::F32, Precision::Bf16] {
            let whole = chain.on_tape(&inputs, Settings { precision, batch: Batch::Whole })?;
            let pieces = chain.on_tape(&inputs, Settings { precision, batch: Batch::Pieces })?;
            assert!(bits(&whole)? == bits(&pieces)?, "{precision:?} of {chain:?}");
        }
    }
    Ok(())
}

#[test]
fn results_do_not_depend_on_threads_or_batch() -> Result<()> {
    for (name, chain) in named() {
        let inputs = chain.inputs(5);
        for settings in [Settings::default(), FUSED, BF16] {
            println!("{name} {settings:?}");
            same_on_any_threads(|| {
                let (y, mut grads) = on_tape(&chain, settings, &inputs)?;
                grads.push(y);
                Ok(grads)
            })?;
        }
    }
    let chain = residual([11, 3, 7, 5], Norm::Eval);
    let inputs = chain.inputs(6);
    for settings in [Settings::default(), BF16] {
        let together = chain.on_tape(&inputs, settings)?;
        for i in 0..11 {
            let mut alone = inputs.clone();
            alone[0] = inputs[0].narrow(0, i, 1)?;
            assert_eq!(bits(&chain.on_tape(&alone, settings)?)?, bits(&together.narrow(0, i, 1)?)?, "image {i}");
        }
    }
    Ok(())
}

/// The Euclidean distance between all `got` and all `want`, relative to the norm of `want`.
fn distance(got: &[Tensor], want: &[Tensor]) -> Result<f64> {
    let mut off = 0.0;
    let mut length = 0.0;
    for (got, want) in got.iter().zip(want) {
        for (g, w) in values(got)?.into_iter().zip(values(want)?) {
            off += (g - w).powi(2);
            length += w.powi(2);
        }
    }
    Ok((off / length).sqrt())
}

/// The result, and without kinks the concatenated gradients, are within 3e-2; a single gradient, whose terms may cancel, is
/// within 1e-1.
#[test]
fn bf16_matches_f32_within_rounding() -> Result<()> {
    for (i, (name, chain)) in named().iter().enumerate() {
        let inputs = chain.inputs(100 * i as u64);
        // With kinks, rounding may move a value across one and change its gradient altogether.
        for (chain, tolerance) in [(chain.clone(), 1e-1), (chain.smooth(), 3e-2)] {
            let (y, grads) = on_tape(&chain, Settings::default(), &inputs)?;
            let (y16, grads16) = on_tape(&chain, BF16, &inputs)?;
            assert_close(name, &y16, &y, 3e-2)?;
            let off = distance(&grads16, &grads)?;
            assert!(off < tolerance, "{name}: gradients are off by {off}");
            let scales = scales(&grads)?;
            let all = scales.iter().fold(0.0f64, |m, v| m.max(*v));
            for (i, (grad, want)) in grads16.iter().zip(&grads).enumerate().filter(|_| tolerance == 3e-2) {
                let scale = scales[i].max(5e-2 * all);
                assert_within(&format!("{name}: gradient {i}"), grad, want, 1e-1 * scale)?;
            }
        }
    }
    Ok(())
}

#[test]
fn convolutions_compute_the_moments_of_their_results() -> Result<()> {
    let w = noise(&[16, 3, 3, 3], 2);
    let x = (noise(&[5, 3, 6, 7], 1) + 2.0)?;
    let y = compose::conv2d(&x, &w, None, 1, 1)?;
    let (mean, var) = compose::channel_moments(&y)?;
    for batch in [Batch::Whole, Batch::FusedMoments] {
        run(&x, Settings { batch, ..Settings::default() }, |tape, x| {
            let y = tape.before_norm().conv2d(x, &w, None, 1, 1)?;
            let got = tape.moments(y)?;
            assert_eq!(got.count, 5 * 6 * 7);
            assert_close("mean", &got.mean, &mean, 1e-5)?;
            assert_close("var", &got.var, &var, 1e-5)?;
            Ok(Output::Maps(y))
        })?;
    }
    Ok(())
}

#[test]
fn an_empty_batch_has_an_empty_result() -> Result<()> {
    for chain in [residual([0, 3, 8, 8], Norm::Eval), generator([0, 6, 4, 4], Norm::Eval), discriminator([0, 3, 8, 8])]
    {
        for settings in [Settings::default(), FUSED, PIECES, BF16] {
            let inputs = chain.inputs(1);
            let (y, grads) = if settings == PIECES {
                (chain.on_tape(&inputs, settings)?, Vec::new())
            } else {
                on_tape(&chain, settings, &inputs)?
            };
            assert_eq!(y.dim(0)?, 0);
            for (grad, input) in grads.iter().zip(&inputs) {
                assert_eq!(grad.dims(), input.dims());
                assert!(values(grad)?.into_iter().all(|v| v == 0.0));
            }
        }
    }
    Ok(())
}

#[test]
fn misuse_is_an_error() -> Result<()> {
    let x = noise(&[10, 3, 4, 4], 1);
    let w = Var::from_tensor(&noise(&[4, 3, 3, 3], 2))?;
    let tracked = Var::from_tensor(&x)?;
    let plain = Settings::default();
    let view = "x is a norm or an activation";
    let extra = |tape: &mut Tape, shape: &[usize]| tape.extra_input(&noise(shape, 1)).map(Output::Maps);
    type Build<'a> = &'a (dyn Fn(&mut Tape, Value) -> Result<Output> + Sync);
    let cases: [(Settings, &str, Build<'_>); 10] = [
        (plain, view, &|tape, x| {
            let h = tape.activation(x, Activation::RELU)?;
            tape.moments(h).map(|_| Output::Sums(h))
        }),
        (plain, view, &|tape, x| {
            let h = tape.activation(x, Activation::RELU)?;
            tape.activation(h, Activation::RELU).map(Output::Sums)
        }),
        (plain, view, &|tape, x| {
            let h = tape.activation(x, Activation::RELU)?;
            let one = noise(&[3], 1);
            let moments = tape.moments(x)?;
            tape.batch_norm(h, &one, &one, &moments, true, 1e-5, None).map(Output::Sums)
        }),
        (plain, "expected 10 rows", &|tape, _| extra(tape, &[9, 3, 4, 4])),
        (plain, "[10, 3, 4]", &|tape, _| extra(tape, &[10, 3, 4])),
        (PIECES, "expected 10 rows", &|tape, _| extra(tape, &[8, 3, 4, 4])),
        (plain, "[11, 2]", &|tape, x| tape.rows(&noise(&[11, 2], 1)).map(|_| Output::Sums(x))),
        (PIECES, "no gradient", &|tape, x| tape.conv2d(x, &w, None, 1, 1).map(Output::Sums)),
        (PIECES, "no gradient", &|tape, _| tape.extra_input(&tracked).map(Output::Sums)),
        (plain, "2 channels", &|tape, x| tape.subsample_pad(x, 2).map(Output::Maps)),
    ];
    for (settings, message, build) in cases {
        let error = run(&x, settings, build).expect_err("misuse").to_string();
        assert!(error.contains(message), "{error}");
    }
    // If the gradient of x is required, the batch is not divided.
    let whole = run(tracked.as_tensor(), PIECES, |tape, x| Ok(Output::Sums(tape.conv2d(x, &w, None, 1, 1)?)))?;
    assert_eq!(whole.sum_all()?.backward()?.get(&tracked).map(|g| g.dims().to_vec()), Some(vec![10, 3, 4, 4]));
    Ok(())
}

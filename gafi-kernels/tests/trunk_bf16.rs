//! A trunk in bf16 against the same trunk in f32: a network with all kinds of convolutions, forward and backward.

use candle_core::{Device, Result, Tensor, Var};
use gafi_kernels::Precision;
use gafi_kernels::trunk::{Activation, Batch, Output, Settings, run};

/// Close to 1: through a relu, a sign changed by rounding would change the gradient altogether.
const SLOPE: f32 = 0.9;

/// Numbers in -scale..scale that depend only on `seed` and their position.
fn numbers(shape: &[usize], seed: u64, scale: f32) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut number = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| number()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// The result, and the gradients of the input and of most parameters.
fn results(precision: Precision) -> Result<Vec<Tensor>> {
    let var = |shape: &[usize], seed, scale| Var::from_tensor(&numbers(shape, seed, scale)?);
    let x = var(&[6, 3, 9, 8], 1, 1.0)?;
    let first = var(&[20, 3, 3, 3], 2, 0.3)?;
    let bias = var(&[20], 3, 0.1)?;
    let gain = var(&[20], 4, 1.0)?;
    let shift = var(&[20], 5, 0.5)?;
    let down = var(&[32, 20, 3, 3], 6, 0.1)?;
    let up = var(&[17, 32, 3, 3], 7, 0.1)?;
    let last = var(&[5, 17, 1, 1], 8, 0.3)?;
    let y = run(&x, Settings { precision, batch: Batch::FusedMoments }, |tape, x| {
        let h = tape.before_norm().conv2d(x, &first, Some(&bias), 1, 1)?;
        let moments = tape.moments(h)?;
        let h = tape.batch_norm(h, &gain, &shift, &moments, true, 1e-5, Some(Activation::Leaky(SLOPE)))?;
        let h = tape.conv2d(h, &down, None, 2, 1)?;
        let h = tape.activation(h, Activation::Leaky(SLOPE))?;
        let h = tape.upsample2x_conv2d(h, &up, None, 1)?;
        let h = tape.activation(h, Activation::Leaky(SLOPE))?;
        Ok(Output::Maps(tape.conv2d(h, &last, None, 1, 0)?))
    })?;
    let grads = (&y * numbers(y.dims(), 9, 1.0)?)?.sum_all()?.backward()?;
    let mut all = vec![y.detach()];
    for var in [&x, &first, &gain, &shift, &down, &up, &last] {
        all.push(grads.get(var).cloned().ok_or_else(|| candle_core::Error::Msg("no gradient".into()))?);
    }
    Ok(all)
}

#[test]
fn bf16_is_close_to_f32() -> Result<()> {
    for (i, (got, want)) in results(Precision::Bf16)?.iter().zip(results(Precision::F32)?).enumerate() {
        let norm = |t: &Tensor| t.sqr()?.sum_all()?.to_scalar::<f32>();
        // A bf16 has 8 significant bits, and a few roundings follow each other.
        let relative = (norm(&(got - &want)?)? / norm(&want)?).sqrt();
        assert!(relative > 1e-5, "tensor {i} was not computed in bf16");
        assert!(relative < 2e-2, "tensor {i}: off by {relative}");
    }
    Ok(())
}

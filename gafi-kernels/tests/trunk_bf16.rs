//! Trunks in bf16 against trunks in f32: one network through all kinds of convolutions, forwards and backwards.

use candle_core::{Device, Result, Tensor, Var};
use gafi_kernels::trunk::{Batch, Output, Precision, Settings, run};

/// Nearly straight: where rounding changes a sign, the gradient through a relu would change altogether.
const SLOPE: f32 = 0.9;

/// Numbers in -scale..scale that follow from their index.
fn numbers(shape: &[usize], seed: u64, scale: f32) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut number = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| number()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// The result, and the gradients of the input and of all parameters.
fn through(precision: Precision) -> Result<Vec<Tensor>> {
    let var = |shape: &[usize], seed, scale| Var::from_tensor(&numbers(shape, seed, scale)?);
    let x = var(&[6, 3, 9, 8], 1, 1.0)?;
    let (first, bias) = (var(&[20, 3, 3, 3], 2, 0.3)?, var(&[20], 3, 0.1)?);
    let (gain, shift) = (var(&[20], 4, 1.0)?, var(&[20], 5, 0.5)?);
    let (down, up, last) = (var(&[32, 20, 3, 3], 6, 0.1)?, var(&[17, 32, 3, 3], 7, 0.1)?, var(&[5, 17, 1, 1], 8, 0.3)?);
    let y = run(&x, Settings { precision, batch: Batch::Normed }, |tape, x| {
        let h = tape.before_norm().conv2d(x, &first, Some(&bias), 1, 1)?;
        let moments = tape.moments(h)?;
        let h = tape.batch_norm(h, &gain, &shift, &moments, true, 1e-5, Some(SLOPE))?;
        let h = tape.conv2d(h, &down, None, 2, 1)?;
        let h = tape.leaky_relu(h, SLOPE)?;
        let h = tape.upsample2x_conv2d(h, &up, None, 1)?;
        let h = tape.leaky_relu(h, SLOPE)?;
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
    for (i, (got, want)) in through(Precision::Bf16)?.iter().zip(through(Precision::F32)?).enumerate() {
        let norm = |t: &Tensor| t.sqr()?.sum_all()?.to_scalar::<f32>();
        let (off, size) = (norm(&(got - &want)?)?, norm(&want)?);
        // A bf16 has 8 bits; errors of a handful of roundings in a row.
        let relative = (off / size).sqrt();
        assert!(relative > 1e-5, "number {i} was not made in bf16");
        assert!(relative < 2e-2, "number {i}: off by {relative}");
    }
    Ok(())
}

//! Shared by the tests of ops and trunks: inputs, and the comparison of an op with a reference in f64.
#![allow(dead_code, reason = "each test binary uses some of it")]

pub(crate) mod chain;
pub(crate) mod compose;

use candle_core::{DType, Device, Result, Tensor, Var};

/// A function of tensors, for f32 and f64 alike.
pub(crate) type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Numbers in -1..1 that depend only on `seed` and their position.
pub(crate) fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    for _ in 0..4 {
        next();
    }
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor on the CPU")
}

/// All values, as f64.
pub(crate) fn values(t: &Tensor) -> Result<Vec<f64>> {
    t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The bits of all values.
pub(crate) fn bits(t: &Tensor) -> Result<Vec<u32>> {
    Ok(t.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}

/// Panics unless all of `got` are within `tolerance` of `want`, relative to its largest magnitude.
pub(crate) fn assert_close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) -> Result<()> {
    let scale = largest(want)?;
    assert_within(what, got, want, tolerance * scale)
}

/// The largest magnitude.
fn largest(t: &Tensor) -> Result<f64> {
    Ok(values(t)?.iter().fold(1e-6f64, |m, v| m.max(v.abs())))
}

/// The scale for errors of each gradient: its largest magnitude, but at least 1e-3 of the largest of all, as a gradient may
/// cancel to zero (that of a bias in front of a norm does).
pub(crate) fn scales(grads: &[Tensor]) -> Result<Vec<f64>> {
    let each = grads.iter().map(largest).collect::<Result<Vec<_>>>()?;
    let all = each.iter().fold(0.0f64, |m, v| m.max(*v));
    Ok(each.into_iter().map(|v| v.max(1e-3 * all)).collect())
}

/// Panics unless all of `got` are within `distance` of `want`.
pub(crate) fn assert_within(what: &str, got: &Tensor, want: &Tensor, distance: f64) -> Result<()> {
    assert_eq!(got.dims(), want.dims(), "{what}: shape");
    let got = values(got)?;
    let want = values(want)?;
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!((g - w).abs() <= distance, "{what}[{i}]: expected {w} within {distance}, got {g}");
    }
    Ok(())
}

/// Whether `reference` in f32 matches itself in f64, so that a kernel can be expected to match too.
pub(crate) fn well_conditioned(reference: Function, inputs: &[Tensor]) -> Result<bool> {
    let wide = inputs.iter().map(|t| t.to_dtype(DType::F64)).collect::<Result<Vec<_>>>()?;
    let (_, grads) = with_gradients(reference, inputs)?;
    let (_, want) = with_gradients(reference, &wide)?;
    for ((grad, want), scale) in grads.iter().zip(&want).zip(scales(&want)?) {
        let off = (grad.to_dtype(DType::F64)? - want)?;
        if values(&off)?.into_iter().any(|v| v.abs() > 2e-5 * scale) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The result of `f`, and the gradients of sum(f * noise) with respect to all `inputs`.
pub(crate) fn with_gradients(f: Function, inputs: &[Tensor]) -> Result<(Tensor, Vec<Tensor>)> {
    let vars = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tracked)?;
    let r = noise(y.dims(), 99).to_dtype(y.dtype())?;
    let mut grads = (&y * r)?.sum_all()?.backward()?;
    // An input that does not reach the result has a gradient of zero.
    let grads = vars.iter().map(|v| grads.remove(v).map_or_else(|| v.zeros_like(), Ok)).collect::<Result<_>>()?;
    Ok((y.detach(), grads))
}

/// Compares `op` on f32 `inputs` with `reference` in f64: the result to 1e-5 and the gradients to 1e-4. Also compares the
/// gradients with central differences of the reference, which do not depend on any backward pass.
pub(crate) fn check(op: Function, reference: Function, inputs: &[Tensor]) -> Result<()> {
    let grads = check_composed(op, reference, inputs)?;
    let wide = inputs.iter().map(|t| t.to_dtype(DType::F64)).collect::<Result<Vec<_>>>()?;
    for (i, (grad, scale)) in grads.iter().enumerate() {
        differences(reference, &wide, i, grad, *scale)?;
    }
    Ok(())
}

/// [`check`] without differences, for functions with kinks. Returns the gradients and their scales.
pub(crate) fn check_composed(op: Function, reference: Function, inputs: &[Tensor]) -> Result<Vec<(Tensor, f64)>> {
    let (y, grads) = with_gradients(op, inputs)?;
    let wide = inputs.iter().map(|t| t.to_dtype(DType::F64)).collect::<Result<Vec<_>>>()?;
    let (want, want_grads) = with_gradients(reference, &wide)?;
    assert_close("result", &y, &want, 1e-5)?;
    let mut measured = Vec::new();
    for (i, ((grad, want), scale)) in grads.into_iter().zip(&want_grads).zip(scales(&want_grads)?).enumerate() {
        assert_within(&format!("gradient {i}"), &grad, want, 1e-4 * scale)?;
        measured.push((grad, scale));
    }
    Ok(measured)
}

/// Compares `grad` of sum(f * r) with central differences at some elements of input `which`.
fn differences(f: Function, inputs: &[Tensor], which: usize, grad: &Tensor, scale: f64) -> Result<()> {
    const STEP: f64 = 1e-6;
    let at = values(&inputs[which])?;
    let grad = values(grad)?;
    let loss = |element: usize, by: f64| -> Result<f64> {
        let mut moved = at.clone();
        moved[element] += by;
        let mut inputs = inputs.to_vec();
        inputs[which] = Tensor::from_vec(moved, inputs[which].shape(), &Device::Cpu)?;
        let y = f(&inputs)?;
        let r = noise(y.dims(), 99).to_dtype(DType::F64)?;
        (y * r)?.sum_all()?.to_scalar()
    };
    for element in (0..at.len()).step_by((at.len() / 7).max(1)) {
        let [below, here, above] = [loss(element, -STEP)?, loss(element, 0.0)?, loss(element, STEP)?];
        let left = (here - below) / STEP;
        let right = (above - here) / STEP;
        if (left - right).abs() > 1e-4 * scale {
            // The step crosses a kink of a relu or a maximum.
            continue;
        }
        let difference = (left + right) / 2.0;
        assert!(
            (difference - grad[element]).abs() <= 1e-4 * scale,
            "gradient {which}[{element}]: {}, but the difference is {difference} (scale {scale})",
            grad[element]
        );
    }
    Ok(())
}

/// Runs `work` on pools of 1 and of 3 threads, and asserts that all tensors are equal bit by bit.
pub(crate) fn same_on_any_threads(work: impl Fn() -> Result<Vec<Tensor>> + Sync) -> Result<()> {
    let on = |threads: usize| -> Result<Vec<Vec<u32>>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| work()?.iter().map(bits).collect())
    };
    let one = on(1)?;
    let three = on(3)?;
    assert!(!one.is_empty());
    assert!(one == three, "results differ between 1 and 3 threads");
    Ok(())
}

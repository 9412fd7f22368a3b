//! Scalar functions and sums that the compiler can vectorise.
//!
//! The order of every sum is fixed, whatever the number of threads or the width of the registers.

/// Number of values summed in f32 before f64 takes over.
const BLOCK: usize = 512;

/// The sum of a slice, in 16 interleaved partial sums; its error is about 1e-7 of the sum of magnitudes.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f64 {
    let mut total = 0.0;
    for block in x.chunks(BLOCK) {
        let (sixteens, rest) = block.as_chunks::<16>();
        let mut acc = [0.0f32; 16];
        for v in sixteens {
            for i in 0..16 {
                acc[i] += v[i];
            }
        }
        total += acc.iter().map(|&a| f64::from(a)).sum::<f64>() + rest.iter().map(|&a| f64::from(a)).sum::<f64>();
    }
    total
}

/// exp(x) - 1 with the relative error of f32 everywhere, in arithmetic that the compiler can vectorise: x = n ln 2 + r
/// with |r| <= ln(2) / 2, the series of e^r - 1 up to the seventh power (the eighth is below 6e-9), then
/// 2^n (e^r - 1) + (2^n - 1). Valid for x in -87..=88; NaN stays NaN.
#[inline(always)]
fn exp_m1(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut series = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        series = series * r + c;
    }
    let power = f32::from_bits(((shifted.to_bits() as i32).wrapping_add(127) << 23) as u32);
    power * (series * r) + (power - 1.0)
}

/// exp(x) for x <= 0; 0 below -87.
#[inline(always)]
pub(crate) fn exp_not_positive(x: f32) -> f32 {
    let e = exp_m1(if x < -87.0 { -87.0 } else { x }) + 1.0;
    if x < -87.0 { 0.0 } else { e }
}

/// tanh(x) from exp(2x) - 1, which keeps small values exact.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    // Beyond 10, tanh is 1 in f32. Comparisons keep NaN and vectorise; `clamp` and `min` do not.
    let x = if x > 10.0 { 10.0 } else { x };
    let x = if x < -10.0 { -10.0 } else { x };
    let e = exp_m1(2.0 * x);
    e / (e + 2.0)
}

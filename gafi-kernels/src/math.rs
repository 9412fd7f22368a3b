//! Scalar functions, sums and maxima that the compiler can vectorise.
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

/// The largest element of a slice, in 16 interleaved chains: a single one would wait for each comparison. NaNs are skipped.
#[inline(always)]
pub(crate) fn largest(x: &[f32]) -> f32 {
    let larger = |m: f32, v: f32| if v > m { v } else { m };
    let (sixteens, rest) = x.as_chunks::<16>();
    let mut best = [f32::NEG_INFINITY; 16];
    for v in sixteens {
        best.iter_mut().zip(v).for_each(|(best, &v)| *best = larger(*best, v));
    }
    for half in [8, 4, 2, 1] {
        (0..half).for_each(|i| best[i] = larger(best[i], best[i + half]));
    }
    rest.iter().fold(best[0], |m, &v| larger(m, v))
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

/// The distribution function and the density of the standard normal at x; 1 and 0 beyond 13. Abramowitz and Stegun, formula
/// 7.1.26: an absolute error of 1.5e-7.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    const P: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
    let size = x.abs();
    let bell = exp_not_positive(-0.5 * x * x);
    let t = 1.0 / (1.0 + P * size);
    let mut series = 1.061_405_4;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        series = series * t + c;
    }
    let tail = 0.5 * (series * t) * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, 0.398_942_3 * bell)
}

/// x P(X <= x) for a standard normal X.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    let y = x * normal(x).0;
    // Not minus infinity times 0.
    if x < -13.0 { 0.0 } else { y }
}

/// The derivative of [`gelu`].
#[inline(always)]
pub(crate) fn gelu_derivative(x: f32) -> f32 {
    let (below, density) = normal(x);
    let slope = below + x * density;
    let slope = if x < -13.0 { 0.0 } else { slope };
    if x > 13.0 { 1.0 } else { slope }
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

#[cfg(test)]
mod tests {
    use super::*;

    // Python: P = erfc(-x / sqrt(2)) / 2; print(x, x * P, P + x * exp(-x * x / 2) / sqrt(2 * pi))
    const GELU: [(f32, f64, f64); 7] = [
        (-5.0, -1.433_257_7e-6, -7.146_946_3e-6),
        (-2.0, -0.045_500_264, -0.085_231_895),
        (-0.75, -0.169_970_51, 0.000_774_28),
        (0.0, 0.0, 0.5),
        (0.1, 0.053_982_784, 0.579_523_24),
        (1.0, 0.841_344_75, 1.083_315_5),
        (4.0, 3.999_873_3, 1.000_503_6),
    ];

    #[test]
    fn gelu_and_its_derivative_have_known_values() {
        for (x, y, slope) in GELU {
            assert!((f64::from(gelu(x)) - y).abs() < 1e-6, "gelu({x}) = {}, expected {y}", gelu(x));
            let found = gelu_derivative(x);
            assert!((f64::from(found) - slope).abs() < 1e-6, "gelu'({x}) = {found}, expected {slope}");
        }
        assert_eq!([gelu(f32::INFINITY), gelu(f32::NEG_INFINITY)], [f32::INFINITY, 0.0]);
        assert_eq!([gelu_derivative(f32::INFINITY), gelu_derivative(f32::NEG_INFINITY)], [1.0, 0.0]);
        assert!(gelu(f32::NAN).is_nan() && gelu_derivative(f32::NAN).is_nan());
    }
}

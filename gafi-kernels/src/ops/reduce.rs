//! Sums of floats, in one order whatever the threads and the registers are.

/// Floats that are summed in f32 before f64 takes over.
const BLOCK: usize = 512;

/// The sum of a slice, in 16 interleaved partial sums; about 1e-7 relative to the sum of magnitudes.
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

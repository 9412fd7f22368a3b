//! The types in which feature maps are stored.

use super::bf16;
use crate::memory::{Plain, Scratch};

/// A storage type of maps. Arithmetic is always f32.
pub(super) trait Element: Plain + Default {
    fn get(self) -> f32;
    fn put(value: f32) -> Self;
    /// The values themselves if they are f32.
    fn floats(values: &[Self]) -> Option<&[f32]>;
    fn floats_mut(values: &mut [Self]) -> Option<&mut [f32]>;
    /// Converts and stores values.
    fn write(from: &[f32], to: &mut [Self]);
    /// Whether the value is greater than 0; a NaN is not.
    fn is_positive(self) -> bool;
}

impl Element for f32 {
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    #[inline(always)]
    fn put(value: f32) -> Self {
        value
    }

    fn floats(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }

    fn floats_mut(values: &mut [Self]) -> Option<&mut [f32]> {
        Some(values)
    }

    fn write(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }

    #[inline(always)]
    fn is_positive(self) -> bool {
        self > 0.0
    }
}

/// The bits of a bf16, which are the upper half of an f32.
impl Element for u16 {
    #[inline(always)]
    fn get(self) -> f32 {
        bf16::value(self)
    }

    #[inline(always)]
    fn put(value: f32) -> Self {
        bf16::bits(value)
    }

    fn floats(_: &[Self]) -> Option<&[f32]> {
        None
    }

    fn floats_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }

    fn write(from: &[f32], to: &mut [Self]) {
        bf16::round(from, to);
    }

    #[inline(always)]
    fn is_positive(self) -> bool {
        // The bits from the smallest positive number to infinity.
        self.wrapping_sub(1) < 0x7f80
    }
}

/// Lets `work` compute `out` in f32: in place if `E` is f32, else in `scratch`, from where the values are converted.
pub(super) fn as_floats<E: Element>(out: &mut [E], scratch: &mut Scratch, work: impl FnOnce(&mut [f32])) {
    match E::floats_mut(out) {
        Some(out) => work(out),
        None => {
            let floats = scratch.take(out.len());
            work(floats);
            E::write(floats, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even_and_keeps_nan_and_infinity() {
        let put = |v: f32| <u16 as Element>::put(v).get();
        for exact in [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY, 1.0 + 2f32.powi(-7)] {
            assert_eq!(put(exact).to_bits(), exact.to_bits());
        }
        let ulp = 2f32.powi(-7);
        assert_eq!(put(1.0 + 0.5 * ulp), 1.0, "a tie rounds to even");
        assert_eq!(put(1.0 + 1.5 * ulp), 1.0 + 2.0 * ulp);
        assert_eq!(put(1.0 + 0.51 * ulp), 1.0 + ulp);
        assert!(put(f32::NAN).is_nan());
        assert!(put(f32::from_bits(0x7f80_0001)).is_nan(), "a NaN whose upper half is infinity");
        assert_eq!(put(f32::MAX), f32::INFINITY);
    }
}

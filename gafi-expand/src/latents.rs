//! Draws latents. A latent depends only on its stream, class and index and on its standard deviation, not on the batch, the
//! thread or earlier draws.

use gafi_core::stream::unit_f32;
use gafi_core::{ClassId, Error, Result, Stream};
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// Standard deviation of the latents. Generators are trained with 1; the paper searches 1.00 to 2.00 (Lampis et al. 2023,
/// arXiv 2305.10118).
///
/// In JSON and TOML it is a number, or `[lo, hi]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a number, or [lo, hi]")]
pub enum StdRange {
    /// The same for every sample.
    Fixed(#[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))] f64),
    /// Drawn for each sample, uniform in [lo, hi].
    Range([f64; 2]),
}

impl Default for StdRange {
    /// 1, as in the training of generators.
    fn default() -> Self {
        Self::Fixed(1.0)
    }
}

impl StdRange {
    /// The smallest and the largest value.
    pub fn bounds(&self) -> (f64, f64) {
        match *self {
            Self::Fixed(s) => (s, s),
            Self::Range([lo, hi]) => (lo, hi),
        }
    }

    /// Checks that latents can be drawn with it.
    ///
    /// # Errors
    /// [`Error::Config`] unless 0 < lo <= hi, both finite as 32-bit floats.
    pub fn check(&self) -> Result<()> {
        let (lo, hi) = self.bounds();
        if lo as f32 > 0.0 && lo <= hi && (hi as f32).is_finite() {
            return Ok(());
        }
        Err(Error::config("std", self, "a number above 0, or [lo, hi] with 0 < lo <= hi, finite"))
    }

    /// The value at `u` in [0, 1).
    fn at(&self, u: f32) -> f32 {
        let (lo, hi) = self.bounds();
        (lo + f64::from(u) * (hi - lo)) as f32
    }
}

impl std::fmt::Display for StdRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(s) => write!(f, "{s}"),
            Self::Range([lo, hi]) => write!(f, "[{lo}, {hi}]"),
        }
    }
}

/// The stream of latents of a `seed`. Stage `expand` and sources of the same seed share it, so that samples on disk equal
/// those in memory.
pub fn latent_stream(seed: u64) -> Stream {
    Stream::new(seed).child("latents")
}

/// Draws the latent of sample `index` of `class` into `latent` (d values) and returns its standard deviation.
///
/// The random numbers come from `stream.at(class).at(index)` alone: first one that places the std within its range,
/// then d standard normals. The first is drawn even for a fixed `std`, so that another `std` only rescales the latent: a
/// search over `std` compares the same samples, drawn wider.
pub fn draw_latent(stream: &Stream, std: StdRange, class: ClassId, index: u64, latent: &mut [f32]) -> f32 {
    let mut rng = stream.at(u64::from(class.0)).at(index).rng();
    let std = std.at(unit_f32(&mut rng));
    for z in latent {
        let normal: f32 = StandardNormal.sample(&mut rng);
        *z = std * normal;
    }
    std
}

/// The seed of sample `index` of `class`, for generators that draw their own latents. Every sample has its own seed,
/// independent of its latent.
pub fn draw_seed(stream: &Stream, class: ClassId, index: u64) -> u64 {
    stream.at(u64::from(class.0)).at(index).child("seed").seed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(std: StdRange, class: u32, index: u64) -> (Vec<f32>, f32) {
        let mut latent = vec![0.0; 8];
        let s = draw_latent(&latent_stream(3), std, ClassId(class), index, &mut latent);
        (latent, s)
    }

    #[test]
    fn latents_never_change() {
        // If this changes, every synthetic set changes: bump the revision of stage `expand`.
        let (latent, _) = draw(StdRange::default(), 1, 2);
        assert_eq!(latent[..3], GOLDEN);
    }
    const GOLDEN: [f32; 3] = [0.459_107_34, 0.164_859_82, -0.530_002_36];

    #[test]
    fn seeds_never_change_and_differ_for_every_name() {
        let seed = |class, index| draw_seed(&latent_stream(3), ClassId(class), index);
        assert_eq!(seed(1, 2), GOLDEN_SEED);
        let all: std::collections::BTreeSet<u64> =
            (0..40).flat_map(|class| (0..50).map(move |index| seed(class, index))).collect();
        assert_eq!(all.len(), 2000);
        assert_ne!(seed(1, 2), draw_seed(&latent_stream(4), ClassId(1), 2));
    }
    const GOLDEN_SEED: u64 = 6_369_073_869_190_681_637;

    #[test]
    fn std_only_scales_a_latent() {
        let (plain, one) = draw(StdRange::Fixed(1.0), 4, 9);
        assert_eq!(one, 1.0);
        for std in [StdRange::Fixed(1.75), StdRange::Range([1.0, 2.0]), StdRange::Range([0.25, 0.5])] {
            let (wide, s) = draw(std, 4, 9);
            assert_eq!(wide, plain.iter().map(|z| s * z).collect::<Vec<_>>(), "{std}");
        }
    }

    #[test]
    fn range_is_filled_uniformly_and_latents_differ_for_every_name() {
        let (mut sum, mut seen) = (0.0, std::collections::BTreeSet::new());
        for index in 0..2000 {
            let (latent, s) = draw(StdRange::Range([1.0, 2.0]), 0, index);
            assert!((1.0..=2.0).contains(&s));
            sum += f64::from(s);
            assert!(seen.insert(latent.iter().map(|z| (z / s).to_bits()).collect::<Vec<_>>()));
        }
        assert!((sum / 2000.0 - 1.5).abs() < 0.03, "{sum}");
        assert_ne!(draw(StdRange::default(), 0, 1).0, draw(StdRange::default(), 1, 0).0);
    }

    #[test]
    fn latents_have_the_moments_of_a_normal() {
        let (n, mut moments) = (4000u64, [0.0f64; 4]);
        for index in 0..n {
            for z in draw(StdRange::Fixed(1.5), 7, index).0 {
                let z = f64::from(z) / 1.5;
                moments = [moments[0] + z, moments[1] + z * z, moments[2] + z.powi(3), moments[3] + z.powi(4)];
            }
        }
        for (found, (expected, tolerance)) in moments.iter().zip([(0.0, 0.03), (1.0, 0.04), (0.0, 0.1), (3.0, 0.3)]) {
            let mean = found / (8 * n) as f64;
            assert!((mean - expected).abs() < tolerance, "{moments:?}");
        }
    }

    #[test]
    fn std_is_a_number_or_a_range_and_is_checked() {
        let read = |text: &str| serde_json::from_str::<StdRange>(text);
        assert_eq!(read("1").unwrap(), StdRange::Fixed(1.0));
        assert_eq!(read("[1.0, 1.5]").unwrap(), StdRange::Range([1.0, 1.5]));
        assert_eq!(serde_json::to_string(&StdRange::Range([1.0, 1.5])).unwrap(), "[1.0,1.5]");
        assert_eq!(serde_json::to_string(&StdRange::default()).unwrap(), "1.0");
        assert!(read("\"wide\"").unwrap_err().to_string().contains("a number, or [lo, hi]"));
        assert!(read("[1.0]").is_err());
        for good in ["0.5", "[2, 2]"] {
            read(good).unwrap().check().unwrap();
        }
        for bad in ["0", "-1", "[2, 1]", "[0, 1]", "1e39", "1e-60"] {
            let error = read(bad).unwrap().check().unwrap_err();
            assert!(error.is_usage() && error.to_string().starts_with("std = "), "{error}");
        }
        assert!(StdRange::Fixed(f64::NAN).check().is_err());
        assert!(StdRange::Range([1.0, f64::NAN]).check().is_err());
    }
}

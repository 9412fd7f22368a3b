//! Which latent belongs to which name. A latent is a function of (stream, class, index) and of the standard deviation,
//! and of nothing else: not of the batch, the thread, or what was drawn before.

use gafi_core::stream::unit_f32;
use gafi_core::{ClassId, Error, Result, Stream};
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// Standard deviation s of the latents. 1 is what generators are trained with; the paper searches 1.00 to 2.00
/// (Lampis et al. 2023, arXiv 2305.10118).
///
/// Written as a number, or as `[lo, hi]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a number, or [lo, hi]")]
pub enum StdRange {
    /// The same s for every sample.
    Fixed(#[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))] f64),
    /// One s for each sample, uniform in [lo, hi].
    Range([f64; 2]),
}

impl Default for StdRange {
    /// 1: nothing is expanded.
    fn default() -> Self {
        Self::Fixed(1.0)
    }
}

impl StdRange {
    /// The smallest and the largest s.
    pub fn bounds(&self) -> (f64, f64) {
        match *self {
            Self::Fixed(s) => (s, s),
            Self::Range([lo, hi]) => (lo, hi),
        }
    }

    /// Whether it can be drawn from.
    ///
    /// # Errors
    /// [`Error::Config`] unless 0 < lo <= hi, both finite (as 32-bit floats, which latents are).
    pub fn check(&self) -> Result<()> {
        let (lo, hi) = self.bounds();
        if lo as f32 > 0.0 && lo <= hi && (hi as f32).is_finite() {
            return Ok(());
        }
        Err(Error::config("std", self, "a number above 0, or [lo, hi] with 0 < lo <= hi, finite"))
    }

    /// The s that belongs to a number `u` in [0, 1).
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

/// Standard deviations of the classes' latents. A class that the generator knows well bears wider ones than a class that it
/// hardly knows.
///
/// Written as a [`StdRange`], or as `{ per_class = [...] }` with one for each class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, deny_unknown_fields, expecting = "a number, [lo, hi], or { per_class = [one such for each class] }")]
pub enum ClassStds {
    /// The same for every class.
    All(StdRange),
    /// One for each class.
    PerClass {
        /// The class's, in the order of the classes.
        per_class: Vec<StdRange>,
    },
}

impl Default for ClassStds {
    /// 1 for every class: nothing is expanded.
    fn default() -> Self {
        Self::All(StdRange::default())
    }
}

impl From<StdRange> for ClassStds {
    fn from(std: StdRange) -> Self {
        Self::All(std)
    }
}

impl From<Vec<StdRange>> for ClassStds {
    fn from(per_class: Vec<StdRange>) -> Self {
        Self::PerClass { per_class }
    }
}

impl ClassStds {
    /// That of a class; none where there are fewer.
    pub fn of(&self, class: ClassId) -> Option<StdRange> {
        match self {
            Self::All(std) => Some(*std),
            Self::PerClass { per_class } => per_class.get(class.index()).copied(),
        }
    }

    /// Whether each can be drawn from, where the number of classes is not known yet.
    ///
    /// # Errors
    /// What [`StdRange::check`] says.
    pub fn check_values(&self) -> Result<()> {
        match self {
            Self::All(std) => std.check(),
            Self::PerClass { per_class } => per_class.iter().try_for_each(StdRange::check),
        }
    }

    /// Whether latents of each of `classes` classes can be drawn from it.
    ///
    /// # Errors
    /// [`Error::Config`] when there are more or fewer; what [`StdRange::check`] says.
    pub fn check(&self, classes: usize) -> Result<()> {
        match self {
            Self::PerClass { per_class } if per_class.len() != classes => {
                let found = format!("{} values", per_class.len());
                Err(Error::config("std.per_class", found, format!("one for each of {classes} classes")))
            }
            _ => self.check_values(),
        }
    }
}

impl std::fmt::Display for ClassStds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All(std) => write!(f, "{std}"),
            Self::PerClass { per_class } => {
                let each: Vec<_> = per_class.iter().map(ToString::to_string).collect();
                write!(f, "per class {}", each.join(", "))
            }
        }
    }
}

/// The stream that the latents of `seed` are drawn from, for a whole program to agree on: what stage `expand` writes to disk
/// is what a source of the same seed hands over in memory.
pub fn latent_stream(seed: u64) -> Stream {
    Stream::new(seed).child("latents")
}

/// Draws the latent of sample `index` of `class` into `latent` (d values) and gives the s it was scaled with.
///
/// The numbers come from `stream.at(class).at(index)` alone: first one that places s within its range, then d standard
/// normals. The first is drawn even where s is fixed, so a change of `std` scales a latent and never exchanges it: a
/// search over s compares the same samples, drawn out further.
pub fn draw_latent(stream: &Stream, std: StdRange, class: ClassId, index: u64, latent: &mut [f32]) -> f32 {
    let mut rng = stream.at(u64::from(class.0)).at(index).rng();
    let s = std.at(unit_f32(&mut rng));
    for z in latent {
        let normal: f32 = StandardNormal.sample(&mut rng);
        *z = s * normal;
    }
    s
}

/// The number that stands for the name of sample `index` of `class`, for generators that draw their own latents: another one
/// for each name, and not told by any latent.
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
    fn latents_are_stable_for_ever() {
        // If this changes, every synthetic set changes: bump the revision of stage `expand`.
        let (latent, _) = draw(StdRange::default(), 1, 2);
        assert_eq!(latent[..3], GOLDEN);
    }
    const GOLDEN: [f32; 3] = [0.459_107_34, 0.164_859_82, -0.530_002_36];

    #[test]
    fn seeds_are_stable_for_ever_and_each_name_has_its_own() {
        let seed = |class, index| draw_seed(&latent_stream(3), ClassId(class), index);
        assert_eq!(seed(1, 2), GOLDEN_SEED);
        let all: std::collections::BTreeSet<u64> =
            (0..40).flat_map(|class| (0..50).map(move |index| seed(class, index))).collect();
        assert_eq!(all.len(), 2000);
        assert_ne!(seed(1, 2), draw_seed(&latent_stream(4), ClassId(1), 2));
    }
    const GOLDEN_SEED: u64 = 6_369_073_869_190_681_637;

    #[test]
    fn std_scales_and_never_exchanges() {
        let (plain, one) = draw(StdRange::Fixed(1.0), 4, 9);
        assert_eq!(one, 1.0);
        for std in [StdRange::Fixed(1.75), StdRange::Range([1.0, 2.0]), StdRange::Range([0.25, 0.5])] {
            let (wide, s) = draw(std, 4, 9);
            assert_eq!(wide, plain.iter().map(|z| s * z).collect::<Vec<_>>(), "{std}");
        }
    }

    #[test]
    fn range_is_filled_uniformly_and_each_name_has_its_own_numbers() {
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
    fn moments_are_those_of_a_normal() {
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
    fn classes_have_one_or_each_their_own() {
        let read = |text: &str| serde_json::from_str::<ClassStds>(text);
        for plain in ["1.0", "[1.0,1.5]"] {
            let stds = read(plain).unwrap();
            assert_eq!(stds, ClassStds::from(serde_json::from_str::<StdRange>(plain).unwrap()));
            assert_eq!(serde_json::to_string(&stds).unwrap(), plain, "written as ever");
            assert_eq!((stds.of(ClassId(0)), stds.check(7).is_ok()), (stds.of(ClassId(6)), true));
        }
        let text = r#"{"per_class":[1.25,[1.0,1.5]]}"#;
        let stds = read(text).unwrap();
        assert_eq!(
            (stds.to_string().as_str(), serde_json::to_string(&stds).unwrap().as_str()),
            ("per class 1.25, [1, 1.5]", text)
        );
        assert_eq!(
            [0, 1, 2].map(|class| stds.of(ClassId(class))),
            [Some(StdRange::Fixed(1.25)), Some(StdRange::Range([1.0, 1.5])), None]
        );
        stds.check(2).unwrap();
        let error = stds.check(3).unwrap_err().to_string();
        assert_eq!(error, "std.per_class = 2 values: expected one for each of 3 classes");
        let bad = read(r#"{"per_class": [1, -1]}"#).unwrap();
        assert!(bad.check(2).unwrap_err().is_usage() && bad.check_values().is_err());
        for wrong in [r#"{"per_clas": [1]}"#, r#"{"per_class": [1], "more": 2}"#, r#"{"per_class": 1}"#, "[1]"] {
            assert!(read(wrong).unwrap_err().to_string().contains("per_class = [one such for each class]"), "{wrong}");
        }
    }

    #[test]
    fn written_as_number_or_range_and_checked() {
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

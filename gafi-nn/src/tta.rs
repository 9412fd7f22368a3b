//! Test-time augmentation: an image's probabilities from several views of it.

use gafi_core::{ImageSpec, Result, Scorer};
use serde::{Deserialize, Serialize};

use crate::augment::reflected;
use crate::scorer::softmax;

/// The views of an image that are classified. The weighted mean of their log-probabilities, normalised, gives the image's
/// probabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Tta {
    /// The image itself.
    #[default]
    None,
    /// The image and its mirror image. Not for images whose mirror image means something else, such as digits.
    Mirror,
    /// The image, and the image moved by one pixel to the upper left and to the lower right, with its border reflected; each
    /// also mirrored. The moved views together have half of the weight. This is the test-time augmentation of airbench94
    /// (Jordan 2024, arXiv 2404.00498).
    MirrorTranslate,
}

impl Tta {
    /// Whether only the image itself is classified.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Shift down and right in pixels, and weight, of each view that is not mirrored.
    fn shifts(self) -> &'static [(isize, f64)] {
        match self {
            Self::None | Self::Mirror => &[(0, 1.0)],
            Self::MirrorTranslate => &[(0, 0.5), (-1, 0.25), (1, 0.25)],
        }
    }

    /// Pixels (n, c, h, w) to probabilities (n, classes) by `scorer`, which sees each view once.
    ///
    /// # Errors
    /// Those of the scorer.
    pub fn score(self, scorer: &mut dyn Scorer, pixels: &[u8]) -> Result<Vec<f32>> {
        if self.is_none() {
            return scorer.score(pixels);
        }
        let image = *scorer.image();
        let mut sums = Vec::new();
        for &(shift, weight) in self.shifts() {
            for mirrored in [false, true] {
                let probabilities = scorer.score(&view(pixels, &image, shift, mirrored))?;
                sums.resize(probabilities.len(), 0.0);
                for (sum, p) in sums.iter_mut().zip(&probabilities) {
                    // A probability of 0 was too small for f32; its logarithm must stay finite.
                    *sum += weight / 2.0 * f64::from(p.max(f32::MIN_POSITIVE)).ln();
                }
            }
        }
        sums.chunks_exact_mut(scorer.classes().max(1)).for_each(softmax);
        Ok(sums.into_iter().map(|p| p as f32).collect())
    }
}

/// Images moved by `shift` pixels down and to the right, then mirrored.
fn view(pixels: &[u8], image: &ImageSpec, shift: isize, mirrored: bool) -> Vec<u8> {
    let ImageSpec { height, width, .. } = *image;
    let source = |at: usize, size: usize| reflected(at.wrapping_add_signed(-shift), size).min(size - 1);
    let mut out = Vec::with_capacity(pixels.len());
    for plane in pixels.chunks_exact(height * width) {
        for y in 0..height {
            let row = &plane[source(y, height) * width..][..width];
            out.extend((0..width).map(|x| row[source(if mirrored { width - 1 - x } else { x }, width)]));
        }
    }
    out
}

/// A scorer that sees several views of each image.
#[derive(Debug)]
pub struct TtaScorer<S> {
    /// The classifier.
    pub scorer: S,
    /// The views.
    pub tta: Tta,
}

impl<S: Scorer> Scorer for TtaScorer<S> {
    fn image(&self) -> &ImageSpec {
        self.scorer.image()
    }

    fn classes(&self) -> usize {
        self.scorer.classes()
    }

    fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>> {
        self.tta.score(&mut self.scorer, pixels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: ImageSpec = ImageSpec::new(1, 3, 4);

    /// Class 0 has the probability pixel / 256 of the upper left corner.
    struct Corner;

    impl Scorer for Corner {
        fn image(&self) -> &ImageSpec {
            &IMAGE
        }

        fn classes(&self) -> usize {
            2
        }

        fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>> {
            let corner = |image: &[u8]| f32::from(image[0]) / 256.0;
            Ok(pixels.chunks(12).flat_map(|image| [corner(image), 1.0 - corner(image)]).collect())
        }
    }

    fn pixels() -> Vec<u8> {
        (0..12).map(|i| 10 + 5 * i).collect()
    }

    #[test]
    fn views_are_those_of_numpy() {
        // x = np.arange(10, 70, 5).reshape(3, 4); p = np.pad(x, 1, "reflect")
        // p[:3, :4], which moves the image to the lower right, and p[2:, 2:], to the upper left
        let lower_right = [35, 30, 35, 40, 15, 10, 15, 20, 35, 30, 35, 40];
        let upper_left = [35, 40, 45, 40, 55, 60, 65, 60, 35, 40, 45, 40];
        assert_eq!(view(&pixels(), &IMAGE, 1, false), lower_right);
        assert_eq!(view(&pixels(), &IMAGE, -1, false), upper_left);
        assert_eq!(view(&pixels(), &IMAGE, 0, true)[..4], [25, 20, 15, 10]);
        assert_eq!(view(&pixels(), &IMAGE, -1, true)[..4], [40, 45, 40, 35]);
    }

    #[test]
    fn log_probabilities_are_averaged_with_their_weights() {
        let close = |found: Vec<f32>, corners: &[(f64, f64)]| {
            let log = |pick: fn(f64) -> f64| {
                corners.iter().map(|(pixel, weight)| weight * pick(pixel / 256.0).ln()).sum::<f64>().exp()
            };
            let (first, second) = (log(|p| p), log(|p| 1.0 - p));
            assert!((f64::from(found[0]) - first / (first + second)).abs() < 1e-6, "{found:?}");
            assert!((found[0] + found[1] - 1.0).abs() < 1e-6);
        };
        close(Tta::Mirror.score(&mut Corner, &pixels()).unwrap(), &[(10.0, 0.5), (25.0, 0.5)]);
        let six = [(10.0, 0.25), (25.0, 0.25), (35.0, 0.125), (40.0, 0.125), (35.0, 0.125), (40.0, 0.125)];
        close(Tta::MirrorTranslate.score(&mut Corner, &pixels()).unwrap(), &six);
        assert_eq!(Tta::None.score(&mut Corner, &pixels()).unwrap(), Corner.score(&pixels()).unwrap());
    }

    #[test]
    fn rows_do_not_depend_on_their_batch() {
        let many: Vec<u8> = (0..5).flat_map(|shift| pixels().into_iter().map(move |p| p + shift)).collect();
        let mut scorer = TtaScorer { scorer: Corner, tta: Tta::MirrorTranslate };
        let all = scorer.score(&many).unwrap();
        let alone: Vec<f32> = many.chunks(12).flat_map(|image| scorer.score(image).unwrap()).collect();
        assert_eq!(all, alone);
    }
}

//! Untrained features: the responses of an image to random patches of real images.
//!
//! Random patches are whitened and convolved with the image; responses above a threshold are summed over the cells of a
//! grid (Coates, Ng and Lee 2011, "An analysis of single-layer networks in unsupervised feature learning"). Random
//! patches with a soft threshold of either sign are from Coates and Ng 2011, "The importance of encoding versus
//! training with sparse coding and vector quantization". These features are those of a convolutional network with one
//! layer; [`crate::RidgeClassifier`] fits the linear layer above them in closed form.

use gafi_core::stream::below;
use gafi_core::{Error, ImageSpec, Result, Stream};
use nalgebra::{DMatrix, DVector};
use rayon::prelude::*;

use crate::frechet::{Moments, eigen};
use crate::product::inner_products;

/// Height and width of a patch, at most those of the image (6 in Coates, Ng and Lee).
const SIDE: usize = 6;
/// Number of patches that filter the images.
const FILTERS: usize = 160;
/// Patches for estimating the whitening.
const SAMPLED: usize = 20_000;
/// Added to the variance of a patch, in units of 8-bit values, so that noise in flat patches is not amplified (Coates,
/// Ng and Lee).
const CONTRAST: f32 = 10.0;
/// Added to the eigenvalues of the whitening (Coates, Ng and Lee).
const WHITENING: f64 = 0.1;
/// Soft threshold of a response; responses are about 1 on average.
const THRESHOLD: f32 = 0.5;
/// Cells of the grid along each axis (Coates, Ng and Lee).
const CELLS: usize = 2;

/// A feature extractor made of random patches of images.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchFeatures {
    image: ImageSpec,
    // Height and width of a patch.
    side: (usize, usize),
    // (filters, channels * height * width of a patch), and the offset subtracted from each filter's response.
    filters: Vec<f32>,
    offsets: Vec<f32>,
}

impl PatchFeatures {
    /// Picks patches of `images` (n, c, h, w) at random; `None` when all images are of one colour.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no image, or a partial one.
    pub fn pick(image: ImageSpec, images: &[u8], stream: &Stream) -> Result<Option<Self>> {
        let n = images.len() / image.bytes().max(1);
        if n == 0 || images.len() != n * image.bytes() {
            return Err(Error::config(
                "images",
                format!("{} bytes", images.len()),
                format!("whole images of {image}, at least one"),
            ));
        }
        let side = (SIDE.min(image.height), SIDE.min(image.width));
        let mut patches = Self { image, side, filters: Vec::new(), offsets: Vec::new() };
        let dim = patches.patch_len();
        let (rows, columns) = patches.places();
        let mut rng = stream.rng();
        let mut picked = vec![0.0; SAMPLED * dim];
        for patch in picked.chunks_exact_mut(dim) {
            let mut at = |n: usize| below(&mut rng, n as u64) as usize;
            let of = at(n);
            let y = at(rows);
            let x = at(columns);
            patches.cut(&images[of * image.bytes()..][..image.bytes()], y, x, patch);
        }
        let moments = Moments::of(&picked, dim)?;
        let mut parts = eigen(moments.covariance()?)?;
        parts.eigenvalues.apply(|l| *l = 1.0 / (l.max(0.0) + WHITENING).sqrt());
        let whiten: DMatrix<f64> = parts.recompose();
        // Flat patches have no direction; drawings on a black background have many of them.
        let textured = |patch: &&[f32]| patch.iter().map(|v| v * v).sum::<f32>() > dim as f32 / 2.0;
        for patch in picked.chunks_exact(dim).filter(textured).take(FILTERS) {
            let patch = DVector::from_iterator(dim, patch.iter().map(|&v| f64::from(v)));
            let white = &whiten * (patch - &moments.mean);
            let norm = white.norm().max(f64::MIN_POSITIVE);
            let filter = &whiten * white / norm;
            patches.offsets.push(filter.dot(&moments.mean) as f32);
            patches.filters.extend(filter.iter().map(|&v| v as f32));
        }
        Ok((!patches.offsets.is_empty()).then_some(patches))
    }

    /// Number of features of an image.
    pub fn dim(&self) -> usize {
        // Positive and negative responses are separate features.
        CELLS * CELLS * 2 * self.offsets.len()
    }

    /// Features (n, [`PatchFeatures::dim`]) of `images` (n, c, h, w). An image's features do not depend on the other
    /// images.
    ///
    /// # Errors
    /// [`Error::Config`] for a partial image.
    pub fn features(&self, images: &[u8]) -> Result<Vec<f32>> {
        let bytes = self.image.bytes();
        if !images.len().is_multiple_of(bytes) {
            let expected = format!("whole images of {}", self.image);
            return Err(Error::config("images", format!("{} bytes", images.len()), expected));
        }
        let mut features = vec![0.0; images.len() / bytes * self.dim()];
        let buffers = || {
            let (rows, columns) = self.places();
            (vec![0.0; rows * columns * self.patch_len()], vec![0.0; rows * columns * self.offsets.len()])
        };
        let pairs = features.par_chunks_exact_mut(self.dim()).zip(images.par_chunks_exact(bytes));
        pairs.for_each_init(buffers, |(patches, responses), (features, image)| {
            self.of_image(image, patches, responses, features);
        });
        Ok(features)
    }

    fn of_image(&self, image: &[u8], patches: &mut [f32], responses: &mut [f32], features: &mut [f32]) {
        let (rows, columns) = self.places();
        let filters = self.offsets.len();
        for (place, patch) in patches.chunks_exact_mut(self.patch_len()).enumerate() {
            self.cut(image, place / columns, place % columns, patch);
        }
        inner_products(patches, &self.filters, self.patch_len(), responses);
        features.fill(0.0);
        for (place, responses) in responses.chunks_exact(filters).enumerate() {
            let cell = CELLS * (CELLS * (place / columns) / rows) + CELLS * (place % columns) / columns;
            let (above, below) = features[cell * 2 * filters..][..2 * filters].split_at_mut(filters);
            for (((above, below), response), offset) in above.iter_mut().zip(below).zip(responses).zip(&self.offsets) {
                let response = response - offset;
                *above += (response - THRESHOLD).max(0.0);
                *below += (-response - THRESHOLD).max(0.0);
            }
        }
    }

    /// The patch of `image` at row `y` and column `x`, normalised to mean 0 and contrast 1.
    fn cut(&self, image: &[u8], y: usize, x: usize, patch: &mut [f32]) {
        let ImageSpec { height, width, .. } = self.image;
        for (i, row) in patch.chunks_exact_mut(self.side.1).enumerate() {
            let channel = i / self.side.0;
            let line = y + i % self.side.0;
            let bytes = &image[(channel * height + line) * width + x..][..self.side.1];
            row.iter_mut().zip(bytes).for_each(|(to, &from)| *to = f32::from(from));
        }
        let n = patch.len() as f32;
        let mean = patch.iter().sum::<f32>() / n;
        let variance = patch.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n;
        let scale = 1.0 / (variance + CONTRAST).sqrt();
        patch.iter_mut().for_each(|v| *v = (*v - mean) * scale);
    }

    fn patch_len(&self) -> usize {
        self.image.channels * self.side.0 * self.side.1
    }

    /// Number of rows and columns at which a patch can start.
    fn places(&self) -> (usize, usize) {
        (self.image.height - self.side.0 + 1, self.image.width - self.side.1 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images (n, 8, 8) of vertical or horizontal stripes of random phase and strength: no single pixel gives the
    /// class.
    fn stripes(n: usize, seed: u64) -> (Vec<u8>, Vec<usize>) {
        let mut rng = Stream::new(seed).rng();
        let mut images = Vec::new();
        let mut labels = Vec::new();
        for i in 0..n {
            let phase = below(&mut rng, 4) as usize;
            let strength = 40 + below(&mut rng, 80) as u8;
            for place in 0..64 {
                let along = if i % 2 == 0 { place % 8 } else { place / 8 };
                images.push(if (along + phase) % 4 < 2 { 128 + strength } else { 128 - strength });
            }
            labels.push(i % 2);
        }
        (images, labels)
    }

    const IMAGE: ImageSpec = ImageSpec::new(1, 8, 8);

    #[test]
    fn patches_classify_stripes_where_pixels_fail() {
        let (train, labels) = stripes(200, 1);
        let (test, expected) = stripes(100, 2);
        let labels: Vec<_> = labels.iter().map(|&c| gafi_core::ClassId(c as u32)).collect();
        let right = |train: &[f32], test: &[f32]| {
            let predicted = crate::RidgeClassifier::fit(train, &labels, 2).unwrap().predict(test).unwrap();
            predicted.iter().zip(&expected).filter(|(found, class)| found.index() == **class).count()
        };
        let patches = PatchFeatures::pick(IMAGE, &train, &Stream::new(3)).unwrap().unwrap();
        assert_eq!(right(&patches.features(&train).unwrap(), &patches.features(&test).unwrap()), 100);
        let pixels = |images: &[u8]| images.iter().map(|&v| f32::from(v)).collect::<Vec<_>>();
        assert!(right(&pixels(&train), &pixels(&test)) < 80);
    }

    #[test]
    fn features_do_not_depend_on_other_images() {
        let images = stripes(9, 4).0;
        let patches = PatchFeatures::pick(IMAGE, &images, &Stream::new(5)).unwrap().unwrap();
        assert_eq!(patches, PatchFeatures::pick(IMAGE, &images, &Stream::new(5)).unwrap().unwrap());
        let all = patches.features(&images).unwrap();
        assert_eq!(all.len(), 9 * patches.dim());
        for (image, features) in images.chunks_exact(64).zip(all.chunks_exact(patches.dim())) {
            assert_eq!(patches.features(image).unwrap(), features);
        }
        // Adding a constant changes no feature.
        let lighter: Vec<u8> = images[..64].iter().map(|v| v + 5).collect();
        let change = |(a, b): (&f32, &f32)| (a - b).abs();
        let largest = patches.features(&lighter).unwrap().iter().zip(&all).map(change).fold(0.0, f32::max);
        assert!(largest < 1e-3, "{largest}");
    }

    #[test]
    fn images_must_have_the_size_of_the_patches_source() {
        for image in [ImageSpec::new(3, 7, 5), ImageSpec::new(1, 2, 9), ImageSpec::new(1, 1, 2)] {
            let images: Vec<u8> = (0..4 * image.bytes()).map(|i| (i * i * 37 % 251) as u8).collect();
            let patches = PatchFeatures::pick(image, &images, &Stream::new(0)).unwrap().unwrap();
            let features = patches.features(&images).unwrap();
            assert!(features.iter().all(|v| v.is_finite()) && features.iter().any(|&v| v > 0.0), "{image}");
        }
        let patches = PatchFeatures::pick(IMAGE, &stripes(2, 0).0, &Stream::new(0)).unwrap().unwrap();
        assert!(patches.features(&[0; 63]).unwrap_err().to_string().contains("1x8x8"));
        assert!(PatchFeatures::pick(IMAGE, &[0; 65], &Stream::new(0)).unwrap_err().to_string().contains("65 bytes"));
        assert!(PatchFeatures::pick(IMAGE, &[9; 128], &Stream::new(0)).unwrap().is_none());
    }
}

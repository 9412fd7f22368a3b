//! Augmentation of training images: flip, crop, cutout and random erasing. It runs on the host, in one pass with the
//! conversion from 8-bit pixels to [-1, 1]. Each image draws from its own stream, so neither batch size nor thread count
//! changes a draw.

use gafi_core::stream::{below, unit_f32};
use gafi_core::{ImageSpec, Stream, StreamRng};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::pixels::scale;

/// Augmentation of a training image, applied in this order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// Mirror left to right with probability 1/2.
    pub flip: bool,
    /// With `flip`: mirror each image in every second epoch; whether that starts with the first or the second epoch is random
    /// (Jordan 2024, arXiv 2404.00498).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub alternate_flip: bool,
    /// Random crop: pixels padded on each side before a window of the original size is cut out; 0 disables it, at most
    /// 1024.
    #[cfg_attr(feature = "schema", schemars(range(max = 1024)))]
    pub crop: usize,
    /// Colour of the padding. Published: grey.
    pub crop_fill: CropFill,
    /// Fill a random rectangle of every image with Gaussian noise. Published: true.
    pub cutout: bool,
    /// Probability of random erasing (Zhong et al. 2017, arXiv 1708.04896), 0 to 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub erase: f64,
}

impl Default for AugmentConfig {
    /// The released program's values: flip, crop by 4 grey pixels, cutout.
    fn default() -> Self {
        Self { flip: true, alternate_flip: false, crop: 4, crop_fill: CropFill::Grey, cutout: true, erase: 0.0 }
    }
}

/// The colour around an image, where a crop reaches beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CropFill {
    /// 0 in [-1, 1], halfway between black and white. The released program pads normalised images with 0.
    Grey,
    /// Black.
    Black,
    /// The image mirrored at its border, without repeating the border itself.
    Reflect,
}

/// Range of the height and width of a cutout as shares of the image's; the released program's values for KerasCV's
/// `RandomCutout`.
const SIDE: (f32, f32) = (0.2, 0.5);

/// Range of the erased share of the image (Zhong et al., table 1 and section 4).
const AREA: (f32, f32) = (0.02, 0.4);
/// Range of the erased rectangle's height / width (r1 = 0.3, r2 = 1 / r1).
const ASPECT: (f32, f32) = (0.3, 3.3);
/// The paper draws rectangles until one lies inside the image; after this many attempts nothing is erased.
const ATTEMPTS: usize = 100;

impl AugmentConfig {
    /// No augmentation.
    pub const NONE: Self =
        Self { flip: false, alternate_flip: false, crop: 0, crop_fill: CropFill::Grey, cutout: false, erase: 0.0 };

    /// Augments images (N, C, H, W) and scales them to [-1, 1]. Image `i` draws from `stream.at(first + i)`. If given,
    /// `mirrored` (N) replaces the random choice of the images that `flip` mirrors.
    pub fn apply(
        &self,
        pixels: &[u8],
        image: &ImageSpec,
        stream: &Stream,
        first: u64,
        mirrored: Option<&[bool]>,
    ) -> Vec<f32> {
        let bytes = image.bytes().max(1);
        let mut out = vec![0f32; pixels.len()];
        out.par_chunks_mut(bytes).zip(pixels.par_chunks(bytes)).enumerate().for_each(|(i, (to, from))| {
            let mirrored = mirrored.and_then(|all| all.get(i).copied());
            self.one(from, to, image, &stream.at(first + i as u64), mirrored);
        });
        out
    }

    fn one(&self, from: &[u8], to: &mut [f32], image: &ImageSpec, stream: &Stream, mirrored: Option<bool>) {
        let ImageSpec { height, width, .. } = *image;
        let rng = &mut stream.rng();
        let around = if self.crop_fill == CropFill::Black { -1.0 } else { 0.0 };
        let reflect = self.crop_fill == CropFill::Reflect;
        // Every draw is made even when unused, so that enabling one augmentation leaves the draws of the others
        // unchanged.
        let drawn = below(rng, 2) == 1;
        let mirrored = self.flip && mirrored.unwrap_or(drawn);
        let span = 2 * self.crop as u64 + 1;
        let down = below(rng, span) as usize;
        let right = below(rng, span) as usize;
        for (from, to) in from.chunks_exact(height * width).zip(to.chunks_exact_mut(height * width)) {
            for (y, row) in to.chunks_exact_mut(width).enumerate() {
                // Row of the source image. Padding above it wraps to a huge number, which is outside as well.
                let source = (y + down).wrapping_sub(self.crop);
                let source = if reflect { reflected(source, height) } else { source };
                let source = (source < height).then(|| &from[source * width..(source + 1) * width]);
                for (x, value) in row.iter_mut().enumerate() {
                    let column = (x + right).wrapping_sub(self.crop);
                    let column = if reflect { reflected(column, width) } else { column };
                    let column = if mirrored { (width - 1).wrapping_sub(column) } else { column };
                    *value = source.and_then(|row| row.get(column)).map_or(around, |pixel| scale(*pixel));
                }
            }
        }
        if self.cutout {
            cutout(to, image, &mut stream.child("cutout").rng());
        }
        if f64::from(unit_f32(rng)) < self.erase {
            erase(to, image, rng);
        }
    }
}

/// The index inside of `0..size` that shows at `index` when the values are mirrored at their border. Negative numbers wrap.
pub(crate) fn reflected(index: usize, size: usize) -> usize {
    let index = index as isize;
    let last = size as isize - 1;
    (if index > last { 2 * last - index } else { index.abs() }) as usize
}

fn between(rng: &mut StreamRng, (low, high): (f32, f32)) -> f32 {
    low + (high - low) * unit_f32(rng)
}

/// Fills a rectangle around a random centre, clipped at the border, with Gaussian noise. The noise of the whole image is
/// rescaled to the image's range, so its extremes may lie outside of the rectangle.
fn cutout(to: &mut [f32], image: &ImageSpec, rng: &mut StreamRng) {
    let ImageSpec { height, width, .. } = *image;
    let mut span = |length: usize| {
        let centre = below(rng, length as u64) as usize;
        let side = ((between(rng, SIDE) * length as f32).ceil() as usize).min(length);
        centre.saturating_sub(side / 2)..(centre + side.div_ceil(2)).min(length)
    };
    let (rows, columns) = (span(height), span(width));
    let noise: Vec<f32> = (0..to.len()).map(|_| StandardNormal.sample(rng)).collect();
    let range = |values: &[f32]| {
        values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)))
    };
    let ((low, high), (noise_low, noise_high)) = (range(to), range(&noise));
    let factor = (high - low) / (noise_high - noise_low);
    let planes = to.chunks_exact_mut(height * width).zip(noise.chunks_exact(height * width));
    for (plane, noise) in planes {
        for y in rows.clone() {
            for at in y * width + columns.start..y * width + columns.end {
                plane[at] = factor * (noise[at] - noise_low) + low;
            }
        }
    }
}

/// Fills a random rectangle with random pixels.
fn erase(to: &mut [f32], image: &ImageSpec, rng: &mut StreamRng) {
    let ImageSpec { height, width, .. } = *image;
    for _ in 0..ATTEMPTS {
        let area = between(rng, AREA) * (height * width) as f32;
        let aspect = between(rng, ASPECT);
        let h = (area * aspect).sqrt() as usize;
        let w = (area / aspect).sqrt() as usize;
        let top = below(rng, height as u64) as usize;
        let left = below(rng, width as u64) as usize;
        if h == 0 || w == 0 || top + h > height || left + w > width {
            continue;
        }
        let mut noise = vec![0u8; w];
        for plane in to.chunks_exact_mut(height * width) {
            for row in plane.chunks_exact_mut(width).skip(top).take(h) {
                rng.fill_bytes(&mut noise);
                row[left..left + w].iter_mut().zip(&noise).for_each(|(value, pixel)| *value = scale(*pixel));
            }
        }
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: ImageSpec = ImageSpec::new(2, 8, 10);

    fn images(n: usize) -> Vec<u8> {
        // No pixel is black, which identifies padding; no two of a plane are equal, which identifies positions.
        (0..n * IMAGE.bytes()).map(|i| (i % IMAGE.bytes()) as u8 + 1).collect()
    }

    fn stream() -> Stream {
        Stream::new(4).child("augment")
    }

    #[test]
    fn no_augmentation_only_scales() {
        let pixels = images(3);
        let plain: Vec<f32> = pixels.iter().map(|p| scale(*p)).collect();
        assert_eq!(AugmentConfig::NONE.apply(&pixels, &IMAGE, &stream(), 0, None), plain);
    }

    #[test]
    fn results_do_not_depend_on_batches_or_threads() {
        let pixels = images(9);
        let augment = AugmentConfig { erase: 0.5, ..AugmentConfig::default() };
        let all = augment.apply(&pixels, &IMAGE, &stream(), 0, None);
        let (head, tail) = pixels.split_at(4 * IMAGE.bytes());
        let mut parts = augment.apply(head, &IMAGE, &stream(), 0, None);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        parts.extend(pool.install(|| augment.apply(tail, &IMAGE, &stream(), 4, None)));
        assert_eq!(all, parts);
    }

    #[test]
    fn half_of_the_images_are_flipped() {
        let n = 400;
        let pixels = images(n);
        let flip = AugmentConfig { flip: true, ..AugmentConfig::NONE };
        let out = flip.apply(&pixels, &IMAGE, &stream(), 0, None);
        let mut mirrored = 0;
        for (image, from) in out.chunks(IMAGE.bytes()).zip(pixels.chunks(IMAGE.bytes())) {
            let plain: Vec<f32> = from.iter().map(|p| scale(*p)).collect();
            let mirror: Vec<f32> = plain.chunks(IMAGE.width).flat_map(|row| row.iter().rev().copied()).collect();
            assert!(image == plain || image == mirror);
            mirrored += usize::from(image == mirror);
        }
        assert!((160..240).contains(&mirrored), "{mirrored} of {n}");
    }

    #[test]
    fn given_flips_replace_the_drawn_ones() {
        let pixels = images(40);
        let flip = AugmentConfig { flip: true, ..AugmentConfig::NONE };
        let mirrored: Vec<bool> = (0..40).map(|i| i % 3 == 0).collect();
        let out = flip.apply(&pixels, &IMAGE, &stream(), 0, Some(&mirrored));
        for (i, image) in out.chunks(IMAGE.bytes()).enumerate() {
            let first = if mirrored[i] { 10 } else { 1 };
            assert_eq!(image[0], scale(first), "image {i}");
        }
        // Without flips in the configuration they are ignored.
        assert_eq!(AugmentConfig::NONE.apply(&pixels, &IMAGE, &stream(), 0, Some(&mirrored))[0], scale(1));
    }

    #[test]
    fn reflected_crops_mirror_the_border() {
        // NumPy: np.pad(np.arange(4), 3, "reflect")
        let expected = [3, 2, 1, 0, 1, 2, 3, 2, 1, 0];
        let found: Vec<usize> = (0..10).map(|i: usize| reflected(i.wrapping_sub(3), 4)).collect();
        assert_eq!(found, expected);
        let pixels = images(200);
        let crop = AugmentConfig { crop: 3, crop_fill: CropFill::Reflect, ..AugmentConfig::NONE };
        let out = crop.apply(&pixels, &IMAGE, &stream(), 0, None);
        // The corner of an image is its own pixel (y, x) for a shift up to 3 in both directions, mirrored or not.
        let corners: std::collections::BTreeSet<u32> =
            out.chunks(IMAGE.bytes()).map(|image| image[0].to_bits()).collect();
        let inside: std::collections::BTreeSet<u32> =
            (0..4).flat_map(|y| (0..4).map(move |x| scale((y * 10 + x) as u8 + 1).to_bits())).collect();
        assert_eq!(corners, inside);
    }

    #[test]
    fn crops_cover_all_shifts_and_pad() {
        let pixels = images(2000);
        // The released program pads with 0 in [-1, 1] (RandomCropF in utils/augmentation.py).
        for (crop_fill, around) in [(CropFill::Grey, 0.0), (CropFill::Black, -1.0)] {
            let crop = AugmentConfig { crop: 2, crop_fill, ..AugmentConfig::NONE };
            let mut shifts = std::collections::BTreeMap::new();
            for image in crop.apply(&pixels, &IMAGE, &stream(), 0, None).chunks(IMAGE.bytes()) {
                let shift = (0..25).find(|s| {
                    let (down, right) = (s / 5, s % 5);
                    (0..IMAGE.bytes()).all(|i| {
                        let (plane, y, x) = (i / 80, i % 80 / 10, i % 10);
                        let (y, x) = ((y + down).wrapping_sub(2), (x + right).wrapping_sub(2));
                        let inside = y < 8 && x < 10;
                        image[i] == if inside { scale((plane * 80 + y * 10 + x) as u8 + 1) } else { around }
                    })
                });
                *shifts.entry(shift.expect("a shifted copy")).or_insert(0) += 1;
            }
            assert_eq!(shifts.len(), 25, "{shifts:?}");
            assert!(shifts.values().all(|n| (40..130).contains(n)), "{shifts:?}");
        }
    }

    #[test]
    fn every_image_has_a_cutout_of_gaussian_noise() {
        let square = ImageSpec::new(3, 32, 32);
        // From 55 to 205.
        let pixels: Vec<u8> = (0..1000 * square.bytes()).map(|i| (i * 7 % 151) as u8 + 55).collect();
        let cutout = AugmentConfig { cutout: true, ..AugmentConfig::NONE };
        let plain = AugmentConfig::NONE.apply(&pixels, &square, &stream(), 0, None);
        let (low, high) = (scale(55), scale(205));
        let (mut heights, mut noise) = (Vec::new(), Vec::new());
        for (image, plain) in
            cutout.apply(&pixels, &square, &stream(), 0, None).chunks(3 * 1024).zip(plain.chunks(3 * 1024))
        {
            let changed: Vec<usize> = (0..3 * 1024).filter(|i| image[*i] != plain[*i]).collect();
            let span = |of: fn(&usize) -> usize| {
                let (low, high) = (changed.iter().map(of).min().unwrap(), changed.iter().map(of).max().unwrap());
                (low, high + 1 - low)
            };
            let ((top, height), (left, width)) = (span(|i| i % 1024 / 32), span(|i| i % 32));
            // A value of the noise may equal the pixel by chance.
            assert!(3 * height * width - changed.len() < 3, "one rectangle in all channels");
            assert!(height <= 16 && width <= 16, "{height} x {width}");
            // ceil(0.2 * 32) = 7, unless the border clips it.
            assert!(height >= 7 || top == 0 || top + height == 32, "{height} from {top}");
            assert!(width >= 7 || left == 0 || left + width == 32, "{width} from {left}");
            heights.push(height);
            noise.extend(changed.iter().map(|i| f64::from(image[*i])));
        }
        assert_eq!((heights.iter().max(), heights.iter().min() < Some(&7)), (Some(&16), true));
        let (low, high) = (f64::from(low), f64::from(high));
        assert!(noise.iter().all(|x| (low - 1e-5..high + 1e-5).contains(x)));
        // The extremes of 3,072 normal values are about 3.4 deviations from the mean.
        let mean = noise.iter().sum::<f64>() / noise.len() as f64;
        let std = (noise.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / noise.len() as f64).sqrt();
        assert!((mean - (low + high) / 2.0).abs() < 0.02, "{mean}");
        assert!(((high - low) / std - 6.9).abs() < 0.3, "{std}");
    }

    #[test]
    fn erasing_fills_one_rectangle_within_the_area_range() {
        let n = 1000;
        let square = ImageSpec::new(1, 32, 32);
        let pixels = vec![0u8; n * square.bytes()];
        let erase = AugmentConfig { erase: 0.5, ..AugmentConfig::NONE };
        let mut erased = 0;
        let mut areas = Vec::new();
        for image in erase.apply(&pixels, &square, &stream(), 0, None).chunks(square.bytes()) {
            let noisy: Vec<(usize, usize)> =
                (0..1024).filter(|i| image[*i] != -1.0).map(|i| (i / 32, i % 32)).collect();
            if noisy.is_empty() {
                continue;
            }
            erased += 1;
            let span = |f: fn(&(usize, usize)) -> usize| {
                noisy.iter().map(f).max().unwrap_or(0) - noisy.iter().map(f).min().unwrap_or(0) + 1
            };
            let area = span(|p| p.0) * span(|p| p.1);
            // One random pixel in 256 is black, so the count may fall short of the area.
            assert!(noisy.len() as f64 > 0.8 * area as f64, "{} of {area}", noisy.len());
            areas.push(area as f64 / 1024.0);
        }
        assert!((430..570).contains(&erased), "{erased} of {n}");
        let (low, high) = areas.iter().fold((1.0f64, 0.0f64), |(a, b), x| (a.min(*x), b.max(*x)));
        assert!(low > 0.01 && low < 0.06 && high < 0.41 && high > 0.3, "{low} to {high}");
    }
}

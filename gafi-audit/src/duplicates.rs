//! Near-duplicates: how close synthetic images come to real ones and to each other, in pixels.
//!
//! A generator that has memorised its training images passes every test in a teacher's features. The distance from each
//! synthetic image to its nearest real one shows it. What counts as near is set by the distances among the real images.

use gafi_core::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::neighbours::{Neighbours, search};

/// Images that are searched for between two checks of the stop flag.
const STEP: usize = 4096;

/// The near-duplicates of a synthetic set. Distances are Euclidean, over all pixels of an image, scaled to [0, 1].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Duplicates {
    /// Largest distance that counts as near: the 1st percentile of the distances from each real image to the nearest
    /// other real one. So 1 % of the real images are near another real image; a synthetic set of the same size and
    /// distribution has about the same share.
    pub threshold: f64,
    /// Distances from each real image to the nearest other real one.
    pub real: DistanceQuantiles,
    /// From each synthetic image to the nearest real one: copies of training images.
    pub to_real: NearestImages,
    /// From each synthetic image to the nearest other synthetic one: repetitions.
    pub to_synthetic: NearestImages,
}

/// Quantiles of distances.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistanceQuantiles {
    /// The smallest.
    pub min: f64,
    /// 1st percentile: the smallest distance that at least 1 % of the images do not exceed.
    pub p1: f64,
    /// 5th percentile.
    pub p5: f64,
    /// Median.
    pub p50: f64,
}

/// Synthetic images and their nearest neighbours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NearestImages {
    /// Quantiles of all distances.
    pub spread: DistanceQuantiles,
    /// Number of synthetic images with a neighbour within [`Duplicates::threshold`].
    pub near: u64,
    /// Number of synthetic images that equal their neighbour in every pixel.
    pub equal: u64,
    /// The closest pairs, nearest first.
    pub closest: Vec<ImagePair>,
}

/// A synthetic image and its nearest neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagePair {
    /// Row in the synthetic set.
    pub synthetic: usize,
    /// Row of the neighbour in its own set.
    pub other: usize,
    /// Their distance.
    pub distance: f64,
}

/// Finds near-duplicates of the images `synthetic` (n, `bytes`) among the images `real` (m, `bytes`) and among
/// themselves, and lists the `pairs` closest. The search is exact: every image is compared with every other.
///
/// # Errors
/// [`gafi_core::Error::Config`] when a set has fewer than two images or a partial one;
/// [`gafi_core::Error::Interrupted`].
pub fn near_duplicates(synthetic: &[u8], real: &[u8], bytes: usize, pairs: usize, cx: &Context) -> Result<Duplicates> {
    let images = (2 * synthetic.len() + real.len()) / bytes.max(1);
    let mut task = cx.progress.begin("near-duplicates", Some(images as u64));
    let mut nearest = |queries: &[u8], references: &[u8], same: bool| -> Result<Neighbours> {
        let mut all = Neighbours { k: 1, rows: Vec::new(), squared: Vec::new() };
        for (i, queries) in queries.chunks(STEP * bytes.max(1)).enumerate() {
            cx.checkpoint()?;
            let found = search(queries, references, bytes, 1, same.then_some(i * STEP))?;
            task.advance(found.rows.len() as u64);
            all.rows.extend(found.rows);
            all.squared.extend(found.squared);
        }
        Ok(all)
    };
    let within_real = nearest(real, real, true)?;
    let to_real = nearest(synthetic, real, false)?;
    let within_synthetic = nearest(synthetic, synthetic, true)?;
    let real = DistanceQuantiles::of(&within_real)?;
    let threshold = real.p1;
    Ok(Duplicates {
        threshold,
        real,
        to_real: NearestImages::of(&to_real, threshold, pairs, false)?,
        to_synthetic: NearestImages::of(&within_synthetic, threshold, pairs, true)?,
    })
}

/// Converts a squared distance of 8-bit pixels to a distance of pixels in [0, 1].
fn scaled(squared: f64) -> f64 {
    squared.sqrt() / 255.0
}

impl DistanceQuantiles {
    fn of(nearest: &Neighbours) -> Result<Self> {
        let mut sorted = nearest.squared.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let Some(&min) = sorted.first() else {
            return Err(gafi_core::Error::config("images", 0, "at least one image"));
        };
        let percentile = |p: usize| scaled(sorted[(p * sorted.len()).div_ceil(100) - 1]);
        Ok(Self { min: scaled(min), p1: percentile(1), p5: percentile(5), p50: percentile(50) })
    }
}

impl NearestImages {
    /// With `mutual`, two images that are each other's neighbours count as one pair.
    fn of(nearest: &Neighbours, threshold: f64, pairs: usize, mutual: bool) -> Result<Self> {
        let mut order: Vec<(f64, usize, usize)> = nearest
            .squared
            .iter()
            .zip(&nearest.rows)
            .enumerate()
            .map(|(row, (&squared, &other))| (squared, row, other as usize))
            .filter(|&(_, row, other)| !(mutual && other < row && nearest.rows[other] as usize == row))
            .collect();
        order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let pair = |(squared, synthetic, other)| ImagePair { synthetic, other, distance: scaled(squared) };
        Ok(Self {
            spread: DistanceQuantiles::of(nearest)?,
            near: nearest.squared.iter().filter(|&&squared| scaled(squared) <= threshold).count() as u64,
            equal: nearest.squared.iter().filter(|&&squared| squared == 0.0).count() as u64,
            closest: order.into_iter().take(pairs).map(pair).collect(),
        })
    }
}

//! Near-duplicates: how close synthetic images come to real ones and to each other, in pixels.
//!
//! A generator that has learnt its training images by heart passes every test in a teacher's features. The nearest real image
//! of each synthetic one tells, if there is a measure of how near is normal; here that is how near real images are to each
//! other.

use gafi_core::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::neighbours::{Neighbours, search};

/// Images whose neighbours are looked for between two points at which a stop is heard.
const STEP: usize = 4096;

/// What near-duplicates there are. Distances are Euclidean, of all pixels of an image, scaled to [0, 1].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Duplicates {
    /// What counts as near: the 1st percentile of the distances from each real image to its nearest other real one. So 1 % of the
    /// real images have a real neighbour as near, and about 1 % of synthetic ones would have, were they drawn like real ones.
    /// Among themselves that holds for as many synthetic images as there are real ones; fewer lie further apart.
    pub threshold: f64,
    /// From each real image to the nearest other real one.
    pub real: Spread,
    /// From each synthetic image to the nearest real one: what is learnt by heart.
    pub to_real: Nearest,
    /// From each synthetic image to the nearest other synthetic one: what is repeated.
    pub to_synthetic: Nearest,
}

/// How distances are distributed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// 1st percentile: the smallest distance that 1 % do not exceed.
    pub p1: f64,
    /// 5th percentile.
    pub p5: f64,
    /// Median.
    pub p50: f64,
}

/// Distances from synthetic images to their nearest neighbours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nearest {
    /// All distances.
    pub spread: Spread,
    /// Synthetic images whose neighbour is no further than [`Duplicates::threshold`].
    pub near: u64,
    /// Synthetic images that equal their neighbour in every pixel.
    pub equal: u64,
    /// The closest pairs, the closest first.
    pub closest: Vec<Pair>,
}

/// Two images and how far they are apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Row of the synthetic set.
    pub synthetic: usize,
    /// Row of the set of its neighbour.
    pub other: usize,
    /// Their distance.
    pub distance: f64,
}

/// Looks for near-duplicates in `synthetic` (n, `bytes`) among themselves and among `real` (m, `bytes`), images of 8-bit pixels; names
/// the `pairs` closest. Every image is compared with every other, exactly.
///
/// # Errors
/// [`gafi_core::Error::Config`] when a set has fewer than two images or they are not whole; [`gafi_core::Error::Interrupted`].
pub fn near_duplicates(synthetic: &[u8], real: &[u8], bytes: usize, pairs: usize, cx: &Context) -> Result<Duplicates> {
    let images = (2 * synthetic.len() + real.len()) / bytes.max(1);
    let mut task = cx.progress.begin("near-duplicates", Some(images as u64));
    let mut find = |queries: &[u8], references: &[u8], same: bool| -> Result<Neighbours> {
        let mut all = Neighbours { k: 1, rows: Vec::new(), squared: Vec::new() };
        for (i, queries) in queries.chunks(STEP * bytes.max(1)).enumerate() {
            cx.checkpoint()?;
            let some = search(queries, references, bytes, 1, same.then_some(i * STEP))?;
            task.advance(some.rows.len() as u64);
            all.rows.extend(some.rows);
            all.squared.extend(some.squared);
        }
        Ok(all)
    };
    let within_real = find(real, real, true)?;
    let to_real = find(synthetic, real, false)?;
    let within_synthetic = find(synthetic, synthetic, true)?;
    let real = Spread::of(&within_real)?;
    let threshold = real.p1;
    Ok(Duplicates {
        threshold,
        real,
        to_real: Nearest::of(&to_real, threshold, pairs, false)?,
        to_synthetic: Nearest::of(&within_synthetic, threshold, pairs, true)?,
    })
}

/// A distance of pixels from 0 to 255 as one of pixels from 0 to 1.
fn scaled(squared: f64) -> f64 {
    squared.sqrt() / 255.0
}

impl Spread {
    fn of(nearest: &Neighbours) -> Result<Self> {
        let mut sorted = nearest.squared.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let Some(&min) = sorted.first() else {
            return Err(gafi_core::Error::config("images", 0, "at least one"));
        };
        let percentile = |p: usize| scaled(sorted[(p * sorted.len()).div_ceil(100) - 1]);
        Ok(Self { min: scaled(min), p1: percentile(1), p5: percentile(5), p50: percentile(50) })
    }
}

impl Nearest {
    /// With `mutual`, two images that are each other's neighbours are one pair.
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
        let pair = |(squared, synthetic, other)| Pair { synthetic, other, distance: scaled(squared) };
        let count = |test: &dyn Fn(f64) -> bool| nearest.squared.iter().filter(|&&s| test(s)).count() as u64;
        Ok(Self {
            spread: Spread::of(nearest)?,
            near: count(&|squared| scaled(squared) <= threshold),
            equal: count(&|squared| squared == 0.0),
            closest: order.into_iter().take(pairs).map(pair).collect(),
        })
    }
}

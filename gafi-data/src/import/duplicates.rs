//! Finds images that are in two splits: equal ones by a hash of their pixels, similar ones by a perceptual hash.
//!
//! The perceptual hash is a difference hash (Krawetz 2013, "Kind of Like That", <https://www.hackerfactor.com>) in both
//! directions: an image is averaged to 9x9 cells, and each of 128 bits is set if a cell is brighter than its left or upper
//! neighbour. Two images are similar if at most [`NEAR`] bits differ. Small images of simple shapes, such as the shirts of
//! Fashion-MNIST, are often similar without being copies, so similar images are counted and never dropped.

use std::collections::HashSet;

use rayon::prelude::*;

use crate::source::Pixels;

/// In how many bits the perceptual hashes of similar images differ at most.
pub(crate) const NEAR: u32 = 7;

/// A hash has this many parts of 16 bits. They are one more than [`NEAR`], so two similar hashes have an equal part.
const PARTS: u32 = NEAR + 1;

/// Maximum number of hashes that are compared for each part. Only in sets of nearly equal images do more hashes share a part.
const COMPARED: usize = 4096;

/// What identifies an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Hash of shape and pixels.
    pub(crate) pixels: u128,
    pub(crate) perceptual: u128,
}

impl Fingerprint {
    pub(crate) fn of(image: &Pixels) -> Self {
        let mut hasher = blake3::Hasher::new();
        for side in [image.spec.channels, image.spec.height, image.spec.width] {
            hasher.update(&(side as u64).to_le_bytes());
        }
        hasher.update(&image.data);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self { pixels: u128::from_le_bytes(bytes), perceptual: perceptual_hash(image) }
    }
}

/// Cells per side of the averaged image.
const GRID: usize = 9;

fn perceptual_hash(image: &Pixels) -> u128 {
    let height = image.spec.height;
    let width = image.spec.width;
    let plane = height * width;
    if plane == 0 {
        return 0;
    }
    let ends = |cell: usize, side: usize| {
        let start = cell * side / GRID;
        (start, ((cell + 1) * side / GRID).max(start + 1))
    };
    let mut cells = [[0u32; GRID]; GRID];
    for (y, line) in cells.iter_mut().enumerate() {
        let (top, bottom) = ends(y, height);
        for (x, cell) in line.iter_mut().enumerate() {
            let (left, right) = ends(x, width);
            let mut sum = 0u64;
            for channel in image.data.chunks_exact(plane) {
                for row in top..bottom {
                    let values = &channel[row * width + left..row * width + right];
                    sum += u64::from(values.iter().map(|&v| u32::from(v)).sum::<u32>());
                }
            }
            let values = (bottom - top) * (right - left) * image.spec.channels;
            // In sixteenths of a grey level.
            *cell = (sum * 16 / values as u64) as u32;
        }
    }
    let mut bits = 0u128;
    for y in 0..GRID - 1 {
        for x in 0..GRID - 1 {
            // A difference of up to one grey level is the noise of a compressed flat area.
            let across = cells[y][x + 1] > cells[y][x] + 16;
            let down = cells[y + 1][x] > cells[y][x] + 16;
            bits = bits << 2 | u128::from(across) << 1 | u128::from(down);
        }
    }
    bits
}

/// An index of perceptual hashes, to find those near another one.
struct HashIndex {
    hashes: Vec<u128>,
    /// For each part, its value in every hash: (value, index of the hash), sorted.
    parts: Vec<Vec<(u16, u32)>>,
}

impl HashIndex {
    fn new(hashes: impl Iterator<Item = u128>) -> Self {
        let mut hashes: Vec<u128> = hashes.collect();
        hashes.par_sort_unstable();
        hashes.dedup();
        let sorted = |part: u32| {
            let mut values: Vec<(u16, u32)> =
                hashes.iter().zip(0..).map(|(&hash, n)| (part_of(hash, part), n)).collect();
            values.sort_unstable();
            values
        };
        let parts = (0..PARTS).into_par_iter().map(sorted).collect();
        Self { hashes, parts }
    }

    /// Whether one of the hashes is similar to `hash`.
    fn has_near(&self, hash: u128) -> bool {
        self.parts.iter().zip(0..).any(|(values, part)| {
            let value = part_of(hash, part);
            let first = values.partition_point(|(other, _)| *other < value);
            let same = values[first..].iter().take(COMPARED).take_while(|(other, _)| *other == value);
            same.into_iter().any(|&(_, n)| (self.hashes[n as usize] ^ hash).count_ones() <= NEAR)
        })
    }
}

fn part_of(hash: u128, part: u32) -> u16 {
    (hash >> (16 * part)) as u16
}

/// Rows of a split whose images are also in other splits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    /// Images that are equal to another one in every pixel.
    pub(crate) equal: Vec<usize>,
    /// Images that are only similar to another one.
    pub(crate) similar: Vec<usize>,
}

/// Finds the images of `rows` that are also among `others`.
pub(crate) fn shared(rows: &[(usize, Fingerprint)], others: &[Fingerprint]) -> Shared {
    let pixels: HashSet<u128> = others.iter().map(|print| print.pixels).collect();
    let hashes = HashIndex::new(others.iter().map(|print| print.perceptual));
    let (equal, rest): (Vec<_>, Vec<_>) = rows.iter().copied().partition(|(_, print)| pixels.contains(&print.pixels));
    let similar = rest.into_par_iter().filter(|(_, print)| hashes.has_near(print.perceptual)).map(|(row, _)| row);
    Shared { equal: equal.into_iter().map(|(row, _)| row).collect(), similar: similar.collect() }
}

#[cfg(test)]
mod tests {
    use gafi_core::ImageSpec;

    use super::*;

    fn image(size: usize, value: impl Fn(usize, usize) -> f64) -> Pixels {
        let data = (0..size * size).map(|i| value(i / size, i % size).clamp(0.0, 255.0) as u8).collect();
        Pixels { spec: ImageSpec::new(1, size, size), data }
    }

    /// Waves that differ in direction and frequency.
    fn wave(number: usize, brightness: f64) -> Pixels {
        let (a, b) = (0.11 + 0.07 * number as f64, 0.5 - 0.06 * number as f64);
        image(32, |y, x| 128.0 + brightness + 80.0 * (a * x as f64 + b * y as f64).sin())
    }

    #[test]
    fn equal_and_similar_images_are_told_apart() {
        let others: Vec<Fingerprint> = (0..6).map(|n| Fingerprint::of(&wave(n, 0.0))).collect();
        let rows = [wave(3, 0.0), wave(4, 9.0), wave(9, 0.0)];
        let rows: Vec<_> = rows.iter().map(Fingerprint::of).enumerate().collect();
        assert_eq!(shared(&rows, &others), Shared { equal: vec![0], similar: vec![1] });
        assert_eq!(shared(&rows, &[]), Shared::default());
    }

    #[test]
    fn shape_counts_for_equality() {
        let pixels =
            |channels, height, width| Pixels { spec: ImageSpec::new(channels, height, width), data: vec![7; 12] };
        assert_ne!(Fingerprint::of(&pixels(1, 3, 4)).pixels, Fingerprint::of(&pixels(1, 4, 3)).pixels);
        // Images of fewer than 9x9 pixels have a perceptual hash as well.
        assert_eq!(Fingerprint::of(&pixels(3, 2, 2)).perceptual, 0);
    }

    #[test]
    fn every_near_hash_is_found() {
        let hashes = HashIndex::new([0u128, u128::MAX].into_iter());
        // Flips in seven of eight parts leave one part equal. An eighth flip makes the hash too different.
        let spread = |bits: u32| (0..bits).fold(0u128, |hash, bit| hash | 1 << (16 * bit + 5));
        assert!((0..=7).all(|bits| hashes.has_near(spread(bits))));
        assert!(!hashes.has_near(spread(8)));
        assert!(hashes.has_near(!spread(7)));
    }
}

//! Mean and standard deviation of each channel. They are published for most sets, so they quickly check an import.

use gafi_core::{Result, Rows};

/// Statistics of each channel over all pixels of a dataset, with pixel values scaled to [0, 1].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ChannelStats {
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Population standard deviation of each channel.
    pub std: Vec<f64>,
}

/// Computes mean and standard deviation of each channel in one pass. Sums are exact integers, so the order of rows doesn't
/// matter. An empty dataset gives NaN.
///
/// # Errors
/// Those of reading the rows.
pub fn channel_stats(rows: &dyn Rows) -> Result<ChannelStats> {
    let spec = rows.info().image;
    let mut sums = vec![0u128; spec.channels];
    let mut squares = vec![0u128; spec.channels];
    let all: Vec<usize> = (0..rows.len()).collect();
    let mut images = Vec::new();
    for chunk in all.chunks(256) {
        images.resize(chunk.len() * spec.bytes(), 0);
        rows.read(chunk, &mut images)?;
        for (i, plane) in images.chunks_exact(spec.height * spec.width).enumerate() {
            let c = i % spec.channels;
            sums[c] += u128::from(plane.iter().map(|&v| u64::from(v)).sum::<u64>());
            squares[c] += u128::from(plane.iter().map(|&v| u64::from(v) * u64::from(v)).sum::<u64>());
        }
    }
    let n = (rows.len() * spec.height * spec.width) as f64;
    let mean: Vec<f64> = sums.iter().map(|&s| s as f64 / n / 255.0).collect();
    let variance = |(&square, &mean): (&u128, &f64)| square as f64 / n / (255.0 * 255.0) - mean * mean;
    let std = squares.iter().zip(&mean).map(|v| variance(v).max(0.0).sqrt()).collect();
    Ok(ChannelStats { mean, std })
}

#[cfg(test)]
mod tests {
    use gafi_core::{ClassId, ImageSpec, MemoryDataset, Split};

    use super::*;

    #[test]
    fn statistics_match_a_hand_calculation() {
        let mut set = MemoryDataset::new(ImageSpec::new(3, 1, 2), vec!["a".into()], Split::Train);
        set.push(&[0, 255, 255, 255, 51, 51], ClassId(0));
        set.push(&[0, 255, 255, 255, 51, 51], ClassId(0));
        let stats = channel_stats(&set).unwrap();
        for (found, expected) in stats.mean.iter().chain(&stats.std).zip([0.5, 1.0, 0.2, 0.5, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-7, "{stats:?}");
        }
    }
}

//! Selects and reads the rows of a dataset to measure.

use gafi_core::stream::permutation;
use gafi_core::{Context, INFERENCE_BATCH, Result, Rows, Stream};

/// Up to `n` rows of each class, drawn by `stream`, in the order of the dataset. Sets are often sorted, so the first rows would
/// not be typical. Samples are nested: a larger `n` includes all rows of a smaller one.
pub(crate) fn sample_of_each(rows: &dyn Rows, n: usize, stream: &Stream) -> Vec<usize> {
    let mut sample = Vec::new();
    for (class, own) in rows.by_class().iter().enumerate() {
        let order = permutation(own.len(), &stream.at(class as u64));
        sample.extend(order.iter().take(n).map(|&at| own[at]));
    }
    sample.sort_unstable();
    sample
}

/// Pixels (n, c, h, w) of the given rows.
///
/// # Errors
/// [`gafi_core::Error::Interrupted`]; errors of reading files.
pub(crate) fn read_pixels(dataset: &dyn Rows, rows: &[usize], cx: &Context) -> Result<Vec<u8>> {
    let bytes = dataset.info().image.bytes();
    let mut pixels = vec![0; rows.len() * bytes];
    for (rows, pixels) in rows.chunks(INFERENCE_BATCH).zip(pixels.chunks_mut(INFERENCE_BATCH * bytes)) {
        cx.checkpoint()?;
        dataset.read(rows, pixels)?;
    }
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use gafi_core::{ClassId, ImageSpec, MemoryDataset, Split};

    use super::*;

    #[test]
    fn a_sample_is_spread_over_a_sorted_class_and_nested() {
        let mut set = MemoryDataset::new(ImageSpec::new(1, 1, 1), vec!["a".into(), "b".into()], Split::Screen);
        (0..205).for_each(|row| set.push(&[row], ClassId(u32::from(row >= 200))));
        let sample = |n, seed| sample_of_each(&set, n, &Stream::new(seed));
        let some = sample(20, 1);
        assert!(some.is_sorted() && some.len() == 25, "20 of class a, all 5 of class b: {some:?}");
        assert!(some.iter().any(|row| (100..200).contains(row)));
        let more = sample(50, 1);
        assert!(some.iter().all(|row| more.contains(row)));
        assert_ne!(some, sample(20, 2));
        assert_eq!(sample(usize::MAX, 3), (0..205).collect::<Vec<_>>());
    }
}

//! Reads the rows of a dataset that are measured.

use gafi_core::{Context, Dataset, Result, Rows};

/// Images that are read, or scored, between two checks of the stop flag.
pub(crate) const BATCH: usize = 256;

/// The first `n` rows of each class, in the order of the dataset.
pub(crate) fn first_of_each(dataset: &Dataset, n: usize) -> Vec<usize> {
    let mut left = vec![n; dataset.info().classes.len()];
    let mut take = |row: &usize| {
        let left = &mut left[dataset.label(*row).index()];
        let taken = *left > 0;
        *left -= usize::from(taken);
        taken
    };
    (0..dataset.len()).filter(|row| take(row)).collect()
}

/// Pixels (n, c, h, w) of the given rows.
///
/// # Errors
/// [`gafi_core::Error::Interrupted`], and what reading a file returns.
pub(crate) fn read_pixels(dataset: &Dataset, rows: &[usize], cx: &Context) -> Result<Vec<u8>> {
    let bytes = dataset.info().image.bytes();
    let mut pixels = vec![0; rows.len() * bytes];
    for (rows, pixels) in rows.chunks(BATCH).zip(pixels.chunks_mut(BATCH * bytes)) {
        cx.checkpoint()?;
        dataset.read(rows, pixels)?;
    }
    Ok(pixels)
}

//! What the stage `train-classifier` trains on: a share of the images in each epoch, and a teacher's soft labels.

use std::sync::Arc;

use gafi_core::stream::permutation;
use gafi_core::{
    ArtifactWriter, ClassId, Context, DatasetInfo, EpochData, INFERENCE_BATCH, Result, Rows, Scorer, Stream, Subset,
};

/// `n` images of each class per epoch, in the order of a random permutation of the class. An epoch continues where the
/// last one stopped; once all images of a class have been used, they are permuted again.
///
/// An epoch's images follow from the stream and the epoch's number, so resuming needs no state.
pub(crate) struct PerEpoch {
    rows: Arc<dyn Rows>,
    members: Vec<Vec<usize>>,
    n: usize,
    stream: Stream,
    current: Option<Subset>,
}

impl PerEpoch {
    pub(crate) fn new(rows: Arc<dyn Rows>, n: usize, stream: Stream) -> Self {
        Self { members: rows.by_class(), rows, n, stream, current: None }
    }

    /// The rows of `epoch`, class by class, and how many of them no earlier epoch had.
    fn choose(&self, epoch: u32) -> (Vec<usize>, u64) {
        let mut chosen = Vec::with_capacity(self.n * self.members.len());
        let mut new = 0;
        let first = u64::from(epoch) * self.n as u64;
        for (class, members) in self.members.iter().enumerate().filter(|(_, members)| !members.is_empty()) {
            let len = members.len() as u64;
            let mut order = Vec::new();
            for at in first..first + self.n as u64 {
                if order.is_empty() || at.is_multiple_of(len) {
                    order = permutation(members.len(), &self.stream.at(class as u64).at(at / len));
                }
                chosen.push(members[order[(at % len) as usize]]);
            }
            new += len.min(first + self.n as u64) - len.min(first);
        }
        (chosen, new)
    }
}

impl EpochData for PerEpoch {
    fn rows(&mut self, epoch: u32, _: &ArtifactWriter, _: &Context) -> Result<(&dyn Rows, u64)> {
        let (chosen, new) = self.choose(epoch);
        Ok((self.current.insert(Subset::new(self.rows.clone(), chosen)), new))
    }
}

/// A set with the soft labels of a teacher, which are held in memory.
pub(crate) struct SoftLabelled {
    rows: Arc<dyn Rows>,
    probabilities: Vec<f32>,
}

impl SoftLabelled {
    /// Scores all of `rows`, which must have the teacher's shape and classes.
    pub(crate) fn new(rows: Arc<dyn Rows>, teacher: &mut dyn Scorer, cx: &Context) -> Result<Self> {
        let bytes = rows.info().image.bytes();
        let mut probabilities = Vec::with_capacity(rows.len() * rows.info().classes.len());
        let mut pixels = Vec::new();
        let mut task = cx.progress.begin("soft labels", Some(rows.len() as u64));
        for start in (0..rows.len()).step_by(INFERENCE_BATCH) {
            cx.checkpoint()?;
            let batch: Vec<usize> = (start..rows.len().min(start + INFERENCE_BATCH)).collect();
            pixels.resize(batch.len() * bytes, 0);
            rows.read(&batch, &mut pixels)?;
            probabilities.extend(teacher.score(&pixels)?);
            task.advance(batch.len() as u64);
        }
        Ok(Self { rows, probabilities })
    }
}

impl Rows for SoftLabelled {
    fn info(&self) -> &DatasetInfo {
        self.rows.info()
    }
    fn len(&self) -> usize {
        self.rows.len()
    }
    fn label(&self, row: usize) -> ClassId {
        self.rows.label(row)
    }
    fn read(&self, rows: &[usize], images: &mut [u8]) -> Result<()> {
        self.rows.read(rows, images)
    }
    fn probabilities(&self, rows: &[usize]) -> Result<Option<Vec<f32>>> {
        let classes = self.info().classes.len();
        let of = |&row: &usize| &self.probabilities[row * classes..(row + 1) * classes];
        Ok(Some(rows.iter().flat_map(of).copied().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gafi_core::{ImageSpec, MemoryDataset, Split};

    /// Ten rows of class 0 and three of class 1, whose pixel is their number.
    fn data() -> Arc<dyn Rows> {
        let mut data = MemoryDataset::new(ImageSpec::new(1, 1, 1), vec!["a".into(), "b".into()], Split::Train);
        (0..13u8).for_each(|row| data.push(&[row], ClassId(u32::from(row >= 10))));
        Arc::new(data)
    }

    #[test]
    fn epochs_run_through_the_permutations_of_each_class() {
        let set = PerEpoch::new(data(), 4, Stream::new(1));
        let epochs: Vec<_> = (0..5).map(|epoch| set.choose(epoch)).collect();
        let of = |class: std::ops::Range<usize>| -> Vec<usize> {
            epochs.iter().flat_map(|(rows, _)| rows.iter().copied().filter(|row| class.contains(row))).collect()
        };
        for (class, len) in [(0..10, 10), (10..13, 3)] {
            let rows = of(class.clone());
            assert_eq!(rows.len(), 20);
            for pass in rows.chunks_exact(len) {
                let mut sorted = pass.to_vec();
                sorted.sort_unstable();
                assert_eq!(sorted, class.clone().collect::<Vec<_>>());
            }
            assert_ne!(rows[..len], rows[len..2 * len]);
        }
        // 4 of each, but class 1 has only 3 rows; then 4, 2 and none that are new.
        assert_eq!(epochs.iter().map(|(_, new)| *new).collect::<Vec<_>>(), [7, 4, 2, 0, 0]);
        // An epoch needs no earlier one.
        assert_eq!(PerEpoch::new(data(), 4, Stream::new(1)).choose(3), epochs[3]);
        assert_ne!(PerEpoch::new(data(), 4, Stream::new(2)).choose(3), epochs[3]);
    }
}

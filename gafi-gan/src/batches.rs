//! The input of a training step: real images and latents. Both follow from the seed and the step's number, so resuming
//! needs no saved random state.

use candle_core::{Device, Tensor};
use gafi_core::stream::{below, permutation};
use gafi_core::{Result, Rows, Stream};
use gafi_nn::pixels;
use rand_distr::{Distribution, StandardNormal};

/// Batches of real images. Every epoch visits the rows in a new random order. The rows left after an epoch's whole batches
/// are dropped, or begin a batch that the next epoch completes.
pub(crate) struct Batches<'a> {
    data: &'a dyn Rows,
    size: usize,
    /// Rows of an epoch that are used.
    used: u64,
    flip: bool,
    stream: Stream,
    epoch: Option<u64>,
    order: Vec<usize>,
    pixels: Vec<u8>,
}

impl<'a> Batches<'a> {
    /// Batches of `size` images. Without `drop_last`, or with fewer rows than `size`, no row is dropped.
    pub(crate) fn new(data: &'a dyn Rows, size: usize, drop_last: bool, flip: bool, stream: Stream) -> Self {
        let pixels = vec![0; size * data.info().image.bytes()];
        let rest = if drop_last && data.len() >= size { data.len() % size } else { 0 };
        let used = (data.len() - rest) as u64;
        Self { data, size, used, flip, stream, epoch: None, order: Vec::new(), pixels }
    }

    /// The batch of `step`: images (N, C, H, W) in [-1, 1] and labels (N) u32, on `device`.
    pub(crate) fn get(&mut self, step: u64, device: &Device) -> Result<(Tensor, Tensor)> {
        let rows = self.rows(step);
        self.data.read(&rows, &mut self.pixels)?;
        let image = self.data.info().image;
        if self.flip {
            let mut rng = self.stream.child("flip").at(step).rng();
            for picture in self.pixels.chunks_exact_mut(image.bytes()) {
                if below(&mut rng, 2) == 1 {
                    picture.chunks_exact_mut(image.width).for_each(<[u8]>::reverse);
                }
            }
        }
        let labels: Vec<u32> = rows.iter().map(|&row| self.data.label(row).0).collect();
        let images = pixels::to_tensor(&self.pixels, &image, device)?;
        Ok((images, Tensor::from_vec(labels, self.size, device).map_err(gafi_nn::Error::from)?))
    }

    fn rows(&mut self, step: u64) -> Vec<usize> {
        let first = step * self.size as u64;
        let mut rows = Vec::with_capacity(self.size);
        for at in first..first + self.size as u64 {
            let epoch = at / self.used;
            if self.epoch != Some(epoch) {
                self.order = permutation(self.data.len(), &self.stream.child("order").at(epoch));
                self.epoch = Some(epoch);
            }
            rows.push(self.order[(at % self.used) as usize]);
        }
        rows
    }
}

/// `n` latents of `d` standard normal values, (n, d) row by row, drawn from `stream`.
pub(crate) fn latents(n: usize, d: usize, stream: &Stream) -> Vec<f32> {
    let mut rng = stream.rng();
    (0..n * d).map(|_| StandardNormal.sample(&mut rng)).collect()
}

/// [`latents`] as a tensor (n, d).
pub(crate) fn latent_tensor(n: usize, d: usize, stream: &Stream, device: &Device) -> gafi_nn::Result<Tensor> {
    Ok(Tensor::from_vec(latents(n, d, stream), (n, d), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gafi_core::{ClassId, ImageSpec, MemoryDataset, Split};

    fn data(n: usize) -> MemoryDataset {
        let mut data = MemoryDataset::new(ImageSpec::new(1, 1, 2), vec!["a".into(), "b".into()], Split::Train);
        for i in 0..n {
            data.push(&[i as u8, 100 + i as u8], ClassId(i as u32 % 2));
        }
        data
    }

    #[test]
    fn every_epoch_visits_each_row_once_for_any_batch_and_first_step() {
        let data = data(10);
        let mut batches = Batches::new(&data, 4, false, false, Stream::new(1));
        let all: Vec<usize> = (0..5).flat_map(|step| batches.rows(step)).collect();
        for epoch in all.chunks(10) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(all[..10], all[10..]);
        // Step 2 spans two epochs, and is the same without steps 0 and 1 before it.
        assert_eq!(Batches::new(&data, 4, false, false, Stream::new(1)).rows(2), all[8..12]);
    }

    #[test]
    fn a_batch_larger_than_the_dataset_repeats_rows() {
        let data = data(3);
        let mut rows = Batches::new(&data, 6, true, false, Stream::new(1)).rows(0);
        rows.sort_unstable();
        assert_eq!(rows, [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn the_remainder_of_an_epoch_is_dropped_after_shuffling() {
        let data = data(10);
        let mut batches = Batches::new(&data, 4, true, false, Stream::new(1));
        let all: Vec<usize> = (0..40).flat_map(|step| batches.rows(step)).collect();
        let mut dropped = [0; 10];
        for epoch in all.chunks(8) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 8, "{epoch:?}");
            (0..10).filter(|row| !epoch.contains(row)).for_each(|row| dropped[row] += 1);
        }
        // 20 epochs drop two rows each, and not always the same.
        assert!(dropped.iter().all(|&n| n < 12), "{dropped:?}");
        assert_eq!(Batches::new(&data, 4, true, false, Stream::new(1)).rows(3), all[12..16]);
    }

    #[test]
    fn images_keep_their_labels_and_half_are_flipped() {
        let data = data(10);
        let mut batches = Batches::new(&data, 10, false, true, Stream::new(1));
        let mut flipped = 0;
        for step in 0..40 {
            let (images, labels) = batches.get(step, &Device::Cpu).unwrap();
            let pictures = pixels::to_u8(&images).unwrap();
            for (picture, label) in pictures.chunks(2).zip(labels.to_vec1::<u32>().unwrap()) {
                let low = picture[0].min(picture[1]);
                let high = picture[0].max(picture[1]);
                assert_eq!((high, u32::from(low) % 2), (low + 100, label));
                flipped += usize::from(picture[0] == high);
            }
        }
        assert!((140..260).contains(&flipped), "{flipped} of 400");
    }
}

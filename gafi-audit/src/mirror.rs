//! Measures whether images keep their class when mirrored, and so whether mirroring may augment them.

use gafi_core::{ClassId, Context, Error, ImageSpec, Result, Rows, Stream};

use crate::patches::PatchFeatures;
use crate::prdc::share;
use crate::ridge::RidgeClassifier;
use crate::rows::{read_pixels, sample_of_each};

/// Accuracies in [0, 1] of classifiers in closed form on held-out images as they are, and on the same images mirrored.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MirrorAccuracy {
    /// On the images as they are.
    pub plain: f64,
    /// On the images mirrored left to right.
    pub mirrored: f64,
    /// Number of held-out images.
    pub n: usize,
}

/// Fits a [`RidgeClassifier`] on [`PatchFeatures`] to each half of up to `per_class` images of each class of `rows`, and evaluates
/// it on the other half, plain and mirrored.
///
/// It holds the images and their features (up to 1,280 f32 each) in memory.
///
/// # Errors
/// [`Error::Config`] when a class has fewer than two images; [`Error::Interrupted`]; errors of reading files.
pub fn mirror_accuracy(rows: &dyn Rows, per_class: usize, seed: u64, cx: &Context) -> Result<MirrorAccuracy> {
    let info = rows.info();
    if let Some(class) = info.counts.iter().position(|&count| count < 2) {
        let found = format!("{} images of class {class} ({})", info.counts[class], info.classes[class]);
        return Err(Error::config("rows", found, "at least two images of every class"));
    }
    let stream = Stream::new(seed).child("mirror");
    let mut halves = [Vec::new(), Vec::new()];
    let mut seen = vec![0; info.classes.len()];
    for row in sample_of_each(rows, per_class.max(2), &stream.child("rows")) {
        let seen = &mut seen[rows.label(row).index()];
        halves[*seen % 2].push(row);
        *seen += 1;
    }
    let mut right = [0.0; 2];
    for (fitted, held_out) in [(&halves[0], &halves[1]), (&halves[1], &halves[0])] {
        let pixels = read_pixels(rows, fitted, cx)?;
        let patches = PatchFeatures::pick(info.image, &pixels, &stream.child("patches"))?;
        // Images of one colour have no patches, and don't change when they are mirrored.
        let Some(patches) = patches else { continue };
        cx.checkpoint()?;
        let labels: Vec<ClassId> = fitted.iter().map(|&row| rows.label(row)).collect();
        let classifier = RidgeClassifier::fit(&patches.features(&pixels)?, &labels, info.classes.len())?;
        let mut pixels = read_pixels(rows, held_out, cx)?;
        for right in &mut right {
            cx.checkpoint()?;
            let predicted = classifier.predict(&patches.features(&pixels)?)?;
            let hits = predicted.iter().zip(held_out).map(|(class, &row)| *class == rows.label(row));
            *right += share(hits) * held_out.len() as f64;
            mirror(&mut pixels, info.image);
        }
    }
    let n = halves[0].len() + halves[1].len();
    let [plain, mirrored] = right.map(|right| right / n as f64);
    Ok(MirrorAccuracy { plain, mirrored, n })
}

/// Mirrors `images` (n, c, h, w) left to right.
fn mirror(images: &mut [u8], image: ImageSpec) {
    images.chunks_exact_mut(image.width.max(1)).for_each(<[u8]>::reverse);
}

#[cfg(test)]
mod tests {
    use gafi_core::stream::below;
    use gafi_core::{MemoryDataset, Split};

    use super::*;

    /// Noise with a bright bar in one of two places, (top, left), for each of two classes.
    fn bars(places: [(usize, usize); 2]) -> MemoryDataset {
        let image = ImageSpec::new(1, 12, 12);
        let mut set = MemoryDataset::new(image, vec!["a".into(), "b".into()], Split::Train);
        let mut rng = Stream::new(5).rng();
        for row in 0..200 {
            let mut pixels: Vec<u8> = (0..image.bytes()).map(|_| below(&mut rng, 120) as u8).collect();
            let (top, left) = places[row / 100];
            (top..top + 5).for_each(|y| pixels[y * 12 + left..][..4].fill(240));
            set.push(&pixels, ClassId((row / 100) as u32));
        }
        set
    }

    #[test]
    fn classes_told_apart_by_side_lose_when_mirrored() {
        let cx = Context::default();
        let sides = mirror_accuracy(&bars([(3, 1), (3, 7)]), 80, 0, &cx).unwrap();
        assert_eq!(sides.n, 160);
        assert!(sides.plain > 0.95 && sides.mirrored < 0.05, "{sides:?}");
        let heights = mirror_accuracy(&bars([(1, 4), (6, 4)]), 80, 0, &cx).unwrap();
        assert!(heights.plain > 0.95 && heights.plain - heights.mirrored < 0.01, "{heights:?}");
    }

    #[test]
    fn a_class_of_one_image_cannot_be_held_out() {
        let mut set = MemoryDataset::new(ImageSpec::new(1, 2, 2), vec!["a".into()], Split::Train);
        set.push(&[1, 2, 3, 4], ClassId(0));
        let error = mirror_accuracy(&set, 10, 0, &Context::default()).unwrap_err().to_string();
        assert!(error.contains("1 images of class 0 (a)") && error.contains("at least two"), "{error}");
    }

    #[test]
    fn mirroring_reverses_the_rows_of_every_channel() {
        let mut images = vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        mirror(&mut images, ImageSpec::new(2, 1, 3));
        assert_eq!(images, [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]);
    }
}

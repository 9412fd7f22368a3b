//! A picture of real images, raw samples and kept samples.

use std::io::Cursor;
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context as _, Result};
use gafi_core::{ClassId, Context, Dataset, GeneratorInfo, ImageSpec, Rows, SampleSource, write_atomic};
use gafi_pipeline::GafiSource;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, imageops};

use crate::run::Run;
use crate::samples::{Origin, first_of_each_class};
use crate::thumbnail::from_planes;

/// Images of each kind in a row.
const COLUMNS: usize = 6;
/// Classes, one row each.
const CLASSES: usize = 10;
/// Smaller images are enlarged to at least this many pixels a side.
const SIDE: u32 = 48;
/// Pixels between images, and between the three kinds.
const GAPS: (u32, u32) = (2, 20);

/// Writes a PNG to `path`: for each of the first ten classes a row of six real training images, six raw samples, and six samples
/// that the filter of the student `gafi` kept. Raw and kept samples have the same checkpoint, std and seed.
///
/// # Errors
/// When `run` has no student `gafi` yet, an artifact is missing, a network fails, or `path` cannot be written;
/// [`gafi_core::Error::Interrupted`].
pub fn picture(run: &Run, path: &Path, cx: &Context) -> Result<()> {
    run.record().row(crate::facts::GAFI).with_context(|| format!("run {}: row gafi has no student yet", run.name))?;
    let origin = Origin::of(run)?;
    let info = GeneratorInfo::of(origin.generator)?;
    let classes = info.classes.len().min(CLASSES);
    let train = origin.train.context("the run has no training images")?;
    let rows = [
        real(train, &info.image, classes)?,
        samples(&GafiSource { filter: None, ..origin.source.clone() }, &origin, classes, cx)?,
        samples(&origin.source, &origin, classes, cx)?,
    ];
    let mut file = Vec::new();
    grid(&rows, &info.image)?.write_to(&mut Cursor::new(&mut file), ImageFormat::Png)?;
    Ok(write_atomic(path, &file)?)
}

/// The first training images of each class.
fn real(train: &gafi_core::Artifact, image: &ImageSpec, classes: usize) -> Result<Vec<Vec<u8>>> {
    let rows = Dataset::open(train)?;
    anyhow::ensure!(rows.info().image == *image, "expected training images of {image}, found {}", rows.info().image);
    let mut found = vec![Vec::new(); classes];
    let mut pixels = vec![0; image.bytes()];
    for row in first_of_each_class(&rows, COLUMNS) {
        if let Some(of_class) = found.get_mut(rows.label(row).index()) {
            rows.read(&[row], &mut pixels)?;
            of_class.extend_from_slice(&pixels);
        }
    }
    Ok(found)
}

/// The first samples of each class.
fn samples(source: &GafiSource, origin: &Origin, classes: usize, cx: &Context) -> Result<Vec<Vec<u8>>> {
    let mut source = source.open(&origin.inputs(), cx)?;
    (0..classes)
        .map(|class| {
            let mut images = Vec::new();
            let bytes = source.image().bytes();
            while let Some(more) = NonZeroUsize::new(COLUMNS - images.len() / bytes) {
                cx.checkpoint()?;
                let Some(batch) = source.pull(ClassId(class as u32), more)? else { break };
                images.extend(batch.images);
            }
            Ok(images)
        })
        .collect()
}

/// One row for each class, the kinds side by side.
fn grid(kinds: &[Vec<Vec<u8>>; 3], image: &ImageSpec) -> Result<RgbImage> {
    let scale = SIDE.div_ceil(image.width.max(image.height) as u32).max(1);
    let width = image.width as u32 * scale;
    let height = image.height as u32 * scale;
    let columns = COLUMNS as u32;
    let kind_width = columns * (width + GAPS.0) - GAPS.0;
    let classes = kinds[0].len() as u32;
    let size = (3 * kind_width + 2 * GAPS.1, classes * (height + GAPS.0) - GAPS.0);
    let mut picture = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
    for (kind, of_kind) in kinds.iter().enumerate() {
        for (class, images) in of_kind.iter().enumerate() {
            for (column, pixels) in images.chunks_exact(image.bytes()).enumerate() {
                let one: DynamicImage = from_planes(pixels, image)?;
                let one = one.resize_exact(width, height, imageops::FilterType::Nearest).into_rgb8();
                let x = kind as u32 * (kind_width + GAPS.1) + column as u32 * (width + GAPS.0);
                let y = class as u32 * (height + GAPS.0);
                imageops::replace(&mut picture, &one, i64::from(x), i64::from(y));
            }
        }
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_stand_side_by_side_and_classes_below_each_other() {
        let spec = ImageSpec::new(1, 48, 48);
        let kind = |value: u8| vec![vec![value; 2 * spec.bytes()], vec![value + 1; spec.bytes()]];
        let picture = grid(&[kind(10), kind(20), kind(30)], &spec).unwrap();
        assert_eq!(picture.dimensions(), (3 * (6 * 50 - 2) + 40, 98));
        let left = |kind: u32| kind * (6 * 50 - 2 + 20);
        for (kind, value) in [(0, 10), (1, 20), (2, 30)] {
            assert_eq!(picture.get_pixel(left(kind), 0).0, [value; 3]);
            assert_eq!(picture.get_pixel(left(kind) + 50, 0).0, [value; 3]);
            assert_eq!(picture.get_pixel(left(kind) + 100, 0).0, [255; 3], "two images only");
            assert_eq!(picture.get_pixel(left(kind), 50).0, [value + 1; 3]);
        }
    }
}

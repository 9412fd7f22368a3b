//! What all export formats share: the dataset, the destination, and helpers to write images and small files.

use std::io::Write;

use gafi_core::{Batch, Context, Dataset, DatasetInfo, Error, FolderWriter, ImageSpec, Result, Split};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;
use serde::Serialize;

use super::options::{ExportFormat, ExportOptions};

/// The folder of each class, in label order; empty for formats without folders.
pub(super) type Folders = Vec<String>;

/// Which optional columns the dataset has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extra {
    pub(super) confidence: bool,
    pub(super) probabilities: bool,
}

impl Extra {
    pub(super) const fn any(self) -> bool {
        self.confidence || self.probabilities
    }
}

/// One export: what to write, and where.
pub(super) struct Exporter<'a> {
    pub(super) set: &'a Dataset,
    pub(super) info: &'a DatasetInfo,
    pub(super) extra: Extra,
    pub(super) format: ExportFormat,
    pub(super) options: &'a ExportOptions,
    pub(super) out: &'a FolderWriter,
    pub(super) cx: &'a Context,
}

impl Exporter<'_> {
    /// Passes each shard to `f`, in order, with the number of its first row.
    pub(super) fn each_shard(&self, mut f: impl FnMut(usize, Batch) -> Result<()>) -> Result<()> {
        let mut task = self.cx.progress.begin(&format!("export {}", self.format), Some(self.info.rows()));
        let mut row = 0;
        for shard in self.set.batches() {
            self.cx.checkpoint()?;
            let shard = shard?;
            let rows = shard.len();
            f(row, shard)?;
            row += rows;
            task.advance(rows as u64);
        }
        Ok(())
    }

    /// Writes a small file.
    pub(super) fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.out.create(name)?;
        file.write_all(bytes).and_then(|()| file.flush()).map_err(self.failed(name))
    }

    /// Writes a small JSON file.
    pub(super) fn json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(Error::other(format!("writing {name}")))?;
        bytes.push(b'\n');
        self.file(name, &bytes)
    }

    /// Converts an I/O error while writing `name`.
    pub(super) fn failed(&self, name: &str) -> impl FnOnce(std::io::Error) -> Error + use<> {
        Error::io("write", self.out.path(name))
    }

    /// The hub's name of the split. Generated images are training images.
    pub(super) const fn split(&self) -> &'static str {
        match self.info.split {
            Split::Train | Split::TrainVal | Split::Synthetic => "train",
            Split::Val | Split::Screen => "validation",
            Split::Test | Split::TestAsVal => "test",
        }
    }

    /// The images of a shard as PNG files.
    pub(super) fn pngs(&self, shard: &Batch) -> Result<Vec<Vec<u8>>> {
        let spec = self.info.image;
        shard.images.par_chunks_exact(spec.bytes()).map(|image| png(image, spec)).collect()
    }
}

/// The error for a dataset that a format cannot hold.
pub(super) fn unfit(format: ExportFormat, expected: impl Into<String>, found: String) -> Error {
    Error::Input { stage: format!("export {format}"), port: "dataset".into(), expected: expected.into(), found }
}

/// Converts (channels, rows, columns), the layout of datasets, to (rows, columns, channels), the layout of image files.
pub(super) fn interleaved(image: &[u8], spec: ImageSpec) -> Vec<u8> {
    let plane = spec.height * spec.width;
    (0..plane).flat_map(|at| image.iter().skip(at).step_by(plane).copied()).collect()
}

/// One image as a PNG file: grey or RGB, 8 bits.
pub(super) fn png(image: &[u8], spec: ImageSpec) -> Result<Vec<u8>> {
    let colour = if spec.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive);
    // `DatasetInfo` limits a side to 2^28.
    encoder
        .write_image(&interleaved(image, spec), spec.width as u32, spec.height as u32, colour)
        .map_err(Error::other(format!("encoding a PNG of {spec}")))?;
    Ok(bytes)
}

/// How many digits a row number has in file names, so that names sort like rows.
pub(super) fn digits(rows: u64) -> usize {
    rows.saturating_sub(1).to_string().len().max(6)
}

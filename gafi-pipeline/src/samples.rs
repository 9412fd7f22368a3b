//! A picture of the samples that the final student learned from.

use std::num::NonZeroUsize;

use anyhow::Result;
use gafi_core::{ClassId, Error, Inputs, write_atomic};

use crate::record::SAMPLES_PICTURE;
use crate::runner::StageRunner;
use crate::setting::Setting;
use crate::trial::TrialContext;

/// Samples of each class.
const COLUMNS: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// Writes a grid of samples of the first generator under `setting`: a row for each class, shorter if a class runs out.
///
/// # Errors
/// When a network fails, or the file cannot be written.
pub(crate) fn write_samples_picture(runner: &StageRunner, context: &TrialContext, setting: &Setting) -> Result<()> {
    let inputs = Inputs::new().with("generators", &context.generators[0]).with("teacher", &context.teacher);
    let mut source = context.source(0, setting).open(&inputs, runner.host.cx())?;
    let image = *source.image();
    let classes = source.classes().len();
    let mut images = Vec::with_capacity(classes * COLUMNS.get() * image.bytes());
    for id in ClassId::all(classes) {
        let mut row = Vec::new();
        while let Some(missing) = NonZeroUsize::new(COLUMNS.get() - row.len() / image.bytes()) {
            match source.pull(id, missing) {
                Ok(Some(batch)) => row.extend_from_slice(&batch.images),
                Ok(None) | Err(Error::Exhausted(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        row.resize(COLUMNS.get() * image.bytes(), 0);
        images.extend_from_slice(&row);
    }
    let png = gafi_gan::grid::png_grid(&images, &image, COLUMNS.get())?;
    Ok(write_atomic(&runner.dir.join(SAMPLES_PICTURE), &png)?)
}

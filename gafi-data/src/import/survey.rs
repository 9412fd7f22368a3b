//! [`Survey`]: the classes, counts and image shapes of a source.

use gafi_core::{ImageSpec, Result, Split};

use super::classes::{check_labels, check_own, class_names};
use super::config::ImportConfig;
use super::decode::shape_of;
use super::parts::{Origin, Parts};

/// The content of a source, before rows are held out and images resized.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// Number of training rows of each class.
    pub counts: Vec<u64>,
    /// Number of validation rows of each class; empty if the source has no validation rows.
    pub val_counts: Vec<u64>,
    /// The smallest number of channels, of rows and of columns among the training images, each independently.
    pub smallest: ImageSpec,
    /// The largest number of channels, of rows and of columns among the training images, each independently.
    pub largest: ImageSpec,
    /// Whether the source has validation rows.
    pub has_val: bool,
    /// Whether the source has test rows.
    pub has_test: bool,
}

/// Counts the classes, and reads the header of every training image.
pub(super) fn survey(config: &ImportConfig, origin: &Origin, parts: &Parts) -> Result<Survey> {
    let train = &*parts.train;
    let classes = class_names(config, parts)?;
    let counts = check_labels(config, train, &classes)?;
    let val_counts = match &parts.val {
        Some(val) => check_own(config, &**val, train, &classes, "val")?,
        None => Vec::new(),
    };
    let mut smallest = ImageSpec::new(usize::MAX, usize::MAX, usize::MAX);
    let mut largest = ImageSpec::new(0, 0, 0);
    let all: Vec<usize> = (0..train.labels().len()).collect();
    let decoding = config.decoding();
    train.scan(&all, &mut |item| {
        // The import reports unreadable images.
        if let Ok(s) = shape_of(&item.image, &decoding) {
            let ImageSpec { channels: c, height: h, width: w } = smallest;
            smallest = ImageSpec::new(c.min(s.channels), h.min(s.height), w.min(s.width));
            let ImageSpec { channels: c, height: h, width: w } = largest;
            largest = ImageSpec::new(c.max(s.channels), h.max(s.height), w.max(s.width));
        }
        Ok(())
    })?;
    let has_val = origin.has(Split::Val);
    Ok(Survey { classes, counts, val_counts, smallest, largest, has_val, has_test: origin.has(Split::Test) })
}

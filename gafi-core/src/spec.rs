//! Images, classes and splits: the vocabulary of every crate.

use serde::{Deserialize, Serialize};

/// Shape of one image: channels first, 8 bits per value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// Channels, 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl ImageSpec {
    /// A spec of the given channels, rows and columns.
    pub const fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// Number of bytes, and so of values, of an image; `usize::MAX` on overflow.
    pub const fn bytes(&self) -> usize {
        self.channels.saturating_mul(self.height).saturating_mul(self.width)
    }

    /// "3x32x32 images of classes cat, dog", for messages.
    pub fn of_classes(&self, names: &[String]) -> String {
        format!("{self} images of classes {}", names.join(", "))
    }
}

impl std::fmt::Display for ImageSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// Maximum number of rows in a shard of a dataset.
pub const SHARD_ROWS: usize = 8192;

/// Maximum number of bytes of pixels in a shard of several batches: 512 MiB. Images of up to 64 KiB reach [`SHARD_ROWS`] first.
pub const SHARD_BYTES: usize = 512 << 20;

/// A class by its position in the dataset's list of class names, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassId(pub u32);

impl ClassId {
    /// The class as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All of `classes` classes, in order.
    pub fn all(classes: usize) -> impl Iterator<Item = Self> + Clone {
        (0..classes as u32).map(Self)
    }
}

impl std::fmt::Display for ClassId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "class {}", self.0)
    }
}

/// The role of a dataset, which decides what its scores may be used for; see [`crate::ValScore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Real images to train on.
    Train,
    /// Training and validation images together, without those of `screen`: the released program trains its GAN on them. Classifiers
    /// must not learn from them, because validation images choose their epoch.
    TrainVal,
    /// Real images held out of training, for choices.
    Val,
    /// Real images held out of training and `val`, used only for closed-form screening: `val` then scores the settings that
    /// screening favoured on images that had no part in it.
    Screen,
    /// Real images read once, at the end.
    Test,
    /// Test images used as validation images, as in the paper's released program. Choices made with them follow
    /// [`crate::Protocol::Paper`].
    TestAsVal,
    /// Generated images, used as a training set without real images.
    Synthetic,
}

impl Split {
    /// Whether its scores may drive choices: validation images, or the test images that the paper's protocol uses as such.
    pub const fn chooses(self) -> bool {
        matches!(self, Self::Val | Self::TestAsVal)
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The name in JSON.
        self.serialize(f)
    }
}

//! [`ImportConfig`]: the configuration of an import, and its valid ranges.

use std::path::PathBuf;

use gafi_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::colour::{Background, Window};
use super::decode::{Decoding, FULL_WINDOW};
use super::geometry::{Channels, Fit, Geometry, Resample};
use super::split::{Share, Take};
use crate::format::Format;
use crate::formats::folder::FolderKeys;
use crate::named::NamedSet;
use crate::shapes::ShapesConfig;

/// Largest number of rows that a key may have: 2^32.
const MAX_ROWS: u64 = 1 << 32;

/// Which images to import, in which shape, and how to split them. One configuration gives every split; see
/// [`crate::import_all`].
///
/// Start from [`ImportConfig::named`] or [`ImportConfig::at`] and override fields with `..`, so that new fields don't break
/// your code:
///
/// ```
/// use gafi_data::{Fit, ImportConfig, NamedSet};
///
/// let config = ImportConfig { size: Some(32), fit: Some(Fit::Pad), ..ImportConfig::named(NamedSet::FashionMnist) };
/// config.validate()?;
/// # Ok::<(), gafi_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ImportConfig {
    /// A set known by name. Without `path`, it is looked up in the user's data folder (`$XDG_DATA_HOME/gafi/NAME` or
    /// `~/.local/share/gafi/NAME`), in the system's (`/usr/share/datasets/NAME`), then on the Hugging Face hub. With `path`,
    /// it only supplies the class names.
    pub set: Option<NamedSet>,
    /// A file, folder, zip or tar archive of images, or a dataset of the Hugging Face hub as `hf://OWNER/NAME`. Its location does not
    /// matter: the same images elsewhere give the same artifact.
    #[cfg_attr(feature = "schema", schemars(example = &"images"))]
    pub path: Option<PathBuf>,
    /// How the images at `path` are stored.
    pub format: Format,
    /// Never use the network.
    pub offline: bool,
    /// Parquet: the column of images. Unset: `image`, `img` or `images`, or the only column of image files.
    #[cfg_attr(feature = "schema", schemars(example = &"picture"))]
    pub image_column: Option<String>,
    /// Parquet and files of labels: the column of labels. Unset: the one with a usual name, such as `label` or `fine_label`.
    #[cfg_attr(feature = "schema", schemars(example = &"class"))]
    pub label_column: Option<String>,
    /// Class names in the order of the labels, for sources that store none. Unset: those of the source or of `set`, else the
    /// labels as numbers.
    #[cfg_attr(feature = "schema", schemars(example = vec!["cat", "dog"]))]
    pub classes: Option<Vec<String>>,
    /// The label of the first class. Unset: 1 if the labels are 1 to the number of classes, else 0.
    #[cfg_attr(feature = "schema", schemars(example = 1))]
    pub first_label: Option<u32>,
    /// Folders of images: where the labels are. Unset: detected. `"folders"`: in the names of the folders, even if they look like splits
    /// or like parts of one set. `"subfolders"`: in the paths of the folders that hold images, such as `animals/cat`. Otherwise in this
    /// file at `path`, or in several for a name with a `*`, which lists image files and labels: CSV or TSV with a header, `.txt`,
    /// `metadata.jsonl`, or StyleGAN's `dataset.json`.
    #[cfg_attr(feature = "schema", schemars(example = &"train.csv"))]
    pub labels: Option<String>,
    /// The column of the file `labels` with the names of the image files, with or without folder and extension. Unset: the column that
    /// names the most files.
    #[cfg_attr(feature = "schema", schemars(example = &"id"))]
    pub file_column: Option<String>,
    /// Folders of images: the folder of the training images, relative to `path`. Unset: detected by name.
    #[cfg_attr(feature = "schema", schemars(example = &"seg_train"))]
    pub train_folder: Option<PathBuf>,
    /// The folder of the validation images. Needs `train_folder`.
    #[cfg_attr(feature = "schema", schemars(example = &"dev"))]
    pub val_folder: Option<PathBuf>,
    /// The folder of the test images. Needs `train_folder`.
    #[cfg_attr(feature = "schema", schemars(example = &"seg_test"))]
    pub test_folder: Option<PathBuf>,
    /// What to do about images that cannot be read: damaged, cut off, or in an unknown format.
    pub on_unreadable: OnUnreadable,
    /// The colour that transparent pixels are composited on: `"white"`, `"black"` or `"#RRGGBB"`.
    pub background: Background,
    /// Rotate and mirror images by their EXIF orientation, as `datasets` does.
    pub exif: bool,
    /// The values of 16-bit images that become 0 and 255: `"auto"`, or `[low, high]`. `"auto"` is `[0, 2^b - 1]`, where b from 8 to 16
    /// is the fewest bits that hold the largest value of all 16-bit images.
    pub window: Window,
    /// What to do about images that are also in another split. `error` and `drop` apply to images that are equal in every pixel;
    /// similar images are only counted.
    pub on_leak: OnLeak,
    /// Minimum number of training images of a class. Unset: 1, or 2 if images are held out of the class.
    #[cfg_attr(feature = "schema", schemars(example = 20))]
    pub min_per_class: Option<usize>,
    /// What to do about classes with fewer than `min_per_class` training images.
    pub small_classes: SmallClasses,
    /// Height and width of the images in pixels, at least 1. Unset: the size of the source (32 for `shapes`).
    #[cfg_attr(feature = "schema", schemars(example = 32, range(min = 1)))]
    pub size: Option<usize>,
    /// How to convert images whose size differs from `size`. Unset: such images are an error.
    pub fit: Option<Fit>,
    /// Interpolation of `fit = "resize"` and `"crop"`.
    pub resample: Resample,
    /// Channels of the images: `"keep"` for those of the source, `1` for grey, `3` for red, green and blue.
    pub channels: Channels,
    /// Fraction of each class of the training images to hold out for validation, at least 0 and below 1. If this and
    /// `val_per_class` are unset: the source's own validation images, or 0.1 if it has none. With 0 there is no validation split, and
    /// test images are optional.
    #[cfg_attr(feature = "schema", schemars(example = 0.1, extend("minimum" = 0, "exclusiveMaximum" = 1)))]
    pub val_fraction: Option<f64>,
    /// Images of each class to hold out for validation, at least 1. Excludes `val_fraction`.
    #[cfg_attr(feature = "schema", schemars(example = 400))]
    pub val_per_class: Option<usize>,
    /// Add the source's own validation rows to its training rows before any rows are held out, as the paper's released program does for
    /// CINIC-10. Needs `val_fraction` or `val_per_class`, and a source with validation rows.
    pub pool_val: bool,
    /// Fraction of each class of the validation images to move to the split `screen`, at least 0 and below 1. Screening in closed
    /// form uses only `screen`; students, teacher and references use only the rest, `val`.
    #[cfg_attr(feature = "schema", schemars(example = 0.25, range(min = 0), extend("exclusiveMaximum" = 1)))]
    pub screen_fraction: f64,
    /// Fraction of each class to hold out for the test split, above 0 and below 1. Required for sources without test images, and
    /// invalid for others.
    #[cfg_attr(feature = "schema", schemars(example = 0.1, extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1)))]
    pub test_fraction: Option<f64>,
    /// Training images of each class to keep, after validation images are held out. Unset: all.
    #[cfg_attr(feature = "schema", schemars(example = 500))]
    pub per_class: Option<usize>,
    /// Maximum number of training images, in the proportions of the classes; the same limit applies to validation
    /// images. Excludes `per_class`. Unset: all.
    #[cfg_attr(feature = "schema", schemars(example = 10_000))]
    pub limit: Option<usize>,
    /// Test images to keep in total, in the proportions of the classes. Unset: all.
    #[cfg_attr(feature = "schema", schemars(example = 1_000))]
    pub test_limit: Option<usize>,
    /// Seed of the splits, of the choice of images to keep, and of `shapes`.
    pub seed: u64,
    /// Size of the built-in set `shapes`.
    pub shapes: ShapesConfig,
}

impl Default for ImportConfig {
    fn default() -> Self {
        Self {
            set: None,
            path: None,
            format: Format::Auto,
            offline: false,
            image_column: None,
            label_column: None,
            classes: None,
            first_label: None,
            labels: None,
            file_column: None,
            train_folder: None,
            val_folder: None,
            test_folder: None,
            on_unreadable: OnUnreadable::Error,
            background: Background::default(),
            exif: true,
            window: Window::Auto,
            on_leak: OnLeak::Warn,
            min_per_class: None,
            small_classes: SmallClasses::Error,
            size: None,
            fit: None,
            resample: Resample::default(),
            channels: Channels::Keep,
            val_fraction: None,
            val_per_class: None,
            pool_val: false,
            screen_fraction: 0.0,
            test_fraction: None,
            per_class: None,
            limit: None,
            test_limit: None,
            seed: 0,
            shapes: ShapesConfig::default(),
        }
    }
}

/// What to do about images that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnUnreadable {
    /// An error that lists them.
    #[default]
    Error,
    /// Leave them out. The report counts them and lists the first.
    Skip,
}

/// What to do about images of one split that are also in another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnLeak {
    /// Count and report them.
    #[default]
    Warn,
    /// An error if images of two splits are equal in every pixel.
    Error,
    /// Drop training and validation images that are equal to a test image, and training images that are equal to a validation image.
    /// No test image is dropped.
    Drop,
}

/// What to do about classes with fewer than `min_per_class` training images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SmallClasses {
    /// An error that lists them.
    #[default]
    Error,
    /// Leave them out of every split.
    Drop,
    /// Merge them into the class `other`.
    Merge,
}

impl ImportConfig {
    /// The named set `set`, with defaults.
    pub fn named(set: NamedSet) -> Self {
        Self { set: Some(set), ..Self::default() }
    }

    /// The images at `path`, with defaults.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    pub(crate) fn folder_keys(&self) -> FolderKeys<'_> {
        FolderKeys {
            labels: self.labels.as_deref(),
            file_column: self.file_column.as_deref(),
            label_column: self.label_column.as_deref(),
            splits: [&self.train_folder, &self.val_folder, &self.test_folder].map(Option::as_deref),
        }
    }

    /// Number of classes in `classes` or of the named set; `None` if only the source knows.
    pub fn classes(&self) -> Option<usize> {
        if let Some(names) = &self.classes {
            return Some(names.len());
        }
        self.set.map(|set| if set == NamedSet::Shapes { self.shapes.classes } else { set.classes().len() })
    }

    /// Checks ranges, and that no two settings contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate(&self) -> Result<()> {
        match (self.set, &self.path) {
            (None, None) => return Err(Error::config("set", "unset", "a named set, or path to be set")),
            (Some(NamedSet::Shapes), Some(path)) => {
                return Err(Error::config("path", path.display(), "no path, because shapes is built in"));
            }
            (_, None) if self.format != Format::Auto => {
                return Err(Error::config("format", self.format.name(), "path to be set as well"));
            }
            _ => {}
        }
        if let Some(names) = &self.classes {
            let mut sorted: Vec<&String> = names.iter().collect();
            sorted.sort_unstable();
            if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(Error::config("classes", format!("{:?} twice", twice[0]), "names that differ"));
            }
            if names.is_empty() || names.iter().any(String::is_empty) {
                return Err(Error::config("classes", names.join(","), "at least one name, and no empty one"));
            }
            if self.set == Some(NamedSet::Shapes) {
                return Err(Error::config("classes", names.join(","), "no names, because shapes has its own"));
            }
        }
        if let Some(f) = self.val_fraction
            && !(0.0..1.0).contains(&f)
        {
            return Err(Error::config("val_fraction", f, "at least 0 and below 1"));
        }
        if let Some(f) = self.test_fraction
            && !(f > 0.0 && f < 1.0)
        {
            return Err(Error::config("test_fraction", f, "above 0 and below 1"));
        }
        for (key, folder) in [("val_folder", &self.val_folder), ("test_folder", &self.test_folder)] {
            if let Some(folder) = folder
                && self.train_folder.is_none()
            {
                return Err(Error::config(key, folder.display(), "train_folder to be set as well"));
            }
        }
        if self.small_classes != SmallClasses::Error && self.min_per_class.is_none() {
            return Err(Error::config("small_classes", "drop or merge", "min_per_class to be set as well"));
        }
        if self.pool_val && self.val_fraction == Some(0.0) {
            return Err(Error::config("pool_val", true, "a val_fraction above 0, or val_per_class"));
        }
        if self.screen_fraction > 0.0 && self.val_fraction == Some(0.0) {
            let expected = "0, because val_fraction = 0 leaves no validation images";
            return Err(Error::config("screen_fraction", self.screen_fraction, expected));
        }
        for (key, rows) in [
            ("val_per_class", self.val_per_class),
            ("min_per_class", self.min_per_class),
            ("per_class", self.per_class),
            ("limit", self.limit),
            ("test_limit", self.test_limit),
        ] {
            if let Some(rows) = rows
                && rows as u64 > MAX_ROWS
            {
                return Err(Error::config(key, rows, format!("at most {MAX_ROWS} rows")));
            }
        }
        if !(0.0..1.0).contains(&self.screen_fraction) {
            return Err(Error::config("screen_fraction", self.screen_fraction, "at least 0 and below 1"));
        }
        if self.pool_val && self.val().is_none() {
            let expected = "val_fraction or val_per_class to be set as well, so that rows are held out of the pool";
            return Err(Error::config("pool_val", true, expected));
        }
        if let (Some(f), Some(n)) = (self.val_fraction, self.val_per_class) {
            return Err(Error::config("val_fraction", f, format!("only one of val_fraction and val_per_class ({n})")));
        }
        if let (Some(n), Some(limit)) = (self.per_class, self.limit) {
            return Err(Error::config("per_class", n, format!("only one of per_class and limit ({limit})")));
        }
        if self.set == Some(NamedSet::Shapes) {
            self.shapes.validate()?;
        }
        self.geometry().validate()
    }

    pub(crate) fn geometry(&self) -> Geometry {
        Geometry { size: self.size, fit: self.fit, resample: self.resample, channels: self.channels }
    }

    /// How images are decoded. The window `auto` is all 16 bits until the largest value is known.
    pub(crate) fn decoding(&self) -> Decoding {
        let window = match self.window {
            Window::Auto => FULL_WINDOW,
            Window::Values(values) => values,
        };
        Decoding { background: self.background, exif: self.exif, window }
    }

    /// How validation rows are held out, and the key that sets it; `None` if neither key is set.
    pub(crate) fn val(&self) -> Option<(Share, &'static str)> {
        let fraction = self.val_fraction.map(|f| (Share::Fraction(f), "val_fraction"));
        fraction.or_else(|| self.val_per_class.map(|n| (Share::PerClass(n), "val_per_class")))
    }

    /// How validation rows are held out if neither key is set and the source has no validation rows.
    pub(crate) const VAL_DEFAULT: (Share, &'static str) = (Share::Fraction(0.1), "val_fraction");

    pub(crate) fn train_take(&self) -> Option<(Take, &'static str)> {
        let per_class = self.per_class.map(|n| (Take::PerClass(n), "per_class"));
        per_class.or_else(|| self.limit.map(|n| (Take::Total(n), "limit")))
    }

    pub(crate) fn test_take(&self) -> Option<(Take, &'static str)> {
        self.test_limit.map(|n| (Take::Total(n), "test_limit"))
    }
}

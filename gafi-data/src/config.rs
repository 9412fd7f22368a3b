//! What an import is asked for, and the ranges of it.

use std::path::PathBuf;

use gafi_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::format::Format;
use crate::geometry::{Channels, Fit, Geometry};
use crate::named::NamedSet;
use crate::shapes::ShapesConfig;
use crate::split::{Share, Take};

/// Part of the training rows that becomes the validation split when nothing else is said.
const VAL_FRACTION: f64 = 0.1;

/// Which images, in which shape, split how. One configuration gives all three splits; see [`crate::import_all`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ImportConfig {
    /// A set known by name. Without `path` it is looked for: in the user's data folder (`$XDG_DATA_HOME/gafi/NAME`), the
    /// system's (`/usr/share/datasets/NAME`), and on the hub. With `path` it gives the names of the classes.
    pub set: Option<NamedSet>,
    /// A file or folder of images. Only its content counts: the same images elsewhere give the same artifact.
    #[cfg_attr(feature = "schema", schemars(example = &"images"))]
    pub path: Option<PathBuf>,
    /// How the images at `path` are stored.
    pub format: Format,
    /// Never ask the hub.
    pub offline: bool,
    /// Parquet: the column of images, if it isn't called `image` or `img`.
    #[cfg_attr(feature = "schema", schemars(example = &"picture"))]
    pub image_column: Option<String>,
    /// Parquet: the column of labels, if it isn't called `label` or `fine_label`.
    #[cfg_attr(feature = "schema", schemars(example = &"class"))]
    pub label_column: Option<String>,
    /// Rows and columns of the images, in pixels, at least 1. Unset: the size of the source's (32 for `shapes`).
    #[cfg_attr(feature = "schema", schemars(example = 32))]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub size: Option<usize>,
    /// What happens to images of another size; unset: an error.
    pub fit: Option<Fit>,
    /// Channels of the images.
    pub channels: Channels,
    /// Part of each class of the training rows, above 0 and below 1, that becomes the validation split. Unset, and
    /// `val_per_class` too: the source's own validation rows, else 0.1.
    #[cfg_attr(feature = "schema", schemars(example = 0.1))]
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1)))]
    pub val_fraction: Option<f64>,
    /// The same, as a number of rows of each class, at least 1; only one of the two may be set.
    #[cfg_attr(feature = "schema", schemars(example = 400))]
    pub val_per_class: Option<usize>,
    /// Part of each class, above 0 and below 1, that becomes the test split, for sources that have no test rows.
    #[cfg_attr(feature = "schema", schemars(example = 0.1))]
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1)))]
    pub test_fraction: Option<f64>,
    /// Training rows kept of each class, after validation rows are taken out. Unset: all.
    #[cfg_attr(feature = "schema", schemars(example = 500))]
    pub per_class: Option<usize>,
    /// Training rows kept in all, in the proportions of the classes; not together with `per_class`. Unset: all.
    #[cfg_attr(feature = "schema", schemars(example = 10_000))]
    pub limit: Option<usize>,
    /// Test rows kept in all, in the proportions of the classes. Unset: all.
    #[cfg_attr(feature = "schema", schemars(example = 1_000))]
    pub test_limit: Option<usize>,
    /// Seed of the splits, of what is kept, and of `shapes`.
    pub seed: u64,
    /// The built-in set.
    pub shapes: ShapesConfig,
}

impl ImportConfig {
    /// The named set `set`, all defaults.
    pub fn named(set: NamedSet) -> Self {
        Self { set: Some(set), ..Self::default() }
    }

    /// What is at `path`, all defaults.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    /// How many classes the set that is named has; none where the images have to tell.
    pub fn classes(&self) -> Option<usize> {
        self.set.map(|set| if set == NamedSet::Shapes { self.shapes.classes } else { set.classes().len() })
    }

    /// Checks the ranges, and that no two settings contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate(&self) -> Result<()> {
        match (self.set, &self.path) {
            (None, None) => return Err(Error::config("set", "unset", "a named set, or path set")),
            (Some(NamedSet::Shapes), Some(path)) => {
                return Err(Error::config("path", path.display(), "no path: shapes is built in"));
            }
            (_, None) if self.format != Format::Auto => {
                return Err(Error::config("format", self.format.name(), "a path that it is the format of"));
            }
            _ => {}
        }
        for (key, value) in [("val_fraction", self.val_fraction), ("test_fraction", self.test_fraction)] {
            if let Some(f) = value
                && !(f > 0.0 && f < 1.0)
            {
                return Err(Error::config(key, f, "above 0 and below 1"));
            }
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
        Geometry { size: self.size, fit: self.fit, channels: self.channels }
    }

    /// How validation rows are carved out, and the setting that says so; `None` when nothing was said.
    pub(crate) fn val(&self) -> Option<(Share, &'static str)> {
        let fraction = self.val_fraction.map(|f| (Share::Fraction(f), "val_fraction"));
        fraction.or_else(|| self.val_per_class.map(|n| (Share::PerClass(n), "val_per_class")))
    }

    /// How validation rows are carved out when nothing was said.
    pub(crate) const VAL_DEFAULT: (Share, &'static str) = (Share::Fraction(VAL_FRACTION), "val_fraction");

    pub(crate) fn train_take(&self) -> Option<(Take, &'static str)> {
        let per_class = self.per_class.map(|n| (Take::PerClass(n), "per_class"));
        per_class.or_else(|| self.limit.map(|n| (Take::Total(n), "limit")))
    }

    pub(crate) fn test_take(&self) -> Option<(Take, &'static str)> {
        self.test_limit.map(|n| (Take::Total(n), "test_limit"))
    }
}

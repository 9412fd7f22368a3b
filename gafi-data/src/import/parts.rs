//! The source's own rows: a training part, and perhaps a validation part and a test part.

use std::sync::Arc;

use gafi_core::{Error, Result, Split};

use super::config::ImportConfig;
use crate::discover::Discovered;
use crate::formats::parquet::Columns;
use crate::note::{Note, UNLABELLED};
use crate::shapes::Shapes;
use crate::source::{Shifted, Source};

/// Default size of `shapes`, in pixels.
const SHAPES_SIZE: usize = 32;

/// Maximum number of parts of a source: its own training, validation and test rows.
pub(super) const PARTS: usize = 3;

/// Where the images come from.
#[derive(Debug)]
pub(super) enum Origin {
    Shapes,
    Files(Discovered),
}

impl Origin {
    pub(super) fn has(&self, split: Split) -> bool {
        match self {
            Self::Shapes => split == Split::Train || split == Split::Test,
            Self::Files(found) => found.has(split),
        }
    }

    /// Images that were skipped for lack of a label, for an error.
    pub(super) fn unlabelled(&self) -> String {
        let Self::Files(found) = self else { return String::new() };
        let notes = found.notes.iter().filter(|note| note.what.starts_with(UNLABELLED));
        let found: Vec<String> = notes.map(Note::sentence).collect();
        if found.is_empty() { String::new() } else { format!(" (skipped: {})", found.join("; ")) }
    }
}

/// The opened parts of a source.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) train: Arc<dyn Source>,
    pub(super) val: Option<Arc<dyn Source>>,
    pub(super) test: Option<Arc<dyn Source>>,
    /// The number that the files give the first class. The labels of the parts start at 0.
    pub(super) first_label: u32,
}

impl Parts {
    pub(super) fn open(config: &ImportConfig, origin: &Origin) -> Result<Self> {
        let open = |split: Split| -> Result<Option<Arc<dyn Source>>> {
            match origin {
                Origin::Shapes if split == Split::Val => Ok(None),
                Origin::Shapes => {
                    let size = config.size.unwrap_or(SHAPES_SIZE);
                    Ok(Some(Arc::new(Shapes::new(&config.shapes, split, size, config.seed)?)))
                }
                Origin::Files(found) => {
                    let columns =
                        Columns { image: config.image_column.as_deref(), label: config.label_column.as_deref() };
                    found.open(split, columns)
                }
            }
        };
        let train = open(Split::Train)?;
        let train = train.ok_or_else(|| Error::config("split", Split::Train, "a split that the source has"))?;
        // Labels are shifted to start at 0.
        let first = config.first_label.unwrap_or_else(|| {
            let known = config.classes().or_else(|| Some(train.classes()?.len()));
            first_label(train.labels(), known)
        });
        let train = Shifted::open(train, first, config.first_label.is_none())?;
        let own = |split: Split| -> Result<Option<Arc<dyn Source>>> {
            open(split)?.map(|source| Shifted::open(source, first, false)).transpose()
        };
        Ok(Self { val: own(Split::Val)?, test: own(Split::Test)?, train, first_label: first })
    }

    /// The existing parts, with their numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, &dyn Source)> {
        let parts = [Some(&self.train), self.val.as_ref(), self.test.as_ref()];
        parts.into_iter().enumerate().filter_map(|(number, part)| Some((number, &**part?)))
    }
}

/// The label of the first class: 1 if the labels reach from 1 to the number of classes, otherwise 0. If that number is not `known`,
/// every label up to the highest must occur.
fn first_label(labels: &[u32], known: Option<usize>) -> u32 {
    let highest = labels.iter().max().map_or(0, |&l| l as usize);
    if highest < 2 || highest > labels.len() || labels.contains(&0) || known.is_some_and(|n| n != highest) {
        return 0;
    }
    let mut seen = vec![false; highest];
    labels.iter().for_each(|&l| seen[l as usize - 1] = true);
    u32::from(known.is_some() || seen.iter().all(|&s| s))
}

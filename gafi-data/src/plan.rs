//! Which rows of which source a split consists of: opening, naming classes, checking labels, carving.

use gafi_core::{Error, ImageSpec, Result, Split, Stream};

use crate::config::ImportConfig;
use crate::decode::shape_of;
use crate::locate::Located;
use crate::named::NamedSet;
use crate::parquet::Columns;
use crate::shapes::Shapes;
use crate::source::Source;
use crate::split::{Share, Take, hold_out, subset};

/// Size of `shapes` when none is asked for.
const SHAPES_SIZE: usize = 32;

/// Where images come from.
#[derive(Debug)]
pub(crate) enum Origin {
    Shapes,
    Files(Located),
}

/// The rows of one split.
pub(crate) struct Plan {
    pub(crate) source: Box<dyn Source>,
    pub(crate) classes: Vec<String>,
    /// Ascending.
    pub(crate) rows: Vec<usize>,
}

impl Plan {
    /// Rows of each class.
    pub(crate) fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.classes.len()];
        self.rows.iter().for_each(|&row| counts[self.source.labels()[row] as usize] += 1);
        counts
    }

    /// Plans `split`. Training rows are carved in this order, each step by its own random stream: test (if the source has
    /// none), validation (unless the source's own is used), then what is kept for training.
    pub(crate) fn of(config: &ImportConfig, origin: &Origin, split: Split) -> Result<Self> {
        // The same rows; what they may be used for is the artifact's business.
        let split = if split == Split::TestAsVal { Split::Test } else { split };
        let train = open(config, origin, Split::Train)?;
        let classes = class_names(config, &*train)?;
        check_labels(&*train, &classes, "train")?;
        let seed = Stream::new(config.seed).child("split");
        let mut rest: Vec<usize> = (0..train.labels().len()).collect();
        let keep = |source: &dyn Source, rows: Vec<usize>, take: Option<(Take, &str)>, stream: &str| match take {
            Some((take, key)) => subset(source.labels(), &rows, &classes, take, key, &seed.child(stream)),
            None => Ok(rows),
        };

        match (has(origin, Split::Test), config.test_fraction) {
            (true, Some(f)) => {
                return Err(Error::config("test_fraction", f, "nothing: the source has test rows of its own"));
            }
            (true, None) if split == Split::Test => {
                let (source, rows) = own(config, origin, split, &*train, &classes)?;
                let rows = keep(&*source, rows, config.test_take(), "limit-test")?;
                return Ok(Self { source, classes, rows });
            }
            (false, None) if split == Split::Test => {
                let expected = "a part of the rows (say 0.2), because the source has no test rows of its own";
                return Err(Error::config("test_fraction", "unset", expected));
            }
            (false, Some(f)) => {
                let stream = seed.child("test");
                let (test, left) =
                    hold_out(train.labels(), &rest, &classes, Share::Fraction(f), "test_fraction", &stream)?;
                if split == Split::Test {
                    let rows = keep(&*train, test, config.test_take(), "limit-test")?;
                    return Ok(Self { source: train, classes, rows });
                }
                rest = left;
            }
            _ => {}
        }
        if has(origin, Split::Val) && config.val().is_none() {
            if split == Split::Val {
                let (source, rows) = own(config, origin, split, &*train, &classes)?;
                return Ok(Self { source, classes, rows });
            }
        } else {
            let (share, key) = config.val().unwrap_or(ImportConfig::VAL_DEFAULT);
            let (val, left) = hold_out(train.labels(), &rest, &classes, share, key, &seed.child("val"))?;
            if split == Split::Val {
                return Ok(Self { source: train, classes, rows: val });
            }
            rest = left;
        }
        let rows = keep(&*train, rest, config.train_take(), "limit")?;
        Ok(Self { source: train, classes, rows })
    }
}

/// What a source holds, before anything is held out, kept back or resized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Training rows of each class.
    pub counts: Vec<u64>,
    /// The least channels, rows and columns that an image has; each may be another image's.
    pub smallest: ImageSpec,
    /// The most.
    pub largest: ImageSpec,
    /// Whether there are validation rows of its own.
    pub has_val: bool,
    /// Whether there are test rows of its own.
    pub has_test: bool,
}

/// Surveys the training rows of `origin`.
pub(crate) fn survey(config: &ImportConfig, origin: &Origin) -> Result<Survey> {
    let train = open(config, origin, Split::Train)?;
    let classes = class_names(config, &*train)?;
    check_labels(&*train, &classes, "train")?;
    let mut counts = vec![0; classes.len()];
    train.labels().iter().for_each(|&label| counts[label as usize] += 1);
    let (mut smallest, mut largest) = (ImageSpec::new(usize::MAX, usize::MAX, usize::MAX), ImageSpec::new(0, 0, 0));
    let all: Vec<usize> = (0..train.labels().len()).collect();
    train.scan(&all, &mut |item| {
        // An image that is none is the import's to tell.
        if let Ok(s) = shape_of(&item.picture) {
            let ImageSpec { channels: c, height: h, width: w } = smallest;
            smallest = ImageSpec::new(c.min(s.channels), h.min(s.height), w.min(s.width));
            let ImageSpec { channels: c, height: h, width: w } = largest;
            largest = ImageSpec::new(c.max(s.channels), h.max(s.height), w.max(s.width));
        }
        Ok(())
    })?;
    Ok(Survey {
        classes,
        counts,
        smallest,
        largest,
        has_val: has(origin, Split::Val),
        has_test: has(origin, Split::Test),
    })
}

fn has(origin: &Origin, split: Split) -> bool {
    match origin {
        Origin::Shapes => split == Split::Train || split == Split::Test,
        Origin::Files(located) => located.has(split),
    }
}

fn open(config: &ImportConfig, origin: &Origin, split: Split) -> Result<Box<dyn Source>> {
    match origin {
        Origin::Shapes => {
            let size = config.size.unwrap_or(SHAPES_SIZE);
            Ok(Box::new(Shapes::new(&config.shapes, split, size, config.seed)?))
        }
        Origin::Files(located) => {
            let columns = Columns { image: config.image_column.as_deref(), label: config.label_column.as_deref() };
            let source = located.open(split, columns)?;
            source.ok_or_else(|| Error::config("split", split, "a split that the source has rows for"))
        }
    }
}

/// The rows that the source itself calls `split`; of the classes of its training rows.
fn own(
    config: &ImportConfig,
    origin: &Origin,
    split: Split,
    train: &dyn Source,
    classes: &[String],
) -> Result<(Box<dyn Source>, Vec<usize>)> {
    let source = open(config, origin, split)?;
    if source.classes() != train.classes() {
        let expected = format!("the classes of the training rows, {:?}", train.classes().unwrap_or_default());
        let found = format!("{:?}", source.classes().unwrap_or_default());
        return Err(Error::format(source.place(0).path, "classes", expected, found));
    }
    check_labels(&*source, classes, &split.to_string())?;
    let rows = (0..source.labels().len()).collect();
    Ok((source, rows))
}

/// Class names of the set: built in, the source's, or numbers.
fn class_names(config: &ImportConfig, source: &dyn Source) -> Result<Vec<String>> {
    let own = source.classes();
    let built_in = config.set.filter(|s| *s != NamedSet::Shapes).map(|set| (set, set.classes()));
    match (built_in, own) {
        (Some((set, names)), Some(own)) if own.len() != names.len() => {
            let expected = format!("the {} classes of {set}", names.len());
            Err(Error::format(source.place(0).path, "classes", expected, own.len().to_string()))
        }
        (Some((_, names)), _) => Ok(names),
        (None, Some(own)) => Ok(own.to_vec()),
        (None, None) => {
            let classes = source.labels().iter().max().map_or(0, |&l| l as usize + 1);
            // More classes than rows can't all have one: a damaged label, and no reason to make a million names.
            if classes > source.labels().len() {
                let row = source.labels().iter().position(|&l| l as usize + 1 == classes).unwrap_or(0);
                let expected = format!("a label below {}, the number of rows", source.labels().len());
                return Err(source.place(row).error(expected, format!("label {}", classes - 1)));
            }
            Ok((0..classes).map(|c| c.to_string()).collect())
        }
    }
}

/// Every label below the number of classes, every class with a row, at least one row.
fn check_labels(source: &dyn Source, classes: &[String], part: &str) -> Result<()> {
    let mut counts = vec![0u64; classes.len()];
    for (row, &label) in source.labels().iter().enumerate() {
        match counts.get_mut(label as usize) {
            Some(count) => *count += 1,
            None => {
                let expected = format!("a label below {}, the number of classes", classes.len());
                return Err(source.place(row).error(expected, format!("label {label}")));
            }
        }
    }
    let path = source.place(0).path;
    if source.labels().is_empty() {
        return Err(Error::format(path, part, "at least one row", "none"));
    }
    match counts.iter().position(|&n| n == 0) {
        Some(class) => Err(Error::format(path, part, format!("rows of class {class} ({})", classes[class]), "none")),
        None => Ok(()),
    }
}

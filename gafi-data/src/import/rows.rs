//! Selects the rows of a split: opens the source, names the classes, checks the labels and divides the rows.

use gafi_core::{Error, ImageSpec, Result, Split, Stream};
use serde::Serialize;

use super::config::ImportConfig;
use super::decode::shape_of;
use super::split::{Share, Take, hold_out, subset};
use crate::discover::Discovered;
use crate::formats::parquet::Columns;
use crate::named::NamedSet;
use crate::shapes::Shapes;
use crate::source::{Chain, Shifted, Source, show_classes};

/// Default size of `shapes`, in pixels.
const SHAPES_SIZE: usize = 32;

/// The origin of the images.
#[derive(Debug)]
pub(super) enum Origin {
    Shapes,
    Files(Discovered),
}

/// The rows of one split.
pub(super) struct SplitRows {
    pub(super) source: Box<dyn Source>,
    pub(super) classes: Vec<String>,
    /// Ascending. A source's own validation rows are numbered after its training rows.
    pub(super) rows: Vec<usize>,
}

impl SplitRows {
    /// Number of rows of each class.
    pub(super) fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.classes.len()];
        self.rows.iter().for_each(|&row| counts[self.source.labels()[row] as usize] += 1);
        counts
    }

    /// Selects the rows of `split`. Test rows (if the source has none), then validation rows (unless the source's own are
    /// used) are held out of the training rows; then the rows to keep are drawn. Each step has its own random stream.
    pub(super) fn select(config: &ImportConfig, origin: &Origin, split: Split) -> Result<Self> {
        let train = open_train(config, origin)?;
        let classes = class_names(config, &*train)?;
        check_labels(&*train, &classes, "train")?;
        let seed = Stream::new(config.seed).child("split");
        let keep = |source: &dyn Source, rows: Vec<usize>, take: Option<(Take, &str)>, stream: &str| match take {
            Some((take, key)) => subset(source.labels(), &rows, &classes, take, key, &seed.child(stream)),
            None => Ok(rows),
        };
        // Both have the same rows; the dataset records what they may be used for.
        let test = matches!(split, Split::Test | Split::TestAsVal);
        match (has(origin, Split::Test), config.test_fraction) {
            (true, Some(f)) => {
                return Err(Error::config("test_fraction", f, "no value, because the source has test rows"));
            }
            (false, None) if test => {
                let expected = "a fraction of the rows such as 0.2, because the source has no test rows";
                return Err(Error::config("test_fraction", "unset", expected));
            }
            (true, None) if test => {
                let source = own(config, origin, Split::Test, &*train, &classes)?;
                let rows = (0..source.labels().len()).collect();
                let rows = keep(&*source, rows, config.test_take(), "limit-test")?;
                return Ok(Self { source, classes, rows });
            }
            _ => {}
        }

        let val_from = ValFrom::of(config, origin);
        let own_train = train.labels().len();
        let source = if val_from == ValFrom::Train {
            train
        } else if has(origin, Split::Val) {
            let val = own(config, origin, Split::Val, &*train, &classes)?;
            Chain::join(vec![train, val])?
        } else {
            return Err(Error::config("pool_val", true, "false, because the source has no validation rows"));
        };
        let labels = source.labels();
        let hold = |rows: &[usize], (share, key): (Share, &str), stream: &str| {
            hold_out(labels, rows, &classes, share, key, &seed.child(stream))
        };
        let mut rest: Vec<usize> = if val_from == ValFrom::Pool { 0..labels.len() } else { 0..own_train }.collect();
        if let Some(f) = config.test_fraction {
            let (held, left) = hold(&rest, (Share::Fraction(f), "test_fraction"), "test")?;
            if test {
                let rows = keep(&*source, held, config.test_take(), "limit-test")?;
                return Ok(Self { source, classes, rows });
            }
            rest = left;
        }
        let mut val: Vec<usize> = (own_train..labels.len()).collect();
        if val_from != ValFrom::Source {
            (val, rest) = hold(&rest, config.val().unwrap_or(ImportConfig::VAL_DEFAULT), "val")?;
        }
        let mut screen = Vec::new();
        if split == Split::Screen || config.screen_fraction > 0.0 {
            if config.screen_fraction == 0.0 {
                let expected = "above 0, because split screen is this part of the validation rows";
                return Err(Error::config("screen_fraction", 0, expected));
            }
            (screen, val) = hold(&val, (Share::Fraction(config.screen_fraction), "screen_fraction"), "screen")?;
        }
        let rows = match split {
            Split::Val => val,
            Split::Screen => screen,
            _ => {
                let mut rows = keep(&*source, rest, config.train_take(), "limit")?;
                if split == Split::TrainVal {
                    rows.extend(val);
                    rows.sort_unstable();
                }
                rows
            }
        };
        Ok(Self { source, classes, rows })
    }
}

/// Where validation rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ValFrom {
    /// The source's own validation rows.
    Source,
    /// Held out of the training rows.
    Train,
    /// Held out of the source's training and validation rows together.
    Pool,
}

impl ValFrom {
    pub(super) fn of(config: &ImportConfig, origin: &Origin) -> Self {
        match config.val() {
            _ if config.pool_val => Self::Pool,
            None if has(origin, Split::Val) => Self::Source,
            _ => Self::Train,
        }
    }
}

/// The content of a source, before rows are held out and images resized.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// Number of training rows of each class.
    pub counts: Vec<u64>,
    /// Number of validation rows of each class; empty where the source has none.
    pub val_counts: Vec<u64>,
    /// Fewest channels, rows and columns of any image, each on its own.
    pub smallest: ImageSpec,
    /// Most channels, rows and columns of any image, each on its own.
    pub largest: ImageSpec,
    /// Whether the source has validation rows.
    pub has_val: bool,
    /// Whether the source has test rows.
    pub has_test: bool,
}

/// Surveys the training rows of `origin`.
pub(super) fn survey(config: &ImportConfig, origin: &Origin) -> Result<Survey> {
    let train = open_train(config, origin)?;
    let classes = class_names(config, &*train)?;
    check_labels(&*train, &classes, "train")?;
    let count = |source: &dyn Source| {
        let mut counts = vec![0; classes.len()];
        source.labels().iter().for_each(|&label| counts[label as usize] += 1);
        counts
    };
    let counts = count(&*train);
    let has_val = has(origin, Split::Val);
    let val_counts = if has_val { count(&*own(config, origin, Split::Val, &*train, &classes)?) } else { Vec::new() };
    let mut smallest = ImageSpec::new(usize::MAX, usize::MAX, usize::MAX);
    let mut largest = ImageSpec::new(0, 0, 0);
    let all: Vec<usize> = (0..train.labels().len()).collect();
    train.scan(&all, &mut |item| {
        // The import reports unreadable images.
        if let Ok(s) = shape_of(&item.image) {
            let ImageSpec { channels: c, height: h, width: w } = smallest;
            smallest = ImageSpec::new(c.min(s.channels), h.min(s.height), w.min(s.width));
            let ImageSpec { channels: c, height: h, width: w } = largest;
            largest = ImageSpec::new(c.max(s.channels), h.max(s.height), w.max(s.width));
        }
        Ok(())
    })?;
    Ok(Survey { classes, counts, val_counts, smallest, largest, has_val, has_test: has(origin, Split::Test) })
}

fn has(origin: &Origin, split: Split) -> bool {
    match origin {
        Origin::Shapes => split == Split::Train || split == Split::Test,
        Origin::Files(found) => found.has(split),
    }
}

fn open(config: &ImportConfig, origin: &Origin, split: Split) -> Result<Box<dyn Source>> {
    match origin {
        Origin::Shapes => {
            let size = config.size.unwrap_or(SHAPES_SIZE);
            Ok(Box::new(Shapes::new(&config.shapes, split, size, config.seed)?))
        }
        Origin::Files(found) => {
            let columns = Columns { image: config.image_column.as_deref(), label: config.label_column.as_deref() };
            let source = found.open(split, columns)?;
            source.ok_or_else(|| Error::config("split", split, "a split that the source has"))
        }
    }
}

/// The source's training rows, with labels from 0.
fn open_train(config: &ImportConfig, origin: &Origin) -> Result<Box<dyn Source>> {
    let train = open(config, origin, Split::Train)?;
    let first = config.first_label.unwrap_or_else(|| {
        let known = config.classes().or_else(|| Some(train.classes()?.len()));
        first_label(train.labels(), known)
    });
    Shifted::open(train, first, config.first_label.is_none())
}

/// 1 if every label from 1 to the number of classes is there and 0 is not, otherwise 0. `known` is the number of classes, if
/// anything but the labels tells.
fn first_label(labels: &[u32], known: Option<usize>) -> u32 {
    let highest = labels.iter().max().map_or(0, |&l| l as usize);
    if highest < 2 || highest > labels.len() || labels.contains(&0) || known.is_some_and(|n| n != highest) {
        return 0;
    }
    let mut seen = vec![false; highest];
    labels.iter().for_each(|&l| seen[l as usize - 1] = true);
    u32::from(known.is_some() || seen.iter().all(|&s| s))
}

/// The source's own `split`, whose classes must be those of its training rows.
fn own(
    config: &ImportConfig,
    origin: &Origin,
    split: Split,
    train: &dyn Source,
    classes: &[String],
) -> Result<Box<dyn Source>> {
    let source = Shifted::open(open(config, origin, split)?, train.first_label(), false)?;
    if source.classes() != train.classes() {
        let expected = format!("the classes of the training rows: {}", show_classes(train.classes()));
        return Err(Error::format(source.location(0).path, "classes", expected, show_classes(source.classes())));
    }
    check_labels(&*source, classes, &split.to_string())?;
    Ok(source)
}

/// The configured class names, else those of the named set, else of the source, else the labels as numbers.
fn class_names(config: &ImportConfig, source: &dyn Source) -> Result<Vec<String>> {
    let own = source.classes();
    if let Some(names) = &config.classes {
        return match own {
            Some(own) if own != names => {
                let expected = format!("no names, because the source has its own: {}", show_classes(Some(own)));
                Err(Error::config("classes", names.join(","), expected))
            }
            _ => Ok(names.clone()),
        };
    }
    let built_in = config.set.filter(|s| *s != NamedSet::Shapes).map(|set| (set, set.classes()));
    match (built_in, own) {
        (Some((set, names)), Some(own)) if own.len() != names.len() => {
            let expected = format!("the {} classes of {set}", names.len());
            Err(Error::format(source.location(0).path, "classes", expected, own.len().to_string()))
        }
        (Some((_, names)), _) => Ok(names),
        (None, Some(own)) => Ok(own.to_vec()),
        (None, None) => {
            let classes = source.labels().iter().max().map_or(0, |&l| l as usize + 1);
            // A label above the number of rows means damage; don't allocate a million names for it.
            if classes > source.labels().len() {
                let row = source.labels().iter().position(|&l| l as usize + 1 == classes).unwrap_or(0);
                let expected = format!("a label below {}, the number of rows", source.labels().len());
                return Err(source.location(row).error(expected, format!("label {}", classes - 1)));
            }
            let first = source.first_label() as usize;
            Ok((first..first + classes).map(|c| c.to_string()).collect())
        }
    }
}

/// Checks that there are rows, that labels are below the number of classes, and that each class has a row.
fn check_labels(source: &dyn Source, classes: &[String], part: &str) -> Result<()> {
    let mut counts = vec![0u64; classes.len()];
    for (row, &label) in source.labels().iter().enumerate() {
        match counts.get_mut(label as usize) {
            Some(count) => *count += 1,
            None => {
                let expected = format!("a label below {}, the number of classes", classes.len());
                return Err(source.location(row).error(expected, format!("label {label}")));
            }
        }
    }
    let path = source.location(0).path;
    if source.labels().is_empty() {
        return Err(Error::format(path, part, "at least one row", "no rows"));
    }
    match counts.iter().position(|&n| n == 0) {
        Some(class) => Err(Error::format(path, part, format!("rows of class {class} ({})", classes[class]), "no rows")),
        None => Ok(()),
    }
}

//! The classes of an import: their names, whether the labels fit them, and what happens to small classes.

use gafi_core::{Error, Result};

use super::config::{ImportConfig, SmallClasses};
use super::parts::Parts;
use crate::named::NamedSet;
use crate::note::{Note, NoteKind};
use crate::source::{Source, show_classes};

/// The configured class names, else those of the named set, else those of the source, else the labels as numbers.
pub(super) fn class_names(config: &ImportConfig, parts: &Parts) -> Result<Vec<String>> {
    let source = &*parts.train;
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
            // A label above the number of rows means damage, and must not allocate a million names.
            if classes > source.labels().len() {
                let row = source.labels().iter().position(|&l| l as usize + 1 == classes).unwrap_or(0);
                let expected = format!("a label below {}, the number of rows", source.labels().len());
                return Err(source.location(row).error(expected, format!("label {}", classes - 1)));
            }
            let first = parts.first_label as usize;
            Ok((first..first + classes).map(|c| c.to_string()).collect())
        }
    }
}

/// Checks that the training part `source` is not empty, that every label is below the number of classes, and that no class is empty. Empty
/// classes may be dropped with the small ones. Returns the number of rows of each class.
pub(super) fn check_labels(config: &ImportConfig, source: &dyn Source, classes: &[String]) -> Result<Vec<u64>> {
    let drops = drops_below(config) > 0;
    check_part(source, classes, "train", |_| drops)
}

/// Classes with fewer training images than this are dropped.
fn drops_below(config: &ImportConfig) -> usize {
    config.min_per_class.filter(|_| config.small_classes == SmallClasses::Drop).unwrap_or(0)
}

fn check_part(
    source: &dyn Source,
    classes: &[String],
    part: &str,
    may_be_empty: impl Fn(usize) -> bool,
) -> Result<Vec<u64>> {
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
    if let Some(class) = (0..counts.len()).find(|&class| counts[class] == 0 && !may_be_empty(class)) {
        let expected = format!("rows of class {class} ({})", classes[class]);
        let found =
            "no rows (min_per_class = 1 with small_classes = \"drop\" leaves out classes without training rows)";
        return Err(Error::format(path, part, expected, found));
    }
    Ok(counts)
}

/// Checks that `source`, the validation or test part, has the classes of the training part. Returns the number of rows of each class.
pub(super) fn check_own(
    config: &ImportConfig,
    source: &dyn Source,
    train: &dyn Source,
    classes: &[String],
    part: &str,
) -> Result<Vec<u64>> {
    if source.classes() != train.classes() {
        let expected = format!("the classes of the training rows: {}", show_classes(train.classes()));
        return Err(Error::format(source.location(0).path, "classes", expected, show_classes(source.classes())));
    }
    let fewest = drops_below(config);
    let mut counts = vec![0; classes.len()];
    train.labels().iter().for_each(|&label| counts[label as usize] += 1);
    check_part(source, classes, part, |class| counts[class] < fewest)
}

/// Number of `rows` of each class.
pub(super) fn count(labels: &[u32], rows: &[usize], classes: usize) -> Vec<u64> {
    let mut counts = vec![0; classes];
    rows.iter().for_each(|&row| counts[labels[row] as usize] += 1);
    counts
}

/// What happens to classes with fewer rows than `min_per_class`.
pub(super) struct SmallMap {
    pub(super) classes: Vec<String>,
    /// The new label of each class; `None` for a class that is left out.
    pub(super) of: Vec<Option<u32>>,
}

/// The class that small classes are merged into.
const OTHER: &str = "other";

impl SmallMap {
    pub(super) fn new(
        config: &ImportConfig,
        labels: &[u32],
        rows: &[usize],
        names: &[String],
        notes: &mut Vec<Note>,
    ) -> Result<Self> {
        let fewest = config.min_per_class.unwrap_or(0);
        let mut map = Self { classes: Vec::new(), of: Vec::new() };
        let mut small = Vec::new();
        let mut images = 0;
        for (name, count) in names.iter().zip(count(labels, rows, names.len())) {
            if count < fewest as u64 {
                map.of.push(None);
                small.push(format!("{name} ({count})"));
                images += count;
            } else {
                map.of.push(Some(map.classes.len() as u32));
                map.classes.push(name.clone());
            }
        }
        if small.is_empty() {
            return Ok(map);
        }
        let listed = small.join(", ");
        match config.small_classes {
            SmallClasses::Error => {
                let expected = format!(
                    "classes of at least {fewest} training images, found {} with fewer: {} (small_classes = \"drop\" or \"merge\" \
                     handles them)",
                    small.len(),
                    listed,
                );
                return Err(Error::config("min_per_class", fewest, expected));
            }
            SmallClasses::Drop => {
                let what = format!("images of classes with fewer than {fewest} training images: {listed}");
                notes.push(Note::new(NoteKind::Skipped, images, what));
            }
            SmallClasses::Merge => {
                let other = map.classes.iter().position(|name| name == OTHER).unwrap_or(map.classes.len());
                if other == map.classes.len() {
                    map.classes.push(OTHER.into());
                }
                map.of.iter_mut().filter(|of| of.is_none()).for_each(|of| *of = Some(other as u32));
                let what = format!(
                    "images of classes with fewer than {fewest} training images, merged into {OTHER:?}: {listed}"
                );
                notes.push(Note::new(NoteKind::Converted, images, what));
            }
        }
        if map.classes.is_empty() {
            return Err(Error::config("min_per_class", fewest, "a class with that many training images"));
        }
        Ok(map)
    }
}

//! Divides the rows of a source into splits, and finds images that are in two of them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use gafi_core::{Error, Result, Split, Stream};
use serde::Serialize;

use super::classes::{SmallMap, check_labels, check_own, class_names, count};
use super::config::{ImportConfig, OnLeak};
use super::duplicates::{Fingerprint, NEAR, shared};
use super::parts::{Origin, Parts};
use super::report::SplitReport;
use super::scan::{Scan, name};
use super::split::{Share, Take, hold_out, subset};
use crate::note::{Note, NoteKind};
use crate::source::{Chain, Source};

/// The rows of one split.
pub(super) struct SplitRows {
    pub(super) source: Arc<dyn Source>,
    pub(super) classes: Vec<String>,
    /// The class of each row of the source. Meaningless for rows that are left out.
    pub(super) labels: Vec<u32>,
    /// In ascending order. The source's own validation rows are numbered after its training rows.
    pub(super) rows: Vec<usize>,
    /// Whether these are the source's own test rows, and how many training rows it has.
    own_test: bool,
    own_train: usize,
}

impl SplitRows {
    /// Number of rows of each class.
    pub(super) fn counts(&self) -> Vec<u64> {
        count(&self.labels, &self.rows, self.classes.len())
    }

    /// The part of the source that holds `row`, and the row's number in it.
    pub(super) fn place(&self, row: usize) -> (usize, usize) {
        place(row, self.own_test, self.own_train)
    }
}

/// The part of the source that holds `row`, and the row's number in it.
fn place(row: usize, own_test: bool, own_train: usize) -> (usize, usize) {
    match row.checked_sub(own_train) {
        _ if own_test => (2, row),
        Some(row) => (1, row),
        None => (0, row),
    }
}

/// The rows of every split.
pub(super) struct Division {
    /// The training rows, followed by the source's own validation rows if they are used.
    main: Arc<dyn Source>,
    test_source: Option<Arc<dyn Source>>,
    pub(super) classes: Vec<String>,
    main_labels: Vec<u32>,
    test_labels: Vec<u32>,
    own_train: usize,
    val_from: ValFrom,
    train: Vec<usize>,
    val: Vec<usize>,
    screen: Vec<usize>,
    /// `None` if there are no test rows and none are held out.
    test: Option<Vec<usize>>,
    /// Notes on rows that were left out.
    pub(super) notes: Vec<Note>,
    /// Images that were skipped for lack of a label, for an error.
    unlabelled: String,
}

impl Division {
    /// Divides the rows in four steps. Each random choice has its own stream.
    ///
    /// 1. Unreadable rows and small classes are left out.
    /// 2. Test rows are held out of the training rows, unless the source has test rows.
    /// 3. Validation rows are held out of the training rows, unless the source's own are used.
    /// 4. The rows to keep are drawn.
    ///
    /// `scan` is required if unreadable rows or leaks are left out.
    pub(super) fn of(config: &ImportConfig, origin: &Origin, parts: &Parts, scan: Option<&Scan>) -> Result<Self> {
        let train = &parts.train;
        let own_train = train.labels().len();
        let names = class_names(config, parts)?;
        check_labels(config, &**train, &names)?;
        let val_from = ValFrom::of(config, origin);
        let main = match (&parts.val, val_from) {
            (_, ValFrom::Train) => train.clone(),
            (Some(val), _) => {
                check_own(config, &**val, &**train, &names, "val")?;
                Chain::join(vec![train.clone(), val.clone()])?
            }
            (None, _) => {
                return Err(Error::config("pool_val", true, "false, because the source has no validation rows"));
            }
        };
        let test_source = parts.test.clone();
        if let Some(test) = &test_source {
            check_own(config, &**test, &**train, &names, "test")?;
            if let Some(f) = config.test_fraction {
                return Err(Error::config("test_fraction", f, "no value, because the source has test rows"));
            }
        }
        // The fingerprints of parts of the source: `None` for unreadable rows, empty without a scan.
        let prints = |numbers: &[usize]| -> Vec<Option<Fingerprint>> {
            let parts = numbers.iter().filter_map(|&number| scan?.parts[number].as_ref());
            parts.flat_map(|part| part.prints.iter().copied()).collect()
        };
        let main_prints = prints(if val_from == ValFrom::Train { &[0] } else { &[0, 1] });
        let test_prints = prints(&[2]);
        let readable = |prints: &[Option<Fingerprint>], row: usize| prints.get(row).is_none_or(Option::is_some);
        let mut notes = Vec::new();
        let all = |range: std::ops::Range<usize>| range.filter(|&row| readable(&main_prints, row)).collect::<Vec<_>>();
        let small = SmallMap::new(config, train.labels(), &all(0..own_train), &names, &mut notes)?;
        let classes = small.classes;
        let mapped = |source: &dyn Source| -> Vec<u32> {
            source.labels().iter().map(|&l| small.of[l as usize].unwrap_or(u32::MAX)).collect()
        };
        let main_labels = mapped(&*main);
        let test_labels = test_source.as_deref().map(mapped).unwrap_or_default();
        let in_class = |labels: &[u32], mut rows: Vec<usize>| {
            rows.retain(|&row| labels[row] != u32::MAX);
            rows
        };
        let mut rest =
            in_class(&main_labels, all(if val_from == ValFrom::Pool { 0..main_labels.len() } else { 0..own_train }));
        let mut val = in_class(&main_labels, all(own_train..main_labels.len()));

        let seed = Stream::new(config.seed).child("split");
        let keep = |labels: &[u32], rows: Vec<usize>, take: Option<(Take, &str)>, stream: &str| match take {
            Some((take, key)) => subset(labels, &rows, &classes, take, key, &seed.child(stream)),
            None => Ok(rows),
        };
        let hold = |rows: &[usize], (share, key): (Share, &str), stream: &str| {
            hold_out(&main_labels, rows, &classes, share, key, &seed.child(stream))
        };
        let test = match (&test_source, config.test_fraction) {
            (Some(_), _) => {
                let own = (0..test_labels.len()).filter(|&row| readable(&test_prints, row)).collect();
                Some(in_class(&test_labels, own))
            }
            (None, Some(f)) => {
                let (held, left) = hold(&rest, (Share::Fraction(f), "test_fraction"), "test")?;
                rest = left;
                Some(held)
            }
            (None, None) => None,
        };
        let drop_leaks = config.on_leak == OnLeak::Drop;
        let print_of = |prints: &[Option<Fingerprint>], row: usize| prints.get(row).copied().flatten();
        let mut without = |rows: &mut Vec<usize>, of: &str, others: &HashSet<u128>, than: &str| {
            let before = rows.len();
            rows.retain(|&row| print_of(&main_prints, row).is_none_or(|print| !others.contains(&print.pixels)));
            if rows.len() < before {
                let what = format!("{of} images that are equal to {than} image");
                notes.push(Note::new(NoteKind::Skipped, (before - rows.len()) as u64, what));
            }
        };
        let empty_class = |rows: &[usize]| count(&main_labels, rows, classes.len()).iter().position(|&n| n == 0);
        let check_left = |rest: &[usize]| match empty_class(rest) {
            Some(empty) => {
                let found = format!("class {empty} ({}) has no such images", classes[empty]);
                let expected = format!("training images of every class that are in no other split; {found}");
                Err(Error::config("on_leak", "drop", expected))
            }
            None => Ok(()),
        };
        if let (true, Some(test)) = (drop_leaks, &test) {
            let prints = if test_source.is_some() { &test_prints } else { &main_prints };
            let tested: HashSet<u128> = test.iter().filter_map(|&row| Some(print_of(prints, row)?.pixels)).collect();
            if val_from == ValFrom::Source {
                without(&mut val, "validation", &tested, "a test");
            }
            without(&mut rest, "training", &tested, "a test");
            check_left(&rest)?;
        }
        match config.val() {
            _ if val_from == ValFrom::Source => {}
            Some((Share::Fraction(0.0), _)) => val.clear(),
            share => (val, rest) = hold(&rest, share.unwrap_or(ImportConfig::VAL_DEFAULT), "val")?,
        }
        if drop_leaks {
            let held: HashSet<u128> = val.iter().filter_map(|&row| Some(print_of(&main_prints, row)?.pixels)).collect();
            without(&mut rest, "training", &held, "a validation");
            check_left(&rest)?;
        }
        // At most as many as training images, but at least one of each class.
        if let Some(limit) = config.limit.map(|limit| limit.max(classes.len())).filter(|limit| *limit < val.len()) {
            val = subset(&main_labels, &val, &classes, Take::Total(limit), "limit", &seed.child("limit-val"))?;
        }
        let mut screen = Vec::new();
        if config.screen_fraction > 0.0 {
            (screen, val) = hold(&val, (Share::Fraction(config.screen_fraction), "screen_fraction"), "screen")?;
        }
        if let Some(empty) = empty_class(&rest) {
            let expected =
                "training rows of every class (min_per_class with small_classes = \"drop\" leaves small classes out)";
            let found = format!("no rows of class {empty} ({}) once unreadable images are left out", classes[empty]);
            return Err(Error::format(train.location(0).path, "train", expected, found));
        }
        let train = keep(&main_labels, rest, config.train_take(), "limit")?;
        let labels_of_test = if test_source.is_some() { &test_labels } else { &main_labels };
        let test = test.map(|rows| keep(labels_of_test, rows, config.test_take(), "limit-test")).transpose()?;
        Ok(Self {
            main,
            test_source,
            classes,
            main_labels,
            test_labels,
            own_train,
            val_from,
            train,
            val,
            screen,
            test,
            notes,
            unlabelled: origin.unlabelled(),
        })
    }

    /// The rows of `split`.
    ///
    /// # Errors
    /// [`Error::Config`] for a split that the configuration does not make.
    pub(super) fn take(&self, config: &ImportConfig, split: Split) -> Result<SplitRows> {
        // Both have the same rows, but record a different use.
        let tested = matches!(split, Split::Test | Split::TestAsVal);
        let rows = match split {
            Split::Val if self.val.is_empty() => {
                return Err(Error::config("val_fraction", 0, "above 0, because the split val is needed"));
            }
            Split::Val => self.val.clone(),
            Split::Screen if config.screen_fraction == 0.0 => {
                let expected = "above 0, because the split screen is this fraction of the validation rows";
                return Err(Error::config("screen_fraction", 0, expected));
            }
            Split::Screen => self.screen.clone(),
            Split::Test | Split::TestAsVal => self.test.clone().ok_or_else(|| {
                let expected = "a fraction of the rows such as 0.2, because the source has no test rows";
                Error::config("test_fraction", "unset", format!("{expected}{}", self.unlabelled))
            })?,
            Split::TrainVal => {
                let mut rows = [&self.train[..], &self.val].concat();
                rows.sort_unstable();
                rows
            }
            Split::Train | Split::Synthetic => self.train.clone(),
        };
        let own_test = tested && self.test_source.is_some();
        let (source, labels) = match &self.test_source {
            Some(source) if own_test => (source, &self.test_labels),
            _ => (&self.main, &self.main_labels),
        };
        Ok(SplitRows {
            source: source.clone(),
            classes: self.classes.clone(),
            labels: labels.clone(),
            rows,
            own_test,
            own_train: self.own_train,
        })
    }

    /// The number of rows of each class in each split.
    pub(super) fn splits(&self) -> Vec<SplitReport> {
        let report = |split, labels: &[u32], rows: &[usize], own| {
            let counts = count(labels, rows, self.classes.len());
            SplitReport { split, counts, own }
        };
        let own_val = self.val_from == ValFrom::Source;
        let mut splits = vec![report(Split::Train, &self.main_labels, &self.train, true)];
        for (split, rows) in [(Split::Val, &self.val), (Split::Screen, &self.screen)] {
            if !rows.is_empty() {
                splits.push(report(split, &self.main_labels, rows, own_val));
            }
        }
        if let Some(rows) = &self.test {
            let own = self.test_source.is_some();
            let labels = if own { &self.test_labels } else { &self.main_labels };
            splits.push(report(Split::Test, labels, rows, own));
        }
        splits
    }

    /// Notes on images that are in two splits, and the number of images that are equal in every pixel.
    pub(super) fn leaks(&self, scan: &Scan, root: Option<&Path>) -> (Vec<Note>, u64) {
        let mut notes = Vec::new();
        let mut equal = 0;
        let prints = |rows: &[usize], own_test: bool| -> Vec<(usize, Fingerprint)> {
            let print = |&row: &usize| {
                let (part, at) = place(row, own_test, self.own_train);
                Some((row, (*scan.parts[part].as_ref()?.prints.get(at)?)?))
            };
            rows.iter().filter_map(print).collect()
        };
        let held: Vec<usize> = [&self.val[..], &self.screen].concat();
        let train = prints(&self.train, false);
        let val = prints(&held, false);
        let own_test = self.test_source.is_some();
        let test = prints(self.test.as_deref().unwrap_or_default(), own_test);
        let test_source = self.test_source.as_ref().unwrap_or(&self.main);
        let both = [&train[..], &val].concat();
        for (name_of, rows, source, than, others) in [
            ("test", &test, test_source, "a training or validation", &both),
            ("validation", &val, &self.main, "a training", &train),
        ] {
            let others: Vec<Fingerprint> = others.iter().map(|(_, print)| *print).collect();
            let found = shared(rows, &others);
            equal += found.equal.len() as u64;
            let similar = format!("similar to {than} image ({NEAR} or fewer of 128 bits of a perceptual hash differ)");
            for (rows, how) in
                [(found.equal, format!("equal to {than} image in every pixel")), (found.similar, similar)]
            {
                let mut note = Note::new(NoteKind::Warning, 0, format!("{name_of} images {how}"));
                rows.into_iter().for_each(|row| note.add(|| name(&source.location(row), root)));
                notes.extend((note.count > 0).then_some(note));
            }
        }
        (notes, equal)
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
            None if origin.has(Split::Val) => Self::Source,
            _ => Self::Train,
        }
    }
}

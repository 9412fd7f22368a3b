//! The stage `import`, which reads real images and writes a dataset.
//!
//! One run writes one split. Every run divides the same rows with the same seed and keeps its own part, so the splits are
//! disjoint in whatever order they are written (`train-val` is `train` and `val` together). The column `index` of a dataset is the row
//! number in the source, where the source's own validation rows follow its training rows.
//!
//! A first pass decodes every image of the source ([`Scan`]), so that all problems are reported at once and images in two splits are
//! found. The splits of one import share it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use gafi_core::{
    ArtifactWriter, Batch, ClassId, Context, DatasetInfo, DatasetWriter, Error, ImageSpec, Inputs, Kind, MemoryDataset,
    Result, Split, Stage, StageInfo, Stream, execute,
};
use serde_json::{Value, json};

use super::colour::Window;
use super::config::{ImportConfig, OnLeak, OnUnreadable};
use super::decode::{Decoding, decode};
use super::division::{Division, SplitRows, ValFrom};
use super::parts::{Origin, Parts};
use super::report::ImportReport;
use super::scan::{DECODED_BYTES, Scan, first_shape, in_parallel};
use super::split::sample;
use super::survey::{Survey, survey};
use crate::discover::Discovered;
use crate::format::Format;
use crate::named::{HubSet, NamedSet, SearchPath};
use crate::note::{Note, NoteKind};
use crate::source::Item;

/// Maximum number of images in a batch of the dataset. Batches decide where shards end, so changing this number changes the
/// bytes of a dataset.
const BATCH_ROWS: usize = 256;

/// The stage `import`: a configuration whose source has been found and hashed, and the split to write.
#[derive(Debug, Clone)]
pub struct Import {
    config: ImportConfig,
    split: Split,
    shared: Arc<Shared>,
    digest: String,
}

/// What the splits of one import share.
struct Shared {
    origin: Origin,
    parts: OnceLock<Parts>,
    /// Locked during the scan, which runs once.
    scan: Mutex<Option<Arc<Scan>>>,
}

impl Shared {
    /// The parts of the source, opened once for all splits. Those of a built-in set depend on the configuration and are made each time.
    fn parts(&self, config: &ImportConfig) -> Result<Parts> {
        if let Some(parts) = self.parts.get() {
            return Ok(parts.clone());
        }
        let parts = Parts::open(config, &self.origin)?;
        match self.origin {
            Origin::Shapes => Ok(parts),
            Origin::Files(_) => Ok(self.parts.get_or_init(|| parts).clone()),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Import {
    /// Finds the source, downloading it if necessary, and hashes it.
    ///
    /// # Errors
    /// [`Error::Config`] for a value out of range; [`Error::Other`] around [`crate::NotFound`] when a named set is not found;
    /// [`Error::Io`] and [`Error::Format`] when files cannot be read or are damaged.
    pub fn new(config: &ImportConfig, split: Split, cx: &Context) -> Result<Self> {
        config.validate()?;
        if split == Split::Synthetic {
            let expected = "train, train-val, val, screen or test, because imported images are real";
            return Err(Error::config("split", split, expected));
        }
        let origin = match (&config.path, config.set) {
            (Some(path), _) => Origin::Files(match HubSet::of(path)? {
                Some(set) => {
                    SearchPath::standard(config.offline).find_on_hub(&set, config.label_column.as_deref(), cx)?
                }
                None => Discovered::at(path, config.format, &config.folder_keys())?,
            }),
            (None, None | Some(NamedSet::Shapes)) => Origin::Shapes,
            (None, Some(set)) => Origin::Files(SearchPath::standard(config.offline).find(set, cx)?),
        };
        let digest = match &origin {
            Origin::Shapes => "built in".into(),
            Origin::Files(found) => format!("blake3:{}", found.digest()?),
        };
        let shared = Shared { origin, parts: OnceLock::new(), scan: Mutex::default() };
        Ok(Self { config: config.clone(), split, shared: Arc::new(shared), digest })
    }

    /// The same import, writing another split.
    pub fn with_split(&self, split: Split) -> Self {
        Self { split, ..self.clone() }
    }

    /// The disjoint splits that an import of this configuration writes.
    pub fn splits(&self) -> Vec<Split> {
        let holds_out = self.config.val_fraction != Some(0.0);
        let mut splits = vec![Split::Train];
        splits.extend(holds_out.then_some(Split::Val));
        splits.extend((self.config.screen_fraction > 0.0).then_some(Split::Screen));
        let has_test = self.shared.origin.has(Split::Test) || self.config.test_fraction.is_some();
        // Unless `val_fraction` is 0, missing test rows are an error, which writing the split reports.
        splits.extend((has_test || holds_out).then_some(Split::Test));
        splits
    }

    /// Describes the source: classes, counts and image shapes before rows are held out and images resized. Reads the header of
    /// every training image.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] when files cannot be read or are damaged.
    pub fn survey(&self) -> Result<Survey> {
        let parts = self.shared.parts(&self.config)?;
        survey(&self.config, &self.shared.origin, &parts)
    }

    /// Number of rows of each class in `split`, if this source is imported with `config`.
    ///
    /// # Errors
    /// Those of an import with `config`, except for unreadable images.
    pub fn counts(&self, config: &ImportConfig, split: Split) -> Result<Vec<u64>> {
        let division = self.divide(config, self.scan_for_rows(config)?.as_deref())?;
        Ok(division.take(config, split)?.counts())
    }

    /// The report of the import, without writing anything. Decodes every image once.
    ///
    /// # Errors
    /// The errors of importing any of its splits, except write errors.
    pub fn report(&self, cx: &Context) -> Result<ImportReport> {
        let labelled = self.divide(&self.config, None)?;
        for split in self.splits() {
            labelled.take(&self.config, split)?;
        }
        let scan = self.scan(cx)?;
        let division = self.divide(&self.config, scan.as_deref())?;
        self.describe(&division, scan.as_deref())
    }

    /// Releases the pixels that the first pass keeps. Splits that are written later decode their images again. It waits for a first
    /// pass that is running, so do not call it from a [`gafi_core::Progress`].
    pub fn release_memory(&self) {
        *self.shared.scan.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A preview: up to `per_class` images of each class of the split, drawn by `stream`, as the import would write them.
    ///
    /// # Errors
    /// Those of an import.
    pub fn sample(&self, per_class: usize, stream: &Stream, cx: &Context) -> Result<MemoryDataset> {
        let scan = self.scan_for_rows(&self.config)?;
        let selected = self.divide(&self.config, scan.as_deref())?.take(&self.config, self.split)?;
        let mut decoding = self.config.decoding();
        let spec = first_shape(&*selected.source, &selected.rows, &self.config)?;
        let rows = sample(&selected.labels, &selected.rows, selected.classes.len(), per_class, stream);
        let images = |decoding: &Decoding| -> Result<(MemoryDataset, bool)> {
            let mut set = MemoryDataset::new(spec, selected.classes.clone(), self.split);
            let mut deep = false;
            self.decoded(&selected, &rows, spec, decoding, cx, |row, pixels, facts| {
                deep |= facts;
                set.push(pixels, ClassId(selected.labels[row]));
                Ok(())
            })?;
            Ok((set, deep))
        };
        let (set, deep) = images(&decoding)?;
        if !deep || self.config.window != Window::Auto {
            return Ok(set);
        }
        // The automatic window depends on all images.
        if let Some(scan) = self.scan(cx)? {
            decoding = scan.decoding;
        }
        Ok(images(&decoding)?.0)
    }

    /// The info of the dataset that this import would write (shape, classes, counts), without its shards. Reads one image, or all
    /// images if unreadable images or leaks are left out.
    ///
    /// # Errors
    /// Those of an import, except for unreadable images beyond the first readable one.
    pub fn preview(&self) -> Result<DatasetInfo> {
        let scan = self.scan_for_rows(&self.config)?;
        let selected = self.divide(&self.config, scan.as_deref())?.take(&self.config, self.split)?;
        let spec = match scan {
            Some(scan) => scan.spec,
            None => first_shape(&*selected.source, &selected.rows, &self.config)?,
        };
        let counts = selected.counts();
        Ok(DatasetInfo { counts, ..DatasetInfo::new(spec, selected.classes, self.split) })
    }

    fn divide(&self, config: &ImportConfig, scan: Option<&Scan>) -> Result<Division> {
        let parts = self.shared.parts(config)?;
        Division::of(config, &self.shared.origin, &parts, scan)
    }

    /// The first pass, which runs when it is first needed. A built-in set needs no first pass.
    fn scan(&self, cx: &Context) -> Result<Option<Arc<Scan>>> {
        if matches!(self.shared.origin, Origin::Shapes) {
            return Ok(None);
        }
        let mut scan = self.shared.scan.lock().unwrap_or_else(PoisonError::into_inner);
        if scan.is_none() {
            // Checks the labels first, because that decodes no image.
            self.divide(&self.config, None)?;
            let parts = self.shared.parts(&self.config)?;
            *scan = Some(Arc::new(Scan::new(&self.config, &parts, cx)?));
        }
        Ok(scan.clone())
    }

    /// The first pass, if it decides which rows are left out.
    fn scan_for_rows(&self, config: &ImportConfig) -> Result<Option<Arc<Scan>>> {
        if config.on_unreadable == OnUnreadable::Skip || config.on_leak == OnLeak::Drop {
            return self.scan(&Context::default());
        }
        Ok(None)
    }

    /// The report. Fails on leaks if the configuration says so.
    fn describe(&self, division: &Division, scan: Option<&Scan>) -> Result<ImportReport> {
        let root = self.config.path.as_deref();
        let (format, mut notes) = match &self.shared.origin {
            Origin::Shapes => (Format::Auto, Vec::new()),
            Origin::Files(found) => (found.format, found.notes.clone()),
        };
        let parts = self.shared.parts(&self.config)?;
        let own = parts.all().flat_map(|(_, source)| source.notes());
        own.chain(scan.into_iter().flat_map(|scan| scan.notes.iter().cloned()))
            .chain(division.notes.iter().cloned())
            .for_each(|note| Note::merge(&mut notes, note));
        let splits = division.splits();
        let mut sizes = Vec::new();
        if let Some(scan) = scan {
            let (leaks, equal) = division.leaks(scan, root);
            if equal > 0 && self.config.on_leak == OnLeak::Error {
                let found: Vec<String> = leaks.iter().map(Note::sentence).collect();
                let expected = "no image in two splits (on_leak = \"drop\" drops training and validation images, \"warn\" counts them)";
                return Err(Error::config("on_leak", format!("error: {}", found.join("; ")), expected));
            }
            notes.extend(leaks);
            sizes = scan.sizes.iter().map(|(size, count)| (*size, *count)).collect::<Vec<_>>();
            sizes.sort_by_key(|(size, count)| (std::cmp::Reverse(*count), *size));
        }
        notes.extend(class_warnings(&division.classes, &splits[0].counts));
        let named = |((height, width), count): &((usize, usize), u64)| (format!("{height}x{width}"), *count);
        Ok(ImportReport {
            format,
            classes: division.classes.clone(),
            splits,
            different_sizes: sizes.len() as u64,
            sizes: sizes.iter().take(LISTED_SIZES).map(named).collect(),
            modes: scan.map(|scan| scan.modes.clone()).unwrap_or_default(),
            notes,
        })
    }

    /// Decodes `rows` in parallel. `each` gets them in order: the row, its pixels, and whether they were stored with 16 bits.
    fn decoded(
        &self,
        selected: &SplitRows,
        rows: &[usize],
        spec: ImageSpec,
        decoding: &Decoding,
        cx: &Context,
        mut each: impl FnMut(usize, &[u8], bool) -> Result<()>,
    ) -> Result<()> {
        let geometry = self.config.geometry();
        let source = &*selected.source;
        let shape = |item: Item| -> std::result::Result<_, (String, String)> {
            let unreadable = |found| ("a readable image".to_owned(), found);
            let (shaped, facts) = decode(item.image, decoding, |pixels| geometry.apply(pixels)).map_err(unreadable)?;
            let pixels = shaped.map_err(|misfit| (misfit.expected, misfit.found))?;
            if pixels.spec != spec {
                return Err((format!("{spec} like the first image"), pixels.spec.to_string()));
            }
            Ok((pixels.data, facts.max16.is_some()))
        };
        let most = (DECODED_BYTES / spec.bytes().max(1)).clamp(1, BATCH_ROWS);
        in_parallel(source, rows, most, cx, shape, |images| {
            images.into_iter().try_for_each(|(row, image)| {
                let (pixels, deep) = image.map_err(|(expected, found)| source.location(row).error(expected, found))?;
                each(row, &pixels, deep)
            })
        })
    }
}

/// How many sizes a report lists.
const LISTED_SIZES: usize = 10;

/// The report warns of a class with at least this share of the images.
const ONE_SIDED: f64 = 0.9;

/// Warnings of classes that may be a mistake.
fn class_warnings(classes: &[String], counts: &[u64]) -> Vec<Note> {
    let warn = |count: u64, what: String| Note::new(NoteKind::Warning, count, what);
    let all: u64 = counts.iter().sum();
    let mut notes = Vec::new();
    if let [only] = classes {
        notes.push(warn(all, format!("training images of a single class, {only}")));
        return notes;
    }
    for (name, &count) in classes.iter().zip(counts) {
        if crate::formats::split_names::split_of(name).is_some() {
            notes.push(warn(count, format!("training images of a class that is named like a split, {name}")));
        }
        if count as f64 >= ONE_SIDED * all as f64 {
            let percent = 100.0 * count as f64 / all as f64;
            let what = format!("training images of one class of {}, {name}: {percent:.0} %", classes.len());
            notes.push(warn(count, what));
        }
    }
    notes
}

impl Stage for Import {
    fn info(&self) -> StageInfo {
        StageInfo { name: "import", revision: 3, ports: &[], output: Kind::Dataset }
    }

    /// The configuration, with a hash of the source's content in place of its path.
    fn config(&self) -> Value {
        let c = &self.config;
        let mut config = json!({
            "split": self.split, "set": c.set, "size": c.size, "fit": c.fit, "resample": c.resample,
            "channels": c.channels, "val_from": ValFrom::of(c, &self.shared.origin), "val_fraction": c.val_fraction,
            "val_per_class": c.val_per_class, "screen_fraction": c.screen_fraction, "test_fraction": c.test_fraction,
            "per_class": c.per_class, "limit": c.limit, "test_limit": c.test_limit, "seed": c.seed, "source": self.digest,
            "min_per_class": c.min_per_class, "small_classes": c.small_classes,
        });
        match &self.shared.origin {
            Origin::Shapes => config["shapes"] = json!(c.shapes),
            Origin::Files(found) => {
                config["format"] = json!(found.format);
                config["image_column"] = json!(c.image_column);
                config["label_column"] = json!(c.label_column);
                config["classes"] = json!(c.classes);
                config["first_label"] = json!(c.first_label);
                config["on_unreadable"] = json!(c.on_unreadable);
                config["on_leak"] = json!(c.on_leak);
                config["background"] = json!(c.background);
                config["exif"] = json!(c.exif);
                config["window"] = json!(c.window);
            }
        }
        config
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        self.config.validate()
    }

    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let scan = self.scan(cx)?;
        let division = self.divide(&self.config, scan.as_deref())?;
        let report = self.describe(&division, scan.as_deref())?;
        let selected = division.take(&self.config, self.split)?;
        drop(division);
        let (spec, decoding) = match &scan {
            Some(scan) => (scan.spec, scan.decoding),
            None => (first_shape(&*selected.source, &selected.rows, &self.config)?, self.config.decoding()),
        };
        let info = DatasetInfo::new(spec, selected.classes.clone(), self.split);
        let (mut writer, position) = DatasetWriter::begin(out, info)?;
        writer.describe_import(serde_json::to_value(report).map_err(Error::other("writing the report of an import"))?);
        let position = position.map(serde_json::from_value).transpose();
        let mut done: usize = position.map_err(Error::other("reading the resume state of the import"))?.unwrap_or(0);
        let mut task = cx.progress.begin(&format!("import {}", self.split), Some(selected.rows.len() as u64));
        task.advance(done as u64);
        let mut left = &selected.rows[done.min(selected.rows.len())..];
        let most = (DECODED_BYTES / spec.bytes().max(1)).clamp(1, BATCH_ROWS);
        let mut batch = Batch::default();
        let mut push = |row: usize, pixels: &[u8]| -> Result<()> {
            batch.labels.push(ClassId(selected.labels[row]));
            batch.ids.push(row as u64);
            batch.images.extend_from_slice(pixels);
            done += 1;
            if batch.labels.len() == most || done == selected.rows.len() {
                cx.checkpoint()?;
                task.advance(batch.len() as u64);
                writer.push(&batch, json!(done))?;
                batch.labels.clear();
                batch.ids.clear();
                batch.images.clear();
            }
            Ok(())
        };
        // The first pass kept the pixels of the first rows.
        let kept = |row: usize| {
            let (part, at) = selected.place(row);
            scan.as_ref()?.parts[part].as_ref()?.kept(at, spec)
        };
        while let Some((&row, others)) = left.split_first()
            && let Some(pixels) = kept(row)
        {
            push(row, pixels)?;
            left = others;
        }
        self.decoded(&selected, left, spec, &decoding, cx, |row, pixels, _| push(row, pixels))?;
        drop(task);
        writer.finish()?;
        Ok(())
    }
}

/// The splits of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportedSet {
    /// Folder of the training split.
    pub train: PathBuf,
    /// Folder of the validation split, unless `val_fraction` is 0.
    pub val: Option<PathBuf>,
    /// Folder of the screening split, if `screen_fraction` is above 0.
    pub screen: Option<PathBuf>,
    /// Folder of the test split, unless `val_fraction` is 0 and there are no test rows.
    pub test: Option<PathBuf>,
    /// Whether all splits existed already.
    pub cached: bool,
}

/// Imports the splits to `dir/train`, `dir/val`, `dir/test` and, with a `screen_fraction`, `dir/screen`. Splits that exist
/// already are reused.
///
/// # Errors
/// Those of [`Import::new`] and [`execute`].
pub fn import_all(config: &ImportConfig, dir: &Path, cx: &Context) -> Result<ImportedSet> {
    let import = Import::new(config, Split::Train, cx)?;
    let at = |split: Split| dir.join(split.to_string());
    let mut cached = true;
    let splits = import.splits();
    for &split in &splits {
        cached &= execute(&import.with_split(split), &Inputs::new(), &at(split), cx)?.cached;
    }
    let made = |split: Split| splits.contains(&split).then(|| at(split));
    let [val, screen, test] = [Split::Val, Split::Screen, Split::Test].map(made);
    Ok(ImportedSet { train: at(Split::Train), val, screen, test, cached })
}

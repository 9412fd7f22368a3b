//! The stage `import`, which reads real images and writes a dataset.
//!
//! One run writes one split. Every run divides the same rows with the same seed and keeps its own part, so the splits are
//! disjoint in whatever order they are written (`train-val` is `train` and `val` together). The column `index` of the
//! dataset is the row number in the source, where a source's own validation rows follow its training rows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gafi_core::{
    ArtifactWriter, Batch, ClassId, Context, DatasetInfo, DatasetWriter, Error, ImageSpec, Inputs, Kind, MemoryDataset,
    Result, Split, Stage, StageInfo, Stream, execute,
};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::config::ImportConfig;
use super::decode::decode;
use super::geometry::Geometry;
use super::rows::{Origin, SplitRows, Survey, ValFrom, survey};
use super::split::sample;
use crate::discover::Discovered;
use crate::named::{NamedSet, SearchPath};
use crate::source::{Item, Location, Pixels, Source};

/// Most images, and bytes of images before they are decoded, in a batch: enough for all cores.
const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 32 << 20;
/// Most bytes of decoded images in a batch of several.
const DECODED_BYTES: usize = 64 << 20;

/// The stage `import`: a configuration whose source has been found and hashed, and the split to write.
#[derive(Debug, Clone)]
pub struct Import {
    config: ImportConfig,
    split: Split,
    origin: Arc<Origin>,
    digest: String,
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
            (Some(path), _) => Origin::Files(Discovered::at(path, config.format)?),
            (None, None | Some(NamedSet::Shapes)) => Origin::Shapes,
            (None, Some(set)) => Origin::Files(SearchPath::standard(config.offline).find(set, cx)?),
        };
        let digest = match &origin {
            Origin::Shapes => "built in".into(),
            Origin::Files(found) => format!("blake3:{}", found.digest()?),
        };
        Ok(Self { config: config.clone(), split, origin: Arc::new(origin), digest })
    }

    /// The same import, writing another split.
    pub fn with_split(&self, split: Split) -> Self {
        Self { split, ..self.clone() }
    }

    /// The disjoint splits that the configuration makes of the source.
    pub fn splits(&self) -> &'static [Split] {
        if self.config.screen_fraction > 0.0 {
            &[Split::Train, Split::Val, Split::Screen, Split::Test]
        } else {
            &[Split::Train, Split::Val, Split::Test]
        }
    }

    /// Describes the source: classes, counts and image shapes before rows are held out and images resized. Reads the header of
    /// every image.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] when files cannot be read or are damaged.
    pub fn survey(&self) -> Result<Survey> {
        survey(&self.config, &self.origin)
    }

    /// Number of rows of each class in `split` if this source were imported with `config`.
    ///
    /// # Errors
    /// Those of an import with `config`, except for unreadable images.
    pub fn counts(&self, config: &ImportConfig, split: Split) -> Result<Vec<u64>> {
        Ok(SplitRows::select(config, &self.origin, split)?.counts())
    }

    /// Up to `per_class` images of each class of the split, drawn by `stream`, as the import would write them: for previewing images
    /// before they are imported.
    ///
    /// # Errors
    /// Those of an import.
    pub fn sample(&self, per_class: usize, stream: &Stream, cx: &Context) -> Result<MemoryDataset> {
        let SplitRows { source, classes, rows } = SplitRows::select(&self.config, &self.origin, self.split)?;
        let geometry = self.config.geometry();
        let spec = first_shape(&*source, &rows, &geometry)?;
        let rows = sample(source.labels(), &rows, classes.len(), per_class, stream);
        let mut set = MemoryDataset::new(spec, classes, self.split);
        let mut unreadable = Unreadable::default();
        each_batch(&*source, &rows, spec, |items| {
            cx.checkpoint()?;
            let batch = decode_batch(items, &*source, &geometry, spec, &mut unreadable)?;
            batch.images.chunks_exact(spec.bytes()).zip(batch.labels).for_each(|(image, label)| set.push(image, label));
            Ok(())
        })?;
        unreadable.report(&*source)?;
        Ok(set)
    }

    /// The info of the dataset that this import would write (shape, classes, counts), without its shards. Reads one image.
    ///
    /// # Errors
    /// Those of an import, except for unreadable images beyond the first readable one.
    pub fn preview(&self) -> Result<DatasetInfo> {
        let selected = SplitRows::select(&self.config, &self.origin, self.split)?;
        let spec = first_shape(&*selected.source, &selected.rows, &self.config.geometry())?;
        let counts = selected.counts();
        Ok(DatasetInfo { counts, ..DatasetInfo::new(spec, selected.classes, self.split) })
    }
}

impl Stage for Import {
    fn info(&self) -> StageInfo {
        StageInfo { name: "import", revision: 2, ports: &[], output: Kind::Dataset }
    }

    /// The configuration, with a hash of the source's content in place of its path.
    fn config(&self) -> Value {
        let c = &self.config;
        let mut config = json!({
            "split": self.split, "set": c.set, "size": c.size, "fit": c.fit, "resample": c.resample,
            "channels": c.channels, "val_from": ValFrom::of(c, &self.origin), "val_fraction": c.val_fraction,
            "val_per_class": c.val_per_class, "screen_fraction": c.screen_fraction, "test_fraction": c.test_fraction,
            "per_class": c.per_class, "limit": c.limit, "test_limit": c.test_limit, "seed": c.seed, "source": self.digest,
        });
        match &*self.origin {
            Origin::Shapes => config["shapes"] = json!(c.shapes),
            Origin::Files(found) => {
                config["format"] = json!(found.format);
                config["image_column"] = json!(c.image_column);
                config["label_column"] = json!(c.label_column);
                config["classes"] = json!(c.classes);
                config["first_label"] = json!(c.first_label);
            }
        }
        config
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        self.config.validate()
    }

    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let SplitRows { source, classes, rows } = SplitRows::select(&self.config, &self.origin, self.split)?;
        let geometry = self.config.geometry();
        let spec = first_shape(&*source, &rows, &geometry)?;
        let (mut writer, position) = DatasetWriter::begin(out, DatasetInfo::new(spec, classes, self.split))?;
        let mut done = match position {
            Some(value) => {
                serde_json::from_value(value).map_err(Error::other("reading the resume state of the import"))?
            }
            None => 0usize,
        };
        let mut task = cx.progress.begin(&format!("import {}", self.split), Some(rows.len() as u64));
        task.advance(done as u64);
        let rows = &rows[done.min(rows.len())..];

        let mut unreadable = Unreadable::default();
        let scanned = each_batch(&*source, rows, spec, |items| {
            cx.checkpoint()?;
            task.advance(items.len() as u64);
            let batch = decode_batch(items, &*source, &geometry, spec, &mut unreadable)?;
            // After an unreadable image nothing more is written, but the scan continues, to report all of them at once.
            if unreadable.first.is_none() {
                done += batch.len();
                writer.push(&batch, json!(done))?;
            }
            Ok(())
        });
        match scanned {
            Err(stopped @ Error::Interrupted) => return Err(stopped),
            // Unreadable images precede the row at which the scan failed.
            scanned => unreadable.report(&*source).and(scanned)?,
        }
        writer.finish()?;
        Ok(())
    }
}

/// Passes `rows` to `each` in batches, whose size depends only on the images: batches decide where shards end.
fn each_batch(
    source: &dyn Source,
    rows: &[usize],
    spec: ImageSpec,
    mut each: impl FnMut(Vec<Item>) -> Result<()>,
) -> Result<()> {
    let most = (DECODED_BYTES / spec.bytes().max(1)).clamp(1, BATCH_ROWS);
    let mut pending = Vec::new();
    let mut bytes = 0;
    source.scan(rows, &mut |item| {
        bytes += item.image.bytes();
        pending.push(item);
        if pending.len() < most && bytes < BATCH_BYTES {
            return Ok(());
        }
        bytes = 0;
        each(std::mem::take(&mut pending))
    })?;
    if pending.is_empty() { Ok(()) } else { each(pending) }
}

/// The shape of the first readable image, which all others must have. Skips a few unreadable images, which the import reports.
fn first_shape(source: &dyn Source, rows: &[usize], geometry: &Geometry) -> Result<ImageSpec> {
    let mut found = None;
    let mut unreadable = Vec::new();
    let scanned = source.scan(rows, &mut |item| {
        match shape_item(item, geometry) {
            Ok(shaped) => found = Some(shaped),
            Err(fault) if unreadable.len() < LISTED => {
                unreadable.push(fault);
                return Ok(());
            }
            Err(_) => {}
        }
        // Ends the scan.
        Err(Error::Interrupted)
    });
    match (found, unreadable.into_iter().next()) {
        (Some(shaped), _) => Ok(shaped.map_err(|fault| fault.at(source))?.spec),
        (None, Some(fault)) => Err(fault.at(source)),
        (None, None) => {
            scanned?;
            Err(source.location(0).error("at least one row", "no rows"))
        }
    }
}

/// What is wrong with the image of a row.
struct Fault {
    row: usize,
    expected: String,
    found: String,
}

impl Fault {
    fn at(self, source: &dyn Source) -> Error {
        source.location(self.row).error(self.expected, self.found)
    }
}

/// Most unreadable rows to list after the first.
const LISTED: usize = 10;

/// The unreadable rows of an import.
#[derive(Default)]
struct Unreadable {
    first: Option<Fault>,
    /// The rows to list after the first.
    listed: Vec<usize>,
    /// Number of rows after the first.
    others: usize,
}

impl Unreadable {
    fn add(&mut self, fault: Fault) {
        if self.first.is_none() {
            self.first = Some(fault);
            return;
        }
        self.others += 1;
        if self.listed.len() < LISTED {
            self.listed.push(fault.row);
        }
    }

    /// Returns an error if there are any: the first in detail, the others by location.
    fn report(self, source: &dyn Source) -> Result<()> {
        let Some(mut first) = self.first else { return Ok(()) };
        if self.others > 0 {
            let file = source.location(first.row).path;
            let name = |&row: &usize| {
                let Location { path, place } = source.location(row);
                if path == file { place } else { format!("{} ({place})", path.display()) }
            };
            let names: Vec<String> = self.listed.iter().map(name).collect();
            let rest = if self.others > names.len() { ", ..." } else { "" };
            first.found += &format!("; {} more cannot be read: {}{rest}", self.others, names.join(", "));
        }
        Err(first.at(source))
    }
}

/// Decodes an image and brings it to the configured shape. The outer error is an unreadable image, the inner one a shape that
/// does not fit.
fn shape_item(item: Item, geometry: &Geometry) -> Result<Result<Pixels, Fault>, Fault> {
    let row = item.row;
    let shaped = decode(item.image, |pixels| geometry.apply(pixels));
    let shaped = shaped.map_err(|found| Fault { row, expected: "a PNG or JPEG image".into(), found })?;
    Ok(shaped.map_err(|misfit| Fault { row, expected: misfit.expected, found: misfit.found }))
}

/// Decodes a batch. Unreadable images are added to `unreadable`; with any, the batch is empty.
fn decode_batch(
    items: Vec<Item>,
    source: &dyn Source,
    geometry: &Geometry,
    spec: ImageSpec,
    unreadable: &mut Unreadable,
) -> Result<Batch> {
    let rows: Vec<usize> = items.iter().map(|item| item.row).collect();
    let mut images = vec![0; items.len() * spec.bytes()];
    // Each thread holds one image in its own size, and keeps it in the size of the set.
    let shape = |(item, image): (Item, &mut [u8])| -> Result<Result<(), Fault>, Fault> {
        let row = item.row;
        let pixels = match shape_item(item, geometry)? {
            Ok(pixels) => pixels,
            Err(fault) => return Ok(Err(fault)),
        };
        if pixels.spec != spec {
            let hint = if pixels.spec.channels == spec.channels { "size and fit" } else { "channels = 1 or 3" };
            let expected =
                format!("{spec} (channels x rows x columns) like the first image; set {hint} to convert all");
            return Ok(Err(Fault { row, expected, found: pixels.spec.to_string() }));
        }
        image.copy_from_slice(&pixels.data);
        Ok(Ok(()))
    };
    let shaped: Vec<_> = items.into_par_iter().zip(images.par_chunks_mut(spec.bytes())).map(shape).collect();
    let mut all = true;
    // In order, so that the error names the first faulty row.
    for result in shaped {
        match result {
            Ok(shaped) => shaped.map_err(|fault| fault.at(source))?,
            Err(fault) => {
                unreadable.add(fault);
                all = false;
            }
        }
    }
    if !all {
        return Ok(Batch::default());
    }
    let labels = rows.iter().map(|&row| ClassId(source.labels()[row])).collect();
    let ids = rows.iter().map(|&row| row as u64).collect();
    Ok(Batch { labels, images, ids, ..Batch::default() })
}

/// The splits of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportedSet {
    /// Folder of the training split.
    pub train: PathBuf,
    /// Folder of the validation split.
    pub val: PathBuf,
    /// Folder of the split for screening, with a `screen_fraction`.
    pub screen: Option<PathBuf>,
    /// Folder of the test split.
    pub test: PathBuf,
    /// Whether all of them existed already.
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
    for &split in import.splits() {
        cached &= execute(&import.with_split(split), &Inputs::new(), &at(split), cx)?.cached;
    }
    let screen = import.splits().contains(&Split::Screen).then(|| at(Split::Screen));
    Ok(ImportedSet { train: at(Split::Train), val: at(Split::Val), screen, test: at(Split::Test), cached })
}

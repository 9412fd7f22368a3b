//! Stage `import`: real images in, a dataset out.
//!
//! One run makes one split. All three are carved out of the same rows by the same seed, each run doing the same carving and
//! keeping its own part, so they are disjoint however and whenever they are made. The column `index` of the dataset is
//! the row's number in the source.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gafi_core::{
    ArtifactWriter, Batch, ClassId, Context, DatasetInfo, DatasetWriter, Error, ImageSpec, Inputs, Kind, Port, Result,
    Split, Stage, execute,
};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::config::ImportConfig;
use crate::decode::decode;
use crate::geometry::Geometry;
use crate::locate::Located;
use crate::named::{NamedSet, Places};
use crate::plan::{Origin, Plan, Survey, survey};
use crate::source::{Item, Pixels, Place, Source};

/// Images decoded together, at most: enough for all cores, little enough to hold.
const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 32 << 20;

/// The stage `import`: a configuration whose source has been found and hashed, and the split to make of it.
#[derive(Debug, Clone)]
pub struct Import {
    config: ImportConfig,
    split: Split,
    origin: Arc<Origin>,
    digest: String,
}

impl Import {
    /// Finds the source (which may download it) and hashes it.
    ///
    /// # Errors
    /// [`Error::Config`] on a value out of range; [`Error::Other`] around [`crate::NotFound`] when a named set is nowhere;
    /// [`Error::Io`] and [`Error::Format`] when files can't be read or aren't what they should be.
    pub fn new(config: &ImportConfig, split: Split, cx: &Context) -> Result<Self> {
        Self::from_places(config, split, &Places::standard(config.offline), cx)
    }

    fn from_places(config: &ImportConfig, split: Split, places: &Places, cx: &Context) -> Result<Self> {
        config.validate()?;
        if split == Split::Synthetic {
            return Err(Error::config("split", split, "train, val or test: what is imported is real"));
        }
        let origin = match (&config.path, config.set) {
            (Some(path), _) => Origin::Files(Located::at(path, config.format)?),
            (None, None | Some(NamedSet::Shapes)) => Origin::Shapes,
            (None, Some(set)) => Origin::Files(places.find(set, cx)?),
        };
        let digest = match &origin {
            Origin::Shapes => "built in".into(),
            Origin::Files(located) => format!("blake3:{}", located.digest()?),
        };
        Ok(Self { config: config.clone(), split, origin: Arc::new(origin), digest })
    }

    /// The same, making another split.
    pub fn with_split(&self, split: Split) -> Self {
        Self { split, ..self.clone() }
    }

    /// What there is to import, whatever the configuration holds out or keeps of it.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] when files can't be read or aren't what they should be.
    pub fn survey(&self) -> Result<Survey> {
        survey(&self.config, &self.origin)
    }

    /// Rows of each class that `split` would have under `config`, which may hold out and keep other rows of the same source.
    ///
    /// # Errors
    /// As of a run under that configuration.
    pub fn counts(&self, config: &ImportConfig, split: Split) -> Result<Vec<u64>> {
        let plan = Plan::of(config, &self.origin, split)?;
        Ok(plan.counts())
    }

    /// The dataset that would be made, as far as it is known before: shape, classes, rows of each class; no shards.
    ///
    /// # Errors
    /// As of a run, apart from what only reading all images tells.
    pub fn preview(&self) -> Result<DatasetInfo> {
        let plan = Plan::of(&self.config, &self.origin, self.split)?;
        let spec = first_shape(&*plan.source, &plan.rows, &self.config.geometry())?;
        let counts = plan.counts();
        Ok(DatasetInfo { counts, ..DatasetInfo::new(spec, plan.classes, self.split) })
    }
}

impl Stage for Import {
    fn name(&self) -> &'static str {
        "import"
    }

    fn revision(&self) -> u32 {
        1
    }

    fn ports(&self) -> &'static [Port] {
        &[]
    }

    fn output(&self) -> Kind {
        Kind::Dataset
    }

    /// The configuration that was asked for, with the content of the source in place of where it lies.
    fn config(&self) -> Value {
        let c = &self.config;
        let mut config = json!({
            "split": self.split, "set": c.set, "size": c.size, "fit": c.fit, "channels": c.channels,
            "val_fraction": c.val_fraction, "val_per_class": c.val_per_class, "test_fraction": c.test_fraction,
            "per_class": c.per_class, "limit": c.limit, "test_limit": c.test_limit, "seed": c.seed, "source": self.digest,
        });
        match &*self.origin {
            Origin::Shapes => config["shapes"] = json!(c.shapes),
            Origin::Files(located) => {
                config["format"] = json!(located.format);
                config["image_column"] = json!(c.image_column);
                config["label_column"] = json!(c.label_column);
            }
        }
        config
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        self.config.validate()
    }

    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let Plan { source, classes, rows } = Plan::of(&self.config, &self.origin, self.split)?;
        let geometry = self.config.geometry();
        let spec = first_shape(&*source, &rows, &geometry)?;
        let (mut writer, position) = DatasetWriter::begin(out, DatasetInfo::new(spec, classes, self.split))?;
        let mut done = match position {
            Some(value) => serde_json::from_value(value).map_err(Error::other("reading where the import stood"))?,
            None => 0usize,
        };
        let mut task = cx.progress.begin(&format!("import {}", self.split), Some(rows.len() as u64));
        task.advance(done as u64);
        let rows = &rows[done.min(rows.len())..];

        let mut pending: Vec<Item> = Vec::new();
        let mut weight = 0;
        let mut unreadable = Unreadable::default();
        let mut flush = |pending: &mut Vec<Item>| -> Result<()> {
            cx.checkpoint()?;
            task.advance(pending.len() as u64);
            let batch = decode_batch(std::mem::take(pending), &*source, &geometry, spec, &mut unreadable)?;
            // After the first that cannot be read only further ones are looked for, so that all of them are told at once.
            if unreadable.first.is_none() {
                done += batch.len();
                writer.push(&batch, json!(done))?;
            }
            Ok(())
        };
        let mut scan = || -> Result<()> {
            source.scan(rows, &mut |item| {
                weight += item.picture.weight();
                pending.push(item);
                if pending.len() < BATCH_ROWS && weight < BATCH_BYTES {
                    return Ok(());
                }
                weight = 0;
                flush(&mut pending)
            })?;
            if pending.is_empty() { Ok(()) } else { flush(&mut pending) }
        };
        match scan() {
            Err(stopped @ Error::Interrupted) => return Err(stopped),
            // What came first is told first.
            scanned => unreadable.told(&*source).and(scanned)?,
        }
        writer.finish()?;
        Ok(())
    }
}

/// The shape of the first image that can be read, which is that of all. A few that cannot are passed over: all are told at the end.
fn first_shape(source: &dyn Source, rows: &[usize], geometry: &Geometry) -> Result<ImageSpec> {
    let (mut found, mut unreadable) = (None, Vec::new());
    let scanned = source.scan(rows, &mut |item| {
        match decode_item(item) {
            Ok((row, pixels)) => found = Some(fit(row, pixels, geometry)),
            Err(fault) if unreadable.len() < NAMED => {
                unreadable.push(fault);
                return Ok(());
            }
            Err(_) => {}
        }
        // Enough seen; not an error of anyone's.
        Err(Error::Interrupted)
    });
    match (found, unreadable.into_iter().next()) {
        (Some(shaped), _) => Ok(shaped.map_err(|fault| fault.at(source))?.spec),
        (None, Some(fault)) => Err(fault.at(source)),
        (None, None) => {
            scanned?;
            Err(source.place(0).error("at least one row", "none"))
        }
    }
}

/// What is wrong with a row.
struct Fault {
    row: usize,
    expected: String,
    found: String,
}

impl Fault {
    fn at(self, source: &dyn Source) -> Error {
        source.place(self.row).error(self.expected, self.found)
    }
}

/// Further unreadable rows that are named beside the first.
const NAMED: usize = 10;

/// All rows of an import that cannot be read.
#[derive(Default)]
struct Unreadable {
    first: Option<Fault>,
    /// The next ones, as many as are named.
    more: Vec<usize>,
    /// All but the first.
    others: usize,
}

impl Unreadable {
    fn add(&mut self, fault: Fault) {
        if self.first.is_none() {
            self.first = Some(fault);
            return;
        }
        self.others += 1;
        if self.more.len() < NAMED {
            self.more.push(fault.row);
        }
    }

    /// The first one in full, the others by their places; an error if there is any.
    fn told(self, source: &dyn Source) -> Result<()> {
        let Some(mut first) = self.first else { return Ok(()) };
        if self.others > 0 {
            let file = source.place(first.row).path;
            let name = |&row: &usize| {
                let Place { path, at } = source.place(row);
                if path == file { at } else { format!("{} ({at})", path.display()) }
            };
            let names: Vec<String> = self.more.iter().map(name).collect();
            let unnamed = if self.others > names.len() { ", ..." } else { "" };
            first.found += &format!("; {} more cannot be read: {}{unnamed}", self.others, names.join(", "));
        }
        Err(first.at(source))
    }
}

fn decode_item(item: Item) -> Result<(usize, Pixels), Fault> {
    let row = item.row;
    let pixels = decode(item.picture).map_err(|found| Fault { row, expected: "a PNG or JPEG image".into(), found })?;
    Ok((row, pixels))
}

fn fit(row: usize, pixels: Pixels, geometry: &Geometry) -> Result<Pixels, Fault> {
    geometry.apply(pixels).map_err(|m| Fault { row, expected: m.expected, found: m.found })
}

/// The images of a batch that can be read; the others are added to `unreadable`.
fn decode_batch(
    items: Vec<Item>,
    source: &dyn Source,
    geometry: &Geometry,
    spec: ImageSpec,
    unreadable: &mut Unreadable,
) -> Result<Batch> {
    let shape = |item| decode_item(item).map(|(row, pixels)| (row, fit(row, pixels, geometry)));
    let shaped: Vec<_> = items.into_par_iter().map(shape).collect();
    let mut batch = Batch::default();
    // In order, so that the first faulty row is the one named.
    for result in shaped {
        let (row, pixels) = match result {
            Ok(shaped) => shaped,
            Err(fault) => {
                unreadable.add(fault);
                continue;
            }
        };
        let pixels = pixels.map_err(|fault| fault.at(source))?;
        if pixels.spec != spec {
            let hint = match (pixels.spec.channels == spec.channels, geometry.size) {
                (false, _) => "channels = 1 or 3 makes them alike",
                (true, _) => "size and fit make them alike",
            };
            let expected = format!("{spec} (channels x rows x columns) as the first image; {hint}");
            return Err(source.place(row).error(expected, pixels.spec.to_string()));
        }
        batch.labels.push(ClassId(source.labels()[row]));
        batch.images.extend_from_slice(&pixels.data);
        batch.ids.push(row as u64);
    }
    Ok(batch)
}

/// The three splits of a set, on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedSet {
    /// Folder of the training split.
    pub train: PathBuf,
    /// Folder of the validation split.
    pub val: PathBuf,
    /// Folder of the test split.
    pub test: PathBuf,
    /// Whether all three were there already.
    pub cached: bool,
}

/// Makes `dir/train`, `dir/val` and `dir/test` of one configuration, or finds them there.
///
/// # Errors
/// What [`Import::new`] and [`execute`] say.
pub fn import_all(config: &ImportConfig, dir: &Path, cx: &Context) -> Result<ImportedSet> {
    import_from(&Import::new(config, Split::Train, cx)?, dir, cx)
}

fn import_from(import: &Import, dir: &Path, cx: &Context) -> Result<ImportedSet> {
    let mut set = ImportedSet { train: dir.join("train"), val: dir.join("val"), test: dir.join("test"), cached: true };
    for (split, dest) in [(Split::Train, &set.train), (Split::Val, &set.val), (Split::Test, &set.test)] {
        set.cached &= execute(&import.with_split(split), &Inputs::new(), dest, cx)?.cached;
    }
    Ok(set)
}

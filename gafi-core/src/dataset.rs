//! Datasets: labelled 8-bit images in shards, written and read as streams.
//!
//! Training wants rows in random order, so a reader fetches single rows by their place in the file; nothing but the
//! labels is held in memory, however large the set.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::{Artifact, ArtifactWriter};
use crate::error::{Error, Result};
use crate::manifest::Kind;
use crate::shard::{SHARD_ROWS, ShardFile, encode};
use crate::source::Batch;
use crate::spec::{ClassId, ImageSpec, Split};
use crate::stream::{Stream, permutation};

/// What a dataset says of itself in its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetInfo {
    /// Shape of the images.
    pub image: ImageSpec,
    /// Names of the classes; a label is an index into them.
    pub classes: Vec<String>,
    /// The part it plays.
    pub split: Split,
    /// Rows of each class.
    pub counts: Vec<u64>,
    /// The shards in order.
    pub shards: Vec<ShardInfo>,
}

/// One shard of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardInfo {
    /// File name.
    pub file: String,
    /// Rows in it.
    pub rows: usize,
}

impl DatasetInfo {
    /// An empty dataset.
    pub fn new(image: ImageSpec, classes: Vec<String>, split: Split) -> Self {
        let counts = vec![0; classes.len()];
        Self { image, classes, split, counts, shards: Vec::new() }
    }

    /// Reads only the manifest of the dataset `artifact`.
    pub fn of(artifact: &Artifact) -> Result<Self> {
        if artifact.kind() != Kind::Dataset {
            return Err(Error::format(artifact.path(), "kind", "dataset", artifact.kind().to_string()));
        }
        artifact.content()
    }

    /// Rows of all classes.
    pub fn rows(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Random access to labelled images: what training and evaluation read.
pub trait Rows: Send + Sync {
    /// Shape, classes, split, counts.
    fn info(&self) -> &DatasetInfo;

    /// Number of rows.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Class of a row below [`Rows::len`].
    fn label(&self, row: usize) -> ClassId;

    /// Copies the pixels of `rows` into `images`, (rows, c, h, w).
    ///
    /// # Errors
    /// When a file cannot be read.
    ///
    /// # Panics
    /// If a row is not there, or `images` is not of the right size.
    fn read(&self, rows: &[usize], images: &mut [u8]) -> Result<()>;
}

/// A dataset on disk.
#[derive(Debug)]
pub struct Dataset {
    info: DatasetInfo,
    shards: Vec<ShardFile>,
    // First row of each shard, and the end.
    starts: Vec<usize>,
    labels: Vec<ClassId>,
}

impl Dataset {
    /// Opens a dataset artifact: reads headers and labels, and checks them against the manifest.
    ///
    /// # Errors
    /// [`Error::Format`] naming file, place, what was expected and what was found.
    pub fn open(artifact: &Artifact) -> Result<Self> {
        let info = DatasetInfo::of(artifact)?;
        let (mut shards, mut starts, mut labels) = (Vec::new(), vec![0], Vec::new());
        for shard in &info.shards {
            let path = artifact.path().join(&shard.file);
            if !artifact.manifest().files.contains_key(&shard.file) {
                return Err(Error::format(artifact.path(), "manifest", format!("a file {:?}", shard.file), "none"));
            }
            let file = ShardFile::open(&path, info.image, info.classes.len(), shard.rows)?;
            labels.extend(file.labels()?);
            starts.push(labels.len());
            shards.push(file);
        }
        let mut counts = vec![0; info.classes.len()];
        for label in &labels {
            counts[label.index()] += 1;
        }
        if counts != info.counts {
            let (expected, found) = (format!("{:?}, as the manifest says", info.counts), format!("{counts:?}"));
            return Err(Error::format(artifact.path(), "rows per class", expected, found));
        }
        Ok(Self { info, shards, starts, labels })
    }

    /// Reads shard after shard, each with all its columns.
    pub fn shards(&self) -> impl Iterator<Item = Result<Batch>> + '_ {
        self.shards.iter().zip(&self.starts).map(|(shard, &start)| {
            let mut batch = shard.read()?;
            if batch.ids.is_empty() {
                // A set of another program need not number its rows; their position then names them.
                batch.ids = (start as u64..).take(batch.len()).collect();
            }
            Ok(batch)
        })
    }

    /// The class of each row.
    pub fn labels(&self) -> &[ClassId] {
        &self.labels
    }
}

impl Rows for Dataset {
    fn info(&self) -> &DatasetInfo {
        &self.info
    }
    fn len(&self) -> usize {
        self.labels.len()
    }
    fn label(&self, row: usize) -> ClassId {
        self.labels[row]
    }
    fn read(&self, rows: &[usize], images: &mut [u8]) -> Result<()> {
        let bytes = self.info.image.bytes();
        assert_eq!(images.len(), rows.len() * bytes, "buffer does not fit the rows");
        for (&row, out) in rows.iter().zip(images.chunks_exact_mut(bytes)) {
            let shard = self.starts.partition_point(|&s| s <= row) - 1;
            self.shards[shard].image(row - self.starts[shard], out)?;
        }
        Ok(())
    }
}

/// A dataset in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryDataset {
    info: DatasetInfo,
    images: Vec<u8>,
    labels: Vec<ClassId>,
}

impl MemoryDataset {
    /// An empty set.
    pub fn new(image: ImageSpec, classes: Vec<String>, split: Split) -> Self {
        Self { info: DatasetInfo::new(image, classes, split), images: Vec::new(), labels: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If the image is not of the set's shape or the label not one of its classes.
    pub fn push(&mut self, image: &[u8], label: ClassId) {
        assert_eq!(image.len(), self.info.image.bytes(), "image does not fit the set");
        self.info.counts[label.index()] += 1;
        self.images.extend_from_slice(image);
        self.labels.push(label);
    }

    /// Replaces the image of a row by another of the same class.
    ///
    /// # Panics
    /// If the row is not there or the image not of the set's shape.
    pub fn replace(&mut self, row: usize, image: &[u8]) {
        let bytes = self.info.image.bytes();
        self.images[row * bytes..(row + 1) * bytes].copy_from_slice(image);
    }

    /// All pixels, (n, c, h, w).
    pub fn images(&self) -> &[u8] {
        &self.images
    }

    /// The class of each row.
    pub fn labels(&self) -> &[ClassId] {
        &self.labels
    }
}

impl Rows for MemoryDataset {
    fn info(&self) -> &DatasetInfo {
        &self.info
    }
    fn len(&self) -> usize {
        self.labels.len()
    }
    fn label(&self, row: usize) -> ClassId {
        self.labels[row]
    }
    fn read(&self, rows: &[usize], images: &mut [u8]) -> Result<()> {
        let bytes = self.info.image.bytes();
        assert_eq!(images.len(), rows.len() * bytes, "buffer does not fit the rows");
        for (&row, out) in rows.iter().zip(images.chunks_exact_mut(bytes)) {
            out.copy_from_slice(&self.images[row * bytes..(row + 1) * bytes]);
        }
        Ok(())
    }
}

/// Some rows of another set.
pub struct Subset {
    rows: Arc<dyn Rows>,
    chosen: Vec<usize>,
    info: DatasetInfo,
}

impl Subset {
    /// `per_class` rows of each class, drawn without replacement from the numbers of `stream`, in the order of the set.
    ///
    /// # Errors
    /// [`Error::Config`] when a class has fewer.
    pub fn per_class(rows: Arc<dyn Rows>, per_class: usize, stream: &Stream) -> Result<Self> {
        let mut members = vec![Vec::new(); rows.info().classes.len()];
        for row in 0..rows.len() {
            members[rows.label(row).index()].push(row);
        }
        let mut chosen = Vec::with_capacity(per_class * members.len());
        for (class, members) in members.iter().enumerate() {
            if members.len() < per_class {
                let expected = format!("at most the {} rows of class {class}", members.len());
                return Err(Error::config("per_class", per_class, expected));
            }
            let order = permutation(members.len(), &stream.at(class as u64));
            chosen.extend(order[..per_class].iter().map(|&i| members[i]));
        }
        chosen.sort_unstable();
        let mut info = rows.info().clone();
        info.counts = vec![per_class as u64; info.classes.len()];
        info.shards.clear();
        Ok(Self { rows, chosen, info })
    }
}

impl Rows for Subset {
    fn info(&self) -> &DatasetInfo {
        &self.info
    }
    fn len(&self) -> usize {
        self.chosen.len()
    }
    fn label(&self, row: usize) -> ClassId {
        self.rows.label(self.chosen[row])
    }
    fn read(&self, rows: &[usize], images: &mut [u8]) -> Result<()> {
        let rows: Vec<usize> = rows.iter().map(|&r| self.chosen[r]).collect();
        self.rows.read(&rows, images)
    }
}

/// Writes a dataset shard by shard; resumable at shard boundaries.
#[derive(Debug)]
pub struct DatasetWriter<'a> {
    out: &'a mut ArtifactWriter,
    info: DatasetInfo,
    pending: Batch,
    // Where the producer stood after the last pushed batch.
    position: Value,
}

const RESUME: &str = "dataset.json";

#[derive(Serialize, Deserialize)]
struct Resume {
    info: DatasetInfo,
    position: Value,
}

impl<'a> DatasetWriter<'a> {
    /// Begins a dataset, or goes on with one that an earlier process began. The second value says from where: the
    /// position that was pushed with the last batch of the last whole shard.
    pub fn begin(out: &'a mut ArtifactWriter, info: DatasetInfo) -> Result<(Self, Option<Value>)> {
        let mut writer = Self { out, info, pending: Batch::default(), position: Value::Null };
        let Some(state) = writer.out.load_state(RESUME)? else { return Ok((writer, None)) };
        let resume: Resume = serde_json::from_slice(&state).map_err(Error::other("reading where the dataset stood"))?;
        for shard in &resume.info.shards {
            writer.out.add(&shard.file)?;
        }
        writer.info = resume.info;
        Ok((writer, Some(resume.position)))
    }

    /// Adds a batch of at most [`SHARD_ROWS`] rows. `position` is where the producer stands after it; what
    /// [`DatasetWriter::begin`] gives back after an interruption. Every batch of one dataset has the same columns.
    ///
    /// # Errors
    /// [`Error::Format`] when a label is no class or a column has not one entry a row.
    pub fn push(&mut self, batch: &Batch, position: Value) -> Result<()> {
        self.check(batch)?;
        if self.pending.len() + batch.len() > SHARD_ROWS {
            self.flush()?;
        }
        for label in &batch.labels {
            self.info.counts[label.index()] += 1;
        }
        let append = |to: &mut Option<Vec<f32>>, from: &Option<Vec<f32>>| {
            if let Some(from) = from {
                to.get_or_insert_default().extend_from_slice(from);
            }
        };
        self.pending.labels.extend_from_slice(&batch.labels);
        self.pending.images.extend_from_slice(&batch.images);
        self.pending.ids.extend_from_slice(&batch.ids);
        append(&mut self.pending.confidence, &batch.confidence);
        append(&mut self.pending.probabilities, &batch.probabilities);
        self.position = position;
        Ok(())
    }

    /// Rows pushed so far, those of an earlier process included.
    pub fn rows(&self) -> u64 {
        self.info.rows()
    }

    /// Rows of each class pushed so far.
    pub fn counts(&self) -> &[u64] {
        &self.info.counts
    }

    /// Writes the last shard and the manifest's content.
    ///
    /// # Errors
    /// [`Error::Format`] when a class is empty: nothing can be learnt of it, and nothing measured.
    pub fn finish(mut self) -> Result<DatasetInfo> {
        if let Some(class) = self.info.counts.iter().position(|&n| n == 0) {
            let place = format!("class {class} ({})", self.info.classes[class]);
            return Err(Error::format(self.out.dir(), place, "at least one row", "none"));
        }
        self.flush()?;
        self.out.set_content(&self.info)?;
        Ok(self.info)
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        let (n, classes) = (batch.len(), self.info.classes.len());
        let bad = |place: &str, expected: String, found: String| {
            Err(Error::format(self.out.dir(), format!("batch after row {}: {place}", self.rows()), expected, found))
        };
        if let Some(label) = batch.labels.iter().find(|l| l.index() >= classes) {
            return bad("labels", format!("a class below {classes}"), label.to_string());
        }
        let floats = |v: &Option<Vec<f32>>, per: usize| v.as_ref().map_or(n * per, Vec::len);
        for (name, found, expected) in [
            ("rows", n.min(SHARD_ROWS), n),
            ("images", batch.images.len(), n * self.info.image.bytes()),
            ("index", if batch.ids.is_empty() { n } else { batch.ids.len() }, n),
            ("confidence", floats(&batch.confidence, 1), n),
            ("probabilities", floats(&batch.probabilities, classes), n * classes),
        ] {
            if found != expected {
                return bad(name, format!("{expected} values for {n} rows"), found.to_string());
            }
        }
        let same = |a: bool, b: bool| self.pending.is_empty() || a == b;
        let p = &self.pending;
        if !(same(p.ids.is_empty(), batch.ids.is_empty())
            && same(p.confidence.is_some(), batch.confidence.is_some())
            && same(p.probabilities.is_some(), batch.probabilities.is_some()))
        {
            return bad("columns", "the columns of the batches before".into(), "others".into());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let file = format!("shard-{:05}.safetensors", self.info.shards.len());
        let pending = std::mem::take(&mut self.pending);
        let bytes = encode(&pending, &self.info.image, self.info.classes.len())?;
        self.out.write(&file, &bytes)?;
        self.info.shards.push(ShardInfo { file, rows: pending.len() });
        let resume = Resume { info: self.info.clone(), position: self.position.clone() };
        self.out
            .save_state(RESUME, &serde_json::to_vec(&resume).map_err(Error::other("noting where the dataset stands"))?)
    }
}

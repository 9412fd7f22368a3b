//! `Dataset`: labelled 8-bit images in shards on disk.
//!
//! Training reads rows in random order, so single rows are read by their offset in the file. Only labels are held in
//! memory, however large the set.

use std::ops::Range;
use std::path::Path;

use crate::artifact::Artifact;
use crate::control::RunControl;
use crate::dataset_info::DatasetInfo;
use crate::error::{Error, Result};
use crate::files::is_plain_name;
use crate::manifest::{Kind, MANIFEST_FILE};
use crate::rows::Rows;
use crate::shard::ShardFile;
use crate::source::Batch;
use crate::spec::ClassId;

// Shards whose files stay open. Further ones are opened for each read, since a process may have 1,024 open files.
const OPEN_SHARDS: usize = 128;

// Maximum number of bytes in a batch of several rows: a shard of 8,192 large images takes gigabytes.
const BATCH_BYTES: usize = 64 << 20;

impl DatasetInfo {
    /// Reads only the manifest of the dataset `artifact`.
    ///
    /// # Errors
    /// [`Error::Format`] when it is not a dataset, or its description is inconsistent.
    pub fn of(artifact: &Artifact) -> Result<Self> {
        artifact.content_of(Kind::Dataset, Self::check)
    }
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
    /// Opens a dataset artifact, and checks headers and labels against the manifest.
    ///
    /// # Errors
    /// [`Error::Format`] naming file, place, what was expected and what was found.
    pub fn open(artifact: &Artifact) -> Result<Self> {
        let info = DatasetInfo::of(artifact)?;
        if let Some(shard) = info.shards.iter().find(|s| !artifact.manifest().files.contains_key(&s.file)) {
            let manifest = artifact.path().join(MANIFEST_FILE);
            return Err(Error::format(manifest, "files", format!("an entry {:?}", shard.file), "none"));
        }
        Self::open_in(artifact.path(), info)
    }

    fn open_in(dir: &Path, info: DatasetInfo) -> Result<Self> {
        let mut shards = Vec::<ShardFile>::new();
        let mut starts = vec![0];
        let mut labels = Vec::new();
        for shard in &info.shards {
            let path = dir.join(&shard.file);
            let keep = shards.len() < OPEN_SHARDS;
            let file = ShardFile::open(&path, info.image, info.classes.len(), shard.rows, keep)?;
            if let Some(first) = shards.first().map(ShardFile::columns)
                && first != file.columns()
            {
                let expected = format!("{first}, as in the first shard");
                return Err(Error::format(path, "columns", expected, file.columns().to_string()));
            }
            labels.extend(file.labels()?);
            starts.push(labels.len());
            shards.push(file);
        }
        let mut counts = vec![0; info.classes.len()];
        for label in &labels {
            counts[label.index()] += 1;
        }
        if counts != info.counts {
            let expected = format!("{:?}, according to the manifest", info.counts);
            return Err(Error::format(dir.join(MANIFEST_FILE), "rows per class", expected, format!("{counts:?}")));
        }
        Ok(Self { info, shards, starts, labels })
    }

    /// Reads all rows in order, with all columns. A batch holds rows of one shard, and at most 64 MiB or one row.
    pub fn batches(&self) -> impl Iterator<Item = Result<Batch>> + '_ {
        self.chunks().map(|(shard, rows)| {
            let mut batch = self.shards[shard].read(&rows, true)?;
            if batch.ids.is_empty() {
                // Shards written by another program may lack ids; the rows' positions replace them.
                batch.ids = ((self.starts[shard] + rows.start) as u64..).take(batch.len()).collect();
            }
            Ok(batch)
        })
    }

    /// Checks every label and probability. Every pixel value is valid.
    ///
    /// # Errors
    /// [`Error::Format`] naming file, place, what was expected and what was found; [`Error::Interrupted`].
    pub fn check_rows(&self, control: &RunControl) -> Result<()> {
        self.chunks().try_for_each(|(shard, rows)| {
            control.checkpoint()?;
            self.shards[shard].read(&rows, false).map(drop)
        })
    }

    /// Ranges of rows of at most [`BATCH_BYTES`], each with the number of its shard.
    fn chunks(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        self.shards.iter().enumerate().flat_map(|(number, shard)| {
            let rows = (BATCH_BYTES / shard.row_bytes().max(1)).max(1);
            let starts = (0..shard.rows).step_by(rows);
            starts.map(move |start| (number, start..shard.rows.min(start + rows)))
        })
    }

    /// The ids of `rows`; their positions if the set has no ids.
    ///
    /// # Errors
    /// [`Error::Io`].
    ///
    /// # Panics
    /// If a row is out of range.
    pub fn ids(&self, rows: &[usize]) -> Result<Vec<u64>> {
        rows.iter()
            .map(|&row| {
                let shard = self.shard_of(row);
                Ok(self.shards[shard].id(row - self.starts[shard])?.unwrap_or(row as u64))
            })
            .collect()
    }

    fn shard_of(&self, row: usize) -> usize {
        self.starts.partition_point(|&start| start <= row) - 1
    }

    /// The class of each row.
    pub fn labels(&self) -> &[ClassId] {
        &self.labels
    }
}

impl Artifact {
    /// [`Artifact::verify`] and, for a dataset, [`Dataset::check_rows`].
    ///
    /// # Errors
    /// [`Error::Format`] naming file, place, what was expected and what was found; [`Error::Interrupted`].
    pub fn verify_rows(&self, control: &RunControl) -> Result<()> {
        self.verify()?;
        if self.kind() == Kind::Dataset { Dataset::open(self)?.check_rows(control) } else { Ok(()) }
    }
}

/// Checks the files that another program wrote into folder `dir` against its description, before they become an artifact:
/// every header, label and probability.
///
/// # Errors
/// [`Error::Format`] naming file, place, what was expected and what was found.
pub fn check_dataset(dir: &Path, info: &DatasetInfo) -> Result<()> {
    info.check(dir)?;
    if let Some(shard) = info.shards.iter().find(|s| !is_plain_name(&s.file)) {
        return Err(Error::format(dir, "content.shards", "plain file names without a path", shard.file.clone()));
    }
    Dataset::open_in(dir, info.clone())?.check_rows(&RunControl::default())
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
            let shard = self.shard_of(row);
            self.shards[shard].image(row - self.starts[shard], out)?;
        }
        Ok(())
    }
    fn probabilities(&self, rows: &[usize]) -> Result<Option<Vec<f32>>> {
        if !self.shards.first().is_some_and(ShardFile::has_probabilities) {
            return Ok(None);
        }
        let mut all = Vec::with_capacity(rows.len() * self.info.classes.len());
        for &row in rows {
            let shard = self.shard_of(row);
            let Some(of_row) = self.shards[shard].probabilities(row - self.starts[shard])? else { return Ok(None) };
            all.extend(of_row);
        }
        Ok(Some(all))
    }
}

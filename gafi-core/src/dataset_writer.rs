//! `DatasetWriter`: writes a dataset shard by shard.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dataset_info::{DatasetInfo, ShardInfo, check_classes, check_image};
use crate::error::{Error, Result};
use crate::shard::{Columns, encode_head, not_a_probability};
use crate::source::Batch;
use crate::spec::{SHARD_BYTES, SHARD_ROWS};
use crate::writer::ArtifactWriter;

/// Writes a dataset shard by shard; resumable at shard boundaries.
#[derive(Debug)]
pub struct DatasetWriter<'a> {
    out: &'a mut ArtifactWriter,
    info: DatasetInfo,
    pending: Batch,
    // Resume state of the producer after the last pushed batch.
    position: Value,
    columns: Option<Columns>,
}

const RESUME: &str = "dataset.json";

#[derive(Serialize, Deserialize)]
struct Resume {
    info: DatasetInfo,
    position: Value,
    columns: Option<Columns>,
}

impl<'a> DatasetWriter<'a> {
    /// Starts a dataset with the image shape, classes and split of `info`, or resumes one that an earlier process started. The
    /// second value is then the position pushed with the last batch of the last complete shard.
    ///
    /// # Errors
    /// [`Error::Format`] without pixels or classes, or when class names are empty or repeated.
    pub fn begin(out: &'a mut ArtifactWriter, info: DatasetInfo) -> Result<(Self, Option<Value>)> {
        // `info` may be a copy of another set's description, with its counts and shards.
        let info = DatasetInfo::new(info.image, info.classes, info.split);
        check_image(out.dir(), &info.image)?;
        check_classes(out.dir(), &info.classes)?;
        let mut writer = Self { out, info, pending: Batch::default(), position: Value::Null, columns: None };
        let Some(state) = writer.out.load_state(RESUME)? else { return Ok((writer, None)) };
        let resume: Resume =
            serde_json::from_slice(&state).map_err(Error::other("reading the resume state of a dataset"))?;
        for shard in &resume.info.shards {
            writer.out.add(&shard.file)?;
        }
        (writer.info, writer.columns) = (resume.info, resume.columns);
        Ok((writer, Some(resume.position)))
    }

    /// Appends a batch of at most [`SHARD_ROWS`] rows. `position` is the resume state of the producer after it, which
    /// [`DatasetWriter::begin`] returns after an interruption. All batches of a dataset have the same columns. A batch is never
    /// split between shards, so the same rows in different batches may give different shards. A shard is written, and its
    /// memory freed, when the next batch would exceed [`SHARD_ROWS`] or [`SHARD_BYTES`].
    ///
    /// # Errors
    /// [`Error::Format`] when a label is out of range, a column lacks entries, or a value is not a probability.
    pub fn push(&mut self, batch: &Batch, position: Value) -> Result<()> {
        self.check(batch)?;
        if batch.is_empty() {
            self.position = position;
            return Ok(());
        }
        self.columns = Some(Columns::of(batch));
        let rows = self.pending.len() + batch.len();
        if rows > SHARD_ROWS || self.pending.images.len() + batch.images.len() > SHARD_BYTES {
            self.flush()?;
        }
        for label in &batch.labels {
            self.info.counts[label.index()] += 1;
        }
        let images = &mut self.pending.images;
        let needed = images.len() + batch.images.len();
        if needed > images.capacity() {
            // Twice as much as before, but not beyond a full shard.
            let capacity = (2 * images.capacity()).min(SHARD_BYTES).max(needed);
            images.reserve_exact(capacity - images.len());
        }
        self.pending.append(batch);
        self.position = position;
        Ok(())
    }

    /// Records what an import found and did, in the content of the manifest.
    pub fn describe_import(&mut self, report: Value) {
        self.info.import = Some(report);
    }

    /// Number of rows pushed so far, including those of an earlier process.
    pub fn rows(&self) -> u64 {
        self.info.rows()
    }

    /// Number of rows of each class pushed so far.
    pub fn counts(&self) -> &[u64] {
        &self.info.counts
    }

    /// Writes the last shard and the content of the manifest.
    ///
    /// # Errors
    /// [`Error::Format`] when a class is empty.
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
        let n = batch.len();
        let classes = self.info.classes.len();
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
        for (name, column, per) in
            [("confidence", &batch.confidence, 1), ("probabilities", &batch.probabilities, classes)]
        {
            if let Some((at, value)) = not_a_probability(column.as_deref().unwrap_or_default()) {
                return bad(
                    &format!("{name}, row {}", at / per),
                    "a probability from 0 to 1".into(),
                    value.to_string(),
                );
            }
        }
        match self.columns {
            Some(before) if n > 0 && before != Columns::of(batch) => {
                bad("columns", format!("{before}, as in the batches before"), Columns::of(batch).to_string())
            }
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let file = format!("shard-{:05}.safetensors", self.info.shards.len());
        let pending = std::mem::take(&mut self.pending);
        let head = encode_head(&pending, &self.info.image, self.info.classes.len())?;
        self.out.write_parts(&file, &[&head, &pending.images])?;
        self.info.shards.push(ShardInfo { file, rows: pending.len() });
        let resume = Resume { info: self.info.clone(), position: self.position.clone(), columns: self.columns };
        self.out.save_state(
            RESUME,
            &serde_json::to_vec(&resume).map_err(Error::other("writing the resume state of a dataset"))?,
        )
    }
}

//! `write_samples`: writes a source's samples to a dataset on disk, resumably.

use std::num::NonZeroUsize;

use serde_json::json;

use crate::cursor::Cursor;
use crate::dataset_info::DatasetInfo;
use crate::dataset_writer::DatasetWriter;
use crate::error::{Error, Result};
use crate::loaders::Context;
use crate::source::SampleSource;
use crate::spec::{ClassId, Split};
use crate::starved::pull_wanted;
use crate::writer::ArtifactWriter;

/// Writes `per_class` samples of each class of `source` as a dataset of split `synthetic`; classes take turns of `block` rows.
/// It holds at most one shard in memory and resumes after the last complete one. `name` labels the progress.
///
/// # Errors
/// [`Error::Exhausted`] when classes have too few samples; [`Error::Interrupted`]; errors of source and files.
pub fn write_samples(
    source: &mut dyn SampleSource,
    per_class: u64,
    block: NonZeroUsize,
    name: &str,
    out: &mut ArtifactWriter,
    cx: &Context,
) -> Result<()> {
    let info = DatasetInfo::new(*source.image(), source.classes().to_vec(), Split::Synthetic);
    let total = per_class.saturating_mul(info.classes.len() as u64);
    let (mut writer, resumed) = DatasetWriter::begin(out, info)?;
    if let Some(cursors) = resumed {
        let cursors: Vec<Cursor> =
            serde_json::from_value(cursors).map_err(Error::other(format!("reading the resume state of {name}")))?;
        source.seek_all(&cursors)?;
    }
    let mut task = cx.progress.begin(name, Some(total));
    task.advance(writer.rows());
    while let Some((class, missing)) = turn(writer.counts(), per_class, block) {
        cx.checkpoint()?;
        let batch = pull_wanted(source, class, missing, per_class)?;
        writer.push(&batch, json!(source.cursors()))?;
        task.advance(batch.len() as u64);
    }
    writer.finish().map(drop)
}

/// The class whose turn it is after `counts` rows, and the number of rows in that turn; `None` when all are full. It is
/// always the class with the fewest rows, so the order needs no state.
fn turn(counts: &[u64], per_class: u64, block: NonZeroUsize) -> Option<(ClassId, NonZeroUsize)> {
    let (class, &count) = counts.iter().enumerate().min_by_key(|&(class, &n)| (n, class))?;
    let missing = per_class.saturating_sub(count).min(block.get() as u64);
    Some((ClassId(class as u32), NonZeroUsize::new(missing as usize)?))
}

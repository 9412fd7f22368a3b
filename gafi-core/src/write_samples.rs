//! From a source to a dataset on disk: so many samples of each class, resumable.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::dataset_info::DatasetInfo;
use crate::dataset_writer::DatasetWriter;
use crate::error::{Error, Result};
use crate::loaders::Context;
use crate::source::{SampleSource, Tally};
use crate::spec::{ClassId, Split};
use crate::writer::ArtifactWriter;

/// Where the source stands after a whole shard.
#[derive(Serialize, Deserialize)]
struct Place {
    position: Vec<u64>,
    tally: Tally,
}

/// Writes `per_class` samples of each class of `source` as a dataset of split `synthetic`, classes in turns of `block` rows. No more
/// than a shard is in memory, and it goes on from the last whole shard. `name` is what progress is called.
///
/// # Errors
/// [`Error::Exhausted`] when a class has no more samples; [`Error::Interrupted`]; what source and files say.
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
    if let Some(place) = resumed {
        let place: Place =
            serde_json::from_value(place).map_err(Error::other(format!("reading where {name} stood")))?;
        source.seek(&place.position, &place.tally)?;
    }
    let mut task = cx.progress.begin(name, Some(total));
    task.advance(writer.rows());
    while let Some((class, missing)) = turn(writer.counts(), per_class, block) {
        cx.checkpoint()?;
        let batch = source.pull(class, missing)?.ok_or_else(|| {
            let tally = source.tally().classes[class.index()];
            let name = source.classes()[class.index()].clone();
            Error::Exhausted { class, name, wanted: per_class, drawn: tally.drawn, accepted: tally.accepted }
        })?;
        writer.push(&batch, json!(Place { position: source.position(), tally: source.tally() }))?;
        task.advance(batch.len() as u64);
    }
    writer.finish().map(|_| ())
}

/// The class whose turn it is after `counts` rows, and how many rows that turn has; `None` when all are full. It is always the one
/// with the fewest rows, so the order needs no memory of its own.
fn turn(counts: &[u64], per_class: u64, block: NonZeroUsize) -> Option<(ClassId, NonZeroUsize)> {
    let (class, &count) = counts.iter().enumerate().min_by_key(|&(class, &n)| (n, class))?;
    let missing = per_class.saturating_sub(count).min(block.get() as u64);
    Some((ClassId(class as u32), NonZeroUsize::new(missing as usize)?))
}

//! `Recycled`: a synthetic training set, renewed according to a plan.
//!
//! The set is in memory as 8-bit images. It is also saved in a file of the resume state, so that a resumed run need not
//! generate and score all samples again.

use std::num::NonZeroUsize;
use std::time::Instant;

use gafi_core::{
    ArtifactWriter, ClassId, Context, Cursor, EpochData, Error, INFERENCE_BATCH, MemoryDataset, Result, Rows,
    RunControl, SampleSource, Split, Tally, pull_wanted,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::plan::Plan;

/// A synthetic set that is renewed between epochs, for [`gafi_core::fit`]. Each generation takes the next samples of the source,
/// so a discarded sample never returns.
///
/// After an error it has to be restored before further use.
#[derive(Debug)]
pub struct Recycled<S> {
    source: S,
    plan: Plan,
    // The current generation and its images; no images while a renewal of all of them is due.
    generation: Option<u64>,
    pool: Option<MemoryDataset>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    generation: u64,
    cursors: Vec<Cursor>,
}

/// The state file with the images of `generation`, (rows, c, h, w).
fn pool_file(generation: u64) -> String {
    format!("pool-{generation}")
}

/// The state file with their soft labels, f32 (rows, classes), for sources that have them.
fn labels_file(generation: u64) -> String {
    format!("pool-{generation}-probabilities")
}

impl<S: SampleSource> Recycled<S> {
    /// Samples of `source`, renewed according to `plan`.
    ///
    /// # Errors
    /// [`Error::Config`] when the plan is for a different number of classes.
    pub fn new(source: S, plan: Plan) -> Result<Self> {
        if plan.classes() != source.classes().len() {
            return Err(Error::config(
                "plan.classes",
                plan.classes(),
                format!("{}, the source's", source.classes().len()),
            ));
        }
        Ok(Self { source, plan, generation: None, pool: None })
    }

    /// The current set; none before the first epoch.
    pub fn pool(&self) -> Option<&MemoryDataset> {
        self.pool.as_ref()
    }

    fn empty(&self) -> MemoryDataset {
        MemoryDataset::new(*self.source.image(), self.source.classes().to_vec(), Split::Synthetic)
    }

    /// Renews `pool` for `generation`, and returns the number of new images.
    fn renew(&mut self, pool: Option<MemoryDataset>, generation: u64, cx: &RunControl) -> Result<(MemoryDataset, u64)> {
        let anew = self.plan.replaces_all(generation);
        let mut pool = if anew { self.empty() } else { pool.unwrap_or_else(|| self.empty()) };
        let bytes = self.source.image().bytes();
        let per_class = self.plan.per_class();
        let mut renewed = 0;
        let mut task = cx.progress.begin("generate", Some(self.plan.replaced(generation).len() as u64));
        for class in ClassId::all(self.plan.classes()) {
            let slots = self.plan.slots(generation, class);
            let mut filled = 0;
            while let Some(missing) = NonZeroUsize::new((slots.len() - filled).min(INFERENCE_BATCH)) {
                cx.checkpoint()?;
                // Errors state the plan's total, not the size of this pull.
                let wanted = self.plan.drawn_by(generation);
                let batch = pull_wanted(&mut self.source, class, missing, wanted)?;
                if batch.len() > missing.get() || batch.images.len() != batch.len() * bytes {
                    let why =
                        format!("expected at most {missing} images of {bytes} bytes, found {} samples", batch.len());
                    return Err(Error::other(format!("pulling samples of {class}"))(why));
                }
                let classes = self.plan.classes();
                for (i, (image, slot)) in batch.images.chunks_exact(bytes).zip(&slots[filled..]).enumerate() {
                    let row = class.index() * per_class + slot;
                    if anew {
                        pool.push(image, class);
                    } else {
                        pool.replace(row, image);
                    }
                    if let Some(p) = batch.probabilities.as_ref().and_then(|p| p.chunks_exact(classes).nth(i)) {
                        pool.set_probabilities(row, p);
                    }
                }
                filled += batch.len();
                task.advance(batch.len() as u64);
            }
            renewed += filled as u64;
        }
        Ok((pool, renewed))
    }

    /// Brings the set to `epoch` and returns the number of new images; [`Recycled::pool`] is then the set. The epochs
    /// before it must have been visited in order. For training loops of your own: unlike [`EpochData::rows`] it keeps
    /// nothing on disk, so interrupted training starts over.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when a class has too few samples; [`Error::Other`] when an epoch was left out;
    /// [`Error::Interrupted`]; errors of the source.
    pub fn advance(&mut self, epoch: u32, control: &RunControl) -> Result<u64> {
        let missing = |expected: String| Error::other("renewing a synthetic set")(expected);
        let mut renewed = 0;
        if let Some(generation) = self.plan.begins(epoch) {
            let pool = self.pool.take();
            if pool.is_none() && !self.plan.replaces_all(generation) {
                let help = "visit the epochs in order, and restore the set after an error";
                return Err(missing(format!("expected the images before epoch {epoch}, found none; {help}")));
            }
            // A partial renewal must not be taken for a complete generation.
            self.generation = None;
            let (pool, new) = self.renew(pool, generation, control)?;
            renewed = new;
            self.pool = Some(pool);
            self.generation = Some(generation);
        }
        let generation = self.plan.generation(epoch);
        if self.pool.is_some() && self.generation == Some(generation) {
            return Ok(renewed);
        }
        let found = self.generation.map_or("none".into(), |found| format!("generation {found}"));
        Err(missing(format!("expected the images of generation {generation} for epoch {epoch}, found {found}")))
    }

    /// Saves a new generation for a later process, unless the next epoch replaces it anyway.
    fn save(&self, epoch: u32, generation: u64, pool: &MemoryDataset, out: &ArtifactWriter) -> Result<()> {
        let next = epoch.checked_add(1).and_then(|next| self.plan.begins(next));
        if !next.is_some_and(|next| self.plan.replaces_all(next)) {
            if let Some(labels) = pool.all_probabilities() {
                let bytes: Vec<u8> = labels.iter().flat_map(|p| p.to_le_bytes()).collect();
                out.save_state(&labels_file(generation), &bytes)?;
            }
            out.save_state(&pool_file(generation), pool.images())?;
        }
        // A resumed process returns to the last complete epoch, which may still use the previous generation.
        if let Some(old) = generation.checked_sub(2) {
            out.drop_state(&pool_file(old))?;
            out.drop_state(&labels_file(old))?;
        }
        Ok(())
    }

    /// The images of `generation` that an earlier process saved; `None` without any.
    fn load(&self, generation: u64, out: &ArtifactWriter) -> Result<Option<MemoryDataset>> {
        let classes = self.plan.classes();
        let rows = classes * self.plan.per_class();
        let bytes = self.source.image().bytes();
        let Some(images) = load_state(out, &pool_file(generation), rows * bytes)? else { return Ok(None) };
        let mut pool = self.empty();
        for (row, image) in images.chunks_exact(bytes).enumerate() {
            pool.push(image, ClassId((row / self.plan.per_class()) as u32));
        }
        if let Some(labels) = load_state(out, &labels_file(generation), rows * classes * size_of::<f32>())? {
            let values: Vec<f32> = labels.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            values.chunks_exact(classes).enumerate().for_each(|(row, p)| pool.set_probabilities(row, p));
        }
        Ok(Some(pool))
    }
}

/// The state file `name`, if it exists, which must have `length` bytes.
fn load_state(out: &ArtifactWriter, name: &str, length: usize) -> Result<Option<Vec<u8>>> {
    match out.load_state(name)? {
        Some(state) if state.len() != length => {
            let found = format!("{} bytes", state.len());
            Err(Error::format(out.dir().join(name), "length", format!("{length} bytes"), found))
        }
        state => Ok(state),
    }
}

impl<S: SampleSource> EpochData for Recycled<S> {
    fn rows(&mut self, epoch: u32, out: &ArtifactWriter, cx: &Context) -> Result<(&dyn Rows, u64)> {
        let begun = Instant::now();
        let renewed = self.advance(epoch, cx)?;
        let Some(pool) = &self.pool else {
            return Err(Error::format(out.dir(), "resume state", "the synthetic set", "none"));
        };
        if let Some(generation) = self.plan.begins(epoch) {
            self.save(epoch, generation, pool, out)?;
            let total = self.source.tally().total();
            tracing::debug!(epoch, generation, renewed, drawn = total.drawn, accepted = total.accepted, "renewed");
            out.log(&json!({
                "event": "renewal", "epoch": epoch, "generation": generation, "renewed": renewed,
                "drawn": total.drawn, "accepted": total.accepted, "backfilled": total.backfilled,
                "wall_s": begun.elapsed().as_secs_f64(),
            }))?;
        }
        Ok((pool, renewed))
    }

    fn snapshot(&self) -> Result<Value> {
        let generation = self.generation.ok_or("no generation is complete");
        let generation = generation.map_err(Error::other("writing the resume state of the synthetic set"))?;
        Ok(json!(Snapshot { generation, cursors: self.source.cursors() }))
    }

    fn restore(&mut self, snapshot: Value, out: &ArtifactWriter) -> Result<()> {
        let snapshot: Snapshot =
            serde_json::from_value(snapshot).map_err(Error::other("reading the resume state of the synthetic set"))?;
        self.source.seek_all(&snapshot.cursors)?;
        self.pool = self.load(snapshot.generation, out)?;
        self.generation = Some(snapshot.generation);
        Ok(())
    }

    fn tally(&self) -> Option<Tally> {
        Some(self.source.tally())
    }
}

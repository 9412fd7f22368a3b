//! Stage `expand`: a generator's samples, unfiltered, as a dataset on disk.

use std::num::NonZeroUsize;

use gafi_core::{
    ArtifactWriter, ClassId, Context, DatasetInfo, DatasetWriter, Error, Inputs, Kind, Port, Result, SampleSource,
    Split, Stage, Tally,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::expanded::{BLOCK, Expanded};
use crate::latents::{ClassStds, latent_stream};

/// Inputs of stage `expand`.
pub const PORTS: &[Port] = &[Port::required("generator", Kind::Generator)];

/// Stage `expand`: writes `per_class` samples of each class as a dataset of split `synthetic`, classes in turns of
/// [`BLOCK`] rows. It holds no more than a shard in memory, and goes on from the last whole shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Expand {
    /// The generator's checkpoint, in steps; its last one when absent.
    pub checkpoint: Option<u64>,
    /// Standard deviation of the latents: a number, `[lo, hi]` for one drawn per sample, or `{ per_class = [...] }`.
    pub std: ClassStds,
    /// Samples of each class, at least 1.
    pub per_class: u64,
    /// Seed of the latents.
    pub seed: u64,
}

impl Default for Expand {
    fn default() -> Self {
        Self { checkpoint: None, std: ClassStds::default(), per_class: 1000, seed: 0 }
    }
}

/// What the writer keeps with each whole shard.
#[derive(Serialize, Deserialize)]
struct Place {
    position: Vec<u64>,
    tally: Tally,
}

impl Expand {
    /// The class whose turn it is after `counts` rows, and how many rows that turn has; `None` when all are full. It is
    /// always the one with the fewest rows, so the order needs no memory of its own.
    fn turn(&self, counts: &[u64]) -> Option<(ClassId, NonZeroUsize)> {
        let (class, &count) = counts.iter().enumerate().min_by_key(|&(class, &n)| (n, class))?;
        let missing = self.per_class.saturating_sub(count).min(BLOCK as u64);
        Some((ClassId(class as u32), NonZeroUsize::new(missing as usize)?))
    }
}

impl Stage for Expand {
    fn name(&self) -> &'static str {
        "expand"
    }

    fn revision(&self) -> u32 {
        2
    }

    fn ports(&self) -> &'static [Port] {
        PORTS
    }

    fn output(&self) -> Kind {
        Kind::Dataset
    }

    fn config(&self) -> Value {
        json!(self)
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        if self.per_class == 0 {
            return Err(Error::config("per_class", 0, "at least 1"));
        }
        self.std.check_values()
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let generator = cx.openers.open_generator(inputs.require(self.name(), "generator")?, self.checkpoint)?;
        let info = DatasetInfo::new(*generator.image(), generator.classes().to_vec(), Split::Synthetic);
        let total = self.per_class.saturating_mul(info.classes.len() as u64);
        let block = usize::try_from(self.per_class).map_or(BLOCK, |n| n.min(BLOCK));
        let block = NonZeroUsize::new(block).unwrap_or(NonZeroUsize::MIN);
        let mut source = Expanded::new(generator, self.std.clone(), latent_stream(self.seed))?.with_block(block);

        let (mut writer, resumed) = DatasetWriter::begin(out, info)?;
        if let Some(place) = resumed {
            let place: Place = serde_json::from_value(place).map_err(Error::other("reading where `expand` stood"))?;
            source.seek(&place.position, &place.tally)?;
        }
        let mut task = cx.progress.begin("expand", Some(total));
        task.advance(writer.rows());
        while let Some((class, missing)) = self.turn(writer.counts()) {
            cx.checkpoint()?;
            let batch = source.pull(class, missing)?.ok_or_else(|| {
                let tally = source.tally().classes[class.index()];
                let name = source.classes()[class.index()].clone();
                Error::Exhausted { class, name, wanted: self.per_class, drawn: tally.drawn, accepted: tally.accepted }
            })?;
            writer.push(&batch, json!(Place { position: source.position(), tally: source.tally() }))?;
            task.advance(batch.len() as u64);
        }
        writer.finish()?;
        Ok(())
    }
}

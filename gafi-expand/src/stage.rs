//! Stage `expand`: a generator's samples, unfiltered, as a dataset on disk.

use std::num::NonZeroUsize;

use gafi_core::{ArtifactWriter, Context, Error, Inputs, Kind, Port, Result, Stage, StageInfo, write_samples};
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
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub per_class: u64,
    /// Seed of the latents.
    pub seed: u64,
}

impl Default for Expand {
    fn default() -> Self {
        Self { checkpoint: None, std: ClassStds::default(), per_class: 1000, seed: 0 }
    }
}

impl Stage for Expand {
    fn info(&self) -> StageInfo {
        StageInfo { name: "expand", revision: 3, ports: PORTS, output: Kind::Dataset }
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
        let generator = cx.models.open_generator(inputs.require("generator")?, self.checkpoint)?;
        let turn = NonZeroUsize::new(BLOCK).unwrap_or(NonZeroUsize::MIN);
        // Not more at a time than are wanted.
        let block = usize::try_from(self.per_class).ok().and_then(NonZeroUsize::new).map_or(turn, |n| n.min(turn));
        let mut source = Expanded::new(generator, self.std.clone(), latent_stream(self.seed))?.with_block(block);
        write_samples(&mut source, self.per_class, turn, "expand", out, cx)
    }
}

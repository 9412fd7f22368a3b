//! Stage `expand`: unfiltered samples of a generator as a dataset on disk.

use std::num::NonZeroUsize;

use gafi_core::{
    ArtifactWriter, Context, Inputs, Kind, Port, Result, SAMPLE_BATCH, Stage, StageInfo, check_positive, write_samples,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::expanded::Expanded;
use crate::latents::{StdRange, latent_stream};

const PORTS: &[Port] = &[Port::required("generator", Kind::Generator)];

/// Stage `expand`: writes `per_class` samples of each class as a dataset of split `synthetic`, cycling through the
/// classes [`SAMPLE_BATCH`] rows at a time. It holds at most one shard in memory; the stage resumes after the last complete shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Expand {
    /// The generator's checkpoint, in steps; its last one when absent.
    pub checkpoint: Option<u64>,
    /// Standard deviation of the latents: a number, or `[lo, hi]` to draw one per sample.
    pub std: StdRange,
    /// Samples of each class, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub per_class: u64,
    /// Seed of the latents.
    pub seed: u64,
}

impl Default for Expand {
    fn default() -> Self {
        Self { checkpoint: None, std: StdRange::default(), per_class: 1000, seed: 0 }
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
        check_positive("per_class", self.per_class)?;
        self.std.check()
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let generator = cx.models.open_generator(inputs.require("generator")?, self.checkpoint)?;
        // A block never exceeds what is wanted.
        let block = usize::try_from(self.per_class).ok().and_then(NonZeroUsize::new);
        let block = block.map_or(SAMPLE_BATCH, |wanted| wanted.min(SAMPLE_BATCH));
        let mut source = Expanded::new(generator, self.std, latent_stream(self.seed))?.with_block(block);
        write_samples(&mut source, self.per_class, SAMPLE_BATCH, "expand", out, cx)
    }
}

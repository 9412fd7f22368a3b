//! Stage `collect`: writes samples of any source to a dataset.

use std::num::NonZeroUsize;

use gafi_core::{
    ArtifactWriter, Context, Error, Inputs, Kind, Port, Result, SourceSpec, Stage, StageInfo, write_samples,
};
use gafi_filter::TALLY;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PORTS: &[Port] = &[
    Port::many("generators", Kind::Generator),
    Port::optional("samples", Kind::Dataset),
    Port::optional("teacher", Kind::Classifier),
];

/// Samples of a class that are pulled at a time.
const BLOCK: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Stage `collect`: `per_class` samples of each class, in blocks of one class after the other. At most a shard is in memory,
/// and an interrupted call resumes after the last complete shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Collect {
    /// The source of samples, such as `{ kind = "gafi", std = 1.3, filter = { threshold = 0.5 } }`.
    pub source: SourceSpec,
    /// Samples of each class, at least 1.
    #[schemars(range(min = 1))]
    pub per_class: u64,
}

impl Default for Collect {
    /// Unfiltered samples of a generator's last checkpoint.
    fn default() -> Self {
        Self { source: SourceSpec::named("gafi"), per_class: 1000 }
    }
}

impl Stage for Collect {
    fn info(&self) -> StageInfo {
        StageInfo { name: "collect", revision: 3, ports: PORTS, output: Kind::Dataset }
    }

    fn config(&self) -> Value {
        json!(self)
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        if self.per_class == 0 {
            return Err(Error::config("per_class", 0, "at least 1"));
        }
        self.source.check()
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let mut source = cx.models.open_source(&self.source, inputs, cx)?;
        write_samples(&mut *source, self.per_class, BLOCK, "collect", out, cx)?;
        out.write_json(TALLY, &source.tally())
    }
}

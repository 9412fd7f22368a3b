//! Stage `collect`: samples of any source as a dataset on disk, whoever judged or mixed them on the way.

use std::num::NonZeroUsize;

use gafi_core::{ArtifactWriter, Context, Error, Inputs, Kind, Port, Result, Stage, write_samples};
use gafi_filter::TALLY;
use gafi_recycle::GENERATORS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PORTS: &[Port] = &[
    Port::required(GENERATORS[0], Kind::Generator),
    Port::optional(GENERATORS[1], Kind::Generator),
    Port::optional(GENERATORS[2], Kind::Generator),
    Port::optional(GENERATORS[3], Kind::Generator),
    Port::optional(GENERATORS[4], Kind::Generator),
    Port::optional(GENERATORS[5], Kind::Generator),
    Port::optional(GENERATORS[6], Kind::Generator),
    Port::optional(GENERATORS[7], Kind::Generator),
    Port::optional("teacher", Kind::Classifier),
];

/// Rows of a class that are asked for at a time.
const BLOCK: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Stage `collect`: `per_class` samples of each class, classes in turns. No more than a shard is in memory, and it goes on
/// from the last whole shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Collect {
    /// Where samples come from: an object whose `kind` names a source, such as `gafi`, with its settings.
    pub source: Value,
    /// Samples of each class, at least 1.
    #[schemars(range(min = 1))]
    pub per_class: u64,
}

impl Default for Collect {
    fn default() -> Self {
        Self { source: Value::Null, per_class: 1000 }
    }
}

impl Stage for Collect {
    fn name(&self) -> &'static str {
        "collect"
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
        if self.source.get("kind").and_then(Value::as_str).is_none() {
            return Err(Error::config("source", &self.source, "an object whose `kind` names a source"));
        }
        Ok(())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let mut source = cx.models.open_source(&self.source, inputs, cx)?;
        write_samples(&mut *source, self.per_class, BLOCK, self.name(), out, cx)?;
        out.write_json(TALLY, &source.tally())
    }
}

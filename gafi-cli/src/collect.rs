//! Stage `collect`: samples of any source as a dataset on disk, whoever judged or mixed them on the way.

use std::num::NonZeroUsize;

use gafi_core::{
    ArtifactWriter, ClassId, Context, DatasetInfo, DatasetWriter, Error, Inputs, Kind, Port, Result, SampleSource,
    Split, Stage, Tally,
};
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
const BLOCK: u64 = 256;

/// Stage `collect`: `per_class` samples of each class, classes in turns. No more than a shard is in memory, and it goes on
/// from the last whole shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Collect {
    /// Where samples come from: an object whose `kind` names a source, such as `gafi`, with its settings.
    pub source: Value,
    /// Samples of each class, at least 1.
    pub per_class: u64,
}

impl Default for Collect {
    fn default() -> Self {
        Self { source: Value::Null, per_class: 1000 }
    }
}

/// Where it stands after a whole shard.
#[derive(Serialize, Deserialize)]
struct Place {
    position: Vec<u64>,
    tally: Tally,
}

impl Collect {
    /// The class with the fewest rows after `counts`, and how many it gets; `None` when all are full.
    fn turn(&self, counts: &[u64]) -> Option<(ClassId, NonZeroUsize)> {
        let (class, &count) = counts.iter().enumerate().min_by_key(|&(class, &n)| (n, class))?;
        let missing = self.per_class.saturating_sub(count).min(BLOCK);
        Some((ClassId(class as u32), NonZeroUsize::new(missing as usize)?))
    }
}

impl Stage for Collect {
    fn name(&self) -> &'static str {
        "collect"
    }

    fn revision(&self) -> u32 {
        1
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
        let mut source = cx.openers.open_source(&self.source, inputs, cx)?;
        let info = DatasetInfo::new(*source.image(), source.classes().to_vec(), Split::Synthetic);
        let total = self.per_class.saturating_mul(info.classes.len() as u64);
        let (mut writer, resumed) = DatasetWriter::begin(out, info)?;
        if let Some(place) = resumed {
            let place: Place = serde_json::from_value(place).map_err(Error::other("reading where `collect` stood"))?;
            source.seek(&place.position, &place.tally)?;
        }
        let mut task = cx.progress.begin("collect", Some(total));
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
        out.write_json(TALLY, &source.tally())
    }
}

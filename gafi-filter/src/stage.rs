//! Stage `filter`: from a dataset on disk to the dataset of the rows that a teacher accepts.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use gafi_core::{
    ArtifactWriter, Batch, ClassId, ClassifierInfo, Context, Cursor, Dataset, DatasetInfo, DatasetWriter, Error,
    Exhausted, INFERENCE_BATCH, Inputs, Kind, Port, Result, Rows, SampleSource, Scorer, Stage, StageInfo, Tally,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::filtered::Filtered;
use crate::rows::RowsSource;
use crate::rule::{Attempts, FilterRule, OnExhausted};
use crate::scorer::check_scorer;

const PORTS: &[Port] = &[Port::required("samples", Kind::Dataset), Port::required("teacher", Kind::Classifier)];

/// The file of the filtered dataset with the numbers of rows judged, accepted and backfilled, and of rejected rows by the class that
/// the teacher predicts: a [`Tally`] as JSON, one entry per class.
pub const TALLY: &str = "tally.json";

const NAME: &str = "filter";
const REVISION: u32 = 5;

/// Stage `filter`: keeps the rows of a dataset that a teacher accepts, in their order, with its confidence. At most one shard
/// is in memory; the stage resumes after the last complete one.
///
/// Each row is judged as the class of its label, by [`Filtered`]. With `per_class`, the first `per_class` accepted rows of
/// each class are kept, and rows of a full class are not judged. A class has to reach `per_class` rows (one row without it);
/// otherwise the stage fails or, with `on_exhausted = "backfill"`, appends the first rejected rows of the class.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// The rule. By default `max_attempts` is 0, since the dataset ends anyway; with `on_exhausted = "backfill"` it is ignored.
    #[serde(flatten)]
    pub rule: FilterRule,
    /// Rows of each class to keep; every accepted row when absent.
    pub per_class: Option<u64>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { rule: FilterRule { max_attempts: 0, ..FilterRule::default() }, per_class: None }
    }
}

impl<'de> Deserialize<'de> for Filter {
    // Written by hand, because omitted keys take this stage's defaults, not those of `FilterRule`.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut keys = Map::deserialize(from)?;
        keys.entry("max_attempts").or_insert_with(|| Self::default().rule.max_attempts.into());
        let per_class = keys.remove("per_class").unwrap_or_default();
        let per_class = serde_json::from_value(per_class).map_err(serde::de::Error::custom)?;
        let rule = serde_json::from_value(keys.into()).map_err(serde::de::Error::custom)?;
        Ok(Self { rule, per_class })
    }
}

/// The resume state, stored with each whole shard.
#[derive(Debug, Serialize, Deserialize)]
struct ResumePoint {
    // The tally of the first pass, once the second pass backfills.
    first_pass: Option<Tally>,
    cursors: Vec<Cursor>,
}

/// The next row of a class that is to be written.
struct Next {
    sample: Batch,
    // The cursor of the class before this row, for a process that resumes without it.
    before: Cursor,
}

impl Next {
    fn row(&self) -> usize {
        self.sample.ids[0] as usize
    }
}

impl Filter {
    /// The rule of both passes. Which rows backfill is known only once the whole dataset is judged, so attempts have no bound
    /// then.
    fn pass_rule(&self) -> FilterRule {
        let max_attempts = if self.rule.on_exhausted == OnExhausted::Backfill { 0 } else { self.rule.max_attempts };
        FilterRule { max_attempts, ..self.rule.clone() }
    }

    /// Rows that each class has to reach.
    fn required(&self) -> u64 {
        self.per_class.unwrap_or(1)
    }

    /// Checks configuration and `info`, the dataset to filter.
    fn check_samples(&self, inputs: &Inputs, info: &DatasetInfo) -> Result<()> {
        self.rule.check()?;
        if self.rule.attempts == Attempts::Rounds {
            let expected = "per-sample, because a dataset has no samples for further rounds";
            return Err(Error::config("attempts", "rounds", expected));
        }
        if self.per_class == Some(0) {
            return Err(Error::config("per_class", 0, "at least 1, or no value for every accepted row"));
        }
        let Some(short) = info.counts.iter().position(|&count| count < self.required()) else { return Ok(()) };
        let expected = format!("at least {} rows of class {short} ({})", self.required(), info.classes[short]);
        Err(inputs.error("samples", expected, info.counts[short].to_string()))
    }

    /// Filters `dataset` with `scorer`: the work of the stage, for stages that wrap it.
    ///
    /// # Errors
    /// [`Error::Exhausted`] naming the classes with too few accepted rows; [`Error::Input`] when the scorer takes other
    /// images or classes; [`Error::Interrupted`]; errors of files and scorer.
    pub fn filter(
        &self,
        dataset: &Dataset,
        scorer: &mut dyn Scorer,
        out: &mut ArtifactWriter,
        cx: &Context,
    ) -> Result<Tally> {
        let info = dataset.info();
        let empty = DatasetInfo::new(info.image, info.classes.clone(), info.split);
        let (mut writer, resumed) = DatasetWriter::begin(out, empty)?;
        let resumed: Option<ResumePoint> = resumed
            .map(serde_json::from_value)
            .transpose()
            .map_err(Error::other("reading the resume state of stage filter"))?;
        let (first_pass, mut cursors) = resumed.map_or((None, None), |point| (point.first_pass, Some(point.cursors)));
        let first_pass = match first_pass {
            Some(tally) => tally,
            None => {
                let rows = RowsSource::new(dataset);
                let mut source = Filtered::new(rows, &mut *scorer, self.pass_rule())?.until(cx.stop.clone());
                if let Some(cursors) = cursors.take() {
                    source.seek_all(&cursors)?;
                }
                self.write(dataset, &mut source, None, &mut writer, cx).map_err(|error| match error {
                    Error::Exhausted(exhausted) => {
                        exhausted.with_others(&mut source, self.per_class.unwrap_or(u64::MAX))
                    }
                    error => error,
                })?;
                source.tally()
            }
        };
        let mut tally = first_pass.clone();
        if self.rule.on_exhausted == OnExhausted::Backfill && !self.short(&tally).is_empty() {
            let rows = RowsSource::new(dataset);
            let mut source = Filtered::new(rows, &mut *scorer, self.pass_rule())?.until(cx.stop.clone()).inverted();
            if let Some(cursors) = cursors {
                source.seek_all(&cursors)?;
            }
            self.write(dataset, &mut source, Some(&first_pass), &mut writer, cx)?;
            for (class, second) in tally.classes.iter_mut().zip(source.tally().classes) {
                class.backfilled += second.accepted;
            }
        }
        let short = self.short(&tally);
        if !short.is_empty() {
            return Err(Error::Exhausted(Box::new(Exhausted::new(&info.classes, tally, short))));
        }
        writer.finish()?;
        out.write_json(TALLY, &tally)?;
        Ok(tally)
    }

    /// Writes the rows of `source` in the order of the dataset until each class is full: in the second pass, with the rows
    /// missing after `first_pass`.
    fn write(
        &self,
        dataset: &Dataset,
        source: &mut dyn SampleSource,
        first_pass: Option<&Tally>,
        writer: &mut DatasetWriter<'_>,
        cx: &Context,
    ) -> Result<()> {
        let info = dataset.info();
        let classes = info.classes.len();
        let most = |class: ClassId| match first_pass {
            None => self.per_class.unwrap_or(u64::MAX),
            Some(first) => self.required().saturating_sub(first.classes[class.index()].handed_over()),
        };
        let handed_over = source.tally().classes;
        // Rows of each class that may still be pulled.
        let mut left: Vec<u64> = ClassId::all(classes)
            .map(|class| most(class).saturating_sub(handed_over[class.index()].handed_over()))
            .collect();
        let mut next: Vec<Option<Next>> = Vec::with_capacity(classes);
        for class in ClassId::all(classes) {
            next.push(pull_next(source, class, &mut left)?);
        }
        let label = if first_pass.is_some() { "backfill" } else { NAME };
        let mut task = cx.progress.begin(label, Some(info.rows()));
        for block in blocks(info) {
            cx.checkpoint()?;
            let mut batch = Batch::default();
            let mut rows = Vec::new();
            // The classes' next rows, merged by row number.
            while let Some(first) = next.iter().flatten().map(Next::row).filter(|&row| row < block.end).min() {
                let class = dataset.label(first);
                let Some(Next { sample, .. }) = next[class.index()].take() else { break };
                rows.push(first);
                batch.append(&sample);
                next[class.index()] = pull_next(source, class, &mut left)?;
            }
            task.advance(block.len() as u64);
            if batch.is_empty() {
                continue;
            }
            batch.ids = dataset.ids(&rows)?;
            let cursors = ClassId::all(classes).zip(&next).map(|(class, next)| match next {
                Some(next) => next.before.clone(),
                None => source.cursor(class),
            });
            let point = ResumePoint { first_pass: first_pass.cloned(), cursors: cursors.collect() };
            writer.push(&batch, json!(point))?;
            if next.iter().all(Option::is_none) {
                break;
            }
        }
        Ok(())
    }

    /// The classes with fewer rows than they need, and that number.
    fn short(&self, tally: &Tally) -> BTreeMap<ClassId, u64> {
        let classes = ClassId::all(tally.classes.len()).zip(&tally.classes);
        let short = classes.filter(|(_, tally)| tally.handed_over() < self.required());
        short.map(|(class, _)| (class, self.required())).collect()
    }
}

/// The next row of `class`, unless none is `left` or it has ended.
fn pull_next(source: &mut dyn SampleSource, class: ClassId, left: &mut [u64]) -> Result<Option<Next>> {
    let left = &mut left[class.index()];
    if *left == 0 {
        return Ok(None);
    }
    let before = source.cursor(class);
    let sample = source.pull(class, NonZeroUsize::MIN)?;
    *left = left.saturating_sub(sample.is_some().into());
    Ok(sample.map(|sample| Next { sample, before }))
}

/// The blocks of rows that are written together. They never cross a shard of the dataset, and a batch is never split between
/// shards, so equal blocks give equal bytes.
fn blocks(info: &DatasetInfo) -> Vec<std::ops::Range<usize>> {
    let mut blocks = Vec::new();
    let mut start = 0;
    for shard in &info.shards {
        let end = start + shard.rows;
        blocks.extend((start..end).step_by(INFERENCE_BATCH).map(|from| from..end.min(from + INFERENCE_BATCH)));
        start = end;
    }
    blocks
}

impl Stage for Filter {
    fn info(&self) -> StageInfo {
        StageInfo { name: NAME, revision: REVISION, ports: PORTS, output: Kind::Dataset }
    }

    fn config(&self) -> Value {
        json!(self)
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        let samples = DatasetInfo::of(inputs.require("samples")?)?;
        self.check_samples(inputs, &samples)?;
        let teacher = ClassifierInfo::of(inputs.require("teacher")?)?;
        // By name: a teacher with the same classes in another order would reject nearly everything.
        if teacher.image == samples.image && teacher.classes == samples.classes {
            return Ok(());
        }
        let expected = format!("a teacher of {}", samples.image.of_classes(&samples.classes));
        let found = teacher.image.of_classes(&teacher.classes);
        Err(inputs.error("teacher", expected, found))
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let dataset = Dataset::open(inputs.require("samples")?)?;
        let mut teacher = cx.models.open_scorer(inputs.require("teacher")?)?;
        self.filter(&dataset, &mut *teacher, out, cx).map(drop)
    }
}

/// Stage `filter` with a scorer of your own in place of a classifier artifact.
pub struct FilterWith<C> {
    filter: Filter,
    identity: String,
    // A stage runs through a shared reference, but scoring needs a mutable one.
    scorer: Mutex<C>,
}

impl<C: Scorer> FilterWith<C> {
    /// Filters with `scorer`. The recorded configuration names it by `identity`: results are reused while
    /// that stays the same, so it has to change when the scorer does.
    pub fn new(identity: impl Into<String>, scorer: C, filter: Filter) -> Self {
        Self { filter, identity: identity.into(), scorer: Mutex::new(scorer) }
    }
}

impl<C> std::fmt::Debug for FilterWith<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilterWith")
            .field("filter", &self.filter)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl<C: Scorer> Stage for FilterWith<C> {
    fn info(&self) -> StageInfo {
        StageInfo { name: NAME, revision: REVISION, ports: &PORTS[..1], output: Kind::Dataset }
    }

    fn config(&self) -> Value {
        json!({"filter": self.filter, "scorer": self.identity})
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        let samples = DatasetInfo::of(inputs.require("samples")?)?;
        self.filter.check_samples(inputs, &samples)?;
        let scorer = self.scorer.lock().unwrap_or_else(PoisonError::into_inner);
        check_scorer(&*scorer, &samples.image, samples.classes.len())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let dataset = Dataset::open(inputs.require("samples")?)?;
        let mut scorer = self.scorer.lock().unwrap_or_else(PoisonError::into_inner);
        self.filter.filter(&dataset, &mut *scorer, out, cx).map(drop)
    }
}

//! Stage `filter`: from a dataset on disk, whoever made it, to the dataset of what a teacher recognises.

use std::sync::{Mutex, PoisonError};

use gafi_core::{
    ArtifactWriter, ClassId, ClassifierInfo, Context, Dataset, DatasetInfo, DatasetWriter, Error, Inputs, Kind, Port,
    Result, Scorer, Stage, StageInfo, Tally,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::quota::Quota;
use crate::rule::{Accept, FilterRule, Judge, OnExhausted, Thresholds};
use crate::scorer::{ask, fits};

/// Inputs of stage `filter`.
pub const PORTS: &[Port] = &[Port::required("samples", Kind::Dataset), Port::required("teacher", Kind::Classifier)];

/// The file of the filtered dataset that says how many rows of each class were judged, accepted and let in: a
/// [`Tally`] as JSON, one entry a class.
pub const TALLY: &str = "tally.json";

const NAME: &str = "filter";
const REVISION: u32 = 3;

/// Rows judged at a time.
const BLOCK: usize = 256;

/// Stage `filter`: keeps the rows of a dataset that a teacher recognises, in their order, with its confidence. A shard at a
/// time is in memory; it goes on from the last whole shard written.
///
/// Each row is judged as the class that it is labelled with. With a quota, the first `per_class` accepted rows of each class
/// are taken, and rows of a full class are no longer judged. A class has to reach its quota (one row, where there is none):
/// otherwise the stage fails, or, when `on_exhausted` is "backfill", appends the class's first rejected rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Which rows pass: "recognised" or "any".
    #[serde(skip_serializing_if = "Accept::is_default")]
    pub accept: Accept,
    /// Probability that the class of a row has to exceed, in [0, 1), or a list with one for each class. At 0 it still has to be
    /// the likeliest.
    pub threshold: Thresholds,
    /// Rows of each class to keep; every accepted row when absent.
    pub per_class: Option<u64>,
    /// What happens to a class with too few accepted rows.
    pub on_exhausted: OnExhausted,
    /// Whether the teacher's probabilities of all classes are written too.
    pub keep_probabilities: bool,
    /// Which of the rows that pass are kept, by the teacher's confidence; what is not kept counts as rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
}

/// Where the stage stands: what the writer keeps with each whole shard.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    // The second pass, in which rejected rows are let in.
    letting_in: bool,
    // Rows of the input that are done in this pass.
    row: usize,
    tally: Tally,
    // What each class's quota has seen in this pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    seen: Vec<Vec<u64>>,
}

impl Filter {
    /// The rule, ready for `classes` classes.
    fn judge(&self, classes: usize) -> Result<Judge> {
        let rule = FilterRule {
            accept: self.accept,
            threshold: self.threshold.clone(),
            quota: self.quota.clone(),
            ..FilterRule::default()
        };
        Judge::new(&rule, classes)
    }

    /// Rows that each class has to reach.
    fn required(&self) -> u64 {
        self.per_class.unwrap_or(1)
    }

    /// Whether `class` takes further rows.
    fn wants(&self, place: &Place, class: ClassId) -> bool {
        let tally = place.tally.classes[class.index()];
        let most = if place.letting_in { self.required() } else { self.per_class.unwrap_or(u64::MAX) };
        tally.accepted + tally.backfilled < most
    }

    /// Checks configuration and `info`, the dataset to filter.
    fn check_samples(&self, info: &DatasetInfo) -> Result<()> {
        self.judge(info.classes.len())?;
        if self.per_class == Some(0) {
            return Err(Error::config("per_class", 0, "at least 1, or none for every accepted row"));
        }
        let short = info.counts.iter().position(|&count| count < self.required());
        short.map_or(Ok(()), |class| {
            let name = info.classes.get(class).map(String::as_str).unwrap_or_default();
            Err(Error::Input {
                stage: NAME.into(),
                port: "samples".into(),
                expected: format!("at least {} rows of class {class} ({name})", self.required()),
                found: info.counts[class].to_string(),
            })
        })
    }

    /// Filters `dataset` by what `scorer` says: the work of the stage, for stages of your own around it.
    ///
    /// # Errors
    /// [`Error::Exhausted`] naming a class that too few rows passed of; [`Error::Input`] when the scorer judges other images or
    /// classes; [`Error::Interrupted`]; what files and scorer say.
    pub fn filter(
        &self,
        dataset: &Dataset,
        scorer: &mut dyn Scorer,
        out: &mut ArtifactWriter,
        cx: &Context,
    ) -> Result<Tally> {
        let info = gafi_core::Rows::info(dataset);
        fits(scorer, &info.image, info.classes.len())?;
        let empty = DatasetInfo::new(info.image, info.classes.clone(), info.split);
        let (mut writer, resumed) = DatasetWriter::begin(out, empty)?;
        let mut place = match resumed {
            Some(place) => serde_json::from_value(place).map_err(Error::other("reading where `filter` stood"))?,
            None => Place { letting_in: false, row: 0, tally: Tally::new(info.classes.len()), seen: Vec::new() },
        };
        if !place.letting_in {
            self.pass(dataset, scorer, &mut place, &mut writer, cx)?;
            place.letting_in = true;
            place.row = 0;
            // What the first pass rejected is what the second rejects: a class that still wants rows was judged to its end.
            place.seen.clear();
            if self.on_exhausted == OnExhausted::Error {
                self.reached(info, &place.tally)?;
            }
        }
        self.pass(dataset, scorer, &mut place, &mut writer, cx)?;
        self.reached(info, &place.tally)?;
        writer.finish()?;
        out.write_json(TALLY, &place.tally)?;
        Ok(place.tally)
    }

    /// Goes through the rows from `place` on.
    fn pass(
        &self,
        dataset: &Dataset,
        scorer: &mut dyn Scorer,
        place: &mut Place,
        writer: &mut DatasetWriter<'_>,
        cx: &Context,
    ) -> Result<()> {
        let info = gafi_core::Rows::info(dataset);
        let (bytes, classes) = (info.image.bytes(), info.classes.len());
        let judge = self.judge(classes)?;
        place.seen.resize(classes, judge.unseen());
        if !ClassId::all(classes).any(|class| self.wants(place, class)) {
            return Ok(());
        }
        let mut task = cx.progress.begin(if place.letting_in { "let in" } else { NAME }, Some(info.rows()));
        task.advance(place.row as u64);
        let mut begin = 0;
        for shard in dataset.shards() {
            let (shard, start) = (shard?, begin);
            begin += shard.len();
            // Blocks lie where they lie in the input, wherever this pass begins: a resumed one judges the same blocks.
            for from in (0..shard.len()).step_by(BLOCK) {
                let to = shard.len().min(from + BLOCK);
                if start + to <= place.row {
                    continue;
                }
                cx.checkpoint()?;
                let rows: Vec<usize> = (from..to).filter(|&row| self.wants(place, shard.labels[row])).collect();
                place.row = start + to;
                task.advance((to - from) as u64);
                if rows.is_empty() {
                    continue;
                }
                let block = shard.select(&rows, bytes, classes);
                let probabilities = ask(scorer, &block.images, block.len())?;
                let (mut kept, mut confidence, mut all) = (Vec::new(), Vec::new(), Vec::new());
                for (i, p) in probabilities.chunks_exact(classes).enumerate() {
                    let class = block.labels[i];
                    let verdict = judge.judge(p, class).map_err(Error::other(format!("row {}", start + rows[i])))?;
                    if !self.wants(place, class) {
                        continue; // its quota was filled by a row of this block
                    }
                    let accepted = judge.keeps(&verdict, class, &mut place.seen[class.index()]);
                    let tally = &mut place.tally.classes[class.index()];
                    match (place.letting_in, accepted) {
                        (false, accepted) => {
                            tally.drawn += 1;
                            tally.accepted += u64::from(accepted);
                        }
                        (true, accepted) => tally.backfilled += u64::from(!accepted),
                    }
                    if accepted != place.letting_in {
                        kept.push(i);
                        confidence.push(verdict.confidence);
                        all.extend(p.iter().map(|p| p.clamp(0.0, 1.0)));
                    }
                }
                if !kept.is_empty() {
                    let mut batch = block.select(&kept, bytes, classes);
                    batch.confidence = Some(confidence);
                    batch.probabilities = self.keep_probabilities.then_some(all);
                    writer.push(&batch, json!(place))?;
                }
            }
            if !ClassId::all(classes).any(|class| self.wants(place, class)) {
                break;
            }
        }
        Ok(())
    }

    /// That each class has the rows it needs.
    fn reached(&self, info: &DatasetInfo, tally: &Tally) -> Result<()> {
        for (class, t) in ClassId::all(tally.classes.len()).zip(&tally.classes) {
            if t.accepted + t.backfilled < self.required() {
                let name = info.classes[class.index()].clone();
                let (wanted, drawn, accepted) = (self.required(), t.drawn, t.accepted);
                return Err(Error::Exhausted { class, name, wanted, drawn, accepted });
            }
        }
        Ok(())
    }
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
        self.check_samples(&samples)?;
        let teacher: ClassifierInfo = inputs.require("teacher")?.content()?;
        // By name: a teacher that counts the same classes in another order would reject nearly everything.
        if teacher.image == samples.image && teacher.classes == samples.classes {
            return Ok(());
        }
        Err(Error::Input {
            stage: NAME.into(),
            port: "teacher".into(),
            expected: format!("one of {} images of classes {}", samples.image, samples.classes.join(", ")),
            found: format!("{} images of classes {}", teacher.image, teacher.classes.join(", ")),
        })
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let dataset = Dataset::open(inputs.require("samples")?)?;
        let mut teacher = cx.models.open_scorer(inputs.require("teacher")?)?;
        self.filter(&dataset, &mut *teacher, out, cx)?;
        Ok(())
    }
}

/// Stage `filter` with a scorer of your own in the place of a classifier artifact.
pub struct FilterWith<C> {
    filter: Filter,
    identity: String,
    // A stage runs behind a shared reference, a scorer may change while it scores.
    scorer: Mutex<C>,
}

impl<C: Scorer> FilterWith<C> {
    /// Filters by what `scorer` says. `identity` stands for it in the recorded configuration: results are reused while it
    /// stays the same, so it has to change when the scorer does.
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
        self.filter.check_samples(&samples)?;
        let scorer = self.scorer.lock().unwrap_or_else(PoisonError::into_inner);
        fits(&*scorer, &samples.image, samples.classes.len())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let dataset = Dataset::open(inputs.require("samples")?)?;
        let mut scorer = self.scorer.lock().unwrap_or_else(PoisonError::into_inner);
        self.filter.filter(&dataset, &mut *scorer, out, cx)?;
        Ok(())
    }
}

//! What `watch` shows: the stages of a run with their logs so far, the choices of the search, and the results.

pub(crate) mod view;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use gafi_pipeline::record::{ArtifactRef, SearchRecord, Step};
use gafi_pipeline::{RunRecord, SearchId};

use crate::run_folder::{LogReader, Point, StageFolder, stages};

/// A stage whose log has not changed for this long counts as stopped.
const QUIET: Duration = Duration::from_secs(3600);

/// A stage and its log.
#[derive(Debug)]
pub(crate) struct StageView {
    pub(crate) folder: StageFolder,
    /// Its role in the run's record, else the name of its folder.
    pub(crate) title: String,
    /// The points of its log, in order.
    pub(crate) points: Vec<Point>,
    /// Its duration in seconds, once the log says that it is finished.
    pub(crate) wall_s: Option<f64>,
    /// When its log last changed.
    pub(crate) modified: Option<SystemTime>,
    reader: LogReader,
}

impl StageView {
    fn new(folder: StageFolder) -> Self {
        Self {
            title: folder.name.clone(),
            folder,
            points: Vec::new(),
            wall_s: None,
            modified: None,
            reader: LogReader::default(),
        }
    }

    fn refresh(&mut self) -> Result<()> {
        for record in self.reader.more(&self.folder)? {
            self.points.extend(Point::of(&record));
            if record["event"] == "finished" {
                self.wall_s = record["wall_s"].as_f64();
            }
        }
        self.modified = self.folder.modified();
        Ok(())
    }

    /// Whether the log changed recently. Locks are not touched.
    pub(crate) fn running(&self) -> bool {
        !self.folder.done && self.modified.and_then(|time| time.elapsed().ok()).is_none_or(|ago| ago < QUIET)
    }

    /// The latest epoch or step.
    pub(crate) fn at(&self) -> Option<(&str, u64)> {
        let point = self.points.iter().rev().find(|point| point.event != "renewal")?;
        Some((&point.event, point.at))
    }

    /// The values of `name`, in order.
    pub(crate) fn series(&self, name: &str) -> Vec<f64> {
        self.points.iter().filter_map(|point| point.value(name)).filter(|value| value.is_finite()).collect()
    }

    /// The names of the values that are drawn as curves: losses and accuracies.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.points.iter().flat_map(|point| &point.values) {
            if (name.contains("loss") || name.contains("accuracy")) && !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// The best validation accuracy.
    pub(crate) fn best(&self) -> Option<f64> {
        self.series("val_accuracy").into_iter().max_by(f64::total_cmp)
    }
}

/// A run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    stages: BTreeMap<String, StageView>,
    /// What the searches chose, a line each.
    pub(crate) choices: Vec<String>,
    /// Rows of the results table: name, test accuracy.
    pub(crate) results: Vec<(String, f64)>,
}

impl Run {
    /// Reads what is new in the folder.
    ///
    /// # Errors
    /// A missing run, or a log that cannot be read.
    pub(crate) fn refresh(&mut self, run: &Path) -> Result<()> {
        let found = stages(run)?;
        self.stages.retain(|name, _| found.iter().any(|stage| stage.name == *name));
        for folder in found {
            let stage = self.stages.entry(folder.name.clone()).or_insert_with(|| StageView::new(folder.clone()));
            stage.folder = folder;
            stage.refresh()?;
        }
        // A folder of artifacts made without `pipeline` has no record.
        if let Ok(record) = RunRecord::read(run) {
            self.read_record(&record);
        }
        Ok(())
    }

    fn read_record(&mut self, record: &RunRecord) {
        let titles = titles(record);
        for (folder, stage) in &mut self.stages {
            if let Some(title) = titles.get(folder) {
                stage.title = title.clone();
            }
        }
        self.choices =
            record.searches.iter().flat_map(|search| search.steps.iter().map(|s| choice(search, s))).collect();
        let rows = record.rows.iter().filter_map(|row| Some((row.name.clone(), row.test.as_ref()?.score.accuracy())));
        let references = record.roles.references.iter();
        let references = references.filter_map(|r| Some((r.name.clone(), r.test.as_ref()?.score.accuracy())));
        self.results = rows.chain(references).collect();
    }

    /// The stages: running ones first, each group by its latest change.
    pub(crate) fn stages(&self) -> Vec<&StageView> {
        let mut stages: Vec<_> = self.stages.values().collect();
        stages
            .sort_by(|a, b| (b.running(), b.modified, &a.folder.name).cmp(&(a.running(), a.modified, &b.folder.name)));
        stages
    }

    /// The index of the stage called `name`, else of the first stage with curves.
    pub(crate) fn selected(&self, name: Option<&str>) -> usize {
        let stages = self.stages();
        let named = name.and_then(|name| stages.iter().position(|stage| stage.folder.name == name));
        named.or_else(|| stages.iter().position(|stage| !stage.names().is_empty())).unwrap_or(0)
    }

    /// The finished student with the best validation accuracy.
    pub(crate) fn best(&self) -> Option<(&StageView, f64)> {
        let students = self.stages.values().filter(|stage| stage.folder.name.starts_with("recycle"));
        let students = students.filter(|stage| stage.folder.done);
        students.filter_map(|stage| Some((stage, stage.best()?))).max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// Students that train on generated images, with their titles: trials and rows.
fn students(record: &RunRecord) -> impl Iterator<Item = (&ArtifactRef, String)> {
    let trials = record.searches.iter().flat_map(|search| &search.steps).flat_map(|step| &step.trials);
    let trials = trials.map(|trial| (&trial.artifact, trial.setting.to_string()));
    trials.chain(record.rows.iter().map(|row| (&row.artifact, format!("{}: {}", row.name, row.setting()))))
}

/// The role of each artifact, by its folder. A student that several rows share has the title of the last row.
fn titles(record: &RunRecord) -> BTreeMap<String, String> {
    let roles = &record.roles;
    let images = roles.images().map(|(split, artifact)| (artifact, split.to_string()));
    let generators = roles.generators.iter().enumerate();
    let generators = generators.map(|(number, g)| (&g.artifact, format!("generator {}", number + 1)));
    let references = roles.references.iter().map(|reference| (&reference.artifact, reference.name.clone()));
    let all = images.chain(generators).chain(references).chain(students(record));
    all.map(|(artifact, title)| (artifact.path.clone(), title)).collect()
}

/// The setting that a step of a search chose, and its validation accuracy.
fn choice(search: &SearchRecord, step: &Step) -> String {
    let SearchRecord { generator, strategy, row, .. } = search.clone();
    let id = SearchId { generator, strategy, row };
    let trial = step.trials.get(step.chosen);
    let val = trial.map(|trial| format!(": val {}", percent(trial.val.accuracy()))).unwrap_or_default();
    format!("{id}, {}: {}{val}", step.kind, step.chosen())
}

fn percent(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}

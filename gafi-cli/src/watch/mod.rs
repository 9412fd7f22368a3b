//! What `watch` shows: the stages of a run with their logs so far, the choices of the search, and the results.

pub(crate) mod view;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use gafi_core::MANIFEST_FILE;
use serde_json::Value;

use crate::run_folder::{LogReader, Point, StageFolder, stages};

/// A stage whose log has not changed for this long counts as stopped.
const QUIET: Duration = Duration::from_secs(3600);

/// A stage and its log.
#[derive(Debug)]
pub(crate) struct StageView {
    pub(crate) folder: StageFolder,
    /// The points of its log, in order.
    pub(crate) points: Vec<Point>,
    /// Its duration in seconds, once the log says that it is finished.
    pub(crate) wall_s: Option<f64>,
    /// When its log last changed.
    pub(crate) modified: Option<SystemTime>,
    /// A student's setting, as text; empty for other stages, and until it is known.
    pub(crate) setting: String,
    /// What it makes, as text; empty until it is known.
    pub(crate) what: String,
    /// Rows of the results table whose student it is.
    pub(crate) rows: Vec<String>,
    reader: LogReader,
}

impl StageView {
    fn new(folder: StageFolder) -> Self {
        let reader = LogReader::default();
        Self {
            folder,
            points: Vec::new(),
            wall_s: None,
            modified: None,
            setting: String::new(),
            what: String::new(),
            rows: Vec::new(),
            reader,
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
        if self.setting.is_empty() && self.folder.done {
            let made_by = &read(&self.folder.path.join(MANIFEST_FILE))["made_by"];
            let config = &made_by["config"];
            self.setting = setting(&config["source"], &config["recycle"]);
            self.what = match made_by["stage"].as_str() {
                Some("train-classifier") => match config["per_class"].as_u64() {
                    Some(n) => format!("classifier on {n} images per class"),
                    None => "classifier on all images".into(),
                },
                Some("import") => format!("import {}", config["split"].as_str().unwrap_or_default()),
                _ => self.setting.clone(),
            };
        }
        Ok(())
    }

    /// Whether the log changed recently. Locks are not touched.
    pub(crate) fn running(&self) -> bool {
        !self.folder.done && self.modified.and_then(|time| time.elapsed().ok()).is_none_or(|ago| ago < QUIET)
    }

    /// The epoch or step that it has reached.
    pub(crate) fn at(&self) -> Option<(&str, u64)> {
        let point = self.points.iter().rev().find(|point| point.event != "renewal")?;
        Some((&point.event, point.at))
    }

    /// The values of `name`, in order.
    pub(crate) fn series(&self, name: &str) -> Vec<f64> {
        self.points.iter().filter_map(|point| point.value(name)).filter(|value| value.is_finite()).collect()
    }

    /// The names of the values with curves: losses and accuracies.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.points.iter().flat_map(|point| &point.values) {
            if (name.contains("loss") || name.contains("accuracy")) && !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// Its title: its name, unless the pipeline named it, and what is known about it.
    pub(crate) fn title(&self) -> String {
        let name = &self.folder.name;
        let known = [self.rows.join(" = "), self.what.clone()].into_iter().filter(|part| !part.is_empty());
        let known = known.collect::<Vec<_>>().join(", ");
        // The pipeline's names, `STAGE-FINGERPRINT`, say less than what is known.
        let digits = |end: &str| end.len() == 12 && end.bytes().all(|b| b.is_ascii_hexdigit());
        match name.rsplit_once('-').is_some_and(|(_, end)| digits(end)) {
            _ if known.is_empty() => name.clone(),
            true => known,
            false => format!("{name}: {known}"),
        }
    }

    /// The best validation accuracy.
    pub(crate) fn best(&self) -> Option<f64> {
        self.series("val_accuracy").into_iter().max_by(f64::total_cmp)
    }
}

/// A choice of the search.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    /// What was chosen.
    pub(crate) what: String,
    pub(crate) setting: String,
    /// Its validation accuracy.
    pub(crate) val: Option<f64>,
}

/// A run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    stages: BTreeMap<String, StageView>,
    /// What the searches chose.
    pub(crate) choices: Vec<Choice>,
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
            let watched = self.stages.entry(folder.name.clone()).or_insert_with(|| StageView::new(folder.clone()));
            watched.folder = folder;
            watched.refresh()?;
        }
        self.choices = choices(&read(&run.join("search.json")));
        let results = read(&run.join("results.json"));
        let row = |row: &Value| Some((row["name"].as_str()?.to_string(), row["test_accuracy"].as_f64()?));
        let real = results["real"]["test_accuracy"].as_f64().map(|accuracy| ("real images".to_string(), accuracy));
        let list = |key: &str| results[key].as_array().into_iter().flatten();
        let larger =
            |larger: &Value| Some((format!("real images, {}x", larger["times"]), larger["test_accuracy"].as_f64()?));
        for (folder, stage) in &mut self.stages {
            let its = list("rows").filter(|row| row["artifact"] == folder.as_str());
            stage.rows = its.filter_map(|row| Some(row["name"].as_str()?.to_string())).collect();
        }
        self.results = list("rows").filter_map(row).chain(real).chain(list("larger").filter_map(larger)).collect();
        Ok(())
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
        let trials = self.stages.values().filter(|stage| stage.folder.done && !stage.setting.is_empty());
        trials.filter_map(|stage| Some((stage, stage.best()?))).max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// A JSON file; null if it is missing or incomplete.
fn read(path: &Path) -> Value {
    std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn choices(search: &Value) -> Vec<Choice> {
    let step = |step: &Value| {
        // A step without students was screened in closed form.
        let trained = step["trials"].as_array().is_some_and(|trials| !trials.is_empty());
        let list = &step[if trained { "trials" } else { "screened" }];
        let trial = &list[usize::try_from(step["chosen"].as_u64()?).ok()?];
        let generator = step["generator"].as_u64().map(|n| format!(", generator {}", n + 1)).unwrap_or_default();
        Some(Choice {
            what: format!("{} ({}{generator})", step["name"].as_str()?, step["strategy"].as_str().unwrap_or_default()),
            setting: setting(&trial["setting"], &trial["setting"]["recycle"]),
            val: trial["val"].as_f64(),
        })
    };
    search["steps"].as_array().into_iter().flatten().filter_map(step).collect()
}

/// A setting, as text.
fn setting(source: &Value, recycle: &Value) -> String {
    let threshold = [&source["threshold"], &source["filter"]["threshold"]].into_iter().find(|t| !t.is_null());
    let known = [
        ("checkpoint", Some(&source["checkpoint"])),
        ("std", Some(&source["std"])),
        ("threshold", threshold),
        ("renewed every", Some(&recycle["period"])),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_null())?)));
    known.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

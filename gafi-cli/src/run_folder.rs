//! Reads a run's folder while another process may write to it: its stages, finished or in progress, and their logs. Nothing is
//! locked; incomplete files and lines are skipped until they are complete.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use gafi_core::{LOG_FILE, MANIFEST_FILE};
use serde_json::Value;

use gafi_pipeline::Usage;

/// The folder of a stage in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StageFolder {
    /// Name of the folder once the stage is finished.
    pub(crate) name: String,
    /// The folder with that name, or the hidden one beside it while the stage runs.
    pub(crate) path: PathBuf,
    /// Whether it has a manifest.
    pub(crate) done: bool,
}

impl StageFolder {
    /// Modification time of its log, or of its folder if it has no log.
    pub(crate) fn modified(&self) -> Option<SystemTime> {
        let time = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
        time(&self.path.join(LOG_FILE)).or_else(|| time(&self.path))
    }
}

/// The stages in `run` by name, finished or in progress. `run` may itself be an artifact.
///
/// # Errors
/// [`Usage`] if there is no such folder; an error if it cannot be listed.
pub(crate) fn stages(run: &Path) -> Result<Vec<StageFolder>> {
    ensure!(run.is_dir(), Usage(format!("{}: expected the folder of a run or of an artifact", run.display())));
    let mut found = Vec::new();
    if run.join(MANIFEST_FILE).is_file() {
        let name = run.canonicalize()?.file_name().map(|name| name.to_string_lossy().into_owned());
        found.push(StageFolder { name: name.unwrap_or_default(), path: run.into(), done: true });
    }
    for entry in std::fs::read_dir(run).with_context(|| format!("listing {}", run.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let running = name.strip_prefix('.').and_then(|name| name.strip_suffix(".partial"));
        match running {
            Some(name) if path.is_dir() => found.push(StageFolder { name: name.into(), done: false, path }),
            None if !name.starts_with('.') && path.join(MANIFEST_FILE).is_file() => {
                found.push(StageFolder { name: name.into(), done: true, path });
            }
            _ => {}
        }
    }
    // A stage that is being renamed or rebuilt counts as finished.
    found.sort_by(|a, b| (&a.name, !a.done).cmp(&(&b.name, !b.done)));
    found.dedup_by(|a, b| a.name == b.name);
    Ok(found)
}

/// Reads a log as it grows.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogReader {
    /// Bytes read so far, all of them complete lines.
    read: u64,
}

impl LogReader {
    /// The records added since the last call, in order. Lines that are not JSON are skipped; a missing log has no records.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub(crate) fn more(&mut self, stage: &StageFolder) -> Result<Vec<Value>> {
        let path = stage.path.join(LOG_FILE);
        let mut file = match gafi_core::open_regular(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).with_context(|| format!("opening {}", path.display())),
        };
        // A shorter log is a new one: the stage was restarted.
        if file.metadata()?.len() < self.read {
            self.read = 0;
        }
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(|| format!("reading {}", path.display()))?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.read += whole as u64;
        Ok(text[..whole].split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

/// An event of a log that counts epochs or steps, with its numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    /// Kind of event: `epoch`, `step`, `renewal`.
    pub(crate) event: String,
    /// The epoch or step.
    pub(crate) at: u64,
    /// Numbers by name; names of nested ones are joined with `/`.
    pub(crate) values: Vec<(String, f64)>,
}

impl Point {
    /// The point of a log record; `None` for a record without a count.
    pub(crate) fn of(record: &Value) -> Option<Self> {
        let event = record["event"].as_str()?;
        let (counted, at) = ["step", "epoch"].iter().find_map(|key| Some((*key, record[*key].as_u64()?)))?;
        let mut values = Vec::new();
        for (key, value) in record.as_object()?.iter().filter(|(key, _)| *key != counted) {
            flatten(key, value, &mut values);
        }
        Some(Self { event: event.into(), at, values })
    }

    /// The number called `name`.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }
}

fn flatten(name: &str, value: &Value, into: &mut Vec<(String, f64)>) {
    match value {
        Value::Number(number) => into.extend(number.as_f64().map(|number| (name.to_string(), number))),
        Value::Object(fields) => fields.iter().for_each(|(key, inner)| flatten(&format!("{name}/{key}"), inner, into)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn finished_and_running_stages_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        };
        for path in ["b/manifest.json", ".a.partial/begun.json", ".b.partial/begun.json", "c/notes.txt", "results.json"]
        {
            put(path);
        }
        let found = stages(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|stage| (stage.name.as_str(), stage.done)).collect();
        assert_eq!(names, [("a", false), ("b", true)]);
        assert_eq!(stages(&dir.path().join("b")).unwrap()[0].name, "b");
        assert!(stages(&dir.path().join("nowhere")).unwrap_err().is::<Usage>());
    }

    #[test]
    fn a_growing_log_is_read_in_complete_lines() {
        let dir = tempfile::tempdir().unwrap();
        let stage = StageFolder { name: "a".into(), path: dir.path().into(), done: false };
        let mut reader = LogReader::default();
        assert!(reader.more(&stage).unwrap().is_empty());
        let mut log = std::fs::File::create(dir.path().join(LOG_FILE)).unwrap();
        log.write_all(b"{\"epoch\":1}\n{\"epo").unwrap();
        assert_eq!(reader.more(&stage).unwrap(), [serde_json::json!({"epoch": 1})]);
        assert!(reader.more(&stage).unwrap().is_empty());
        log.write_all(b"ch\":2}\nnonsense\n").unwrap();
        assert_eq!(reader.more(&stage).unwrap(), [serde_json::json!({"epoch": 2})]);
        std::fs::write(dir.path().join(LOG_FILE), "{\"epoch\":3}\n").unwrap();
        assert_eq!(reader.more(&stage).unwrap(), [serde_json::json!({"epoch": 3})]);
    }

    #[test]
    fn points_are_records_with_a_count() {
        let record =
            serde_json::json!({"event": "step", "step": 50, "losses": {"d": 0.5, "g": -1}, "rate": 2.0, "note": "x"});
        let point = Point::of(&record).unwrap();
        assert_eq!((point.event.as_str(), point.at), ("step", 50));
        assert_eq!(point.values, [("losses/d".into(), 0.5), ("losses/g".into(), -1.0), ("rate".into(), 2.0)]);
        assert!(Point::of(&serde_json::json!({"event": "finished", "wall_s": 1.0})).is_none());
    }
}

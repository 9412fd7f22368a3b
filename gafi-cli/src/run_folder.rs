//! A folder of a run as others see it while it grows: which stages are done or under way, and what their logs say. Nothing is
//! locked or written, and what another process is in the middle of writing is passed over until it is whole.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use gafi_core::{LOG_FILE, MANIFEST_FILE};
use serde_json::Value;

use gafi_pipeline::Usage;

/// A stage's folder in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StageFolder {
    /// Its name when it is done.
    pub(crate) name: String,
    /// Where it is now: under that name, or beside it while it is made.
    pub(crate) path: PathBuf,
    /// Whether it has its manifest.
    pub(crate) done: bool,
}

impl StageFolder {
    /// When its log was last written to; without one, when its folder was.
    pub(crate) fn heard(&self) -> Option<SystemTime> {
        let time = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
        time(&self.path.join(LOG_FILE)).or_else(|| time(&self.path))
    }
}

/// The stages in `run` by name: artifacts, and what is being made of them. `run` itself may be one.
///
/// # Errors
/// When `run` cannot be listed; [`Usage`] when there is no such folder.
pub(crate) fn stages(run: &Path) -> Result<Vec<StageFolder>> {
    if !run.is_dir() {
        return Err(Usage(format!("{} is no folder", run.display())).into());
    }
    let mut found = Vec::new();
    if run.join(MANIFEST_FILE).is_file() {
        let name = run.canonicalize()?.file_name().map(|name| name.to_string_lossy().into_owned());
        found.push(StageFolder { name: name.unwrap_or_default(), path: run.into(), done: true });
    }
    for entry in std::fs::read_dir(run).with_context(|| format!("listing {}", run.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let under_way = name.strip_prefix('.').and_then(|name| name.strip_suffix(".partial"));
        match under_way {
            Some(name) if path.is_dir() => found.push(StageFolder { name: name.into(), done: false, path }),
            None if !name.starts_with('.') && path.join(MANIFEST_FILE).is_file() => {
                found.push(StageFolder { name: name.into(), done: true, path });
            }
            _ => {}
        }
    }
    // Of one that is just being renamed, or made again, what is done counts.
    found.sort_by(|a, b| (&a.name, !a.done).cmp(&(&b.name, !b.done)));
    found.dedup_by(|a, b| a.name == b.name);
    Ok(found)
}

/// A log that is read as it grows.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogReader {
    /// Bytes that were read, all of them whole lines.
    read: u64,
}

impl LogReader {
    /// The records that were added since, in order; lines that are no JSON are passed over. No log, no records.
    ///
    /// # Errors
    /// A log that is there and cannot be read.
    pub(crate) fn more(&mut self, stage: &StageFolder) -> Result<Vec<Value>> {
        let path = stage.path.join(LOG_FILE);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).with_context(|| format!("opening {}", path.display())),
        };
        // A shorter log is another one: the stage was begun again.
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

/// Something that a stage counted to, and numbers that belong to it: an event of the log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    /// What it is of: `epoch`, `step`, `renewal`.
    pub(crate) event: String,
    /// The epoch or step.
    pub(crate) at: u64,
    /// Numbers by name; of nested ones the names are joined with `/`.
    pub(crate) values: Vec<(String, f64)>,
}

impl Point {
    /// That of a record of a log; none for a record that counts nothing.
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
    fn stages_are_found_done_and_under_way() {
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
    fn a_log_is_read_in_whole_lines_as_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let stage = StageFolder { name: "a".into(), path: dir.path().into(), done: false };
        let mut reader = LogReader::default();
        assert!(reader.more(&stage).unwrap().is_empty());
        let mut log = File::create(dir.path().join(LOG_FILE)).unwrap();
        log.write_all(b"{\"epoch\":1}\n{\"epo").unwrap();
        assert_eq!(reader.more(&stage).unwrap(), [serde_json::json!({"epoch": 1})]);
        assert!(reader.more(&stage).unwrap().is_empty());
        log.write_all(b"ch\":2}\nnonsense\n").unwrap();
        assert_eq!(reader.more(&stage).unwrap(), [serde_json::json!({"epoch": 2})]);
        std::fs::write(dir.path().join(LOG_FILE), "{\"epoch\":3}\n").unwrap();
        assert_eq!(reader.more(&stage).unwrap(), [serde_json::json!({"epoch": 3})]);
    }

    #[test]
    fn points_are_what_counts_something() {
        let record =
            serde_json::json!({"event": "step", "step": 50, "losses": {"d": 0.5, "g": -1}, "rate": 2.0, "note": "x"});
        let point = Point::of(&record).unwrap();
        assert_eq!((point.event.as_str(), point.at), ("step", 50));
        assert_eq!(point.values, [("losses/d".into(), 0.5), ("losses/g".into(), -1.0), ("rate".into(), 2.0)]);
        assert!(Point::of(&serde_json::json!({"event": "finished", "wall_s": 1.0})).is_none());
    }
}

//! Stages, folders and datasets shared by the tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gafi_core::*;
use serde_json::{Value, json};

/// The work of a [`Made`] stage.
type Run = Box<dyn Fn(&Inputs, &mut ArtifactWriter, &Context) -> Result<()>>;

/// A stage from a closure.
pub(crate) struct Made {
    pub(crate) kind: Kind,
    pub(crate) config: Value,
    pub(crate) ports: &'static [Port],
    run: Run,
}

impl Made {
    pub(crate) fn new(
        kind: Kind,
        run: impl Fn(&Inputs, &mut ArtifactWriter, &Context) -> Result<()> + 'static,
    ) -> Self {
        Self { kind, config: Value::Null, ports: &[], run: Box::new(run) }
    }
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Made")
    }
}

impl Stage for Made {
    fn info(&self) -> StageInfo {
        StageInfo { name: "made", revision: 1, ports: self.ports, output: self.kind }
    }
    fn config(&self) -> Value {
        self.config.clone()
    }
    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }
    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        (self.run)(inputs, out, cx)
    }
}

pub(crate) const IMAGE: ImageSpec = ImageSpec::new(1, 2, 3);

/// Called with the number of rows pushed so far.
pub(crate) type Hook = Arc<dyn Fn(u64, &Path, &Context) -> Result<()> + Send + Sync>;

/// A resumable stage that writes `rows` numbered rows, `batch` at a time.
#[derive(Clone)]
pub(crate) struct Count {
    pub(crate) rows: u64,
    pub(crate) batch: u64,
    pub(crate) split: Split,
    /// Called after each push with the number of rows so far and the folder; not part of the configuration.
    pub(crate) hook: Option<Hook>,
    /// Number of runs.
    pub(crate) runs: Arc<AtomicU64>,
    /// The row at which each run started.
    pub(crate) begun_at: Arc<Mutex<Vec<u64>>>,
}

impl Count {
    /// 20,000 rows in pushes of 1,000: shards of 8,000, 8,000 and 4,000.
    pub(crate) fn new() -> Self {
        Self::of(20_000)
    }

    pub(crate) fn of(rows: u64) -> Self {
        Self { rows, batch: 1000, split: Split::Train, hook: None, runs: Arc::default(), begun_at: Arc::default() }
    }

    /// The same stage with a hook.
    pub(crate) fn hooked(&self, hook: impl Fn(u64, &Path, &Context) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { hook: Some(Arc::new(hook)), ..self.clone() }
    }

    /// The same stage, requesting a stop once `rows` rows are pushed.
    pub(crate) fn stopping_at(&self, rows: u64) -> Self {
        self.hooked(move |at, _, cx| {
            if at >= rows {
                cx.stop.store(true, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Count({})", self.rows)
    }
}

/// Two classes.
pub(crate) fn classes() -> Vec<String> {
    vec!["even".into(), "odd".into()]
}

/// The rows `from..to` of [`Count`].
pub(crate) fn rows(from: u64, to: u64) -> Batch {
    let pixel = |row: u64, i: u64| (row * 31 + i * 7 + row / 256) as u8;
    Batch {
        labels: (from..to).map(|r| ClassId((r % 2) as u32)).collect(),
        images: (from..to).flat_map(|r| (0..IMAGE.bytes() as u64).map(move |i| pixel(r, i))).collect(),
        ids: (from..to).collect(),
        ..Batch::default()
    }
}

impl Stage for Count {
    fn info(&self) -> StageInfo {
        StageInfo {
            name: "count",
            revision: 1,
            ports: const { &[Port::optional("seed", Kind::Dataset)] },
            output: Kind::Dataset,
        }
    }
    fn config(&self) -> Value {
        json!({"rows": self.rows, "batch": self.batch, "split": self.split})
    }
    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }
    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let dir = out.dir().to_path_buf();
        let (mut writer, at) = DatasetWriter::begin(out, DatasetInfo::new(IMAGE, classes(), self.split))?;
        let mut at = at.and_then(|v| v.as_u64()).unwrap_or(0);
        self.begun_at.lock().unwrap().push(at);
        while at < self.rows {
            cx.checkpoint()?;
            let next = self.rows.min(at + self.batch);
            writer.push(&rows(at, next), json!(next))?;
            at = next;
            if let Some(hook) = &self.hook {
                hook(at, &dir, cx)?;
            }
        }
        writer.finish()?;
        Ok(())
    }
}

/// The bytes of every file in an artifact's folder except the log.
pub(crate) fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name != LOG_FILE {
            files.insert(name, fs::read(entry.path()).unwrap_or_else(|e| panic!("{:?}: {e}", entry.path())));
        }
    }
    files
}

/// The names in a folder.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs a stage without inputs in a quiet context.
pub(crate) fn make(stage: &dyn Stage, dest: &Path) -> Result<Outcome> {
    execute(stage, &Inputs::new(), dest, &Context::default())
}

/// Changes the byte at `at` (from the end if negative).
pub(crate) fn flip(path: &Path, at: i64) {
    let mut bytes = fs::read(path).unwrap();
    let at = if at < 0 { bytes.len() - at.unsigned_abs() as usize } else { at as usize };
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Copies a folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &to) } else { fs::copy(entry.path(), to).map(drop).unwrap() }
    }
}

/// Writes an artifact folder by hand, as another program would: any content, any files, with correct lengths and hashes.
pub(crate) fn by_hand(dir: &Path, kind: Kind, content: Value, files: &[(&str, Vec<u8>)]) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let made_by = Provenance {
        stage: "by-hand".into(),
        revision: 1,
        config: Value::Null,
        inputs: BTreeMap::new(),
        version: "1".into(),
    };
    let mut entries = BTreeMap::new();
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
        entries.insert((*name).to_string(), hash_file(&dir.join(name)).unwrap());
    }
    let fingerprint = made_by.fingerprint();
    let manifest =
        Manifest { format: FORMAT_VERSION, kind, made_by, fingerprint, content, files: entries, checksum: None };
    fs::write(dir.join(MANIFEST_FILE), serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
    dir.to_path_buf()
}

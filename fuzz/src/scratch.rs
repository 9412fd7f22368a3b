//! What the targets share: a folder for files, a context with every network, and small artifacts to start from.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use gafi_cli::Registry;
use gafi_core::{
    Artifact, ArtifactWriter, Batch, ClassId, Context, DatasetInfo, DatasetWriter, FileEntry, ImageSpec, Inputs, Kind,
    Manifest, Provenance, Result, Split, Stage, StageInfo, execute,
};
use serde_json::{Value, json};

/// Classes of all seeds.
pub(crate) const CLASSES: [&str; 2] = ["cat", "dog"];

/// The folder of this process. The driver points the folder for temporary files to a file system in memory, and clears it.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("gafi-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
        folder
    })
}

/// Writes a file below [`folder`].
pub(crate) fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("folders can be created");
    }
    fs::write(&path, bytes).expect("files can be written");
    path
}

/// An empty folder below [`folder`].
pub(crate) fn empty(name: &str) -> PathBuf {
    let path = folder().join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("folders can be created");
    path
}

/// A context with GaFi's own networks. No artifact may start a program.
pub(crate) fn cx() -> &'static Context {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    CONTEXT.get_or_init(|| Context::new(Registry::standard().loaders(&Device::Cpu)))
}

/// Handles a result like a program that shows errors: formatting them must not fail either.
pub(crate) fn show<T, E: std::fmt::Display>(result: std::result::Result<T, E>) -> Option<T> {
    let checked = |error: &E| {
        let text = format!("{error:#}");
        assert!(!text.is_empty(), "an error without a message");
        if VERBOSE.load(Ordering::Relaxed) {
            eprintln!("{}", gafi_core::printable(text));
        }
    };
    result.inspect_err(checked).ok()
}

/// Whether errors are printed.
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Prints the errors of readers to standard error from now on.
pub fn print_errors() {
    VERBOSE.store(true, Ordering::Relaxed);
}

/// The part of an input before the first `mark`, and the part after it.
pub(crate) fn split<'a>(input: &'a [u8], mark: &[u8]) -> (&'a [u8], &'a [u8]) {
    let at = input.windows(mark.len()).position(|window| window == mark);
    at.map_or((input, &[]), |at| (&input[..at], &input[at + mark.len()..]))
}

/// Writes an artifact without a stage, whose manifest fits its files.
pub(crate) fn artifact(name: &str, kind: Kind, content: Value, files: &[(&str, &[u8])]) -> PathBuf {
    let made_by = Provenance {
        stage: "fuzz".into(),
        revision: 1,
        config: json!({"seed": 7}),
        inputs: Default::default(),
        version: "0.1.0".into(),
    };
    let entry = |bytes: &[u8]| FileEntry { bytes: bytes.len() as u64, blake3: hash(bytes) };
    for (file, bytes) in files {
        put(&format!("{name}/{file}"), bytes);
    }
    let files = files.iter().map(|(file, bytes)| (file.to_string(), entry(bytes))).collect();
    let fingerprint = made_by.fingerprint();
    let manifest = Manifest { format: 2, kind, made_by, fingerprint, content, files, checksum: None };
    put(&format!("{name}/manifest.json"), &serde_json::to_vec_pretty(&manifest).expect("a manifest has a JSON form"));
    folder().join(name)
}

fn hash(bytes: &[u8]) -> String {
    let path = put("hashed", bytes);
    gafi_core::hash_file(&path).expect("a file that was just written can be read").blake3
}

/// A stage that writes grey or coloured squares of `size` pixels, `rows` of each class.
#[derive(Debug)]
pub(crate) struct Squares {
    pub(crate) channels: usize,
    pub(crate) size: usize,
    pub(crate) rows: usize,
    pub(crate) split: Split,
}

impl Squares {
    /// Its dataset, in the folder `name`.
    pub(crate) fn write(&self, name: &str) -> Artifact {
        execute(self, &Inputs::new(), &folder().join(name), cx()).expect("a small dataset can be written").artifact
    }
}

impl Stage for Squares {
    fn info(&self) -> StageInfo {
        StageInfo { name: "squares", revision: 1, ports: &[], output: Kind::Dataset }
    }
    fn config(&self) -> Value {
        json!([self.channels, self.size, self.rows, self.split])
    }
    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }
    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
        let spec = ImageSpec::new(self.channels, self.size, self.size);
        let (mut writer, _) =
            DatasetWriter::begin(out, DatasetInfo::new(spec, CLASSES.map(String::from).into(), self.split))?;
        let labels: Vec<_> = (0..2 * self.rows).map(|row| ClassId(row as u32 % 2)).collect();
        let images =
            labels.iter().enumerate().flat_map(|(row, class)| vec![(row * 9) as u8 + 99 * class.0 as u8; spec.bytes()]);
        let batch =
            Batch { images: images.collect(), ids: (0..labels.len() as u64).collect(), labels, ..Batch::default() };
        writer.push(&batch, Value::Null)?;
        writer.finish().map(drop)
    }
}

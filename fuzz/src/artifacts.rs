//! Artifacts, the records beside them, and folders for other programs.

use std::fs;
use std::sync::OnceLock;

use gafi_core::{
    Artifact, Dataset, DatasetInfo, FolderWriter, Kind, Lock, Rows as _, RunControl, Split, check_dataset,
};
use serde_json::Value;

use crate::models;
use crate::scratch::{Squares, artifact, cx, empty, folder, put, show, split};

/// Opens an artifact as the kind that it claims, and reads all of it.
fn read(artifact: &Artifact) {
    let whole = show(artifact.verify_rows(&RunControl::default())).is_some();
    if artifact.kind() == Kind::Dataset {
        show(DatasetInfo::of(artifact));
        let Some(set) = show(Dataset::open(artifact)) else { return };
        let images = set.info().image.bytes();
        for batch in set.batches() {
            assert!(show(batch).is_some() || !whole, "a row of a verified dataset cannot be read");
        }
        let last = [set.len() - 1];
        show(set.read(&last, &mut vec![0; images]));
        show(set.probabilities(&last));
        show(set.ids(&last));
    }
    show(cx().models.open_generator(artifact, None));
    show(cx().models.open_scorer(artifact));
    for name in artifact.manifest().files.keys() {
        show(artifact.read(name));
    }
}

fn squares() -> Artifact {
    Squares { channels: 1, size: 4, rows: 3, split: Split::Train }.write("squares")
}

/// The manifests of a dataset, a generator, a classifier and a record. Their files are in one folder.
pub(crate) fn manifests() -> Vec<Vec<u8>> {
    let made = [squares(), models::trained().0.clone(), models::trained().1.clone()];
    let mut manifests = Vec::new();
    for artifact in made {
        for name in artifact.manifest().files.keys() {
            put(&format!("any/{name}"), &artifact.read(name).expect("a new artifact is whole"));
        }
        let bytes = fs::read(artifact.path().join("manifest.json")).expect("a new artifact has a manifest");
        // Without its checksum, more of a changed manifest is read.
        let mut open: Value = serde_json::from_slice(&bytes).expect("a manifest is JSON");
        open.as_object_mut().and_then(|fields| fields.remove("checksum"));
        manifests.extend([open.to_string().into_bytes(), bytes]);
    }
    let trials = artifact("record", Kind::Trials, serde_json::json!({"n": 3}), &[("evaluation.json", b"{}")]);
    put("any/evaluation.json", b"{}");
    manifests.push(fs::read(trials.join("manifest.json")).expect("it was just written"));
    manifests
}

pub(crate) fn manifest(input: &[u8]) {
    static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(manifests);
    put("any/manifest.json", input);
    if let Some(artifact) = show(Artifact::open(folder().join("any"))) {
        read(&artifact);
    }
}

/// The description of a dataset, a line end, and a shard.
pub(crate) fn datasets() -> Vec<Vec<u8>> {
    let set = squares();
    let shard = set.read("shard-00000.safetensors").expect("a new artifact is whole");
    let text = set.manifest().content.to_string();
    vec![[text.as_bytes(), b"\n", &shard].concat()]
}

pub(crate) fn dataset(input: &[u8]) {
    let (text, shard) = split(input, b"\n");
    let Ok(content) = serde_json::from_slice::<Value>(text) else { return };
    let files = [("shard-00000.safetensors", shard)];
    let set = artifact("set", Kind::Dataset, content.clone(), &files);
    if let Some(info) = show(serde_json::from_value(content)) {
        show(check_dataset(&set, &info));
    }
    if let Some(artifact) = show(Artifact::open(&set)) {
        read(&artifact);
    }
}

pub(crate) fn files_lists() -> Vec<Vec<u8>> {
    vec![b"[\"a.txt\",\"b/c.txt\"]".into(), b"[]".into()]
}

pub(crate) fn files_list(input: &[u8]) {
    let dest = empty("folder");
    for name in ["folder/a.txt", "folder/b/c.txt"] {
        put(name, b"x");
    }
    put("folder/.gafi-files.json", input);
    if let Some(writer) = show(FolderWriter::begin(&dest, true, &RunControl::default())) {
        show(writer.finish());
    }
}

/// Records of the owners of locks.
pub(crate) fn owners() -> Vec<Vec<u8>> {
    let dest = folder().join("locked");
    let lock = Lock::take(&dest).expect("a new lock can be taken");
    let own = fs::read(folder().join(".locked.lock")).expect("a lock has a file");
    drop(lock);
    let lease = br#"{"host":"node7","boot":"","pid":4194303,"job":"12_3","serial":0,"lease_s":120}"#;
    // Numbers of processes differ from run to run, and seeds must not.
    let mut owner: Value = serde_json::from_slice(&own).expect("an owner is JSON");
    owner["pid"] = 4_194_302.into();
    owner["serial"] = 0.into();
    vec![owner.to_string().into_bytes(), lease.to_vec()]
}

/// The lock of another process.
pub(crate) fn lock(input: &[u8]) {
    let dest = folder().join("locked");
    let held = Lock::take(&dest).expect("nobody else holds it");
    put(".locked.lock", input);
    let second = show(Lock::take(&dest));
    assert!(second.is_none(), "a lock that is held was taken");
    drop(held);
}

/// The lease of another process.
pub(crate) fn lease(input: &[u8]) {
    let dest = folder().join("leased");
    put(".leased.lease", input);
    show(Lock::take(&dest));
    for end in ["lease", "lock", "steal"] {
        let _ = fs::remove_file(folder().join(format!(".leased.{end}")));
    }
}

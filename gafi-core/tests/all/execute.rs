//! `execute`: reuse, force, occupied destinations, locks, interruption, and checks before anything runs.

use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gafi_core::*;
use serde_json::json;

use crate::common::*;

fn forced() -> Context {
    Context { force: true, ..Context::default() }
}

#[test]
fn artifacts_are_reused_and_equal_runs_give_equal_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Count::new();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let first = make(&stage, &a).unwrap();
    assert!(!first.cached);
    let again = make(&stage, &a).unwrap();
    assert!(again.cached);
    assert_eq!((stage.runs(), again.artifact.id()), (1, first.artifact.id()));
    let elsewhere = make(&stage, &b).unwrap();
    assert_eq!((stage.runs(), elsewhere.artifact.id()), (2, first.artifact.id()));
    assert_eq!(tree(&a), tree(&b));
    assert_eq!(names(dir.path()), ["a", "b"]);
}

#[test]
fn a_lock_file_of_a_killed_process_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (dest, lock) = (dir.path().join("x"), dir.path().join(".x.lock"));
    let stage = Count::new();
    make(&stage, &dest).unwrap();
    fs::write(&lock, "").unwrap();
    assert!(make(&stage, &dest).unwrap().cached);
    // On other systems lock files stay.
    assert_eq!(lock.exists(), !cfg!(unix));
}

#[test]
fn force_runs_again_and_replaces_another_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("x");
    let (small, large) = (Count::of(10), Count::of(20));
    let old = make(&small, &dest).unwrap().artifact;
    assert!(!execute(&small, &Inputs::new(), &dest, &forced()).unwrap().cached);
    assert_eq!(small.runs(), 2);
    let found = make(&large, &dest).unwrap_err();
    assert!(matches!(&found, Error::Occupied { found, .. } if found.contains("stage count")), "{found}");
    assert!(found.is_usage());
    assert_eq!(Artifact::open(&dest).unwrap().id(), old.id());
    let new = execute(&large, &Inputs::new(), &dest, &forced()).unwrap().artifact;
    assert_ne!(new.id(), old.id());
    assert_eq!(names(dir.path()), ["x"]);
}

#[test]
fn a_damaged_artifact_is_an_error_and_force_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("x");
    let stage = Count::of(10);
    make(&stage, &dest).unwrap();
    let shard = dest.join("shard-00000.safetensors");
    fs::write(&shard, "short").unwrap();
    assert!(make(&stage, &dest).unwrap_err().to_string().contains("shard-00000.safetensors: length"));
    execute(&stage, &Inputs::new(), &dest, &forced()).unwrap().artifact.verify().unwrap();
    // An artifact of a later format version is still an artifact.
    let manifest = fs::read_to_string(dest.join(MANIFEST_FILE)).unwrap().replace("\"format\": 2", "\"format\": 9");
    fs::write(dest.join(MANIFEST_FILE), manifest).unwrap();
    assert!(make(&stage, &dest).unwrap_err().to_string().contains("version 9"));
    execute(&stage, &Inputs::new(), &dest, &forced()).unwrap();
}

#[test]
fn force_never_removes_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Count::of(10);
    let (folder, file, app) = (dir.path().join("photos"), dir.path().join("file"), dir.path().join("app"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("holiday.png"), "dear").unwrap();
    fs::write(&file, "dear").unwrap();
    fs::create_dir(&app).unwrap();
    fs::write(app.join(MANIFEST_FILE), r#"{"name": "some other program's manifest"}"#).unwrap();
    let before: Vec<_> = names(dir.path());
    for dest in [&folder, &file, &app] {
        let error = execute(&stage, &Inputs::new(), dest, &forced()).unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && error.is_usage(), "{error}");
        assert!(error.to_string().contains(&*dest.to_string_lossy()), "{error}");
        assert!(make(&stage, dest).is_err());
    }
    assert_eq!(fs::read(folder.join("holiday.png")).unwrap(), b"dear");
    assert_eq!(fs::read(&file).unwrap(), b"dear");
    assert_eq!((stage.runs(), names(dir.path())), (0, before));
    let occupied = make(&stage, &folder).unwrap_err();
    assert!(matches!(occupied, Error::Occupied { .. }), "{occupied}");
    // An empty folder is free.
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    make(&stage, &empty).unwrap();
}

#[test]
fn a_destination_without_a_name_is_an_error() {
    for dest in ["/", "..", "a/.."] {
        let error = make(&Count::of(10), dest.as_ref()).unwrap_err();
        assert!(matches!(error, Error::Format { .. } | Error::Occupied { .. }), "{dest}: {error}");
    }
}

#[test]
fn a_locked_artifact_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("x");
    let lock = dir.path().join(".x.lock");
    let stage = Count::of(10);
    let held = File::create(&lock).unwrap();
    held.lock().unwrap();
    let error = make(&stage, &dest).unwrap_err();
    assert!(matches!(&error, Error::Locked { lock: l, .. } if *l == lock), "{error}");
    assert_eq!((stage.runs(), names(dir.path())), (0, vec![".x.lock".to_string()]));
    // Its process dies and leaves the file.
    drop(held);
    make(&stage, &dest).unwrap();
    assert_eq!(names(dir.path()), ["x"]);

    let other = dir.path().join("y");
    let writer = ArtifactWriter::begin(&other, Kind::Dataset, provenance(&stage, &Inputs::new())).unwrap();
    assert!(matches!(make(&stage, &other), Err(Error::Locked { .. })));
    drop(writer);
    make(&stage, &other).unwrap();
    assert_eq!(names(dir.path()), ["x", "y"]);
}

/// Many threads take the lock; two never write at once, and each gets a complete artifact.
#[test]
fn only_one_process_writes_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("x");
    let (inside, done) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let inside = inside.clone();
                    let stage = Made::new(Kind::Trials, move |_, out, _| {
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two writers at once");
                        std::thread::yield_now();
                        let written = out.write("a", b"a");
                        inside.fetch_sub(1, Ordering::SeqCst);
                        written
                    });
                    match execute(&stage, &Inputs::new(), &dest, &forced()) {
                        Ok(outcome) => {
                            done.fetch_add(1, Ordering::SeqCst);
                            drop(outcome);
                        }
                        Err(Error::Locked { .. }) => std::thread::yield_now(),
                        // It may open the artifact of a later writer, but never a partial one.
                        Err(Error::NoArtifact { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
    });
    assert!(done.load(Ordering::SeqCst) > 0);
    Artifact::open(&dest).unwrap().verify().unwrap();
    assert_eq!(names(dir.path()), ["x"]);
}

#[test]
fn interrupted_runs_resume_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Count::new();
    let want = make(&stage, &dir.path().join("want")).unwrap().artifact;
    for at in [1000, 8000, 9000, 16_000, 17_000, 19_000] {
        let stage = Count::new();
        let dest = dir.path().join(format!("x{at}"));
        let error = make(&stage.stopping_at(at), &dest).unwrap_err();
        assert!(matches!(error, Error::Interrupted), "{error}");
        assert!(!dest.exists() && dir.path().join(format!(".x{at}.partial")).exists());
        let got = make(&stage, &dest).unwrap();
        assert!(!got.cached);
        assert_eq!(got.artifact.id(), want.id(), "stopped at {at}");
        assert_eq!(tree(&dest), tree(want.path()), "stopped at {at}");
        // A shard of 8,000 rows is written when the next batch does not fit.
        let whole = (at - 1) / 8000 * 8000;
        assert_eq!(*stage.begun_at.lock().unwrap(), [0, whole]);
    }
    // Several interruptions.
    let dest = dir.path().join("often");
    let mut stops = 0;
    for at in (2000..).step_by(3000) {
        match make(&stage.stopping_at(at), &dest) {
            Err(Error::Interrupted) => stops += 1,
            done => {
                assert_eq!(done.unwrap().artifact.id(), want.id());
                break;
            }
        }
    }
    assert_eq!(stops, 6);
    assert!(names(dir.path()).iter().all(|n| !n.starts_with('.')), "nothing is left beside them");
}

#[test]
fn a_stop_before_the_start_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cx = Context::default();
    cx.stop.store(true, Ordering::Relaxed);
    let error = execute(&Count::of(10), &Inputs::new(), &dir.path().join("x"), &cx).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_failure_leaves_resumable_work_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("x");
    let failing = |rows: u64| {
        Count::new().hooked(
            move |at, _, _| {
                if at >= rows { Err(Error::config("oh", "no", "better luck")) } else { Ok(()) }
            },
        )
    };
    make(&failing(1000), &dest).unwrap_err();
    assert_eq!(names(dir.path()), [""; 0], "nothing was saved, so nothing stays");
    make(&failing(10_000), &dest).unwrap_err();
    assert_eq!(names(dir.path()), [".x.partial"]);
    let stage = Count::new();
    make(&stage, &dest).unwrap();
    assert_eq!(*stage.begun_at.lock().unwrap(), [8000]);
    assert_eq!(names(dir.path()), ["x"]);
}

#[test]
fn a_changed_byte_of_an_input_is_found_before_the_stage_runs() {
    let dir = tempfile::tempdir().unwrap();
    let input = make(&Count::new(), &dir.path().join("in")).unwrap().artifact;
    let stage = Count::of(10);
    let inputs = Inputs::new().with("seed", &input);
    for at in [0, 9, 5000, -1] {
        let shard = input.path().join("shard-00001.safetensors");
        flip(&shard, at);
        let error = execute(&stage, &inputs, &dir.path().join("out"), &Context::default()).unwrap_err();
        assert!(matches!(&error, Error::Format { path, .. } if *path == shard), "{error}");
        assert!(error.to_string().contains("expected BLAKE3"), "{error}");
        flip(&shard, at);
    }
    assert_eq!((stage.runs(), names(dir.path())), (0, vec!["in".to_string()]));
    execute(&stage, &inputs, &dir.path().join("out"), &Context::default()).unwrap();
    // The id of an input is part of the fingerprint.
    let other = make(&Count::of(12), &dir.path().join("other")).unwrap().artifact;
    let with = |a: &Artifact| provenance(&stage, &Inputs::new().with("seed", a)).fingerprint();
    assert_ne!(with(&input), with(&other));
    assert_ne!(with(&input), provenance(&stage, &Inputs::new()).fingerprint());
}

#[test]
fn ports_are_checked_before_the_stage_runs() {
    let dir = tempfile::tempdir().unwrap();
    let set = make(&Count::of(10), &dir.path().join("set")).unwrap().artifact;
    let mut stage = Made::new(Kind::Trials, |_, _, _| Ok(()));
    stage.ports = const { &[Port::required("classifier", Kind::Classifier)] };
    let refused = |inputs: &Inputs| {
        let error = execute(&stage, inputs, &dir.path().join("out"), &Context::default()).unwrap_err();
        assert!(matches!(error, Error::Input { .. }) && error.is_usage(), "{error}");
        assert_eq!(error.to_string(), check_inputs(&stage, inputs).unwrap_err().to_string());
        error.to_string()
    };
    assert!(refused(&Inputs::new()).contains("classifier: expected a classifier, found nothing"));
    assert!(refused(&Inputs::new().with("classifier", &set)).contains("found a dataset in"));
    let stage = Count::of(10);
    let error = check_inputs(&stage, &Inputs::new().with("sead", &set)).unwrap_err().to_string();
    assert!(error.contains("sead: expected one of the ports seed"), "{error}");
    assert_eq!(names(dir.path()), ["set"]);
}

#[test]
fn partial_work_of_another_configuration_is_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("x");
    make(&Count::of(30_000).stopping_at(20_000), &dest).unwrap_err();
    let stage = Count::new();
    let got = make(&stage, &dest).unwrap().artifact;
    assert_eq!(*stage.begun_at.lock().unwrap(), [0]);
    assert_eq!(got.id(), make(&stage, &dir.path().join("y")).unwrap().artifact.id());
}

#[test]
fn the_provenance_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let input = make(&Count::of(10), &dir.path().join("in")).unwrap().artifact;
    let stage = Count::of(20);
    let inputs = Inputs::new().with("seed", &input);
    let made = execute(&stage, &inputs, &dir.path().join("out"), &Context::default()).unwrap().artifact;
    let by = &made.manifest().made_by;
    assert_eq!((by.stage.as_str(), by.revision, &by.config), ("count", 1, &stage.config()));
    assert_eq!(json!(by.inputs), json!({"seed": [input.id()]}));
    assert_eq!(made.manifest().fingerprint, provenance(&stage, &inputs).fingerprint());
}

/// Network file systems report errors for calls that they carried out, and another process may have finished first.
#[test]
fn an_error_at_the_commit_counts_only_if_the_artifact_is_not_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let (dest, elsewhere) = (dir.path().join("x"), dir.path().join("elsewhere"));
    let stage = |moves: bool| {
        let (partial, elsewhere) = (dir.path().join(".x.partial"), elsewhere.clone());
        Made::new(Kind::Trials, move |_, out, _| {
            out.write("a", b"a")?;
            if moves {
                // As if the rename had already happened: there is no folder left for the manifest.
                fs::rename(&partial, dir_of(&partial).join("moved")).unwrap();
                if elsewhere.exists() {
                    fs::rename(&elsewhere, partial.with_file_name("x")).unwrap();
                }
            }
            Ok(())
        })
    };
    fn dir_of(path: &std::path::Path) -> &std::path::Path {
        path.parent().unwrap()
    }
    assert!(matches!(make(&stage(true), &dest), Err(Error::Io { .. })), "nothing is in place");
    fs::remove_dir_all(dir.path().join("moved")).unwrap();
    let want = make(&stage(false), &elsewhere).unwrap().artifact;
    let got = make(&stage(true), &dest).unwrap().artifact;
    assert_eq!(got.id(), want.id());
    got.verify().unwrap();
}

//! Crashes: every state that a killed process can leave behind, real kills, and full disks.

use std::fs;
use std::path::{Path, PathBuf};

use gafi_core::*;

use crate::common::*;

/// A folder with a partial artifact `x`, and the artifact that it should become.
struct PartialArtifact {
    dir: tempfile::TempDir,
    stage: Count,
    want: Artifact,
}

impl PartialArtifact {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("at")).unwrap();
        let want = make(&Count::new(), &dir.path().join("want")).unwrap().artifact;
        Self { dir, stage: Count::new(), want }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("at").join(name)
    }

    /// Interrupts the stage after 10,000 rows: one shard is complete, and resume state is saved.
    fn interrupt(&self) -> PathBuf {
        make(&self.stage.stopping_at(10_000), &self.at("x")).unwrap_err();
        self.at(".x.partial")
    }

    /// The partial folder of `artifact` with its manifest written.
    fn all_but_named(&self, artifact: &Artifact) -> PathBuf {
        let partial = self.at(".x.partial");
        copy(artifact.path(), &partial);
        fs::write(partial.join("begun.json"), &artifact.manifest().fingerprint).unwrap();
        fs::create_dir(partial.join("state")).unwrap();
        fs::write(partial.join("state/dataset.json"), "{}").unwrap();
        partial
    }

    /// Checks that the same call gives the right bytes and leaves nothing else. Returns the row at which it started, if it ran.
    fn resumes(&self, force: bool) -> Option<u64> {
        let cx = Context { force, ..Context::default() };
        self.stage.begun_at.lock().unwrap().clear();
        let got = execute(&self.stage, &Inputs::new(), &self.at("x"), &cx).unwrap().artifact;
        got.verify().unwrap();
        assert_eq!(got.id(), self.want.id());
        assert_eq!(tree(got.path()), tree(self.want.path()));
        assert_eq!(names(&self.dir.path().join("at")), ["x"]);
        self.stage.begun_at.lock().unwrap().pop()
    }
}

#[test]
fn killed_at_the_start() {
    let fingerprint = provenance(&Count::new(), &Inputs::new()).fingerprint();
    type State<'a> = &'a dyn Fn(&Path);
    let states: [State<'_>; 6] = [
        &|_| {},
        &|p| fs::create_dir(p.join("state")).unwrap(),
        &|p| fs::write(p.join(".begun.json.tmp"), "12").unwrap(),
        &|p| fs::write(p.join("begun.json"), &fingerprint).unwrap(),
        &|p| fs::write(p.join("begun.json"), "of another").unwrap(),
        &|p| fs::write(p.join("begun.json"), &fingerprint[..20]).unwrap(),
    ];
    for state in states {
        let scene = PartialArtifact::new();
        fs::create_dir(scene.at(".x.partial")).unwrap();
        state(&scene.at(".x.partial"));
        fs::write(scene.at(".x.lock"), "").unwrap();
        assert_eq!(scene.resumes(false), Some(0));
    }
}

#[test]
fn killed_during_the_work() {
    type State<'a> = (&'a dyn Fn(&Path), u64);
    let states: [State<'_>; 6] = [
        (&|_| {}, 8000),
        // Between a shard and its resume state.
        (&|p| fs::remove_dir_all(p.join("state")).unwrap(), 0),
        (&|p| fs::remove_file(p.join("state/dataset.json")).unwrap(), 0),
        (&|p| fs::copy(p.join("shard-00000.safetensors"), p.join("shard-00001.safetensors")).map(drop).unwrap(), 8000),
        // While writing a file.
        (&|p| fs::write(p.join(".shard-00001.safetensors.tmp"), "half a sh").unwrap(), 8000),
        (&|p| fs::write(p.join("state/.dataset.json.tmp"), "{").unwrap(), 8000),
    ];
    for (state, from) in states {
        let scene = PartialArtifact::new();
        state(&scene.interrupt());
        assert_eq!(scene.resumes(false), Some(from));
    }
}

#[test]
fn killed_at_the_end() {
    type State<'a> = (&'a dyn Fn(&Path), bool);
    let states: [State<'_>; 7] = [
        // While writing the manifest.
        (&|p| fs::rename(p.join(MANIFEST_FILE), p.join(".manifest.json.tmp")).unwrap(), true),
        // After it, while the state is removed file by file.
        (&|_| {}, false),
        (&|p| fs::remove_file(p.join("state/dataset.json")).unwrap(), false),
        (&|p| fs::remove_dir_all(p.join("state")).unwrap(), false),
        (&|p| fs::remove_file(p.join("begun.json")).unwrap(), false),
        (
            &|p| {
                fs::remove_dir_all(p.join("state")).unwrap();
                fs::remove_file(p.join("begun.json")).unwrap();
            },
            false,
        ),
        // After it, but a byte was lost on disk: the stage runs again.
        (&|p| flip(&p.join("shard-00001.safetensors"), -1), true),
    ];
    for (state, runs) in states {
        for force in [false, true] {
            let scene = PartialArtifact::new();
            let partial = scene.all_but_named(&scene.want);
            if runs {
                // Empty state stands in for real state, which `killed_during_the_work` covers.
                fs::remove_file(partial.join("state/dataset.json")).unwrap();
            }
            state(&partial);
            assert_eq!(scene.resumes(force).is_some(), runs);
        }
    }
}

#[test]
fn a_complete_partial_folder_of_another_configuration_is_ignored() {
    let scene = PartialArtifact::new();
    let other = make(&Count::of(12), &scene.dir.path().join("other")).unwrap().artifact;
    scene.all_but_named(&other);
    assert_eq!(scene.resumes(false), Some(0));
}

#[test]
fn killed_while_replacing() {
    let old = || {
        let scene = PartialArtifact::new();
        let old = make(&Count::of(12), &scene.at("x")).unwrap().artifact;
        (scene, old)
    };
    // Before: the old artifact exists, the new one is complete in the partial folder.
    let (scene, _) = old();
    scene.all_but_named(&scene.want);
    assert_eq!(scene.resumes(true), None);

    // The old one is at `.x.old`, the new one not yet in place: with force the new one is completed...
    let (scene, _) = old();
    scene.all_but_named(&scene.want);
    fs::rename(scene.at("x"), scene.at(".x.old")).unwrap();
    assert_eq!(scene.resumes(true), None);
    // ...without it, the old one moves back and occupies the destination.
    let (scene, old_one) = old();
    scene.all_but_named(&scene.want);
    fs::rename(scene.at("x"), scene.at(".x.old")).unwrap();
    let error = make(&scene.stage, &scene.at("x")).unwrap_err();
    assert!(matches!(error, Error::Occupied { .. }), "{error}");
    let back = Artifact::open(scene.at("x")).unwrap();
    back.verify().unwrap();
    assert_eq!(back.id(), old_one.id());
    // The call of the old one reuses it.
    let (scene, old_one) = old();
    fs::rename(scene.at("x"), scene.at(".x.old")).unwrap();
    let stage = Count::of(12);
    let found = make(&stage, &scene.at("x")).unwrap();
    assert_eq!((found.cached, found.artifact.id(), stage.runs()), (true, old_one.id(), 0));

    // The new one is in place, the old one not yet removed.
    let (scene, _) = old();
    fs::rename(scene.at("x"), scene.at(".x.old")).unwrap();
    copy(scene.want.path(), &scene.at("x"));
    assert_eq!(scene.resumes(false), None);
}

/// The variable that names the folder of a child process.
const CHILD: &str = "GAFI_TEST_CHILD";

fn child(test: &str, dir: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--ignored", "--nocapture"]).env(CHILD, dir);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command
}

fn child_dir() -> PathBuf {
    std::env::var_os(CHILD).expect("only as a child of another test").into()
}

#[test]
#[ignore = "a child of killed_by_a_signal"]
fn child_works_slowly() {
    let stage = Count::of(60_000).hooked(|_, _, _| {
        std::thread::sleep(std::time::Duration::from_millis(3));
        Ok(())
    });
    make(&stage, &child_dir().join("x")).unwrap();
}

/// `kill -9` after increasing times, most of them during the work.
#[test]
fn killed_by_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let want = make(&Count::of(60_000), &dir.path().join("want")).unwrap().artifact;
    let at = dir.path().join("at");
    fs::create_dir(&at).unwrap();
    for round in 0..12 {
        let mut process = child("crash::child_works_slowly", &at).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(10 + 17 * round));
        process.kill().unwrap();
        process.wait().unwrap();
        if let Ok(artifact) = Artifact::open(at.join("x")) {
            artifact.verify().unwrap();
        }
    }
    let got = make(&Count::of(60_000), &at.join("x")).unwrap().artifact;
    got.verify().unwrap();
    assert_eq!(tree(got.path()), tree(want.path()));
    assert!(names(&at).iter().all(|n| n == "x" || n == ".x.lock"), "{:?}", names(&at));
}

#[test]
#[ignore = "a child of a_file_size_limit_is_an_error"]
fn child_without_room() {
    let dir = child_dir();
    let error = make(&Count::new(), &dir.join("x")).unwrap_err();
    assert!(matches!(&error, Error::Io { action: "write", .. }), "{error}");
    assert!(error.to_string().contains("shard-00000.safetensors"), "{error}");
}

/// Runs a test of this program in which no file may grow beyond 64 blocks (32 KiB), which fails as on a full disk.
#[cfg(unix)]
fn run_without_room(test: &str, dir: &Path) {
    let child = child(test, dir);
    let mut shell = std::process::Command::new("sh");
    // With the signal ignored, the write fails.
    shell.args(["-c", r#"ulimit -S -f 64; trap "" XFSZ; exec "$0" "$@""#]);
    let out = shell.arg(child.get_program()).args(child.get_args()).env(CHILD, dir).output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed"), "the child did not run its test");
}

/// A shard needs four times as much space as the limit allows.
#[cfg(unix)]
#[test]
fn a_file_size_limit_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    run_without_room("crash::child_without_room", dir.path());
    assert_eq!(names(dir.path()), [""; 0], "something half-written was left");
    make(&Count::new(), &dir.path().join("x")).unwrap();
}

#[test]
#[ignore = "a child of a_full_disk_keeps_the_previous_file"]
fn child_on_a_full_disk() {
    let dir = child_dir();
    let file = dir.join("a");
    write_atomic(&file, b"before").unwrap();
    let error = write_atomic(&file, &[0; 1 << 17]).unwrap_err();
    assert!(matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::FileTooLarge), "{error}");
    assert!(error.to_string().contains(&*file.to_string_lossy()), "{error}");
    assert_eq!((fs::read(&file).unwrap(), names(&dir)), (b"before".to_vec(), vec!["a".to_string()]));
    write_atomic(&file, b"after").unwrap();
    assert_eq!((fs::read(&file).unwrap(), names(&dir)), (b"after".to_vec(), vec!["a".to_string()]));
}

#[cfg(unix)]
#[test]
fn a_full_disk_keeps_the_previous_file() {
    let dir = tempfile::tempdir().unwrap();
    run_without_room("crash::child_on_a_full_disk", dir.path());
    // When a folder has the name, the temporary file is removed as well.
    fs::create_dir_all(dir.path().join("b/c")).unwrap();
    write_atomic(&dir.path().join("b"), b"").unwrap_err();
    assert_eq!(names(dir.path()), ["a", "b"]);
}

/// Sets the limit of this process's files, as if the disk were full from then on.
#[cfg(target_os = "linux")]
fn limit_files(bytes: &str) {
    let pid = std::process::id().to_string();
    let set = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:")]).status();
    assert!(set.unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "a child of a_disk_that_fills_up_during_the_work"]
fn child_on_a_disk_that_fills_up() {
    limit_files("unlimited");
    for (full_at, shard) in [(10_000, "shard-00001"), (17_000, "shard-00002")] {
        let scene = PartialArtifact::new();
        let filling = scene.stage.hooked(move |at, _, _| {
            if at == full_at {
                limit_files("0");
            }
            Ok(())
        });
        let error = make(&filling, &scene.at("x")).unwrap_err();
        limit_files("unlimited");
        assert!(error.to_string().contains(shard), "{error}");
        assert_eq!(names(&scene.dir.path().join("at")), [".x.partial"], "{shard}");
        assert!(scene.resumes(false).unwrap() >= 8000, "{shard}");
    }
    // There is space for the log line but not for the manifest.
    let dir = child_dir();
    let stage = |full: bool| {
        Made::new(Kind::Trials, move |_, out, _| {
            out.save_state("work", b"kept")?;
            out.write("a", b"a")?;
            if full {
                limit_files("200");
            }
            Ok(())
        })
    };
    let error = make(&stage(true), &dir.join("x")).unwrap_err();
    limit_files("unlimited");
    assert!(error.to_string().contains(MANIFEST_FILE), "{error}");
    assert_eq!(names(&dir), [".x.partial"]);
    make(&stage(false), &dir.join("x")).unwrap().artifact.verify().unwrap();
    assert_eq!(names(&dir), ["x"]);
}

/// The disk fills up during the work, at several written files; with space again, the same call resumes.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_during_the_work() {
    let dir = tempfile::tempdir().unwrap();
    run_without_room("crash::child_on_a_disk_that_fills_up", dir.path());
}

//! Locks between processes where `flock` is refused or a lease is requested.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gafi_core::*;

use crate::common::*;

/// The variable that names the folder of a child process.
const CHILD: &str = "GAFI_TEST_LOCKS";

const ROWS: u64 = 40_000;

#[test]
#[ignore = "a child of the other tests here"]
fn child_makes_it() {
    let dir = PathBuf::from(std::env::var_os(CHILD).expect("only as a child of another test"));
    let inside = dir.join("inside");
    let mark = inside.clone();
    let stage = Count::of(ROWS).hooked(move |_, _, _| {
        // Two writers at once would find each other's mark; a killed writer leaves its own.
        let _ = fs::OpenOptions::new().create(true).append(true).open(&mark).map(|mut file| {
            use std::io::Write;
            writeln!(file, "{}", std::process::id()).unwrap();
        });
        std::thread::sleep(Duration::from_millis(5));
        Ok(())
    });
    let mut cx = Context::new(gafi_core::ModelLoaders::default());
    cx.wait = true;
    execute(&stage, &Inputs::new(), &dir.join("x"), &cx).unwrap();
}

fn child(dir: &Path, environment: &[(&str, PathBuf)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["locks::child_makes_it", "--exact", "--ignored"]).env(CHILD, dir);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdout(Stdio::null()).spawn().unwrap()
}

/// A library that refuses `flock`, as file systems without locks do; `None` without a C compiler.
#[cfg(target_os = "linux")]
fn without_flock(dir: &Path) -> Option<PathBuf> {
    let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
    fs::write(
        &source,
        "#include <errno.h>\nint flock(int f, int o) { (void)f; (void)o; errno = ENOLCK; return -1; }\n",
    )
    .unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    built.is_ok_and(|status| status.success()).then_some(library)
}

/// Whether each process's marks are adjacent, so that nobody else wrote in between.
fn are_apart(marks: &str) -> bool {
    let mut runs: Vec<&str> = marks.lines().collect();
    runs.dedup();
    let turns = runs.len();
    runs.sort_unstable();
    runs.dedup();
    runs.len() == turns
}

/// Three processes write one artifact and the first is killed: there is one result, and no other writer fails.
fn one_result_with(environment: &[(&str, PathBuf)]) {
    let dir = tempfile::tempdir().unwrap();
    let want = make(&Count::of(ROWS), &dir.path().join("want")).unwrap().artifact;
    let at = dir.path().join("at");
    fs::create_dir(&at).unwrap();
    let mut first = child(&at, environment);
    while !at.join("inside").exists() {
        assert!(first.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(at.join(".x.lease").exists(), "no lease");
    let mut waiting = [child(&at, environment), child(&at, environment)];
    // Long enough for both to find the lock held; if they come later, they find a dead holder.
    std::thread::sleep(Duration::from_millis(60));
    first.kill().unwrap();
    first.wait().unwrap();
    for child in &mut waiting {
        assert!(child.wait().unwrap().success(), "a writer was lost");
    }
    let got = Artifact::open(at.join("x")).unwrap();
    got.verify().unwrap();
    assert_eq!(tree(got.path()), tree(want.path()));
    let marks = fs::read_to_string(at.join("inside")).unwrap();
    assert!(are_apart(&marks), "two wrote at once:\n{marks}");
    let left: Vec<_> = names(&at).into_iter().filter(|name| name != ".x.lock").collect();
    assert_eq!(left, ["inside", "x"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_lease_where_flock_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = without_flock(dir.path()) else { return };
    one_result_with(&[("LD_PRELOAD", shim)]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_lease_on_request() {
    one_result_with(&[("GAFI_LOCKS", "lease".into())]);
}

/// Two mounts of one folder whose `flock`s do not exclude each other, such as by bindfs: `GAFI_TEST_VIEWS=A:B`.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs GAFI_TEST_VIEWS, two mounts of one folder"]
fn two_views_of_a_folder() {
    let views = std::env::var_os("GAFI_TEST_VIEWS").expect("two folders");
    let views: Vec<PathBuf> = std::env::split_paths(&views).collect();
    for round in 0..11 {
        let name = format!("round-{round}");
        fs::create_dir(views[0].join(&name)).unwrap();
        let mut writers = [0, 1].map(|view: usize| child(&views[view].join(&name), &[]));
        assert!(writers.iter_mut().all(|writer| writer.wait().unwrap().success()), "a writer was lost");
        assert!(are_apart(&fs::read_to_string(views[0].join(&name).join("inside")).unwrap()), "two wrote at once");
    }
}

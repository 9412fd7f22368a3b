//! The whole of GaFi: what it reports, that it is found done, and that interruptions leave no trace.

use std::time::Duration;

use serde_json::Value;

use super::{fails, files, gafi, ok};

const SMOKE: [&str; 5] = ["pipeline", "--preset", "smoke", "--out", "run"];

fn results(dir: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("run/results.json")).unwrap()).unwrap()
}

#[test]
fn reports_every_row_and_a_second_call_finds_all_done() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &SMOKE);
    let first = results(dir.path());
    assert_eq!(first["schema"], "gafi/results/1");
    assert_eq!(first["dataset"], "shapes");
    assert_eq!(first["protocol"], "holdout");
    let rows = first["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["baseline", "filter", "expand", "recycle", "gafi"]);
    let real = first["real"]["test_accuracy"].as_f64().unwrap();
    for row in rows {
        let accuracy = row["test_accuracy"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&accuracy));
        assert!((row["gap"].as_f64().unwrap() - 100.0 * (real - accuracy)).abs() < 1e-9);
        assert_eq!(row["n"], 1);
        assert!([20, 40].contains(&row["checkpoint"].as_u64().unwrap()));
    }
    assert!(rows[0]["threshold"].is_null() && rows[0]["recycle_period"].is_null());
    assert_eq!(rows[1]["threshold"], 0.0);
    assert_eq!(rows[3]["recycle_period"], 1);
    assert_eq!(rows[4]["recycle_period"], 1);
    let png = std::fs::read(dir.path().join("run/samples.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
    assert!(first["stages"].as_array().unwrap().iter().any(|s| s["name"] == "train-gan" && s["cached"] == false));

    let before = files(dir.path());
    ok(dir.path(), &SMOKE);
    let second = results(dir.path());
    assert!(second["stages"].as_array().unwrap().iter().all(|s| s["cached"] == true), "{}", second["stages"]);
    for key in ["rows", "real", "trainings"] {
        assert_eq!(first[key], second[key]);
    }
    let after = files(dir.path());
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
}

#[test]
fn another_seed_or_setting_keeps_what_it_does_not_touch() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &SMOKE);
    let mut again = SMOKE.to_vec();
    again.extend(["--set", "search.thresholds=[0.25]"]);
    ok(dir.path(), &again);
    let stages = results(dir.path())["stages"].clone();
    for stage in stages.as_array().unwrap() {
        if ["teacher", "train-gan", "import train"].contains(&stage["name"].as_str().unwrap()) {
            assert_eq!(stage["cached"], true, "{stage}");
        }
    }
}

/// Killed at many moments, some of them surely in the middle of a training, an import, a commit: the end is the same.
#[test]
fn killed_anywhere_it_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    std::fs::create_dir_all(&whole).unwrap();
    std::fs::create_dir_all(&cut).unwrap();
    ok(&whole, &SMOKE);
    let mut kills = 0;
    for ms in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 360, 420, 500, 600, 700] {
        let mut child = gafi(&cut, &SMOKE).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(ms));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
    }
    // How far each one came depends on the machine; that some were cut short does not.
    assert!(kills >= 1);
    ok(&cut, &SMOKE);
    assert_eq!(results(&whole)["rows"], results(&cut)["rows"]);
    let (mut whole, mut cut) = (files(&whole), files(&cut));
    for files in [&mut whole, &mut cut] {
        // Holds times.
        files.remove(std::path::Path::new("run/results.json")).unwrap();
    }
    assert_eq!(whole.keys().collect::<Vec<_>>(), cut.keys().collect::<Vec<_>>());
    for (path, bytes) in &whole {
        assert!(cut[path] == *bytes, "{} differs", path.display());
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_with_130_and_a_word_of_advice() {
    let dir = tempfile::tempdir().unwrap();
    let mut slow = SMOKE.to_vec();
    slow.extend(["--set", "gan.steps=100000", "--set", "gan.checkpoints=[]"]);
    let child = gafi(dir.path(), &slow).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // By then it is in the GAN's training, which would take minutes; earlier would do as well.
    std::thread::sleep(Duration::from_millis(700));
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("run the same command again"), "{text}");
}

#[test]
fn threads_change_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    for threads in ["1", "3"] {
        let run = dir.path().join(threads);
        std::fs::create_dir_all(&run).unwrap();
        let mut arguments = SMOKE.to_vec();
        arguments.extend(["--threads", threads]);
        ok(&run, &arguments);
        std::fs::remove_file(run.join("run/results.json")).unwrap();
    }
    assert!(files(&dir.path().join("1")) == files(&dir.path().join("3")));
}

#[test]
fn a_dry_run_prints_the_resolved_configuration_and_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = ok(
        dir.path(),
        &["pipeline", "--preset", "quickstart", "--set", "gan.steps=7", "--seed", "3", "--dry-run", "--json"],
    );
    let config: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(config["gan"]["steps"], 7);
    assert_eq!(config["seed"], 3);
    assert_eq!(config["data"]["set"], "fashion-mnist");
    // What is printed can be given back.
    let output = ok(dir.path(), &["pipeline", "--preset", "smoke", "--dry-run"]);
    std::fs::write(dir.path().join("all.toml"), &output.stdout).unwrap();
    let back = ok(dir.path(), &["pipeline", "--config", "all.toml", "--dry-run"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&back.stdout));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn wrong_settings_are_named_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    for (set, named) in [
        ("gan.stepz=3", "stepz"),
        ("search.thresholds=[1.5]", "threshold"),
        ("search.stds=[-1.0]", "std"),
        ("search.stds=[]", "search.stds"),
        ("recycle.factor=0", "recycle.factor"),
        ("per_class=0", "per_class"),
        ("student.epochs=\"many\"", "many"),
    ] {
        let mut arguments = SMOKE.to_vec();
        arguments.extend(["--set", set]);
        let text = fails(dir.path(), &arguments, 2);
        assert!(text.contains(named), "{set}: {text}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

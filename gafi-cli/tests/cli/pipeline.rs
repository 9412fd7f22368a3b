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
    assert_eq!(first["schema"], "gafi/results/2");
    assert_eq!(first["dataset"], "shapes");
    assert_eq!(first["protocol"], "holdout");
    let rows = first["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    let techniques =
        ["baseline", "filter", "expand", "recycle", "filter+expand", "filter+recycle", "expand+recycle", "gafi"];
    let beyond = ["gafi-halving", "soft", "doubled", "gafi-multi", "gafi-multi-turns"];
    assert_eq!(names, [&techniques[..], &beyond[..]].concat());
    let row = |name: &str| rows.iter().find(|r| r["name"] == name).unwrap();
    assert_eq!(row("soft")["labels"], "soft");
    assert!(row("soft")["threshold"].is_null());
    assert_eq!((row("gafi")["generators"].as_u64(), row("gafi-multi")["generators"].as_u64()), (Some(1), Some(2)));
    assert_eq!(row("doubled")["per_class"], 48);
    // Halving screens two checkpoints and two thresholds; one of these may be the chosen checkpoint at std 1 and threshold 0 again.
    let folders = std::fs::read_dir(dir.path().join("run")).unwrap().map(|e| e.unwrap().file_name());
    let probes = folders.filter(|name| name.to_string_lossy().starts_with("probe-")).count();
    let halving: Vec<Value> = steps(dir.path()).into_iter().filter(|step| step["strategy"] == "halving").collect();
    let asked = |step: &Value| step.get("screened").map_or(0, |asked| asked.as_array().unwrap().len());
    let trained = |step: &Value| step["trials"].as_array().unwrap().len();
    assert_eq!(halving.iter().map(asked).collect::<Vec<_>>(), [2, 0, 2]);
    assert_eq!(halving.iter().map(trained).collect::<Vec<_>>(), [0, 2, 0]);
    assert_eq!((&first["searches"][1]["closed_form"], &first["searches"][1]["trainings"]), (&4.into(), &2.into()));
    assert!((3..=4).contains(&probes), "{probes}");
    // Two generators by grid, and the first by halving, which costs less.
    let searches = first["searches"].as_array().unwrap();
    let found: Vec<_> = searches.iter().map(|s| (s["generator"].as_u64(), s["strategy"].as_str().unwrap())).collect();
    assert_eq!(found, [(Some(0), "grid"), (Some(0), "halving"), (Some(1), "grid")]);
    assert!(searches[1]["epochs"].as_u64() < searches[0]["epochs"].as_u64());
    assert_eq!((&first["real"]["per_class"], &first["real"]["epochs"]), (&24.into(), &2.into()));
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
    assert_eq!((&row("gafi")["recycle_period"], &row("gafi")["recycle_factor"]), (&1.into(), &0.5.into()));
    for row in rows {
        assert!(dir.path().join("run").join(row["artifact"].as_str().unwrap()).join("trial.json").is_file(), "{row}");
    }
    let asked: Value = serde_json::from_slice(&std::fs::read(dir.path().join("run/config.json")).unwrap()).unwrap();
    assert_eq!(asked["data"]["set"], "shapes");
    let page = std::fs::read_to_string(dir.path().join("run/report.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("filter+recycle"));
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

    // By force each artifact is made once more, however many trials come to it.
    ok(dir.path(), &[&SMOKE[..], &["--force", "--jobs", "2"]].concat());
    let forced = results(dir.path());
    let made = forced["stages"].as_array().unwrap().iter().filter(|s| s["cached"] == false).count();
    let artifacts = before.keys().filter(|path| path.ends_with("manifest.json")).count();
    assert_eq!(made, artifacts, "{}", forced["stages"]);
    assert_eq!(first["rows"], forced["rows"]);
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
    let whole = dir.path().join("whole");
    let cut = dir.path().join("cut");
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
    let mut whole = files(&whole);
    let mut cut = files(&cut);
    for files in [&mut whole, &mut cut] {
        for holds_times in ["run/results.json", "run/report.html"] {
            files.remove(std::path::Path::new(holds_times)).unwrap();
        }
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
    slow.extend(["--set", "gan.length.steps=100000", "--set", "gan.checkpoints=[]"]);
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
fn neither_threads_nor_jobs_change_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    for (name, options) in [("one", "--threads 1 --jobs 1"), ("many", "--threads 3 --jobs 3 --device cpu,cpu")] {
        let run = dir.path().join(name);
        std::fs::create_dir_all(&run).unwrap();
        ok(&run, &[&SMOKE[..], &options.split(' ').collect::<Vec<_>>()].concat());
    }
    let one = dir.path().join("one");
    let many = dir.path().join("many");
    for key in ["rows", "searches", "trainings", "epochs", "real"] {
        assert_eq!(results(&one)[key], results(&many)[key], "{key}");
    }
    for run in [&one, &many] {
        for holds_times in ["run/results.json", "run/report.html"] {
            std::fs::remove_file(run.join(holds_times)).unwrap();
        }
    }
    assert!(files(&one) == files(&many));
}

#[test]
fn one_failing_job_ends_the_run_by_name_and_the_rest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let diverging = ["--set", "gan.g_lr=1e30", "--jobs", "2"];
    let text = fails(dir.path(), &[&SMOKE[..], &diverging].concat(), 1);
    assert!(text.contains("train-gan") && text.contains("failed") && text.contains("diverged"), "{text}");
    assert!(!dir.path().join("run/results.json").exists());
    ok(dir.path(), &SMOKE);
    assert!(results(dir.path())["stages"].as_array().unwrap().iter().any(|s| s["cached"] == true));
}

#[test]
fn settings_that_no_class_can_be_filled_under_are_told_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    // Hardly an image of a generator of 40 steps can please the teacher as much.
    let strict = "search.thresholds=[0.0, 0.999999]";
    let never = r#"variants=[{name="never", thresholds=[0.999999]}, {name="twice", times=2}]"#;
    let attempts =
        ["--set", "search.filter={max_attempts=200, on_exhausted=\"error\"}", "--set", strict, "--set", never];
    for (name, jobs) in [("one", "1"), ("two", "2")] {
        let run = dir.path().join(name);
        std::fs::create_dir_all(&run).unwrap();
        ok(&run, &[&SMOKE[..], &attempts, &["--jobs", jobs]].concat());
        let results = results(&run);
        let of = |list: &str| -> Vec<String> {
            results[list].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().into()).collect()
        };
        assert_eq!(of("impossible"), ["never"], "--jobs {jobs}");
        assert!(results["impossible"][0]["why"].as_str().unwrap().contains("exhausted"));
        assert!(of("rows").contains(&"gafi".to_string()) && of("rows").contains(&"twice".to_string()));
        // As many real images: half of those that there are.
        assert_eq!((&results["larger"][0]["per_class"], &results["larger"][0]["epochs"]), (&48.into(), &2.into()));
        let row = results["rows"].as_array().unwrap().iter().find(|row| row["name"] == "twice").unwrap();
        let real = results["larger"][0]["test_accuracy"].as_f64().unwrap();
        let gap = 100.0 * (real - row["test_accuracy"].as_f64().unwrap());
        assert!((row["gap"].as_f64().unwrap() - gap).abs() < 1e-9, "{row}");
        let search: Value = serde_json::from_slice(&std::fs::read(run.join("run/search.json")).unwrap()).unwrap();
        let failed: Vec<&Value> =
            search["steps"].as_array().unwrap().iter().filter_map(|step| step.get("impossible")).collect();
        assert_eq!(failed[0][0]["setting"]["threshold"], 0.999_999, "{failed:?}");
        let page = std::fs::read_to_string(run.join("run/report.html")).unwrap();
        assert!(page.contains("real images, 2x") && page.contains("never: ") && page.contains("are impossible"));
    }
    assert_eq!(results(&dir.path().join("one"))["rows"], results(&dir.path().join("two"))["rows"]);
}

/// Two classes of 8x8 images as IDX files, dark and light; `test` noise makes another test split of the same training rows.
fn idx(dir: &std::path::Path, test: u8) {
    let write = |name: &str, head: &[u32], body: Vec<u8>| {
        let head: Vec<u8> = head.iter().flat_map(|n| n.to_be_bytes()).collect();
        std::fs::write(dir.join(name), [head, body].concat()).unwrap();
    };
    let pixel = |row: usize, at: usize, seed: u8| {
        let noise = (row * 31 + at * 17 + usize::from(seed) * 7) % 90;
        (noise + if row.is_multiple_of(2) { 20 } else { 110 }) as u8
    };
    std::fs::create_dir_all(dir).unwrap();
    for (part, rows, seed) in [("train", 240usize, 0), ("t10k", 40, test)] {
        let images = (0..rows).flat_map(|row| (0..64).map(move |at| pixel(row, at, seed))).collect();
        write(&format!("{part}-images-idx3-ubyte"), &[0x803, rows as u32, 8, 8], images);
        write(&format!("{part}-labels-idx1-ubyte"), &[0x801, rows as u32], (0..rows).map(|r| (r % 2) as u8).collect());
    }
}

fn steps(dir: &std::path::Path) -> Vec<Value> {
    let search: Value = serde_json::from_slice(&std::fs::read(dir.join("run/search.json")).unwrap()).unwrap();
    search["steps"].as_array().unwrap().clone()
}

/// What a search tried, found and chose, without the names of artifacts, which hold the hash of all source files.
fn tried(dir: &std::path::Path) -> Vec<Value> {
    steps(dir)
        .iter()
        .flat_map(|step| step["trials"].as_array().unwrap().iter().map(|t| serde_json::json!([t["setting"], t["val"]])))
        .collect()
}

#[test]
fn what_is_in_the_test_split_reaches_no_choice() {
    let dir = tempfile::tempdir().unwrap();
    let smoke = ["pipeline", "--preset", "smoke", "--data", "data", "--out", "run"];
    let run = |name: &str, test: u8| {
        let run = dir.path().join(name);
        idx(&run.join("data"), test);
        run
    };
    let one = run("one", 1);
    let other = run("other", 77);
    let spied = run("spied", 1);
    ok(&one, &smoke);
    ok(&other, &smoke);
    assert_eq!(tried(&one), tried(&other));
    assert_ne!(results(&one)["rows"], Value::Null);
    // A test split that cannot be read: everything is trained and chosen before anybody notices.
    let broken = spied.join("data/t10k-images-idx3-ubyte");
    std::fs::write(&broken, b"no images").unwrap();
    let text = fails(&spied, &smoke, 1);
    assert!(text.contains("import test failed"), "{text}");
    assert_eq!(tried(&one), tried(&spied));
    assert!(!spied.join("run/results.json").exists());
}

#[test]
fn the_papers_protocol_chooses_by_the_test_split_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = ok(dir.path(), &[&SMOKE[..], &["--protocol", "paper"]].concat());
    assert!(String::from_utf8_lossy(&output.stdout).contains("protocol paper"));
    let found = results(dir.path());
    assert_eq!(found["protocol"], "paper");
    for row in found["rows"].as_array().unwrap() {
        // The epoch was chosen on the very images that judge.
        assert_eq!(row["val_accuracy"], row["test_accuracy"], "{row}");
    }
    let records: Vec<Value> = files(dir.path())
        .iter()
        .filter(|(path, _)| path.ends_with("trial.json"))
        .map(|(_, bytes)| serde_json::from_slice(bytes).unwrap())
        .collect();
    assert!(records.len() > 10 && records.iter().all(|r| r["protocol"] == "paper"));
}

#[test]
fn a_dry_run_prints_the_resolved_configuration_and_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let short =
        ["pipeline", "--preset", "quickstart", "--set", "gan.length.steps=7", "--seed", "3", "--dry-run", "--json"];
    // The preset's checkpoints would come after so few steps.
    let text = fails(dir.path(), &short, 2);
    assert!(text.contains("gan.checkpoints = 1000: expected steps from 1 to 7"), "{text}");
    let output = ok(dir.path(), &[&short[..], &["--set", "gan.checkpoints=[]"]].concat());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let config = &told["config"];
    assert_eq!(config["gan"]["length"]["steps"], 7);
    assert_eq!(config["seed"], 3);
    assert_eq!(config["data"]["set"], "fashion-mnist");
    // One checkpoint is what so few steps have; three deviations and two thresholds, two of them tried already; and the final
    // student.
    assert_eq!(told["plan"]["grid_trainings"], 1 + 3 + 2 - 2 + 1);
    // What it will take was measured, where there are images to measure by.
    let output = ok(dir.path(), &["pipeline", "--preset", "smoke", "--dry-run", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    for part in told["plan"]["parts"].as_array().unwrap() {
        assert!(part["estimated_s"].as_f64().unwrap() > 0.0, "{part}");
    }
    // What is printed can be given back.
    let output = ok(dir.path(), &["pipeline", "--preset", "smoke", "--dry-run"]);
    std::fs::write(dir.path().join("all.toml"), &output.stdout).unwrap();
    let back = ok(dir.path(), &["pipeline", "--config", "all.toml", "--dry-run"]);
    // Apart from the plan below it, whose times are those of the moment.
    let resolved = |output: &std::process::Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(resolved(&output), resolved(&back));
    assert!(String::from_utf8_lossy(&output.stdout).contains("# In all about "));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_preset_is_fitted_to_ones_own_images() {
    let dir = tempfile::tempdir().unwrap();
    // 20 images of each of two classes, not square, and no test images.
    for row in 0..40u8 {
        let class = dir.path().join("mine").join(if row % 2 == 0 { "dark" } else { "light" });
        std::fs::create_dir_all(&class).unwrap();
        let light = if row % 2 == 0 { 10 } else { 150 };
        let image =
            image::GrayImage::from_fn(9, 12, |x, y| image::Luma([light + (x as u8 * 7 + y as u8 * 3 + row) % 90]));
        image.save(class.join(format!("{row}.png"))).unwrap();
    }
    let dry = |more: &[&str]| -> Value {
        let base = ["pipeline", "--preset", "smoke", "--data", "mine", "--dry-run", "--json"];
        serde_json::from_slice(&ok(dir.path(), &[&base[..], more].concat()).stdout).unwrap()
    };
    let told = dry(&[]);
    assert_eq!(
        (&told["config"]["data"]["test_fraction"], &told["config"]["data"]["val_per_class"]),
        (&0.2.into(), &3.into())
    );
    assert_eq!(told["config"]["data"]["fit"], "resize", "the preset asks for 8x8");
    assert_eq!(told["config"]["per_class"], 13, "of 20, 4 are for the test and 3 choose");
    assert!(told["plan"]["costs"]["gan_step_s"].as_f64().unwrap() > 0.0);
    let told = dry(&["--set", "data.val_per_class=5", "--set", "per_class=6"]);
    assert_eq!((&told["config"]["data"]["val_per_class"], &told["config"]["per_class"]), (&5.into(), &6.into()));
    // And it runs.
    ok(dir.path(), &["pipeline", "--preset", "smoke", "--data", "mine", "--out", "run"]);
    assert_eq!(results(dir.path())["rows"].as_array().unwrap()[0]["per_class"], 13);
}

#[test]
fn what_a_run_found_best_is_made_again_in_any_size() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &SMOKE);
    // A generator that is there already, here one of another run, in the place of training any.
    let other = ["pipeline", "--preset", "smoke", "--generator", "run:generator", "--out", "other"];
    ok(dir.path(), &other);
    let made: Vec<_> = std::fs::read_dir(dir.path().join("other")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!made.iter().any(|name| name.to_string_lossy().starts_with("train-gan")), "{made:?}");
    let read =
        |path: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.path().join(path)).unwrap()).unwrap() };
    let names = |results: &Value| -> Vec<Value> {
        results["rows"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect()
    };
    let first = read("run/results.json");
    let second = read("other/results.json");
    assert!(names(&first).contains(&"gafi-multi".into()) && !names(&second).contains(&"gafi-multi".into()));
    // Of the first generator the search is the same, whoever trained it.
    assert_eq!(first["searches"][0], second["searches"][0]);

    for (run, row, per_class) in [("run", "gafi", "30"), ("other", "soft", "7"), ("run", "gafi-multi", "5")] {
        let out = format!("{run}-{row}");
        ok(dir.path(), &["synthesize", run, "--row", row, "--per-class", per_class, "--out", &out]);
        let content = read(&format!("{out}/manifest.json"))["content"].clone();
        let n: u64 = per_class.parse().unwrap();
        assert_eq!((&content["counts"], &content["split"]), (&serde_json::json!([n, n]), &"synthetic".into()));
        ok(dir.path(), &["verify", &out]);
    }
    // What the student saw first, unless another seed is asked for.
    let again = |name: &str, more: &[&str]| -> Vec<u8> {
        ok(dir.path(), &[&["synthesize", "run", "--per-class", "30", "--out", name][..], more].concat());
        std::fs::read_dir(dir.path().join(name))
            .unwrap()
            .map(|e| e.unwrap().path())
            .find(|p| p.extension().is_some_and(|e| e == "safetensors"))
            .map(|p| std::fs::read(p).unwrap())
            .unwrap()
    };
    let gafi = ["--row", "gafi"];
    assert_eq!(again("again", &gafi), again("run-gafi", &gafi));
    assert_ne!(again("fresh", &["--row", "gafi", "--seed", "5"]), again("again", &gafi));
    // If no row is asked for it is the best by validation, of those with labels.
    let hard = first["rows"].as_array().unwrap().iter().filter(|row| row["labels"] == "hard");
    let score = |row: &Value| row["val_accuracy"].as_f64().unwrap();
    let gafi_is = |row: &Value| row["name"] == "gafi";
    let order = |a: &&Value, b: &&Value| score(a).total_cmp(&score(b)).then(gafi_is(a).cmp(&gafi_is(b)));
    let best = hard.rev().max_by(order).unwrap()["name"].as_str().unwrap().to_string();
    assert_eq!(again("best", &[]), again("named", &["--row", &best]));

    let text = fails(dir.path(), &["synthesize", "run", "--row", "magic", "--out", "none"], 2);
    assert!(text.contains("no row \"magic\"") && text.contains("filter+expand"), "{text}");
    let text = fails(dir.path(), &["verify", "run:magic"], 2);
    assert!(text.contains("run has no \"magic\"") && text.contains("teacher"), "{text}");
    ok(dir.path(), &["verify", "run:teacher", "run:gafi", "run:test"]);
    let path = ok(dir.path(), &["inspect", "--path", "run:test"]).stdout;
    assert!(std::path::Path::new(String::from_utf8(path).unwrap().trim()).is_relative());
    let text = fails(dir.path(), &[&other[..4], &["run:teacher", "--out", "third"]].concat(), 1);
    assert!(text.contains("not a generator"), "{text}");
    let text = fails(dir.path(), &[&other[..], &["--set", "search.checkpoints=[30]"]].concat(), 2);
    assert!(
        text.contains("search.checkpoints = [30]: expected some of those of") && text.contains("[20, 40]"),
        "{text}"
    );
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
        ("generators=0", "generators"),
        ("generators=9", "generators"),
        ("protocol=\"best\"", "best"),
        ("variants=[{name = \"gafi\"}]", "variants.name"),
        ("variants=[{name = \"new\", times = 0}]", "variants.times"),
        ("rows=[\"magic\"]", "magic"),
        ("student.epochs=\"many\"", "many"),
        ("student.epochs=0", "student.epochs = 0"),
        ("gan.batch=1", "gan.batch = 1"),
        ("gan.architecture.g=[8, 8]", "gan.architecture.g"),
        ("search.checkpoints=[20, 30]", "search.checkpoints = [20, 30]: expected some of the GAN's"),
    ] {
        for how in [&["--set", set][..], &["--set", set, "--dry-run"]] {
            let text = fails(dir.path(), &[&SMOKE[..], how].concat(), 2);
            assert!(text.contains(named), "{how:?}: {text}");
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

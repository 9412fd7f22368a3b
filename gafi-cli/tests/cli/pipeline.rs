//! The verb `pipeline` and the verbs that read its runs: the record, reuse, interruptions, dry runs, `synthesize`, `prune`.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{fails, files, gafi, json, ok, read};

const SMOKE: [&str; 5] = ["pipeline", "--preset", "smoke", "--out", "run"];

/// The record of the run in `dir/run`.
fn record(dir: &Path) -> Value {
    read(&dir.join("run/run.json"))
}

/// The stages of the latest call.
fn stages(dir: &Path) -> Vec<Value> {
    read(&dir.join("run/timings.json"))["stages"].as_array().unwrap().clone()
}

/// Files of a run that contain times.
const TIMES: [&str; 2] = ["run/timings.json", "run/report.html"];

#[test]
fn every_row_is_recorded_and_a_second_call_reuses_everything() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &SMOKE);
    let first = record(dir.path());
    assert_eq!(first["schema"], "gafi/run/2");
    assert_eq!(first["status"]["state"], "finished");
    assert_eq!(first["dataset"]["name"], "shapes");
    assert_eq!(first["config"]["protocol"], "holdout");
    assert_eq!(first["config"]["data"]["set"], "shapes");
    let rows = first["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    let techniques =
        ["baseline", "filter", "expand", "recycle", "filter+expand", "filter+recycle", "expand+recycle", "gafi"];
    let beyond = ["gafi-halving", "soft", "doubled", "noise-soft", "gafi-2", "gafi-multi", "gafi-multi-turns"];
    assert_eq!(names, [&techniques[..], &beyond[..]].concat());
    let row = |name: &str| rows.iter().find(|r| r["name"] == name).unwrap();
    let setting = |name: &str| &row(name)["settings"][0];
    assert!(setting("soft")["distill"].is_object() && setting("gafi").get("distill").is_none());
    assert!(setting("soft")["threshold"].is_null());
    let generators = |name: &str| row(name)["settings"].as_array().unwrap().len();
    assert_eq!((generators("gafi"), generators("gafi-multi")), (1, 2));
    assert_eq!(row("doubled")["per_class"], 48);
    // Halving screens two checkpoints.
    let folders = std::fs::read_dir(dir.path().join("run")).unwrap().map(|e| e.unwrap().file_name());
    let probes = folders.filter(|name| name.to_string_lossy().starts_with("probe-")).count();
    assert_eq!(probes, 2);
    // Two generators by grid, and the first by halving, which costs less.
    let searches: Vec<&Value> =
        first["searches"].as_array().unwrap().iter().filter(|s| s.get("row").is_none()).collect();
    let found: Vec<_> = searches.iter().map(|s| (s["generator"].as_u64(), s["strategy"].as_str().unwrap())).collect();
    assert_eq!(found, [(Some(0), "grid"), (Some(0), "halving"), (Some(1), "grid")]);
    let halving = searches[1];
    let counts = |list: &str| -> Vec<usize> {
        let steps = halving["steps"].as_array().unwrap().iter();
        steps.map(|step| step.get(list).map_or(0, |items| items.as_array().unwrap().len())).collect()
    };
    assert_eq!(counts("screened"), [2, 0, 0]);
    assert_eq!(counts("trials"), [0, 2, 2]);
    // The student of threshold 0 is one of those that searched the std.
    assert_eq!((&halving["closed_form"], &halving["trainings"]), (&2.into(), &3.into()));
    assert!(halving["epochs"].as_u64() < searches[0]["epochs"].as_u64());
    let references = first["roles"]["references"].as_array().unwrap();
    let names: Vec<_> = references.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["teacher", "real", "real-2x", "real-soft"]);
    assert_eq!((&references[1]["per_class"], &references[1]["epochs"]), (&24.into(), &2.into()));
    for row in rows {
        let accuracy = row["test"]["score"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&accuracy));
        assert_eq!(row["against"], if row["name"] == "doubled" { "real-2x" } else { "real" });
        let real = references.iter().find(|reference| reference["name"] == row["against"]).unwrap();
        let gap = 100.0 * (real["test"]["score"].as_f64().unwrap() - accuracy);
        assert!((row["gap"].as_f64().unwrap() - gap).abs() < 1e-9, "{row}");
        let checkpoints: &[u64] = if row["name"] == "noise-soft" { &[0] } else { &[20, 40] };
        assert!(checkpoints.contains(&row["settings"][0]["checkpoint"].as_u64().unwrap()), "{row}");
        let student = dir.path().join("run").join(row["artifact"]["path"].as_str().unwrap());
        assert!(student.join("trial.json").is_file(), "{row}");
    }
    assert!(setting("baseline")["threshold"].is_null() && setting("baseline")["recycle"].is_null());
    assert_eq!(setting("filter")["threshold"], 0.0);
    assert_eq!(setting("recycle")["recycle"]["period"], 1);
    assert_eq!(setting("gafi")["recycle"], serde_json::json!({"period": 1, "factor": 0.5}));
    let page = std::fs::read_to_string(dir.path().join("run/report.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("filter+recycle"));
    let png = std::fs::read(dir.path().join("run/samples.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
    assert!(stages(dir.path()).iter().any(|s| s["name"] == "train-gan" && s["cached"] == false));

    let before = files(dir.path());
    ok(dir.path(), &SMOKE);
    assert!(stages(dir.path()).iter().all(|s| s["cached"] == true), "{:?}", stages(dir.path()));
    assert_eq!(first, record(dir.path()));
    let after = files(dir.path());
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());

    // With --force each artifact is built exactly once, even if several trials share it.
    ok(dir.path(), &[&SMOKE[..], &["--force", "--jobs", "2"]].concat());
    let built = stages(dir.path()).iter().filter(|s| s["cached"] == false).count();
    let artifacts = before.keys().filter(|path| path.ends_with("manifest.json")).count();
    assert_eq!(built, artifacts, "{:?}", stages(dir.path()));
    assert_eq!(first["rows"], record(dir.path())["rows"]);
}

#[test]
fn another_setting_reuses_what_it_does_not_affect() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &SMOKE);
    let mut again = SMOKE.to_vec();
    again.extend(["--set", "search.thresholds=[0.25]"]);
    ok(dir.path(), &again);
    for stage in stages(dir.path()) {
        if ["teacher", "train-gan", "import train"].contains(&stage["name"].as_str().unwrap()) {
            assert_eq!(stage["cached"], true, "{stage}");
        }
    }
}

/// Killed at many moments, among them in the middle of a training, an import or a commit.
#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
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
    // How far each call came depends on the machine.
    assert!(kills >= 1);
    ok(&cut, &SMOKE);
    assert_eq!(record(&whole)["rows"], record(&cut)["rows"]);
    let mut whole = files(&whole);
    let mut cut = files(&cut);
    for files in [&mut whole, &mut cut] {
        for file in TIMES {
            files.remove(Path::new(file)).unwrap();
        }
    }
    assert_eq!(whole.keys().collect::<Vec<_>>(), cut.keys().collect::<Vec<_>>());
    for (path, bytes) in &whole {
        assert!(cut[path] == *bytes, "{} differs", path.display());
    }
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
    assert_eq!(record(&one), record(&many));
    for run in [&one, &many] {
        for file in TIMES {
            std::fs::remove_file(run.join(file)).unwrap();
        }
    }
    assert!(files(&one) == files(&many));
}

#[test]
fn a_failing_stage_is_named_and_the_rest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let diverging = ["--set", "gan.g_lr=1e30", "--jobs", "2"];
    let text = fails(dir.path(), &[&SMOKE[..], &diverging].concat(), 1);
    assert!(text.contains("train-gan") && text.contains("failed") && text.contains("diverged"), "{text}");
    let failed = record(dir.path());
    assert_eq!((&failed["status"]["state"], &failed["rows"]), (&"failed".into(), &Value::Array(Vec::new())));
    ok(dir.path(), &SMOKE);
    assert!(stages(dir.path()).iter().any(|s| s["cached"] == true));
    // The records of the configuration that failed are kept apart.
    let superseded = dir.path().join("run/superseded").join(&failed["config_hash"].as_str().unwrap()[..12]);
    assert_eq!(read(&superseded.join("run.json")), failed);
}

#[test]
fn infeasible_settings_are_reported_and_skipped() {
    let dir = tempfile::tempdir().unwrap();
    // A generator of 40 steps makes hardly any image with such a high probability.
    let strict = "search.thresholds=[0.0, 0.999999]";
    let never = r#"variants=[{name="never", thresholds=[0.999999]}, {name="twice", times=2}]"#;
    let attempts =
        ["--set", "search.filter={max_attempts=200, on_exhausted=\"error\"}", "--set", strict, "--set", never];
    // After two epochs the teacher recognises only one class.
    let attempts = [&attempts[..], &["--set", "teacher.epochs=3"]].concat();
    for (name, jobs) in [("one", "1"), ("two", "2")] {
        let run = dir.path().join(name);
        std::fs::create_dir_all(&run).unwrap();
        ok(&run, &[&SMOKE[..], &attempts, &["--jobs", jobs]].concat());
        let record = record(&run);
        let of = |list: &str| -> Vec<String> {
            record[list].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().into()).collect()
        };
        assert_eq!(of("infeasible"), ["never"], "--jobs {jobs}");
        let why = record["infeasible"][0]["why"].as_str().unwrap();
        assert!(why.contains("is exhausted: wanted") && why.contains("; the teacher classifies the rest as "), "{why}");
        assert!(of("rows").contains(&"gafi".to_string()) && of("rows").contains(&"twice".to_string()));
        // As many real images for the larger set: half of all.
        let larger = &record["roles"]["references"][2];
        assert_eq!((&larger["times"], &larger["per_class"], &larger["epochs"]), (&2.into(), &48.into(), &2.into()));
        let row = record["rows"].as_array().unwrap().iter().find(|row| row["name"] == "twice").unwrap();
        let gap = 100.0 * (larger["test"]["score"].as_f64().unwrap() - row["test"]["score"].as_f64().unwrap());
        assert!((row["gap"].as_f64().unwrap() - gap).abs() < 1e-9, "{row}");
        let failed: Vec<Value> = steps(&run).iter().filter_map(|step| step.get("infeasible").cloned()).collect();
        assert_eq!(failed[0][0]["setting"]["threshold"], 0.999_999, "{failed:?}");
        let page = std::fs::read_to_string(run.join("run/report.html")).unwrap();
        assert!(
            page.contains("real-2x")
                && page.contains("never: ")
                && page.contains("infeasible, because a class ran out")
        );
    }
    assert_eq!(record(&dir.path().join("one"))["rows"], record(&dir.path().join("two"))["rows"]);
}

/// Two classes of 8x8 images, dark and light, as IDX files. `test` changes the noise of the test split only.
fn idx(dir: &Path, test: u8) {
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

/// The steps of all searches.
fn steps(dir: &Path) -> Vec<Value> {
    let record = record(dir);
    let searches = record["searches"].as_array().unwrap();
    searches.iter().flat_map(|search| search["steps"].as_array().unwrap().clone()).collect()
}

/// Settings and scores of all trials, without their artifacts, whose names depend on a hash of all source files.
fn trials(dir: &Path) -> Vec<Value> {
    steps(dir)
        .iter()
        .flat_map(|step| step["trials"].as_array().unwrap().iter().map(|t| serde_json::json!([t["setting"], t["val"]])))
        .collect()
}

#[test]
fn choices_do_not_depend_on_the_test_split() {
    let dir = tempfile::tempdir().unwrap();
    let smoke = ["pipeline", "--preset", "smoke", "--data", "data", "--out", "run"];
    let run = |name: &str, test: u8| {
        let run = dir.path().join(name);
        idx(&run.join("data"), test);
        run
    };
    let one = run("one", 1);
    let other = run("other", 77);
    let broken = run("broken", 1);
    ok(&one, &smoke);
    ok(&other, &smoke);
    assert_eq!(trials(&one), trials(&other));
    assert_ne!(record(&one)["rows"], Value::Array(Vec::new()));
    // An unreadable test split is noticed before anything is trained.
    std::fs::write(broken.join("data/t10k-images-idx3-ubyte"), b"no images").unwrap();
    let text = fails(&broken, &smoke, 1);
    assert!(text.contains("t10k-images-idx3-ubyte"), "{text}");
    assert!(!files(&broken).keys().any(|path| path.ends_with("weights.safetensors")), "{text}");
}

#[test]
fn protocol_paper_chooses_on_the_test_split_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = ok(dir.path(), &[&SMOKE[..], &["--protocol", "paper"]].concat());
    assert!(String::from_utf8_lossy(&output.stdout).contains("protocol `paper`"));
    let found = record(dir.path());
    assert_eq!(found["config"]["protocol"], "paper");
    for row in found["rows"].as_array().unwrap() {
        // The epoch was chosen on the test images.
        assert_eq!(row["val"], row["test"]["score"], "{row}");
    }
    // Teacher and references choose their epoch on the real validation split.
    let mut students = 0;
    for (path, bytes) in files(dir.path()).iter().filter(|(path, _)| path.ends_with("trial.json")) {
        let trial: Value = serde_json::from_slice(bytes).unwrap();
        let student = path.to_string_lossy().contains("recycle-");
        assert_eq!(trial["protocol"], if student { "paper" } else { "holdout" }, "{}", path.display());
        students += usize::from(student);
    }
    assert!(students > 10);
    for split in ["train-val", "test-as-val"] {
        ok(dir.path(), &["verify", &format!("run:{split}")]);
    }
}

#[test]
fn a_dry_run_prints_configuration_and_cost_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let short =
        ["pipeline", "--preset", "quickstart", "--set", "gan.length.steps=7", "--seed", "3", "--dry-run", "--json"];
    // The preset's checkpoints come after the last step.
    let text = fails(dir.path(), &short, 2);
    assert!(text.contains("gan.checkpoints = 750: expected steps from 1 to 7"), "{text}");
    let printed = json(dir.path(), &[&short[..], &["--set", "gan.checkpoints=[]"]].concat());
    let config = &printed["config"];
    assert_eq!(config["gan"]["length"]["steps"], 7);
    assert_eq!(config["seed"], 3);
    assert_eq!(config["data"]["set"], "fashion-mnist");
    // Checkpoints are screened in closed form; three stds take at most three students, two thresholds two.
    let part = |name: &str| -> Value {
        let parts = printed["estimate"]["parts"].as_array().unwrap();
        parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("{parts:?}")).clone()
    };
    assert_eq!(part("search of generator 1 (halving)")["bound"]["trainings"], 5);
    assert_eq!(part("GAN")["bound"]["checkpoints"], 1);
    assert!(printed["jobs"].as_array().unwrap().iter().any(|job| job["id"] == "row-gafi"));
    // Time is estimated from a short measurement if the images are at hand.
    let printed = json(dir.path(), &["pipeline", "--preset", "smoke", "--dry-run", "--json"]);
    assert!(
        printed["estimate"]["seconds"]["lenient"].as_f64().unwrap() > 0.0
            && printed["estimate"]["bytes"].as_u64().unwrap() > 0
    );
    // The printed configuration is a valid --config.
    let output = ok(dir.path(), &["pipeline", "--preset", "smoke", "--dry-run"]);
    std::fs::write(dir.path().join("all.toml"), &output.stdout).unwrap();
    let back = ok(dir.path(), &["pipeline", "--config", "all.toml", "--dry-run"]);
    // Without the estimate below it, whose times vary.
    let resolved = |output: &std::process::Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(resolved(&output), resolved(&back));
    assert!(String::from_utf8_lossy(&output.stdout).contains("# About "));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_preset_adapts_to_other_images() {
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
        json(dir.path(), &[&base[..], more].concat())
    };
    let printed = dry(&[]);
    assert_eq!(
        (&printed["config"]["data"]["test_fraction"], &printed["config"]["data"]["val_per_class"]),
        (&0.2.into(), &3.into())
    );
    assert_eq!(printed["config"]["data"]["fit"], "resize", "the preset asks for 8x8");
    assert_eq!(printed["config"]["per_class"], 13, "of 20, 4 are for the test and 3 for validation");
    assert!(printed["estimate"]["costs"]["gan_step_s"].as_f64().unwrap() > 0.0);
    let printed = dry(&["--set", "data.val_per_class=5", "--set", "per_class=6"]);
    assert_eq!((&printed["config"]["data"]["val_per_class"], &printed["config"]["per_class"]), (&5.into(), &6.into()));
    ok(dir.path(), &["pipeline", "--preset", "smoke", "--data", "mine", "--out", "run"]);
    assert_eq!(record(dir.path())["rows"][0]["per_class"], 13);
}

#[test]
fn the_best_dataset_is_synthesized_in_any_size() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &SMOKE);
    // An existing generator, here of another run, replaces training one.
    let other = ["pipeline", "--preset", "smoke", "--generator", "run:generator", "--out", "other"];
    ok(dir.path(), &other);
    let made: Vec<_> = std::fs::read_dir(dir.path().join("other")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!made.iter().any(|name| name.to_string_lossy().starts_with("train-gan")), "{made:?}");
    let read = |path: &str| read(&dir.path().join(path));
    let names = |results: &Value| -> Vec<Value> {
        results["rows"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect()
    };
    let first = read("run/run.json");
    let second = read("other/run.json");
    assert!(names(&first).contains(&"gafi-multi".into()) && !names(&second).contains(&"gafi-multi".into()));
    // The same generator gives the same search.
    let search = |record: &Value| {
        let mut search = record["searches"][0].clone();
        let steps = search["steps"].as_array_mut().unwrap();
        let trials = steps.iter_mut().flat_map(|step| step["trials"].as_array_mut().unwrap());
        // Ids hold the configuration of the import, which follows the generator.
        trials.for_each(|trial| drop(trial["artifact"].take()));
        search
    };
    assert_eq!(search(&first), search(&second));

    for (run, row, per_class) in [("run", "gafi", "30"), ("other", "soft", "7"), ("run", "gafi-multi", "5")] {
        let out = format!("{run}-{row}");
        ok(dir.path(), &["synthesize", run, "--row", row, "--per-class", per_class, "--out", &out]);
        let content = read(&format!("{out}/manifest.json"))["content"].clone();
        let n: u64 = per_class.parse().unwrap();
        assert_eq!((&content["counts"], &content["split"]), (&serde_json::json!([n, n]), &"synthetic".into()));
        ok(dir.path(), &["verify", &out]);
    }
    // The samples are those that the student saw first, unless --seed changes them.
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
    // The default row is the best by validation among those with hard labels.
    let hard = first["rows"].as_array().unwrap().iter().filter(|row| row["settings"][0].get("distill").is_none());
    let score = |row: &Value| row["val"].as_f64().unwrap();
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
    assert!(Path::new(String::from_utf8(path).unwrap().trim()).is_relative());
    let text = fails(dir.path(), &[&other[..4], &["run:teacher", "--out", "third"]].concat(), 2);
    assert!(text.contains("a classifier: expected a generator"), "{text}");
    let text = fails(dir.path(), &[&other[..], &["--set", "search.checkpoints=[30]"]].concat(), 2);
    assert!(
        text.contains("search.checkpoints = [30]: expected checkpoints of ") && text.contains("[20, 40]"),
        "{text}"
    );
}

#[test]
fn data_takes_the_shape_of_a_given_generator() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &SMOKE);
    let dry = ["pipeline", "--preset", "smoke", "--generator", "run:generator", "--dry-run", "--json"];
    let larger = [&dry[..], &["--set", "data.size=16"]].concat();
    let text = fails(dir.path(), &larger, 2);
    assert!(text.contains("3x8x8") && text.contains("3x16x16") && text.contains("data.size"), "{text}");
    // The preset `quickstart` asks for 32x32, and its airbench for 16x16 at least.
    let quick = ["pipeline", "--preset", "quickstart", "--generator", "run:generator", "--dry-run", "--json"];
    let shapes = [&quick[..], &["--set", "data.set=shapes", "--set", "data.shapes.classes=2"]].concat();
    let text = fails(dir.path(), &shapes, 2);
    assert!(text.contains("at least 16x16"), "{text}");
    let resnet = |of: &str| format!("{of}.architecture={{ name = \"resnet\", depth = 20, width = 4 }}");
    let resnets = [resnet("teacher"), resnet("student")];
    let printed = json(dir.path(), &[&shapes[..], &["--set", &resnets[0], "--set", &resnets[1]]].concat());
    assert_eq!(printed["config"]["data"]["size"], 8);
}

#[test]
fn invalid_settings_are_reported_before_anything_runs() {
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
        ("search.checkpoints=[20, 30]", "search.checkpoints = [20, 30]: expected checkpoints of the GAN"),
    ] {
        for how in [&["--set", set][..], &["--set", set, "--dry-run"]] {
            let text = fails(dir.path(), &[&SMOKE[..], how].concat(), 2);
            assert!(text.contains(named), "{how:?}: {text}");
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn pruning_frees_what_no_row_needs() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &SMOKE);
    let before = files(dir.path());
    let planned = json(dir.path(), &["prune", "run", "--dry-run", "--json"]);
    assert!(planned["bytes"].as_u64().unwrap() > 0, "{planned}");
    assert_eq!(files(dir.path()), before);
    ok(dir.path(), &["prune", "run"]);
    for folder in planned["folders"].as_array().unwrap() {
        assert!(!dir.path().join("run").join(folder["name"].as_str().unwrap()).exists(), "{folder}");
    }
    // The verbs that read the run still work.
    ok(dir.path(), &["verify", "run:teacher", "run:gafi", "run:generator"]);
    ok(dir.path(), &["synthesize", "run", "--per-class", "5", "--out", "best"]);
    ok(dir.path(), &["report", "run", "--force"]);
    assert!(fails(dir.path(), &["prune", "nowhere"], 2).contains("nowhere"));
}

#[test]
fn the_results_table_is_printed_as_markdown_and_json() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &SMOKE);
    let table =
        |format: &str| ok(dir.path(), &["report", "run", "--format", format, "--meta", "hardware=a CPU"]).stdout;
    let markdown = String::from_utf8(table("markdown")).unwrap();
    assert!(markdown.contains("| gafi |") && markdown.contains("- hardware: a CPU"), "{markdown}");
    let json: Value = serde_json::from_slice(&table("json")).unwrap();
    let rows = json["tables"][0]["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["name"] == "gafi" && row["accuracy_percent"]["n"] == 1), "{json}");
}

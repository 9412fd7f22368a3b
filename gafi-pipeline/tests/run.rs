//! Runs of the preset `smoke`: their records, superseded ones, and pruning.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gafi_core::{Context, ModelLoaders, Progress, Silent, TRIAL_FILE, Task, TrialRecord};
use gafi_pipeline::record::{RECORD, REPORT_PAGE, SUPERSEDED, SearchRecord, Status, TIMINGS, Timings};
use gafi_pipeline::{
    Host, PipelineConfig, RunRecord, Usage, adapt_to_generators, dry_run, overrides, preset, prune, register_sources,
    run, run_job, verify_run,
};
use serde_json::{Value, json};

fn host() -> Host {
    host_with(|_| {})
}

fn host_with(change: impl Fn(&mut Context)) -> Host {
    let device = gafi_nn::device::select("cpu").unwrap();
    let loaders = gafi_gan::register(gafi_nn::register(ModelLoaders::default(), &device), &device);
    let mut cx = Context::new(register_sources(loaders));
    change(&mut cx);
    Host::new((device, cx), Vec::new(), 1)
}

/// The preset `smoke` with one generator and few rows, and with assignments as on the command line.
fn config(set: &[&str]) -> PipelineConfig {
    let mut tree = preset(Some("smoke")).unwrap();
    let variants = "variants=[{name=\"doubled\", times=2}]";
    let few = ["generators=1", "search.compare=[]", "rows=[\"baseline\"]", variants, "comparisons=[]"];
    few.iter().chain(set).for_each(|set| overrides::set(&mut tree, set).unwrap());
    serde_json::from_value(tree).unwrap()
}

/// Requests a stop at the first progress line that contains a text.
#[derive(Debug)]
struct StopAt {
    text: &'static str,
    stop: Arc<AtomicBool>,
}

impl Progress for StopAt {
    fn begin(&self, name: &str, total: Option<u64>) -> Box<dyn Task> {
        Silent.begin(name, total)
    }

    fn log(&self, line: &str) {
        self.stop.fetch_or(line.contains(self.text), Ordering::Relaxed);
    }
}

/// A host that is interrupted once a stage has finished.
fn interrupted_after(text: &'static str) -> Host {
    host_with(|cx| cx.progress = Arc::new(StopAt { text, stop: cx.stop.clone() }))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_run_finds_the_artifacts_of_jobs_that_ran_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = config(&["variants=[{name=\"soft\", labels=\"soft\", filter=false}]"]);
    // The job needs the teacher, which needs two imports. The generator shares one of them.
    let soft = run_job(&host(), &config, dir, "real-soft").unwrap();
    let generator = run_job(&host(), &config, dir, "generator").unwrap();
    assert!(!dir.join(RECORD).exists());
    for (id, why) in [("row-gafi", "teacher"), ("import-test", "import-train"), ("nothing", "real-soft")] {
        let error = run_job(&host(), &config, dir, id).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains(why), "{error:#}");
    }
    let record = run(&host(), &config, dir).unwrap();
    let reference = record.roles.references.iter().find(|reference| reference.name == "real-soft").unwrap();
    assert_eq!(reference.artifact.id, soft.id());
    assert_eq!(record.roles.generators[0].artifact.id, generator.id());
    let timings = Timings::read(dir).unwrap();
    let cached: Vec<&str> =
        timings.stages.iter().filter(|stage| stage.cached).map(|stage| stage.name.as_str()).collect();
    for name in ["import train", "import val", "teacher", "train-gan", "real-soft"] {
        assert!(cached.contains(&name), "{name}: {cached:?}");
    }
}

#[test]
fn a_guided_generator_is_trained_after_its_teacher() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = config(&["gan.guidance={moments=10.0}", "teacher.epochs=1"]);
    // Alone, the job trains the teacher first.
    let generator = run_job(&host(), &config, dir, "generator").unwrap();
    let record = run(&host(), &config, dir).unwrap();
    let used = &record.roles.generators[0].artifact;
    assert_eq!(used.id, generator.id());
    let teacher = record.roles.teacher.as_ref().unwrap();
    assert_eq!(generator.manifest().made_by.inputs["teacher"], std::slice::from_ref(&teacher.id));
}

#[test]
fn the_record_is_complete_and_checks_its_artifacts() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let record = run(&host(), &config(&[]), dir).unwrap();
    assert_eq!(RunRecord::read(dir).unwrap(), record);
    record.verify_links(dir).unwrap();
    assert_eq!(record.status, Status::Finished);
    let names = ["train", "val", "test", "teacher", "real", "real-2x", "generator", "baseline", "gafi", "doubled"];
    assert_eq!(record.names(), names);
    for name in names {
        record.artifact(name).unwrap().open(dir).unwrap();
    }
    let references = record.roles.references.iter().map(|r| (r.name.as_str(), r.times, r.per_class));
    let expected = [("teacher", 1, None), ("real", 1, Some(24)), ("real-2x", 2, Some(48))];
    assert_eq!(references.collect::<Vec<_>>(), expected);
    assert!(record.roles.references.iter().all(|reference| reference.test.is_some()));
    for row in &record.rows {
        assert_eq!(row.against, if row.name == "doubled" { "real-2x" } else { "real" });
        let real = record.reference(&row.against).unwrap();
        let of = |test: &Option<gafi_pipeline::record::TestResult>| test.as_ref().unwrap().score.accuracy();
        assert_eq!(row.gap, Some(100.0 * (of(&real.test) - of(&row.test))), "{}", row.name);
    }
    let search = &record.searches[0];
    assert_eq!(search.steps.iter().map(|step| step.trials.len()).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(search.trainings, 4, "std 1 and threshold 0 were tried before");
    assert_eq!(search.chosen.as_ref().unwrap().threshold, search.steps[2].chosen().threshold);
    let timings = Timings::read(dir).unwrap();
    assert_eq!(timings.config_hash, record.config_hash);
    assert!(timings.stages.iter().any(|stage| stage.name == "teacher" && !stage.cached));

    no_flipped_byte_is_called_whole(dir);

    // The same call finds everything, and writes the same record.
    let bytes = std::fs::read(dir.join(RECORD)).unwrap();
    run(&host(), &config(&[]), dir).unwrap();
    assert_eq!(std::fs::read(dir.join(RECORD)).unwrap(), bytes);
    assert!(Timings::read(dir).unwrap().stages.iter().all(|stage| stage.cached));

    // A configuration that does not match the hash, and an artifact that does not match the record.
    let forged = String::from_utf8(bytes.clone()).unwrap().replacen("\"seed\": 0", "\"seed\": 9", 1);
    std::fs::write(dir.join(RECORD), forged).unwrap();
    let error = RunRecord::read(dir).unwrap_err();
    assert!(error.is::<Usage>() && error.to_string().contains("hash"), "{error}");
    std::fs::write(dir.join(RECORD), bytes).unwrap();
    let teacher = dir.join(&record.artifact("teacher").unwrap().path);
    std::fs::remove_dir_all(&teacher).unwrap();
    assert!(record.verify_links(dir).is_err());
    copy(&dir.join(&record.artifact("real").unwrap().path), &teacher);
    assert!(record.verify_links(dir).unwrap_err().to_string().contains("expected id"));
}

/// Flips bits in every file that holds results, which excludes logs, wall times and pictures.
fn no_flipped_byte_is_called_whole(dir: &Path) {
    let control = gafi_core::RunControl::default();
    let read = |file: &Path| serde_json::from_slice::<serde_json::Value>(&std::fs::read(file).unwrap()).ok();
    assert!(verify_run(dir, &control).unwrap() > 10);
    let folders = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| !file.ends_with(gafi_core::LOG_FILE)).collect();
    files.sort();
    files.extend(std::iter::repeat_n(dir.join(RECORD), 200));
    let random = gafi_core::Stream::new(20).child("flips");
    for (number, file) in files.into_iter().enumerate() {
        let random = random.at(number as u64);
        let (whole, before) = (std::fs::read(&file).unwrap(), read(&file));
        let mut flipped = whole.clone();
        let place = random.seed() as usize % whole.len();
        flipped[place] ^= 1 << (random.child("bit").seed() % 8);
        std::fs::write(&file, flipped).unwrap();
        // White space between values changes nothing that is read.
        let equal = before.is_some()
            && read(&file) == before
            && (file.ends_with(RECORD) || file.ends_with(gafi_core::MANIFEST_FILE));
        assert!(equal || verify_run(dir, &control).is_err(), "{}: byte {place}", file.display());
        std::fs::write(&file, whole).unwrap();
    }
}

#[test]
fn some_rows_are_trained_again_with_other_student_seeds() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let again = config(&["student_seeds=3"]);
    let jobs = dry_run(&host(), &again).unwrap().jobs;
    assert_eq!(jobs.iter().filter(|job| job.id.ends_with("-seed-3")).count(), 2 * 3, "trained and tested");
    let record = run(&host(), &again, dir).unwrap();
    record.verify_links(dir).unwrap();
    let references = record.roles.references.iter().map(|r| (&r.name, &r.artifact, &r.repeats));
    let rows = record.rows.iter().map(|r| (&r.name, &r.artifact, &r.repeats));
    for (name, artifact, repeats) in references.chain(rows) {
        let expected = if ["real", "baseline", "gafi"].contains(&name.as_str()) { vec![1, 2] } else { vec![] };
        assert_eq!(repeats.iter().map(|repeat| repeat.number).collect::<Vec<_>>(), expected, "{name}");
        let mut ids: Vec<&str> = repeats.iter().map(|repeat| repeat.artifact.id.as_str()).collect();
        ids.push(&artifact.id);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), expected.len() + 1, "{name}: every training is another one");
        assert!(repeats.iter().all(|repeat| repeat.test.is_some()), "{name}");
    }
    // Without them the rows are the same.
    let once = run(&host(), &config(&[]), dir).unwrap();
    let rows =
        |record: &RunRecord| record.rows.iter().map(|r| (r.artifact.clone(), r.test.clone())).collect::<Vec<_>>();
    assert_eq!(rows(&once), rows(&record));
    assert!(Timings::read(dir).unwrap().stages.iter().all(|stage| stage.cached));
}

#[test]
fn rows_of_the_ablation_have_values_of_their_own_search() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let rows = r#"rows=["filter", "filter-recycle", "expand"]"#;
    // At one attempt a sample, a class soon lets rejected samples in.
    let filter = r#"search.filter={max_attempts=1, on_exhausted="backfill"}"#;
    let halving = "search.strategy=\"halving\"";
    let config = config(&["ablation=own", rows, "real_subset=true", "variants=[]", filter, halving]);
    let record = run(&host(), &config, dir).unwrap();
    for row in &record.rows {
        let trial: TrialRecord = row.artifact.open(dir).unwrap().read_json(TRIAL_FILE).unwrap();
        assert_eq!(row.tally, trial.tally.map(|tally| tally.total()), "{}", row.name);
        let backfilled = row.tally.as_ref().unwrap().backfilled;
        assert_eq!(backfilled > 0, row.setting().threshold.is_some(), "{}: {backfilled}", row.name);
    }
    assert_eq!(record.config.data.screen_fraction, 0.25);
    // Of 16 validation images of each of two classes, four are for screening.
    assert_eq!((record.dataset.val, record.dataset.screen), (24, Some(8)));
    record.artifact("screen").unwrap().open(dir).unwrap();
    let searches: Vec<_> = record.searches.iter().map(|search| search.row.as_deref()).collect();
    assert_eq!(searches, [None, Some("filter"), Some("expand")]);
    let [main, filter, expand] = &record.searches[..] else { panic!("{searches:?}") };
    assert_eq!((main.closed_form, filter.closed_form), (2, 0), "only checkpoints are screened");
    let chosen = |search: &SearchRecord| search.chosen.clone().unwrap();
    assert_eq!(chosen(filter).checkpoint, chosen(main).checkpoint);
    assert_eq!((chosen(expand).threshold, expand.closed_form), (None, 0));
    let setting = |name: &str| record.row(name).unwrap().setting().clone();
    for name in ["filter", "filter+recycle"] {
        assert_eq!(
            (setting(name).threshold, setting(name).std),
            (chosen(filter).threshold, Default::default()),
            "{name}"
        );
    }
    assert_eq!((setting("expand").std, setting("expand").threshold), (chosen(expand).std, None));
    assert!(setting("filter").recycle.is_none() && setting("filter+recycle").recycle.is_some());
    let names: Vec<_> = record.roles.references.iter().map(|reference| reference.name.as_str()).collect();
    assert_eq!(names, ["teacher", "real", "real-subset"]);
    record.verify_links(dir).unwrap();
}

#[test]
fn an_interrupted_run_of_another_seed_shows_no_old_figures() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let first = run(&host(), &config(&[]), dir).unwrap();
    std::fs::write(dir.join(REPORT_PAGE), "figures of seed 0").unwrap();

    let other = config(&["seed=1", "real=\"student\""]);
    run(&interrupted_after("teacher"), &other, dir).unwrap_err();
    let second = RunRecord::read(dir).unwrap();
    assert_eq!(second.config, other);
    assert!(matches!(&second.status, Status::Failed { .. }), "{:?}", second.status);
    assert!(second.roles.train.is_some() && second.roles.teacher.is_some(), "what was finished is recorded");
    assert!(second.roles.generators.is_empty() && second.rows.is_empty() && second.best(None).is_none());
    second.verify_links(dir).unwrap();
    assert!(!dir.join(REPORT_PAGE).exists());
    assert_eq!(Timings::read(dir).unwrap().config_hash, second.config_hash);

    let moved = dir.join(SUPERSEDED).join(&first.config_hash[..12]);
    assert_eq!(RunRecord::read(&moved).unwrap(), first);
    assert!(moved.join(REPORT_PAGE).exists() && moved.join(TIMINGS).exists());
    // Back to the first configuration, whose artifacts are still there.
    run(&host(), &config(&[]), dir).unwrap();
    assert!(Timings::read(dir).unwrap().stages.iter().all(|stage| stage.cached));
}

#[test]
fn a_check_that_fails_leaves_the_record_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let record = run(&host(), &config(&[]), dir).unwrap();
    run(&host(), &config(&["search.checkpoints=[30]"]), dir).unwrap_err();
    assert_eq!(RunRecord::read(dir).unwrap(), record);
    assert!(!dir.join(SUPERSEDED).exists());
}

#[test]
fn pruning_keeps_what_rows_need_and_what_others_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(&interrupted_after("  real: "), &config(&["seed=1"]), dir).unwrap_err();
    let error = prune(dir, false).unwrap_err();
    assert!(error.is::<Usage>() && error.to_string().contains("unfinished"), "{error}");
    let record = run(&host(), &config(&[]), dir).unwrap();
    copy(&dir.join(&record.artifact("gafi").unwrap().path), &dir.join("mine"));
    std::fs::create_dir(dir.join("notes-0123456789ab")).unwrap();
    std::fs::create_dir_all(dir.join(".recycle-0123456789ab.partial/state")).unwrap();
    std::fs::write(dir.join(".recycle-0123456789ab.partial/begun.json"), "x").unwrap();

    let planned = prune(dir, true).unwrap();
    let names: Vec<&str> = planned.folders.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&".recycle-0123456789ab.partial") && planned.bytes() > 0, "{names:?}");
    let lost = |name: &&&str| name.starts_with("recycle-");
    assert!(names.iter().filter(lost).count() >= 1, "{names:?}");
    assert!(names.iter().all(|name| dir.join(name).exists()));
    assert_eq!(prune(dir, false).unwrap(), planned);
    assert!(names.iter().all(|name| !dir.join(name).exists()));
    assert_eq!(prune(dir, false).unwrap().bytes(), 0);
    assert!(dir.join("mine").exists() && dir.join("notes-0123456789ab").exists());
    RunRecord::read(dir).unwrap().verify_links(dir).unwrap();
}

#[test]
fn a_generator_of_another_shape_is_refused_before_training_or_followed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let record = run(&host(), &config(&[]), &dir.join("run")).unwrap();
    let generator = record.artifact("generator").unwrap().open(&dir.join("run")).unwrap();
    let given = |set: &[&str]| {
        let path = format!("trained_generators=[{:?}]", generator.path());
        config(&[&[path.as_str()], set].concat())
    };
    let larger = given(&["data.size=16"]);
    for error in [dry_run(&host(), &larger).unwrap_err(), run(&host(), &larger, &dir.join("other")).unwrap_err()] {
        let error = error.to_string();
        assert!(error.contains("3x8x8") && error.contains("3x16x16") && error.contains("data.size"), "{error}");
    }
    assert!(!dir.join("other").exists());
    // Unless its size was set explicitly, the data follows the generator.
    let changes = adapt_to_generators(&larger, |_| false, host().cx()).unwrap();
    let size = changes.iter().find(|change| change.key == "data.size").unwrap();
    assert_eq!(size.value, 8);
    let explicit = |key: &str| key == "data.size";
    assert_eq!(adapt_to_generators(&larger, explicit, host().cx()).unwrap(), []);
    assert_eq!(adapt_to_generators(&given(&[]), |_| false, host().cx()).unwrap(), [], "the shape is the same");
    let plan = dry_run(&host(), &given(&[])).unwrap();
    assert!(plan.jobs.iter().all(|job| job.stage != "train-gan") && plan.missing.is_none());
    // It was not saved before its first step, so a control of untrained samples is left out.
    let control = given(&[r#"variants=[{name="noise", labels="soft", filter=false, untrained=true}]"#]);
    let plan = dry_run(&host(), &control).unwrap();
    let has = |id: &str| plan.jobs.iter().any(|job| job.id == id);
    assert!(has("row-gafi") && has("real-soft") && !has("row-noise"));
    // One that draws its own noise takes no std: a preset's are dropped, and explicit ones are refused.
    let manifest = generator.path().join("manifest.json");
    let mut changed: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    changed["content"]["latent_dim"] = 0.into();
    changed["content"]["std"] = false.into();
    let own_noise = dir.join("own-noise");
    copy(generator.path(), &own_noise);
    fs::write(own_noise.join("manifest.json"), changed.to_string()).unwrap();
    let path = format!("trained_generators=[{own_noise:?}]");
    let soft = r#"variants=[{name="soft", labels="soft", filter=false, stds=[1, 1.5]}]"#;
    let wide = config(&[&path, "search.stds=[1, 1.5]", soft]);
    let changes = adapt_to_generators(&wide, |_| false, host().cx()).unwrap();
    assert_eq!(changes.iter().map(|change| change.key).collect::<Vec<_>>(), ["search.stds", "variants"]);
    assert_eq!((&changes[0].value, &changes[1].value[0]["stds"]), (&json!([1.0]), &json!([1.0])));
    let error = dry_run(&host(), &wide).unwrap_err().to_string();
    assert!(error.contains("stds = 1.5") && error.contains("own noise"), "{error}");
    dry_run(&host(), &config(&[&path, "search.stds=[1]"])).unwrap();
    // The dataset must have the generator's classes.
    let error = dry_run(&host(), &given(&["data.shapes.classes=3"])).unwrap_err().to_string();
    assert!(error.contains("classes"), "{error}");
}

//! Stage `filter` on datasets of other programs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use gafi_core::{
    Artifact, ArtifactWriter, Batch, ClassId, ClassTally, ClassifierInfo, Context, Dataset, DatasetInfo, DatasetWriter,
    Error, ImageSpec, Inputs, Kind, LOG_FILE, ModelLoaders, Provenance, Result, Rows, Scorer, Split, Stage, StageInfo,
    Stream, Tally, check_inputs, execute, hash_file,
};
use gafi_filter::{Filter, FilterRule, FilterWith, OnExhausted, TALLY, scorer_fn};
use serde_json::{Value, json};

const IMAGE: ImageSpec = ImageSpec::new(1, 1, 2);

fn names() -> Vec<String> {
    vec!["dark".into(), "light".into()]
}

/// Writes rows, or the manifest of a classifier.
#[derive(Debug)]
enum Make {
    // Label and lightness of each row, without ids, as other programs may write them.
    Rows(Vec<(u32, u8)>),
    Classifier(ImageSpec, Vec<String>),
}

impl Stage for Make {
    fn info(&self) -> StageInfo {
        StageInfo {
            name: "make",
            revision: 1,
            ports: &[],
            output: match self {
                Self::Rows(_) => Kind::Dataset,
                Self::Classifier(..) => Kind::Classifier,
            },
        }
    }
    fn config(&self) -> Value {
        json!(format!("{self:?}"))
    }
    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }
    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
        match self {
            Self::Rows(rows) => {
                let (mut writer, _) = DatasetWriter::begin(out, DatasetInfo::new(IMAGE, names(), Split::Train))?;
                for rows in rows.chunks(1000) {
                    let labels = rows.iter().map(|r| ClassId(r.0)).collect();
                    let images = rows.iter().flat_map(|r| [r.1, 0]).collect();
                    writer.push(&Batch { labels, images, ..Batch::default() }, Value::Null)?;
                }
                writer.finish().map(|_| ())
            }
            Self::Classifier(image, classes) => {
                let architecture = gafi_core::ArchitectureSpec::named("lightness");
                out.set_content(&ClassifierInfo { architecture, image: *image, classes: classes.clone() })
            }
        }
    }
}

fn make(dir: &Path, name: &str, what: Make) -> Artifact {
    execute(&what, &Inputs::new(), &dir.join(name), &Context::default()).unwrap().artifact
}

/// The lighter an image, the likelier it is "light".
fn lightness(pixels: &[u8]) -> Result<Vec<f32>> {
    Ok(pixels.chunks(2).map(|p| f32::from(p[0]) / 255.0).flat_map(|light| [1.0 - light, light]).collect())
}

/// A context whose teacher counts what it judges, and requests a stop after `stop_after` images.
fn context(stop_after: Option<usize>) -> (Context, Arc<AtomicUsize>) {
    let (judged, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let open = {
        let (judged, stop) = (judged.clone(), stop.clone());
        move |_: &Artifact| -> Result<Box<dyn Scorer>> {
            let (judged, stop) = (judged.clone(), stop.clone());
            Ok(Box::new(scorer_fn(IMAGE, 2, move |pixels: &[u8]| {
                let so_far = judged.fetch_add(pixels.len() / 2, Ordering::Relaxed) + pixels.len() / 2;
                stop.fetch_or(stop_after.is_some_and(|after| so_far >= after), Ordering::Relaxed);
                lightness(pixels)
            })))
        }
    };
    let mut cx = Context::new(ModelLoaders::default().with_scorer("lightness", Box::new(open)));
    cx.stop = stop;
    (cx, judged)
}

struct Bench {
    dir: tempfile::TempDir,
    inputs: Inputs,
}

impl Bench {
    fn new(rows: Vec<(u32, u8)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let samples = make(dir.path(), "samples", Make::Rows(rows));
        let teacher = make(dir.path(), "teacher", Make::Classifier(IMAGE, names()));
        Self { inputs: Inputs::new().with("samples", &samples).with("teacher", &teacher), dir }
    }

    fn run(&self, stage: &Filter) -> Result<(Batch, Vec<ClassTally>)> {
        let made = execute(stage, &self.inputs, &self.dir.path().join("out"), &context(None).0)?.artifact;
        made.verify()?;
        let batch = Dataset::open(&made)?.batches().next().unwrap()?;
        Ok((batch, made.read_json::<Tally>(TALLY)?.classes))
    }
}

/// The stage with a threshold.
fn at(threshold: f64) -> Filter {
    Filter { rule: FilterRule { threshold, ..Filter::default().rule }, ..Filter::default() }
}

fn backfilling(stage: Filter) -> Filter {
    Filter { rule: FilterRule { on_exhausted: OnExhausted::Backfill, ..stage.rule }, ..stage }
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let named = entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()));
    named.filter(|(name, _)| name != LOG_FILE).collect()
}

/// `rejected`: the predicted classes of rejected rows, with their numbers.
fn tally(drawn: u64, accepted: u64, backfilled: u64, rejected: &[(u32, u64)]) -> ClassTally {
    let rejected_as = rejected.iter().map(|&(class, count)| (ClassId(class), count)).collect();
    ClassTally { rejected_as, ..ClassTally::new(drawn, accepted, backfilled) }
}

const ROWS: [(u32, u8); 8] = [(0, 51), (1, 204), (1, 51), (0, 204), (1, 255), (0, 0), (1, 153), (0, 102)];

#[test]
fn keeps_accepted_rows_in_order() {
    let bench = Bench::new(ROWS.to_vec());
    let (batch, tallies) = bench.run(&Filter::default()).unwrap();
    assert_eq!(batch.ids, [0, 1, 4, 5, 6, 7]);
    assert_eq!(batch.images, [51, 0, 204, 0, 255, 0, 0, 0, 153, 0, 102, 0]);
    assert_eq!(batch.confidence.unwrap(), [0.8, 0.8, 1.0, 1.0, 0.6, 0.6]);
    assert!(batch.probabilities.is_none());
    assert_eq!(tallies, [tally(4, 3, 0, &[(1, 1)]), tally(4, 3, 0, &[(0, 1)])]);
}

#[test]
fn threshold_and_probabilities() {
    let bench = Bench::new(ROWS.to_vec());
    let stage = Filter { rule: FilterRule { keep_probabilities: true, ..at(0.7).rule }, ..Filter::default() };
    let (batch, _) = bench.run(&stage).unwrap();
    assert_eq!(batch.ids, [0, 1, 4, 5]);
    assert_eq!(batch.probabilities.unwrap()[2..], [1.0 - 0.8, 0.8, 0.0, 1.0, 1.0, 0.0]);
    let out = Artifact::open(bench.dir.path().join("out")).unwrap();
    let config = json!({
        "threshold": 0.7, "max_attempts": 0, "per_class": null, "on_exhausted": "error", "keep_probabilities": true,
    });
    assert_eq!(out.manifest().made_by.config, config);
    assert_eq!(DatasetInfo::of(&out).unwrap().split, Split::Train, "the split stays the same");
}

#[test]
fn per_class_keeps_the_first_rows_and_judges_no_others() {
    let bench = Bench::new(ROWS.to_vec());
    let (batch, tallies) = bench.run(&Filter { per_class: Some(2), ..Filter::default() }).unwrap();
    assert_eq!(batch.ids, [0, 1, 4, 5]);
    assert_eq!(tallies, [tally(3, 2, 0, &[(1, 1)]), tally(3, 2, 0, &[(0, 1)])], "rows of a full class do not count");
}

/// The default configuration with some keys replaced.
fn set(over: Value) -> Filter {
    let mut tree = json!(Filter::default());
    tree.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    serde_json::from_value(tree).unwrap()
}

#[test]
fn accept_any_keeps_every_row() {
    let bench = Bench::new(ROWS.to_vec());
    let ids = |stage: &Filter| {
        let made = execute(stage, &bench.inputs, &bench.dir.path().join("ids"), &context(None).0).unwrap().artifact;
        let batch = Dataset::open(&made).unwrap().batches().next().unwrap().unwrap();
        std::fs::remove_dir_all(made.path()).unwrap();
        batch
    };
    let any = ids(&set(json!({"accept": "any", "keep_probabilities": true})));
    assert_eq!(any.ids, (0..8).collect::<Vec<_>>());
    assert_eq!(any.confidence.unwrap()[..3], [0.8, 0.8, 0.2]);
    assert_eq!(any.probabilities.unwrap()[4..6], [0.8, 0.2]);
    assert_eq!(ids(&set(json!({"threshold": 0.9}))).ids, [4, 5]);
}

#[test]
fn short_class_is_an_error_or_backfilled() {
    let bench = Bench::new(ROWS.to_vec());
    let stage = Filter { per_class: Some(3), ..at(0.7) };
    let error = bench.run(&stage).unwrap_err().to_string();
    let expected = "class 0 (dark) is exhausted: wanted 3 samples, accepted 2 of 4 drawn; the teacher classifies the rest as light (50 %), \
                    dark below the threshold (50 %).\nclass 1 (light) is exhausted: wanted 3 samples, accepted 2 of 4 drawn; ";
    assert!(error.starts_with(expected), "{error}");
    assert!(!bench.dir.path().join("out").exists());

    let (batch, tallies) = bench.run(&backfilling(stage)).unwrap();
    assert_eq!(batch.ids, [0, 1, 4, 5, 2, 3], "the first rejected row of each class comes last");
    assert_eq!(batch.confidence.unwrap()[4..], [0.2, 1.0 - 0.8]);
    assert_eq!(tallies, [tally(4, 2, 1, &[(0, 1), (1, 1)]), tally(4, 2, 1, &[(0, 1), (1, 1)])]);
}

#[test]
fn class_without_accepted_rows_is_an_error_or_backfilled() {
    let bench = Bench::new(vec![(0, 0), (1, 10), (1, 20), (0, 255)]);
    let error = bench.run(&Filter::default()).unwrap_err().to_string();
    assert!(error.starts_with("class 1 (light) is exhausted: wanted 1 sample, accepted 0 of 2 drawn"), "{error}");
    let (batch, tallies) = bench.run(&backfilling(Filter::default())).unwrap();
    assert_eq!(batch.ids, [0, 1]);
    assert_eq!(tallies, [tally(2, 1, 0, &[(1, 1)]), tally(2, 0, 1, &[(0, 2)])]);
}

#[test]
fn swapped_labels_are_named_whatever_bounds_the_attempts() {
    let rows: Vec<(u32, u8)> = (0..2_000).map(|i| (i % 2, if i % 2 == 0 { 230 } else { 10 })).collect();
    let bench = Bench::new(rows);
    // Without a bound every row is judged; with 10, a class is exhausted after 10 * (0 kept + head start 16) draws.
    for (max_attempts, judged) in [(0, 1_000), (10, 160)] {
        let rule = FilterRule { max_attempts, ..Filter::default().rule };
        let error = bench.run(&Filter { rule, per_class: Some(50) }).unwrap_err();
        let line = |class: u32, name: &str, other: &str| {
            format!(
                "class {class} ({name}) is exhausted: wanted 50 samples, accepted 0 of {judged} drawn; the teacher classifies the rest as \
                 {other} (100 %).\n"
            )
        };
        let expected = line(0, "dark", "light")
            + &line(1, "light", "dark")
            + "Labels look permuted: class 0 (dark) is classified as";
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}

#[test]
fn interrupted_run_resumes_to_the_same_bytes() {
    let rows: Vec<(u32, u8)> = (0..40_000).map(|i| (i % 2, Stream::new(1).at(u64::from(i)).seed() as u8)).collect();
    let bench = Bench::new(rows);
    for (name, stage) in [
        ("all", Filter::default()),
        ("per class", backfilling(Filter { per_class: Some(9_000), ..at(0.7) })),
        // Most rows are backfilled, so the interruption falls in the second pass.
        ("backfill", backfilling(Filter { per_class: Some(19_000), ..at(0.7) })),
    ] {
        let (cx, judged) = context(None);
        let whole = bench.dir.path().join(name);
        execute(&stage, &bench.inputs, &whole, &cx).unwrap();
        let all = judged.load(Ordering::Relaxed);
        for share in [0.7, 0.95] {
            let cut = bench.dir.path().join(format!("{name}-{share}"));
            let (cx, _) = context(Some((all as f64 * share) as usize));
            assert!(matches!(execute(&stage, &bench.inputs, &cut, &cx), Err(Error::Interrupted)), "{name}");
            assert!(!cut.exists());
            let (cx, again) = context(None);
            execute(&stage, &bench.inputs, &cut, &cx).unwrap();
            assert_eq!(files(&cut), files(&whole), "{name}");
            let again = again.load(Ordering::Relaxed);
            assert!(again < all - 8192, "{name}: {again} of {all} judged again");
        }
    }
}

/// A dataset folder written by hand after `docs/format.md`.
fn by_hand(dir: &Path) -> Artifact {
    std::fs::create_dir(dir).unwrap();
    let tensor = |dtype: &str, shape: &[usize], from: usize, to: usize| json!({"dtype": dtype, "shape": shape, "data_offsets": [from, to]});
    let header = json!({
        "labels": tensor("I64", &[3], 0, 24), "confidence": tensor("F32", &[3], 24, 36), "images": tensor("U8", &[3, 1, 1, 2], 36, 42),
    });
    let mut header = header.to_string();
    header.extend(std::iter::repeat_n(' ', 8 - header.len() % 8));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.extend([1i64, 0, 1].iter().flat_map(|label| label.to_le_bytes()));
    bytes.extend([0.25f32; 3].iter().flat_map(|confidence| confidence.to_le_bytes()));
    bytes.extend([255, 0, 0, 0, 51, 0]);
    std::fs::write(dir.join("mine.safetensors"), bytes).unwrap();
    let made_by = Provenance {
        stage: "theirs".into(),
        revision: 1,
        config: json!({}),
        inputs: BTreeMap::new(),
        version: "?".into(),
    };
    let manifest = json!({
        "format": gafi_core::FORMAT_VERSION, "kind": "dataset", "fingerprint": made_by.fingerprint(), "made_by": made_by,
        "content": {
            "image": {"channels": 1, "height": 1, "width": 2}, "classes": ["dark", "light"], "split": "synthetic",
            "counts": [1, 2], "shards": [{"file": "mine.safetensors", "rows": 3}],
        },
        "files": {"mine.safetensors": hash_file(&dir.join("mine.safetensors")).unwrap()},
    });
    std::fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    Artifact::open(dir).unwrap()
}

#[test]
fn dataset_of_another_program() {
    let mut bench = Bench::new(ROWS.to_vec());
    let theirs = by_hand(&bench.dir.path().join("theirs"));
    bench.inputs = Inputs::new().with("samples", &theirs).with("teacher", bench.inputs.get("teacher").unwrap());
    let (batch, tallies) = bench.run(&Filter::default()).unwrap();
    assert_eq!((batch.ids, batch.images), (vec![0, 1], vec![255, 0, 0, 0]));
    assert_eq!(batch.confidence.unwrap(), [1.0, 1.0], "the teacher replaces the column");
    assert_eq!(tallies, [tally(1, 1, 0, &[]), tally(2, 1, 0, &[(0, 1)])]);
}

#[test]
fn check_needs_manifests_alone() {
    let bench = Bench::new(ROWS.to_vec());
    let refused = |stage: Filter| check_inputs(&stage, &bench.inputs).unwrap_err();
    assert!(refused(at(1.0)).to_string().starts_with("threshold = 1"));
    assert!(refused(set(json!({"accept": "any", "threshold": 0.5}))).to_string().starts_with("threshold = 0.5"));
    assert!(refused(Filter { per_class: Some(0), ..Filter::default() }).to_string().starts_with("per_class = 0"));
    let many = refused(Filter { per_class: Some(5), ..Filter::default() }).to_string();
    assert_eq!(many, "stage filter: samples: expected at least 5 rows of class 0 (dark), found 4");
    let read = |text| serde_json::from_str::<Filter>(text);
    assert!(read(r#"{"treshold": 0.5}"#).unwrap_err().to_string().contains("treshold"));
    assert_eq!(read(r#"{"threshold": 0.5}"#).unwrap(), at(0.5), "other keys have the stage's defaults");
    let all: Filter = serde_json::from_value(json!(at(0.5))).unwrap();
    assert_eq!(all, at(0.5));

    let turned = Make::Classifier(IMAGE, vec!["light".into(), "dark".into()]);
    let larger = Make::Classifier(ImageSpec::new(1, 2, 2), names());
    for (name, teacher) in [("turned", turned), ("larger", larger)] {
        let samples = bench.inputs.get("samples").unwrap();
        let inputs = Inputs::new().with("samples", samples).with("teacher", &make(bench.dir.path(), name, teacher));
        let error = check_inputs(&Filter::default(), &inputs).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("stage filter: teacher"), "{error}");
    }
}

#[test]
fn own_scorer_and_its_identity() {
    let bench = Bench::new(ROWS.to_vec());
    let inputs = Inputs::new().with("samples", bench.inputs.get("samples").unwrap());
    let stage = |id: &str, filter| FilterWith::new(id, scorer_fn(IMAGE, 2, lightness), filter);
    let run = |stage: &dyn Stage, to: &str| execute(stage, &inputs, &bench.dir.path().join(to), &Context::default());

    let made = run(&stage("lightness 1", Filter::default()), "own").unwrap();
    let (expected, _) = bench.run(&Filter::default()).unwrap();
    assert_eq!(Dataset::open(&made.artifact).unwrap().batches().next().unwrap().unwrap(), expected);
    assert_eq!(Dataset::open(&made.artifact).unwrap().len(), 6);
    assert!(run(&stage("lightness 1", Filter::default()), "own").unwrap().cached);
    assert!(matches!(run(&stage("lightness 2", Filter::default()), "own"), Err(Error::Occupied { .. })));

    let misfit = FilterWith::new("three", scorer_fn(IMAGE, 3, lightness), Filter::default());
    assert!(run(&misfit, "other").unwrap_err().is_usage());
    let nan = FilterWith::new("nan", scorer_fn(IMAGE, 2, |p: &[u8]| Ok(vec![f32::NAN; p.len()])), Filter::default());
    assert_eq!(run(&nan, "other").unwrap_err().to_string(), "sample 0 of class 0");
    assert!(!bench.dir.path().join("other").exists());
}

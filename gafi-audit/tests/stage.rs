//! The stages `audit` and `probe` with a teacher that is a formula, and their parts on sets small enough to count by
//! hand.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use gafi_audit::{AUDIT_FILE, Audit, AuditRecord, PROBE_FILE, Probe, ProbeRecord, ScoredSet, audit, near_duplicates};
use gafi_core::stream::below;
use gafi_core::{
    ArchitectureSpec, Artifact, ArtifactWriter, Batch, ClassId, ClassifierInfo, Context, Cursor, DatasetInfo,
    DatasetWriter, Error, ImageSpec, Inputs, Kind, LOG_FILE, ModelLoaders, Result, SampleSource, Scored, Scorer,
    SourceSpec, Split, Stage, StageInfo, Stream, Tally, execute,
};
use serde_json::{Value, json};

const IMAGE: ImageSpec = ImageSpec::new(1, 2, 2);

fn names() -> Vec<String> {
    vec!["dark".into(), "light".into()]
}

/// A stage that makes the artifacts of these tests.
#[derive(Debug)]
enum Make {
    Rows(Split, Vec<(u32, [u8; 4])>),
    Classifier(&'static str),
    Generator,
}

impl Stage for Make {
    fn info(&self) -> StageInfo {
        let output = match self {
            Self::Rows(..) => Kind::Dataset,
            Self::Classifier(_) => Kind::Classifier,
            Self::Generator => Kind::Generator,
        };
        StageInfo { name: "make", revision: 1, ports: &[], output }
    }
    fn config(&self) -> Value {
        json!(format!("{self:?}"))
    }
    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }
    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
        match self {
            Self::Rows(split, rows) => {
                let (mut writer, _) = DatasetWriter::begin(out, DatasetInfo::new(IMAGE, names(), *split))?;
                for rows in rows.chunks(100) {
                    let labels = rows.iter().map(|r| ClassId(r.0)).collect();
                    let images = rows.iter().flat_map(|r| r.1).collect();
                    writer.push(&Batch { labels, images, ..Batch::default() }, Value::Null)?;
                }
                writer.finish().map(|_| ())
            }
            Self::Classifier(name) => {
                let architecture = ArchitectureSpec::named(name);
                out.set_content(&ClassifierInfo { architecture, image: IMAGE, classes: names() })
            }
            Self::Generator => out.set_content(&json!({
                "architecture": {"name": "none"}, "image": {"channels": 1, "height": 2, "width": 2}, "classes": ["a", "b"],
                "latent_dim": 1, "checkpoints": [{"step": 1}]
            })),
        }
    }
}

/// The lighter an image, the likelier it is "light". Features are its pixels, or none.
struct Lightness {
    features: bool,
}

impl Scorer for Lightness {
    fn image(&self) -> &ImageSpec {
        &IMAGE
    }
    fn classes(&self) -> usize {
        2
    }
    fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>> {
        let light = |p: &[u8]| p.iter().map(|&p| f32::from(p)).sum::<f32>() / 1020.0;
        Ok(pixels.chunks(4).map(light).flat_map(|light| [1.0 - light, light]).collect())
    }
    fn feature_dim(&self) -> Option<usize> {
        self.features.then_some(4)
    }
    fn score_with_features(&mut self, pixels: &[u8]) -> Result<Scored> {
        assert!(self.features);
        Ok(Scored { probabilities: self.score(pixels)?, features: pixels.iter().map(|&p| f32::from(p)).collect() })
    }
}

/// A source that accepts every second sample, and has at most `most` of class 1.
struct Supply {
    drawn: Vec<(u32, [u8; 4])>,
    next: [usize; 2],
    most: usize,
}

impl SampleSource for Supply {
    fn image(&self) -> &ImageSpec {
        &IMAGE
    }
    fn classes(&self) -> &[String] {
        static NAMES: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(names);
        &NAMES
    }
    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
        let of_class: Vec<_> = self.drawn.iter().filter(|(label, _)| *label == class.0).collect();
        let end = if class.0 == 1 { of_class.len().min(self.most) } else { of_class.len() };
        let next = &mut self.next[class.index()];
        // Fewer than requested, which a source may return.
        let some = &of_class[*next..end.min(*next + max.get().min(7))];
        *next += some.len();
        let images = some.iter().flat_map(|(_, pixels)| *pixels).collect();
        Ok((!some.is_empty()).then(|| Batch { labels: vec![class; some.len()], images, ..Batch::default() }))
    }
    fn tally(&self) -> Tally {
        let class = |&n: &usize| gafi_core::ClassTally::new(2 * n as u64, n as u64, 0);
        Tally { classes: self.next.iter().map(class).collect() }
    }
    fn cursor(&self, class: ClassId) -> Cursor {
        Cursor::new([self.next[class.index()] as u64], Vec::new())
    }
    fn seek(&mut self, _: ClassId, _: &Cursor) -> Result<()> {
        Ok(())
    }
}

fn context() -> Context {
    let open = |features| -> gafi_core::OpenScorer { Box::new(move |_| Ok(Box::new(Lightness { features }))) };
    let loaders = ModelLoaders::default().with_scorer("lightness", open(true)).with_scorer("mute", open(false));
    let supply: gafi_core::OpenSource = Box::new(|config, _, _| {
        let number = |key: &str| config.options[key].as_u64().unwrap();
        let mut drawn = if config.options["flat"] == true { flat(400, 2) } else { stripes(400, 2) };
        // Vertical stripes labelled as horizontal, as a bad generator draws them.
        let wrong = drawn.iter_mut().filter(|(label, _)| *label == 1).take(number("wrong") as usize);
        wrong.for_each(|(_, image)| image.swap(1, 2));
        Ok(Box::new(Supply { drawn, next: [0; 2], most: number("most") as usize }))
    });
    Context::new(loaders.with_source("supply", supply))
}

/// `n` images, alternately dark and light.
fn images(n: usize, seed: u64) -> Vec<(u32, [u8; 4])> {
    let mut rng = Stream::new(seed).rng();
    let image = |i: usize| {
        let label = (i % 2) as u32;
        (label, [0; 4].map(|_: u8| below(&mut rng, 120) as u8 + 130 * label as u8))
    };
    (0..n).map(image).collect()
}

/// `n` images of one colour, alternately dark and light.
fn flat(n: usize, seed: u64) -> Vec<(u32, [u8; 4])> {
    images(n, seed).into_iter().map(|(label, image)| (label, [image[0]; 4])).collect()
}

/// `n` images of a light and a dark stripe, alternately vertical and horizontal.
fn stripes(n: usize, seed: u64) -> Vec<(u32, [u8; 4])> {
    let pixels: Vec<[u8; 4]> =
        images(n, seed).into_iter().map(|(label, image)| image.map(|p| p - 130 * label as u8)).collect();
    let stripe = |(i, [a, b, c, d]): (usize, [u8; 4])| {
        let vertical = [a + 130, b, c + 130, d];
        if i % 2 == 0 { (0, vertical) } else { (1, [vertical[0], vertical[2], vertical[1], vertical[3]]) }
    };
    pixels.into_iter().enumerate().map(stripe).collect()
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn make(&self, name: &str, what: Make) -> Artifact {
        execute(&what, &Inputs::new(), &self.dir.path().join(name), &Context::default()).unwrap().artifact
    }

    fn inputs(&self, synthetic: Vec<(u32, [u8; 4])>, real: Vec<(u32, [u8; 4])>) -> Inputs {
        Inputs::new()
            .with("synthetic", &self.make("synthetic", Make::Rows(Split::Synthetic, synthetic)))
            .with("real", &self.make("real", Make::Rows(Split::Train, real)))
            .with("teacher", &self.make("teacher", Make::Classifier("lightness")))
    }

    fn run(&self, stage: &Audit, inputs: &Inputs) -> Result<AuditRecord> {
        let made = execute(stage, inputs, &self.dir.path().join("audit"), &context())?.artifact;
        made.verify()?;
        made.read_json(AUDIT_FILE)
    }
}

/// `inputs` with `artifact` as the only one of `port`.
fn replaced(inputs: &Inputs, port: &str, artifact: &Artifact) -> Inputs {
    let kept = inputs.iter().filter(|(name, _)| *name != port);
    kept.fold(Inputs::new().with(port, artifact), |all, (name, artifacts)| all.with(name, &artifacts[0]))
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let named = entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()));
    named.filter(|(name, _)| name != LOG_FILE).collect()
}

#[test]
fn the_audit_record() {
    let bench = Bench::new();
    let real = images(400, 1);
    let mut synthetic = images(300, 2);
    synthetic.push((1, [0, 0, 0, 1])); // predicted dark
    synthetic.push((1, real[17].1)); // a copy
    synthetic.push((0, synthetic[8].1)); // a repetition
    let record = bench.run(&Audit::default(), &bench.inputs(synthetic, real)).unwrap();
    assert_eq!((record.classes, record.balance.counts), (names(), vec![151, 152]));
    assert_eq!(record.balance.ratio, 151.0 / 152.0);
    let overall = record.measures.overall;
    assert_eq!((overall.synthetic, overall.real), (303, 400));
    assert_eq!(overall.acceptance, Some(302.0 / 303.0));
    let [dark, light] = record.measures.per_class[..] else { panic!("two classes") };
    assert_eq!((dark.synthetic, dark.real, dark.acceptance), (151, 200, Some(1.0)));
    assert_eq!((light.synthetic, light.real, light.acceptance), (152, 200, Some(151.0 / 152.0)));
    assert!(light.confidence.unwrap() > 0.6 && light.confidence.unwrap() < dark.confidence.unwrap());
    for measures in [overall, dark, light] {
        let fidelity = measures.fidelity.unwrap();
        assert!(fidelity.prdc.precision > 0.8 && fidelity.prdc.coverage > 0.8, "{fidelity:?}");
        assert!(fidelity.frechet_teacher > 0.0 && fidelity.frechet_teacher < 500.0, "{fidelity:?}");
    }
    assert_eq!((json!(record.predicted), record.hint), (json!([{"0": 151}, {"0": 1, "1": 151}]), None));
    let found = record.duplicates;
    assert_eq!((found.to_real.equal, found.to_synthetic.equal), (1, 2));
    assert_eq!((found.to_real.closest[0].synthetic, found.to_real.closest[0].other), (301, 17));
    let first = found.to_synthetic.closest[0];
    assert_eq!((first.synthetic, first.other, first.distance), (8, 302, 0.0), "each pair once");
    assert_ne!(found.to_synthetic.closest[1].distance, 0.0);
    assert_eq!((found.to_real.closest.len(), found.to_synthetic.closest.len()), (20, 20));
    assert!(found.threshold == found.real.p1 && found.real.min <= found.real.p1 && found.real.p5 <= found.real.p50);
    let manifest = Artifact::open(bench.dir.path().join("audit")).unwrap().manifest().clone();
    assert_eq!(manifest.content["equal_real"], 1);
    let config = json!({"neighbours": 5, "limit_per_class": null, "near_duplicates": 20});
    assert_eq!((manifest.kind, manifest.made_by.config), (Kind::Trials, config));
}

#[test]
fn swapped_labels_are_hinted_at() {
    let bench = Bench::new();
    let swapped = images(300, 2).into_iter().map(|(label, pixels)| (1 - label, pixels)).collect();
    let record = bench.run(&Audit::default(), &bench.inputs(swapped, images(400, 1))).unwrap();
    let overall = record.measures.overall;
    assert!(
        overall.acceptance == Some(0.0) && overall.fidelity.unwrap().prdc.precision > 0.9,
        "good images: {overall:?}"
    );
    let hint = "Labels look permuted: class 0 (dark) is classified as class 1 (light) in 100 %, class 1 (light) is classified as class 0 (dark) \
                in 100 %. Compare";
    assert!(record.hint.unwrap().starts_with(hint));
    let manifest = Artifact::open(bench.dir.path().join("audit")).unwrap().manifest().clone();
    assert!(manifest.content["hint"].as_str().unwrap().starts_with(hint));
}

#[test]
fn a_limit_draws_rows_of_each_class() {
    let bench = Bench::new();
    // Five rows of class 1, which are all drawn.
    let five = |rows: Vec<(u32, [u8; 4])>| {
        let mut ones = 0;
        let keep = |row: &(u32, [u8; 4])| {
            ones += row.0;
            row.0 == 0 || ones <= 5
        };
        rows.into_iter().filter(keep).collect::<Vec<_>>()
    };
    let mut synthetic = five(images(40, 3));
    synthetic.splice(0..0, [(0, [90; 4]); 30]);
    let mut real = five(images(60, 4));
    let of_ones = |rows: &[(u32, [u8; 4])]| rows.iter().rposition(|row| row.0 == 1).unwrap();
    let (copied, copy) = (of_ones(&synthetic), of_ones(&real));
    real[copy].1 = synthetic[copied].1;
    let stage = Audit { limit_per_class: Some(6), neighbours: 2, near_duplicates: 3 };
    let inputs = bench.inputs(synthetic, real);
    let record = bench.run(&stage, &inputs).unwrap();
    assert_eq!(record.balance.counts, [50, 5], "of the whole set");
    assert_eq!((record.measures.overall.synthetic, record.measures.overall.real), (11, 11));
    let recall = record.measures.per_class[0].fidelity.unwrap().prdc.recall;
    assert!(recall > 0.0, "not the thirty equal images at the beginning");
    let pair = record.duplicates.to_real.closest[0];
    assert_eq!((pair.synthetic, pair.other, pair.distance), (copied, copy, 0.0), "rows of the datasets");
    assert_eq!(record.duplicates.to_real.closest.len(), 3);
    // Classes with no more rows than neighbours have no fidelity.
    std::fs::remove_dir_all(bench.dir.path().join("audit")).unwrap();
    let record = bench.run(&Audit { neighbours: 6, ..stage }, &inputs).unwrap();
    assert!(record.measures.overall.fidelity.is_some() && record.measures.per_class[1].fidelity.is_none());
}

#[test]
fn artifacts_do_not_depend_on_threads() {
    let bench = Bench::new();
    let inputs = bench.inputs(images(900, 5), images(1_100, 6));
    let run = |name: &str, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let dest = bench.dir.path().join(name);
        pool.install(|| execute(&Audit::default(), &inputs, &dest, &context()).unwrap());
        files(&dest)
    };
    assert_eq!(run("one", 1), run("three", 3));
}

#[test]
fn bad_inputs_are_refused() {
    let bench = Bench::new();
    let inputs = bench.inputs(images(20, 7), images(20, 8));
    let fails = |stage: Audit, inputs: &Inputs, expected: &str| {
        let error = bench.run(&stage, inputs).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(expected), "{error}");
    };
    fails(Audit { neighbours: 0, ..Audit::default() }, &inputs, "neighbours = 0");
    fails(Audit { limit_per_class: Some(0), ..Audit::default() }, &inputs, "limit_per_class = 0");
    fails(
        Audit { neighbours: 20, ..Audit::default() },
        &inputs,
        "more than 20 rows, the value of neighbours, found 20",
    );
    for (split, port) in [(Split::Test, "real"), (Split::Val, "real"), (Split::Test, "synthetic")] {
        let other = bench.make(&format!("{split}-{port}"), Make::Rows(split, images(20, 9)));
        fails(Audit::default(), &replaced(&inputs, port, &other), &format!("split {split}"));
    }
    let mute = bench.make("mute", Make::Classifier("mute"));
    fails(Audit::default(), &replaced(&inputs, "teacher", &mute), "a classifier with features");
    assert!(!bench.dir.path().join("audit").exists());
}

#[test]
fn a_stop_interrupts_the_audit() {
    let bench = Bench::new();
    let inputs = bench.inputs(images(20, 7), images(20, 8));
    let cx = context();
    cx.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = execute(&Audit::default(), &inputs, &bench.dir.path().join("audit"), &cx).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
}

fn supply(wrong: u64, most: u64, flat: bool) -> SourceSpec {
    SourceSpec::of(&json!({"kind": "supply", "wrong": wrong, "most": most, "flat": flat})).unwrap()
}

#[test]
fn a_probe_ranks_sources() {
    let bench = Bench::new();
    let inputs = Inputs::new()
        .with("generators", &bench.make("generator", Make::Generator))
        .with("real", &bench.make("real", Make::Rows(Split::Screen, stripes(200, 1))));
    let probe = |name: &str, wrong: u64, most: u64| -> ProbeRecord {
        let stage = Probe { source: supply(wrong, most, false), per_class: 100, ..Probe::default() };
        let made = execute(&stage, &inputs, &bench.dir.path().join(name), &context()).unwrap().artifact;
        assert_eq!(made.kind(), Kind::Trials);
        made.read_json(PROBE_FILE).unwrap()
    };
    let good = probe("good", 0, 1_000);
    assert_eq!((good.tally.drawn, good.tally.accepted, good.synthetic, good.real), (400, 200, 200, 200));
    let bad = probe("bad", 100, 1_000);
    assert!(good.accuracy > bad.accuracy + 0.1, "{good:?} {bad:?}");
    // A source that runs out is probed with the samples that it has.
    assert_eq!(probe("short", 0, 12).synthetic, 112);

    let refused = |stage: Probe, inputs: &Inputs, expected: &str| {
        let error = execute(&stage, inputs, &bench.dir.path().join("none"), &context()).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(expected), "{error}");
    };
    refused(Probe { per_class: 0, ..Probe::default() }, &inputs, "per_class = 0");
    refused(Probe::default(), &inputs, "source");
    for split in [Split::Train, Split::Val, Split::Test] {
        let other = bench.make(&split.to_string(), Make::Rows(split, images(20, 9)));
        let inputs = replaced(&inputs, "real", &other);
        refused(Probe::default(), &inputs, "a dataset of split screen, which an import with screen_fraction");
        refused(Probe::default(), &inputs, &format!("split {split}"));
    }
}

/// Images of one colour have no patches, so the probe classifies their pixels.
#[test]
fn a_probe_of_images_of_one_colour() {
    let bench = Bench::new();
    let inputs = Inputs::new()
        .with("generators", &bench.make("generator", Make::Generator))
        .with("real", &bench.make("real", Make::Rows(Split::Screen, flat(40, 1))));
    let stage = Probe { source: supply(0, 50, true), per_class: 50, ..Probe::default() };
    let made = execute(&stage, &inputs, &bench.dir.path().join("probe"), &context()).unwrap().artifact;
    let record: ProbeRecord = made.read_json(PROBE_FILE).unwrap();
    assert!(record.accuracy > 0.9, "{record:?}");
}

#[test]
fn near_duplicates_counted_by_hand() {
    // Distances to the nearest other real image: 10, 10, 20, 50.
    let real = [0u8, 10, 30, 80];
    let synthetic = [0u8, 12, 20, 200, 255, 255];
    let found = near_duplicates(&synthetic, &real, 1, 10, &Context::default()).unwrap();
    let in_255 = |distance: f64| (distance * 255.0).round() as u32;
    let of = |s: gafi_audit::DistanceQuantiles| [s.min, s.p1, s.p5, s.p50].map(in_255);
    assert_eq!((in_255(found.threshold), of(found.real)), (10, [10, 10, 10, 10]));
    // 0 -> 0, 12 -> 10, 20 -> 10 or 30, 200 -> 80, 255 -> 80.
    assert_eq!((found.to_real.near, found.to_real.equal, of(found.to_real.spread)), (3, 1, [0, 0, 0, 10]));
    let pairs: Vec<_> = found.to_real.closest.iter().map(|p| (p.synthetic, p.other, in_255(p.distance))).collect();
    assert_eq!(pairs, [(0, 0, 0), (1, 1, 2), (2, 1, 10), (3, 3, 120), (4, 3, 175), (5, 3, 175)]);
    // 255 and 255 count as one pair, as do 12 and 20.
    let pairs: Vec<_> = found.to_synthetic.closest.iter().map(|p| (p.synthetic, p.other, in_255(p.distance))).collect();
    assert_eq!(pairs, [(4, 5, 0), (1, 2, 8), (0, 1, 12), (3, 4, 55)]);
    assert!(near_duplicates(&synthetic, &real[..1], 1, 1, &Context::default()).is_err());
    assert!(near_duplicates(&synthetic, &real, 0, 1, &Context::default()).is_err());
}

#[test]
fn audit_without_a_stage() {
    let mut real = ScoredSet::new(1);
    let scored =
        |features: &[f32]| Scored { probabilities: [0.7, 0.3].repeat(features.len()), features: features.into() };
    real.push(&[ClassId(0); 3], &scored(&[1.0, 2.0, 3.0])).unwrap();
    let mut synthetic = ScoredSet::new(1);
    synthetic.push(&[ClassId(0), ClassId(1)], &scored(&[1.5, 3.5])).unwrap();
    let found = audit(&synthetic, &real, 2, 1, &Context::default()).unwrap();
    assert_eq!((found.overall.acceptance, found.overall.synthetic), (Some(0.5), 2));
    assert_eq!(found.overall.fidelity.unwrap().prdc.precision, 1.0);
    assert_eq!((found.per_class[1].real, found.per_class[1].confidence), (0, Some(f64::from(0.3f32))));
    assert!(found.per_class.iter().all(|class| class.fidelity.is_none()));

    let mut set = ScoredSet::new(1);
    assert!(set.push(&[ClassId(0)], &Scored { probabilities: vec![], features: vec![1.0] }).is_err());
    assert!(set.push(&[ClassId(0)], &scored(&[1.0, 2.0])).is_err());
    assert!(set.push(&[ClassId(2)], &scored(&[1.0])).is_err());
    assert!(set.push(&[ClassId(0)], &Scored { probabilities: vec![f32::NAN, 0.5], features: vec![1.0] }).is_err());
    assert_eq!(set, ScoredSet::new(1), "a refused batch changes nothing");
}

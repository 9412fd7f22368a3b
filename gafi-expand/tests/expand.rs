//! `Expanded` and stage `expand`, with a generator whose pixels are its latents.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use gafi_core::{
    Artifact, ArtifactWriter, ClassId, Context, Cursor, Dataset, Error, Generator, ImageSpec, Inputs, Kind, LOG_FILE,
    ModelLoaders, Result, Rows, SampleRequest, SampleSource, Stage, StageInfo, Stream, check_inputs, execute,
};
use gafi_expand::{Expand, Expanded, StdRange, draw_latent, draw_seed, latent_stream};
use proptest::prelude::*;

const D: usize = 3;

/// Pixels are the latent's bits and the label: two samples are equal only if their latents and labels are.
struct Bits {
    image: ImageSpec,
    classes: Vec<String>,
    generated: Arc<AtomicUsize>,
    // Requests a stop once that many samples are generated.
    stop: Option<(usize, Arc<AtomicBool>)>,
    short: bool,
}

impl Bits {
    fn new(classes: usize) -> Self {
        let classes = (0..classes).map(|c| format!("class-{c}")).collect();
        Self { image: ImageSpec::new(1, 1, 4 * D + 1), classes, generated: Arc::default(), stop: None, short: false }
    }
}

fn pixels(latent: &[f32], label: ClassId) -> Vec<u8> {
    latent.iter().flat_map(|z| z.to_le_bytes()).chain([label.0 as u8]).collect()
}

impl Generator for Bits {
    fn image(&self) -> &ImageSpec {
        &self.image
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn latent_dim(&self) -> usize {
        D
    }
    fn generate(&mut self, latents: &[f32], labels: &[ClassId]) -> Result<Vec<u8>> {
        assert_eq!(latents.len(), labels.len() * D);
        let generated = self.generated.fetch_add(labels.len(), Ordering::Relaxed) + labels.len();
        if let Some((after, stop)) = &self.stop
            && generated >= *after
        {
            stop.store(true, Ordering::Relaxed);
        }
        let mut images: Vec<u8> = latents.chunks(D).zip(labels).flat_map(|(z, &l)| pixels(z, l)).collect();
        images.truncate(images.len() - usize::from(self.short));
        Ok(images)
    }
}

fn n(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

fn source(std: StdRange, block: usize) -> Expanded<Bits> {
    Expanded::new(Bits::new(3), std, latent_stream(5)).unwrap().with_block(n(block))
}

#[test]
fn sample_is_the_latent_of_its_name() {
    let std = StdRange::Range([1.0, 1.5]);
    let batch = source(std, 4).pull(ClassId(2), n(7)).unwrap().unwrap();
    assert_eq!(batch.ids, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(batch.labels, [ClassId(2); 7]);
    let mut latent = [0.0; D];
    draw_latent(&latent_stream(5), std, ClassId(2), 6, &mut latent);
    assert_eq!(batch.images[6 * (4 * D + 1)..], pixels(&latent, ClassId(2)));
}

#[test]
fn std_out_of_range_is_refused() {
    assert!(Expanded::new(Bits::new(3), StdRange::Fixed(0.0), Stream::new(0)).err().unwrap().is_usage());
}

proptest! {
    #[test]
    fn nothing_depends_on_max_or_block(
        pulls in prop::collection::vec((0u32..3, 1usize..20), 1..12), block in 1usize..9, cut in 0usize..12,
    ) {
        let std = StdRange::Range([1.0, 2.0]);
        let mut whole = source(std, 64);
        let mut apart = source(std, block);
        let mut parts: BTreeMap<u32, (Vec<u64>, Vec<u8>)> = BTreeMap::new();
        for (i, &(class, max)) in pulls.iter().enumerate() {
            if i == cut {
                // As after an interruption: another source, of another block size, resumes.
                let before = (apart.cursors(), apart.tally());
                apart = source(std, block + 1);
                apart.seek_all(&before.0).unwrap();
                prop_assert_eq!((apart.cursors(), apart.tally()), before);
            }
            let batch = apart.pull(ClassId(class), n(max)).unwrap().unwrap();
            let part = parts.entry(class).or_default();
            part.0.extend(batch.ids);
            part.1.extend(batch.images);
        }
        for (class, (ids, images)) in parts {
            let all = whole.pull(ClassId(class), n(ids.len())).unwrap().unwrap();
            prop_assert_eq!(all.ids, ids);
            prop_assert_eq!(all.images, images);
        }
        prop_assert_eq!(whole.tally(), apart.tally());
        prop_assert_eq!(whole.cursors(), apart.cursors());
    }
}

#[test]
fn cursors_of_other_sources_are_refused() {
    let mut source = source(StdRange::default(), 8);
    let at = |next| Cursor::new([next], Vec::new());
    assert!(source.seek_all(&[at(0), at(10)]).is_err());
    assert!(source.seek(ClassId(1), &Cursor::new([10, 0], Vec::new())).is_err());
}

#[test]
fn last_ids_end_the_class() {
    let mut source = source(StdRange::default(), 8);
    source.seek(ClassId(0), &Cursor::new([u64::MAX - 2], Vec::new())).unwrap();
    assert_eq!(source.pull(ClassId(0), n(5)).unwrap().unwrap().ids, [u64::MAX - 2, u64::MAX - 1]);
    assert!(source.pull(ClassId(0), n(5)).unwrap().is_none());
}

#[test]
fn wrong_classes_and_wrong_sizes_are_errors() {
    assert!(source(StdRange::default(), 8).pull(ClassId(3), n(1)).unwrap_err().source_text().contains("below 3"));
    let short = Bits { short: true, ..Bits::new(3) };
    let error = Expanded::new(short, StdRange::default(), Stream::new(0)).unwrap().pull(ClassId(0), n(1)).unwrap_err();
    assert!(error.source_text().contains("found 831"), "{error:?}");
}

trait SourceText {
    fn source_text(&self) -> String;
}
impl SourceText for Error {
    fn source_text(&self) -> String {
        std::error::Error::source(self).map(ToString::to_string).unwrap_or_default()
    }
}

/// Creates a generator artifact for the loader of `Bits`.
#[derive(Debug)]
struct MakeBits;

impl Stage for MakeBits {
    fn info(&self) -> StageInfo {
        StageInfo { name: "make-bits", revision: 1, ports: &[], output: Kind::Generator }
    }
    fn config(&self) -> serde_json::Value {
        serde_json::json!({})
    }
    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }
    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
        out.set_content(&serde_json::json!({
            "architecture": {"name": "bits"}, "image": {"channels": 1, "height": 2, "width": 2}, "classes": ["a", "b"],
            "latent_dim": 1, "checkpoints": [{"step": 1}]
        }))
    }
}

/// A context whose generator has `classes` classes, counts its samples, and requests a stop after `stop_after`.
fn context(classes: usize, stop_after: Option<usize>) -> (Context, Arc<AtomicUsize>) {
    let (generated, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let bits = {
        let (generated, stop) = (generated.clone(), stop.clone());
        move |_: &Artifact, checkpoint: Option<u64>| -> Result<Box<dyn Generator>> {
            if checkpoint == Some(99) {
                return Err(Error::config("checkpoint", 99, "one of 1, 2, 3"));
            }
            let stop = stop_after.map(|after| (after, stop.clone()));
            Ok(Box::new(Bits { generated: generated.clone(), stop, ..Bits::new(classes) }))
        }
    };
    let mut cx = Context::new(ModelLoaders::default().with_generator("bits", Box::new(bits)));
    cx.stop = stop;
    (cx, generated)
}

fn generator(dir: &Path) -> Artifact {
    execute(&MakeBits, &Inputs::new(), &dir.join("generator"), &Context::default()).unwrap().artifact
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let named = entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()));
    named.filter(|(name, _)| name != LOG_FILE).collect()
}

#[test]
fn stage_writes_the_samples_of_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = Inputs::new().with("generator", &generator(dir.path()));
    let stage = Expand { std: StdRange::Fixed(1.3), per_class: 100, seed: 5, ..Expand::default() };
    let (cx, _) = context(3, None);
    let made = execute(&stage, &inputs, &dir.path().join("set"), &cx).unwrap();
    let set = Dataset::open(&made.artifact).unwrap();
    assert_eq!(set.info().counts, [100; 3]);
    let turns: Vec<u32> = [0, 1, 2].into_iter().flat_map(|c| [c; 64]).chain([0; 36]).collect();
    assert_eq!(set.labels()[..228].iter().map(|c| c.0).collect::<Vec<_>>(), turns);

    let rows: Vec<usize> = (0..300).filter(|&r| set.label(r) == ClassId(1)).collect();
    let mut images = vec![0; rows.len() * (4 * D + 1)];
    set.read(&rows, &mut images).unwrap();
    let pulled = source(StdRange::Fixed(1.3), 64).pull(ClassId(1), n(100)).unwrap().unwrap();
    assert_eq!((set.ids(&rows).unwrap(), images), (pulled.ids, pulled.images));
    assert_eq!(
        made.artifact.manifest().made_by.config,
        serde_json::json!({
            "checkpoint": null, "std": 1.3, "per_class": 100, "seed": 5,
        })
    );
}

#[test]
fn interrupted_stage_resumes_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = Inputs::new().with("generator", &generator(dir.path()));
    let stage = Expand { per_class: 6000, std: StdRange::Range([1.0, 1.5]), ..Expand::default() };
    let (cx, all) = context(3, None);
    execute(&stage, &inputs, &dir.path().join("whole"), &cx).unwrap();

    let (cx, before) = context(3, Some(13_000));
    let cut = dir.path().join("cut");
    assert!(matches!(execute(&stage, &inputs, &cut, &cx), Err(Error::Interrupted)));
    assert!(!cut.exists());
    let (cx, after) = context(3, None);
    execute(&stage, &inputs, &cut, &cx).unwrap();
    assert_eq!(files(&cut), files(&dir.path().join("whole")));
    // One complete shard of 8,192 rows existed, and none of it is generated again.
    let (all, before, after) =
        (all.load(Ordering::Relaxed), before.load(Ordering::Relaxed), after.load(Ordering::Relaxed));
    assert!(before >= 13_000 && after <= all - 8192, "{all} {before} {after}");
}

#[test]
fn stage_refuses_values_out_of_range() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = Inputs::new().with("generator", &generator(dir.path()));
    let refused = |stage: Expand| check_inputs(&stage, &inputs).unwrap_err();
    assert!(refused(Expand { per_class: 0, ..Expand::default() }).to_string().contains("per_class = 0"));
    let wide = Expand { std: StdRange::Range([2.0, 1.0]), ..Expand::default() };
    assert_eq!(
        refused(wide).to_string(),
        "std = [2, 1]: expected a number above 0, or [lo, hi] with 0 < lo <= hi, finite"
    );
    assert!(check_inputs(&Expand::default(), &Inputs::new()).unwrap_err().is_usage());
    assert!(serde_json::from_str::<Expand>(r#"{"stdev": 1.0}"#).unwrap_err().to_string().contains("stdev"));

    // Checkpoints are known once the generator is open.
    let (cx, _) = context(3, None);
    let stage = Expand { checkpoint: Some(99), ..Expand::default() };
    assert!(execute(&stage, &inputs, &dir.path().join("set"), &cx).unwrap_err().is_usage());
    assert!(!dir.path().join("set").exists());
}

/// A generator that draws its own latents: an image holds the seed, index and std of its sample.
struct ByName(ImageSpec, Vec<String>);

impl Generator for ByName {
    fn image(&self) -> &ImageSpec {
        &self.0
    }
    fn classes(&self) -> &[String] {
        &self.1
    }
    fn latent_dim(&self) -> usize {
        0
    }
    fn generate(&mut self, _: &[f32], _: &[ClassId]) -> Result<Vec<u8>> {
        panic!("it is sampled by name")
    }
    fn sample(&mut self, draw: &SampleRequest<'_>) -> Result<Vec<u8>> {
        assert_eq!((draw.seeds.len(), draw.latents.len()), (draw.stds.len(), 0));
        let names = draw.seeds.iter().zip(draw.stds).zip(draw.first..);
        Ok(names
            .flat_map(|((seed, std), index)| [seed.to_le_bytes(), index.to_le_bytes(), f64::from(*std).to_le_bytes()])
            .flatten()
            .collect())
    }
}

#[test]
fn generators_may_sample_by_name_in_any_batches() {
    let std = StdRange::Range([1.0, 1.5]);
    let pull = |block: usize, portions: &[usize]| {
        // In a box, as loaders return them.
        let generator: Box<dyn Generator> = Box::new(ByName(ImageSpec::new(1, 1, 24), vec!["a".into(), "b".into()]));
        let mut source = Expanded::new(generator, std, latent_stream(5)).unwrap().with_block(n(block));
        let mut images = Vec::new();
        for portion in portions {
            images.extend(source.pull(ClassId(1), n(*portion)).unwrap().unwrap().images);
        }
        images
    };
    let images = pull(64, &[20]);
    assert_eq!(images, pull(7, &[3, 1, 16]));
    for (index, image) in images.chunks(24).enumerate() {
        let mut latent = [0.0; 3];
        let s = draw_latent(&latent_stream(5), std, ClassId(1), index as u64, &mut latent);
        let seed = draw_seed(&latent_stream(5), ClassId(1), index as u64);
        assert_eq!(image[..8], seed.to_le_bytes());
        assert_eq!(image[8..16], (index as u64).to_le_bytes());
        assert_eq!(image[16..], f64::from(s).to_le_bytes(), "the std of the latent");
    }
}

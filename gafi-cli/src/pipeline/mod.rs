//! The whole of GaFi on one set of real images: teacher, generator, the search, the final student, and the rows that show
//! what each technique adds.
//!
//! Every step is a stage whose artifact is kept, so that the same call after an interruption, however rude, goes on where
//! it was, and after the end is done at once.

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, ClassId, DatasetInfo, Inputs, Protocol, Split, Stream};
use gafi_data::Import;
use gafi_gan::{GanConfig, GeneratorInfo, TrainGan};
use gafi_nn::{EVALUATION, Evaluate, EvaluationRecord, TrainClassifier};
use serde_json::json;

pub mod chain;
pub mod config;
mod report;
mod search;
mod students;

pub use config::{PRESETS, PipelineConfig, SearchConfig, preset};
pub use report::{Real, Results, Row, SCHEMA, StageTime};
pub use search::{Step, Tried};
pub use students::{Setting, Student};

use crate::session::Session;
use crate::source::{SourceConfig, open_source};
use students::{Classroom, Workshop};

/// Runs the pipeline into `dir`; writes `results.json`, `search.json` and `samples.png` there.
///
/// # Errors
/// What a stage says, with the stage's name before it. What was done is kept.
pub(crate) fn run(session: &Session, config: &PipelineConfig, dir: &Path) -> Result<Results> {
    config.check()?;
    let mut shop = Workshop::new(session, dir);
    let seeds = Stream::new(config.seed);

    // Real images. One configuration makes all three parts; they share no row.
    let import = Import::new(&config.data, Split::Train, &session.cx).context("finding the real images failed")?;
    let train = shop.run("import train", &import, &Inputs::new())?;
    let val = shop.run("import val", &import.with_split(Split::Val), &Inputs::new())?;
    let dataset = match (config.data.set, &config.data.path) {
        (Some(set), _) => set.to_string(),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => String::new(),
    };
    let info = DatasetInfo::of(&train)?;
    let smallest = info.counts.iter().copied().min().unwrap_or(0);
    let per_class = config.per_class.unwrap_or(smallest);
    session.bars.say(&format!(
        "{}: {} training images of {}, {} classes; {per_class} images of each class in a synthetic set",
        dataset,
        info.rows(),
        info.image,
        info.classes.len()
    ));

    // Teacher and generator.
    let real_inputs = Inputs::new().with("train", &train).with("val", &val);
    let seed = seeds.child("teacher").seed();
    let teacher = TrainClassifier { classifier: config.teacher.clone(), seed, per_class: None };
    let teacher = shop.run("teacher", &teacher, &real_inputs)?;
    let gan = GanConfig { seed: seeds.child("gan").seed(), ..config.gan.clone() };
    let gan = TrainGan { config: gan, device: session.device.clone() };
    let generator = shop.run("train-gan", &gan, &Inputs::new().with("train", &train))?;
    let trained: Vec<u64> = generator.content::<GeneratorInfo>()?.checkpoints.iter().map(|c| c.step).collect();
    let checkpoints = if config.search.checkpoints.is_empty() { &trained } else { &config.search.checkpoints };

    // The reference: the same classifier, epochs and set size on real images.
    let student_seed = seeds.child("student").seed();
    let reference = TrainClassifier {
        classifier: config.student.clone(),
        seed: student_seed,
        // Nothing to draw where the set size comes to all of them.
        per_class: info.counts.iter().any(|&n| n != per_class).then_some(per_class.min(smallest) as usize),
    };
    let real = shop.run("real reference", &reference, &real_inputs)?;

    // The search, then the final student, then the rows that the search has not trained already.
    let class = Classroom {
        config,
        generator: &generator,
        teacher: &teacher,
        val: &val,
        per_class,
        student_seed,
        latent_seed: seeds.child("latents").seed(),
    };
    let found = search::search(&mut shop, &class, checkpoints)?;
    let best = found.best;
    let recycle = Some(config.recycle);
    let plain = Setting { checkpoint: best.checkpoint, std: Default::default(), threshold: None, recycle: None };
    let gafi = shop.student("gafi", &class, Setting { recycle, ..best.clone() })?;
    let settings = [
        ("baseline", plain.clone()),
        ("filter", Setting { threshold: Some(0.0), ..plain.clone() }),
        ("expand", Setting { std: best.std, threshold: Some(0.0), ..plain.clone() }),
        ("recycle", Setting { recycle, ..plain }),
    ];
    let mut students = Vec::new();
    for (name, setting) in settings {
        students.push((name, shop.student(name, &class, setting)?));
    }
    students.push(("gafi", gafi));
    write_search(dir, &found.steps)?;
    samples(session, &class, &students[4].1.setting, &dir.join("samples.png"))?;

    // Every choice is made. The test split is opened here and nowhere before.
    let test = shop.run("import test", &import.with_split(Split::Test), &Inputs::new())?;
    let real = Real { test_accuracy: test_accuracy(&mut shop, "real reference", &real, &test)? };
    let mut rows = Vec::new();
    for (name, student) in &students {
        let test_accuracy = test_accuracy(&mut shop, name, &student.artifact, &test)?;
        rows.push(Row {
            name: (*name).into(),
            test_accuracy,
            gap: 100.0 * (real.test_accuracy - test_accuracy),
            checkpoint: student.setting.checkpoint,
            std: student.setting.std,
            threshold: student.setting.threshold,
            recycle_period: student.setting.recycle.as_ref().map(|r| r.period),
            n: 1,
        });
    }
    let results = Results {
        schema: SCHEMA.into(),
        dataset,
        protocol: Protocol::Holdout,
        real,
        rows,
        trainings: shop.trainings(),
        wall_s: shop.wall_s(),
        stages: shop.stages,
    };
    results.write(dir)?;
    Ok(results)
}

fn test_accuracy(shop: &mut Workshop, name: &str, classifier: &Artifact, test: &Artifact) -> Result<f64> {
    let inputs = Inputs::new().with("classifier", classifier).with("dataset", test);
    let artifact = shop.run(&format!("test of {name}"), &Evaluate {}, &inputs)?;
    Ok(artifact.read_json::<EvaluationRecord>(EVALUATION)?.evaluation.accuracy)
}

fn write_search(dir: &Path, steps: &[Step]) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(&json!({"schema": "gafi/search/1", "steps": steps}))?;
    text.push(b'\n');
    Ok(gafi_core::write_atomic(&dir.join("search.json"), &text)?)
}

/// A grid of samples as the final student saw them: a row for each class.
fn samples(session: &Session, class: &Classroom, setting: &Setting, path: &Path) -> Result<()> {
    const COLUMNS: NonZeroUsize = NonZeroUsize::new(16).unwrap();
    let rule = &class.config.search.filter;
    let filter = setting.threshold.map(|t| gafi_filter::FilterRule { threshold: t.into(), ..rule.clone() });
    let source =
        SourceConfig { std: setting.std, filter, ..SourceConfig::plain(setting.checkpoint, class.latent_seed) };
    let inputs = Inputs::new().with("generator", class.generator).with("teacher", class.teacher);
    let mut source = open_source(&serde_json::to_value(source)?, &inputs, &session.cx)?;
    let (image, classes) = (*source.image(), source.classes().len());
    let mut images = Vec::with_capacity(classes * COLUMNS.get() * image.bytes());
    for id in ClassId::all(classes) {
        let mut row = Vec::new();
        while let Some(more) = NonZeroUsize::new(COLUMNS.get() - row.len() / image.bytes()) {
            match source.pull(id, more)? {
                Some(batch) => row.extend_from_slice(&batch.images),
                None => break,
            }
        }
        row.resize(COLUMNS.get() * image.bytes(), 0);
        images.extend_from_slice(&row);
    }
    let png = gafi_gan::png_grid(&images, &image, COLUMNS.get())?;
    Ok(gafi_core::write_atomic(path, &png)?)
}

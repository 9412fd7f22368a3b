//! The whole of GaFi on one set of real images: teacher, generators, the search, the final students, and the rows that show
//! what each technique adds.
//!
//! Every step is a stage whose artifact is kept, so that the same call after an interruption, however rude, goes on where
//! it was, and after the end is done at once. Stages that do not need each other run side by side (`--jobs`).

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, ClassId, DatasetInfo, Error, Inputs, Protocol, SourceSpec, Split, Stream};
use gafi_data::Import;
use gafi_gan::{GanConfig, TrainGan};
use gafi_nn::{ClassifierConfig, TrainClassifier};
use serde_json::json;

use crate::check;
use crate::config::{Labels, PipelineConfig, Strategy, Variant};
use crate::finale::{self, Choices};
use crate::host::Host;
use crate::report::{InfeasibleRow, Results};
use crate::search::{self, Seeker, Step};
use crate::setting::{Infeasible, Setting};
use crate::source::open_source;
use crate::students::Classroom;
use crate::workshop::{Task, Workshop};

/// The file of a run that holds its resolved configuration.
pub const CONFIG: &str = "config.json";

/// Runs the pipeline into `dir`; writes `config.json`, `results.json`, `search.json` and `samples.png` there.
///
/// # Errors
/// What a stage says, with the stage's name before it. What was done is kept.
pub fn run(host: &Host, config: &PipelineConfig, dir: &Path) -> Result<Results> {
    config.check()?;
    let mut shop = Workshop::new(host, dir);

    // Real images. One configuration makes all parts; training rows are in no other.
    let import = Import::new(&config.data, Split::Train, host.cx()).context("finding the real images failed")?;
    let there = config.open_generators()?;
    config.check_data(&import.preview().context("import train failed")?)?;
    let train = shop.run("import train", &import, &Inputs::new())?;
    // What was asked for, for people and for `report`; what each stage was asked for is in its manifest.
    write_json(&dir.join(CONFIG), &serde_json::to_value(config)?)?;
    let chooses = match config.protocol {
        Protocol::Holdout => Split::Val,
        Protocol::Paper => Split::TestAsVal,
    };
    let val = shop.run(&format!("import {chooses}"), &import.with_split(chooses), &Inputs::new())?;
    let dataset = match (config.data.set, &config.data.path) {
        (Some(set), _) => set.to_string(),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => String::new(),
    };
    let choices = choose(&mut shop, config, there, &dataset, &train, &val)?;
    write_search(dir, &choices.steps)?;
    // Every choice is made. The test split is opened in there and nowhere before.
    finale::run(shop, choices, &import, config.protocol, dataset)
}

/// Everything that trains and chooses. It is given training and choosing images, generators that are there already, and nothing to find
/// other images with.
fn choose(
    shop: &mut Workshop,
    config: &PipelineConfig,
    there: Vec<Artifact>,
    dataset: &str,
    train: &Artifact,
    val: &Artifact,
) -> Result<Choices> {
    let host = shop.host;
    let seeds = Stream::new(config.seed);
    let info = DatasetInfo::of(train)?;
    let smallest = info.counts.iter().copied().min().unwrap_or(0);
    let per_class = config.per_class.unwrap_or(smallest);
    host.log(&format!(
        "{}: {} training images of {}, {} classes; {per_class} images of each class in a synthetic set",
        dataset,
        info.rows(),
        info.image,
        info.classes.len()
    ));

    // Teacher, references (the same classifier, set size and steps as a student's, on real images) and generators.
    let real_inputs = Inputs::new().with("train", train).with("val", val);
    let student_seed = seeds.child("student").seed();
    let seed = seeds.child("teacher").seed();
    let teacher = TrainClassifier { classifier: config.teacher.clone(), seed, per_class: None };
    let mut references = vec![Lesson::new(&config.student, 1, per_class, &info)];
    let larger = config.larger_sets().into_iter();
    references.extend(larger.map(|times| Lesson::new(&config.student, times, per_class, &info)));
    let mut tasks: Vec<Task> = vec![("teacher".into(), Box::new(teacher), real_inputs.clone())];
    let to_train = if config.trained_generators.is_empty() { config.generators } else { 0 };
    for generator in 0..to_train {
        let seed = match generator {
            0 => seeds.child("gan").seed(),
            more => seeds.child("gan").at(more as u64).seed(),
        };
        // The teacher, which is before them, has the first device.
        let (device, _) = host.of_job(tasks.len());
        let gan = TrainGan { config: GanConfig { seed, ..config.gan.clone() }, device: device.clone() };
        let name = if generator == 0 { "train-gan".into() } else { format!("train-gan {}", generator + 1) };
        tasks.push((name, Box::new(gan), Inputs::new().with("train", train)));
    }
    for lesson in &references {
        let Lesson { classifier, per_class, .. } = lesson;
        // Nothing to draw where the set size comes to all of them.
        let per_class = info.counts.iter().any(|n| n != per_class).then_some(*per_class as usize);
        let stage = TrainClassifier { classifier: classifier.clone(), seed: student_seed, per_class };
        tasks.push((reference_name(lesson.times), Box::new(stage), real_inputs.clone()));
    }
    let mut made = shop.run_all(tasks)?;
    let real = made.split_off(made.len() - references.len());
    let references = references.into_iter().zip(real).collect();
    let teacher = made.remove(0);
    made.extend(there);
    let class = Classroom {
        config,
        generators: &made,
        teacher: &teacher,
        train,
        val,
        per_class,
        student_seed,
        latent_seed: seeds.child("latents").seed(),
    };

    // The searches: of the first generator by every strategy asked for, of the others by the main one.
    let (mut searches, mut steps) = (Vec::new(), Vec::new());
    let strategies = std::iter::once(config.search.strategy).chain(config.search.compare.iter().copied());
    let plans = strategies.map(|s| (0, s)).chain((1..made.len()).map(|g| (g, config.search.strategy)));
    for (generator, strategy) in plans {
        let there = check::checkpoints(&made[generator])?;
        let checkpoints = if config.search.checkpoints.is_empty() { &there } else { &config.search.checkpoints };
        let (search, walked) = Seeker::new(shop, &class, generator, strategy).run(checkpoints)?;
        searches.push(search);
        steps.extend(walked);
    }

    // The main search's student is the row `gafi`.
    let mut main = true;
    for search in searches.iter_mut().filter(|search| search.generator == 0) {
        let name = if std::mem::take(&mut main) { "gafi" } else { row_name(search.strategy) };
        search::settle(name, shop, &class, search, &mut steps)?;
    }

    // The final student, the rows that the search has not trained already, and the same by other strategies.
    let best = searches[0].chosen.clone();
    let recycle = Some(config.recycle);
    let mut finals = Vec::new();
    for row in &config.rows {
        let (filter, expand, renew) = row.techniques();
        let setting = Setting {
            std: if expand { best.std } else { Default::default() },
            threshold: if filter { best.threshold } else { None },
            recycle: if renew { recycle } else { None },
            ..Setting::plain(best.checkpoint)
        };
        finals.push((row.name().to_string(), setting));
    }
    finals.push(("gafi".into(), Setting { recycle, ..best.clone() }));
    for search in searches.iter().skip(1).filter(|s| s.generator == 0) {
        finals.push((row_name(search.strategy).into(), Setting { recycle, ..search.chosen.clone() }));
    }
    let mut impossible = Vec::new();
    for variant in &config.variants {
        let name = variant.name.clone();
        match refine(shop, &class, variant, &best) {
            Ok((setting, walked)) => {
                finals.push((name, setting));
                steps.extend(walked);
            }
            Err(error) => {
                let Infeasible { setting, why } = error.downcast()?;
                host.log(&format!("           variant {name}: {setting}: {why}; going on without it"));
                impossible.push(InfeasibleRow { name, setting, why });
            }
        }
    }
    let names: Vec<_> = finals.iter().map(|(name, _)| name.clone()).collect();
    let trained = class.students(shop, 0, finals)?;
    let mut attempts: Vec<_> = names.into_iter().zip(trained).collect();
    let gafi = Setting { recycle, ..best };
    samples(&class, &gafi, host, &shop.dir.join("samples.png"))?;
    if made.len() > 1 {
        let mut each: Vec<_> = vec![gafi];
        each.extend(searches.iter().filter(|s| s.generator > 0).map(|s| Setting { recycle, ..s.chosen.clone() }));
        attempts.extend(class.students_of_all(shop, each)?);
    }
    let mut rows = Vec::new();
    for (name, attempt) in attempts {
        match attempt {
            Ok(student) => rows.push((name, class.images(&student.setting), student)),
            Err(Infeasible { setting, why }) => impossible.push(InfeasibleRow { name, setting, why }),
        }
    }
    Ok(Choices { references, rows, impossible, searches, steps })
}

/// The setting of a variant's student: what its own search finds from `best` on; and that search's steps.
///
/// # Errors
/// What a trial says; [`Infeasible`] where there is no such student.
fn refine(shop: &mut Workshop, class: &Classroom, variant: &Variant, best: &Setting) -> Result<(Setting, Vec<Step>)> {
    let config = class.config;
    let base = Setting {
        threshold: if variant.filter { best.threshold } else { None },
        distill: (variant.labels == Labels::Soft).then_some(variant.distill),
        ..best.clone()
    };
    let seeker = Seeker::new(shop, class, 0, config.search.strategy);
    let (chosen, steps) =
        seeker.refine(&variant.name, base, &variant.stds, &variant.thresholds, config.search.recycle)?;
    Ok((Setting { recycle: Some(config.recycle), times: variant.times, ..chosen }, steps))
}

/// What a student learns from real images.
pub(crate) struct Lesson {
    /// The set that it is a reference for, as a multiple of the usual one.
    pub(crate) times: u32,
    /// Images of each class.
    pub(crate) per_class: u64,
    /// The training.
    pub(crate) classifier: ClassifierConfig,
}

impl Lesson {
    /// One of as many images as `times` synthetic sets of `per_class` have, or all that there are of each class, so much more often: as
    /// many steps either way.
    fn new(student: &ClassifierConfig, times: u32, per_class: u64, real: &DatasetInfo) -> Self {
        let student = ClassifierConfig { distill: None, ..student.clone() };
        let smallest = real.counts.iter().copied().min().unwrap_or(0);
        let wanted = per_class * u64::from(times);
        let there = wanted.min(smallest).max(1);
        let epochs = (u64::from(student.epochs) * wanted).div_ceil(there).min(u32::MAX.into()) as u32;
        Self { times, per_class: there, classifier: student.rescaled(epochs) }
    }
}

/// The training of a reference for sets of `times` the usual size, for people.
pub(crate) fn reference_name(times: u32) -> String {
    match times {
        1 => "real reference".into(),
        times => format!("real reference, {times} times the images"),
    }
}

/// The row of what a further search, like `strategy`, chose.
fn row_name(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Grid => "gafi-grid",
        Strategy::Halving => "gafi-halving",
    }
}

fn write_search(dir: &Path, steps: &[Step]) -> Result<()> {
    write_json(&dir.join("search.json"), &json!({"schema": "gafi/search/2", "steps": steps}))
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(gafi_core::write_atomic(path, &text)?)
}

/// A grid of samples as the final student saw them: a row for each class, as far as there are any.
fn samples(class: &Classroom, setting: &Setting, host: &Host, path: &Path) -> Result<()> {
    const COLUMNS: NonZeroUsize = NonZeroUsize::new(16).unwrap();
    let source = class.source(0, setting);
    let inputs = Inputs::new().with("generators", &class.generators[0]).with("teacher", class.teacher);
    let mut source = open_source(&SourceSpec::of(&source)?, &inputs, host.cx())?;
    let (image, classes) = (*source.image(), source.classes().len());
    let mut images = Vec::with_capacity(classes * COLUMNS.get() * image.bytes());
    for id in ClassId::all(classes) {
        let mut row = Vec::new();
        while let Some(more) = NonZeroUsize::new(COLUMNS.get() - row.len() / image.bytes()) {
            match source.pull(id, more) {
                Ok(Some(batch)) => row.extend_from_slice(&batch.images),
                Ok(None) | Err(Error::Exhausted { .. }) => break,
                Err(error) => return Err(error.into()),
            }
        }
        row.resize(COLUMNS.get() * image.bytes(), 0);
        images.extend_from_slice(&row);
    }
    let png = gafi_gan::grid::png_grid(&images, &image, COLUMNS.get())?;
    Ok(gafi_core::write_atomic(path, &png)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gafi_core::ImageSpec;

    #[test]
    fn a_reference_learns_as_many_steps_as_the_students() {
        let student = ClassifierConfig::default();
        let mut real = DatasetInfo::new(ImageSpec::new(1, 8, 8), vec!["a".into(), "b".into()], Split::Train);
        real.counts = vec![90, 60];
        let of = |times, per_class| {
            let Lesson { per_class, classifier, .. } = Lesson::new(&student, times, per_class, &real);
            (per_class, classifier.epochs, classifier.milestones)
        };
        let milestones = |epochs: f64| vec![0.6 * epochs, 0.8 * epochs];
        assert_eq!(of(1, 60), (60, 100, milestones(100.0)), "there are as many");
        assert_eq!(of(1, 30), (30, 100, milestones(100.0)));
        // Half of them are there: seen twice as often, at any size.
        assert_eq!(of(1, 120), (60, 200, milestones(200.0)));
        assert_eq!(of(2, 60), (60, 200, milestones(200.0)));
    }
}

//! Runs a pipeline: prepares teacher, references and generators, searches, trains the rows, and only then tests.
//!
//! Every job is a stage whose artifact is kept, so the same call resumes after an interruption, and returns at once after the
//! end. Stages that don't need each other run concurrently.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, DatasetInfo, Inputs, Split, TRIAL_FILE, TrialRecord};
use gafi_data::{Import, ImportReport};
use gafi_gan::TrainGan;

use crate::config::{GAFI_ROW, Labels, PipelineConfig, TURNS_ROW};
use crate::host::Host;
use crate::names::SearchId;
use crate::preflight::Preflight;
use crate::record::{ArtifactRef, GeneratorRole, InfeasibleRow, Reference, Row, RunRecord};
use crate::repeats::train_repeats;
use crate::run_folder::RunFolder;
use crate::runner::{StageRunner, Task};
use crate::samples::write_samples_picture;
use crate::schedule::{Job, ReferenceSpec, RowTemplate, StepTemplate, Work, all_take_turns};
use crate::search::{run_search, train_with_fallback};
use crate::setting::{Infeasible, Setting};
use crate::test_eval::test_rows;
use crate::trial::{ReadyRow, Student, TrialContext, TrialResult};

/// Runs a pipeline into the folder `dir`, and writes `run.json`, `timings.json` and `samples.png` there. If a check
/// that needs no training fails, nothing is written.
///
/// # Errors
/// The first error of a check or a stage, with the stage's name. Finished artifacts are kept, and so is a correct partial record.
pub fn run(host: &Host, config: &PipelineConfig, dir: &Path) -> Result<RunRecord> {
    let config = &config.resolved();
    let Preflight { import, data, given, jobs } = Preflight::run(host, config)?;
    let record = RunRecord::new(config, data)?;
    let mut runner = StageRunner::new(host, dir, RunFolder::lock(dir, host.cx())?, record)?;
    // Code that chooses gets neither the test jobs nor the means to import test images.
    let first_test = jobs.iter().position(|job| matches!(job.work, Work::Import { split: Split::Test, .. }));
    let (choosing, _) = jobs.split_at(first_test.unwrap_or(jobs.len()));
    let outcome = import_images(&mut runner, choosing, &import)
        .and_then(|images| choose(&mut runner, config, choosing, given, images))
        .and_then(|()| test_rows(&mut runner, &import));
    runner.finish(outcome)
}

/// The real images that a run imports before its last choice.
struct Images {
    train: Artifact,
    /// Those that a GAN trains on.
    gan: Artifact,
    /// Used to choose the epoch of a classifier of real images.
    val: Artifact,
    /// Used to choose among students.
    choosing: Artifact,
    screen: Option<Artifact>,
}

/// Imports the splits that the schedule names. One configuration gives all of them.
fn import_images(runner: &mut StageRunner, jobs: &[Job], import: &Import) -> Result<Images> {
    let mut imported = BTreeMap::new();
    for job in jobs {
        let Work::Import { split, .. } = job.work else { continue };
        let artifact = runner.run(&format!("import {split}"), &import.with_split(split), &Inputs::new())?;
        if split == Split::Train {
            import_notes(&artifact)?.iter().for_each(|note| runner.host.log(note));
        }
        let link = Some(runner.link(&artifact));
        let roles = &mut runner.record.roles;
        match split {
            Split::Train => roles.train = link,
            Split::TrainVal => roles.train_val = link,
            Split::Val => roles.val = link,
            Split::TestAsVal => roles.test_as_val = link,
            Split::Screen => roles.screen = link,
            Split::Test | Split::Synthetic => {}
        }
        imported.insert(split, artifact);
    }
    import.release_memory();
    runner.save()?;
    let mut take = |split: Split| imported.remove(&split);
    let train = take(Split::Train).context("the schedule imports no training images")?;
    let val = take(Split::Val).context("the schedule imports no validation images")?;
    let gan = take(Split::TrainVal).unwrap_or_else(|| train.clone());
    let choosing = take(Split::TestAsVal).unwrap_or_else(|| val.clone());
    Ok(Images { train, gan, val, choosing, screen: take(Split::Screen) })
}

/// What the import skipped, converted and warned of, for the log. Similar images say little, so they are in the manifest alone.
fn import_notes(train: &Artifact) -> Result<Vec<String>> {
    let Some(report) = DatasetInfo::of(train)?.import else { return Ok(Vec::new()) };
    let report: ImportReport = serde_json::from_value(report).context("reading the report of the import")?;
    let notes = report.notes.iter().filter(|note| !note.what.contains("similar"));
    Ok(notes.map(|note| format!("import: {}", note.sentence())).collect())
}

/// Everything that trains and chooses.
fn choose(
    runner: &mut StageRunner,
    config: &PipelineConfig,
    jobs: &[Job],
    given: Vec<Artifact>,
    images: Images,
) -> Result<()> {
    let mut context = prepare(runner, config, jobs, given, images)?;
    search(runner, &context, jobs)?;
    search_rows(runner, &context, jobs)?;
    train_rows(runner, &context, jobs)?;
    train_repeats(runner, &mut context, jobs)
}

/// Trains teacher, generators and references.
fn prepare<'a>(
    runner: &mut StageRunner,
    config: &'a PipelineConfig,
    jobs: &[Job],
    given: Vec<Artifact>,
    images: Images,
) -> Result<TrialContext<'a>> {
    let data = &runner.record.dataset;
    let classes = data.classes.len();
    let per_class = config.per_class.unwrap_or(data.smallest_class());
    runner.host.log(&format!(
        "{}: {} training images of {}, {classes} classes; {per_class} images of each class in a synthetic set",
        data.name,
        data.rows(),
        data.image,
    ));
    let mut networks = Networks { teacher: None, generators: Vec::new() };
    let mut batch: Vec<(&Work, bool)> = Vec::new();
    for job in jobs {
        let needs_teacher = match &job.work {
            Work::Teacher(_) => false,
            Work::Generator { config, .. } => config.guidance.is_some(),
            Work::Reference(spec) => spec.labels == Labels::Soft,
            _ => continue,
        };
        // Run one by one, each is recorded as it finishes.
        if runner.host.jobs() == 1 || needs_teacher {
            networks.train(runner, &images, &mut batch)?;
        }
        batch.push((&job.work, needs_teacher));
    }
    networks.train(runner, &images, &mut batch)?;
    let Networks { teacher, mut generators } = networks;
    for artifact in given {
        let role = GeneratorRole { artifact: runner.link(&artifact), trained: false };
        runner.record.roles.generators.push(role);
        generators.push(artifact);
    }
    let teacher = teacher.context("the schedule has no teacher")?;
    let Images { choosing, screen, .. } = images;
    Ok(TrialContext { config, generators, teacher, val: choosing, screen, training: 0, classes, per_class })
}

/// The networks that are trained on real images.
struct Networks {
    teacher: Option<Artifact>,
    generators: Vec<Artifact>,
}

impl Networks {
    /// Trains the networks of `batch`, which do not depend on each other, empties it, and records them. The bool says
    /// whether a network needs the teacher.
    fn train(&mut self, runner: &mut StageRunner, images: &Images, batch: &mut Vec<(&Work, bool)>) -> Result<()> {
        let real = Inputs::new().with("train", &images.train).with("val", &images.val);
        let mut tasks = Vec::new();
        for &(work, needs_teacher) in batch.iter() {
            let mut task = match work {
                Work::Teacher(spec) | Work::Reference(spec) => {
                    Task { name: spec.name.clone(), stage: Box::new(spec.training.clone()), inputs: real.clone() }
                }
                Work::Generator { number, config } => {
                    // On the device of the worker that takes the task: the teacher, the first one, gets the first device.
                    let (device, _) = runner.host.of_job(tasks.len());
                    let stage = TrainGan { config: (**config).clone(), device: device.clone() };
                    let name = if *number == 0 { "train-gan".into() } else { format!("train-gan {}", number + 1) };
                    Task { name, stage: Box::new(stage), inputs: Inputs::new().with("train", &images.gan) }
                }
                _ => continue,
            };
            if needs_teacher {
                let teacher = self.teacher.as_ref().context("the teacher is not trained yet")?;
                task.inputs = task.inputs.with("teacher", teacher);
            }
            tasks.push(task);
        }
        for (artifact, (work, _)) in runner.run_all(tasks)?.into_iter().zip(batch.drain(..)) {
            let link = runner.link(&artifact);
            match work {
                Work::Generator { .. } => {
                    runner.record.roles.generators.push(GeneratorRole { artifact: link, trained: true });
                    self.generators.push(artifact);
                }
                Work::Teacher(spec) => {
                    runner.record.roles.references.push(reference(spec, &artifact, link.clone())?);
                    runner.record.roles.teacher = Some(link);
                    self.teacher = Some(artifact);
                }
                Work::Reference(spec) => runner.record.roles.references.push(reference(spec, &artifact, link)?),
                _ => {}
            }
        }
        runner.save()
    }
}

fn reference(spec: &ReferenceSpec, artifact: &Artifact, link: ArtifactRef) -> Result<Reference> {
    Ok(Reference {
        name: spec.name.clone(),
        times: spec.times,
        labels: spec.labels,
        per_class: spec.per_class,
        epochs: spec.training.classifier.epochs,
        artifact: link,
        val: artifact.read_json::<TrialRecord>(TRIAL_FILE)?.val,
        test: None,
        repeats: Vec::new(),
    })
}

/// The steps of each search among `jobs`, in order.
fn searches(jobs: &[Job]) -> Vec<(&SearchId, Vec<&StepTemplate>)> {
    let mut searches: Vec<(&SearchId, Vec<&StepTemplate>)> = Vec::new();
    for job in jobs {
        let Work::SearchStep(step) = &job.work else { continue };
        match searches.last_mut() {
            Some((search, steps)) if **search == step.search => steps.push(step),
            _ => searches.push((&step.search, vec![step])),
        }
    }
    searches
}

/// The rows among `jobs`.
fn rows(jobs: &[Job]) -> impl Iterator<Item = &RowTemplate> {
    jobs.iter().filter_map(|job| match &job.work {
        Work::Row(row) => Some(row),
        _ => None,
    })
}

/// The setting that a search chose.
fn chosen(runner: &StageRunner, search: &SearchId) -> Option<Setting> {
    runner.record.searches.iter().find(|record| record.is(search))?.chosen.clone()
}

/// Searches the grids for each generator, and makes sure that a renewed set of the first one's choice can be trained on.
fn search(runner: &mut StageRunner, context: &TrialContext, jobs: &[Job]) -> Result<()> {
    for (search, steps) in searches(jobs).into_iter().filter(|(search, _)| search.row.is_none()) {
        let first = steps[0].template.apply(&Setting { threshold: Some(0.0), ..Setting::plain(0) });
        run_search(runner, context, search, &steps, first)?;
    }
    rows(jobs).filter(|row| row.fallback).try_for_each(|row| train_with_fallback(runner, context, row))?;
    runner.save()
}

/// Runs the searches of variants and of the ablation. Rows whose search finds nothing feasible have no student.
fn search_rows(runner: &mut StageRunner, context: &TrialContext, jobs: &[Job]) -> Result<()> {
    let main = SearchId { generator: 0, strategy: context.config.search.strategy, row: None };
    for (search, steps) in searches(jobs).into_iter().filter(|(search, _)| search.row.is_some()) {
        let base = chosen(runner, &main).context("the main search has not ended")?;
        if let Err(error) = run_search(runner, context, search, &steps, steps[0].template.apply(&base)) {
            let Infeasible { setting, why } = error.downcast()?;
            for RowTemplate { name, .. } in rows(jobs).filter(|row| row.chosen_by.contains(search)) {
                runner.remark(&format!("continuing without row {name}: {setting}: {why}"));
                let row = InfeasibleRow { name: name.clone(), setting: setting.clone(), why: why.clone() };
                runner.record.infeasible.push(row);
            }
        }
    }
    runner.save()
}

/// Trains the student of every row: first those of one generator, then those of all.
fn train_rows(runner: &mut StageRunner, context: &TrialContext, jobs: &[Job]) -> Result<()> {
    let ready = rows(jobs).filter_map(|template| {
        let chosen: Option<Vec<Setting>> = template.chosen_by.iter().map(|search| chosen(runner, search)).collect();
        let settings = chosen?.iter().map(|chosen| context.normalized(template.template.apply(chosen))).collect();
        Some(ReadyRow { template, settings })
    });
    let (single, mixed): (Vec<_>, Vec<_>) = ready.partition(|row| row.settings.len() == 1);
    for rows in single.chunk_by(|a, b| a.generator() == b.generator()) {
        let trials = rows.iter().map(|row| (row.template.name.clone(), row.settings[0].clone()));
        let students = context.train(runner, rows[0].generator(), trials)?;
        record_rows(runner, context, rows, students)?;
    }
    if let Some(gafi) = single.iter().find(|row| row.template.name == GAFI_ROW) {
        write_samples_picture(runner, context, &gafi.settings[0])?;
    }
    let config = context.config;
    let generators = context.generators.len();
    if generators > 1 && !all_take_turns(generators, Some(config.recycle), config.student.epochs) {
        runner
            .remark(&format!("{TURNS_ROW}: too few renewals for every generator to get a turn; continuing without it"));
    }
    for variant in config.variants.iter().filter(|v| v.untrained && rows(jobs).all(|row| row.name != v.name)) {
        runner.remark(&format!(
            "{}: the given generator has no untrained checkpoint; continuing without it",
            variant.name
        ));
    }
    let students = context.train_mixed(runner, &mixed)?;
    record_rows(runner, context, &mixed, students)
}

/// Records rows that were trained.
fn record_rows(
    runner: &mut StageRunner,
    context: &TrialContext,
    rows: &[ReadyRow],
    students: Vec<TrialResult>,
) -> Result<()> {
    for (row, student) in rows.iter().zip(students) {
        let name = row.template.name.clone();
        match student {
            Ok(Student { setting, artifact, val, tally, .. }) => runner.record.rows.push(Row {
                name,
                settings: row.settings.clone(),
                per_class: context.set_size(row),
                artifact,
                val,
                test: None,
                against: context.config.gap_from(setting.times),
                gap: None,
                tally,
                repeats: Vec::new(),
            }),
            Err(Infeasible { setting, why }) => runner.record.infeasible.push(InfeasibleRow { name, setting, why }),
        }
    }
    runner.save()
}

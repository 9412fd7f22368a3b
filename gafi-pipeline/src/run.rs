//! Runs a pipeline: prepares teacher, references and generators, searches, trains the rows, and only then tests.
//!
//! Every job is a stage whose artifact is kept, so the same call resumes after an interruption, and returns at once after the
//! end. Stages that don't need each other run concurrently.

use std::path::Path;

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, Inputs, Split, TRIAL_FILE, TrialRecord};
use gafi_data::Import;
use gafi_gan::TrainGan;

use crate::config::{GAFI_ROW, PipelineConfig};
use crate::data::choosing_split;
use crate::host::Host;
use crate::names::{SearchId, real_name};
use crate::preflight::Preflight;
use crate::record::{ArtifactRef, GeneratorRole, InfeasibleRow, Reference, Row, RunRecord};
use crate::run_folder::RunFolder;
use crate::runner::{StageRunner, Task};
use crate::samples::write_samples_picture;
use crate::schedule::{Job, ReferenceSpec, RowTemplate, StepTemplate, Work, all_take_turns};
use crate::search::{run_search, train_with_fallback};
use crate::setting::{Infeasible, Setting};
use crate::test_eval::test_rows;
use crate::trial::{Student, TrialContext, TrialResult};

/// Runs a pipeline into the folder `dir`, and writes `run.json`, `timings.json` and `samples.png` there. Nothing is written if
/// a check fails that needs no training.
///
/// # Errors
/// The first error of a check or a stage, with the stage's name. Finished artifacts are kept, and so is a true partial record.
pub fn run(host: &Host, config: &PipelineConfig, dir: &Path) -> Result<RunRecord> {
    let config = &config.resolved();
    let Preflight { import, data, given, jobs } = Preflight::run(host, config)?;
    let record = RunRecord::new(config, data)?;
    let mut runner = StageRunner::new(host, dir, RunFolder::lock(dir)?, record)?;
    // What chooses gets neither the test jobs nor anything to import test images with.
    let first_test = jobs.iter().position(|job| matches!(job.work, Work::Import { split: Split::Test, .. }));
    let (choosing, _) = jobs.split_at(first_test.unwrap_or(jobs.len()));
    let outcome = import_images(&mut runner, config, &import)
        .and_then(|(train, val)| choose(&mut runner, config, choosing, given, train, val))
        .and_then(|()| test_rows(&mut runner, &import));
    runner.finish(outcome)
}

/// Imports the images that train and those that choose. One configuration gives all splits, and no row is in two of them.
fn import_images(runner: &mut StageRunner, config: &PipelineConfig, import: &Import) -> Result<(Artifact, Artifact)> {
    let train = runner.run("import train", import, &Inputs::new())?;
    runner.record.roles.train = Some(runner.link(&train));
    let split = choosing_split(config.protocol);
    let val = runner.run(&format!("import {split}"), &import.with_split(split), &Inputs::new())?;
    runner.record.roles.val = Some(runner.link(&val));
    runner.save()?;
    Ok((train, val))
}

/// Everything that trains and chooses.
fn choose(
    runner: &mut StageRunner,
    config: &PipelineConfig,
    jobs: &[Job],
    given: Vec<Artifact>,
    train: Artifact,
    val: Artifact,
) -> Result<()> {
    let context = prepare(runner, config, jobs, given, train, val)?;
    search(runner, &context, jobs)?;
    refine_variants(runner, &context, jobs)?;
    train_rows(runner, &context, jobs)
}

/// Trains teacher, generators and references.
fn prepare<'a>(
    runner: &mut StageRunner,
    config: &'a PipelineConfig,
    jobs: &[Job],
    given: Vec<Artifact>,
    train: Artifact,
    val: Artifact,
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
    let real = Inputs::new().with("train", &train).with("val", &val);
    let mut tasks = Vec::new();
    let mut trained: Vec<&Work> = Vec::new();
    for job in jobs {
        tasks.push(match &job.work {
            Work::Teacher(spec) | Work::Reference(spec) => {
                Task { name: spec.name.clone(), stage: Box::new(spec.training.clone()), inputs: real.clone() }
            }
            Work::Generator { number, config } => {
                // On the device of the worker that takes it: the teacher, the first task, has the first one.
                let (device, _) = runner.host.of_job(tasks.len());
                let stage = TrainGan { config: (**config).clone(), device: device.clone() };
                let name = if *number == 0 { "train-gan".into() } else { format!("train-gan {}", number + 1) };
                Task { name, stage: Box::new(stage), inputs: Inputs::new().with("train", &train) }
            }
            _ => continue,
        });
        trained.push(&job.work);
    }
    let mut teacher = None;
    let mut generators: Vec<Artifact> = Vec::new();
    // One after the other they are recorded as they finish.
    let batches = if runner.host.jobs() > 1 { vec![tasks] } else { tasks.into_iter().map(|task| vec![task]).collect() };
    let mut trained = trained.into_iter();
    for batch in batches {
        for (artifact, work) in runner.run_all(batch)?.into_iter().zip(&mut trained) {
            let link = runner.link(&artifact);
            match work {
                Work::Generator { .. } => {
                    runner.record.roles.generators.push(GeneratorRole { artifact: link, trained: true });
                    generators.push(artifact);
                }
                Work::Teacher(spec) | Work::Reference(spec) => {
                    runner.record.roles.references.push(reference(spec, &artifact, link.clone())?);
                    if let Work::Teacher(_) = work {
                        runner.record.roles.teacher = Some(link);
                        teacher = Some(artifact);
                    }
                }
                _ => {}
            }
        }
        runner.save()?;
    }
    for artifact in given {
        let role = GeneratorRole { artifact: runner.link(&artifact), trained: false };
        runner.record.roles.generators.push(role);
        generators.push(artifact);
    }
    let teacher = teacher.context("the schedule has no teacher")?;
    Ok(TrialContext { config, generators, teacher, train, val, classes, per_class })
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

/// Searches the grids for each generator, and makes sure that the first one's choices can be trained with a renewed set.
fn search(runner: &mut StageRunner, context: &TrialContext, jobs: &[Job]) -> Result<()> {
    for (search, steps) in searches(jobs).into_iter().filter(|(search, _)| search.variant.is_none()) {
        let first = steps[0].template.apply(&Setting { threshold: Some(0.0), ..Setting::plain(0) });
        run_search(runner, context, search, &steps, first)?;
    }
    rows(jobs).filter(|row| row.fallback).try_for_each(|row| train_with_fallback(runner, context, row))?;
    runner.save()
}

/// Runs the searches of the variants. A variant whose search finds nothing feasible has no row.
fn refine_variants(runner: &mut StageRunner, context: &TrialContext, jobs: &[Job]) -> Result<()> {
    for (search, steps) in searches(jobs) {
        let Some(name) = &search.variant else { continue };
        let main = SearchId { variant: None, ..search.clone() };
        let base = chosen(runner, &main).context("the main search has not ended")?;
        if let Err(error) = run_search(runner, context, search, &steps, steps[0].template.apply(&base)) {
            let Infeasible { setting, why } = error.downcast()?;
            runner.remark(&format!("variant {name}: {setting}: {why}; continuing without it"));
            runner.record.infeasible.push(InfeasibleRow { name: name.clone(), setting, why });
        }
    }
    runner.save()
}

/// Trains the student of every row: first those of one generator, then those of all.
fn train_rows(runner: &mut StageRunner, context: &TrialContext, jobs: &[Job]) -> Result<()> {
    let mut single = Vec::new();
    let mut mixed = Vec::new();
    for row in rows(jobs) {
        let chosen: Option<Vec<Setting>> = row.chosen_by.iter().map(|search| chosen(runner, search)).collect();
        let Some(chosen) = chosen else { continue };
        let settings: Vec<_> = chosen.iter().map(|chosen| row.template.apply(chosen)).collect();
        let rows = if settings.len() == 1 { &mut single } else { &mut mixed };
        rows.push((row.name.clone(), settings, row.turns));
    }
    let trials = single.iter().map(|(name, settings, _)| (name.clone(), settings[0].clone()));
    let students = context.train(runner, 0, trials)?;
    record_rows(runner, context, &single, students)?;
    if let Some((_, gafi, _)) = single.iter().find(|(name, _, _)| name == GAFI_ROW) {
        write_samples_picture(runner, context, &gafi[0])?;
    }
    let generators = context.generators.len();
    if generators > 1 && !all_take_turns(generators, Some(context.config.recycle), context.config.student.epochs) {
        runner.remark("gafi-multi-turns: too few renewals for each generator to have a turn; continuing without it");
    }
    let students = context.train_mixed(runner, &mixed)?;
    record_rows(runner, context, &mixed, students)
}

/// Records rows that were trained, by name, settings, and whether generators took turns.
fn record_rows(
    runner: &mut StageRunner,
    context: &TrialContext,
    rows: &[(String, Vec<Setting>, bool)],
    students: Vec<TrialResult>,
) -> Result<()> {
    for ((name, settings, _), student) in rows.iter().zip(students) {
        let name = name.clone();
        match student {
            Ok(student) => {
                let settings = context.normalize_all(settings.clone());
                let per_class = context.images(&student.setting);
                let Student { setting, artifact, val, .. } = student;
                let against = real_name(setting.times);
                runner.record.rows.push(Row {
                    name,
                    settings,
                    per_class,
                    artifact,
                    val,
                    test: None,
                    against,
                    gap: None,
                });
            }
            Err(Infeasible { setting, why }) => runner.record.infeasible.push(InfeasibleRow { name, setting, why }),
        }
    }
    runner.save()
}

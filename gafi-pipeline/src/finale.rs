//! The end of a pipeline: choices are made, and only now the test split is imported, to judge what was chosen. What chooses
//! cannot get here, and nothing in here trains.

use anyhow::Result;
use gafi_core::{Artifact, Inputs, Protocol, Split};
use gafi_data::Import;
use gafi_nn::{Evaluate, EvaluationRecord};

use crate::report::{InfeasibleRow, LargerReal, Real, Results, Row, SCHEMA};
use crate::run::{Lesson, reference_name};
use crate::search::{Search, Step};
use crate::students::{Student, folder};
use crate::workshop::{Task, Workshop};

/// What was chosen.
pub(crate) struct Choices {
    /// The references on real images, that of the usual size first.
    pub(crate) references: Vec<(Lesson, Artifact)>,
    /// Name, images of each class, and student of each row.
    pub(crate) rows: Vec<(String, u64, Student)>,
    /// Rows that have no student.
    pub(crate) impossible: Vec<InfeasibleRow>,
    /// The searches.
    pub(crate) searches: Vec<Search>,
    /// And their steps.
    pub(crate) steps: Vec<Step>,
}

/// Judges all students on the test split and writes `results.json`.
///
/// # Errors
/// What a stage says.
pub(crate) fn run(
    mut shop: Workshop,
    choices: Choices,
    import: &Import,
    protocol: Protocol,
    dataset: String,
) -> Result<Results> {
    let test = shop.run("import test", &import.with_split(Split::Test), &Inputs::new())?;
    let judge = |name: &str, classifier: &Artifact| -> Task {
        let inputs = Inputs::new().with("classifier", classifier).with("dataset", &test);
        (format!("test of {name}"), Box::new(Evaluate {}), inputs)
    };
    let mut tasks: Vec<Task> =
        choices.references.iter().map(|(lesson, real)| judge(&reference_name(lesson.times), real)).collect();
    tasks.extend(choices.rows.iter().map(|(name, _, student)| judge(name, &student.artifact)));
    let judged = shop.run_all(tasks)?;
    let records = judged.iter().map(|artifact| Ok(artifact.read_json(EvaluationRecord::FILE)?));
    let records = records.collect::<Result<Vec<EvaluationRecord>>>()?;
    let accuracies: Vec<f64> = records.iter().map(|record| record.evaluation.accuracy).collect();
    let (of_real, accuracies) = accuracies.split_at(choices.references.len());
    let usual = &choices.references[0].0;
    let (per_class, epochs) = (Some(usual.per_class), Some(usual.classifier.epochs));
    let tested = records.first().map(|record| record.evaluation.n);
    let real = Real { per_class, epochs, test_accuracy: of_real[0], tested };
    let larger =
        choices.references.iter().zip(of_real).skip(1).map(|((lesson, artifact), &test_accuracy)| LargerReal {
            times: lesson.times,
            per_class: lesson.per_class,
            epochs: lesson.classifier.epochs,
            artifact: folder(artifact),
            test_accuracy,
        });
    let as_large = |times: u32| {
        let found = choices.references.iter().position(|(lesson, _)| lesson.times == times);
        of_real[found.unwrap_or(0)]
    };
    let rows = choices.rows.iter().zip(accuracies).map(|((name, per_class, student), &test_accuracy)| Row {
        name: name.clone(),
        artifact: folder(&student.artifact),
        test_accuracy,
        gap: 100.0 * (as_large(student.setting.times) - test_accuracy),
        checkpoint: student.setting.checkpoint,
        std: student.setting.std,
        threshold: student.setting.threshold,
        recycle_period: student.setting.recycle.as_ref().map(|r| r.period),
        recycle_factor: student.setting.recycle.as_ref().map(|r| r.factor),
        labels: student.setting.labels(),
        per_class: *per_class,
        generators: student.generators,
        val_accuracy: student.val.accuracy(),
        n: 1,
    });
    let (rows, larger, (trainings, epochs)) = (rows.collect(), larger.collect(), shop.trained());
    let results = Results {
        schema: SCHEMA.into(),
        dataset,
        protocol,
        real,
        larger,
        rows,
        impossible: choices.impossible,
        searches: choices.searches,
        trainings,
        epochs,
        wall_s: shop.wall_s(),
        stages: shop.stages,
    };
    results.write(shop.dir)?;
    Ok(results)
}

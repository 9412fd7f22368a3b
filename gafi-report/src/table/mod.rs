//! The results table of runs, as Markdown or JSON.

mod json;
mod markdown;
mod paper;

use anyhow::Result;

use crate::facts::groups;
use crate::run::Run;

/// A format of [`table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Markdown,
    /// For programs, with the values of each run.
    Json,
}

/// The results of `runs`: accuracy, gap, searches and cost. Runs whose configurations differ only in the seed form one table with
/// means and 95 % t-intervals.
///
/// `meta` holds facts that the runs don't record, as keys and values, such as `command`, `commit` and `hardware`. They appear
/// above the tables in the given order.
///
/// # Errors
/// [`Usage`](gafi_pipeline::Usage) for two runs of the same configuration and seed; when a value cannot be written as JSON.
pub fn table(runs: &[Run], format: Format, meta: &[(String, String)]) -> Result<String> {
    let groups = groups(runs)?;
    match format {
        Format::Markdown => Ok(markdown::render(&groups, runs, meta)),
        Format::Json => json::render(&groups, runs, meta),
    }
}

#[cfg(test)]
mod tests {
    use gafi_core::{ClassTally, Protocol};
    use gafi_pipeline::record::{InfeasibleRow, StageTime, Timings};
    use serde_json::{Value, json};

    use super::*;
    use crate::run::tests::run;

    fn json(runs: &[Run]) -> Value {
        serde_json::from_str(&table(runs, Format::Json, &[]).unwrap()).unwrap()
    }

    #[test]
    fn seeds_are_averaged_and_missing_rows_are_null() {
        let runs = [
            run(0, Protocol::Holdout, &[("real", 75.0), ("baseline", 50.0), ("gafi", 50.0)]),
            run(1, Protocol::Holdout, &[("real", 75.0), ("gafi", 75.0), ("other", 10.0)]),
        ];
        let document = json(&runs);
        assert_eq!(document["tables"].as_array().unwrap().len(), 1);
        let rows = document["tables"][0]["rows"].as_array().unwrap();
        let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["real", "baseline", "gafi", "other"]);
        assert_eq!(rows.iter().map(|row| row["accuracy_percent"]["n"].clone()).collect::<Vec<_>>(), [2, 1, 2, 1]);
        assert_eq!(
            rows[1]["accuracy_percent"],
            json!({"n": 1, "mean": 50.0, "sd": null, "ci95": null, "values": [50.0, null]})
        );
        assert_eq!(rows[1]["trained_on"][1], Value::Null);
        assert_eq!(rows[2]["gap_points"]["values"], json!([25.0, 0.0]));
        // The mean, 62.5, and 12.7062 (t with one degree of freedom) standard errors of half the difference.
        let low = rows[2]["accuracy_percent"]["ci95"][0].as_f64().unwrap();
        assert!((low - (62.5 - 12.706204736174694 * 12.5)).abs() < 1e-9, "{low}");
    }

    #[test]
    fn groups_name_the_keys_in_which_they_differ() {
        let rows = [("real", 75.0), ("gafi", 50.0)];
        let mut runs = [0, 1, 2].map(|seed| run(seed, Protocol::Holdout, &rows));
        runs[1].record.config.per_class = Some(7);
        let link = json!({"path": "val", "id": "5e1ec7"});
        runs[2].record.roles.val = serde_json::from_value(link).unwrap();
        let tables = json(&runs)["tables"].clone();
        let differs: Vec<_> = tables.as_array().unwrap().iter().map(|table| table["differs"].clone()).collect();
        let expected = [(Value::Null, Value::Null), (7.into(), Value::Null), (Value::Null, "5e1ec7".into())];
        assert_eq!(differs, expected.map(|(per_class, val)| json!({"per_class": per_class, "images.val": val})));
        let page = table(&runs, Format::Markdown, &[]).unwrap();
        for line in [
            "# cifar10, images.val = unset, per_class = 7",
            "- keys that differ from the other tables: `images.val = 5e1ec7`, `per_class = unset`",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }

    #[test]
    fn folders_of_one_name_are_two_sets() {
        let mut runs = [0, 1].map(|seed| run(seed, Protocol::Holdout, &[("real", 75.0), ("gafi", 50.0)]));
        for (run, folder) in runs.iter_mut().zip(["/a/images", "/b/images"]) {
            run.record.dataset.name = folder.into();
            run.record.config.data.set = None;
            run.record.config.data.path = Some(folder.into());
        }
        let page = table(&runs, Format::Markdown, &[]).unwrap();
        assert!(
            page.contains("# images, data.path = /a/images\n") && page.contains("# images, data.path = /b/images\n"),
            "{page}"
        );
    }

    #[test]
    fn one_seed_twice_is_refused() {
        let rows = [("real", 75.0), ("gafi", 50.0)];
        let mut runs = [3, 3].map(|seed| run(seed, Protocol::Holdout, &rows));
        runs[0].dir = "first".into();
        runs[1].dir = "second".into();
        let error = table(&runs, Format::Json, &[]).unwrap_err();
        assert!(error.is::<gafi_pipeline::Usage>());
        let text = error.to_string();
        assert!(text.contains("first and second have the same configuration and seed (3)"), "{text}");
        runs[1].record.config.seed = 4;
        assert_eq!(json(&runs)["tables"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn declared_comparisons_are_paired_by_seed() {
        let accuracies = [("real", [75.0, 75.0, 74.0]), ("gafi", [50.0, 60.0, 59.0]), ("baseline", [49.0, 58.0, 56.0])];
        let mut runs = [0, 1, 2].map(|seed| {
            let rows = accuracies.map(|(name, of)| (name, of[seed]));
            run(seed as u64, Protocol::Holdout, &rows)
        });
        let pairs = [["gafi", "baseline"], ["real", "gafi"], ["gafi", "missing"]];
        for run in &mut runs {
            run.record.config.comparisons = pairs.map(|pair| pair.map(String::from)).into();
        }
        let found = json(&runs)["tables"][0]["comparisons"].clone();
        // scipy 1.17.1: ttest_1samp([1, 2, 3], 0) and ([25, 15, 15], 0). Three comparisons: times 3, then at least as much.
        let close =
            |value: &Value, expected: f64| assert!((value.as_f64().unwrap() - expected).abs() < 1e-9, "{value}");
        (0..3).for_each(|run| close(&found[0]["difference_points"]["values"][run], run as f64 + 1.0));
        close(&found[0]["p"], 0.07417990022744854);
        close(&found[0]["p_holm"], 2.0 * 0.07417990022744854);
        close(&found[1]["p"], 0.0315040030418138);
        close(&found[1]["p_holm"], 3.0 * 0.0315040030418138);
        assert_eq!((&found[2]["difference_points"]["n"], &found[2]["p"]), (&0.into(), &Value::Null));
        let page = table(&runs, Format::Markdown, &[]).unwrap();
        assert!(page.contains("\n| gafi - baseline | 2.00 ± 2.48 | 3 | 0.0742 | 0.1484 |\n"), "{page}");
    }

    #[test]
    fn references_say_how_many_real_images_they_see() {
        let mut one = run(0, Protocol::Holdout, &[("real", 75.0), ("gafi", 50.0)]);
        one.record.dataset.train = vec![30, 15];
        let page = |run: &Run| table(std::slice::from_ref(run), Format::Markdown, &[]).unwrap();
        let text = page(&one);
        // Two epochs of ten images of each class.
        assert!(text.contains("over all epochs it sees 35 of the 45 real training images\n"), "{text}");
        one.record.roles.references[0].per_class = None;
        let text = page(&one);
        assert!(text.contains("`real`: the student's classifier, trained like the teacher\n"), "{text}");
    }

    #[test]
    fn trainings_with_other_student_seeds_stand_beside_the_seeds() {
        let mut runs = [0, 1].map(|seed| run(seed, Protocol::Holdout, &[("real", 75.0), ("gafi", 50.0)]));
        let test = |accuracy: f64| json!({"score": accuracy, "n": 100, "evaluation": {"path": "", "id": ""}});
        let repeat = |number: u32, accuracy: f64| json!({"number": number, "artifact": {"path": "", "id": ""}, "val": 0.5, "test": test(accuracy)});
        let repeats = json!([repeat(1, 0.75), repeat(2, 1.0)]);
        runs[1].record.rows[0].repeats = serde_json::from_value(repeats).unwrap();
        // Repeats do not make another group.
        runs[1].record.config.student_seeds = 3;
        let document = json(&runs);
        assert_eq!(document["tables"].as_array().unwrap().len(), 1);
        let found = &document["tables"][0]["rows"][1]["student_seeds"];
        assert_eq!(*found, json!({"sd": 25.0, "values": [[], [50.0, 75.0, 100.0]]}));
        let page = table(&runs, Format::Markdown, &[]).unwrap();
        assert!(page.contains("\n| gafi | 0.00 | 2 | 25.00 | 3 |\n"), "{page}");
    }

    #[test]
    fn only_times_differ_between_calls() {
        let timed = |seconds: f64, cached: bool| {
            let stages = vec![StageTime { name: "teacher".into(), wall_s: seconds, cached }];
            let timings = Timings { config_hash: String::new(), wall_s: seconds, stages };
            Run { timings: Some(timings), ..run(0, Protocol::Holdout, &[("real", 75.0), ("gafi", 50.0)]) }
        };
        let mut one = json(&[timed(1.0, false)]);
        let mut two = json(&[timed(500.0, true)]);
        assert_ne!(one["tables"][0]["times"], two["tables"][0]["times"]);
        for document in [&mut one, &mut two] {
            document["tables"][0]["times"].take();
        }
        assert_eq!(one, two);
    }

    #[test]
    fn markdown_of_several_seeds() {
        let mut runs = [
            run(0, Protocol::Holdout, &[("real", 75.0), ("baseline", 50.0), ("gafi-multi", 62.5)]),
            run(1, Protocol::Holdout, &[("real", 75.0), ("baseline", 75.0)]),
        ];
        let setting = runs[0].record.rows[0].settings[0].clone();
        runs[1].record.infeasible = vec![InfeasibleRow {
            name: "gafi-multi".into(),
            setting,
            why: "class 1 is exhausted.\nTrain longer".into(),
        }];
        let meta = [("command", "cargo xtask reproduce"), ("hardware", "Some CPU, 2 cores")];
        let meta = meta.map(|(key, value)| (key.to_string(), value.to_string()));
        let expected = "\
# cifar10

- protocol `holdout`: choices use a validation split; test images are read once, after all choices
- runs: 2 (seeds 0, 1)
- uncertainty: ± is half the width of the 95 % t-interval of the mean over n seeds. A seed varies teacher, generator and students; all runs share one split of the real images and one test set of 100 images, so the intervals do not cover the choice of these. Gaps and differences are paired: each is taken within a run.
- classifiers trained in each run: 11 (55 epochs), 11 (55 epochs)
- command: `cargo xtask reproduce`
- hardware: Some CPU, 2 cores

| trained on | test accuracy, % | gap, points | gap from | n | validation, % | paper's gap |
|---|---:|---:|---|---:|---:|---:|
| real | 75.00 ± 0.00 |  |  | 2 | 50.00 ± 0.00 |  |
| baseline | 62.50 ± 158.83 | 12.50 ± 158.83 | real | 2 | 50.00 ± 0.00 |  |
| gafi-multi | 62.50 | 12.50 | real | 1 | 50.00 | 1.78 |

- `real`: the student's classifier with a student's epochs and steps; over all epochs it sees all 20 real training images
- gap: test accuracy of the row under “gap from” minus that of this row, in the same run; as for the classification accuracy score (CAS, Ravuri and Vinyals 2019), `real` draws on the whole real set

Row gafi-multi of run `seed-1` is infeasible: class 1 is exhausted. Train longer

The paper reports a gap of 1.78 points for all techniques with several generators, at its own scale and with choices made on test images.

| search | students trained | their epochs | validation accuracy of the choice, % |
|---|---:|---:|---:|
| halving | 4 | 12 | 50.00 ± 0.00 |
";
        assert_eq!(table(&runs, Format::Markdown, &meta).unwrap(), expected);
    }

    #[test]
    fn markdown_of_one_run_has_its_settings() {
        let mut run = run(3, Protocol::Paper, &[("real", 75.0), ("gafi", 50.0)]);
        run.record.dataset.name = "/data/my|own".into();
        run.record.config.data.set = None;
        let page = table(&[run], Format::Markdown, &[]).unwrap();
        for line in [
            "# my|own",
            "- run: `seed-3`, seed 3",
            "- uncertainty: Each classifier was trained once (n = 1), so there is no interval: another seed may change a figure by \
             more than the differences between rows. The choice of test images alone gives a binomial standard error of up to 5.0 points, at 50.0 % on 100 images.",
            "| trained on | test accuracy, % | gap, points | gap from | n | validation, % | checkpoint | std | threshold | renewed every |",
            "| gafi | 50.00 | 25.00 | real | 1 | 50.00 | 40 | 1.5 | 0.25 | epoch, 50 % |",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        assert!(page.contains("are chosen on the TEST images") && page.contains("gaps too small"), "{page}");
    }

    #[test]
    fn backfilled_samples_have_a_column() {
        let mut runs =
            [0, 1].map(|seed| run(seed, Protocol::Holdout, &[("real", 75.0), ("baseline", 50.0), ("gafi", 50.0)]));
        for (run, backfilled) in runs.iter_mut().zip([3, 12]) {
            run.record.rows[0].tally = Some(ClassTally::new(100, 100, 0));
            run.record.rows[1].tally = Some(ClassTally::new(900, 100 - backfilled, backfilled));
        }
        let page = table(&runs, Format::Markdown, &[]).unwrap();
        for line in [
            "| trained on | test accuracy, % | gap, points | gap from | n | validation, % | paper's gap | backfilled |",
            "| baseline | 50.00 ± 0.00 | 25.00 ± 0.00 | real | 2 | 50.00 ± 0.00 |  |  |",
            "| gafi | 50.00 ± 0.00 | 25.00 ± 0.00 | real | 2 | 50.00 ± 0.00 |  | 15 (7.5 %) |",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        assert!(page.contains("\n- backfilled: samples that the filter rejected"), "{page}");
        let samples = &json(&runs)["tables"][0]["rows"][2]["samples"];
        let of = |accepted: u64, backfilled: u64| json!({"drawn": 900, "accepted": accepted, "backfilled": backfilled});
        assert_eq!(*samples, json!([of(97, 3), of(88, 12)]));

        runs.iter_mut().for_each(|run| run.record.rows[1].tally = Some(ClassTally::new(900, 100, 0)));
        let page = table(&runs, Format::Markdown, &[]).unwrap();
        assert!(!page.contains("backfilled"), "{page}");
    }

    #[test]
    fn both_protocols_stand_side_by_side() {
        let runs = [
            run(0, Protocol::Holdout, &[("real", 75.0), ("gafi", 50.0), ("baseline", 25.0)]),
            run(0, Protocol::Paper, &[("real", 75.0), ("gafi", 62.5)]),
        ];
        let page = table(&runs, Format::Markdown, &[]).unwrap();
        assert!(page.contains("# cifar10, protocol = paper\n"), "{page}");
        assert!(page.contains("| trained on | gap, `holdout` (n) | gap, `paper` (n) |"), "{page}");
        assert!(page.contains("\n| gafi | 25.00 (1) | 12.50 (1) |\n| baseline | 50.00 (1) |  |\n"), "{page}");
    }
}

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

/// The results of `runs`: accuracy, gap, searches and cost. Runs whose configurations differ in the seed only become one table with
/// means and sample standard deviations.
///
/// `meta` holds facts that the runs don't record, as keys and values, such as `command`, `commit` and `hardware`. They stand
/// above the tables in the given order.
///
/// # Errors
/// When a value cannot be written as JSON.
pub fn table(runs: &[Run], format: Format, meta: &[(String, String)]) -> Result<String> {
    let groups = groups(runs);
    match format {
        Format::Markdown => Ok(markdown::render(&groups, runs, meta)),
        Format::Json => json::render(&groups, runs, meta),
    }
}

#[cfg(test)]
mod tests {
    use gafi_core::Protocol;
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
        assert_eq!(rows[1]["accuracy_percent"], json!({"n": 1, "mean": 50.0, "sd": null, "values": [50.0, null]}));
        assert_eq!(rows[1]["trained_on"][1], Value::Null);
        assert_eq!(rows[2]["gap_points"]["values"], json!([25.0, 0.0]));
        // Two values have a sample standard deviation of their difference over the root of 2.
        let sd = rows[2]["accuracy_percent"]["sd"].as_f64().unwrap();
        assert!((sd - 25.0 / 2f64.sqrt()).abs() < 1e-12, "{sd}");
    }

    #[test]
    fn other_configurations_are_not_averaged() {
        let mut runs = [0, 1].map(|seed| run(seed, Protocol::Holdout, &[("real", 75.0), ("gafi", 50.0)]));
        runs[1].record.config.per_class = Some(7);
        assert_eq!(json(&runs)["tables"].as_array().unwrap().len(), 2);
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
        runs[1].record.infeasible =
            vec![InfeasibleRow { name: "gafi-multi".into(), setting, why: "class 1 is exhausted".into() }];
        let meta = [("command", "cargo xtask reproduce"), ("hardware", "Some CPU, 2 cores")];
        let meta = meta.map(|(key, value)| (key.to_string(), value.to_string()));
        let expected = "\
# cifar10

- protocol `holdout`: choices use a validation split; test images are read once, after all choices
- runs: 2 (seeds 0, 1) on one split of the real images; ± is the sample standard deviation over runs
- classifiers trained in each run: 11 (55 epochs), 11 (55 epochs)
- command: `cargo xtask reproduce`
- hardware: Some CPU, 2 cores

| trained on | test accuracy, % | gap, points | validation, % | paper's gap | n |
|---|---:|---:|---:|---:|---:|
| real | 75.00 ± 0.00 |  | 50.00 ± 0.00 |  | 2 |
| baseline | 62.50 ± 17.68 | 12.50 ± 17.68 | 50.00 ± 0.00 |  | 2 |
| gafi-multi | 62.50 | 12.50 | 50.00 | 1.78 | 1 |

Row gafi-multi of run `seed-1` is infeasible: class 1 is exhausted

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
        let page = table(&[run], Format::Markdown, &[]).unwrap();
        for line in [
            "# my|own",
            "- run: `seed-3`, seed 3 (n = 1)",
            "- test images: 100; differences below 14.1 points are within two standard errors",
            "| trained on | test accuracy, % | gap, points | validation, % | checkpoint | std | threshold | renewed every |",
            "| gafi | 50.00 | 25.00 | 50.00 | 40 | 1.5 | 0.25 | epoch, 50 % |",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        assert!(page.contains("all choices use the TEST images"), "{page}");
    }

    #[test]
    fn both_protocols_stand_side_by_side() {
        let runs = [
            run(0, Protocol::Holdout, &[("real", 75.0), ("gafi", 50.0), ("baseline", 25.0)]),
            run(0, Protocol::Paper, &[("real", 75.0), ("gafi", 62.5)]),
        ];
        let page = table(&runs, Format::Markdown, &[]).unwrap();
        assert!(page.contains("# cifar10, protocol paper\n"), "{page}");
        assert!(page.contains("| trained on | gap, `holdout` (n) | gap, `paper` (n) |"), "{page}");
        assert!(page.contains("\n| gafi | 25.00 (1) | 12.50 (1) |\n| baseline | 50.00 (1) |  |\n"), "{page}");
    }
}

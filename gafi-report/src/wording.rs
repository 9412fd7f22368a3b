//! What is said about the figures of a group: its title, how certain they are, how choices and comparisons were made.

use gafi_core::Protocol;
use serde_json::Value;

use crate::facts::{Group, RowFacts};

/// Maximum number of keys in the title of a group, and the longest key in characters.
const TITLE_KEYS: usize = 3;
const TITLE_KEY: usize = 48;

impl Group {
    /// The name of its real set and, if there are other groups, the first keys that distinguish it: "cifar10, per_class = 500,
    /// student.epochs = 16 and 3 more keys".
    pub(crate) fn title(&self) -> String {
        // Long values appear only in the list of all keys.
        let short = |(key, value): (&String, &Value)| {
            Some(format!("{key} = {}", plain(value))).filter(|text| text.len() <= TITLE_KEY)
        };
        let shown: Vec<String> = self.differs.iter().filter_map(short).take(TITLE_KEYS).collect();
        let more = match self.differs.len() - shown.len() {
            0 => String::new(),
            1 => " and 1 more key".into(),
            n => format!(" and {n} more keys"),
        };
        std::iter::once(self.dataset.clone()).chain(shown).collect::<Vec<_>>().join(", ") + &more
    }

    /// How certain its figures are, in words.
    pub(crate) fn uncertainty(&self) -> String {
        if self.runs.len() > 1 {
            let images = self.rows.iter().map(|row| row.tested).max().filter(|&images| images > 0);
            let images = images.map_or(String::new(), |images| format!(" of {images} images"));
            return format!(
                "± is half the width of the 95 % t-interval of the mean over n seeds. A seed varies teacher, generator and students; all \
                 runs share one split of the real images and one test set{images}, so the intervals do not cover the choice of these. Gaps and \
                 differences are paired: each is taken within a run."
            );
        }
        let once = "Each classifier was trained once (n = 1), so there is no interval: another seed may change a figure by more than \
                    the differences between rows. ";
        let tested = self.rows.iter().filter_map(|row| Some((row, row.binomial_error()?)));
        let widest = tested.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(row, error)| {
            let (accuracy, images) = (row.accuracy.mean(), row.tested);
            format!(
                "The choice of test images alone gives a binomial standard error of up to {error:.1} points, at {accuracy:.1} % on {images} images."
            )
        });
        format!("{once}{}", widest.unwrap_or_default()).trim_end().into()
    }

    /// Which images choose, in words.
    pub(crate) fn choices(&self) -> &'static str {
        match self.protocol {
            Protocol::Holdout => "choices use a validation split; test images are read once, after all choices",
            Protocol::Paper => {
                "students, their epochs and their settings are chosen on the TEST images, as in the released program; only the epochs of teacher \
                 and references are chosen on a validation split. So accuracies of students are too high and gaps too small, and neither is \
                 comparable with protocol `holdout`"
            }
        }
    }

    /// How the declared comparisons were tested, in words.
    pub(crate) fn tests(&self) -> String {
        if self.runs.len() < 2 {
            return "Differences in test accuracy within a single run, so without intervals or p-values.".into();
        }
        let n = self.comparisons.len();
        let family = if n == 1 { "the one comparison".into() } else { format!("the {n} comparisons") };
        format!(
            "Differences of test accuracy, paired by seed. p: two-sided paired t-test, which assumes normally distributed \
             differences and needs at least two unequal ones. \
             p (Holm): adjusted for {family} that the configuration declares. A large p is no evidence that two rows are equal: the \
             interval shows which differences are compatible with the runs."
        )
    }

    /// The rows that were trained with several student seeds, with the columns [`STUDENT_SEEDS`].
    pub(crate) fn student_seeds(&self) -> Vec<[String; 5]> {
        let sd = |sd: Option<f64>| sd.map_or(String::new(), |sd| format!("{sd:.2}"));
        let cells = |row: &RowFacts| {
            let within = row.student_seeds.as_ref()?;
            let over_seeds = row.accuracy.summary().and_then(|summary| summary.sd);
            let n = row.accuracy.n().to_string();
            Some([row.name.clone(), sd(over_seeds), n, sd(within.sd), within.trainings().to_string()])
        };
        self.rows.iter().filter_map(cells).collect()
    }

    /// A line for each row that needs one, and what gaps are measured from.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.rows.iter().filter_map(RowFacts::note).collect();
        if self.rows.iter().any(|row| row.gap.n() > 0) {
            notes.push(
                "gap: test accuracy of the row under “gap from” minus that of this row, in the same run; as for the classification accuracy \
                 score (CAS, Ravuri and Vinyals 2019), `real` draws on the whole real set"
                    .into(),
            );
        }
        let config = self.config();
        if config.gan.guidance.is_some() && config.trained_generators.is_empty() {
            notes.push(
                "generator: guided by the classifier of the row `teacher`, which also filters its samples and gives soft labels"
                    .into(),
            );
        }
        if self.any_backfilled() {
            notes.push(
                "backfilled: samples that the filter rejected but that fill a class that ran short, over all epochs and runs, and their \
                 share of all samples that students learned from"
                    .into(),
            );
        }
        notes
    }
}

/// A value of a configuration as text: strings without quotes, null as "unset".
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "unset".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The columns of the table of spreads over seeds and over student seeds.
pub(crate) const STUDENT_SEEDS: [&str; 5] =
    ["trained on", "sd over seeds", "seeds", "sd over student seeds", "trainings"];

/// What the two standard deviations of a row that was trained several times mean.
pub(crate) const TWO_SEEDS: &str = "Standard deviations of test accuracy. A seed varies teacher, generator and students. A student seed \
    varies initial weights, order of the images and augmentation of the row's classifier alone, within a run.";

/// A p-value with four decimals; empty for `None`.
pub(crate) fn p_value(p: Option<f64>) -> String {
    match p {
        None => String::new(),
        Some(p) if p < 0.0001 => "< 0.0001".into(),
        Some(p) => format!("{p:.4}"),
    }
}

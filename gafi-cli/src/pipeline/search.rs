//! GaFi's search, in the paper's order: checkpoint, then expansion, then threshold. It sees validation scores only.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Error, Result};
use gafi_core::{TRIAL, TrialRecord, ValScore, select};
use gafi_expand::StdRange;
use gafi_recycle::Renewal;
use serde::{Deserialize, Serialize};

use super::config::{PipelineConfig, Strategy};
use super::proxies::{self, Screened};
use super::setting::{Impossible, Setting};
use super::students::{Attempt, Classroom, Student, folder};
use super::workshop::Workshop;

/// Of successive halving: one in so many goes on to the next round, for so many times the epochs. The first round is one of
/// classifiers that are solved for.
const ETA: usize = 4;
/// The longest student of [`Strategy::Halving`] trains for this part of a student's epochs.
const LONGEST: u32 = 2;
/// The name of a search's last step.
const THRESHOLD: &str = "threshold";
/// [`Strategy::Halving`] takes at most this part of the epochs of [`Strategy::Grid`].
pub(crate) const PART: u64 = 5;

/// A cheap search, planned: its students are as long as its part of the grid's epochs allows, and the shortest one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Halving {
    /// Rounds over the checkpoints: how many are trained, and for how many epochs.
    pub(crate) rounds: Vec<(usize, u32)>,
    /// Students of the searches along a line, at the most.
    pub(crate) line_trainings: usize,
    /// Epochs of each of these.
    pub(crate) line_epochs: u32,
}

impl Halving {
    /// Of a search of `config` over `checkpoints`.
    pub(crate) fn plan(checkpoints: usize, config: &PipelineConfig) -> Self {
        let epochs = config.student.epochs.max(1);
        let grid = grid_trainings(checkpoints, config) as u64 * u64::from(epochs);
        let mut lengths =
            (1..=(epochs / LONGEST).max(1)).rev().map(|shortest| Self::with(checkpoints, config, shortest));
        let fits = lengths.find(|plan| plan.epochs() * PART <= grid);
        fits.unwrap_or_else(|| Self::with(checkpoints, config, 1))
    }

    fn with(checkpoints: usize, config: &PipelineConfig, shortest: u32) -> Self {
        let longest = (config.student.epochs / LONGEST).max(1);
        let (mut rounds, mut left, mut length) = (Vec::new(), screened(checkpoints), shortest);
        loop {
            rounds.push((left, length));
            left = left.div_ceil(ETA);
            if left <= 1 {
                break;
            }
            length = (length * ETA as u32).min(longest);
        }
        let line_trainings = screened(config.search.stds.len()) + screened(config.search.thresholds.len());
        Self { rounds, line_trainings, line_epochs: shortest }
    }

    /// Students, at the most.
    pub(crate) fn trainings(&self) -> usize {
        self.rounds.iter().map(|r| r.0).sum::<usize>() + self.line_trainings
    }

    /// Their epochs.
    pub(crate) fn epochs(&self) -> u64 {
        let rounds = self.rounds.iter().map(|&(n, epochs)| n as u64 * u64::from(epochs)).sum::<u64>();
        rounds + self.line_trainings as u64 * u64::from(self.line_epochs)
    }
}

/// What is left of a grid of so many settings for students.
fn screened(settings: usize) -> usize {
    settings.div_ceil(ETA)
}

/// Students of [`Strategy::Grid`]. The second and third grid may hold a value that was tried before: deviation 1, threshold 0.
pub(crate) fn grid_trainings(checkpoints: usize, config: &PipelineConfig) -> usize {
    let (stds, thresholds) = (&config.search.stds, &config.search.thresholds);
    let again = usize::from(has_one(stds)) + usize::from(thresholds.contains(&0.0));
    checkpoints + stds.len() + thresholds.len() - again
}

fn has_one(stds: &[StdRange]) -> bool {
    stds.iter().any(|s| s.bounds() == (1.0, 1.0))
}

/// One search: what it found, and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Which generator, from 0.
    pub generator: usize,
    /// How.
    pub strategy: Strategy,
    /// Students trained, each counted once.
    pub trainings: usize,
    /// Epochs that they were trained for.
    pub epochs: u64,
    /// Classifiers that were solved for, not trained.
    #[serde(default)]
    pub closed_form: usize,
    /// What was chosen.
    pub chosen: Setting,
    /// Validation accuracy of the chosen trial, in [0, 1].
    pub val: ValScore,
}

/// One step of the search: what was tried and what was chosen.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Which generator, from 0.
    pub generator: usize,
    /// How.
    pub strategy: Strategy,
    /// "checkpoint", "expansion" or "threshold", or a variant's name with one of these.
    pub name: String,
    /// The trials, in the order of the grid, or of the rounds.
    pub trials: Vec<Tried>,
    /// The chosen trial, as an index into `trials`.
    pub chosen: usize,
    /// What a cheap search asked first: every setting of the grid, the best of which became trials.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub screened: Vec<Screened>,
    /// What could not be tried, because a class ran out of samples.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub impossible: Vec<Impossible>,
}

impl Step {
    /// Chooses the best trial of those that are not among `failed`, if there is one.
    fn choose_but(&mut self, failed: &[usize]) -> Option<&Tried> {
        let left = self.trials.iter().enumerate().filter(|(i, _)| !failed.contains(i));
        let (chosen, _) = select(left.map(|(i, trial)| (i, trial.val)))?;
        self.chosen = chosen;
        Some(&self.trials[chosen])
    }
}

/// Trains row `name`: the student of what `search` chose. It is renewed, so it asks for more samples than the trials did; where a
/// class runs out of them, the next best of the last of `steps` takes the place of what was chosen, if there is one that lasts.
///
/// # Errors
/// What a stage says.
pub(super) fn settle(
    name: &str,
    shop: &mut Workshop,
    class: &Classroom,
    search: &mut Search,
    steps: &mut [Step],
) -> Result<()> {
    let last =
        |s: &&mut Step| (s.generator, s.strategy, s.name.as_str()) == (search.generator, search.strategy, THRESHOLD);
    let Some(step) = steps.iter_mut().find(last) else { return Ok(()) };
    let (first, mut failed) = ((step.chosen, search.clone()), Vec::new());
    loop {
        let setting = Setting { recycle: Some(class.config.recycle), ..search.chosen.clone() };
        let student = class.students(shop, search.generator, [(name.to_string(), setting)])?;
        let Some(Err(impossible)) = student.into_iter().next() else { return Ok(()) };
        step.impossible.push(impossible);
        failed.push(step.chosen);
        let Some(next) = step.choose_but(&failed) else {
            // None lasts: the row will say so.
            (step.chosen, *search) = first;
            return Ok(());
        };
        (search.chosen, search.val) = (Setting { epochs: None, ..next.setting.clone() }, next.val);
        let percent = 100.0 * next.val.accuracy();
        shop.session.bars.say(&format!("           {name}: the next best is {} (val {percent:.2} %)", next.setting));
    }
}

/// One trial of the search.
#[derive(Debug, Clone, Serialize)]
pub struct Tried {
    /// What was tried.
    pub setting: Setting,
    /// What came of it.
    pub val: gafi_core::ValScore,
    /// Its artifact's folder, within the pipeline's.
    pub artifact: String,
}

/// A search under way: one generator, one strategy.
pub(crate) struct Seeker<'a, 'b> {
    shop: &'a mut Workshop<'b>,
    class: &'a Classroom<'a>,
    generator: usize,
    strategy: Strategy,
    // Epochs of the students of a cheap search along a line.
    short: u32,
    // What the step that is under way asked before it trained anything, and what was impossible.
    screened: Vec<Screened>,
    unfit: Vec<Impossible>,
    steps: Vec<Step>,
    // Folder of each trial, and its epochs.
    trained: BTreeMap<PathBuf, u64>,
}

impl<'a, 'b> Seeker<'a, 'b> {
    /// One that has not begun.
    pub(crate) fn new(
        shop: &'a mut Workshop<'b>,
        class: &'a Classroom<'a>,
        generator: usize,
        strategy: Strategy,
    ) -> Self {
        let short = Halving::plan(1, class.config).line_epochs;
        let (screened, unfit, steps, trained) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        Self { shop, class, generator, strategy, short, screened, unfit, steps, trained }
    }

    /// The whole search over `checkpoints` and the grids of the configuration: what it chose and cost, and all its steps.
    ///
    /// # Errors
    /// What a trial says; [`Impossible`] where a step has nothing else.
    pub(crate) fn run(mut self, checkpoints: &[u64]) -> Result<(Search, Vec<Step>)> {
        let grids = &self.class.config.search;
        let at = |&checkpoint: &u64| Setting {
            threshold: Some(0.0),
            recycle: Some(grids.recycle),
            ..Setting::plain(checkpoint)
        };
        let checkpoint = self.checkpoint(checkpoints.iter().map(at).collect())?;
        let expansion = self.expansion("expansion", &checkpoint.setting, &grids.stds)?;
        let threshold = self.threshold(THRESHOLD, &expansion.setting, &grids.thresholds)?;
        let (generator, strategy) = (self.generator, self.strategy);
        let (trainings, epochs) = (self.trained.len(), self.trained.values().sum());
        let closed_form = self.steps.iter().map(|step| step.screened.len()).sum();
        let (chosen, val) = (Setting { epochs: None, ..threshold.setting }, threshold.val);
        Ok((Search { generator, strategy, trainings, epochs, closed_form, chosen, val }, self.steps))
    }

    /// The best deviation of `stds` and threshold of `thresholds` from `base` on, where there are any to search.
    ///
    /// # Errors
    /// What a trial says; [`Impossible`] where none of them can be trained.
    pub(crate) fn refine(
        mut self,
        name: &str,
        base: Setting,
        stds: &[StdRange],
        thresholds: &[f64],
        recycle: Renewal,
    ) -> Result<(Setting, Vec<Step>)> {
        let mut best = Setting { recycle: Some(recycle), ..base };
        if !stds.is_empty() {
            best = self.expansion(&format!("{name}: expansion"), &best, stds)?.setting;
        }
        if best.threshold.is_some() && !thresholds.is_empty() {
            best = self.threshold(&format!("{name}: threshold"), &best, thresholds)?.setting;
        }
        Ok((Setting { epochs: None, ..best }, self.steps))
    }

    fn expansion(&mut self, name: &str, base: &Setting, stds: &[StdRange]) -> Result<Student> {
        let mut stds = stds.to_vec();
        stds.sort_by(|a, b| a.bounds().0.total_cmp(&b.bounds().0).then(a.bounds().1.total_cmp(&b.bounds().1)));
        let settings = stds.iter().map(|&std| Setting { std, ..base.clone() }).collect();
        self.line(name, settings)
    }

    fn threshold(&mut self, name: &str, base: &Setting, thresholds: &[f64]) -> Result<Student> {
        let mut thresholds = thresholds.to_vec();
        thresholds.sort_by(f64::total_cmp);
        let settings = thresholds.iter().map(|&t| Setting { threshold: Some(t), ..base.clone() }).collect();
        self.line(name, settings)
    }

    fn checkpoint(&mut self, mut left: Vec<Setting>) -> Result<Student> {
        if self.strategy == Strategy::Grid {
            let trials = self.train("checkpoint", left)?;
            return self.close("checkpoint", trials, Vec::new());
        }
        let (mut earlier, plan) = (Vec::new(), Halving::plan(left.len(), self.class.config));
        self.short = plan.line_epochs;
        left = self.screen("checkpoint", left)?;
        for (number, &(keep, epochs)) in plan.rounds.iter().enumerate() {
            // Stable: the first of equals goes on, as in a selection.
            left.truncate(keep);
            left.iter_mut().for_each(|s| s.epochs = Some(epochs));
            let mut round = self.train("checkpoint", left)?;
            if number + 1 == plan.rounds.len() {
                // Only the last round chooses: scores of shorter students are not comparable with its own.
                return self.close("checkpoint", round, earlier);
            }
            let val = |attempt: &Attempt| attempt.as_ref().map_or(f64::NEG_INFINITY, |s| s.val.accuracy());
            round.sort_by(|a, b| val(b).total_cmp(&val(a)));
            left = round.iter().filter_map(|s| Some(s.as_ref().ok()?.setting.clone())).collect();
            earlier.extend(round);
        }
        self.close("checkpoint", Vec::new(), earlier)
    }

    /// The best of `settings`, in the order of the grid, of equally good ones the first.
    fn screen(&mut self, name: &str, settings: Vec<Setting>) -> Result<Vec<Setting>> {
        let keep = screened(settings.len());
        if keep == settings.len() {
            return Ok(settings);
        }
        let judged = proxies::screen(self.shop, self.class, self.generator, name, &settings)?;
        let mut ranked = Vec::new();
        for (i, judged) in judged.into_iter().enumerate() {
            match judged {
                Ok(judged) => ranked.push((i, judged)),
                Err(impossible) => self.unfit.push(impossible),
            }
        }
        let mut best: Vec<_> = ranked.iter().map(|(i, judged)| (judged.accuracy, *i)).collect();
        best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        best.truncate(keep);
        best.sort_by_key(|&(_, i)| i);
        for (accuracy, i) in &best {
            self.shop.session.bars.say(&format!(
                "           {name} search goes on with {} (closed form {:.2} %)",
                settings[*i],
                100.0 * accuracy
            ));
        }
        self.screened = ranked.into_iter().map(|(_, judged)| judged).collect();
        Ok(best.into_iter().map(|(_, i)| settings[i].clone()).collect())
    }

    /// The best of settings that lie on a line: all of them, or, where the search is to be cheap, those that it screens. Soft labels
    /// make of a set what a classifier of the plain images cannot see: of students that learn them, those that a bisection on the
    /// sign of the slope passes, which finds the peak of a score that rises and then falls.
    fn line(&mut self, name: &str, settings: Vec<Setting>) -> Result<Student> {
        if self.strategy == Strategy::Grid {
            let settings = settings.into_iter().map(|s| Setting { epochs: None, ..s }).collect();
            let trials = self.train(name, settings)?;
            return self.close(name, trials, Vec::new());
        }
        if settings.iter().all(|s| s.distill.is_none()) {
            let left = self.screen(name, settings)?;
            let short = left.into_iter().map(|s| Setting { epochs: Some(self.short), ..s }).collect();
            let trials = self.train(name, short)?;
            return self.close(name, trials, Vec::new());
        }
        let epochs = Some(self.short);
        let settings: Vec<_> = settings.into_iter().map(|s| Setting { epochs, ..s }).collect();
        let mut known: BTreeMap<usize, Attempt> = BTreeMap::new();
        let (mut low, mut high) = (0, settings.len().saturating_sub(1));
        loop {
            let middle = (low + high) / 2;
            let next = (middle + 1).min(high);
            let missing: Vec<usize> = (middle..=next).filter(|i| !known.contains_key(i)).collect();
            let trained = self.train(name, missing.iter().map(|&i| settings[i].clone()).collect())?;
            known.extend(missing.into_iter().zip(trained));
            if low >= high {
                break;
            }
            // The first of equals, as everywhere; what cannot be trained is below all.
            let val = |i: usize| known[&i].as_ref().ok().map(|s| s.val);
            if val(middle) >= val(next) { high = middle } else { low = next }
        }
        self.close(name, known.into_values().collect(), Vec::new())
    }

    fn train(&mut self, name: &str, settings: Vec<Setting>) -> Result<Vec<Attempt>> {
        let trials = settings.into_iter().map(|setting| (format!("{name} search"), setting));
        let students = self.class.students(self.shop, self.generator, trials)?;
        for student in students.iter().flatten() {
            let record: TrialRecord = student.artifact.read_json(TRIAL)?;
            self.trained.insert(student.artifact.path().into(), record.epochs.len() as u64);
        }
        Ok(students)
    }

    /// Chooses among `trials`, and writes them down with the `others`.
    fn close(&mut self, name: &str, trials: Vec<Attempt>, others: Vec<Attempt>) -> Result<Student> {
        let failed = |all: &[Attempt]| all.iter().filter_map(|s| s.as_ref().err().cloned()).collect::<Vec<_>>();
        let impossible = [std::mem::take(&mut self.unfit), failed(&trials), failed(&others)].concat();
        let screened = std::mem::take(&mut self.screened);
        let [trials, others] = [trials, others].map(|all| all.into_iter().flatten().collect::<Vec<Student>>());
        let scores = trials.iter().enumerate().map(|(i, s)| (i, s.val));
        let Some((chosen, val)) = select(scores) else {
            return Err(match impossible.into_iter().next() {
                Some(first) => Error::from(first).context(format!("the {name} search found nothing possible")),
                None => Error::msg(format!("the {name} search has nothing to try")),
            });
        };
        self.shop.session.bars.say(&format!(
            "           {name} search chose {} (val {:.2} %)",
            trials[chosen].setting,
            100.0 * val.accuracy()
        ));
        let tried = |s: &Student| Tried { setting: s.setting.clone(), val: s.val, artifact: folder(&s.artifact) };
        let best = trials[chosen].clone();
        let trials = trials.iter().chain(&others).map(tried).collect();
        let (generator, strategy, name) = (self.generator, self.strategy, name.into());
        self.steps.push(Step { generator, strategy, name, trials, chosen, screened, impossible });
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_not_chosen_again() {
        let tried = |right| Tried {
            setting: Setting::plain(1),
            val: serde_json::from_value(serde_json::json!(right)).unwrap(),
            artifact: String::new(),
        };
        let mut step = Step {
            generator: 0,
            strategy: Strategy::Grid,
            name: THRESHOLD.into(),
            trials: [0.5, 0.9, 0.7, 0.9].map(tried).into(),
            chosen: 1,
            screened: Vec::new(),
            impossible: Vec::new(),
        };
        let order: Vec<usize> = [&[][..], &[1], &[1, 3], &[1, 3, 2]]
            .iter()
            .map(|failed| {
                step.choose_but(failed).unwrap();
                step.chosen
            })
            .collect();
        assert_eq!(order, [1, 3, 2, 0]);
        assert!(step.choose_but(&[0, 1, 2, 3]).is_none());
        assert_eq!(step.chosen, 0);
    }
}

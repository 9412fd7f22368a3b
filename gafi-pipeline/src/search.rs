//! GaFi's search, in the paper's order: checkpoint, then expansion, then threshold. It sees validation scores only.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Error, Result};
use gafi_core::{TRIAL_FILE, TrialRecord, ValScore, select_best};
use gafi_expand::StdRange;
use gafi_recycle::Renewal;
use serde::{Deserialize, Serialize};

use crate::config::{PipelineConfig, Strategy};
use crate::screen::{self, Screened};
use crate::setting::{Infeasible, Setting};
use crate::students::{Attempt, Classroom, Student, folder};
use crate::workshop::Workshop;

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
    /// Rounds over the checkpoints: how many are trained, and for how many epochs. None where the closed form leaves one.
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
        while left > 1 {
            rounds.push((left, length));
            left = left.div_ceil(ETA);
            length = (length * ETA as u32).min(longest);
        }
        // A bisection looks at two neighbours a round.
        let line = |n: usize| n.min(2 * (n.max(1).ilog2() as usize + 1));
        let thresholds = Some(screened(config.search.thresholds.len())).filter(|&left| left > 1);
        let line_trainings = line(config.search.stds.len()) + thresholds.unwrap_or(0);
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

/// What the closed form leaves of a grid of so many settings.
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
    /// Validation accuracy of the chosen trial, in [0, 1]; where the last step trained no student, of the last that was chosen.
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
    /// The chosen trial, as an index into `trials`; into `screened` where there are no trials.
    pub chosen: usize,
    /// What a cheap search asked first, without students: every setting of the grid. The best quarter became trials, or, if that was one
    /// setting, was chosen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub screened: Vec<Screened>,
    /// What could not be tried, because a class ran out of samples.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub impossible: Vec<Infeasible>,
}

impl Step {
    /// Chooses the best of the trials, or of what was screened where there are none, that is not among `failed`, if there is one.
    fn choose_but(&mut self, failed: &[usize]) -> Option<Found> {
        let left = |i: &usize| !failed.contains(i);
        if self.trials.is_empty() {
            self.chosen = best_first(&self.screened).into_iter().find(left)?;
            return Some(Found { setting: self.screened[self.chosen].setting.clone(), val: None });
        }
        let scores = self.trials.iter().map(|trial| trial.val).enumerate().filter(|(i, _)| left(i));
        let (chosen, val) = select_best(scores)?;
        self.chosen = chosen;
        Some(Found { setting: self.trials[chosen].setting.clone(), val: Some(val) })
    }
}

/// What a step chose.
struct Found {
    setting: Setting,
    /// Of its student, if one was trained.
    val: Option<ValScore>,
}

/// Indices, the highest accuracy first, of equal ones the first.
fn best_first(screened: &[Screened]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..screened.len()).collect();
    order.sort_by(|&a, &b| screened[b].accuracy.total_cmp(&screened[a].accuracy));
    order
}

/// Trains row `name`: the student of what `search` chose. It is renewed, so it asks for more samples than the trials did; where a
/// class runs out of them, the next best of the last of `steps` takes the place of what was chosen, if there is one that lasts.
///
/// # Errors
/// What a stage says.
pub(crate) fn settle(
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
        shop.host.log(&format!("           {name}: the next best is {}{}", next.setting, scored(next.val)));
        (search.chosen, search.val) = (Setting { epochs: None, ..next.setting }, next.val.unwrap_or(search.val));
    }
}

/// A score, for people.
fn scored(val: Option<ValScore>) -> String {
    val.map_or_else(String::new, |val| format!(" (val {:.2} %)", 100.0 * val.accuracy()))
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
    unfit: Vec<Infeasible>,
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
    /// What a trial says; [`Infeasible`] where a step has nothing else.
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
        let val = [threshold.val, expansion.val, checkpoint.val].into_iter().flatten().next();
        let val = val.context("the search trained no student")?;
        let chosen = Setting { epochs: None, ..threshold.setting };
        Ok((Search { generator, strategy, trainings, epochs, closed_form, chosen, val }, self.steps))
    }

    /// The best deviation of `stds` and threshold of `thresholds` from `base` on, where there are any to search.
    ///
    /// # Errors
    /// What a trial says; [`Infeasible`] where none of them can be trained.
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

    fn expansion(&mut self, name: &str, base: &Setting, stds: &[StdRange]) -> Result<Found> {
        let mut stds = stds.to_vec();
        stds.sort_by(|a, b| a.bounds().0.total_cmp(&b.bounds().0).then(a.bounds().1.total_cmp(&b.bounds().1)));
        let settings = stds.iter().map(|&std| Setting { std, ..base.clone() }).collect();
        self.line(name, settings)
    }

    fn threshold(&mut self, name: &str, base: &Setting, thresholds: &[f64]) -> Result<Found> {
        let mut thresholds = thresholds.to_vec();
        thresholds.sort_by(f64::total_cmp);
        let settings: Vec<_> = thresholds.iter().map(|&t| Setting { threshold: Some(t), ..base.clone() }).collect();
        // A classifier of the plain images does not see what soft labels make of them.
        if self.strategy == Strategy::Grid || base.distill.is_some() {
            return self.line(name, settings);
        }
        let mut left = self.screen(name, settings)?;
        if left.len() < 2 {
            return self.close(name, Vec::new(), Vec::new());
        }
        left.iter_mut().for_each(|s| s.epochs = Some(self.short));
        let trials = self.train(name, left)?;
        self.close(name, trials, Vec::new())
    }

    fn checkpoint(&mut self, mut left: Vec<Setting>) -> Result<Found> {
        if self.strategy == Strategy::Grid {
            let trials = self.train("checkpoint", left)?;
            return self.close("checkpoint", trials, Vec::new());
        }
        let (mut earlier, plan) = (Vec::new(), Halving::plan(left.len(), self.class.config));
        self.short = plan.line_epochs;
        left = self.screen("checkpoint", left)?;
        if left.len() < 2 {
            return self.close("checkpoint", Vec::new(), Vec::new());
        }
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

    /// The best quarter of `settings`, in the order of the grid, by classifiers in closed form. They order checkpoints and thresholds as
    /// students do; what wider latents are worth to a network they do not see (docs/log/results.md), so deviations are not asked about.
    fn screen(&mut self, name: &str, settings: Vec<Setting>) -> Result<Vec<Setting>> {
        // What is said of a set holds for students of any length.
        let settings: Vec<_> = settings.into_iter().map(|s| Setting { epochs: None, ..s }).collect();
        let keep = screened(settings.len());
        for judged in screen::screen(self.shop, self.class, self.generator, name, &settings)? {
            match judged {
                Ok(judged) => self.screened.push(judged),
                Err(impossible) => self.unfit.push(impossible),
            }
        }
        let mut best = best_first(&self.screened);
        best.truncate(keep);
        best.sort_unstable();
        Ok(best.into_iter().map(|i| self.screened[i].setting.clone()).collect())
    }

    /// The best of settings that lie on a line: all of them, or, where the search is to be cheap, those that a bisection on the sign of
    /// the slope passes, which finds the peak of a score that rises and then falls.
    fn line(&mut self, name: &str, settings: Vec<Setting>) -> Result<Found> {
        if self.strategy == Strategy::Grid {
            let settings = settings.into_iter().map(|s| Setting { epochs: None, ..s }).collect();
            let trials = self.train(name, settings)?;
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
            let record: TrialRecord = student.artifact.read_json(TRIAL_FILE)?;
            self.trained.insert(student.artifact.path().into(), record.epochs.len() as u64);
        }
        Ok(students)
    }

    /// Chooses among `trials`, or, if there are none, among what was screened, and writes it down with the `others`.
    fn close(&mut self, name: &str, trials: Vec<Attempt>, others: Vec<Attempt>) -> Result<Found> {
        let failed = |all: &[Attempt]| all.iter().filter_map(|s| s.as_ref().err().cloned()).collect::<Vec<_>>();
        let impossible = [std::mem::take(&mut self.unfit), failed(&trials), failed(&others)].concat();
        let screened = std::mem::take(&mut self.screened);
        let nothing = |impossible: &[Infeasible]| match impossible.first() {
            Some(first) => Error::from(first.clone()).context(format!("the {name} search found nothing possible")),
            None => Error::msg(format!("the {name} search has nothing to try")),
        };
        let tried = |s: Student| Tried { setting: s.setting, val: s.val, artifact: folder(&s.artifact) };
        let trained = !trials.is_empty() || !others.is_empty();
        let trials: Vec<Tried> = trials.into_iter().flatten().map(tried).collect();
        // Students were trained, and none of those that may be chosen is there.
        if trials.is_empty() && trained {
            return Err(nothing(&impossible));
        }
        let (generator, strategy) = (self.generator, self.strategy);
        let mut step = Step { generator, strategy, name: name.into(), trials, chosen: 0, screened, impossible };
        let Some(found) = step.choose_but(&[]) else { return Err(nothing(&step.impossible)) };
        step.trials.extend(others.into_iter().flatten().map(tried));
        let how = match found.val {
            None => format!(" (closed form {:.2} %)", 100.0 * step.screened[step.chosen].accuracy),
            val => scored(val),
        };
        self.shop.host.log(&format!("           {name} search chose {}{how}", found.setting));
        self.steps.push(step);
        Ok(found)
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
        // Without students, what was asked in closed form is chosen from.
        let asked = |accuracy| Screened { setting: Setting::plain(1), accuracy };
        step = Step { trials: Vec::new(), screened: [0.5, 0.9, 0.7, 0.9].map(asked).into(), ..step };
        for (failed, chosen) in [(&[][..], 1), (&[1], 3), (&[1, 3], 2)] {
            assert!(step.choose_but(failed).unwrap().val.is_none());
            assert_eq!(step.chosen, chosen);
        }
    }

    #[test]
    fn a_cheap_search_takes_a_fifth_at_most() {
        let plan = |name: &str, checkpoints: usize| {
            let tree = crate::preset(Some(name)).unwrap();
            let config: PipelineConfig = serde_json::from_value(tree).unwrap();
            let grid = grid_trainings(checkpoints, &config) as u64 * u64::from(config.student.epochs);
            let plan = Halving::plan(checkpoints, &config);
            assert!(plan.epochs() * PART <= grid, "{name}: {plan:?}");
            plan
        };
        // Checkpoints and thresholds without students, three deviations at less than half of the length.
        assert_eq!(plan("cpu", 3), Halving { rounds: vec![], line_trainings: 3, line_epochs: 7 });
        let paper = plan("paper-cifar10", 36);
        assert_eq!(paper.rounds.iter().map(|round| round.0).collect::<Vec<_>>(), [9, 3]);
        assert_eq!(paper.line_trainings, 10 + 3);
    }
}

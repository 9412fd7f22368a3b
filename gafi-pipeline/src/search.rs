//! Runs the steps of a search: checkpoint, then std, then threshold. It sees only validation scores.

use std::collections::BTreeMap;

use anyhow::{Error, Result};
use gafi_core::{ValScore, select_best};

use crate::names::SearchId;
use crate::record::{Screened, SearchRecord, Step, Trial};
use crate::runner::StageRunner;
use crate::schedule::{Method, Round, RowTemplate, StepTemplate};
use crate::screen::screen;
use crate::setting::{Infeasible, Setting};
use crate::trial::{Student, TrialContext, TrialResult};

/// A step's chosen setting, and the score of its student, if one was trained.
#[derive(Debug)]
struct Choice {
    index: usize,
    setting: Setting,
    val: Option<ValScore>,
}

/// What a step tried.
#[derive(Default)]
struct Tried {
    /// Students that may be chosen.
    candidates: Vec<TrialResult>,
    /// Students of earlier, shorter rounds, whose scores are not comparable.
    earlier: Vec<TrialResult>,
    screened: Vec<Screened>,
    infeasible: Vec<Infeasible>,
}

/// Runs a search that starts from `base`, and records it.
///
/// # Errors
/// The first error of a stage; [`Infeasible`] when every setting of a step is.
pub(crate) fn run_search(
    runner: &mut StageRunner,
    context: &TrialContext,
    search: &SearchId,
    steps: &[&StepTemplate],
    base: Setting,
) -> Result<()> {
    runner.record.searches.push(SearchRecord::new(search));
    let mut search = Search { runner, context, generator: search.generator };
    let mut setting = base;
    for step in steps {
        setting = search.step(step, &setting)?;
    }
    search.record().chosen = Some(Setting { epochs: None, ..setting });
    search.runner.save()
}

struct Search<'a, 'r> {
    runner: &'a mut StageRunner<'r>,
    context: &'a TrialContext<'a>,
    generator: usize,
}

impl Search<'_, '_> {
    /// The newest record, which is this search's.
    fn record(&mut self) -> &mut SearchRecord {
        let last = self.runner.record.searches.len() - 1;
        &mut self.runner.record.searches[last]
    }

    /// Runs a step, and returns its choice.
    fn step(&mut self, step: &StepTemplate, base: &Setting) -> Result<Setting> {
        let name = step.name();
        let settings = step.grid.settings(base);
        let mut tried = Tried::default();
        match &step.method {
            Method::Full => tried.candidates = self.train(&name, settings)?,
            Method::Bisect { epochs } => tried.candidates = self.bisect(&name, shortened(settings, *epochs))?,
            Method::Screen { keep, rounds } => tried = self.screen(&name, settings, *keep, rounds)?,
        }
        self.close(step, &name, tried)
    }

    fn train(&mut self, name: &str, settings: Vec<Setting>) -> Result<Vec<TrialResult>> {
        let trials = settings.into_iter().map(|setting| (format!("{name} search"), setting));
        self.context.train(self.runner, self.generator, trials)
    }

    /// Bisects the sorted settings: trains two neighbours, moves towards the better one, and repeats. This finds the peak of a
    /// score that rises, then falls.
    fn bisect(&mut self, name: &str, settings: Vec<Setting>) -> Result<Vec<TrialResult>> {
        let mut known: BTreeMap<usize, TrialResult> = BTreeMap::new();
        let mut low = 0;
        let mut high = settings.len().saturating_sub(1);
        loop {
            let middle = (low + high) / 2;
            let next = (middle + 1).min(high);
            let missing: Vec<usize> = (middle..=next).filter(|i| !known.contains_key(i)).collect();
            let trained = self.train(name, missing.iter().map(|&i| settings[i].clone()).collect())?;
            known.extend(missing.into_iter().zip(trained));
            if low >= high {
                return Ok(known.into_values().collect());
            }
            // Ties go to the first, as everywhere; an infeasible setting is below all others.
            let val = |i: usize| known[&i].as_ref().ok().map(|student| student.val);
            if val(middle) >= val(next) { high = middle } else { low = next }
        }
    }

    /// Screens `settings`, then trains rounds of students on the best `keep`. Only settings of the last round can be
    /// chosen.
    fn screen(&mut self, name: &str, settings: Vec<Setting>, keep: usize, rounds: &[Round]) -> Result<Tried> {
        let mut tried = Tried::default();
        for result in screen(self.runner, self.context, self.generator, name, &settings)? {
            match result {
                Ok(screened) => tried.screened.push(screened),
                Err(infeasible) => tried.infeasible.push(infeasible),
            }
        }
        let mut best = best_first(&tried.screened);
        best.truncate(keep);
        best.sort_unstable();
        let mut left: Vec<Setting> = best.into_iter().map(|i| tried.screened[i].setting.clone()).collect();
        if left.len() < 2 {
            return Ok(tried);
        }
        for &Round { students, epochs } in rounds {
            tried.earlier.append(&mut tried.candidates);
            left.truncate(students);
            tried.candidates = self.train(name, shortened(left, epochs))?;
            // The sort is stable, so ties go to the first, as everywhere.
            let val = |result: &TrialResult| result.as_ref().map_or(f64::NEG_INFINITY, |s| s.val.accuracy());
            let mut ranked: Vec<&TrialResult> = tried.candidates.iter().collect();
            ranked.sort_by(|a, b| val(b).total_cmp(&val(a)));
            left = ranked.into_iter().flatten().map(|student| student.setting.clone()).collect();
        }
        Ok(tried)
    }

    /// Chooses among the candidates or, if there are none, among the screened settings, and records the step.
    fn close(&mut self, template: &StepTemplate, name: &str, tried: Tried) -> Result<Setting> {
        let Tried { candidates, earlier, screened, mut infeasible } = tried;
        let trained = !candidates.is_empty() || !earlier.is_empty();
        infeasible.extend([&candidates, &earlier].into_iter().flatten().filter_map(|t| t.as_ref().err().cloned()));
        let trial = |Student { setting, artifact, val, epochs, .. }| Trial { setting, val, epochs, artifact };
        let trials: Vec<Trial> = candidates.into_iter().flatten().map(trial).collect();
        let mut step = Step { kind: template.grid.kind(), trials, chosen: 0, screened, infeasible };
        // If students were trained and all candidates are infeasible, screened settings are no substitute.
        let choice = if trained && step.trials.is_empty() { None } else { choose(&step, &[]) };
        let Some(choice) = choice else {
            return Err(match step.infeasible.first() {
                Some(first) => {
                    Error::from(first.clone()).context(format!("every setting of the {name} search is infeasible"))
                }
                None => Error::msg(format!("the {name} search has no settings")),
            });
        };
        step.chosen = choice.index;
        let score = match choice.val {
            None => format!(" (closed form {:.2} %)", 100.0 * step.screened[step.chosen].accuracy),
            val => scored(val),
        };
        step.trials.extend(earlier.into_iter().flatten().map(trial));
        let record = self.record();
        record.closed_form += step.screened.len();
        record.val = choice.val.or(record.val);
        record.steps.push(step);
        record.count_trainings();
        self.runner.remark(&format!("{name} search chose {}{score}", choice.setting));
        self.runner.save()?;
        Ok(choice.setting)
    }
}

fn shortened(settings: Vec<Setting>, epochs: u32) -> Vec<Setting> {
    settings.into_iter().map(|setting| Setting { epochs: Some(epochs), ..setting }).collect()
}

/// The best of a step's trials or, without trials, of its screened settings, leaving out the `failed` ones.
fn choose(step: &Step, failed: &[usize]) -> Option<Choice> {
    let open = |i: &usize| !failed.contains(i);
    if step.trials.is_empty() {
        let index = best_first(&step.screened).into_iter().find(open)?;
        return Some(Choice { index, setting: step.screened[index].setting.clone(), val: None });
    }
    let scores = step.trials.iter().map(|trial| trial.val).enumerate().filter(|(i, _)| open(i));
    let (index, val) = select_best(scores)?;
    Some(Choice { index, setting: step.trials[index].setting.clone(), val: Some(val) })
}

/// Indices by descending accuracy; ties in order.
fn best_first(screened: &[Screened]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..screened.len()).collect();
    order.sort_by(|&a, &b| screened[b].accuracy.total_cmp(&screened[a].accuracy));
    order
}

/// Trains the student of `row` under the setting that a search chose, with its set renewed. That takes more samples than a trial
/// did, so a class may run out. Then the next best setting of the search's last step that is feasible replaces the chosen one.
///
/// # Errors
/// The first error of a stage.
pub(crate) fn train_with_fallback(runner: &mut StageRunner, context: &TrialContext, row: &RowTemplate) -> Result<()> {
    let search = &row.chosen_by[0];
    let Some(at) = runner.record.searches.iter().position(|record| record.is(search)) else { return Ok(()) };
    let first = runner.record.searches[at].clone();
    let Some(mut chosen) = first.chosen.clone() else { return Ok(()) };
    let mut failed = Vec::new();
    loop {
        let setting = row.template.apply(&chosen);
        let results = context.train(runner, search.generator, [(row.name.clone(), setting)])?;
        let Some(Err(infeasible)) = results.into_iter().next() else { return Ok(()) };
        let record = &mut runner.record.searches[at];
        let Some(step) = record.steps.last_mut() else { return Ok(()) };
        step.infeasible.push(infeasible);
        failed.push(step.chosen);
        let Some(next) = choose(step, &failed) else {
            // None works. The first choice stands, and its row is recorded as infeasible.
            if let Some(last) = first.steps.last() {
                step.chosen = last.chosen;
            }
            record.chosen = first.chosen;
            record.val = first.val;
            return Ok(());
        };
        step.chosen = next.index;
        chosen = Setting { epochs: None, ..next.setting };
        record.chosen = Some(chosen.clone());
        record.val = next.val.or(record.val);
        runner.remark(&format!("{}: the next best is {chosen}{}", row.name, scored(next.val)));
    }
}

fn scored(val: Option<ValScore>) -> String {
    val.map_or_else(String::new, |val| format!(" (val {:.2} %)", 100.0 * val.accuracy()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ArtifactRef, StepKind};

    #[test]
    fn failed_trials_are_never_chosen() {
        let trial = |accuracy: f64| Trial {
            setting: Setting::plain(1),
            val: serde_json::from_value(serde_json::json!(accuracy)).unwrap(),
            epochs: 1,
            artifact: ArtifactRef { path: String::new(), id: String::new() },
        };
        let trials = [0.5, 0.9, 0.7, 0.9].map(trial).into();
        let kind = StepKind::Threshold;
        let mut step = Step { kind, trials, chosen: 1, screened: Vec::new(), infeasible: Vec::new() };
        for (failed, chosen) in [(&[][..], 1), (&[1], 3), (&[1, 3], 2), (&[1, 3, 2], 0)] {
            assert_eq!(choose(&step, failed).unwrap().index, chosen);
        }
        assert!(choose(&step, &[0, 1, 2, 3]).is_none());
        // A step without students chooses a screened setting.
        let screened = |accuracy| Screened { setting: Setting::plain(1), accuracy };
        step = Step { trials: Vec::new(), screened: [0.5, 0.9, 0.7, 0.9].map(screened).into(), ..step };
        for (failed, chosen) in [(&[][..], 1), (&[1], 3), (&[1, 3], 2)] {
            let choice = choose(&step, failed).unwrap();
            assert!(choice.val.is_none());
            assert_eq!(choice.index, chosen);
        }
    }
}

//! What a pipeline will come to, told before anything runs: trainings and epochs by part, for `--dry-run`.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::config::{PipelineConfig, Strategy};
use super::search::{Halving, grid_trainings};

/// One part of the work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is, for people.
    pub name: String,
    /// Classifiers or GANs trained; at the most, for a search that stops when it knows.
    pub trainings: usize,
    /// Epochs of all of them together; of GANs, steps where the configuration gives steps.
    pub epochs: u64,
}

/// The trainings of a pipeline. Trials that are equal are counted once within a search; a row may find itself trained by the
/// search already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In the order of the run.
    pub parts: Vec<Part>,
    /// Students of one generator under the paper's protocol, its final student included: the search by grid.
    pub grid_trainings: usize,
    /// The same by halving, at the most.
    pub halving_trainings: usize,
    /// Images of each class in a synthetic set; null: as many as the smallest real class has.
    pub per_class: Option<u64>,
}

impl Plan {
    /// The plan of a configuration that was checked.
    pub fn of(config: &PipelineConfig) -> Self {
        let epochs = u64::from(config.student.epochs);
        let checkpoints = checkpoints(config);
        let mut parts = vec![Part { name: "teacher".into(), trainings: 1, epochs: config.teacher.epochs.into() }];
        let gans = config.generators as u64;
        let (what, each) = config.gan.steps.map_or(("epochs", config.gan.epochs), |steps| ("steps", steps));
        parts.push(Part { name: format!("GAN ({what})"), trainings: config.generators, epochs: gans * each });
        parts.push(Part { name: "real reference".into(), trainings: 1, epochs });
        let plans = std::iter::once((0, config.search.strategy))
            .chain(config.search.compare.iter().map(|&s| (0, s)))
            .chain((1..config.generators).map(|g| (g, config.search.strategy)));
        for (generator, strategy) in plans {
            let (trainings, epochs) = search(config, checkpoints, strategy);
            let how = match strategy {
                Strategy::Grid => "grid",
                Strategy::Halving => "halving, at the most",
            };
            parts.push(Part { name: format!("search of generator {} ({how})", generator + 1), trainings, epochs });
        }
        let finals = config.rows.len() + 1 + config.search.compare.len();
        let both = if config.generators > 1 { 2 } else { 0 };
        let trainings = finals + both;
        parts.push(Part { name: "rows".into(), trainings, epochs: trainings as u64 * epochs });
        for variant in &config.variants {
            let searched = variant.stds.len() + if variant.filter { variant.thresholds.len() } else { 0 };
            let name = format!("variant {}", variant.name);
            parts.push(Part { name, trainings: searched + 1, epochs: (searched + 1) as u64 * epochs });
        }
        Self {
            parts,
            grid_trainings: search(config, checkpoints, Strategy::Grid).0 + 1,
            halving_trainings: search(config, checkpoints, Strategy::Halving).0 + 1,
            per_class: config.per_class,
        }
    }
}

/// Checkpoints that the search will find.
fn checkpoints(config: &PipelineConfig) -> usize {
    let (gan, asked) = (&config.gan, &config.search.checkpoints);
    if !asked.is_empty() {
        return asked.len();
    }
    if !gan.checkpoints.is_empty() {
        // Those beyond the last step never come, and the last step is always one.
        let within = gan.checkpoints.iter().copied().filter(|&c| gan.steps.is_none_or(|steps| c <= steps));
        return within.chain(gan.steps).collect::<BTreeSet<u64>>().len();
    }
    match (gan.steps, gan.checkpoint_every) {
        (Some(steps), Some(every)) => steps.div_ceil(every.max(1)) as usize,
        (Some(_), None) => 1,
        (None, _) => {
            let span = gan.epochs.saturating_sub(gan.checkpoint_from_epoch);
            (span / gan.checkpoint_every_epochs.max(1) + 1) as usize
        }
    }
}

/// Students and epochs of a search.
fn search(config: &PipelineConfig, checkpoints: usize, strategy: Strategy) -> (usize, u64) {
    match strategy {
        Strategy::Grid => {
            let trainings = grid_trainings(checkpoints, config);
            (trainings, trainings as u64 * u64::from(config.student.epochs))
        }
        Strategy::Halving => {
            let plan = Halving::plan(checkpoints, config);
            (plan.trainings(), plan.epochs())
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Part { name, trainings, epochs } in &self.parts {
            writeln!(f, "# {trainings:5} trainings, {epochs:8} epochs: {name}")?;
        }
        writeln!(
            f,
            "# Students a generator, the final one included: {} by grid, at most {} by halving",
            self.grid_trainings, self.halving_trainings
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::preset;

    fn plan(name: &str) -> Plan {
        let config: PipelineConfig = serde_json::from_value(preset(Some(name)).unwrap()).unwrap();
        config.check().unwrap();
        Plan::of(&config)
    }

    #[test]
    fn a_cifar_generator_takes_the_papers_number_of_trainings() {
        let plan = plan("paper-cifar10");
        // 36 checkpoints, 21 deviations, 10 thresholds, two of them the same as before, and the final student.
        assert_eq!(plan.grid_trainings, 36 + 21 + 10 - 2 + 1);
        let search = |what: &str| plan.parts.iter().find(|p| p.name.contains(what)).unwrap().clone();
        assert_eq!(search("generator 1 (grid").epochs, 6500);
        assert_eq!(search("GAN").trainings, 3);
    }

    #[test]
    fn halving_plans_at_most_a_fifth_of_the_grids_epochs() {
        for name in ["paper-cifar10", "paper-cifar100", "paper-fashion-mnist", "cpu"] {
            let config: PipelineConfig = serde_json::from_value(preset(Some(name)).unwrap()).unwrap();
            let n = checkpoints(&config);
            let (grid, halving) = (search(&config, n, Strategy::Grid).1, search(&config, n, Strategy::Halving).1);
            assert!(5 * halving <= grid, "{name}: {halving} of {grid}");
        }
    }

    #[test]
    fn every_preset_is_a_configuration() {
        for (name, _) in crate::pipeline::PRESETS {
            assert!(!plan(name).parts.is_empty());
        }
    }
}

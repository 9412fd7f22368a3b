//! What a pipeline will come to, told before anything runs: trainings and epochs by part, for `--dry-run`.

use std::fmt;

use gafi_gan::Length;
use gafi_recycle::Renewal;
use serde::Serialize;

use crate::config::{PipelineConfig, Strategy};
use crate::estimate::{Costs, Scene};
use crate::run::reference_name;
use crate::search::{Halving, grid_trainings};
use crate::students::take_turns;

/// One part of the work.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// What it is, for people.
    pub name: String,
    /// Classifiers or GANs trained; at the most, for a search that stops when it knows.
    pub trainings: usize,
    /// Epochs of all of them together; of GANs, steps where the configuration gives steps.
    pub epochs: u64,
    /// Which of the two.
    pub unit: Unit,
    /// Seconds that it will take, if that was estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_s: Option<f64>,
    #[serde(skip)]
    work: Work,
}

/// What a part spends its time on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Work {
    Teacher,
    Gan,
    /// A reference: real images, as a multiple of the usual set.
    Real {
        times: u32,
    },
    /// Students: sets of samples drawn in all, and the size of one as a multiple of the usual.
    Students {
        sets: u64,
        times: u32,
    },
}

impl Part {
    fn new(name: impl Into<String>, trainings: usize, epochs: u64, work: Work) -> Self {
        Self { name: name.into(), trainings, epochs, unit: Unit::Epochs, estimated_s: None, work }
    }
}

/// What the length of a training is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Passes over its images.
    Epochs,
    /// Updates of a GAN's generator.
    Steps,
}

impl Unit {
    fn of(self, n: u64) -> String {
        match self {
            Self::Epochs => counted(n, "epoch"),
            Self::Steps => counted(n, "step"),
        }
    }
}

fn counted(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The trainings of a pipeline. Trials that are equal are counted once within a search; a row may find itself trained by the
/// search already.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// In the order of the run.
    pub parts: Vec<Part>,
    /// Students of one generator under the paper's protocol, its final student included: the search by grid.
    pub grid_trainings: usize,
    /// The same by halving, at the most.
    pub halving_trainings: usize,
    /// Images of each class in a synthetic set; null: as many as the smallest real class has.
    pub per_class: Option<u64>,
    /// What things cost on this device, if that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs: Option<Costs>,
}

impl Plan {
    /// The plan of a configuration that was checked.
    pub fn of(config: &PipelineConfig) -> Self {
        let epochs = u64::from(config.student.epochs);
        let checkpoints = checkpoints(config);
        let mut parts = vec![Part::new("teacher", 1, config.teacher.epochs.into(), Work::Teacher)];
        // Sets of samples that so many students of so many epochs draw.
        let sets = |students: usize, each: u64, renewal: Option<Renewal>| {
            let renewed = renewal.map_or(0, |r| each.saturating_sub(1) / u64::from(r.period.max(1)));
            students as u64 * (1 + renewed)
        };
        let to_train = if config.trained_generators.is_empty() { config.generators } else { 0 };
        let gans = to_train as u64;
        let (unit, each) = match config.gan.length {
            Length::Steps(steps) => (Unit::Steps, steps),
            Length::Epochs(epochs) => (Unit::Epochs, epochs),
        };
        parts.push(Part { unit, ..Part::new("GAN", to_train, gans * each, Work::Gan) });
        // As many steps in more epochs where there are too few images.
        for times in std::iter::once(1).chain(config.larger_sets()) {
            parts.push(Part::new(reference_name(times), 1, epochs, Work::Real { times }));
        }
        let plans = std::iter::once((0, config.search.strategy))
            .chain(config.search.compare.iter().map(|&s| (0, s)))
            .chain((1..config.generator_count()).map(|g| (g, config.search.strategy)));
        for (generator, strategy) in plans {
            let (trainings, epochs) = search(config, checkpoints, strategy);
            let how = match strategy {
                Strategy::Grid => "grid",
                Strategy::Halving => "halving, at the most",
            };
            let each = epochs / (trainings as u64).max(1);
            // Halving draws a set for every checkpoint and threshold before it trains any.
            let screened = match strategy {
                Strategy::Grid => 0,
                Strategy::Halving => checkpoints + config.search.thresholds.len(),
            };
            let sets = sets(trainings, each, Some(config.search.recycle)) + screened as u64;
            let work = Work::Students { sets, times: 1 };
            parts.push(Part::new(format!("search of generator {} ({how})", generator + 1), trainings, epochs, work));
        }
        let finals = config.rows.len() + 1 + config.search.compare.len();
        let of_all = match config.generator_count() {
            1 => 0,
            several => 1 + usize::from(take_turns(several, Some(config.recycle), config.student.epochs)),
        };
        let trainings = finals + of_all;
        let stay = config.rows.iter().filter(|row| !row.techniques().2).count();
        let drawn = sets(stay, epochs, None) + sets(trainings - stay, epochs, Some(config.recycle));
        let work = Work::Students { sets: drawn, times: 1 };
        parts.push(Part::new("rows", trainings, trainings as u64 * epochs, work));
        for variant in &config.variants {
            let searched = variant.stds.len() + if variant.filter { variant.thresholds.len() } else { 0 };
            let name = format!("variant {}", variant.name);
            let work = Work::Students { sets: sets(searched, epochs, Some(config.search.recycle)), times: 1 };
            if searched > 0 {
                parts.push(Part::new(format!("{name}: search"), searched, searched as u64 * epochs, work));
            }
            let work = Work::Students { sets: sets(1, epochs, Some(config.recycle)), times: variant.times };
            parts.push(Part::new(name, 1, epochs, work));
        }
        Self {
            parts,
            grid_trainings: search(config, checkpoints, Strategy::Grid).0 + 1,
            halving_trainings: search(config, checkpoints, Strategy::Halving).0 + 1,
            per_class: config.per_class,
            costs: None,
        }
    }

    /// Puts times to it: what `costs` come to on the images of `scene`, trainings one after the other. A filter that rejects much
    /// takes longer, trainings that turn out equal take nothing.
    pub fn estimate(&mut self, config: &PipelineConfig, scene: &Scene, costs: Costs) {
        let (rows, val) = (scene.train.rows() as f64, scene.val as f64);
        let smallest = scene.train.counts.iter().copied().min().unwrap_or(0);
        let set = (config.per_class.unwrap_or(smallest) * scene.train.classes.len() as u64) as f64;
        for part in &mut self.parts {
            let epochs = part.epochs as f64;
            let student = |set: f64| epochs * (set * costs.student_image_s + val * costs.student_judges_s);
            part.estimated_s = Some(match part.work {
                Work::Teacher => epochs * (rows * costs.teacher_image_s + val * costs.teacher_judges_s),
                Work::Gan => part.trainings as f64 * config.gan.schedule(rows as u64).steps as f64 * costs.gan_step_s,
                Work::Real { times } => student(set * f64::from(times)),
                Work::Students { sets, times } => {
                    let set = set * f64::from(times);
                    student(set) + sets as f64 * set * (costs.sample_s + costs.teacher_judges_s)
                }
            });
        }
        self.costs = Some(costs);
    }
}

/// So many seconds, for people.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    }
}

/// Number of checkpoints to search over.
fn checkpoints(config: &PipelineConfig) -> usize {
    match config.search.checkpoints.len() {
        // Exact unless length and interval have different units: an epoch's steps follow from the data, unknown here.
        0 => config.gan.schedule(config.gan.batch as u64).checkpoints.len(),
        listed => listed,
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
        for Part { name, trainings, epochs, unit, estimated_s, .. } in &self.parts {
            let time = estimated_s.map_or_else(String::new, |s| format!(", about {:>8}", duration(s)));
            let (trainings, length) = (counted(*trainings as u64, "training"), unit.of(*epochs));
            writeln!(f, "# {trainings:>15}, {length:>15}{time}: {name}")?;
        }
        if let Some(all) = self.parts.iter().map(|part| part.estimated_s).sum::<Option<f64>>() {
            let what = "one training after the other, from a measurement of some batches on this machine as it is now";
            writeln!(f, "# In all about {}: {what}", duration(all))?;
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
    use crate::preset;
    use gafi_core::{DatasetInfo, ImageSpec, Split};

    fn plan(name: &str) -> Plan {
        let mut config: PipelineConfig = serde_json::from_value(preset(Some(name)).unwrap()).unwrap();
        if config.data.set.is_none() {
            // Of a set without a name the preset does not know where it lies.
            assert_eq!(config.check().unwrap_err().to_string().matches("path").count(), 1);
            config.data.path = Some("images".into());
        }
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
        for name in ["paper-cifar10", "paper-cifar100", "paper-fashion-mnist", "paper-dermamnist", "cpu"] {
            let config: PipelineConfig = serde_json::from_value(preset(Some(name)).unwrap()).unwrap();
            let n = checkpoints(&config);
            let (grid, halving) = (search(&config, n, Strategy::Grid).1, search(&config, n, Strategy::Halving).1);
            assert!(5 * halving <= grid, "{name}: {halving} of {grid}");
        }
    }

    #[test]
    fn times_add_up() {
        let config: PipelineConfig = serde_json::from_value(preset(Some("smoke")).unwrap()).unwrap();
        let mut info = DatasetInfo::new(ImageSpec::new(1, 8, 8), vec!["a".into(), "b".into()], Split::Train);
        info.counts = vec![100, 60];
        let scene = Scene { train: info, val: 32 };
        let nothing = Costs {
            student_image_s: 0.0,
            teacher_image_s: 0.0,
            student_judges_s: 0.0,
            teacher_judges_s: 0.0,
            gan_step_s: 0.0,
            sample_s: 0.0,
        };
        let of = |costs: Costs, name: &str| -> f64 {
            let mut plan = Plan::of(&config);
            plan.estimate(&config, &scene, costs);
            plan.parts.iter().filter(|p| p.name.contains(name)).map(|p| p.estimated_s.unwrap()).sum()
        };
        // Two epochs of 160 images; two GANs of 40 steps; two epochs of 2 * 24 images.
        assert_eq!(of(Costs { teacher_image_s: 1.0, ..nothing }, "teacher"), 320.0);
        assert_eq!(of(Costs { gan_step_s: 1.0, ..nothing }, "GAN"), 80.0);
        // And the reference of a variant's set of twice the size.
        let learn = Costs { student_image_s: 1.0, student_judges_s: 1.0, ..nothing };
        assert_eq!(of(learn, "real"), 2.0 * (48.0 + 32.0) + 2.0 * (96.0 + 32.0));
        // The search renews nothing in two epochs; twice the images in two epochs, twice drawn by the final student.
        let grid = Plan::of(&config).parts.iter().find(|p| p.name.contains("1 (grid")).unwrap().trainings as f64;
        assert_eq!(of(Costs { sample_s: 1.0, ..nothing }, "1 (grid"), grid * 48.0);
        assert_eq!(of(Costs { sample_s: 1.0, ..nothing }, "variant doubled"), 2.0 * 96.0);
        assert_eq!([30.0, 600.0, 7200.0, 864_000.0].map(duration), ["30 s", "10 min", "2.0 h", "10.0 days"]);
    }

    #[test]
    fn every_preset_is_a_configuration() {
        for (name, _) in crate::PRESETS {
            assert!(!plan(name).parts.is_empty());
        }
    }
}

//! Tests of the schedule and its cost.

use super::*;
use crate::costs::Costs;
use crate::names::StepKind;
use crate::{overrides, preset};
use gafi_core::ImageSpec;

use halving::{SHARE, grid_trainings};

/// A preset with assignments, as on the command line.
fn config(name: &str, set: &[&str]) -> PipelineConfig {
    let mut tree = preset(Some(name)).unwrap();
    set.iter().for_each(|set| overrides::set(&mut tree, set).unwrap());
    serde_json::from_value(tree).unwrap()
}

fn data(train: Vec<u64>, val: u64) -> DataSummary {
    let classes = (0..train.len()).map(|class| class.to_string()).collect();
    DataSummary { name: "set".into(), image: ImageSpec::new(1, 8, 8), classes, train, val }
}

fn scheduled(config: &PipelineConfig, data: &DataSummary) -> Vec<Job> {
    schedule(config, data, &[]).unwrap()
}

fn steps(jobs: &[Job]) -> impl Iterator<Item = &StepTemplate> {
    jobs.iter().filter_map(|job| match &job.work {
        Work::SearchStep(step) => Some(step),
        _ => None,
    })
}

/// Trainings, steps and so on of the jobs whose ids start with `prefix`.
fn bound(jobs: &[Job], prefix: &str) -> CostBound {
    jobs.iter().filter(|job| job.id.starts_with(prefix)).map(|job| job.bound).sum()
}

#[test]
fn a_cifar_generator_takes_the_papers_number_of_trainings() {
    let jobs = scheduled(&config("paper-cifar10", &[]), &data(vec![4000; 10], 10_000));
    // 36 checkpoints, 21 stds, 10 thresholds, two of them equal to earlier settings.
    assert_eq!(bound(&jobs, "search-1-grid").trainings, 36 + 21 + 10 - 2);
    assert_eq!(bound(&jobs, "search-1-grid").epochs, 6500);
    assert_eq!(bound(&jobs, "generator").trainings, 3);
    assert_eq!(bound(&jobs, "generator").checkpoints, 3 * 36);
}

#[test]
fn the_search_tries_the_checkpoints_that_the_gan_writes() {
    let data = data(vec![640; 2], 32);
    for set in [
        "gan.length.steps=4000",
        "gan.checkpoints={ every = { steps = 500 } }",
        "gan.checkpoints=[7, 5000]",
        "gan.batch=32",
    ] {
        let config = config("paper-cifar10", &[set]);
        let written = config.gan.schedule(data.rows()).checkpoints;
        let jobs = scheduled(&config, &data);
        assert_eq!(steps(&jobs).next().unwrap().grid, Grid::Checkpoint(written.clone()), "{set}");
        assert_eq!(bound(&jobs, "search-1-grid-checkpoint").trainings, written.len() as u64, "{set}");
        assert_eq!(bound(&jobs, "generator").checkpoints, 3 * written.len() as u64, "{set}");
    }
}

#[test]
fn variants_search_with_students_as_long_as_the_main_searchs() {
    let config = config("cpu", &["search.strategy=halving", "search.compare=[]"]);
    let jobs = scheduled(&config, &data(vec![5000; 10], 4000));
    let methods: Vec<_> = steps(&jobs).filter(|step| step.grid.kind() == StepKind::Std).map(|s| &s.method).collect();
    assert_eq!(methods, [&Method::Bisect { epochs: 7 }; 3], "the main search and two variants");
    // Three stds at that length, and no student at full length.
    assert_eq!(bound(&jobs, "variant-soft").epochs, 3 * 7);
}

#[test]
fn a_strategy_is_not_compared_with_itself() {
    let config = config("cpu", &["search.strategy=halving", "search.compare=[\"halving\", \"grid\", \"grid\"]"]);
    let jobs = scheduled(&config, &data(vec![5000; 10], 4000));
    let searches: Vec<_> = jobs.iter().filter(|job| job.id.ends_with("-checkpoint")).map(|job| &job.id[..]).collect();
    assert_eq!(searches, ["search-1-halving-checkpoint", "search-1-grid-checkpoint"]);
}

#[test]
fn halving_costs_at_most_a_fifth_of_the_grids_epochs() {
    for name in ["paper-cifar10", "paper-cifar100", "paper-fashion-mnist", "paper-dermamnist", "cpu"] {
        let config = config(name, &["search.strategy=halving", "search.compare=[]", "generators=1"]);
        let jobs = scheduled(&config, &data(vec![4000; 10], 4000));
        let checkpoints = config.gan.schedule(40_000).checkpoints.len();
        let grid = grid_trainings(checkpoints, &config) * u64::from(config.student.epochs);
        let halving = bound(&jobs, "search-1-halving").epochs;
        assert!(SHARE * halving <= grid, "{name}: {halving} of {grid}");
    }
}

#[test]
fn inputs_are_earlier_jobs() {
    for name in ["smoke", "cpu", "gpu", "quickstart", "gafi-plus", "paper-cinic10"] {
        let jobs = scheduled(&config(name, &[]), &data(vec![5000; 10], 4000));
        for (at, job) in jobs.iter().enumerate() {
            assert_eq!(jobs.iter().filter(|other| other.id == job.id).count(), 1, "{name}: {}", job.id);
            for input in &job.inputs {
                let JobInput::Job(id) = input else { panic!("{input:?}") };
                assert!(jobs[..at].iter().any(|earlier| earlier.id == *id), "{name}: {} needs {id}", job.id);
            }
        }
        serde_json::to_value(&jobs).unwrap();
    }
}

#[test]
fn every_row_is_tested_after_the_last_training() {
    let jobs = scheduled(&config("smoke", &[]), &data(vec![100, 60], 32));
    let import = jobs.iter().position(|job| job.id == "import-test").unwrap();
    assert!(jobs[import..].iter().all(|job| job.bound.trainings == 0));
    let trained = |job: &&Job| matches!(job.work, Work::Teacher(_) | Work::Reference(_) | Work::Row(_));
    let trained = jobs.iter().filter(trained).count();
    assert_eq!(jobs.len() - import - 1, trained);
}

#[test]
fn costs_add_up() {
    let config = config("smoke", &[]);
    let data = data(vec![100, 60], 32);
    let jobs = scheduled(&config, &data);
    let seconds = |costs: Costs, name: &str| -> f64 {
        let estimate = Estimate::of(&jobs, None, Some((costs, &data)));
        estimate.parts.iter().filter(|part| part.name.starts_with(name)).map(|part| part.seconds.unwrap()).sum()
    };
    let free = Costs::default();
    // Two epochs of 160 images; two GANs of 40 steps; two epochs of 2 * 24 images.
    assert_eq!(seconds(Costs { teacher_image_s: 1.0, ..free }, "teacher"), 320.0);
    assert_eq!(seconds(Costs { gan_step_s: 1.0, ..free }, "GAN"), 80.0);
    // And the reference for a variant's set of twice the size.
    let learn = Costs { student_image_s: 1.0, student_judges_s: 1.0, ..free };
    assert_eq!(seconds(learn, "real"), 2.0 * (48.0 + 32.0) + 2.0 * (96.0 + 32.0));
    // In two epochs the search renews nothing. The final student renews half of its set once.
    let grid = bound(&jobs, "search-1-grid").trainings as f64;
    assert_eq!(seconds(Costs { sample_s: 1.0, ..free }, "generator 1 (grid"), grid * 48.0);
    assert_eq!(seconds(Costs { sample_s: 1.0, ..free }, "variant doubled"), 96.0 + 48.0);
    // Checkpoints at 20 and 40 steps of two GANs; the training and validation images.
    let sized = Costs { checkpoint_bytes: 1000, ..free };
    let estimate = Estimate::of(&jobs, None, Some((sized, &data)));
    assert_eq!(estimate.bytes, Some(4 * 1000 + (160 + 32) * 64));
    assert!(estimate.to_string().contains("# Disk: at most about 1 MB"), "{estimate}");
}

#[test]
fn turns_need_a_student_that_sees_every_generator() {
    let every = |period, factor| Some(Renewal { period, factor });
    assert!(all_take_turns(6, every(1, 1.0), 100));
    assert!(!all_take_turns(2, None, 100), "one set, of one generator");
    assert!(all_take_turns(3, every(1, 1.0), 3) && !all_take_turns(4, every(1, 1.0), 3));
    // A set and a half: the second generator has half a turn, a third none.
    assert!(all_take_turns(2, every(1, 0.5), 2) && !all_take_turns(3, every(1, 0.5), 2));
    assert!(!all_take_turns(2, every(10, 1.0), 10), "the first renewal would come after the last epoch");
}

#[test]
fn every_preset_has_a_schedule() {
    for (name, _) in crate::PRESETS {
        let config = config(name, &[]);
        if config.data.set.is_none() {
            // A preset for a set without a name does not know its path.
            assert!(config.check().unwrap_err().to_string().contains("path"), "{name}");
        } else {
            config.check().unwrap();
        }
        assert!(!scheduled(&config, &DataSummary::presumed(&config)).is_empty());
    }
}

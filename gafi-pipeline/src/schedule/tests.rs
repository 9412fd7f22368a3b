//! Tests of the schedule and its cost.

use super::*;
use crate::config::RealTraining;
use crate::costs::Costs;
use crate::names::StepKind;
use crate::setting::Setting;
use crate::{overrides, preset};
use gafi_core::ImageSpec;
use gafi_expand::StdRange;

use halving::{SHARE, grid_trainings};

/// A preset with assignments, as on the command line, resolved.
fn config(name: &str, set: &[&str]) -> PipelineConfig {
    let mut tree = preset(Some(name)).unwrap();
    set.iter().for_each(|set| overrides::set(&mut tree, set).unwrap());
    serde_json::from_value::<PipelineConfig>(tree).unwrap().resolved()
}

fn data(train: Vec<u64>, val: u64) -> DataSummary {
    let classes = (0..train.len()).map(|class| class.to_string()).collect();
    let (train_val, test_as_val, screen) = (None, None, None);
    DataSummary {
        name: "set".into(),
        image: ImageSpec::new(1, 8, 8),
        classes,
        train,
        val,
        train_val,
        test_as_val,
        screen,
    }
}

/// The job called `id`.
fn find<'a>(jobs: &'a [Job], id: &str) -> &'a Job {
    jobs.iter().find(|job| job.id == id).unwrap_or_else(|| panic!("no job {id}"))
}

/// Whether the job called `id` has the output of the job `input`.
fn needs(jobs: &[Job], id: &str, input: &str) -> bool {
    find(jobs, id).inputs.contains(&job(input))
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
    // Each generator has its own search and final student.
    for search in ["search-2-grid", "search-3-grid"] {
        assert_eq!(bound(&jobs, search).trainings, 65, "{search}");
    }
    for (row, search) in [("row-gafi", "search-1"), ("row-gafi-2", "search-2"), ("row-gafi-3", "search-3")] {
        assert_eq!(find(&jobs, row).bound.trainings, 1);
        assert!(needs(&jobs, row, &format!("{search}-grid-threshold")), "{row}");
        assert!(matches!(&find(&jobs, row).work, Work::Row(row) if row.fallback), "{row}");
    }
}

#[test]
fn paper_presets_take_the_programs_updates_and_students() {
    // floor(50,000 / 192) = 260 steps in each of 500 epochs, and floor(60,000 / 192) = 312 in each of 300.
    for (name, generators, updates, searched) in
        [("paper-cifar10", 3, 130_000, 65), ("paper-cifar100", 3, 130_000, 65), ("paper-fashion-mnist", 6, 93_600, 55)]
    {
        let config = config(name, &[]);
        let jobs = scheduled(&config, &DataSummary::presumed(&config));
        let estimate = Estimate::of(&jobs, None, None);
        assert_eq!(estimate.generator, Some(GeneratorCost { generators, updates, batch: 192, searched }), "{name}");
        let line = format!("{updates} updates at batch 192, {} students ({searched} searched", searched + 1);
        assert!(estimate.to_string().contains(&line), "{estimate}");
    }
}

#[test]
fn under_protocol_paper_students_choose_on_test_images_and_nothing_else_does() {
    let jobs = scheduled(&config("smoke", &["protocol=paper"]), &data(vec![100, 60], 32));
    for id in ["teacher", "real", "real-soft"] {
        assert!(needs(&jobs, id, "import-val") && !needs(&jobs, id, "import-test-as-val"), "{id}");
    }
    for id in ["row-baseline", "row-gafi", "search-1-grid-std", "search-1-halving-std"] {
        assert!(needs(&jobs, id, "import-test-as-val") && !needs(&jobs, id, "import-val"), "{id}");
    }
    assert!(needs(&jobs, "generator", "import-train-val") && !needs(&jobs, "generator", "import-train"));
    let holdout = scheduled(&config("smoke", &[]), &data(vec![100, 60], 32));
    assert!(needs(&holdout, "generator", "import-train") && needs(&holdout, "row-gafi", "import-val"));
    assert!(holdout.iter().all(|job| !["import-train-val", "import-test-as-val"].contains(&&*job.id)));
}

#[test]
fn under_protocol_paper_the_teacher_is_the_row_real() {
    let paper = config("paper-cifar10", &[]);
    let jobs = scheduled(&paper, &data(vec![4000; 10], 10_000));
    let training = |id: &str| match &find(&jobs, id).work {
        Work::Teacher(spec) | Work::Reference(spec) => spec.training.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(training("teacher"), training("real"));
    assert_eq!(
        (training("real").classifier.epochs, bound(&jobs, "real").trainings),
        (300, 0),
        "one training, two rows"
    );
    // The protocol alone does the same where teacher and student differ only in their length.
    let own = |set: &[&str]| config("cpu", &[&["protocol=paper"], set].concat()).real;
    assert_eq!(own(&[]), Some(RealTraining::Teacher));
    assert_eq!(own(&["teacher.architecture.width=16"]), Some(RealTraining::Student));
    assert!(
        config("cpu", &["real=teacher", "teacher.lr=0.5"]).check().unwrap_err().to_string().contains("real = teacher")
    );
}

#[test]
fn settings_are_screened_on_images_that_no_training_reads() {
    let holdout = config("smoke", &["ablation=own"]);
    assert_eq!(holdout.data.screen_fraction, 0.25);
    assert_eq!(config("smoke", &["data.screen_fraction=0.5"]).data.screen_fraction, 0.5);
    let grid = config("smoke", &["search.compare=[]"]);
    assert_eq!(grid.data.screen_fraction, 0.0, "no search screens");
    assert!(scheduled(&grid, &data(vec![100, 60], 32)).iter().all(|job| job.id != "import-screen"));

    let jobs = scheduled(&holdout, &data(vec![100, 60], 32));
    let mut screened = 0;
    for job in &jobs {
        let reads = job.inputs.contains(&super::job("import-screen"));
        let screens = matches!(&job.work, Work::SearchStep(step) if matches!(step.method, Method::Screen { .. }));
        assert_eq!(reads, screens, "{}", job.id);
        assert!(!screens || !job.inputs.contains(&super::job("import-train")), "{}", job.id);
        screened += usize::from(screens);
    }
    assert_eq!(screened, 1, "checkpoints by halving");
}

#[test]
fn rows_of_the_ablation_search_their_own_values() {
    let jobs = scheduled(&config("smoke", &["ablation=own", "search.compare=[]"]), &data(vec![100, 60], 32));
    let ids: Vec<&str> =
        jobs.iter().filter(|job| matches!(job.work, Work::SearchStep(_))).map(|job| &*job.id).collect();
    let main = ["search-1-grid-checkpoint", "search-1-grid-std", "search-1-grid-threshold"];
    let second = main.map(|id| id.replace("-1-", "-2-"));
    let own =
        ["search-filter-threshold", "search-expand-std", "search-filter+expand-std", "search-filter+expand-threshold"];
    let expected: Vec<&str> =
        main.into_iter().chain(second.iter().map(String::as_str)).chain(own).chain(["search-soft-std"]).collect();
    assert_eq!(ids, expected);
    for (row, search) in [
        ("filter", own[0]),
        ("filter+recycle", own[0]),
        ("expand", own[1]),
        ("expand+recycle", own[1]),
        ("filter+expand", own[3]),
        ("baseline", main[2]),
        ("recycle", main[2]),
        ("gafi", main[2]),
    ] {
        assert!(needs(&jobs, &format!("row-{row}"), search), "{row}");
    }
    // Own values: std 1 while a threshold is searched, no filter while an std is.
    let template = |id: &str| match &find(&jobs, id).work {
        Work::SearchStep(step) => step.template.clone(),
        other => panic!("{other:?}"),
    };
    let chosen = Setting { std: StdRange::Fixed(1.5), threshold: Some(0.5), ..Setting::plain(40) };
    let filter = template(own[0]).apply(&chosen);
    assert_eq!((filter.checkpoint, filter.std), (40, StdRange::default()));
    assert_eq!(template(own[1]).apply(&chosen).threshold, None);
    // The main search by halving is the one that `filter+expand` would run.
    let halving = config("smoke", &["ablation=own", "search.strategy=halving", "search.compare=[]"]);
    let jobs = scheduled(&halving, &data(vec![100, 60], 32));
    assert!(needs(&jobs, "row-filter+expand", "search-1-halving-threshold"));
    assert!(jobs.iter().all(|job| !job.id.starts_with("search-filter+expand")));
}

#[test]
fn an_untrained_generator_has_a_row_and_no_search() {
    let config = config("smoke", &[]);
    assert!(config.gan.save_untrained);
    let jobs = scheduled(&config, &data(vec![100, 60], 32));
    for step in steps(&jobs) {
        assert!(!matches!(&step.grid, Grid::Checkpoint(steps) if steps.contains(&0)), "{step:?}");
        assert_ne!(step.search.row.as_deref(), Some("noise-soft"));
    }
    let Work::Row(row) = &find(&jobs, "row-noise-soft").work else { panic!("no row") };
    let chosen = Setting { std: StdRange::Fixed(1.5), threshold: Some(0.5), ..Setting::plain(40) };
    let setting = row.template.apply(&chosen);
    assert_eq!((setting.checkpoint, setting.std, setting.threshold), (0, StdRange::default(), None));
    assert!(setting.distill.is_some() && setting.recycle.is_some());
    assert_eq!(bound(&jobs, "generator").checkpoints, 2 * 3, "two trained ones and the untrained one");
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
    assert_eq!(methods, [&Method::Bisect { epochs: 2 }; 2], "the main search and the variant");
    // Three stds at that length, and no student at full length.
    assert_eq!(bound(&jobs, "search-soft").epochs, 3 * 2);
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
        estimate.parts.iter().filter(|part| part.name.starts_with(name)).map(|part| part.seconds.unwrap().lenient).sum()
    };
    let free = Costs::default();
    // Two epochs of 160 images; two GANs of 40 steps; two epochs of 2 * 24 images.
    assert_eq!(seconds(Costs { teacher_image_s: 1.0, ..free }, "teacher"), 320.0);
    assert_eq!(seconds(Costs { gan_step_s: 1.0, ..free }, "GAN"), 80.0);
    // Two epochs each: `real` and `real-soft` with 48 images, `real-2x` with 96, and 32 validation images.
    let learn = Costs { student_image_s: 1.0, student_judges_s: 1.0, ..free };
    assert_eq!(seconds(learn, "real"), 2.0 * 2.0 * (48.0 + 32.0) + 2.0 * (96.0 + 32.0));
    // In two epochs the search renews nothing. The final student renews half of its set once.
    let grid = bound(&jobs, "search-1-grid").trainings as f64;
    assert_eq!(seconds(Costs { sample_s: 1.0, ..free }, "search of generator 1 (grid"), grid * 48.0);
    assert_eq!(seconds(Costs { sample_s: 1.0, ..free }, "row doubled"), 96.0 + 48.0);
    // Checkpoints at 0, 20 and 40 steps of two GANs; the training and validation images.
    let sized = Costs { checkpoint_bytes: 1000, ..free };
    let estimate = Estimate::of(&jobs, None, Some((sized, &data)));
    assert_eq!(estimate.bytes, Some(6 * 1000 + (160 + 32) * 64));
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

//! Training of the classifier on 8x8 images: it learns, it resumes after interruption, and results do not depend on
//! threads or batches.

use std::sync::atomic::Ordering;

use candle_core::Device;
use gafi_core::{ClassId, Context, Error, ImageSpec, Learner, MemoryDataset, Rows, Split, Stream, stream};
use gafi_nn::augment::AugmentConfig;
use gafi_nn::schedule::ScheduleKind;
use gafi_nn::{ClassifierConfig, ClassifierLearner, Distill, EmaConfig, OptimizerKind, ResNetConfig};

const IMAGE: ImageSpec = ImageSpec::new(3, 8, 8);

/// Images of three classes with noise: horizontal bars, vertical bars, a bright corner.
fn data(n: usize) -> MemoryDataset {
    let names = ["horizontal", "vertical", "corner"].map(String::from);
    let mut set = MemoryDataset::new(IMAGE, names.into(), Split::Train);
    for i in 0..n {
        let mut rng = Stream::new(11).at(i as u64).rng();
        let class = (i % 3) as u32;
        let phase = stream::below(&mut rng, 2) as usize;
        let image: Vec<u8> = (0..IMAGE.bytes())
            .map(|at| {
                let (y, x) = (at / 8 % 8, at % 8);
                let on = match class {
                    0 => (y + phase) % 4 < 2,
                    1 => (x + phase) % 4 < 2,
                    _ => y < 4 && x < 4,
                };
                (if on { 150 } else { 40 }) + stream::below(&mut rng, 60) as u8
            })
            .collect();
        set.push(&image, ClassId(class));
    }
    set
}

fn config() -> ClassifierConfig {
    ClassifierConfig {
        architecture: ResNetConfig { depth: 8, width: 4 }.into(),
        epochs: 4,
        batch: 10,
        lr: 0.05,
        milestones: vec![0.75],
        augment: AugmentConfig { flip: true, crop: 1, erase: 0.25, ..AugmentConfig::NONE },
        ..Default::default()
    }
}

/// A configuration with the other options.
fn other_config() -> ClassifierConfig {
    ClassifierConfig {
        optimizer: OptimizerKind::Adam,
        lr: 0.01,
        schedule: ScheduleKind::OneCycle,
        ema: Some(EmaConfig { decay: 0.9, start: 2, warm_up: true }),
        label_smoothing: 0.1,
        ..config()
    }
}

fn learner(config: &ClassifierConfig, seed: u64) -> ClassifierLearner {
    ClassifierLearner::new(config.clone(), IMAGE, 3, seed, &Device::Cpu).unwrap()
}

fn train(learner: &mut ClassifierLearner, data: &dyn Rows, epochs: u32) -> Vec<f64> {
    let cx = Context::default();
    (0..epochs).map(|_| learner.train_epoch(data, &cx).unwrap().loss).collect()
}

#[test]
fn training_lowers_the_loss() {
    for config in [config(), other_config()] {
        let train_set = data(120);
        let mut learner = learner(&config, 1);
        assert_eq!((learner.epoch(), learner.epochs()), (0, 4));
        let losses = train(&mut learner, &train_set, 4);
        assert_eq!((learner.epoch(), learner.steps()), (4, 48));
        assert!(losses[3] < 0.8 * losses[0], "{losses:?}");
        let report = gafi_core::evaluate(&mut *learner.scorer().unwrap(), &train_set, &Context::default()).unwrap();
        assert!(report.accuracy > 0.9, "{report:?}");
    }
}

#[test]
fn a_resumed_training_equals_an_uninterrupted_one() {
    let set = data(47);
    for config in [config(), other_config()] {
        let mut whole = learner(&config, 3);
        let losses = train(&mut whole, &set, 4);
        for cut in [0, 1, 3] {
            let mut first = learner(&config, 3);
            train(&mut first, &set, cut);
            let snapshot = first.snapshot().unwrap();
            // Further training after the snapshot must have no effect.
            train(&mut first, &set, 1);
            let mut second = learner(&config, 3);
            second.restore(&snapshot).unwrap();
            assert_eq!(second.epoch(), cut);
            assert_eq!(second.snapshot().unwrap(), snapshot);
            assert_eq!(train(&mut second, &set, 4 - cut), losses[cut as usize..]);
            assert_eq!(second.snapshot().unwrap(), whole.snapshot().unwrap(), "cut after {cut}");
            assert_eq!(second.weights().unwrap(), whole.weights().unwrap());
        }
    }
}

#[test]
fn a_warm_start_copies_only_the_weights() {
    let set = data(30);
    for config in [config(), other_config()] {
        let mut first = learner(&config, 3);
        train(&mut first, &set, 2);
        let mut second = learner(&config, 4);
        second.begin_with(&first.weights().unwrap()).unwrap();
        let scores = |learner: &mut ClassifierLearner| learner.scorer().unwrap().score(set.images()).unwrap();
        assert_eq!(scores(&mut second), scores(&mut first));
        assert_eq!((second.epoch(), second.steps()), (0, 0));
        assert_ne!(second.snapshot().unwrap(), first.snapshot().unwrap(), "moments and counters are its own");
        let before = scores(&mut second);
        train(&mut second, &set, 1);
        assert_ne!(scores(&mut second), before);
    }
    let wider = ResNetConfig { depth: 8, width: 5 }.into();
    let wider = learner(&ClassifierConfig { architecture: wider, ..config() }, 3);
    let error = learner(&config(), 3).begin_with(&wider.weights().unwrap()).unwrap_err();
    assert!(format!("{error:?}").contains("parameters"), "{error:?}");
}

#[test]
fn threads_do_not_change_results_but_seeds_do() {
    let set = data(30);
    let run = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut learner = learner(&config(), seed);
            train(&mut learner, &set, 2);
            learner.snapshot().unwrap()
        })
    };
    let one = run(1, 5);
    assert_eq!(one, run(3, 5));
    assert_ne!(one, run(1, 6));
}

#[test]
fn scores_do_not_depend_on_the_batch() {
    let set = data(300);
    let mut learner = learner(&config(), 1);
    train(&mut learner, &set, 1);
    let pixels = set.images();
    let mut scorer = learner.scorer().unwrap();
    let all = scorer.score(pixels).unwrap();
    assert_eq!(all.len(), 900);
    for row in all.chunks(3) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6 && row.iter().all(|p| (0.0..=1.0).contains(p)), "{row:?}");
    }
    for size in [1, 2, 7, 16, 64, 299] {
        let mut parts = Vec::new();
        for images in pixels.chunks(size * IMAGE.bytes()) {
            parts.extend(scorer.score(images).unwrap());
        }
        assert_eq!(all, parts, "batches of {size}");
    }
    let scored = scorer.score_with_features(pixels).unwrap();
    let dim = scorer.feature_dim().unwrap();
    assert_eq!((scored.probabilities, dim), (all, 4 * config().architecture.width()));
    for size in [1, 7, 299] {
        let parts =
            pixels.chunks(size * IMAGE.bytes()).map(|images| scorer.score_with_features(images).unwrap().features);
        assert_eq!(parts.collect::<Vec<_>>().concat(), scored.features, "batches of {size}");
    }
    assert_eq!(scored.features.len(), 300 * dim);
    assert!(scorer.score(&[]).unwrap().is_empty());
    assert!(matches!(scorer.score(&pixels[1..]), Err(Error::Input { .. })));
}

#[test]
fn threads_and_batches_do_not_change_results_for_large_images() {
    let image = ImageSpec::new(3, 32, 32);
    let mut set = MemoryDataset::new(image, data(3).info().classes.clone(), Split::Train);
    for i in 0..40usize {
        let pixels: Vec<u8> = (0..image.bytes()).map(|at| ((at * (i + 3)) % 251) as u8).collect();
        set.push(&pixels, ClassId((i % 3) as u32));
    }
    let architecture = ResNetConfig { depth: 8, width: 16 }.into();
    let config = ClassifierConfig { architecture, batch: 32, ..config() };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut learner = ClassifierLearner::new(config.clone(), image, 3, 1, &Device::Cpu).unwrap();
            train(&mut learner, &set, 1);
            let scores = learner.scorer().unwrap().score(set.images()).unwrap();
            (learner.snapshot().unwrap(), scores)
        })
    };
    let (snapshot, scores) = run(1);
    let (other_snapshot, other_scores) = run(3);
    assert!(snapshot == other_snapshot, "the number of threads changed the training");
    assert_eq!(scores, other_scores);
    let mut learner = ClassifierLearner::new(config.clone(), image, 3, 1, &Device::Cpu).unwrap();
    learner.restore(&snapshot).unwrap();
    let mut scorer = learner.scorer().unwrap();
    for size in [1, 3, 16] {
        let parts = set.images().chunks(size * image.bytes()).flat_map(|images| scorer.score(images).unwrap());
        assert_eq!(parts.collect::<Vec<_>>(), scores, "batches of {size}");
    }
}

#[test]
fn the_moving_average_is_scored_and_saved() {
    let set = data(40);
    let config = ClassifierConfig { ema: Some(EmaConfig::from(0.99)), ..config() };
    let mut averaged = learner(&config, 2);
    let mut plain = learner(&ClassifierConfig { ema: None, ..config.clone() }, 2);
    assert_eq!(train(&mut averaged, &set, 2), train(&mut plain, &set, 2), "an average must not touch the training");
    assert_ne!(averaged.weights().unwrap(), plain.weights().unwrap());
    // A network loaded from the saved weights gives the learner's scores.
    let expected = averaged.scorer().unwrap().score(set.images()).unwrap();
    let weights = gafi_nn::checkpoint::bytes_to_tensors(&averaged.weights().unwrap(), &Device::Cpu).unwrap();
    let mut params = gafi_nn::Params::new(&Device::Cpu, Stream::new(0));
    let net = gafi_nn::ClassifierNet::new(&mut params.root(), &config.architecture, &IMAGE, 3).unwrap();
    params.load(&weights).unwrap();
    let mut scorer = gafi_nn::ClassifierScorer::new(net, IMAGE, &Device::Cpu).unwrap();
    assert_eq!(gafi_core::Scorer::score(&mut scorer, set.images()).unwrap(), expected);
}

#[test]
fn a_diverged_training_stops_with_an_error() {
    let mut learner = learner(&ClassifierConfig { lr: 1e30, ..config() }, 1);
    let error = learner.train_epoch(&data(60), &Context::default()).unwrap_err();
    let Error::NonFinite { step, term, value } = &error else { panic!("{error}") };
    assert!((1..6).contains(step), "step {step}");
    assert!(term.contains("loss") && !value.is_finite(), "{error}");
}

#[test]
fn training_stops_on_request() {
    let cx = Context::default();
    cx.stop.store(true, Ordering::Relaxed);
    let error = learner(&config(), 1).train_epoch(&data(60), &cx).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
}

#[test]
fn unsuitable_data_and_snapshots_are_errors() {
    let mut learner = learner(&config(), 1);
    let cx = Context::default();
    let empty = MemoryDataset::new(IMAGE, data(3).info().classes.clone(), Split::Train);
    assert!(matches!(learner.train_epoch(&empty, &cx), Err(Error::Input { .. })));
    let grey = MemoryDataset::new(ImageSpec::new(1, 8, 8), data(3).info().classes.clone(), Split::Train);
    let error = learner.train_epoch(&grey, &cx).unwrap_err().to_string();
    assert!(error.contains("3x8x8") && error.contains("1x8x8"), "{error}");
    // A snapshot of another network, and a truncated one.
    let wide = ClassifierConfig { architecture: ResNetConfig { depth: 8, width: 5 }.into(), ..config() };
    let foreign = ClassifierLearner::new(wide, IMAGE, 3, 1, &Device::Cpu).unwrap().snapshot().unwrap();
    let before = learner.snapshot().unwrap();
    assert!(learner.restore(&foreign).is_err());
    assert!(learner.restore(&foreign[..100]).is_err());
    assert_eq!(learner.snapshot().unwrap(), before);
    let small = ClassifierLearner::new(config(), ImageSpec::new(3, 7, 8), 3, 1, &Device::Cpu);
    assert!(gafi_core::Error::from(small.err().unwrap()).is_usage());
}

#[test]
fn certain_soft_labels_equal_hard_labels() {
    let plain = data(60);
    let mut judged = plain.clone();
    for row in 0..plain.len() {
        let mut certain = [0.0; 3];
        certain[plain.label(row).index()] = 1.0;
        judged.set_probabilities(row, &certain);
    }
    let hard = train(&mut learner(&config(), 5), &plain, 2);
    for weight in [1.0, 0.3] {
        let distill = Distill { weight, temperature: 1.0 };
        let config = ClassifierConfig { distill: Some(distill), ..config() };
        let soft = train(&mut learner(&config, 5), &judged, 2);
        for (a, b) in hard.iter().zip(&soft) {
            assert!((a - b).abs() < 1e-4 * a.abs(), "{hard:?} against {soft:?}");
        }
    }
}

#[test]
fn soft_labels_replace_hard_labels() {
    // A teacher that mistakes each class for the next one.
    let mut set = data(120);
    for row in 0..set.len() {
        let mut other = [0.05; 3];
        other[(set.label(row).index() + 1) % 3] = 0.9;
        set.set_probabilities(row, &other);
    }
    let distill = Some(Distill { weight: 1.0, temperature: 2.0 });
    let mut learner = learner(&ClassifierConfig { distill, ..config() }, 1);
    let cx = Context::default();
    let first = learner.train_epoch(&set, &cx).unwrap();
    let last = (1..4).map(|_| learner.train_epoch(&set, &cx).unwrap()).last().unwrap();
    assert!(last.loss < first.loss, "{} after {}", last.loss, first.loss);
    assert!(last.accuracy < 0.2, "{}", last.accuracy);
}

#[test]
fn distillation_requires_soft_labels() {
    let distill = Some(Distill::default());
    let mut learner = learner(&ClassifierConfig { distill, ..config() }, 1);
    let error = learner.train_epoch(&data(30), &Context::default()).unwrap_err();
    assert!(error.to_string().contains("teacher's probabilities"), "{error}");
}

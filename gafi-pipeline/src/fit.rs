//! A preset, made for a set of its own, fitted to other data: what it holds out, how many images it asks for, and how the GAN is kept
//! from learning few images by heart.

use anyhow::Result;
use gafi_core::{Context, Split};
use gafi_data::{Channels, Fit, Import, ImportConfig};
use gafi_gan::Augment;
use serde_json::{Value, json};

use crate::config::PipelineConfig;
use crate::usage::Usage;

/// Fewer training images of a class teach neither a GAN nor a classifier anything, and every figure of such a class is chance.
const FEWEST: u64 = 10;

/// Of a class, the part that may be held out for validation, and the part that becomes the test split where the source has none:
/// one in so many.
const HELD_OUT: u64 = 5;

/// A classifier's epochs become at most so many times as many.
const MOST_PASSES: u64 = 50;

/// The changes of DiffAugment, as its authors train BigGAN on parts of CIFAR (their scripts for BigGAN). Changes of colour hide from the discriminator
/// which colours there are, and on the tutorial's images students did worse with them (`docs/log/results.md`).
const FOR_FEW: [Augment; 2] = [Augment::Translation, Augment::Cutout];

/// A GAN gets them when it learns from fewer images than this, a fifth of CIFAR-10, which is where Zhao et al. 2020
/// (arXiv 2006.10738) saw it help most, ...
const FEW_FOR_A_GAN: u64 = 10_000;

/// ... and sees each of them more often than this. It slows learning down, and is worth that only where there is time to learn images
/// by heart: our small GAN lost by it in 32 passes, not in 64, and gained in 167 (`docs/log/results.md`).
const PASSES_OF_A_GAN: u64 = 100;

/// A change of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key, dotted.
    pub key: &'static str,
    /// Its value.
    pub value: Value,
    /// Why, for people.
    pub why: String,
}

/// What the data of `config`, which was made for a set of `made_for` classes, asks to be changed in it, but for what was `said`, a dotted
/// key, and what would follow from changing that.
///
/// Images are brought to one shape where they have several or too large a one. Where there are fewer classes, a synthetic set and the
/// validation split have more images of each, if the data has so many. A student that has fewer images than it was meant to passes
/// over them more often, so that it takes as many steps.
///
/// # Errors
/// When the data is not there, cannot be read, or cannot be split as `config` and the changes say.
pub fn fit(config: &PipelineConfig, made_for: usize, said: impl Fn(&str) -> bool, cx: &Context) -> Result<Vec<Change>> {
    let import = Import::new(&config.data, Split::Train, cx)?;
    let survey = import.survey()?;
    let mut changes = Vec::new();
    // Whether the change stands.
    let mut change = |key: &'static str, value: Value, why: String| {
        let free = !said(key);
        if free {
            changes.push(Change { key, value, why });
        }
        free
    };
    let (small, large) = (survey.smallest, survey.largest);
    if config.data.channels == Channels::Keep && small.channels != large.channels {
        change("data.channels", json!(3), "there are grey images and coloured ones".into());
    }
    if let Some(size) = config.data.size {
        let range =
            |least: usize, most: usize| if least == most { most.to_string() } else { format!("{least} to {most}") };
        let (rows, columns) = (range(small.height, large.height), range(small.width, large.width));
        let odd = small.height.min(small.width) != size || large.height.max(large.width) != size;
        let fits = match config.data.fit {
            Some(Fit::Pad) => large.height.max(large.width) <= size,
            Some(Fit::Resize) => true,
            None => !odd,
        };
        if !fits {
            let why = format!(
                "images of {rows} rows and {columns} columns are scaled to {size}x{size}, stretched where not square"
            );
            change("data.fit", json!(Fit::Resize), why);
        }
    }

    // What is held out; then the import itself counts what that leaves.
    let mut data = config.data.clone();
    let mut there = survey.counts;
    if !survey.has_test {
        let share = 1.0 / HELD_OUT as f64;
        let why = "the source has no test images of its own";
        if data.test_fraction.is_none() && change("data.test_fraction", json!(share), why.into()) {
            data.test_fraction = Some(share);
        }
        let test = import.counts(&ImportConfig { test_limit: None, ..data.clone() }, Split::Test)?;
        there.iter_mut().zip(test).for_each(|(there, test)| *there -= test);
    }
    let most = (there.iter().copied().min().unwrap_or(0) / HELD_OUT).max(1);
    let classes = there.len().max(1);
    // Of fewer classes as many images in all.
    let in_all = |wanted: u64| wanted.saturating_mul(classes.max(made_for) as u64).div_ceil(classes as u64);
    let as_many = |wanted: u64, there: &str| match there {
        "" => format!("of {classes} classes so many are as large a set as {wanted} of {made_for}"),
        there => format!("{there}; {} would be as large a set as {wanted} of {made_for} classes", in_all(wanted)),
    };
    if let Some(wanted) = data.val_per_class.map(|wanted| wanted as u64) {
        let held = in_all(wanted).min(most);
        let why = match most < wanted {
            true => format!("{wanted} would be more than a fifth of the smallest class"),
            false if held < in_all(wanted) => as_many(wanted, "a fifth of the smallest class"),
            false => as_many(wanted, ""),
        };
        if held != wanted && change("data.val_per_class", json!(held), why) {
            data.val_per_class = Some(held as usize);
        }
    }
    let counts = import.counts(&data, Split::Train)?;
    let (left, all) = (counts.iter().copied().min().unwrap_or(0), counts.iter().sum::<u64>());

    if config.per_class.is_none_or(|wanted| FEWEST <= wanted) && !said("per_class") && left < FEWEST {
        let few: Vec<String> = counts
            .iter()
            .zip(&survey.classes)
            .filter(|(count, _)| **count < FEWEST)
            .map(|(count, name)| format!("{name} ({count})"))
            .collect();
        return Err(Usage(format!(
            "too few images: expected at least {FEWEST} of each class to train on, after those that are held out, found {}; add images, leave such \
             a class out, or say how many a synthetic set has (--set per_class=N)",
            few.join(", ")
        ))
        .into());
    }

    let passes = (config.gan.schedule(all).steps.saturating_mul(config.gan.batch as u64)).checked_div(all).unwrap_or(0);
    let by_heart = all < FEW_FOR_A_GAN && passes > PASSES_OF_A_GAN;
    if by_heart && config.gan.augment.is_empty() && config.trained_generators.is_empty() {
        let why = format!(
            "DiffAugment, because in {passes} passes the discriminator would learn {all} images by heart; \
             --set gan.augment=[] leaves it out"
        );
        change("gan.augment", json!(FOR_FEW), why);
    }
    if let Some(wanted) = config.per_class {
        let (meant, classes) = (in_all(wanted), classes as u64);
        let per_class = meant.min(left).max(1);
        let why = match left < wanted {
            true => format!("the smallest class has fewer than {wanted} images left to train on"),
            false if per_class < meant => as_many(wanted, "all that the smallest class has left to train on"),
            false => as_many(wanted, ""),
        };
        if !said("per_class") {
            if per_class != wanted {
                change("per_class", json!(per_class), why);
            }
            // What a student sees in all, and what it and the teacher see in an epoch.
            let seen = meant.saturating_mul(classes).saturating_mul(config.student.epochs.into());
            longer(config, seen, [per_class * classes, all], &mut change);
        }
    }
    Ok(changes)
}

/// A classifier that sees fewer images takes fewer steps and learns less, however often it looks at each: as many epochs of as many
/// images as the student's and the teacher's are in `an_epoch` as come to `seen`, where they are more, and what else is said in
/// epochs moves along.
fn longer(
    config: &PipelineConfig,
    seen: u64,
    an_epoch: [u64; 2],
    change: &mut impl FnMut(&'static str, Value, String) -> bool,
) {
    let student = ["student.epochs", "student.milestones", "student.warm_up"];
    let teacher = ["teacher.epochs", "teacher.milestones", "teacher.warm_up"];
    let both = [(&config.student, student), (&config.teacher, teacher)];
    for ((classifier, [length, milestones, warm_up]), images) in both.into_iter().zip(an_epoch) {
        let epochs = classifier.epochs;
        let enough = seen.div_ceil(images.max(1)).min(u64::from(epochs) * MOST_PASSES).min(u32::MAX.into()) as u32;
        let steps = |epochs: u32| images.div_ceil(classifier.batch as u64) * u64::from(epochs);
        let why = format!("{epochs} would be {} steps", steps(epochs));
        if enough <= epochs || !change(length, json!(enough), why) {
            continue;
        }
        let longer = classifier.clone().rescaled(enough);
        let why = format!("as in {epochs} epochs");
        if longer.milestones != classifier.milestones {
            change(milestones, json!(longer.milestones), why.clone());
        }
        if longer.warm_up != classifier.warm_up {
            change(warm_up, json!(longer.warm_up), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gafi_data::{NamedSet, ShapesConfig};
    use gafi_gan::{GanConfig, Length};

    #[test]
    fn small_data_gets_small_numbers_and_large_data_none() {
        let shapes = |train, val, per_class| {
            let shapes = ShapesConfig { classes: 2, train, test: 20 };
            let gan = GanConfig { augment: vec![Augment::Cutout], ..GanConfig::small() };
            let data = ImportConfig {
                shapes,
                size: Some(8),
                val_per_class: Some(val),
                ..ImportConfig::named(NamedSet::Shapes)
            };
            PipelineConfig { data, per_class: Some(per_class), gan, ..PipelineConfig::default() }
        };
        let changes = |config: &PipelineConfig| -> Vec<(&str, Value)> {
            fit_of(config).into_iter().map(|change| (change.key, change.value)).collect()
        };
        assert_eq!(changes(&shapes(200, 20, 80)), []);
        assert_eq!(changes(&shapes(200, 21, 80)), [("data.val_per_class", json!(20))]);
        // Students of 100 epochs, a teacher of 300, both with the milestones of 100.
        let longer = [("student.epochs", json!(102)), ("student.milestones", json!([61.2, 81.6]))];
        assert_eq!(changes(&shapes(200, 20, 81)), [&[("per_class", json!(80))][..], &longer].concat());
        let mut both = vec![("data.val_per_class", json!(4)), ("per_class", json!(16))];
        both.extend([("student.epochs", json!(5000)), ("student.milestones", json!([3000.0, 4000.0]))]);
        both.extend([("teacher.epochs", json!(6250)), ("teacher.milestones", json!([1250.0, 80.0 * 6250.0 / 300.0]))]);
        assert_eq!(changes(&shapes(40, 400, 1000)), both, "50 times as many, and as many as a student sees");
    }

    #[test]
    fn what_is_said_stands_and_so_does_what_would_have_followed() {
        let shapes = ShapesConfig { classes: 2, train: 200, test: 20 };
        let data =
            ImportConfig { shapes, size: Some(8), val_per_class: Some(40), ..ImportConfig::named(NamedSet::Shapes) };
        let gan = GanConfig { augment: vec![Augment::Cutout], ..GanConfig::small() };
        let config = PipelineConfig { data, per_class: Some(500), gan, ..PipelineConfig::default() };
        let changes = |said: &[&str]| -> Vec<(&str, Value)> {
            let changes = fit(&config, 2, |key| said.contains(&key), &Context::default()).unwrap();
            changes.into_iter().map(|change| (change.key, change.value)).collect()
        };
        let held_out = ("data.val_per_class", json!(20));
        assert_eq!(changes(&["per_class"]), std::slice::from_ref(&held_out), "classifiers are as long as they were");
        // 60 of 100 are left, not 80.
        assert_eq!(changes(&["data.val_per_class", "student.epochs", "teacher.epochs"]), [("per_class", json!(60))]);
        let found = changes(&["student.milestones", "teacher.epochs"]);
        assert_eq!(found, [held_out, ("per_class", json!(80)), ("student.epochs", json!(625))]);
    }

    #[test]
    fn a_class_of_next_to_nothing_is_refused() {
        let config = |train: usize, per_class| {
            let shapes = ShapesConfig { classes: 2, train, test: 20 };
            let data =
                ImportConfig { shapes, size: Some(8), val_per_class: Some(1), ..ImportConfig::named(NamedSet::Shapes) };
            PipelineConfig { data, per_class, ..PipelineConfig::default() }
        };
        let refused = |config: &PipelineConfig, said: &[&str]| {
            let told = fit(config, 2, |key| said.contains(&key), &Context::default()).err().map(|why| why.to_string());
            told.is_some_and(|why| why.contains("at least 10 of each class") && why.contains("(9)"))
        };
        assert!(refused(&config(20, Some(80)), &[]));
        assert!(!refused(&config(20, Some(80)), &["per_class"]), "who says so knows");
        assert!(!refused(&config(22, Some(80)), &[]), "ten are left");
        assert!(!refused(&config(20, Some(9)), &[]), "a preset of so few");
    }

    #[test]
    fn fewer_classes_have_as_many_images_in_all() {
        let fitted = |train: usize, made_for| {
            let shapes = ShapesConfig { classes: 2, train, test: 20 };
            let gan = GanConfig { augment: vec![Augment::Cutout], ..GanConfig::small() };
            let data = ImportConfig {
                shapes,
                size: Some(8),
                val_per_class: Some(10),
                ..ImportConfig::named(NamedSet::Shapes)
            };
            let config = PipelineConfig { data, per_class: Some(80), gan, ..PipelineConfig::default() };
            fit(&config, made_for, |_| false, &Context::default()).unwrap()
        };
        let changes = |train, made_for| -> Vec<(&str, Value)> {
            fitted(train, made_for).into_iter().map(|change| (change.key, change.value)).collect()
        };
        let whys = |train, made_for| fitted(train, made_for).into_iter().map(|change| change.why).collect::<Vec<_>>();
        assert_eq!(changes(1000, 2), []);
        assert_eq!(changes(1000, 6), [("data.val_per_class", json!(30)), ("per_class", json!(240))]);
        assert_eq!(changes(1000, 1), [], "more classes are more images");
        // 360 of the 400 that were meant: 400 / 360 times as many epochs of them.
        let longer = [("student.epochs", json!(112)), ("student.milestones", json!([67.2, 89.6]))];
        let larger = [("data.val_per_class", json!(50)), ("per_class", json!(400))];
        assert_eq!(changes(1000, 10), larger, "450 are left");
        let fewer = [("data.val_per_class", json!(50)), ("per_class", json!(360))];
        assert_eq!(changes(820, 10), [&fewer[..], &longer].concat());
        assert_eq!(whys(1000, 10)[1], "of 2 classes so many are as large a set as 80 of 10");
        assert_eq!(
            whys(820, 10)[1],
            "all that the smallest class has left to train on; 400 would be as large a set as 80 of 10 classes"
        );
    }

    #[test]
    fn what_is_left_is_what_the_import_leaves() {
        let shapes = ShapesConfig { classes: 2, train: 200, test: 20 };
        let images = ImportConfig { shapes, size: Some(8), ..ImportConfig::named(NamedSet::Shapes) };
        let gan = GanConfig { augment: vec![Augment::Cutout], ..GanConfig::small() };
        let per_class = |data: ImportConfig| -> Value {
            let config = PipelineConfig { data, per_class: Some(1000), gan: gan.clone(), ..PipelineConfig::default() };
            fit_of(&config).into_iter().find(|change| change.key == "per_class").unwrap().value
        };
        assert_eq!(per_class(images.clone()), 90, "a tenth is held out where nothing is said");
        assert_eq!(per_class(ImportConfig { val_fraction: Some(0.4), ..images.clone() }), 60);
        assert_eq!(per_class(ImportConfig { val_per_class: Some(5), per_class: Some(70), ..images.clone() }), 70);
        assert_eq!(per_class(ImportConfig { limit: Some(101), ..images }), 50);

        // Where the test split is carved out of the same rows, as large as it was said to be.
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("only")).unwrap();
        for at in 0..40 {
            image::GrayImage::new(8, 8).save(dir.path().join(format!("only/{at}.png"))).unwrap();
        }
        let at = ImportConfig { size: Some(8), val_per_class: Some(4), ..ImportConfig::at(dir.path()) };
        assert_eq!(per_class(at.clone()), 40 - 8 - 4);
        assert_eq!(per_class(ImportConfig { test_fraction: Some(0.5), test_limit: Some(3), ..at }), 40 - 20 - 4);
    }

    #[test]
    fn a_gan_that_learns_from_few_images_is_augmented() {
        let gan = |train: usize, val, change: fn(&mut PipelineConfig)| {
            let shapes = ShapesConfig { classes: 2, train, test: 20 };
            let data = ImportConfig {
                shapes,
                size: Some(8),
                val_per_class: Some(val),
                ..ImportConfig::named(NamedSet::Shapes)
            };
            let mut config = PipelineConfig { data, per_class: None, ..PipelineConfig::default() };
            change(&mut config);
            fit_of(&config).into_iter().map(|change| (change.key, change.value)).collect::<Vec<_>>()
        };
        let augmented = vec![("gan.augment", json!(["translation", "cutout"]))];
        assert_eq!(gan(10_020, 10, |_| ()), []);
        assert_eq!(gan(10_020, 11, |_| ()), augmented, "9,998 images are left to train on");
        // Five hundred passes, if nothing else is said.
        assert_eq!(
            gan(200, 10, |config| config.gan.length = Length::Steps(285)),
            augmented,
            "101 passes over 180 images"
        );
        assert_eq!(gan(200, 10, |config| config.gan.length = Length::Steps(284)), []);
        assert_eq!(gan(200, 10, |config| config.gan.augment = vec![Augment::Colour]), [], "what is there stays");
        assert_eq!(gan(200, 10, |config| config.trained_generators = vec!["gan".into()]), [], "none is trained");
    }

    #[test]
    fn images_of_several_shapes_are_made_alike() {
        let dir = tempfile::tempdir().unwrap();
        let save = |name: &str, image: image::DynamicImage| {
            std::fs::create_dir_all(dir.path().join("only")).unwrap();
            image.save(dir.path().join("only").join(name)).unwrap();
        };
        save("a.png", image::DynamicImage::new_luma8(8, 6));
        for name in ["b.png", "d.png", "e.png"] {
            save(name, image::DynamicImage::new_luma8(8, 8));
        }
        let changes = |size, fit| -> Vec<&str> {
            let data = ImportConfig { size, fit, test_fraction: Some(0.5), ..ImportConfig::at(dir.path()) };
            let gan = GanConfig { augment: vec![Augment::Cutout], ..GanConfig::small() };
            let config = PipelineConfig { data, gan, per_class: Some(1), ..PipelineConfig::default() };
            fit_of(&config).into_iter().map(|change| change.key).collect()
        };
        assert_eq!(changes(Some(8), Some(Fit::Pad)), Vec::<&str>::new());
        assert_eq!(changes(Some(8), None), ["data.fit"], "one is not of that size");
        assert_eq!(changes(Some(7), Some(Fit::Pad)), ["data.fit"], "one is larger");
        assert_eq!(changes(Some(7), Some(Fit::Resize)), Vec::<&str>::new());
        save("c.png", image::DynamicImage::new_rgb8(8, 8));
        assert_eq!(changes(Some(8), Some(Fit::Pad)), ["data.channels"]);
    }

    /// Of a configuration that was made for as many classes as there are.
    fn fit_of(config: &PipelineConfig) -> Vec<Change> {
        fit(config, 1, |_| false, &Context::default()).unwrap()
    }
}

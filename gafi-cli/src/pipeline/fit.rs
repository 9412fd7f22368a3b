//! A preset, made for a set of its own, fitted to other data: what it holds out, how many images it asks for, and how the GAN is kept
//! from learning few images by heart.

use anyhow::Result;
use gafi_core::{Context, Split};
use gafi_data::{Channels, Fit, Import};
use gafi_gan::Augment;
use serde_json::{Value, json};

use super::config::PipelineConfig;

/// Of a class, the part that may be held out for validation, and the part that becomes the test split where the source has none:
/// one in so many.
const HELD_OUT: u64 = 5;

/// A classifier's epochs become at most so many times as many.
const MOST_PASSES: u64 = 50;

/// A GAN gets DiffAugment when it learns from fewer images than this, a fifth of CIFAR-10, which is where Zhao et al. 2020
/// (arXiv 2006.10738) saw it help most, ...
const FEW_FOR_A_GAN: u64 = 10_000;

/// ... and sees each of them more often than this. It slows learning down, and is worth that only where there is time to learn images
/// by heart: our small GAN lost by it in 32 passes, not in 64, and gained in 167 (`docs/results.md`).
const PASSES_OF_A_GAN: u64 = 100;

/// A change of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    /// The key, dotted.
    pub(crate) key: &'static str,
    /// Its value.
    pub(crate) value: Value,
    /// Why, for people.
    pub(crate) why: String,
}

/// What the data of `config` asks to be changed in it.
///
/// Classes need nothing, they are the images' own. Images are brought to one shape where they have several or too large a one, and
/// numbers of images are changed where the data has too few for what `config` says.
///
/// # Errors
/// When the data is not there or cannot be read.
pub(crate) fn fit(config: &PipelineConfig, cx: &Context) -> Result<Vec<Change>> {
    let survey = Import::new(&config.data, Split::Train, cx)?.survey()?;
    let mut changes = Vec::new();
    let (small, large) = (survey.smallest, survey.largest);
    if config.data.channels == Channels::Keep && small.channels != large.channels {
        let why = "there are grey images and coloured ones".into();
        changes.push(Change { key: "data.channels", value: json!(3), why });
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
            changes.push(Change { key: "data.fit", value: json!(Fit::Resize), why });
        }
    }
    let mut left = survey.counts.iter().copied().min().unwrap_or(0);
    let mut all: u64 = survey.counts.iter().sum();
    if !survey.has_test && config.data.test_fraction.is_none() {
        let value = json!(1.0 / HELD_OUT as f64);
        let why = "the source has no test images of its own".into();
        changes.push(Change { key: "data.test_fraction", value, why });
        left -= left / HELD_OUT;
        all -= all / HELD_OUT;
    }
    let wanted = config.data.val_per_class.unwrap_or(0) as u64;
    let most = (left / HELD_OUT).max(1);
    if wanted > most {
        let why = format!("{wanted} would be more than a fifth of the smallest class");
        changes.push(Change { key: "data.val_per_class", value: json!(most), why });
    }
    left = left.saturating_sub(wanted.min(most));
    all = all.saturating_sub(wanted.min(most) * survey.counts.len() as u64);
    let passes = (config.gan.schedule(all).steps.saturating_mul(config.gan.batch as u64)).checked_div(all).unwrap_or(0);
    let by_heart = all < FEW_FOR_A_GAN && passes > PASSES_OF_A_GAN;
    if by_heart && config.gan.augment.is_empty() && config.trained_generators.is_empty() {
        let why = format!(
            "DiffAugment, because in {passes} passes the discriminator would learn {all} images by heart; \
             --set gan.augment=[] leaves it out"
        );
        let value = json!([Augment::Colour, Augment::Translation, Augment::Cutout]);
        changes.push(Change { key: "gan.augment", value, why });
    }
    if let Some(wanted) = config.per_class
        && (1..wanted).contains(&left)
    {
        let why = format!("the smallest class has fewer than {wanted} images left to train on");
        changes.push(Change { key: "per_class", value: json!(left), why });
        // A classifier that sees fewer images learns less, however many it should have learned from: more passes over them.
        let seen = wanted * u64::from(config.student.epochs);
        for (key, epochs) in [("student.epochs", config.student.epochs), ("teacher.epochs", config.teacher.epochs)] {
            let enough = seen.div_ceil(left).min(u64::from(epochs) * MOST_PASSES);
            if enough > u64::from(epochs) {
                let why = format!("{epochs} of so few images would be {} of a class", u64::from(epochs) * left);
                changes.push(Change { key, value: json!(enough), why });
            }
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gafi_data::{ImportConfig, NamedSet, ShapesConfig};
    use gafi_gan::GanConfig;

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
        // Students of 100 epochs, a teacher of 300.
        let longer = ("student.epochs", json!(102));
        assert_eq!(changes(&shapes(200, 20, 81)), [("per_class", json!(80)), longer]);
        let mut both = vec![("data.val_per_class", json!(2)), ("per_class", json!(8))];
        both.extend([("student.epochs", json!(5000)), ("teacher.epochs", json!(6250))]);
        assert_eq!(changes(&shapes(20, 400, 500)), both, "50 times as many, and as many as a student sees");
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
        let augmented = vec![("gan.augment", json!(["colour", "translation", "cutout"]))];
        assert_eq!(gan(10_020, 10, |_| ()), []);
        assert_eq!(gan(10_020, 11, |_| ()), augmented, "9,998 images are left to train on");
        // Five hundred passes, if nothing else is said.
        assert_eq!(gan(200, 10, |config| config.gan.steps = Some(285)), augmented, "101 passes over 180 images");
        assert_eq!(gan(200, 10, |config| config.gan.steps = Some(284)), []);
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
        save("b.png", image::DynamicImage::new_luma8(8, 8));
        let changes = |size, fit| -> Vec<&str> {
            let data = ImportConfig { size, fit, test_fraction: Some(0.5), ..ImportConfig::at(dir.path()) };
            let gan = GanConfig { augment: vec![Augment::Cutout], ..GanConfig::small() };
            let config = PipelineConfig { data, gan, ..PipelineConfig::default() };
            fit_of(&config).into_iter().map(|change| change.key).collect()
        };
        assert_eq!(changes(Some(8), Some(Fit::Pad)), Vec::<&str>::new());
        assert_eq!(changes(Some(8), None), ["data.fit"], "one is not of that size");
        assert_eq!(changes(Some(7), Some(Fit::Pad)), ["data.fit"], "one is larger");
        assert_eq!(changes(Some(7), Some(Fit::Resize)), Vec::<&str>::new());
        save("c.png", image::DynamicImage::new_rgb8(8, 8));
        assert_eq!(changes(Some(8), Some(Fit::Pad)), ["data.channels"]);
    }

    fn fit_of(config: &PipelineConfig) -> Vec<Change> {
        fit(config, &Context::default()).unwrap()
    }
}

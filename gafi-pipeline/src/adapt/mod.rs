//! Adapts a configuration to images other than those it was made for: what it holds out, how many images a set has, how long
//! classifiers train, and how to keep a GAN from memorising a small set.

use anyhow::Result;
use gafi_core::{Context, GeneratorInfo, Split};
use gafi_data::{Channels, Fit, Import, ImportConfig, Survey};
use gafi_expand::StdRange;
use gafi_gan::Augment;
use serde_json::{Value, json};

use crate::config::PipelineConfig;
use crate::usage::Usage;

mod mirror;

pub use mirror::adapt_mirroring;

/// Minimum number of training images of a class from which a GAN or a classifier learns anything.
const FEWEST: u64 = 10;

/// At most one in this many images of a class is held out for validation, and as many for testing if the source has no test split.
const HELD_OUT: u64 = 5;

/// Largest factor by which a classifier's epochs are multiplied.
const MOST_PASSES: u64 = 50;

/// DiffAugment as its authors' scripts train BigGAN on parts of CIFAR. Colour changes would hide from the discriminator which
/// colours exist, and cost students accuracy on the tutorial's images (`docs/log/results.md`).
const FOR_FEW: [Augment; 2] = [Augment::Translation, Augment::Cutout];

/// DiffAugment is switched on for GANs that train on fewer images than this: a fifth of CIFAR-10, where it helped most in
/// Zhao et al. 2020 (arXiv 2006.10738).
const FEW_FOR_A_GAN: u64 = 10_000;

/// The GAN must also see each image more often than this. DiffAugment slows learning down, and pays off only if a GAN has time
/// to memorise images: our small GAN lost over 32 passes, broke even over 64 and gained over 167 (`docs/log/results.md`).
const PASSES_OF_A_GAN: u64 = 100;

/// A change to a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key, dotted.
    pub key: &'static str,
    /// Its new value.
    pub value: Value,
    /// The reason, for the log.
    pub why: String,
}

/// The changes that adapt a configuration to its trained generators: `data.size`, `data.channels` and `data.fit` bring the real
/// images to the shape of theirs, and only std 1 is searched if one of them draws its own noise. Keys that `is_explicit` stay as
/// they are. Nothing is downloaded.
///
/// # Errors
/// When a generator cannot be opened, is of another kind, or lacks a checkpoint to search.
pub fn adapt_to_generators(
    config: &PipelineConfig,
    is_explicit: impl Fn(&str) -> bool,
    cx: &Context,
) -> Result<Vec<Change>> {
    let generators = config.open_generators()?.iter().map(GeneratorInfo::of).collect::<gafi_core::Result<Vec<_>>>()?;
    let Some(GeneratorInfo { image, .. }) = generators.first() else { return Ok(Vec::new()) };
    // If the images are known to have this shape, a change would only give their artifacts other fingerprints.
    let offline = ImportConfig { offline: true, ..config.data.clone() };
    let known = Import::new(&offline, Split::Train, cx).and_then(|import| Ok(import.preview()?.image)).ok();
    let why = format!("the generator's images are {image}");
    let mut changes = Vec::new();
    let mut change = |key: &'static str, value: Value, why: &str| {
        if !is_explicit(key) {
            changes.push(Change { key, value, why: why.into() });
        }
    };
    let size_fits = match known {
        Some(known) => (known.height, known.width) == (image.height, image.width),
        None => config.data.size == Some(image.width),
    };
    if image.height == image.width && !size_fits {
        change("data.size", json!(image.width), &why);
        // Images that fit into a larger frame need not fit into this one.
        if config.data.fit == Some(Fit::Pad) && config.data.size.is_some_and(|size| size > image.width) {
            change("data.fit", json!(Fit::Resize), &why);
        }
    }
    let channels = if image.channels == 1 { Channels::Grey } else { Channels::Rgb };
    if known.map_or(config.data.channels != channels, |known| known.channels != image.channels) {
        change("data.channels", json!(image.channels), &why);
    }
    if generators.iter().any(|generator| !generator.takes_std()) {
        let why = "the generator draws its own noise and takes no std";
        let one = [StdRange::default()];
        if config.search.stds != one {
            change("search.stds", json!(one), why);
        }
        let mut variants = config.variants.clone();
        variants.iter_mut().filter(|variant| !variant.stds.is_empty()).for_each(|variant| variant.stds = one.into());
        if variants != config.variants {
            change("variants", json!(variants), why);
        }
    }
    Ok(changes)
}

/// The changes that adapt `config`, which was made for images of `made_for` classes, to its data. Keys (dotted) that `is_explicit`
/// stay as they are, and so does everything that would follow from changing them. A preset without a set of its own (`made_for`
/// 0) is made for the images that it is given: its set size and GAN stay as published.
///
/// If the source has validation images of its own, they are used instead of holding out training images, except for named sets
/// and with `data.pool_val`.
///
/// Images of several shapes, or too large ones, are brought to one shape. With fewer classes, a synthetic set and the validation
/// split get more images of each class, as far as the data has them. A student with fewer images than intended passes over them
/// more often, so that it takes as many steps.
///
/// # Errors
/// When the data cannot be found, read, or split as configured; [`Usage`] when a class has too few images.
pub fn adapt_preset(
    config: &PipelineConfig,
    made_for: usize,
    is_explicit: impl Fn(&str) -> bool,
    cx: &Context,
) -> Result<Vec<Change>> {
    let import = Import::new(&config.data, Split::Train, cx)?;
    let survey = import.survey()?;
    let mut changes = Vec::new();
    let mut data = config.data.clone();
    let mut available = survey.counts.clone();
    if data.pool_val {
        available.iter_mut().zip(&survey.val_counts).for_each(|(available, val)| *available += val);
    } else if data.set.is_none() && survey.has_val {
        changes = keep_own_val(&mut data, survey.val_counts.iter().sum(), &is_explicit);
    }
    // Returns whether it made the change.
    let mut change = |key: &'static str, value: Value, why: String| {
        let free = !is_explicit(key);
        if free {
            changes.push(Change { key, value, why });
        }
        free
    };
    adapt_shape(&config.data, &survey, &mut change);

    // Decide what is held out first; then the import counts what remains.
    if !survey.has_test {
        let share = 1.0 / HELD_OUT as f64;
        let why = "the source has no test images of its own";
        if data.test_fraction.is_none() && change("data.test_fraction", json!(share), why.into()) {
            data.test_fraction = Some(share);
        }
        // Validation images are held out of what is left, and may be more than there are.
        let only_test = ImportConfig {
            test_limit: None,
            val_per_class: None,
            val_fraction: Some(0.0),
            screen_fraction: 0.0,
            ..data.clone()
        };
        let test = import.counts(&only_test, Split::Test)?;
        available.iter_mut().zip(test).for_each(|(available, test)| *available -= test);
    }
    let most = (available.iter().copied().min().unwrap_or(0) / HELD_OUT).max(1);
    let classes = available.len().max(1);
    // Images of each class that give the same total as `wanted` of each class that the preset was made for.
    let in_all = |wanted: u64| wanted.saturating_mul(classes.max(made_for) as u64).div_ceil(classes as u64);
    let as_many = |wanted: u64, limit: &str| match limit {
        "" => format!("with {classes} classes, as many images in total as {wanted} for each of {made_for} classes"),
        limit => {
            format!("{limit}; {} would give the total of {wanted} for each of {made_for} classes", in_all(wanted))
        }
    };
    if let Some(wanted) = data.val_per_class.map(|wanted| wanted as u64) {
        let held = in_all(wanted).min(most);
        let why = if most < wanted {
            format!("{wanted} would be more than a fifth of the smallest class")
        } else if held < in_all(wanted) {
            as_many(wanted, "a fifth of the smallest class")
        } else {
            as_many(wanted, "")
        };
        if held != wanted && change("data.val_per_class", json!(held), why) {
            data.val_per_class = Some(held as usize);
        }
    }
    let counts = import.counts(&data, Split::Train)?;
    let left = counts.iter().copied().min().unwrap_or(0);
    let all = counts.iter().sum::<u64>();

    if config.per_class.is_none_or(|wanted| FEWEST <= wanted) && !is_explicit("per_class") && left < FEWEST {
        let few: Vec<String> = counts
            .iter()
            .zip(&survey.classes)
            .filter(|(count, _)| **count < FEWEST)
            .map(|(count, name)| format!("{name} ({count})"))
            .collect();
        return Err(Usage(format!(
            "too few images: expected at least {FEWEST} of each class to train on, besides those that are held out, found {}; add \
             images, leave such a class out, or set per_class",
            few.join(", ")
        ))
        .into());
    }

    let passes = (config.gan.schedule(all).steps.saturating_mul(config.gan.batch as u64)).checked_div(all).unwrap_or(0);
    let memorises = made_for > 0 && all < FEW_FOR_A_GAN && passes > PASSES_OF_A_GAN;
    if memorises && config.gan.augment.is_empty() && config.trained_generators.is_empty() {
        let why = format!(
            "DiffAugment, because in {passes} passes the discriminator would memorise {all} images; gan.augment = [] switches it off"
        );
        change("gan.augment", json!(FOR_FEW), why);
    }
    if let Some(wanted) = config.per_class.filter(|_| made_for > 0) {
        let intended = in_all(wanted);
        let classes = classes as u64;
        let per_class = intended.min(left).max(1);
        let why = if left < wanted {
            format!("the smallest class has fewer than {wanted} images left to train on")
        } else if per_class < intended {
            as_many(wanted, "all that the smallest class has left to train on")
        } else {
            as_many(wanted, "")
        };
        if !is_explicit("per_class") {
            if per_class != wanted {
                change("per_class", json!(per_class), why);
            }
            // Images that a student sees in total, and that it and the teacher see in an epoch.
            let seen = intended.saturating_mul(classes).saturating_mul(config.student.epochs.into());
            lengthen(config, seen, [per_class * classes, all], &mut change);
        }
    }
    Ok(changes)
}

/// Unsets the keys of a preset that would hold out validation images although the source has its own. An explicit key wins and is
/// reported as a change to the same value, for the log.
fn keep_own_val(data: &mut ImportConfig, own: u64, is_explicit: impl Fn(&str) -> bool) -> Vec<Change> {
    let values = [("data.val_per_class", json!(data.val_per_class)), ("data.val_fraction", json!(data.val_fraction))];
    let mut changes = Vec::new();
    for (key, value) in values.into_iter().filter(|(_, value)| !value.is_null()) {
        if is_explicit(key) {
            let why = format!("explicit, so the {own} validation images of the source are not used");
            changes.push(Change { key, value, why });
            continue;
        }
        match key {
            "data.val_per_class" => data.val_per_class = None,
            _ => data.val_fraction = None,
        }
        let why = format!("the source has {own} validation images of its own");
        changes.push(Change { key, value: Value::Null, why });
    }
    changes
}

/// Brings images of several shapes, or too large ones, to one shape.
fn adapt_shape(data: &ImportConfig, survey: &Survey, change: &mut impl FnMut(&'static str, Value, String) -> bool) {
    let small = survey.smallest;
    let large = survey.largest;
    if data.channels == Channels::Keep && small.channels != large.channels {
        change("data.channels", json!(3), "some images are grey, others are coloured".into());
    }
    let Some(size) = data.size else { return };
    let fits = match data.fit {
        Some(Fit::Pad) => large.height.max(large.width) <= size,
        Some(Fit::Resize | Fit::Crop) => true,
        None => [small.height, small.width, large.height, large.width].iter().all(|&side| side == size),
    };
    if !fits {
        let range =
            |least: usize, most: usize| if least == most { most.to_string() } else { format!("{least} to {most}") };
        let rows = range(small.height, large.height);
        let columns = range(small.width, large.width);
        let why = format!(
            "images of {rows} rows and {columns} columns are scaled to {size}x{size}, which stretches those that are not square"
        );
        change("data.fit", json!(Fit::Resize), why);
    }
}

/// Lengthens student and teacher, which see `an_epoch` images per epoch, until they see `seen` images in total: a classifier that
/// sees fewer images takes fewer steps and learns less. Everything else that is counted in epochs is scaled with them.
fn lengthen(
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
        let why = format!("the preset's {epochs} epochs would be only {} steps", steps(epochs));
        if enough <= epochs || !change(length, json!(enough), why) {
            continue;
        }
        let longer = classifier.clone().rescaled(enough);
        let why = format!("at the same fractions of the training as with {epochs} epochs");
        if longer.milestones != classifier.milestones {
            change(milestones, json!(longer.milestones), why.clone());
        }
        if longer.warm_up != classifier.warm_up {
            change(warm_up, json!(longer.warm_up), why);
        }
    }
}

#[cfg(test)]
mod tests;

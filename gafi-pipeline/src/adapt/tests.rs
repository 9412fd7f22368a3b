//! Tests of adapted presets.

use super::*;
use gafi_data::{NamedSet, ShapesConfig};
use gafi_gan::{GanConfig, Length};

/// Two classes of drawn shapes, of which `val` images of each are held out.
fn shapes(train: usize, val: usize) -> ImportConfig {
    let shapes = ShapesConfig { classes: 2, train, test: 20 };
    ImportConfig { shapes, size: Some(8), val_per_class: Some(val), ..ImportConfig::named(NamedSet::Shapes) }
}

/// A pipeline whose GAN has an augmentation already.
fn augmented(data: ImportConfig, per_class: u64) -> PipelineConfig {
    let gan = GanConfig { augment: vec![Augment::Cutout], ..GanConfig::small() };
    PipelineConfig { data, per_class: Some(per_class), gan, ..PipelineConfig::default() }
}

fn values(changes: Vec<Change>) -> Vec<(&'static str, Value)> {
    changes.into_iter().map(|change| (change.key, change.value)).collect()
}

#[test]
fn numbers_shrink_with_the_data() {
    let changes = |train, val, per_class| values(adapted(&augmented(shapes(train, val), per_class)));
    assert_eq!(changes(200, 20, 80), []);
    assert_eq!(changes(200, 21, 80), [("data.val_per_class", json!(20))]);
    // Students of 100 epochs, a teacher of 300, both with the milestones of 100.
    let longer =
        [("student.epochs", json!(102)), ("student.milestones", json!([59.0 * 102.0 / 100.0, 79.0 * 102.0 / 100.0]))];
    assert_eq!(changes(200, 20, 81), [&[("per_class", json!(80))][..], &longer].concat());
    let mut both = vec![("data.val_per_class", json!(4)), ("per_class", json!(16))];
    both.extend([("student.epochs", json!(5000)), ("student.milestones", json!([2950.0, 3950.0]))]);
    both.extend([
        ("teacher.epochs", json!(6250)),
        ("teacher.milestones", json!([59.0 * 6250.0 / 300.0, 79.0 * 6250.0 / 300.0])),
    ]);
    assert_eq!(changes(40, 400, 1000), both, "50 times as many, and as many images as a student sees");
}

#[test]
fn explicit_keys_and_what_follows_from_them_stay() {
    let config = augmented(shapes(200, 40), 500);
    let changes = |explicit: &[&str]| {
        values(adapt_preset(&config, 2, |key| explicit.contains(&key), &Context::default()).unwrap())
    };
    let held_out = ("data.val_per_class", json!(20));
    assert_eq!(changes(&["per_class"]), std::slice::from_ref(&held_out), "classifiers are as long as they were");
    // 60 of 100 are left, not 80.
    assert_eq!(changes(&["data.val_per_class", "student.epochs", "teacher.epochs"]), [("per_class", json!(60))]);
    let found = changes(&["student.milestones", "teacher.epochs"]);
    assert_eq!(found, [held_out, ("per_class", json!(80)), ("student.epochs", json!(625))]);
}

#[test]
fn a_class_with_too_few_images_is_refused() {
    let config = |train, per_class| PipelineConfig { data: shapes(train, 1), per_class, ..PipelineConfig::default() };
    let refused = |config: &PipelineConfig, explicit: &[&str]| {
        let usage = adapt_preset(config, 2, |key| explicit.contains(&key), &Context::default())
            .err()
            .map(|why| why.to_string());
        usage.is_some_and(|why| why.contains("at least 10 of each class") && why.contains("(9)"))
    };
    assert!(refused(&config(20, Some(80)), &[]));
    assert!(!refused(&config(20, Some(80)), &["per_class"]), "the user knows");
    assert!(!refused(&config(22, Some(80)), &[]), "ten are left");
    assert!(!refused(&config(20, Some(9)), &[]), "the preset itself holds out so few");
}

#[test]
fn fewer_classes_get_more_images_each() {
    let fitted = |train, made_for| {
        adapt_preset(&augmented(shapes(train, 10), 80), made_for, |_| false, &Context::default()).unwrap()
    };
    let changes = |train, made_for| values(fitted(train, made_for));
    let whys = |train, made_for| fitted(train, made_for).into_iter().map(|change| change.why).collect::<Vec<_>>();
    assert_eq!(changes(1000, 2), []);
    assert_eq!(changes(1000, 6), [("data.val_per_class", json!(30)), ("per_class", json!(240))]);
    assert_eq!(changes(1000, 1), [], "more classes are more images");
    // 360 of 400: 400 / 360 times as many epochs of them.
    let longer =
        [("student.epochs", json!(112)), ("student.milestones", json!([59.0 * 112.0 / 100.0, 79.0 * 112.0 / 100.0]))];
    let larger = [("data.val_per_class", json!(50)), ("per_class", json!(400))];
    assert_eq!(changes(1000, 10), larger, "450 are left");
    let fewer = [("data.val_per_class", json!(50)), ("per_class", json!(360))];
    assert_eq!(changes(820, 10), [&fewer[..], &longer].concat());
    assert_eq!(whys(1000, 10)[1], "with 2 classes, as many images in total as 80 for each of 10 classes");
    assert_eq!(
        whys(820, 10)[1],
        "all that the smallest class has left to train on; 400 would give the total of 80 for each of 10 classes"
    );
}

#[test]
fn a_set_is_at_most_what_the_import_leaves() {
    let shapes = ShapesConfig { classes: 2, train: 200, test: 20 };
    let images = ImportConfig { shapes, size: Some(8), ..ImportConfig::named(NamedSet::Shapes) };
    let per_class = |data: ImportConfig| -> Value {
        adapted(&augmented(data, 1000)).into_iter().find(|change| change.key == "per_class").unwrap().value
    };
    assert_eq!(per_class(images.clone()), 90, "a tenth is held out by default");
    assert_eq!(per_class(ImportConfig { val_fraction: Some(0.4), ..images.clone() }), 60);
    assert_eq!(per_class(ImportConfig { val_per_class: Some(5), per_class: Some(70), ..images.clone() }), 70);
    assert_eq!(per_class(ImportConfig { limit: Some(101), ..images }), 50);

    // The test split comes out of the same rows.
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
fn a_gan_that_would_memorise_its_images_is_augmented() {
    let gan = |train, val, change: fn(&mut PipelineConfig)| {
        let gan = GanConfig { batch: 64, ..GanConfig::default() };
        let mut config = PipelineConfig { data: shapes(train, val), per_class: None, gan, ..PipelineConfig::default() };
        change(&mut config);
        values(adapted(&config))
    };
    let augmented = vec![("gan.augment", json!(["translation", "cutout"]))];
    assert_eq!(gan(10_020, 10, |_| ()), []);
    assert_eq!(gan(10_020, 11, |_| ()), augmented, "9,998 images are left to train on");
    // Five hundred passes, if nothing else is explicit.
    assert_eq!(gan(200, 10, |config| config.gan.length = Length::Steps(285)), augmented, "101 passes over 180 images");
    assert_eq!(gan(200, 10, |config| config.gan.length = Length::Steps(284)), []);
    assert_eq!(gan(200, 10, |config| config.gan.augment = vec![Augment::Colour]), [], "an explicit augmentation stays");
    assert_eq!(gan(200, 10, |config| config.trained_generators = vec!["gan".into()]), [], "none is trained");
}

#[test]
fn images_of_several_shapes_get_one_shape() {
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
        adapted(&augmented(data, 1)).into_iter().map(|change| change.key).collect()
    };
    assert_eq!(changes(Some(8), Some(Fit::Pad)), Vec::<&str>::new());
    assert_eq!(changes(Some(8), None), ["data.fit"], "one is not of that size");
    assert_eq!(changes(Some(7), Some(Fit::Pad)), ["data.fit"], "one is larger");
    assert_eq!(changes(Some(7), Some(Fit::Resize)), Vec::<&str>::new());
    save("c.png", image::DynamicImage::new_rgb8(8, 8));
    assert_eq!(changes(Some(8), Some(Fit::Pad)), ["data.channels"]);
}

#[test]
fn the_sources_own_validation_images_are_used() {
    let dir = tempfile::tempdir().unwrap();
    for (part, images) in [("train", 80), ("val", 10), ("test", 10)] {
        for class in ["a", "b"] {
            let folder = dir.path().join(part).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            (0..images).for_each(|at| image::GrayImage::new(8, 8).save(folder.join(format!("{at}.png"))).unwrap());
        }
    }
    let data = ImportConfig { size: Some(8), val_per_class: Some(4), ..ImportConfig::at(dir.path()) };
    let changes = |data: &ImportConfig, explicit: &[&str]| {
        let is_explicit = |key: &str| explicit.contains(&key);
        adapt_preset(&augmented(data.clone(), 80), 2, is_explicit, &Context::default()).unwrap()
    };
    let own = changes(&data, &[]);
    assert_eq!(own.len(), 1, "all 80 training images are left: {own:?}");
    assert_eq!((own[0].key, &own[0].value), ("data.val_per_class", &Value::Null));
    assert_eq!(own[0].why, "the source has 20 validation images of its own");
    let fraction = ImportConfig { val_per_class: None, val_fraction: Some(0.1), ..data.clone() };
    assert_eq!(changes(&fraction, &[])[0].key, "data.val_fraction");

    let explicit = changes(&data, &["data.val_per_class"]);
    assert_eq!((explicit[0].key, &explicit[0].value), ("data.val_per_class", &json!(4)));
    assert!(explicit[0].why.contains("20 validation images of the source are not used"), "{explicit:?}");
    assert_eq!((explicit[1].key, &explicit[1].value), ("per_class", &json!(76)), "four are held out");

    // A preset's own rule: 90 of each class are pooled, and four of them held out.
    let pool = ImportConfig { pool_val: true, ..data };
    assert_eq!(changes(&pool, &[]), []);
    let unset: PipelineConfig = serde_json::from_value(json!({"data": {"val_per_class": null}})).unwrap();
    assert_eq!(unset.data.val_per_class, None, "a change to null unsets the key");
}

#[test]
fn a_preset_for_the_images_it_is_given_keeps_its_set_size() {
    let dir = tempfile::tempdir().unwrap();
    for (class, images) in [("common", 60), ("rare", 15)] {
        for part in ["train", "val", "test"] {
            let folder = dir.path().join(part).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            (0..images).for_each(|at| image::GrayImage::new(8, 8).save(folder.join(format!("{at}.png"))).unwrap());
        }
    }
    // As `paper-dermamnist`: images / classes of each class, whatever the balance, and a GAN of many passes.
    let data = ImportConfig { size: Some(8), ..ImportConfig::at(dir.path()) };
    let config = PipelineConfig { data, per_class: Some(37), ..PipelineConfig::default() };
    assert_eq!(adapt_preset(&config, 0, |_| false, &Context::default()).unwrap(), []);
    let keys: Vec<_> = adapted(&config).into_iter().map(|change| change.key).collect();
    assert!(keys.contains(&"per_class") && keys.contains(&"gan.augment"), "{keys:?}");
}

/// Images of noise with a bright bar in one of two places (top, left), one for each class, in `dir/CLASS`.
fn write_bars(dir: &std::path::Path, places: [(u32, u32); 2]) {
    let mut rng = gafi_core::Stream::new(3).rng();
    for (class, (top, left)) in ["a", "b"].into_iter().zip(places) {
        let folder = dir.join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for at in 0..60 {
            let mut noise = || gafi_core::stream::below(&mut rng, 120) as u8;
            let inside = |x: u32, y: u32| (top..top + 5).contains(&y) && (left..left + 4).contains(&x);
            let image = image::GrayImage::from_fn(12, 12, |x, y| {
                let noise = noise();
                image::Luma([if inside(x, y) { 240 } else { noise }])
            });
            image.save(folder.join(format!("{at}.png"))).unwrap();
        }
    }
}

#[test]
fn mirroring_is_off_where_it_changes_the_class() {
    let auto: PipelineConfig = serde_json::from_value(json!({"flip": "auto"})).unwrap();
    let changes = |data: ImportConfig, explicit: &[&str]| {
        let config = PipelineConfig { data, gan: GanConfig { flip: true, ..GanConfig::small() }, ..auto.clone() };
        let is_explicit = |key: &str| explicit.contains(&key);
        let changes = adapt_mirroring(&config, is_explicit, &Context::default()).unwrap();
        let why = changes.first().map_or(String::new(), |change| change.why.clone());
        (values(changes), why)
    };
    let unset = ("flip", Value::Null);
    let off = |key| (key, json!(false));
    let all = vec![unset.clone(), off("teacher.augment.flip"), off("student.augment.flip"), off("gan.flip")];

    // Named sets need no images.
    let (found, why) = changes(ImportConfig::named(NamedSet::Mnist), &[]);
    assert_eq!(
        (found, why.as_str()),
        (all.clone(), "images are not mirrored, because mirrored images of mnist change their class")
    );
    let (found, why) = changes(ImportConfig::named(NamedSet::Cifar10), &[]);
    assert_eq!(found, std::slice::from_ref(&unset));
    assert!(why.starts_with("mirroring follows the stages' own keys"), "{why}");

    let dir = tempfile::tempdir().unwrap();
    write_bars(dir.path(), [(3, 1), (3, 7)]);
    let sides = ImportConfig { size: Some(12), val_per_class: Some(10), ..ImportConfig::at(dir.path()) };
    let (found, why) = changes(sides.clone(), &[]);
    assert_eq!(found, all);
    assert!(why.contains("of 100 held-out training images unmirrored and 0.0 % mirrored"), "{why}");
    let (found, _) = changes(sides, &["gan.flip"]);
    assert_eq!(found, all[..3], "an explicit key stays");

    let dir = tempfile::tempdir().unwrap();
    write_bars(dir.path(), [(1, 4), (6, 4)]);
    let (found, why) = changes(ImportConfig { size: Some(12), ..ImportConfig::at(dir.path()) }, &[]);
    assert_eq!(found, [unset]);
    assert!(why.contains("because a linear classifier recognises"), "{why}");

    let (found, _) = changes(ImportConfig::at("nowhere"), &[]);
    assert_eq!(found, [], "the run reports missing images");
}

/// Of a configuration that was made for as many classes as there are.
fn adapted(config: &PipelineConfig) -> Vec<Change> {
    adapt_preset(config, 1, |_| false, &Context::default()).unwrap()
}

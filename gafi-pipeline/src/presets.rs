//! The compiled-in presets.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::config::{Auto, Flip, PipelineConfig};
use crate::overrides::{merge, parse_toml};
use crate::usage::Usage;

/// The presets: name and TOML. One that extends another names it in its first key, `extends`.
pub const PRESETS: [(&str, &str); 11] = [
    ("quickstart", include_str!("../presets/quickstart.toml")),
    ("gafi-plus", include_str!("../presets/gafi-plus.toml")),
    ("laptop", include_str!("../presets/laptop.toml")),
    ("cpu", include_str!("../presets/cpu.toml")),
    ("gpu", include_str!("../presets/gpu.toml")),
    ("paper-fashion-mnist", include_str!("../presets/paper-fashion-mnist.toml")),
    ("paper-cifar10", include_str!("../presets/paper-cifar10.toml")),
    ("paper-cifar100", include_str!("../presets/paper-cifar100.toml")),
    ("paper-cinic10", include_str!("../presets/paper-cinic10.toml")),
    ("paper-dermamnist", include_str!("../presets/paper-dermamnist.toml")),
    ("smoke", include_str!("../presets/smoke.toml")),
];

/// Bases that presets extend and that are not presets themselves.
const BASES: [(&str, &str); 1] = [("paper", include_str!("../presets/paper.toml"))];

const EXTENDS: &str = "extends";

/// The default configuration, with `flip = "auto"`, and the preset `name` laid over it, as a tree.
///
/// # Errors
/// [`Usage`] listing the presets, for an unknown name.
pub fn preset(name: Option<&str>) -> Result<Value> {
    let Some(name) = name else {
        // The type's default is `None`, which in a recorded configuration means that `flip` has been resolved.
        let flip = Some(Flip::Auto(Auto::Auto));
        return Ok(serde_json::to_value(PipelineConfig { flip, ..PipelineConfig::default() })?);
    };
    let text = PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text).ok_or_else(|| {
        let known = PRESETS.map(|(name, _)| name).join(", ");
        Usage(format!("no preset {name:?}; expected one of {known}"))
    })?;
    tree(text)
}

fn tree(text: &str) -> Result<Value> {
    let mut own = parse_toml(text)?;
    let base = own.as_object_mut().and_then(|own| own.remove(EXTENDS));
    let mut tree = match base.as_ref().and_then(Value::as_str) {
        None => preset(None)?,
        Some(base) => {
            let text = PRESETS.iter().chain(&BASES).find(|(known, _)| *known == base).map(|(_, text)| *text);
            tree(text.with_context(|| format!("a preset extends {base:?}, which does not exist"))?)?
        }
    };
    merge(&mut tree, own);
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::DataSummary;

    /// A key, its value, and its source in the released program: a file of github.com/sup3rgiu/GaFi-Pipeline, and the key or function.
    type Golden = (&'static str, Value, &'static str);

    /// What the configurations of all of the program's data sets share.
    fn shared() -> Vec<Golden> {
        let stds: Vec<f64> = (0..=20).map(|i| f64::from(100 + 5 * i) / 100.0).collect();
        let biggan = json!({"name": "biggan-deep", "ch": 128, "depth": 2, "z": 128, "shared": 128});
        let ema = json!({"decay": 0.9999, "start": 1000, "warm_up": false});
        vec![
            ("flip", json!(true), "configs/*: random_flip, horizontal_flip"),
            ("ablation", json!("gafi"), "run_pipeline.py: none"),
            ("gan.dtype", json!("f32"), "configs/*/BigGAN_deep.yaml: mixed_precision"),
            ("protocol", json!("paper"), "run_pipeline.py: testing_dataset = test_ds"),
            (
                "real",
                json!("teacher"),
                "README.md: step 1 of the usage trains one classifier on real data; utils/misc.py: load_classifier filters with it",
            ),
            ("data.size", json!(32), "configs/*: image_size"),
            ("gan.architecture", biggan, "configs/*/BigGAN_deep.yaml: g_conv_dim, g_depth, latent_dim, shared_dim"),
            ("gan.batch", json!(64 * 3), "train_gan.py: batch_size times d_updates_per_step"),
            ("gan.d_steps", json!(3), "configs/*/BigGAN_deep.yaml: d_updates_per_step"),
            ("gan.drop_last", json!(true), "configs/*/BigGAN_deep.yaml: drop_remainder"),
            ("gan.g_lr", json!(2e-4), "configs/*/BigGAN_deep.yaml: g_lr"),
            ("gan.d_lr", json!(2e-4), "configs/*/BigGAN_deep.yaml: d_lr"),
            ("gan.betas", json!([0.5, 0.999]), "configs/*/BigGAN_deep.yaml: g_beta1, g_beta2"),
            ("gan.eps", json!(1e-6), "configs/*/BigGAN_deep.yaml: adam_eps"),
            ("gan.loss", json!("hinge"), "configs/*/BigGAN_deep.yaml: LOSS.type"),
            ("gan.flip", json!(true), "configs/*/BigGAN_deep.yaml: horizontal_flip"),
            ("gan.ema", ema, "configs/*/BigGAN_deep.yaml: g_ema_decay, g_ema_start"),
            (
                "gan.bn",
                json!("averaged"),
                "models/training_models.py: the average is over all weights, buffers included",
            ),
            ("gan.augment", json!([]), "configs/*/BigGAN_deep.yaml: none"),
            ("teacher.epochs", json!(300), "configs/*/ResNet20.yaml: epochs"),
            ("student.epochs", json!(100), "configs/*/Pipeline.yaml: epochs"),
            ("search.stds", json!(stds), "configs/*/Pipeline.yaml: stddev_search"),
            ("search.checkpoints", json!([]), "run_pipeline.py: all of ckpt_epochs"),
            ("search.strategy", json!("grid"), "run_pipeline.py: a student of full length for each value"),
            (
                "search.recycle",
                json!({"period": 10, "factor": 1.0}),
                "run_pipeline.py: recycling_period, recycling_factor",
            ),
            ("search.filter.attempts", json!("rounds"), "utils/misc.py: generate_dataset"),
            (
                "recycle",
                json!({"period": 1, "factor": 1.0}),
                "run_pipeline.py, step 4: recycling_period, recycling_factor",
            ),
        ]
    }

    /// What teacher and student share.
    fn classifier() -> Vec<Golden> {
        let augment = json!({"flip": true, "crop": 4, "crop_fill": "grey", "cutout": true, "erase": 0.0});
        vec![
            ("architecture", json!({"name": "resnet", "depth": 20, "width": 64}), "configs/*/ResNet20.yaml: MODEL"),
            ("batch", json!(128), "configs/*/ResNet20.yaml: batch_size"),
            ("optimizer", json!("sgdw"), "configs/*/ResNet20.yaml: optimizer"),
            ("lr", json!(0.1), "configs/*/ResNet20.yaml: lr"),
            ("momentum", json!(0.9), "configs/*/ResNet20.yaml: momentum"),
            ("nesterov", json!(true), "configs/*/ResNet20.yaml: nesterov"),
            ("weight_decay", json!(1e-4), "configs/*/ResNet20.yaml: weight_decay"),
            ("schedule", json!("milestones"), "utils/callbacks.py: lr_scheduler"),
            (
                "milestones",
                json!([59, 79]),
                "utils/train_fns.py and train_classifier.py: milestones=[60, 80], counted from 1",
            ),
            ("label_smoothing", json!(0.0), "train_classifier.py: CategoricalCrossentropy()"),
            ("dtype", json!("f32"), "configs/*/ResNet20.yaml: mixed_precision"),
            ("ema", Value::Null, "train_classifier.py: none"),
            ("augment", augment, "configs/*/ResNet20.yaml: AUG; utils/augmentation.py"),
        ]
    }

    /// Checks a preset against the program, and its cost for `images` that the GAN trains on: updates and searched checkpoints.
    fn check(name: &str, own: Vec<Golden>, images: u64, (updates, checkpoints): (u64, usize)) {
        let tree = preset(Some(name)).unwrap();
        let keys = |table: &str, golden: Vec<Golden>| -> Vec<(String, Value, &str)> {
            golden.into_iter().map(|(key, value, source)| (format!("{table}{key}"), value, source)).collect()
        };
        let golden =
            [keys("", shared()), keys("teacher.", classifier()), keys("student.", classifier()), keys("", own)];
        for (key, value, source) in golden.concat() {
            let found = tree.pointer(&format!("/{}", key.replace('.', "/"))).unwrap_or(&Value::Null);
            let agree = match (found, &value) {
                // Keys beyond the program's are not compared.
                (Value::Object(found), Value::Object(value)) => value.iter().all(|(key, v)| found.get(key) == Some(v)),
                _ => *found == value,
            };
            assert!(agree, "{name}: {key} = {found}, but {value} in {source}");
        }
        let config: PipelineConfig = serde_json::from_value(tree).unwrap();
        let schedule = config.gan.schedule(images);
        assert_eq!((schedule.steps, schedule.checkpoints.len()), (updates, checkpoints), "{name}");
        let presumed = DataSummary::presumed(&config);
        if config.data.set.is_some() {
            assert_eq!(presumed.gan_rows(), images, "{name}: training and validation images");
        }
    }

    /// What every data set has, with values of its own: the GAN's epochs and the first one searched, and thresholds up to `most`
    /// tenths.
    fn own(per_class: u64, generators: usize, epochs: u64, from: u64, most: u32) -> Vec<Golden> {
        let thresholds: Vec<f64> = (0..=most).map(|i| f64::from(i) / 10.0).collect();
        vec![
            ("per_class", json!(per_class), "run_pipeline.py: int(dataset_size / num_classes)"),
            ("generators", json!(generators), "configs/*/MultiGAN.yaml: gan_names"),
            ("gan.length", json!({"epochs": epochs}), "configs/*/BigGAN_deep.yaml: epochs"),
            (
                "gan.checkpoints",
                json!({"every": {"epochs": 10}, "from": {"epochs": from}}),
                "configs/*/Pipeline.yaml: ckpt_epochs",
            ),
            ("search.thresholds", json!(thresholds), "configs/*/Pipeline.yaml: threshold_search"),
        ]
    }

    const SPLIT: &str = "utils/datasets.py: test_size=len(X_test)";
    const ATTEMPTS: &str = "configs/*/Pipeline.yaml: filtering_attempts";

    #[test]
    fn paper_cifar10_is_the_program() {
        let mut own = own(4000, 3, 500, 150, 9);
        own.extend([
            ("data.set", json!("cifar10"), "configs/CIFAR10"),
            ("data.val_per_class", json!(1000), SPLIT),
            ("search.filter.max_rounds", json!(0), "configs/CIFAR10/Pipeline.yaml: filtering_attempts = -1"),
        ]);
        check("paper-cifar10", own, 50_000, (130_000, 36));
    }

    #[test]
    fn paper_cifar100_is_the_program() {
        let mut own = own(400, 3, 500, 150, 9);
        own.extend([
            ("data.set", json!("cifar100"), "configs/CIFAR100"),
            ("data.val_per_class", json!(100), SPLIT),
            ("search.filter", json!({"attempts": "rounds", "max_rounds": 10, "on_exhausted": "backfill"}), ATTEMPTS),
        ]);
        check("paper-cifar100", own, 50_000, (130_000, 36));
    }

    #[test]
    fn paper_fashion_mnist_is_the_program() {
        let mut own = own(5000, 6, 300, 50, 9);
        own.extend([
            ("data.set", json!("fashion-mnist"), "configs/FashionMNIST"),
            ("data.fit", json!("pad"), "configs/FashionMNIST: padding"),
            ("data.val_per_class", json!(1000), SPLIT),
            ("search.filter.max_rounds", json!(0), "configs/*/Pipeline.yaml: filtering_attempts = -1"),
        ]);
        check("paper-fashion-mnist", own, 60_000, (93_600, 26));
    }

    #[test]
    fn paper_cinic10_is_the_program() {
        let pooled = "utils/datasets.py: np.vstack([X_train, X_val]), test_size=10000";
        let mut own = own(17_000, 3, 500, 150, 9);
        own.extend([
            ("data.pool_val", json!(true), pooled),
            ("search.filter.max_rounds", json!(0), "configs/*/Pipeline.yaml: filtering_attempts = -1"),
            ("data.channels", json!(3), "utils/cinic10.py: _read_image"),
            ("data.val_per_class", json!(1000), pooled),
        ]);
        // floor(180,000 / 192) = 937 steps an epoch.
        check("paper-cinic10", own, 180_000, (468_500, 36));
    }

    #[test]
    fn paper_dermamnist_is_the_program() {
        let lanczos = "utils/datasets.py: Image.Resampling.LANCZOS";
        // 7,007 images of 7 classes.
        let mut own = own(7007 / 7, 3, 150, 10, 5);
        own.extend([
            ("data.fit", json!("resize"), "configs/DermaMNIST: resize"),
            ("data.resample", json!("lanczos"), lanczos),
            ("data.val_per_class", Value::Null, "utils/datasets.py: med_ds['val_images']"),
            ("search.filter.max_rounds", json!(0), "configs/*/Pipeline.yaml: filtering_attempts = -1"),
        ]);
        // floor((7,007 + 1,003) / 192) = 41 steps an epoch.
        check("paper-dermamnist", own, 8_010, (6_150, 15));
    }
}

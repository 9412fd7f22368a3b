//! The key figures of an artifact, in a few lines.

use gafi_core::{Artifact, DatasetInfo, ImageSpec, Kind, printable};
use serde_json::Value;

/// The lines about `artifact`; empty if its manifest has no known figures.
pub(crate) fn lines(artifact: &Artifact) -> Vec<String> {
    let content = &artifact.manifest().content;
    match artifact.kind() {
        Kind::Dataset => DatasetInfo::of(artifact).map(|info| vec![dataset(&info)]).unwrap_or_default(),
        Kind::Trials => trials(content),
        Kind::Classifier | Kind::Generator => model(content).into_iter().collect(),
    }
}

fn dataset(info: &DatasetInfo) -> String {
    let DatasetInfo { image, split, classes, counts, .. } = info;
    let least = counts.iter().min().unwrap_or(&0);
    let most = counts.iter().max().unwrap_or(&0);
    let each = if least == most { least.to_string() } else { format!("{least} to {most}") };
    format!("{} images of {image}, split {split}: {each} per class, {} classes", info.rows(), classes.len())
}

fn model(content: &Value) -> Option<String> {
    let name = content["architecture"]["name"].as_str()?;
    let image: ImageSpec = serde_json::from_value(content["image"].clone()).ok()?;
    let classes = content["classes"].as_array()?.len();
    let steps: Vec<String> = content["checkpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|checkpoint| checkpoint["step"].to_string())
        .collect();
    let steps = match steps.as_slice() {
        [] => String::new(),
        [step] => format!(", checkpoint at step {step}"),
        steps => format!(", checkpoints at steps {}", steps.join(", ")),
    };
    Some(format!("{name}, images of {image} in {classes} classes{steps}"))
}

/// An evaluation's accuracy, or the measures of an audit or a probe.
fn trials(content: &Value) -> Vec<String> {
    let number = |value: &Value| value.as_f64();
    if let (Some(accuracy), Some(n)) = (number(&content["accuracy"]), content["n"].as_u64()) {
        let split = content["split"].as_str().unwrap_or("unknown");
        return vec![format!("accuracy {:.2} % on {n} images, split {split}", 100.0 * accuracy)];
    }
    if content["balance"].is_null() {
        // A probe. Its measures are only meaningful in comparison, so they have no explanation.
        let measures = content.as_object().into_iter().flatten();
        return measures.filter_map(|(name, value)| Some(format!("{name:<30} {:>8.3}", number(value)?))).collect();
    }
    let prdc = &content["fidelity"]["prdc"];
    let known = [
        ("acceptance", &content["acceptance"], "share of samples that the teacher assigns to their class"),
        (
            "precision",
            &prdc["precision"],
            "share of samples close to a real image in the teacher's features (1 is best)",
        ),
        ("recall", &prdc["recall"], "share of real images close to a sample: variety (1 is best)"),
        ("density", &prdc["density"], "samples around real images, relative to real ones (1 equals real)"),
        ("coverage", &prdc["coverage"], "share of real images with a sample in their neighbourhood (1 is best)"),
        ("Fréchet", &content["fidelity"]["frechet_teacher"], "Fréchet distance in the teacher's features (0 is best)"),
        ("balance", &content["balance"], "size of the smallest class relative to the largest"),
        ("near real", &content["near_real"], "samples that nearly equal a real image"),
        ("equal real", &content["equal_real"], "samples that equal a real image, pixel for pixel"),
    ];
    let line = |(name, value, what): (&str, &Value, &str)| {
        let value = number(value)?;
        let value =
            if value.fract() == 0.0 && name.ends_with("real") { format!("{value}") } else { format!("{value:.3}") };
        Some(format!("{name:<10} {value:>8}  {what}"))
    };
    let hint = content["hint"].as_str().map(printable);
    known.into_iter().filter_map(line).chain(hint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn known_figures_are_shown() {
        let lines = trials(&json!({"accuracy": 0.875, "n": 120, "split": "test"}));
        assert_eq!(lines, ["accuracy 87.50 % on 120 images, split test"]);
        let audit = json!({"acceptance": 0.5, "balance": 1.0, "fidelity": {"prdc": {"recall": 0.25}}, "near_real": 3});
        let lines = trials(&audit);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0].starts_with("acceptance    0.500  share"), "{lines:?}");
        assert!(lines[3].starts_with("near real         3  samples"), "{lines:?}");
        let shifted = trials(&json!({"acceptance": 0.01, "balance": 1.0, "hint": "Labels look shifted\u{1b}"}));
        assert_eq!(shifted[2..], ["Labels look shifted\\u001b"]);
        assert_eq!(trials(&json!({"recall": 0.25, "else": true})), [format!("{:<30} {:>8}", "recall", "0.250")]);
    }
}

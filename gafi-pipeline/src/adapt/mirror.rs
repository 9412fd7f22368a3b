//! Resolves `flip`: whether images are mirrored.

use anyhow::Result;
use gafi_audit::mirror_accuracy;
use gafi_core::{Context, Split, Stream};
use gafi_data::{Fit, Import, ImportConfig};
use serde_json::{Value, json};

use super::Change;
use crate::config::{Flip, PipelineConfig};

/// Maximum number of images examined, over all classes.
const SAMPLE: usize = 4_000;
/// Largest height and width in pixels at which they are examined.
const SIDE: usize = 32;
/// Mirroring is switched off if it costs a closed-form classifier this much accuracy.
const LOSS: f64 = 0.01;

/// The changes that resolve `flip = "auto"` of `config`. If images change their class when mirrored, mirroring is switched off in
/// the stages' own keys, except those that `is_explicit`; otherwise the stages' keys stay. `flip` itself is unset.
///
/// For a named set this is known; otherwise a closed-form classifier is fitted to training images and evaluated on held-out
/// ones, plain and mirrored.
///
/// # Errors
/// When the images cannot be found, read, or split as configured.
pub fn adapt_mirroring(
    config: &PipelineConfig,
    is_explicit: impl Fn(&str) -> bool,
    cx: &Context,
) -> Result<Vec<Change>> {
    if !matches!(config.flip, Some(Flip::Auto(_))) {
        return Ok(Vec::new());
    }
    let Some((off, why)) = loses_when_mirrored(&config.data, cx)? else { return Ok(Vec::new()) };
    let effect = if off { "images are not mirrored" } else { "mirroring follows the stages' own keys" };
    let resolved = Change { key: "flip", value: Value::Null, why: format!("{effect}, because {why}") };
    let keys = [
        ("teacher.augment.flip", config.teacher.augment.flip),
        ("student.augment.flip", config.student.augment.flip),
        ("gan.flip", config.gan.flip),
    ];
    let switched = keys.into_iter().filter(|&(key, now)| off && now && !is_explicit(key));
    let switched = switched.map(|(key, _)| Change { key, value: json!(false), why: "set by flip = \"auto\"".into() });
    Ok([resolved].into_iter().chain(switched).collect())
}

/// Whether mirrored images change their class, and how that is known; `None` if the images are not on this machine, which the
/// run reports.
fn loses_when_mirrored(data: &ImportConfig, cx: &Context) -> Result<Option<(bool, String)>> {
    if let Some(set) = data.set {
        let keeps = set.keeps_classes_when_mirrored();
        return Ok(Some((
            !keeps,
            format!("mirrored images of {set} {} their class", if keeps { "keep" } else { "change" }),
        )));
    }
    let data = match data.size {
        Some(size) if size <= SIDE => data.clone(),
        _ => ImportConfig { size: Some(SIDE), fit: Some(Fit::Resize), ..data.clone() },
    };
    // A dataset of the hub is downloaded.
    if data.path.as_ref().is_none_or(|path| !path.exists() && !path.starts_with("hf:")) {
        return Ok(None);
    }
    let import = Import::new(&data, Split::Train, cx)?;
    let counts = import.counts(&data, Split::Train)?;
    if let Some(class) = counts.iter().position(|&count| count < 2) {
        return Ok(Some((false, format!("class {class} has a single training image, too few to decide"))));
    }
    let per_class = (SAMPLE / counts.len().max(1)).max(2);
    let images = import.sample(per_class, &Stream::new(data.seed).child("mirror"), cx)?;
    let found = mirror_accuracy(&images, per_class, data.seed, cx)?;
    let why = format!(
        "a linear classifier recognises {:.1} % of {} held-out training images unmirrored and {:.1} % mirrored",
        100.0 * found.plain,
        found.n,
        100.0 * found.mirrored
    );
    Ok(Some((found.plain - found.mirrored >= LOSS, why)))
}

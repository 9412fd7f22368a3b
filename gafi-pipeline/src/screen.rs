//! Screening without training: classifiers in closed form on the samples of each setting, for the cheap search.

use anyhow::Result;
use gafi_audit::{PROBE_FILE, Probe, ProbeRecord};
use gafi_core::{DatasetInfo, Inputs, SourceSpec};
use serde::{Deserialize, Serialize};

use crate::setting::{Infeasible, Setting};
use crate::source::SourceConfig;
use crate::students::{Classroom, going_without};
use crate::workshop::{Task, Workshop};

/// Images that a classifier in closed form learns from at the most: their features are in memory twice, 5 KiB each time.
const CLOSED_FORM_IMAGES: u64 = 20_000;

/// A setting as a classifier that is solved for sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Screened {
    /// Where its samples came from.
    pub setting: Setting,
    /// Share of real training images that it tells rightly, in [0, 1]. Not to be compared with a student's accuracy.
    pub accuracy: f64,
}

/// Judges the samples of each of `settings` by a classifier in closed form ([`gafi_audit::Probe`]) on real training images, as many
/// as there are samples. In the order of `settings`.
///
/// # Errors
/// What a stage says, but for a class that cannot be filled under a setting.
pub(crate) fn screen(
    shop: &mut Workshop,
    class: &Classroom,
    generator: usize,
    name: &str,
    settings: &[Setting],
) -> Result<Vec<Result<Screened, Infeasible>>> {
    let classes = DatasetInfo::of(class.train)?.classes.len().max(1) as u64;
    let per_class = class.per_class.min(CLOSED_FORM_IMAGES / classes).max(1);
    let task = |setting| probe(class, generator, setting, format!("{name}, closed form"), per_class as usize);
    let made = shop.try_all(settings.iter().map(task).collect::<Result<_>>()?)?;
    let judged = settings.iter().zip(made).map(|(setting, made)| {
        let artifact = match made {
            Ok(artifact) => artifact,
            Err(error) => return Ok(Err(going_without(shop, setting.clone(), &error))),
        };
        let accuracy = artifact.read_json::<ProbeRecord>(PROBE_FILE)?.accuracy;
        Ok(Ok(Screened { setting: setting.clone(), accuracy }))
    });
    judged.collect()
}

/// The probe of the samples under `setting`.
fn probe(class: &Classroom, generator: usize, setting: &Setting, name: String, per_class: usize) -> Result<Task> {
    // One generator is always the first of its port, so that equal probes are one.
    let source = SourceConfig { generator: 0, ..class.source(generator, setting) };
    let stage = Probe { source: SourceSpec::of(&source)?, per_class };
    let inputs = Inputs::new().with("generators", &class.generators[generator]).with("teacher", class.teacher);
    Ok((format!("{name} ({})", setting.samples()), Box::new(stage), inputs.with("real", class.train)))
}

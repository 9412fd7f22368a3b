//! GaFi's search, in the paper's order: checkpoint, then expansion, then threshold. It sees validation scores only.

use anyhow::{Context as _, Result};
use gafi_core::select;
use gafi_expand::StdRange;
use serde::Serialize;

use super::students::{Classroom, Setting, Student, Workshop};

/// One step of the search: what was tried and what was chosen.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// "checkpoint", "expansion" or "threshold".
    pub name: &'static str,
    /// The trials, in the order of the grid.
    pub trials: Vec<Tried>,
    /// The chosen trial, as an index into `trials`.
    pub chosen: usize,
}

/// One trial of the search.
#[derive(Debug, Clone, Serialize)]
pub struct Tried {
    /// What was tried.
    pub setting: Setting,
    /// What came of it.
    pub val: gafi_core::ValScore,
    /// Its artifact's folder, within the pipeline's.
    pub artifact: String,
}

/// What the search found.
pub(crate) struct Found {
    /// The checkpoint, standard deviation and threshold that did best.
    pub(crate) best: Setting,
    /// All of it, to be written down.
    pub(crate) steps: Vec<Step>,
}

/// Runs the search over `checkpoints` and the grids of the configuration.
///
/// # Errors
/// What a trial says.
pub(crate) fn search(shop: &mut Workshop, class: &Classroom, checkpoints: &[u64]) -> Result<Found> {
    let grids = &class.config.search;
    let recycle = Some(grids.recycle);
    let mut steps = Vec::new();

    let settings = checkpoints.iter().map(|&checkpoint| Setting {
        checkpoint,
        std: StdRange::default(),
        threshold: Some(0.0),
        recycle,
    });
    let checkpoint = step("checkpoint", shop, class, settings, &mut steps)?;

    let settings = grids.stds.iter().map(|&std| Setting { std, ..checkpoint.setting.clone() });
    let expansion = step("expansion", shop, class, settings, &mut steps)?;

    let settings = grids.thresholds.iter().map(|&t| Setting { threshold: Some(t), ..expansion.setting.clone() });
    let threshold = step("threshold", shop, class, settings, &mut steps)?;
    Ok(Found { best: threshold.setting, steps })
}

fn step(
    name: &'static str,
    shop: &mut Workshop,
    class: &Classroom,
    settings: impl Iterator<Item = Setting>,
    steps: &mut Vec<Step>,
) -> Result<Student> {
    let mut students = Vec::new();
    for setting in settings {
        students.push(shop.student(&format!("{name} search"), class, setting)?);
    }
    let scores = students.iter().enumerate().map(|(i, s)| (i, s.val));
    let (chosen, val) = select(scores).with_context(|| format!("the {name} search has nothing to try"))?;
    shop.session.bars.say(&format!(
        "           {name} search chose {} (val {:.2} %)",
        students[chosen].setting,
        100.0 * val.accuracy()
    ));
    let tried = |s: &Student| Tried {
        setting: s.setting.clone(),
        val: s.val,
        artifact: s.artifact.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    steps.push(Step { name, trials: students.iter().map(tried).collect(), chosen });
    Ok(students.swap_remove(chosen))
}

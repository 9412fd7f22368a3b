//! Samples for the page: drawn with the settings of row `gafi`, before its filter, and scored by the teacher. Only this part runs
//! networks.
//!
//! Samples are the first by index, not picked. Real images are those that the GAN trained on; no other split is opened. The number
//! of images drawn, shown and compared does not grow with the run.

mod judged;
mod neighbours;
mod origin;

use anyhow::Result;
use gafi_core::{ClassId, Context, GeneratorInfo, ImageSpec, Scorer};
use gafi_filter::{Accept, Rule};
use gafi_pipeline::record::StepKind;

use crate::run::Run;
use crate::thumbnail::Thumbnail;

use judged::Judged;
pub(crate) use judged::{BINS, Confidences};
pub(crate) use neighbours::{Neighbours, first_of_each_class};
pub(crate) use origin::Origin;

/// Samples drawn in total.
const DRAWN: usize = 1000;
/// Minimum and maximum number of samples of each class.
const DRAWN_PER_CLASS: (usize, usize) = (10, 96);
/// Classes with a grid of samples.
const GRIDS: usize = 16;
/// Accepted samples in a grid, and as many rejected ones.
const SHOWN: usize = 8;
/// Classes whose samples are shown at several std and beside their nearest real images.
const CLOSE_UPS: usize = 10;
/// Latents of a class shown at several std.
const LATENTS: usize = 2;
/// Samples of a class shown beside their nearest real images.
const COMPARED: usize = 3;
/// The std shown when the search tried fewer than three.
const STDS: [f64; 5] = [0.5, 1.0, 1.25, 1.5, 2.0];

/// The samples on the page and what the teacher predicts for them.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// Generator, checkpoint and std in words.
    pub(crate) description: String,
    /// The threshold of the student's filter; `None` if it was unfiltered.
    pub(crate) threshold: Option<f64>,
    /// The std of the student's samples, if it is one number.
    pub(crate) std: Option<f64>,
    /// The teacher's confidence, for each class.
    pub(crate) confidences: Vec<Confidences>,
    /// Accepted and rejected samples. With many classes, of those that the teacher recognises least.
    pub(crate) grids: Vec<Grid>,
    /// The same latents at several std, for some classes.
    pub(crate) scaled: Vec<Scaled>,
    /// Nearest real images; `None` when left out or not available.
    pub(crate) neighbours: Option<Neighbours>,
}

/// Samples of one class.
#[derive(Debug, Default)]
pub(crate) struct Grid {
    pub(crate) class: usize,
    /// The first accepted samples.
    pub(crate) accepted: Vec<Thumbnail>,
    /// The first rejected samples.
    pub(crate) rejected: Vec<Thumbnail>,
}

/// The same latents of one class at several std.
#[derive(Debug)]
pub(crate) struct Scaled {
    pub(crate) class: usize,
    /// The std, and one picture for each latent.
    pub(crate) at: Vec<(f64, Vec<Thumbnail>)>,
}

/// Draws and scores samples of `run`; with `real`, also compares them with training images.
///
/// # Errors
/// When teacher or generator are not trained yet; when a network fails; [`gafi_core::Error::Interrupted`].
pub(crate) fn draw(run: &Run, real: bool, cx: &Context) -> Result<Samples> {
    let origin = Origin::of(run)?;
    let info = GeneratorInfo::of(origin.generator)?;
    let image = info.image;
    let classes: Vec<usize> = (0..info.classes.len()).collect();
    let per_class = (DRAWN / classes.len().max(1)).clamp(DRAWN_PER_CLASS.0, DRAWN_PER_CLASS.1);
    let mut teacher = cx.models.open_scorer(origin.teacher)?;
    let mut task = cx.progress.begin("samples", Some((classes.len() * per_class) as u64));
    let drawn = Judged::draw(&origin, None, &classes, per_class, &mut *teacher, cx, &mut *task)?;
    let confidences: Vec<_> = classes.iter().map(|&c| drawn[c].confidences(c)).collect();

    let shown = least_recognised(&confidences);
    let close_ups = &shown[..shown.len().min(CLOSE_UPS)];
    let rule = filter_rule(&origin)?;
    let mut grids = Vec::new();
    let mut compared = Vec::new();
    for &class in &shown {
        let (grid, accepted) = grid(class, &drawn[class], &rule, &image)?;
        if close_ups.contains(&class) {
            compared.extend(accepted.into_iter().take(COMPARED).map(|i| (class, i)));
        }
        grids.push(grid);
    }
    let neighbours = match origin.train.filter(|_| real && !compared.is_empty()) {
        Some(train) => neighbours::neighbours(train, &compared, &drawn, &image, &mut *teacher, cx)?,
        None => None,
    };
    let scaled = scaled(&stds(run), &origin, close_ups, &image, &mut *teacher, cx)?;
    let setting = run.record().row(crate::facts::GAFI).map(|row| row.setting());
    Ok(Samples {
        threshold: setting.and_then(|s| s.threshold),
        std: setting.map(|s| s.std.bounds()).filter(|(lo, hi)| lo == hi).map(|(lo, _)| lo),
        description: origin.description,
        confidences,
        grids,
        scaled,
        neighbours,
    })
}

/// The rule that separates accepted samples from rejected ones: the student's, or threshold 0 if it was unfiltered.
fn filter_rule(origin: &Origin) -> Result<Rule> {
    Ok(match &origin.source.filter {
        Some(filter) if filter.accept == Accept::Recognised => filter.rule()?,
        _ => Rule::new(0.0)?,
    })
}

/// The classes to show, in order: all, or the [`GRIDS`] that the teacher recognises least.
fn least_recognised(confidences: &[Confidences]) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..confidences.len()).collect();
    shown.sort_by_key(|&c| confidences[c].kept(0));
    shown.truncate(GRIDS);
    shown.sort_unstable();
    shown
}

/// The first accepted and rejected samples of a class, and the indices of all accepted ones.
fn grid(class: usize, drawn: &Judged, rule: &Rule, image: &ImageSpec) -> Result<(Grid, Vec<usize>)> {
    let mut grid = Grid { class, ..Grid::default() };
    let mut accepted = Vec::new();
    for i in 0..drawn.n {
        let passes = rule.judge(drawn.probabilities(i), ClassId(class as u32))?.accepted;
        if passes {
            accepted.push(i);
        }
        let to = if passes { &mut grid.accepted } else { &mut grid.rejected };
        if to.len() < SHOWN {
            to.push(drawn.thumbnail(i, image)?);
        }
    }
    Ok((grid, accepted))
}

/// Up to five std: those that the first search tried, ends included, or [`STDS`].
fn stds(run: &Run) -> Vec<f64> {
    let steps = run.record().searches.iter().take(1).flat_map(|search| &search.steps);
    let trials = steps.filter(|step| step.kind == StepKind::Std).flat_map(|step| &step.trials);
    let bounds = trials.map(|trial| trial.setting.std.bounds());
    let mut stds: Vec<f64> = bounds.filter(|(lo, hi)| lo == hi).map(|(lo, _)| lo).collect();
    stds.sort_by(f64::total_cmp);
    stds.dedup();
    if stds.len() < 3 {
        return STDS.to_vec();
    }
    let most = STDS.len();
    if stds.len() > most {
        stds = (0..most).map(|i| stds[i * (stds.len() - 1) / (most - 1)]).collect();
    }
    stds
}

/// The same latents of each of `classes` at each of `stds`.
fn scaled(
    stds: &[f64],
    origin: &Origin,
    classes: &[usize],
    image: &ImageSpec,
    teacher: &mut dyn Scorer,
    cx: &Context,
) -> Result<Vec<Scaled>> {
    let mut found: Vec<Scaled> = classes.iter().map(|&class| Scaled { class, at: Vec::new() }).collect();
    let mut task = cx.progress.begin("samples by std", Some((stds.len() * classes.len() * LATENTS) as u64));
    for &std in stds {
        let judged = Judged::draw(origin, Some(std), classes, LATENTS, teacher, cx, &mut *task)?;
        for (of, judged) in found.iter_mut().zip(&judged) {
            let pictures = (0..judged.n).map(|i| judged.thumbnail(i, image)).collect::<Result<_>>()?;
            of.at.push((std, pictures));
        }
    }
    Ok(found)
}

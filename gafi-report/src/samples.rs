//! What the data looks like: samples of the generator as the final student got them, judged by the teacher. Everything is
//! bounded: how many are drawn, shown and compared does not grow with the run.
//!
//! Samples are the first of their names, not picked. Real images are training images; no other split is opened.

use std::num::NonZeroUsize;

use anyhow::{Context as _, Result};
use gafi_audit::knn;
use gafi_core::{
    Artifact, ClassId, Context, Dataset, GeneratorInfo, ImageSpec, Rows, SampleSource, Scored, Scorer, Split, Task,
    argmax,
};
use gafi_expand::{Expanded, StdRange, latent_stream};
use gafi_filter::{Accept, FilterRule, Rule, Thresholds};

use super::gather::{Made, Run};
use super::pictures::{Picture, png};
use gafi_pipeline::SourceConfig;

/// Samples drawn in all, and of each class at the least and at the most.
const DRAWN: usize = 1000;
const DRAWN_PER_CLASS: (usize, usize) = (10, 96);
/// Classes with a grid of samples; with more, those that the teacher recognises least.
const GRIDS: usize = 16;
/// Samples of each sort in a grid.
const SHOWN: usize = 8;
/// Classes with pictures of the effect of the deviation and of nearest real images; latents and samples of each.
const CLOSE_UPS: usize = 10;
const LATENTS: usize = 2;
const COMPARED: usize = 3;
/// Real images that neighbours are looked for among, and neighbours of each sample.
const REFERENCES: usize = 2000;
const NEIGHBOURS: usize = 3;
/// Bins of confidences: the threshold moves in steps of one.
pub(crate) const BINS: usize = 100;
/// Deviations that are shown where the search tried fewer.
const STDS: [f64; 5] = [0.5, 1.0, 1.25, 1.5, 2.0];

/// See the module's header.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// How they were made, for people.
    pub(crate) made: String,
    /// The threshold of the student's filter; none: it took every sample, or the classes have their own.
    pub(crate) threshold: Option<f64>,
    /// The deviation that was chosen, where it is one for all classes.
    pub(crate) std: Option<f64>,
    /// Confidences of each class.
    pub(crate) confidences: Vec<Confidences>,
    /// Grids of some classes.
    pub(crate) grids: Vec<Grid>,
    /// The same latents at several deviations, of some classes.
    pub(crate) stds: Vec<Scaled>,
    /// Nearest real images; none when they were not asked for, or there are none.
    pub(crate) neighbours: Option<Neighbours>,
}

/// The teacher's confidence in samples of one class.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Confidences {
    /// Samples drawn.
    pub(crate) drawn: u64,
    /// Samples that it takes for the class asked for, by their probability p: those of bin i pass every threshold up to
    /// i / [`BINS`] and no larger one.
    pub(crate) recognised: Vec<u64>,
    /// Samples that it takes for another class, by the probability of the class asked for.
    pub(crate) others: Vec<u64>,
}

/// Samples of one class.
#[derive(Debug, Default)]
pub(crate) struct Grid {
    /// The class.
    pub(crate) class: usize,
    /// The first that pass.
    pub(crate) accepted: Vec<Picture>,
    /// The first that do not.
    pub(crate) rejected: Vec<Picture>,
}

/// Accepted samples beside the training images that are nearest in the teacher's features.
#[derive(Debug)]
pub(crate) struct Neighbours {
    /// Training images that were looked through.
    pub(crate) references: usize,
    /// Median distance of one of them to its nearest other.
    pub(crate) typical: f64,
    /// Of each sample.
    pub(crate) found: Vec<Nearest>,
}

/// One sample and the training images nearest to it.
#[derive(Debug)]
pub(crate) struct Nearest {
    /// Class that the sample was asked for as.
    pub(crate) class: usize,
    /// The sample.
    pub(crate) sample: Picture,
    /// Distances, and pictures whose guess is their true class.
    pub(crate) real: Vec<(f64, Picture)>,
}

/// The same latents of a class at several deviations.
#[derive(Debug)]
pub(crate) struct Scaled {
    /// The class.
    pub(crate) class: usize,
    /// Deviation, and a picture of each latent.
    pub(crate) at: Vec<(f64, Vec<Picture>)>,
}

/// What samples are made of.
struct Parts<'a> {
    generator: &'a Artifact,
    teacher: &'a Artifact,
    source: SourceConfig,
    train: Option<&'a Artifact>,
    made: String,
}

/// Draws and judges samples of `run`.
///
/// # Errors
/// What is missing, in words for the page; what a network says; [`gafi_core::Error::Interrupted`].
pub(crate) fn draw(run: &Run, real: bool, cx: &Context) -> Result<Samples> {
    let parts = parts(run)?;
    let info: GeneratorInfo = parts.generator.content()?;
    let (classes, image) = (info.classes.len(), info.image);
    let per_class = (DRAWN / classes.max(1)).clamp(DRAWN_PER_CLASS.0, DRAWN_PER_CLASS.1);
    let mut task = cx.progress.begin("samples", Some((classes * per_class) as u64));
    let mut teacher = cx.models.open_scorer(parts.teacher)?;
    let rule = match &parts.source.filter {
        Some(filter) if filter.accept == Accept::Recognised => filter.rule()?,
        _ => Rule::new(0.0)?,
    };
    let drawn = judged(&parts, None, per_class, &mut *teacher, cx, &mut *task)?;
    let accepts = |c: usize, i: usize| -> Result<bool> { Ok(rule.judge(drawn[c].of(i), ClassId(c as u32))?.accepted) };

    let confidences: Vec<_> = (0..classes).map(|c| drawn[c].confidences(c)).collect();
    let mut shown: Vec<usize> = (0..classes).collect();
    if classes > GRIDS {
        shown.sort_by_key(|&c| confidences[c].kept(0));
        shown.truncate(GRIDS);
        shown.sort_unstable();
    }
    let picture = |c: usize, i: usize| drawn[c].picture(i, &image);
    let (mut grids, mut compared) = (Vec::new(), Vec::new());
    for &class in &shown {
        let mut grid = Grid { class, ..Grid::default() };
        for i in 0..drawn[class].n {
            let to = if accepts(class, i)? {
                if compared.iter().filter(|(c, _)| *c == class).count() < COMPARED && grids.len() < CLOSE_UPS {
                    compared.push((class, i));
                }
                &mut grid.accepted
            } else {
                &mut grid.rejected
            };
            if to.len() < SHOWN {
                to.push(picture(class, i)?);
            }
        }
        grids.push(grid);
    }
    let neighbours = match parts.train.filter(|_| real && !compared.is_empty()) {
        Some(train) => neighbours(train, &compared, &drawn, &image, &mut *teacher, cx)?,
        None => None,
    };
    let stds = at_stds(run, &parts, &shown[..shown.len().min(CLOSE_UPS)], &image, &mut *teacher, cx)?;
    let one = |std: StdRange| (std.bounds().0 == std.bounds().1).then_some(std.bounds().0);
    let std = match &parts.source.std {
        gafi_expand::ClassStds::All(std) => one(*std),
        gafi_expand::ClassStds::PerClass { .. } => None,
    };
    let threshold = match &parts.source.filter {
        Some(FilterRule { accept: Accept::Recognised, threshold: Thresholds::All(t), .. }) => Some(*t),
        _ => None,
    };
    Ok(Samples { made: parts.made, threshold, std, confidences, grids, stds, neighbours })
}

/// What the final student learned from or, before there is one, the last checkpoint as it was trained.
fn parts(run: &Run) -> Result<Parts<'_>> {
    let teacher = run.teacher().context("there is no teacher yet")?;
    let student = run.row("gafi").and_then(|row| run.student(row));
    let lesson = student.and_then(Made::lesson).and_then(|l| Some((run.of_id(&l.generator)?, l.source)));
    let (generator, source, whose) = match lesson {
        Some((generator, source)) => (generator, source, "as the student of row gafi got them"),
        None => {
            let generators = run.generators();
            let generator = *generators.first().context("there is no generator yet")?;
            let last = generator.artifact.content::<GeneratorInfo>()?.steps().last().unwrap_or(0);
            (generator, SourceConfig::plain(last, 0), "of the last checkpoint, nothing being chosen yet")
        }
    };
    let train = generator.input("train").and_then(|id| run.of_id(id)).map(|m| &m.artifact);
    let checkpoint = source.checkpoint.map_or("the last checkpoint".into(), |c| format!("checkpoint {c}"));
    let made = format!("{}, {checkpoint}, std {}, {whose}", generator.folder, source.std);
    Ok(Parts { generator: &generator.artifact, teacher: &teacher.artifact, source, train, made })
}

/// Samples of one class, and what the teacher says of them.
#[derive(Debug, Default)]
struct Judged {
    n: usize,
    images: Vec<u8>,
    scored: Scored,
}

impl Judged {
    fn of(&self, i: usize) -> &[f32] {
        let classes = self.scored.probabilities.len() / self.n.max(1);
        &self.scored.probabilities[i * classes..(i + 1) * classes]
    }

    fn features(&self, i: usize) -> &[f32] {
        let dim = self.scored.features.len() / self.n.max(1);
        &self.scored.features[i * dim..(i + 1) * dim]
    }

    fn picture(&self, i: usize, image: &ImageSpec) -> Result<Picture> {
        let guess = argmax(self.of(i)).unwrap_or(0);
        let bytes = image.bytes();
        let png = png(&self.images[i * bytes..(i + 1) * bytes], image)?;
        Ok(Picture { png, guess, confidence: self.of(i).get(guess).copied().unwrap_or(0.0) })
    }

    fn confidences(&self, class: usize) -> Confidences {
        let mut found = Confidences { drawn: self.n as u64, recognised: vec![0; BINS], others: vec![0; BINS] };
        for i in 0..self.n {
            let p = f64::from(self.of(i)[class]);
            // The largest threshold that it exceeds, by the filter's own comparison.
            let bin = (0..BINS).rev().find(|&k| p > k as f64 / BINS as f64);
            match bin {
                Some(bin) if argmax(self.of(i)) == Some(class) => found.recognised[bin] += 1,
                bin => found.others[bin.unwrap_or(0)] += 1,
            }
        }
        found
    }
}

impl Confidences {
    /// Samples that pass the threshold `percent` / [`BINS`].
    pub(crate) fn kept(&self, percent: usize) -> u64 {
        self.recognised.iter().skip(percent).sum()
    }
}

/// The first `n` samples of each class; at `std` instead of the source's.
fn judged(
    parts: &Parts,
    std: Option<f64>,
    n: usize,
    teacher: &mut dyn Scorer,
    cx: &Context,
    task: &mut dyn Task,
) -> Result<Vec<Judged>> {
    let classes = parts.generator.content::<GeneratorInfo>()?.classes.len();
    classes_judged(parts, std, &(0..classes).collect::<Vec<_>>(), n, teacher, cx, task)
}

fn classes_judged(
    parts: &Parts,
    std: Option<f64>,
    classes: &[usize],
    n: usize,
    teacher: &mut dyn Scorer,
    cx: &Context,
    task: &mut dyn Task,
) -> Result<Vec<Judged>> {
    let generator = cx.models.open_generator(parts.generator, parts.source.checkpoint)?;
    let std = std.map_or(parts.source.std.clone(), |s| StdRange::Fixed(s).into());
    let block = NonZeroUsize::new(n.min(gafi_expand::BLOCK)).context("no samples were asked for")?;
    let mut source = Expanded::new(generator, std, latent_stream(parts.source.seed))?.with_block(block);
    let mut found = Vec::new();
    for &class in classes {
        let mut judged = Judged::default();
        while let Some(more) = NonZeroUsize::new((n - judged.n).min(block.get())) {
            cx.checkpoint()?;
            let Some(batch) = source.pull(ClassId(class as u32), more)? else { break };
            let scored = score(teacher, &batch.images)?;
            judged.n += batch.len();
            judged.images.extend(batch.images);
            judged.scored.probabilities.extend(scored.probabilities);
            judged.scored.features.extend(scored.features);
            task.advance(more.get() as u64);
        }
        found.push(judged);
    }
    Ok(found)
}

/// With features, where the teacher gives them.
fn score(teacher: &mut dyn Scorer, images: &[u8]) -> Result<Scored> {
    Ok(match teacher.feature_dim() {
        Some(_) => teacher.score_with_features(images)?,
        None => Scored { probabilities: teacher.score(images)?, features: Vec::new() },
    })
}

/// The same latents at several deviations: those that the search tried, or some usual ones.
fn at_stds(
    run: &Run,
    parts: &Parts,
    classes: &[usize],
    image: &ImageSpec,
    teacher: &mut dyn Scorer,
    cx: &Context,
) -> Result<Vec<Scaled>> {
    let searched = run.steps.iter().find(|s| s.generator == 0 && s.name == "expansion");
    let tried = searched.iter().flat_map(|s| &s.trials).map(|t| t.setting.std.bounds());
    let mut stds: Vec<f64> = tried.filter(|(lo, hi)| lo == hi).map(|(lo, _)| lo).collect();
    stds.sort_by(f64::total_cmp);
    stds.dedup();
    if stds.len() < 3 {
        stds = STDS.to_vec();
    }
    // As many as fit beside each other, ends included.
    let most = STDS.len();
    if stds.len() > most {
        stds = (0..most).map(|i| stds[i * (stds.len() - 1) / (most - 1)]).collect();
    }
    let mut found: Vec<Scaled> = classes.iter().map(|&class| Scaled { class, at: Vec::new() }).collect();
    let mut task = cx.progress.begin("deviations", Some((stds.len() * classes.len() * LATENTS) as u64));
    for &std in &stds {
        let judged = classes_judged(parts, Some(std), classes, LATENTS, teacher, cx, &mut *task)?;
        for (of, judged) in found.iter_mut().zip(&judged) {
            let pictures = (0..judged.n).map(|i| judged.picture(i, image)).collect::<Result<_>>()?;
            of.at.push((std, pictures));
        }
    }
    Ok(found)
}

/// The training images nearest to `compared`, among some of each class.
fn neighbours(
    train: &Artifact,
    compared: &[(usize, usize)],
    drawn: &[Judged],
    image: &ImageSpec,
    teacher: &mut dyn Scorer,
    cx: &Context,
) -> Result<Option<Neighbours>> {
    let (Some(dim), rows) = (teacher.feature_dim(), Dataset::open(train)?) else { return Ok(None) };
    let info = rows.info();
    if info.split != Split::Train || info.image != *image {
        return Ok(None);
    }
    let mut left = vec![(REFERENCES / info.classes.len().max(1)).max(1); info.classes.len()];
    let mut taken = Vec::new();
    for row in 0..rows.len() {
        let left = &mut left[rows.label(row).index()];
        if *left > 0 {
            *left -= 1;
            taken.push(row);
        }
    }
    if taken.len() <= NEIGHBOURS {
        return Ok(None);
    }
    let mut task = cx.progress.begin("real images", Some(taken.len() as u64));
    let mut images = vec![0; taken.len() * image.bytes()];
    rows.read(&taken, &mut images)?;
    let mut features = Vec::with_capacity(taken.len() * dim);
    for batch in images.chunks(gafi_expand::BLOCK * image.bytes()) {
        cx.checkpoint()?;
        features.extend(teacher.score_with_features(batch)?.features);
        task.advance((batch.len() / image.bytes()) as u64);
    }
    let queries: Vec<f32> = compared.iter().flat_map(|&(c, i)| drawn[c].features(i)).copied().collect();
    let near = knn(&queries, &features, dim, NEIGHBOURS, false)?;
    let mut own: Vec<f64> = knn(&features, &features, dim, 1, true)?.squared_radii();
    own.sort_by(f64::total_cmp);
    let shown = |at: usize| -> Result<Picture> {
        let bytes = image.bytes();
        let png = png(&images[at * bytes..(at + 1) * bytes], image)?;
        Ok(Picture { png, guess: rows.label(taken[at]).index(), confidence: 1.0 })
    };
    let mut found = Vec::new();
    for (q, &(class, i)) in compared.iter().enumerate() {
        let real = (q * NEIGHBOURS..(q + 1) * NEIGHBOURS)
            .map(|at| Ok((near.squared[at].sqrt(), shown(near.rows[at] as usize)?)))
            .collect::<Result<_>>()?;
        found.push(Nearest { class, sample: drawn[class].picture(i, image)?, real });
    }
    Ok(Some(Neighbours { references: taken.len(), typical: own[own.len() / 2].sqrt(), found }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_threshold_keeps_is_what_the_filter_accepts() {
        let right = [0.0f32, 0.005, 0.01, 0.29, 0.3, 0.5, 0.500_001, 0.9, 0.99, 0.999_9, 1.0];
        let probabilities: Vec<f32> = right.iter().flat_map(|p| [*p, 1.0 - p]).collect();
        let judged =
            Judged { n: right.len(), scored: Scored { probabilities, ..Scored::default() }, ..Judged::default() };
        let found = judged.confidences(0);
        for percent in 0..BINS {
            let rule = Rule::new(percent as f64 / BINS as f64).unwrap();
            let passed = (0..judged.n).filter(|&i| rule.judge(judged.of(i), ClassId(0)).unwrap().accepted).count();
            assert_eq!(found.kept(percent), passed as u64, "{percent} %");
        }
        let all: u64 = found.recognised.iter().chain(&found.others).sum();
        assert_eq!((all, found.drawn), (right.len() as u64, right.len() as u64));
    }
}

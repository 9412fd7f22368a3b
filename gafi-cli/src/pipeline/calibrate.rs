//! Settings that no student has to be trained for: what one deviation and one threshold for all come to in each class, and how
//! sure the teacher is of real images.

use std::num::NonZeroUsize;

use anyhow::Result;
use gafi_core::{ClassId, ClassTally, Dataset, Inputs, Rows, Tally, argmax};
use gafi_filter::{
    Accept, CONFIDENCE_EDGES, FilterRule, Quota, Rule, matching_thresholds, mean_acceptance, nearest_acceptance,
};
use gafi_recycle::GENERATORS;

use super::setting::{PerClass, Setting};
use super::students::Classroom;
use crate::session::Session;
use crate::source::{SourceConfig, open_source};

/// Samples of each class that are judged under each deviation.
const SAMPLES: usize = 200;
/// Real images judged at a time.
const BATCH: usize = 256;

/// For each class the deviation, of those in the grid, under which the teacher recognises as many of its samples as it does of all
/// classes under that of `setting`; then the threshold that as many of them exceed as that of `setting` is exceeded by.
///
/// # Errors
/// What source and teacher say.
pub(super) fn per_class(session: &Session, class: &Classroom, setting: &Setting) -> Result<PerClass> {
    let mut stds = class.config.search.stds.clone();
    if !stds.contains(&setting.std) {
        stds.push(setting.std);
    }
    stds.sort_by(|a, b| a.bounds().0.total_cmp(&b.bounds().0).then(a.bounds().1.total_cmp(&b.bounds().1)));
    let judged = stds.iter().map(|&std| judge(session, class, &Setting { std, ..setting.clone() }));
    let judged: Vec<Recognised> = judged.collect::<Result<_>>()?;
    let tallies: Vec<Tally> = judged.iter().map(Recognised::tally).collect();
    let common = stds.iter().position(|std| *std == setting.std).unwrap_or(0);
    let chosen = nearest_acceptance(&tallies, mean_acceptance(&tallies[common]))?;
    let recognised: Vec<Vec<f32>> =
        chosen.iter().enumerate().map(|(class, &std)| judged[std].confidences[class].clone()).collect();
    let common = setting.threshold.unwrap_or(0.0);
    let thresholds = match recognised.iter().flatten().any(|&p| f64::from(p) > common) {
        true => matching_thresholds(&recognised, common)?,
        // Too high for every class: the filter will say so, or let in what there is, as it was told to.
        false => vec![common; recognised.len()],
    };
    Ok(PerClass { stds: chosen.into_iter().map(|std| stds[std]).collect(), thresholds })
}

/// What the teacher makes of some samples of each class.
struct Recognised {
    // Of each class.
    drawn: Vec<u64>,
    // The probability of their class, of those samples that are taken for it.
    confidences: Vec<Vec<f32>>,
}

impl Recognised {
    fn tally(&self) -> Tally {
        let class =
            |(&drawn, passed): (&u64, &Vec<f32>)| ClassTally { drawn, accepted: passed.len() as u64, let_in: 0 };
        Tally { classes: self.drawn.iter().zip(&self.confidences).map(class).collect() }
    }
}

fn judge(session: &Session, class: &Classroom, setting: &Setting) -> Result<Recognised> {
    let everything = FilterRule {
        accept: Accept::Any,
        threshold: 0.0.into(),
        keep_probabilities: true,
        quota: None,
        ..class.config.search.filter.clone()
    };
    let source =
        SourceConfig { filter: Some(everything), ..class.source(0, &Setting { per_class: None, ..setting.clone() }) };
    let inputs = Inputs::new().with(GENERATORS[0], &class.generators[0]).with("teacher", class.teacher);
    let mut source = open_source(&serde_json::to_value(source)?, &inputs, &session.cx)?;
    let classes = source.classes().len();
    let mut found = Recognised { drawn: vec![0; classes], confidences: vec![Vec::new(); classes] };
    for id in ClassId::all(classes) {
        while let Some(more) = NonZeroUsize::new(SAMPLES - found.drawn[id.index()] as usize) {
            session.cx.checkpoint()?;
            let Some(batch) = source.pull(id, more)? else { break };
            found.drawn[id.index()] += batch.len() as u64;
            let probabilities = batch.probabilities.unwrap_or_default();
            let taken = probabilities.chunks_exact(classes).filter(|p| argmax(p) == Some(id.index()));
            found.confidences[id.index()].extend(taken.map(|p| p[id.index()]));
        }
    }
    Ok(found)
}

/// How sure the teacher is of the images that choose, which it was not trained on, where it recognises them above the threshold
/// of `setting`.
///
/// # Errors
/// What files and teacher say.
pub(super) fn quota(session: &Session, class: &Classroom, setting: &Setting) -> Result<Quota> {
    let real = Dataset::open(class.val)?;
    let (classes, bytes) = (real.info().classes.len(), real.info().image.bytes());
    let mut teacher = session.cx.openers.open_scorer(class.teacher)?;
    let (mut labels, mut probabilities, mut pixels) = (Vec::new(), Vec::new(), Vec::new());
    for rows in (0..real.len()).collect::<Vec<_>>().chunks(BATCH) {
        session.cx.checkpoint()?;
        pixels.resize(rows.len() * bytes, 0);
        real.read(rows, &mut pixels)?;
        labels.extend(rows.iter().map(|&row| real.label(row)));
        probabilities.extend(teacher.score(&pixels)?);
    }
    let rule = Rule::new(vec![setting.threshold.unwrap_or(0.0); classes])?;
    Ok(Quota::of(&rule, &probabilities, &labels, classes, &CONFIDENCE_EDGES)?)
}

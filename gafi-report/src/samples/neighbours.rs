//! The training images nearest to samples, in the teacher's features.

use anyhow::Result;
use gafi_audit::knn;
use gafi_core::{Artifact, Context, Dataset, INFERENCE_BATCH, ImageSpec, Rows, Scorer, Split};

use super::judged::Judged;
use crate::thumbnail::{Thumbnail, data_url};

/// Maximum number of training images to search.
const REFERENCES: usize = 2000;
/// Neighbours of each sample.
const NEIGHBOURS: usize = 3;

/// Accepted samples beside their nearest training images.
#[derive(Debug)]
pub(crate) struct Neighbours {
    /// Training images that were searched.
    pub(crate) references: usize,
    /// Median distance between a training image and its nearest other one.
    pub(crate) median: f64,
    /// One for each sample.
    pub(crate) found: Vec<Nearest>,
}

/// One sample and the training images nearest to it.
#[derive(Debug)]
pub(crate) struct Nearest {
    /// The requested class.
    pub(crate) class: usize,
    pub(crate) sample: Thumbnail,
    /// Distances and pictures, nearest first. Their class is the true one.
    pub(crate) real: Vec<(f64, Thumbnail)>,
}

/// The training images nearest to `compared`, pairs of class and index into `drawn`. `None` when the teacher has no features, or
/// `train` has other images or too few.
///
/// # Errors
/// When images cannot be read or the teacher fails; [`gafi_core::Error::Interrupted`].
pub(super) fn neighbours(
    train: &Artifact,
    compared: &[(usize, usize)],
    drawn: &[Judged],
    image: &ImageSpec,
    teacher: &mut dyn Scorer,
    cx: &Context,
) -> Result<Option<Neighbours>> {
    let Some(dim) = teacher.feature_dim() else { return Ok(None) };
    let rows = Dataset::open(train)?;
    let info = rows.info();
    if !matches!(info.split, Split::Train | Split::TrainVal) || info.image != *image {
        return Ok(None);
    }
    let taken = first_of_each_class(&rows, (REFERENCES / info.classes.len().max(1)).max(1));
    if taken.len() <= NEIGHBOURS {
        return Ok(None);
    }
    let mut task = cx.progress.begin("real images", Some(taken.len() as u64));
    let mut images = vec![0; taken.len() * image.bytes()];
    rows.read(&taken, &mut images)?;
    let mut features = Vec::with_capacity(taken.len() * dim);
    for batch in images.chunks(INFERENCE_BATCH * image.bytes()) {
        cx.checkpoint()?;
        features.extend(teacher.score_with_features(batch)?.features);
        task.advance((batch.len() / image.bytes()) as u64);
    }
    let queries: Vec<f32> = compared.iter().flat_map(|&(c, i)| drawn[c].features(i)).copied().collect();
    let near = knn(&queries, &features, dim, NEIGHBOURS, false)?;
    let mut own: Vec<f64> = knn(&features, &features, dim, 1, true)?.squared_radii();
    own.sort_by(f64::total_cmp);
    let thumbnail = |at: usize| -> Result<Thumbnail> {
        let bytes = image.bytes();
        let png = data_url(&images[at * bytes..(at + 1) * bytes], image)?;
        Ok(Thumbnail { png, class: rows.label(taken[at]).index(), probability: 1.0 })
    };
    let mut found = Vec::new();
    for (q, &(class, i)) in compared.iter().enumerate() {
        let real = (q * NEIGHBOURS..(q + 1) * NEIGHBOURS)
            .map(|at| Ok((near.squared[at].sqrt(), thumbnail(near.rows[at] as usize)?)))
            .collect::<Result<_>>()?;
        found.push(Nearest { class, sample: drawn[class].thumbnail(i, image)?, real });
    }
    Ok(Some(Neighbours { references: taken.len(), median: own[own.len() / 2].sqrt(), found }))
}

/// The first `n` rows of each class, in order of the rows.
pub(crate) fn first_of_each_class(rows: &dyn Rows, n: usize) -> Vec<usize> {
    let mut left = vec![n; rows.info().classes.len()];
    let mut taken = Vec::new();
    for row in 0..rows.len() {
        let left = &mut left[rows.label(row).index()];
        if *left > 0 {
            *left -= 1;
            taken.push(row);
        }
    }
    taken
}

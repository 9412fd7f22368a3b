//! Precision and recall, density and coverage: how much of a synthetic set lies among the real images, and how much of
//! the real distribution it covers.
//!
//! The support of a set is the union of one ball around each point, with the distance to its k-th nearest neighbour in
//! the set as its radius. Precision and recall are those of Kynkäänniemi et al. 2019 (arXiv 1904.06991, section 2),
//! density and coverage those of Naeem et al. 2020 (arXiv 2002.09797, section 3). Balls are closed, as in the former.
//!
//! All four depend on k, on the sizes of both sets and on the features, so compare only sets of the same size.

use gafi_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::frechet::{Moments, frechet};
use crate::neighbours::{knn, within};

/// Precision, recall, density and coverage. All but the density are shares in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prdc {
    /// Share of synthetic points inside a ball of the real set.
    pub precision: f64,
    /// Share of real points inside a ball of the synthetic set. One outlier with a large ball may cover many of them,
    /// so a high recall means little.
    pub recall: f64,
    /// Mean number of real balls that contain a synthetic point, divided by k. About 1 for equal distributions; it may
    /// exceed 1.
    pub density: f64,
    /// Share of real points whose ball contains a synthetic point.
    pub coverage: f64,
}

/// Measures of a synthetic set in a teacher's features.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Fidelity {
    /// Precision, recall, density, coverage.
    pub prdc: Prdc,
    /// [`frechet`] in the teacher's features. **Not the FID**, which uses an Inception network trained on ImageNet:
    /// values are comparable neither between teachers nor with published ones.
    pub frechet_teacher: f64,
}

/// A set of features, prepared for comparisons: one real set can be compared with many synthetic ones.
#[derive(Debug, Clone)]
pub struct FeatureSet<'a> {
    features: &'a [f32],
    dim: usize,
    k: usize,
    // From each point to its k-th nearest neighbour.
    squared_radii: Vec<f64>,
    moments: Moments,
}

impl<'a> FeatureSet<'a> {
    /// Prepares `features` (n, `dim`). `k` is 5 in Naeem et al., 3 in Kynkäänniemi et al.
    ///
    /// # Errors
    /// [`Error::Config`] unless there are more than `k` points with finite features.
    pub fn new(features: &'a [f32], dim: usize, k: usize) -> Result<Self> {
        let squared_radii = knn(features, features, dim, k, true)?.squared_radii();
        Ok(Self { features, dim, k, squared_radii, moments: Moments::of(features, dim)? })
    }

    /// Precision, recall, density and coverage of this synthetic set against `real`.
    ///
    /// # Errors
    /// [`Error::Config`] when `dim` or `k` of the sets differ.
    pub fn prdc(&self, real: &FeatureSet<'_>) -> Result<Prdc> {
        if (self.dim, self.k) != (real.dim, real.k) {
            let found = format!("({}, {})", self.dim, self.k);
            return Err(Error::config("(dim, k)", found, format!("({}, {}), those of the real set", real.dim, real.k)));
        }
        let in_real = within(self.features, real.features, self.dim, &real.squared_radii)?;
        let in_synthetic = within(real.features, self.features, self.dim, &self.squared_radii)?;
        let balls: u64 = in_real.balls.iter().copied().map(u64::from).sum();
        Ok(Prdc {
            precision: share(in_real.balls.iter().map(|&n| n > 0)),
            recall: share(in_synthetic.balls.iter().map(|&n| n > 0)),
            density: balls as f64 / (self.k as f64 * in_real.balls.len() as f64),
            coverage: share(in_real.reached.into_iter()),
        })
    }

    /// All measures of this synthetic set against `real`.
    ///
    /// # Errors
    /// As [`FeatureSet::prdc`] and [`frechet`].
    pub fn fidelity(&self, real: &FeatureSet<'_>) -> Result<Fidelity> {
        Ok(Fidelity { prdc: self.prdc(real)?, frechet_teacher: frechet(&self.moments, &real.moments)? })
    }
}

/// Share of `true` in [0, 1]; 0 for an empty iterator.
pub(crate) fn share(all: impl ExactSizeIterator<Item = bool>) -> f64 {
    let n = all.len().max(1);
    all.filter(|&yes| yes).count() as f64 / n as f64
}

//! Precision and recall, density and coverage: how much of a synthetic set lies where real images lie, and how much of what
//! is real it reaches.
//!
//! The region that a set covers is taken to be the union of balls, one around each point, that reach to its k-th nearest
//! neighbour within the set. Precision and recall are those of Kynkäänniemi et al. 2019 (arXiv 1904.06991, section 2), density
//! and coverage those of Naeem et al. 2020 (arXiv 2002.09797, section 3). Balls are closed, as in the former.
//!
//! All of them depend on k, on the sizes of both sets and on the features, so compare sets of the same size only.

use gafi_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::frechet::{Moments, frechet};
use crate::neighbours::{knn, within};

/// How two sets lie to one another; everything but the density is a share from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prdc {
    /// Synthetic points within a ball of the real set.
    pub precision: f64,
    /// Real points within a ball of the synthetic set. One outlier with a large ball may cover many, so a high recall says little.
    pub recall: f64,
    /// Real balls that a synthetic point lies in, by k, on the average. About 1 for an equally distributed set; it may be more.
    pub density: f64,
    /// Real points with a synthetic point in their ball.
    pub coverage: f64,
}

/// What a synthetic set is worth in a teacher's features.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fidelity {
    /// Precision, recall, density, coverage.
    pub prdc: Prdc,
    /// [`frechet`] in the teacher's features. **Not the FID**, whose features are those of an Inception network trained on
    /// ImageNet: values of different teachers cannot be compared, nor any of them with published ones.
    pub frechet_teacher: f64,
}

/// A set in feature space with all that comparisons need of it, so that one real set serves many synthetic ones.
#[derive(Debug, Clone)]
pub struct FeatureSet<'a> {
    features: &'a [f32],
    dim: usize,
    k: usize,
    // Of each point, to its k-th nearest neighbour.
    squared_radii: Vec<f64>,
    moments: Moments,
}

impl<'a> FeatureSet<'a> {
    /// A set of `features` (n, `dim`) whose balls reach to the `k`-th neighbour (5 in Naeem et al., 3 in Kynkäänniemi et al.).
    ///
    /// # Errors
    /// [`Error::Config`] when there are no more than `k` points, or features are not finite.
    pub fn new(features: &'a [f32], dim: usize, k: usize) -> Result<Self> {
        let squared_radii = knn(features, features, dim, k, true)?.squared_radii();
        Ok(Self { features, dim, k, squared_radii, moments: Moments::of(features, dim)? })
    }

    /// Precision, recall, density and coverage of this set, the synthetic one, against `real`.
    ///
    /// # Errors
    /// [`Error::Config`] when the sets were made with different `dim` or `k`.
    pub fn prdc(&self, real: &FeatureSet<'_>) -> Result<Prdc> {
        if (self.dim, self.k) != (real.dim, real.k) {
            let found = format!("({}, {})", self.dim, self.k);
            return Err(Error::config("(dim, k)", found, format!("({}, {}), as of the real set", real.dim, real.k)));
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

    /// Everything about this set, the synthetic one, against `real`.
    ///
    /// # Errors
    /// As of [`FeatureSet::prdc`] and [`frechet`].
    pub fn fidelity(&self, real: &FeatureSet<'_>) -> Result<Fidelity> {
        Ok(Fidelity { prdc: self.prdc(real)?, frechet_teacher: frechet(&self.moments, &real.moments)? })
    }
}

/// The share of what is true; none of nothing.
pub(crate) fn share(all: impl ExactSizeIterator<Item = bool>) -> f64 {
    let n = all.len().max(1);
    all.filter(|&yes| yes).count() as f64 / n as f64
}

//! Means and covariances, and the Fréchet distance of the two normal distributions that have them.

use gafi_core::{Error, Result};
use nalgebra::{DMatrix, DVector, SymmetricEigen};

/// Rows whose products are summed at a time.
const BLOCK: usize = 512;

/// Sweeps of the eigenvalue iteration: it takes a few for each eigenvalue, and 0 would mean no end.
const SWEEPS_PER_VALUE: usize = 100;

/// Mean and covariance of points, summed in f64 as they come.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    n: u64,
    mean: DVector<f64>,
    // Sum of the products of deviations from the mean.
    scatter: DMatrix<f64>,
}

impl Moments {
    /// Of no points of `dim` coordinates.
    pub fn new(dim: usize) -> Self {
        Self { n: 0, mean: DVector::zeros(dim), scatter: DMatrix::zeros(dim, dim) }
    }

    /// Of `points` (n, `dim`).
    ///
    /// # Errors
    /// As of [`Moments::push`].
    pub fn of(points: &[f32], dim: usize) -> Result<Self> {
        let mut moments = Self::new(dim);
        moments.push(points)?;
        Ok(moments)
    }

    /// Adds `points` (n, dim). How points are divided into calls may change the last bits.
    ///
    /// # Errors
    /// [`Error::Config`] when they are no whole points.
    pub fn push(&mut self, points: &[f32]) -> Result<()> {
        let dim = self.mean.len();
        if dim == 0 || !points.len().is_multiple_of(dim) {
            let expected = format!("whole points of {dim} values, at least 1");
            return Err(Error::config("points", format!("{} values", points.len()), expected));
        }
        for block in points.chunks(BLOCK * dim) {
            // A point is a column.
            let rows = block.len() / dim;
            let mut x = DMatrix::from_iterator(dim, rows, block.iter().map(|&v| f64::from(v)));
            let mean = x.column_mean();
            x.column_iter_mut().for_each(|mut point| point -= &mean);
            self.scatter.gemm(1.0, &x, &x.transpose(), 1.0);
            // Chan, Golub and LeVeque 1979, "Updating formulae ... for computing sample variances".
            let (n, m) = (self.n as f64, rows as f64);
            let shift = mean - &self.mean;
            self.scatter.ger(n * m / (n + m), &shift, &shift, 1.0);
            self.mean += shift * (m / (n + m));
            self.n += rows as u64;
        }
        Ok(())
    }

    /// Number of points.
    pub fn len(&self) -> u64 {
        self.n
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The mean of the points; zeros of none.
    pub(crate) fn mean(&self) -> &DVector<f64> {
        &self.mean
    }

    /// The unbiased covariance.
    pub(crate) fn covariance(&self) -> Result<DMatrix<f64>> {
        if self.n < 2 {
            return Err(Error::config("points", self.n, "at least 2, for a covariance"));
        }
        Ok(&self.scatter / (self.n - 1) as f64)
    }
}

/// Squared Fréchet distance of two normal distributions (Dowson and Landau 1982):
/// `|mean_a - mean_b|^2 + tr(a + b - 2 (a^1/2 b a^1/2)^1/2)` with the covariances a and b.
///
/// In an Inception network's features this is the FID (Heusel et al. 2017, arXiv 1706.08500); in any other it is not. Sets of few
/// points come out too far apart, by about the inverse of their size: compare sets of the same size only.
///
/// # Errors
/// [`Error::Config`] when dimensions differ or a set has fewer than two points; [`Error::Other`] when eigenvalues are not found.
pub fn frechet(a: &Moments, b: &Moments) -> Result<f64> {
    if a.mean.len() != b.mean.len() {
        return Err(Error::config("dim", b.mean.len(), format!("{}, as of the other set", a.mean.len())));
    }
    let (first, second) = (a.covariance()?, b.covariance()?);
    let trace = first.trace() + second.trace();
    let mut parts = eigen(first)?;
    // a^1/2 = v diag(sqrt(l)) vt. Rounding makes the smallest eigenvalues negative.
    parts.eigenvalues.apply(|l| *l = l.max(0.0).sqrt());
    let root = parts.recompose();
    let mut product = &root * second * &root;
    // Equal up to rounding; the solver wants them equal.
    product = (&product + product.transpose()) * 0.5;
    let root_trace: f64 = eigen(product)?.eigenvalues.iter().map(|l| l.max(0.0).sqrt()).sum();
    Ok(((&a.mean - &b.mean).norm_squared() + trace - 2.0 * root_trace).max(0.0))
}

/// Eigenvalues and eigenvectors of a symmetric matrix.
pub(crate) fn eigen(matrix: DMatrix<f64>) -> Result<SymmetricEigen<f64, nalgebra::Dyn>> {
    let most = SWEEPS_PER_VALUE * matrix.nrows();
    if matrix.iter().all(|v| v.is_finite())
        && let Some(parts) = SymmetricEigen::try_new(matrix, f64::EPSILON, most)
    {
        return Ok(parts);
    }
    Err(Error::other("computing eigenvalues of a covariance")("found no eigenvalues; are the features finite?"))
}

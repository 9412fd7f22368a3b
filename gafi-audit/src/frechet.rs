//! Means and covariances of point sets, and the Fréchet distance between the normal distributions with these moments.

use gafi_core::{Error, Result};
use nalgebra::{DMatrix, DVector, SymmetricEigen};

/// Points per matrix product.
const BLOCK: usize = 512;

/// Limit of the eigenvalue iteration, per eigenvalue. It needs a few; nalgebra takes 0 for no limit.
const SWEEPS_PER_VALUE: usize = 100;

/// Mean and covariance of points, accumulated in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    n: u64,
    // Zeros without points.
    pub(crate) mean: DVector<f64>,
    // Sum of the products of deviations from the mean.
    scatter: DMatrix<f64>,
}

impl Moments {
    /// An empty accumulator for points of `dim` coordinates.
    pub fn new(dim: usize) -> Self {
        Self { n: 0, mean: DVector::zeros(dim), scatter: DMatrix::zeros(dim, dim) }
    }

    /// The moments of `points` (n, `dim`).
    ///
    /// # Errors
    /// As [`Moments::push`].
    pub fn of(points: &[f32], dim: usize) -> Result<Self> {
        let mut moments = Self::new(dim);
        moments.push(points)?;
        Ok(moments)
    }

    /// Adds `points` (n, dim). Splitting them over several calls may change the last bits.
    ///
    /// # Errors
    /// [`Error::Config`] when the length is not a multiple of dim.
    pub fn push(&mut self, points: &[f32]) -> Result<()> {
        let dim = self.mean.len();
        if dim == 0 || !points.len().is_multiple_of(dim) {
            let expected = format!("a multiple of the dimension {dim}, which must be at least 1");
            return Err(Error::config("points", format!("{} values", points.len()), expected));
        }
        for block in points.chunks(BLOCK * dim) {
            // One point per column.
            let rows = block.len() / dim;
            let mut x = DMatrix::from_iterator(dim, rows, block.iter().map(|&v| f64::from(v)));
            let mean = x.column_mean();
            x.column_iter_mut().for_each(|mut point| point -= &mean);
            self.scatter.gemm(1.0, &x, &x.transpose(), 1.0);
            // Chan, Golub and LeVeque 1979, "Updating formulae ... for computing sample variances".
            let n = self.n as f64;
            let m = rows as f64;
            let shift = mean - &self.mean;
            self.scatter.ger(n * m / (n + m), &shift, &shift, 1.0);
            self.mean += shift * (m / (n + m));
            self.n += rows as u64;
        }
        Ok(())
    }

    /// The unbiased covariance.
    pub(crate) fn covariance(&self) -> Result<DMatrix<f64>> {
        if self.n < 2 {
            return Err(Error::config("points", self.n, "at least 2 points for a covariance"));
        }
        Ok(&self.scatter / (self.n - 1) as f64)
    }
}

/// Squared Fréchet distance of two normal distributions (Dowson and Landau 1982):
/// `|mean_a - mean_b|^2 + tr(a + b - 2 (a^1/2 b a^1/2)^1/2)` with the covariances a and b.
///
/// This is the FID (Heusel et al. 2017, arXiv 1706.08500) only for features of the Inception network. The estimate is
/// biased upwards, roughly in inverse proportion to the size of the sets, so compare only sets of the same size.
///
/// # Errors
/// [`Error::Config`] when the dimensions differ or a set has fewer than two points; [`Error::Other`] when the
/// eigenvalue iteration does not converge.
pub fn frechet(a: &Moments, b: &Moments) -> Result<f64> {
    if a.mean.len() != b.mean.len() {
        return Err(Error::config("dim", b.mean.len(), format!("{}, the dimension of the other set", a.mean.len())));
    }
    let first = a.covariance()?;
    let second = b.covariance()?;
    let trace = first.trace() + second.trace();
    let mut parts = eigen(first)?;
    // a^1/2 = v diag(sqrt(l)) vt. Rounding may make the smallest eigenvalues negative.
    parts.eigenvalues.apply(|l| *l = l.max(0.0).sqrt());
    let root = parts.recompose();
    let mut product = &root * second * &root;
    // Symmetric up to rounding; the solver needs exact symmetry.
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
    Err(Error::other("computing the eigenvalues of a covariance")(
        "the iteration did not converge; check that all features are finite",
    ))
}

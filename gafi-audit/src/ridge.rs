//! A linear classifier in closed form: ridge regression on class indicators.

use gafi_core::{ClassId, Error, Result, argmax};
use nalgebra::{Cholesky, DMatrix};
use rayon::prelude::*;

use crate::product::inner_products;

/// Penalty on the weights, relative to the sum of squares of a feature.
const PENALTY: f64 = 0.1;
/// Rows of the Gram matrix that a thread computes at a time.
const BLOCK: usize = 64;
/// Added to the variance of a feature, relative to the largest variance, so that a constant feature has no weight.
const FLAT: f64 = 1e-6;

/// A linear classifier: one linear function per class; the largest value wins.
///
/// It is the least squares fit of one indicator per class to standardised features, with a penalty on the weights
/// (Hoerl and Kennard 1970, "Ridge regression: biased estimation for nonorthogonal problems"). The fit is fast and has
/// no randomness, so two training sets can be compared without the noise of training.
#[derive(Debug, Clone, PartialEq)]
pub struct RidgeClassifier {
    mean: Vec<f32>,
    // (dim, classes), for features minus their mean.
    weights: DMatrix<f64>,
    // One per class.
    bias: Vec<f64>,
}

impl RidgeClassifier {
    /// Fits a classifier of `classes` classes to `features` (n, dim) and `labels` (n). It needs memory for a copy of
    /// the features and for two dim * dim matrices.
    ///
    /// # Errors
    /// [`Error::Config`] when there are no rows, the lengths do not match, a label is not below `classes`, or a feature
    /// is not finite.
    pub fn fit(features: &[f32], labels: &[ClassId], classes: usize) -> Result<Self> {
        let n = labels.len();
        let dim = features.len().checked_div(n).unwrap_or(0);
        if dim == 0 || features.len() != n * dim {
            let found = format!("{} values for {n} labels", features.len());
            return Err(Error::config("features", found, "one row per label, at least one"));
        }
        if let Some(label) = labels.iter().find(|label| label.index() >= classes) {
            return Err(Error::config("labels", label.index(), format!("classes below {classes}")));
        }
        if !features.iter().all(|v| v.is_finite()) {
            return Err(Error::config("features", "NaN or infinity", "finite numbers"));
        }
        let (mean, scale) = standards(features, dim);
        // (dim, n), because the Gram matrix is of features, not of images.
        let mut columns = vec![0.0; features.len()];
        columns.par_chunks_exact_mut(n).enumerate().for_each(|(d, column)| {
            for (value, row) in column.iter_mut().zip(features.chunks_exact(dim)) {
                *value = ((f64::from(row[d]) - mean[d]) * scale[d]) as f32;
            }
        });
        let mut products = vec![0.0; dim * dim];
        products.par_chunks_mut(BLOCK * dim).zip(columns.par_chunks(BLOCK * n)).for_each(|(products, some)| {
            inner_products(some, &columns, n, products);
        });
        let mut products = DMatrix::from_iterator(dim, dim, products.iter().map(|&v| f64::from(v)));
        for d in 0..dim {
            products[(d, d)] += PENALTY * n as f64;
        }
        let mut share = vec![0.0; classes];
        labels.iter().for_each(|label| share[label.index()] += 1.0 / n as f64);
        let mut sums = DMatrix::zeros(dim, classes);
        for (d, column) in columns.chunks_exact(n).enumerate() {
            // The mean of a column is 0, so the targets' means need not be subtracted.
            column.iter().zip(labels).for_each(|(&v, label)| sums[(d, label.index())] += f64::from(v));
        }
        let Some(factor) = Cholesky::new(products) else {
            return Err(Error::other("fitting a linear classifier")(
                "the Gram matrix of the features is not positive definite",
            ));
        };
        let mut weights = factor.solve(&sums);
        for (d, mut row) in weights.row_iter_mut().enumerate() {
            row *= scale[d];
        }
        Ok(Self { mean: mean.iter().map(|&v| v as f32).collect(), weights, bias: share })
    }

    /// The predicted class of each row of `features` (n, dim); ties go to the first class.
    ///
    /// # Errors
    /// [`Error::Config`] when the length is not a multiple of dim.
    pub fn predict(&self, features: &[f32]) -> Result<Vec<ClassId>> {
        let dim = self.mean.len();
        if !features.len().is_multiple_of(dim) {
            return Err(Error::config(
                "features",
                format!("{} values", features.len()),
                format!("rows of {dim} values"),
            ));
        }
        let of = |row: &[f32]| {
            let scores: Vec<f32> = self.scores(row).iter().map(|&s| s as f32).collect();
            ClassId(argmax(&scores).unwrap_or(0) as u32)
        };
        Ok(features.par_chunks_exact(dim).map(of).collect())
    }

    /// The value of each class for one image.
    fn scores(&self, features: &[f32]) -> Vec<f64> {
        let mut scores = self.bias.clone();
        for (score, weights) in scores.iter_mut().zip(self.weights.column_iter()) {
            let terms = features.iter().zip(&self.mean).zip(weights.iter());
            *score += terms.map(|((&v, &mean), &w)| f64::from(v - mean) * w).sum::<f64>();
        }
        scores
    }
}

/// Mean of each feature, and the factor that scales its standard deviation to 1.
fn standards(features: &[f32], dim: usize) -> (Vec<f64>, Vec<f64>) {
    let n = (features.len() / dim) as f64;
    let mut mean = vec![0.0; dim];
    for row in features.chunks_exact(dim) {
        mean.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v) / n);
    }
    let mut variance = vec![0.0; dim];
    for row in features.chunks_exact(dim) {
        let terms = row.iter().zip(&mean).map(|(&v, mean)| (f64::from(v) - mean).powi(2) / n);
        variance.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
    let largest = variance.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let scale = variance.iter().map(|v| 1.0 / (v + FLAT * largest).sqrt()).collect();
    (mean, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: [f32; 18] =
        [1.0, 0.0, 2.0, 2.0, 1.0, 0.0, 0.0, 3.0, 1.0, 4.0, 1.0, 1.0, 1.0, 2.0, 5.0, 3.0, 3.0, 0.0];

    fn labels(all: &[u32]) -> Vec<ClassId> {
        all.iter().map(|&c| ClassId(c)).collect()
    }

    /// The expected values are NumPy's:
    ///
    /// ```python
    /// x = np.array([[1, 0, 2], [2, 1, 0], [0, 3, 1], [4, 1, 1], [1, 2, 5], [3, 3, 0]], np.float64)
    /// y = np.eye(2)[[0, 0, 1, 0, 1, 1]]
    /// v = x.var(0)
    /// z = (x - x.mean(0)) / np.sqrt(v + 1e-6 * v.max())
    /// w = np.linalg.solve(z.T @ z + 0.1 * len(x) * np.eye(3), z.T @ y) / np.sqrt(v + 1e-6 * v.max())[:, None]
    /// print((y.mean(0) + (np.array([[2, 2, 2], [0, 1, 4]]) - x.mean(0)) @ w).tolist())
    /// ```
    #[test]
    fn equals_numpy() {
        let ridge = RidgeClassifier::fit(&FEATURES, &labels(&[0, 0, 1, 0, 1, 1]), 2).unwrap();
        let scores = [ridge.scores(&[2.0, 2.0, 2.0]), ridge.scores(&[0.0, 1.0, 4.0])];
        let expected =
            [[0.340_203_513_250_976_1, 0.659_796_486_749_023_9], [0.456_247_789_312_543_3, 0.543_752_210_687_456_7]];
        for (found, expected) in scores.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert_eq!(ridge.predict(&[2.0, 2.0, 2.0, 4.0, 0.0, 0.0]).unwrap(), labels(&[1, 0]));
    }

    #[test]
    fn units_and_constant_features_do_not_matter() {
        let of = |column: fn(&[f32]) -> Vec<f32>| {
            let changed: Vec<f32> = FEATURES.chunks_exact(3).flat_map(column).collect();
            let ridge = RidgeClassifier::fit(&changed, &labels(&[0, 0, 1, 0, 1, 1]), 2).unwrap();
            ridge.scores(&column(&[2.0, 2.0, 2.0]))
        };
        let plain = of(<[f32]>::to_vec);
        for changed in [of(|r| vec![r[0], 8.0 * r[1] + 3.0, r[2]]), of(|r| vec![r[0], r[1], r[2], 7.0])] {
            plain.iter().zip(&changed).for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} {b}"));
        }
    }

    #[test]
    fn bad_inputs_are_refused() {
        let fit =
            |features: &[f32], of: &[u32]| RidgeClassifier::fit(features, &labels(of), 2).unwrap_err().to_string();
        assert!(fit(&[], &[]).contains("at least one"));
        assert!(fit(&[1.0, 2.0, 3.0], &[0, 1]).contains("one row per label"));
        assert!(fit(&[1.0, 2.0], &[0, 2]).contains("classes below 2"));
        assert!(fit(&[1.0, f32::NAN], &[0, 1]).contains("finite"));
        let ridge = RidgeClassifier::fit(&FEATURES, &labels(&[0; 6]), 2).unwrap();
        assert!(ridge.predict(&[1.0]).unwrap_err().to_string().contains("rows of 3"));
        // With one class in the labels, only that class is predicted.
        assert_eq!(ridge.predict(&[9.0, 9.0, 9.0]).unwrap(), labels(&[0]));
    }
}

//! The statistics of reported figures.

/// Mean and spread of one figure over several runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation (divided by n - 1); `None` for one value.
    pub sd: Option<f64>,
}

impl Summary {
    /// Summarizes `values`; `None` for none.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Some(Self { n: values.len(), mean, sd })
    }

    /// Standard error of the mean; `None` for one value.
    pub fn standard_error(&self) -> Option<f64> {
        self.sd.map(|sd| sd / (self.n as f64).sqrt())
    }
}

/// Standard error, in percentage points, of an `accuracy` in [0, 1] measured on `n` images that were drawn at random. Half a
/// success and half a failure are added (Jeffreys' prior), so an accuracy of 1 has an error too.
pub fn standard_error(accuracy: f64, n: u64) -> f64 {
    let n = n as f64;
    let p = (accuracy * n + 0.5) / (n + 1.0);
    100.0 * (p * (1.0 - p) / (n + 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfect_accuracy_has_an_error_and_large_n_the_binomial_one() {
        assert!((standard_error(0.75, 10_000) - 0.433).abs() < 1e-3);
        assert!(standard_error(1.0, 120) > 0.3 && standard_error(1.0, 120) < standard_error(0.98, 120));
    }

    #[test]
    fn spread_needs_two_values() {
        assert_eq!(Summary::of(&[]), None);
        let one = Summary::of(&[3.0]).unwrap();
        assert_eq!((one.n, one.mean, one.sd, one.standard_error()), (1, 3.0, None, None));
        let several = Summary::of(&[1.0, 2.0, 3.0, 6.0]).unwrap();
        assert_eq!(several.mean, 3.0);
        assert!((several.sd.unwrap() - (14.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((several.standard_error().unwrap() - (14.0f64 / 12.0).sqrt()).abs() < 1e-12);
    }
}

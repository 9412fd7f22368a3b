//! The statistics of reported figures: means with t-intervals, paired t-tests and Holm's adjustment of their p-values.

use statrs::distribution::{ContinuousCDF as _, StudentsT};

/// Mean and spread of one figure over several runs. For paired differences, interval and p-value are those of the paired t-test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// Number of values.
    pub(crate) n: usize,
    /// Their mean.
    pub(crate) mean: f64,
    /// Their sample standard deviation (divided by n - 1); `None` for one value.
    pub(crate) sd: Option<f64>,
}

impl Summary {
    /// Summarises `values`; `None` without values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Some(Self { n: values.len(), mean, sd })
    }

    /// Half the width of the 95 % t-interval of the mean; `None` for one value.
    pub(crate) fn half_width(&self) -> Option<f64> {
        Some(self.student()?.inverse_cdf(0.975) * self.standard_error()?)
    }

    /// The 95 % t-interval of the mean; `None` for one value.
    pub(crate) fn interval(&self) -> Option<[f64; 2]> {
        self.half_width().map(|half| [self.mean - half, self.mean + half])
    }

    /// Two-sided p-value of the t-test of a mean of 0; `None` for one value and for equal ones, which give no estimate of the
    /// spread.
    pub(crate) fn p_value(&self) -> Option<f64> {
        let error = self.standard_error().filter(|&error| error > 0.0)?;
        Some(2.0 * self.student()?.sf((self.mean / error).abs()))
    }

    fn standard_error(&self) -> Option<f64> {
        self.sd.map(|sd| sd / (self.n as f64).sqrt())
    }

    /// Student's t with n - 1 degrees of freedom.
    fn student(&self) -> Option<StudentsT> {
        StudentsT::new(0.0, 1.0, self.n as f64 - 1.0).ok()
    }
}

/// The p-values of a family of tests, adjusted by the step-down method of Holm (1979, Scandinavian Journal of Statistics 6). A test
/// without a p-value counts as one of the family.
pub(crate) fn holm(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut order: Vec<(usize, f64)> = p_values.iter().enumerate().filter_map(|(at, p)| Some((at, (*p)?))).collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut adjusted = vec![None; p_values.len()];
    let mut least = 0.0_f64;
    for (rank, (at, p)) in order.into_iter().enumerate() {
        least = least.max((p * (p_values.len() - rank) as f64).min(1.0));
        adjusted[at] = Some(least);
    }
    adjusted
}

/// The standard deviation within groups of values, pooled over them; `None` unless a group has two values.
pub(crate) fn pooled_sd(groups: &[Vec<f64>]) -> Option<f64> {
    let within = groups.iter().filter_map(|values| Some((values.len() as f64 - 1.0, Summary::of(values)?.sd?)));
    let (freedom, squares) =
        within.fold((0.0, 0.0), |(freedom, squares), (n, sd)| (freedom + n, squares + n * sd * sd));
    (freedom > 0.0).then(|| (squares / freedom).sqrt())
}

/// Standard error, in percentage points, of an `accuracy` in [0, 1] measured on `n` images that were drawn at random. Half a
/// success and half a failure are added (Jeffreys' prior), so an accuracy of 1 has an error too.
pub(crate) fn standard_error(accuracy: f64, n: u64) -> f64 {
    let n = n as f64;
    let p = (accuracy * n + 0.5) / (n + 1.0);
    100.0 * (p * (1.0 - p) / (n + 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, expected: f64) {
        let found = found.unwrap();
        assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found}, expected {expected}");
    }

    #[test]
    fn perfect_accuracy_has_an_error_and_large_n_the_binomial_one() {
        assert!((standard_error(0.75, 10_000) - 0.433).abs() < 1e-3);
        assert!(standard_error(1.0, 120) > 0.3 && standard_error(1.0, 120) < standard_error(0.98, 120));
    }

    #[test]
    fn intervals_need_two_values() {
        assert_eq!(Summary::of(&[]), None);
        let one = Summary::of(&[3.0]).unwrap();
        assert_eq!((one.n, one.mean, one.sd), (1, 3.0, None));
        assert_eq!((one.interval(), one.p_value()), (None, None));
        let equal = Summary::of(&[2.0, 2.0]).unwrap();
        assert_eq!((equal.interval(), equal.p_value()), (Some([2.0, 2.0]), None));
    }

    /// Expected: `scipy.stats.ttest_1samp([1, 2, 3, 6], 0)` of scipy 1.17.1, with its `confidence_interval()`.
    #[test]
    fn intervals_are_those_of_scipy() {
        let four = Summary::of(&[1.0, 2.0, 3.0, 6.0]).unwrap();
        close(four.sd, (14.0f64 / 3.0).sqrt());
        close(four.interval().map(|of| of[0]), -0.43743488185830826);
        close(four.interval().map(|of| of[1]), 6.437434881858309);
        close(four.p_value(), 0.06913686926442872);
    }

    /// Hours of sleep gained under two drugs, ten patients: Student 1908, "The probable error of a mean"; R's data set `sleep`.
    /// R's `t.test(paired = TRUE)` prints p = 0.002833 and the interval from 0.7001142 to 2.4598858.
    #[test]
    fn paired_differences_of_students_sleep_data() {
        let one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let two = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let differences: Vec<f64> = two.iter().zip(one).map(|(two, one)| two - one).collect();
        let found = Summary::of(&differences).unwrap();
        assert!((found.mean - 1.58).abs() < 1e-12);
        close(found.interval().map(|of| of[0]), 0.7001142367230175);
        close(found.interval().map(|of| of[1]), 2.459885763276983);
        close(found.p_value(), 0.002832890197384273);
    }

    /// Quantiles of three degrees of freedom and fewer are in every table of Student's t.
    #[test]
    fn few_values_have_wide_intervals() {
        for (values, quantile) in [(vec![-1.0, 1.0], 12.706204736174694), (vec![-1.0, 0.0, 1.0], 4.302652729749462)] {
            let found = Summary::of(&values).unwrap();
            close(found.half_width(), quantile * found.sd.unwrap() / (values.len() as f64).sqrt());
        }
    }

    #[test]
    fn deviations_within_groups_are_pooled() {
        // Squared deviations 0.5 and 8, with one and two degrees of freedom.
        close(pooled_sd(&[vec![1.0, 2.0], vec![1.0, 3.0, 5.0], vec![9.0], vec![]]), (8.5f64 / 3.0).sqrt());
        assert_eq!(pooled_sd(&[vec![9.0]]), None);
    }

    /// The example of R's `p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")`.
    #[test]
    fn holm_adjusts_step_by_step() {
        let adjusted =
            |p: &[Option<f64>]| holm(p).into_iter().map(|p| p.map(|p| (1e9 * p).round() / 1e9)).collect::<Vec<_>>();
        let four = [0.01, 0.04, 0.03, 0.005].map(Some);
        assert_eq!(adjusted(&four), [0.03, 0.06, 0.06, 0.02].map(Some));
        // Capped at 1; a test that could not be made still counts.
        assert_eq!(adjusted(&[Some(0.6), Some(0.4)]), [Some(0.8), Some(0.8)]);
        assert_eq!(adjusted(&[None, Some(0.2), Some(0.9)]), [None, Some(0.6), Some(1.0)]);
        assert_eq!(adjusted(&[]), []);
    }
}

//! A figure over several runs: its values, mean and deviation.

use std::fmt;

use gafi_pipeline::Summary;
use serde::{Serialize, Serializer};

/// A figure in each run of a group; `None` where a run doesn't have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Values(pub(crate) Vec<Option<f64>>);

impl Values {
    /// Mean and deviation; `None` without a value.
    pub(crate) fn summary(&self) -> Option<Summary> {
        Summary::of(&self.0.iter().copied().flatten().collect::<Vec<_>>())
    }

    /// Runs that have a value.
    pub(crate) fn n(&self) -> usize {
        self.summary().map_or(0, |s| s.n)
    }

    /// The mean; NaN without a value.
    pub(crate) fn mean(&self) -> f64 {
        self.summary().map_or(f64::NAN, |s| s.mean)
    }

    /// The sample standard deviation, from two values on.
    pub(crate) fn sd(&self) -> Option<f64> {
        self.summary()?.sd
    }
}

/// "74.29 ± 0.50"; without ± for one value, empty for none.
impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.summary() {
            Some(Summary { mean, sd: Some(sd), .. }) => write!(f, "{mean:.2} ± {sd:.2}"),
            Some(Summary { mean, .. }) => write!(f, "{mean:.2}"),
            None => Ok(()),
        }
    }
}

/// `mean` and `sd` are `null` without enough values.
impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            n: usize,
            mean: Option<f64>,
            sd: Option<f64>,
            values: &'a [Option<f64>],
        }
        let summary = self.summary();
        let mean = summary.map(|s| s.mean);
        Fields { n: self.n(), mean, sd: self.sd(), values: &self.0 }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_without_a_value_are_not_counted() {
        let values = Values(vec![Some(2.0), None, Some(4.0), Some(9.0)]);
        assert_eq!((values.mean(), values.n()), (5.0, 3));
        assert!((values.sd().unwrap() - 13f64.sqrt()).abs() < 1e-12);
        assert_eq!(values.to_string(), "5.00 ± 3.61");
        assert_eq!(Values(vec![Some(5.0), None]).to_string(), "5.00");
        assert_eq!(Values(vec![None]).to_string(), "");
    }
}

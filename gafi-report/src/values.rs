//! A figure over several runs: its values, mean and interval.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::statistics::Summary;

/// A figure in each run of a group; `None` if a run doesn't have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Values(pub(crate) Vec<Option<f64>>);

impl Values {
    /// Mean and spread; `None` without a value.
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

    /// The differences to `other`, run by run, where both have a value.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| Some((*a)? - (*b)?)).collect())
    }
}

/// "74.29 ± 0.50", where ± is half the width of the 95 % t-interval; without ± for one value, empty without values.
impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(summary) = self.summary() else { return Ok(()) };
        f.write_str(&rounded(summary.mean))?;
        summary.half_width().map_or(Ok(()), |half| write!(f, " ± {half:.2}"))
    }
}

/// With two decimals; zero has no sign.
pub(crate) fn rounded(value: f64) -> String {
    let text = format!("{value:.2}");
    if text == "-0.00" { "0.00".into() } else { text }
}

/// `mean`, `sd` and `ci95` (the 95 % t-interval of the mean) are `null` without enough values.
impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            n: usize,
            mean: Option<f64>,
            sd: Option<f64>,
            ci95: Option<[f64; 2]>,
            values: &'a [Option<f64>],
        }
        let summary = self.summary();
        Fields {
            n: self.n(),
            mean: summary.map(|s| s.mean),
            sd: summary.and_then(|s| s.sd),
            ci95: summary.and_then(|s| s.interval()),
            values: &self.0,
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_without_a_value_are_not_counted() {
        let values = Values(vec![Some(2.0), None, Some(4.0), Some(9.0)]);
        assert_eq!((values.mean(), values.n()), (5.0, 3));
        // Half a width of 4.3027 (the 97.5 % quantile of t with 2 degrees of freedom) standard errors of sqrt(13 / 3).
        assert_eq!(values.to_string(), "5.00 ± 8.96");
        assert_eq!(Values(vec![Some(5.0), None]).to_string(), "5.00");
        assert_eq!(Values(vec![None]).to_string(), "");
        assert_eq!(Values(vec![Some(-0.001)]).to_string(), "0.00");
    }

    #[test]
    fn differences_are_paired() {
        let one = Values(vec![Some(2.0), None, Some(4.0), Some(9.0)]);
        let other = Values(vec![Some(1.0), Some(5.0), None, Some(10.0)]);
        assert_eq!(one.minus(&other), Values(vec![Some(1.0), None, None, Some(-1.0)]));
    }
}

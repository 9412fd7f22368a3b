//! Figures of the paper (Lampis et al. 2023, arXiv 2305.10118) to compare with.

use crate::facts::Group;

/// The gap to real images in percentage points that the paper reports for all techniques and several generators.
pub(super) fn gap(group: &Group) -> Option<f64> {
    match group.set.as_deref()? {
        "fashion-mnist" => Some(2.03),
        "cifar10" => Some(1.78),
        "cifar100" => Some(3.99),
        _ => None,
    }
}

/// The row that is comparable with [`gap`]: all techniques and several generators.
pub(super) const ROW: &str = "gafi-multi";

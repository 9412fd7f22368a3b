//! Comparison with the values of PyTorch in `goldens`.

use std::collections::BTreeMap;

use candle_core::Tensor;
use gafi_nn::checkpoint::section;

pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// Differences are relative to the largest magnitude of the expected tensor.
pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let expected = flat(expected);
    let top = expected.iter().fold(1e-6f32, |top, x| top.max(x.abs()));
    let differences = flat(found).into_iter().zip(expected).map(|(found, expected)| (found - expected).abs() / top);
    // A NaN is infinitely far off.
    let off = differences.fold(0f32, |most, off| if off.is_nan() { f32::INFINITY } else { most.max(off) });
    assert!(off <= tolerance, "{what}: off by {off:e} of its largest value, allowed {tolerance:e}");
}

/// Compares the tensors of `found` with those of the goldens under `prefix`. Tolerances are about ten times the
/// observed error.
pub(crate) fn assert_shown(goldens: &Tensors, prefix: &str, found: &Tensors, tolerance: f32) {
    let shown = section(goldens, prefix);
    assert!(shown.len() >= 9, "{prefix}: {} tensors", shown.len());
    for (name, expected) in shown {
        assert_close(&format!("{prefix}.{name}"), &found[&name], &expected, tolerance);
    }
}

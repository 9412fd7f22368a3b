//! Blocks of inner products: the only `unsafe` call of this crate, behind a function that checks shapes.

/// Inner products out (n, m) of the rows of `a` (n, `dim`) with the rows of `b` (m, `dim`), all row-major, in f32.
///
/// # Panics
/// If a slice is not a multiple of `dim`, or `out` does not have n * m values.
pub(crate) fn inner_products(a: &[f32], b: &[f32], dim: usize, out: &mut [f32]) {
    let n = a.len() / dim;
    let m = b.len() / dim;
    assert!(a.len() == n * dim && b.len() == m * dim && out.len() == n * m, "the shapes do not match");
    // SAFETY: the strides below reach (n - 1) * dim + dim - 1 in `a`, (m - 1) * dim + dim - 1 in `b` and (n - 1) * m +
    // m - 1 in `out`, which the assertion above puts inside the slices (nothing is read or written when n or m is 0).
    // `out` is borrowed mutably and so overlaps neither factor; with `read_dst` false it is only written.
    unsafe {
        gemm::gemm(
            n,
            m,
            dim,
            out.as_mut_ptr(),
            1,
            m as isize,
            false,
            a.as_ptr(),
            1,
            dim as isize,
            b.as_ptr(),
            dim as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            // The caller runs blocks on several threads.
            gemm::Parallelism::None,
        );
    }
}

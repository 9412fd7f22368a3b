//! Attention on the CPU. Images are divided among threads; each image has its own matrix products and softmax.
//!
//! The backward pass recomputes the attention weights: they are larger than everything they are computed from.

use std::cell::RefCell;

use rayon::prelude::*;

use super::element::{Element, as_floats};
use super::gemm::{Outer, PANEL, Rows, columns, level_for, pack, whole_columns};
use super::parallel::{Tasks, for_each_chunk};
use super::view::{HostSource, ImagePre, read};
use crate::math::{exp_not_positive, largest, sum};
use crate::memory::{Pooled, Scratch};
use crate::simd::{Kernel, Lane, Level, dispatch};

thread_local! {
    static SCRATCH: RefCell<[Scratch; 6]> = RefCell::default();
}

/// Query, key and value maps.
pub(super) struct Attention<'a, E> {
    pub(super) query: HostSource<'a, E>,
    pub(super) key: HostSource<'a, E>,
    pub(super) value: HostSource<'a, E>,
}

/// Writes a (m, k) times b (k, n) to `out` (m, n); the elements of b are `at(row, column)`.
fn multiply(level: Level, a: &[f32], k: usize, n: usize, at: impl Fn(usize, usize) -> f32, out: &mut [f32]) {
    let rows = row_offsets(a, k);
    let b = pack(1, k, n, |_, i, j| at(i, j));
    let product = Rows { a, rows: &rows, runs: &[0], len: k, b: &b, panel: k * PANEL, n, start: None, out };
    dispatch(level_for(level, n), product);
}

/// Writes the transpose of a (m, k) times b (m, n) to `out` (k, n).
fn multiply_transposed<E: Element>(
    level: Level,
    (a, k): (&[f32], usize),
    (b, n): (&[f32], usize),
    [widened, sums]: [&mut Scratch; 2],
    out: &mut [E],
) {
    let wide = columns(n);
    let rows = row_offsets(a, k);
    let d = whole_columns(b, n, widened);
    let sum = sums.take(k * wide);
    sum.fill(0.0);
    dispatch(level_for(level, n), Outer { a, rows: &rows, len: k, d, n: wide, sum });
    sum.chunks_exact(wide).zip(out.chunks_exact_mut(n)).for_each(|(row, out)| E::write(&row[..n], out));
}

/// The offset of each row of a matrix with `width` columns.
fn row_offsets(matrix: &[f32], width: usize) -> Vec<usize> {
    (0..matrix.len()).step_by(width).collect()
}

/// Softmax of each row, in place.
struct Softmax<'a>(&'a mut [f32], usize);

impl Kernel for Softmax<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        for row in self.0.chunks_exact_mut(self.1) {
            let max = largest(row);
            row.iter_mut().for_each(|v| *v = exp_not_positive(*v - max));
            let scale = (1.0 / sum(row)) as f32;
            row.iter_mut().for_each(|v| *v *= scale);
        }
    }
}

/// The gradient of a softmax from its result p and the gradient dp, in place of dp: p * (dp - sum(p * dp)) for each row.
struct SoftmaxBackward<'a>(&'a [f32], &'a mut [f32], usize);

impl Kernel for SoftmaxBackward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let SoftmaxBackward(weights, grads, width) = self;
        for (p, g) in weights.chunks_exact(width).zip(grads.chunks_exact_mut(width)) {
            g.iter_mut().zip(p).for_each(|(g, p)| *g *= p);
            let inner = sum(g) as f32;
            g.iter_mut().zip(p).for_each(|(g, p)| *g -= p * inner);
        }
    }
}

impl<E: Element> Attention<'_, E> {
    /// Number of query positions, of key positions, of channels of query and key, of channels of the value.
    fn sizes(&self) -> (usize, usize, usize, usize) {
        let q = self.query.maps;
        let k = self.key.maps;
        let v = self.value.maps;
        (q.h * q.w, k.h * k.w, q.c, v.c)
    }

    /// The weighted means of the values, (n, h, w, v).
    pub(super) fn forward(&self, level: Level) -> Pooled<E> {
        let (from, at, c, v) = self.sizes();
        let mut out = Pooled::<E>::new(self.query.maps.n * from * v);
        for_each_chunk(&mut out, from * v, Tasks::SINGLE, &|i, out| {
            SCRATCH.with_borrow_mut(|[q, k, val, weights, result, _]| {
                let q = self.query.image(level, i, q);
                let k = self.key.image(level, i, k);
                let val = self.value.image(level, i, val);
                let weights = weights.take(from * at);
                multiply(level, q, c, at, |i, j| k[j * c + i], weights);
                dispatch(level, Softmax(weights, at));
                as_floats(out, result, |out| multiply(level, weights, at, v, |i, j| val[i * v + j], out));
            });
        });
        out
    }

    /// The gradients of query, key and value.
    pub(super) fn gradients(&self, level: Level, dy: &[E]) -> [Pooled<E>; 3] {
        let (from, at, c, v) = self.sizes();
        let n = self.query.maps.n;
        let mut dq = Pooled::<E>::new(n * from * c);
        let mut dk = Pooled::<E>::new(n * at * c);
        let mut dv = Pooled::<E>::new(n * at * v);
        let each = dq.par_chunks_mut((from * c).max(1)).zip(dk.par_chunks_mut((at * c).max(1)));
        each.zip(dv.par_chunks_mut((at * v).max(1))).enumerate().with_max_len(1).for_each(|(i, ((dq, dk), dv))| {
            SCRATCH.with_borrow_mut(|[q, k, val, weights, result, widened]| {
                let q = self.query.image(level, i, q);
                let k = self.key.image(level, i, k);
                let val = self.value.image(level, i, val);
                let weights = weights.take(2 * from * at + from * v);
                let (weights, rest) = weights.split_at_mut(from * at);
                let (grads, dy_floats) = rest.split_at_mut(from * at);
                read(level, &dy[i * from * v..][..from * v], ImagePre::None, dy_floats);
                multiply(level, q, c, at, |i, j| k[j * c + i], weights);
                dispatch(level, Softmax(weights, at));
                multiply_transposed(level, (weights, at), (dy_floats, v), [&mut *widened, &mut *result], dv);
                multiply(level, dy_floats, v, at, |i, j| val[j * v + i], grads);
                dispatch(level, SoftmaxBackward(weights, grads, at));
                as_floats(dq, result, |dq| multiply(level, grads, at, c, |i, j| k[i * c + j], dq));
                multiply_transposed(level, (grads, at), (q, c), [widened, result], dk);
            });
        });
        [dq, dk, dv]
    }
}

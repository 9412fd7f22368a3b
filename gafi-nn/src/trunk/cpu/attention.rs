//! Attention on the CPU: each image's matrix products and softmax by itself, images shared among threads.
//!
//! The shares (softmax weights) are computed again on the way back: they are larger than all that they are made of.

use std::cell::RefCell;

use rayon::prelude::*;

use super::super::backend::Maps;
use super::super::memory::Pooled;
use super::conv::Images;
use super::maps::{Element, read};
use crate::ops::pointwise::exp_not_positive;
use crate::ops::reduce::sum;
use crate::ops::simd::{Kernel, Lane, Level, Scratch, dispatch};

thread_local! {
    static SCRATCH: RefCell<[Scratch; 5]> = RefCell::default();
}

/// Query, key and value maps with their shapes.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a, E> {
    pub(super) query: (Images<'a, E>, Maps),
    pub(super) key: (Images<'a, E>, Maps),
    pub(super) value: (Images<'a, E>, Maps),
}

/// c (m, n) = alpha * c + a (m, k) b (k, n), each given with its (column, row) strides.
#[derive(Clone, Copy)]
struct Product {
    m: usize,
    n: usize,
    k: usize,
    a: (usize, usize),
    b: (usize, usize),
}

impl Product {
    fn run(self, a: &[f32], b: &[f32], c: &mut [f32]) {
        let Product { m, n, k, a: (a_col, a_row), b: (b_col, b_row) } = self;
        if m == 0 || n == 0 || k == 0 {
            return c.fill(0.0);
        }
        let last = |rows: usize, cols: usize, (col, row): (usize, usize)| (rows - 1) * row + (cols - 1) * col;
        assert!(last(m, k, self.a) < a.len() && last(k, n, self.b) < b.len() && m * n <= c.len());
        // SAFETY: the largest index into each of the three matrices was checked against its length just above.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c.as_mut_ptr(),
                1,
                n as isize,
                false,
                a.as_ptr(),
                a_col as isize,
                a_row as isize,
                b.as_ptr(),
                b_col as isize,
                b_row as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

/// Softmax of each row, in place.
struct Softmax<'a>(&'a mut [f32], usize);

impl Kernel for Softmax<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        for row in self.0.chunks_exact_mut(self.1) {
            let max = row.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
            row.iter_mut().for_each(|v| *v = exp_not_positive(*v - max));
            let scale = (1.0 / sum(row)) as f32;
            row.iter_mut().for_each(|v| *v *= scale);
        }
    }
}

/// From shares p and their gradients (in place): p * (dp - sum(p * dp)), row by row.
struct SoftmaxBack<'a>(&'a [f32], &'a mut [f32], usize);

impl Kernel for SoftmaxBack<'_> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        let SoftmaxBack(shares, grads, width) = self;
        for (p, g) in shares.chunks_exact(width).zip(grads.chunks_exact_mut(width)) {
            g.iter_mut().zip(p).for_each(|(g, p)| *g *= p);
            let inner = sum(g) as f32;
            g.iter_mut().zip(p).for_each(|(g, p)| *g -= p * inner);
        }
    }
}

impl<E: Element> Attention<'_, E> {
    /// Positions asked from, positions looked at, channels of query and key, channels of the value.
    fn sizes(&self) -> (usize, usize, usize, usize) {
        let (q, k, v) = (self.query.1, self.key.1, self.value.1);
        (q.h * q.w, k.h * k.w, q.c, v.c)
    }

    /// Image `i` of one of the three as it is read.
    fn image<'s>(level: Level, (images, maps): (Images<'_, E>, Maps), i: usize, to: &'s mut Scratch) -> &'s [f32] {
        let to = to.take(maps.image());
        read(level, &images.values[i * maps.image()..][..maps.image()], images.pre.image(i, maps.c), to);
        to
    }

    /// The mean values, (n, h, w, v).
    pub(super) fn forward(&self, level: Level) -> Pooled<E> {
        let (from, at, c, v) = self.sizes();
        let mut out = Pooled::<E>::new(self.query.1.n * from * v);
        out.par_chunks_mut((from * v).max(1)).enumerate().with_max_len(1).for_each(|(i, out)| {
            SCRATCH.with_borrow_mut(|[q, k, val, shares, result]| {
                let (q, k) = (Self::image(level, self.query, i, q), Self::image(level, self.key, i, k));
                let (val, shares, result) =
                    (Self::image(level, self.value, i, val), shares.take(from * at), result.take(from * v));
                Product { m: from, n: at, k: c, a: (1, c), b: (c, 1) }.run(q, k, shares);
                dispatch(level, Softmax(shares, at));
                Product { m: from, n: v, k: at, a: (1, at), b: (1, v) }.run(shares, val, result);
                E::write(result, out);
            });
        });
        out
    }

    /// The gradients of query, key and value.
    pub(super) fn gradients(&self, level: Level, dy: &[E]) -> [Pooled<E>; 3] {
        let (from, at, c, v) = self.sizes();
        let n = self.query.1.n;
        let (mut dq, mut dk, mut dv) =
            (Pooled::<E>::new(n * from * c), Pooled::<E>::new(n * at * c), Pooled::<E>::new(n * at * v));
        let each = dq.par_chunks_mut((from * c).max(1)).zip(dk.par_chunks_mut((at * c).max(1)));
        each.zip(dv.par_chunks_mut((at * v).max(1))).enumerate().with_max_len(1).for_each(|(i, ((dq, dk), dv))| {
            SCRATCH.with_borrow_mut(|[q, k, val, shares, result]| {
                let (q, k) = (Self::image(level, self.query, i, q), Self::image(level, self.key, i, k));
                let (val, shares) = (Self::image(level, self.value, i, val), shares.take(from * at));
                let scratch = result.take(from * at + from * v + from.max(at) * c.max(v));
                let (grads, rest) = scratch.split_at_mut(from * at);
                let (dy_floats, result) = rest.split_at_mut(from * v);
                read(level, &dy[i * from * v..][..from * v], super::maps::ImagePre::None, dy_floats);
                let dy = &*dy_floats;
                Product { m: from, n: at, k: c, a: (1, c), b: (c, 1) }.run(q, k, shares);
                dispatch(level, Softmax(shares, at));
                Product { m: at, n: v, k: from, a: (at, 1), b: (1, v) }.run(shares, dy, result);
                E::write(&result[..at * v], dv);
                Product { m: from, n: at, k: v, a: (1, v), b: (v, 1) }.run(dy, val, grads);
                dispatch(level, SoftmaxBack(shares, grads, at));
                Product { m: from, n: c, k: at, a: (1, at), b: (1, c) }.run(grads, k, result);
                E::write(&result[..from * c], dq);
                Product { m: at, n: c, k: from, a: (at, 1), b: (1, c) }.run(grads, q, result);
                E::write(&result[..at * c], dk);
            });
        });
        [dq, dk, dv]
    }
}

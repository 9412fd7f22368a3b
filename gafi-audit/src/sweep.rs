//! Compares every query with every reference, block by block, in f32, with a bound on the error.
//!
//! Half the squared distance is |q|^2 / 2 + (|r|^2 / 2 - q.r). The first term is the same for all references of a
//! query; the inner products are a matrix product, of which each thread holds one block at a time. The bound covers
//! cancellation and f32 rounding: a search takes everything within it and decides by [`Coordinate::squared_distance`],
//! which is exact for bytes and f64 for features. So results depend neither on blocks nor on threads nor on the CPU's
//! instruction set.

use gafi_core::{Error, Result};
use rayon::prelude::*;

use crate::product::inner_products;

/// Queries and references of one block of products: 1 MiB, which fits the second-level cache.
const QUERIES: usize = 256;
const REFERENCES: usize = 1024;

/// References that are skipped together when none of them is within the limit.
pub(crate) const CHUNK: usize = 64;

/// Half of the distance from 1 to the next f32: the largest relative error of one rounding.
const UNIT: f32 = f32::EPSILON / 2.0;

/// Maximum number of coordinates of a point. With more, the error bound is useless.
const DIM: usize = 1 << 20;

/// A coordinate of a point: `f32` (features) or `u8` (pixels).
pub trait Coordinate: Copy + Send + Sync + sealed::Sealed {
    /// The value as f32, without rounding.
    fn to_f32(self) -> f32;

    /// Squared Euclidean distance of two points of the same length; symmetric to the last bit.
    fn squared_distance(a: &[Self], b: &[Self]) -> f64;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u8 {}
}

impl Coordinate for f32 {
    #[inline]
    fn to_f32(self) -> f32 {
        self
    }

    /// In f64, as four partial sums.
    fn squared_distance(a: &[Self], b: &[Self]) -> f64 {
        let mut sums = [0.0; 4];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
        for (a, b) in a.iter().zip(b) {
            for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                let d = f64::from(a) - f64::from(b);
                *sum += d * d;
            }
        }
        let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
        (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
    }
}

impl Coordinate for u8 {
    #[inline]
    fn to_f32(self) -> f32 {
        f32::from(self)
    }

    /// Exact: 2^15 squares of bytes fit a u32, and f64 holds any sum of those.
    fn squared_distance(a: &[Self], b: &[Self]) -> f64 {
        let chunks = a.chunks(1 << 15).zip(b.chunks(1 << 15));
        let sums = chunks.map(|(a, b)| {
            // Never wraps; overflow checks would keep the loop from being vectorised.
            let square = |(&a, &b): (&u8, &u8)| u32::from(a.abs_diff(b)).wrapping_mul(u32::from(a.abs_diff(b)));
            a.iter().zip(b).map(square).fold(0u32, u32::wrapping_add)
        });
        sums.map(f64::from).sum()
    }
}

/// A search: the state of each query, and how references update it.
pub(crate) trait Search: Sync {
    /// State of a query during the search.
    type State: Send;
    /// Result of a query.
    type Found: Send;

    /// Starts query `row`, at distance `norm` from the centre. Its values |r|^2 / 2 - q.r have an error of at most
    /// `error`.
    fn begin(&self, row: usize, norm: f32, error: f32) -> Self::State;

    /// Visits the references from `first` on: their inner products with the query, and half their squared norms.
    fn visit(&self, state: &mut Self::State, first: usize, products: &[f32], halves: &[f32]);

    /// Finishes a query after all references.
    fn finish(&self, state: Self::State) -> Self::Found;
}

/// Two sets of points, row-major, with the centre and norms of the second.
pub(crate) struct Sweep<'a, T> {
    queries: &'a [T],
    references: &'a [T],
    dim: usize,
    // Mean of the references. Shifting both sets by it changes no distance, and makes the norms, and with them the
    // error, small.
    centre: Vec<f32>,
    /// Half the squared norms of the references.
    pub(crate) halves: Vec<f32>,
    /// An upper bound on the distance of a reference from the centre.
    pub(crate) largest: f32,
}

impl<'a, T: Coordinate> Sweep<'a, T> {
    /// # Errors
    /// [`Error::Config`] when `dim` is 0 or too large, a slice is not a multiple of it, or a coordinate is not finite
    /// or above 1e15.
    pub(crate) fn new(queries: &'a [T], references: &'a [T], dim: usize) -> Result<Self> {
        if dim == 0 || dim > DIM {
            return Err(Error::config("dim", dim, format!("1 to {DIM}")));
        }
        for (name, values) in [("queries", queries), ("references", references)] {
            if !values.len().is_multiple_of(dim) || values.len() / dim > u32::MAX as usize {
                let expected = format!("a multiple of the dimension {dim}, for at most 2^32 - 1 points");
                return Err(Error::config(name, format!("{} values", values.len()), expected));
            }
        }
        let mut sum = vec![0.0; dim];
        for point in references.chunks_exact(dim) {
            sum.iter_mut().zip(point).for_each(|(sum, v)| *sum += f64::from(v.to_f32()));
        }
        let n = (references.len() / dim).max(1) as f64;
        let centre: Vec<f32> = sum.iter().map(|sum| (sum / n) as f32).collect();
        let square =
            |point: &[T]| -> f64 { point.iter().zip(&centre).map(|(v, c)| f64::from(v.to_f32() - c).powi(2)).sum() };
        let halves: Vec<f32> = references.par_chunks_exact(dim).map(|point| (square(point) / 2.0) as f32).collect();
        let largest = halves.iter().fold(0.0, |most: f32, &half| most.max((2.0 * half).sqrt())) * 1.0001;
        // `max` above ignores NaN; `is_finite` does not.
        let sound = halves.iter().all(|half| half.is_finite() && *half < 1e30);
        if !sound || !queries.par_chunks_exact(dim).all(|point| square(point) < 1e30) {
            return Err(Error::config("points", "NaN, infinity or a value above 1e15", "finite values below 1e15"));
        }
        Ok(Self { queries, references, dim, centre, halves, largest })
    }

    /// Number of references.
    pub(crate) fn references(&self) -> usize {
        self.halves.len()
    }

    /// Exact squared distance from query `row` to reference `at`.
    pub(crate) fn exact(&self, row: usize, at: usize) -> f64 {
        let dim = self.dim;
        T::squared_distance(&self.queries[row * dim..(row + 1) * dim], &self.references[at * dim..(at + 1) * dim])
    }

    /// Bound on the error of the computed `|r|^2 / 2 - q.r`, where |q| is `norm`: d + 1 roundings of the product in any
    /// order (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), two of the shifted coordinates,
    /// those of norms and difference, and a margin.
    fn error(&self, norm: f32) -> f32 {
        let r = self.largest;
        let terms = (1.1 * self.dim as f32 + 16.0) * norm * r + 4.0 * r * r;
        UNIT * terms + self.dim as f32 * f32::MIN_POSITIVE
    }

    fn centred(&self, points: &[T], out: &mut Vec<f32>) {
        out.clear();
        for point in points.chunks_exact(self.dim) {
            out.extend(point.iter().zip(&self.centre).map(|(v, c)| v.to_f32() - c));
        }
    }

    /// Runs `search` over all references for every query. The search gets `halves` instead of half the squared norms.
    pub(crate) fn run<S: Search>(&self, search: &S, halves: &[f32]) -> Vec<S::Found> {
        let blocks = self.queries.par_chunks(QUERIES * self.dim).enumerate();
        let found: Vec<Vec<S::Found>> = blocks
            .map_init(<(Vec<f32>, Vec<f32>, Vec<f32>)>::default, |(a, b, products), (block, queries)| {
                self.centred(queries, a);
                let begin = |(i, query): (usize, &[f32])| {
                    let norm = query.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt() as f32;
                    search.begin(block * QUERIES + i, norm, self.error(norm))
                };
                let mut states: Vec<S::State> = a.chunks_exact(self.dim).enumerate().map(begin).collect();
                let references = self.references.chunks(REFERENCES * self.dim).zip(halves.chunks(REFERENCES));
                for (at, (references, halves)) in references.enumerate() {
                    self.centred(references, b);
                    products.resize(states.len() * halves.len(), 0.0);
                    inner_products(a, b, self.dim, products);
                    for (state, products) in states.iter_mut().zip(products.chunks_exact(halves.len())) {
                        for (i, (p, h)) in products.chunks(CHUNK).zip(halves.chunks(CHUNK)).enumerate() {
                            search.visit(state, at * REFERENCES + i * CHUNK, p, h);
                        }
                    }
                }
                states.into_iter().map(|state| search.finish(state)).collect()
            })
            .collect();
        found.into_iter().flatten().collect()
    }
}

/// Whether any of `halves - products` is at most `limit`; branch-free, so that it is vectorised.
#[inline]
pub(crate) fn any_within(products: &[f32], halves: &[f32], limit: f32) -> bool {
    products.iter().zip(halves).fold(false, |any, (p, h)| any | (h - p <= limit))
}

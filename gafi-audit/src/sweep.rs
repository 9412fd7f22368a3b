//! Every query against every reference, block by block, in f32, with a bound of the error.
//!
//! Half the squared distance is |q|^2 / 2 + (|r|^2 / 2 - q.r): the first term is the same for all references of a query, the
//! inner products are a matrix product, and never more than one block of them exists for each thread. What is lost to
//! cancellation and to f32 is bounded here; whoever searches takes everything within the bound and decides by
//! [`Value::squared_distance`], which is exact for bytes and f64 for features. So results depend neither on blocks nor on
//! threads nor on the CPU's instruction set.

use gafi_core::{Error, Result};
use rayon::prelude::*;

use crate::product::inner_products;

/// Queries and references of one block of products: 1 MiB, which stays in the second-level cache.
const QUERIES: usize = 256;
const REFERENCES: usize = 1024;

/// References that are passed over together when none of them can matter.
pub(crate) const CHUNK: usize = 64;

/// Half of the distance from 1 to the next f32: the largest relative error of one rounding.
const UNIT: f32 = f32::EPSILON / 2.0;

/// Coordinates of a point at most; above, the bound of the error says nothing.
const DIM: usize = 1 << 20;

/// What points are made of: `f32` (features) or `u8` (pixels).
pub trait Value: Copy + Send + Sync + sealed::Sealed {
    /// The number as f32, exactly.
    fn to_f32(self) -> f32;

    /// Squared Euclidean distance of two points of the same length, the same in both directions.
    fn squared_distance(a: &[Self], b: &[Self]) -> f64;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u8 {}
}

impl Value for f32 {
    #[inline]
    fn to_f32(self) -> f32 {
        self
    }

    /// In f64, four chains.
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

impl Value for u8 {
    #[inline]
    fn to_f32(self) -> f32 {
        f32::from(self)
    }

    /// Exact: 2^15 squares of bytes fit an u32, and all sums of them an f64.
    fn squared_distance(a: &[Self], b: &[Self]) -> f64 {
        let chunks = a.chunks(1 << 15).zip(b.chunks(1 << 15));
        let sums = chunks.map(|(a, b)| {
            // Wrapping, which never happens, because checks for it would keep the loop from being vectorised.
            let square = |(&a, &b): (&u8, &u8)| u32::from(a.abs_diff(b)).wrapping_mul(u32::from(a.abs_diff(b)));
            a.iter().zip(b).map(square).fold(0u32, u32::wrapping_add)
        });
        sums.map(f64::from).sum()
    }
}

/// A search: what is kept of each query, and how a run of references changes it.
pub(crate) trait Search: Sync {
    /// What is kept of a query while references pass.
    type State: Send;
    /// What is made of it.
    type Found: Send;

    /// Begins query `row`, which lies `norm` from the centre; inner products with it, less half norms, err by `error` at most.
    fn begin(&self, row: usize, norm: f32, error: f32) -> Self::State;

    /// Inner products with the references from `first` on, and half the squared norms of those.
    fn see(&self, state: &mut Self::State, first: usize, products: &[f32], halves: &[f32]);

    /// All references have passed.
    fn end(&self, state: Self::State) -> Self::Found;
}

/// Two sets of points, row-major, and what all searches need of the second.
pub(crate) struct Sweep<'a, T> {
    queries: &'a [T],
    references: &'a [T],
    dim: usize,
    // Distances do not change when both sets are shifted, and norms, which the error grows with, are smallest here.
    centre: Vec<f32>,
    // Half the squared norms of the references.
    halves: Vec<f32>,
    largest: f32,
}

impl<'a, T: Value> Sweep<'a, T> {
    /// # Errors
    /// [`Error::Config`] when the slices are no whole points of `dim` coordinates, or coordinates are not finite or so large
    /// that their squares are not.
    pub(crate) fn new(queries: &'a [T], references: &'a [T], dim: usize) -> Result<Self> {
        if dim == 0 || dim > DIM {
            return Err(Error::config("dim", dim, format!("1 to {DIM}")));
        }
        for (name, values) in [("queries", queries), ("references", references)] {
            if !values.len().is_multiple_of(dim) || values.len() / dim > u32::MAX as usize {
                let expected = format!("whole points of {dim} values, at most 2^32 - 1 points");
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
        // `max` passes over what is not a number, `is_finite` does not.
        let sound = halves.iter().all(|half| half.is_finite() && *half < 1e30);
        if !sound || !queries.par_chunks_exact(dim).all(|point| square(point) < 1e30) {
            return Err(Error::config("points", "one that is no number or too large", "finite values below 1e15"));
        }
        Ok(Self { queries, references, dim, centre, halves, largest })
    }

    /// Number of references.
    pub(crate) fn references(&self) -> usize {
        self.halves.len()
    }

    /// The largest distance of a reference from the centre, or a little more.
    pub(crate) fn largest(&self) -> f32 {
        self.largest
    }

    /// Half the squared norms of the references.
    pub(crate) fn halves(&self) -> &[f32] {
        &self.halves
    }

    /// The squared distance of query `row` to reference `at`.
    pub(crate) fn exact(&self, row: usize, at: usize) -> f64 {
        let dim = self.dim;
        T::squared_distance(&self.queries[row * dim..(row + 1) * dim], &self.references[at * dim..(at + 1) * dim])
    }

    /// The error of `|r|^2 / 2 - q.r` as computed, |q| being `norm`: for the product d + 1 roundings in whatever order (Higham,
    /// Accuracy and Stability, section 3.1), two for the shifted coordinates, and those of norms and difference; the rest is margin.
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

    /// Shows `search` all references for every query; `halves` is given to it in the place of half the squared norms.
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
                            search.see(state, at * REFERENCES + i * CHUNK, p, h);
                        }
                    }
                }
                states.into_iter().map(|state| search.end(state)).collect()
            })
            .collect();
        found.into_iter().flatten().collect()
    }
}

/// Whether one of `halves - products` is at most `limit`: without a branch for each, so it is vectorised.
#[inline]
pub(crate) fn any_within(products: &[f32], halves: &[f32], limit: f32) -> bool {
    products.iter().zip(halves).fold(false, |any, (p, h)| any | (h - p <= limit))
}

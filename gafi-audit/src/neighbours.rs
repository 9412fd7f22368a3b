//! Exact nearest neighbours, and the balls that points lie in: two searches of a [`Sweep`].

use std::sync::atomic::{AtomicBool, Ordering};

use gafi_core::{Error, Result};

use crate::sweep::{Coordinate, Search, Sweep, any_within};

/// Candidates that a query keeps besides its k; see [`Nearest`].
const SPARE: usize = 64;

/// The nearest references of each query.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    /// Number of neighbours of each query.
    pub k: usize,
    /// Rows of the references (queries, k), nearest first; ties go to the lower row.
    pub rows: Vec<u32>,
    /// Squared Euclidean distances (queries, k), in the units of the points.
    pub squared: Vec<f64>,
}

impl Neighbours {
    /// Squared distance from each query to its k-th neighbour.
    pub fn squared_radii(&self) -> Vec<f64> {
        self.squared.chunks_exact(self.k).map(|row| row[self.k - 1]).collect()
    }
}

/// The `k` nearest of `references` (m, `dim`) for each of `queries` (n, `dim`), both row-major, by Euclidean distance.
///
/// The result is exact and does not depend on the number of threads: f32 products select candidates, f64 (integers, for
/// bytes) decides among them. Besides the result, each thread holds one block of products in memory. `exclude_self`
/// requires the same set twice; no point is then its own neighbour, though an equal one may be.
///
/// # Errors
/// [`Error::Config`] when `k` is 0 or exceeds the number of neighbours, a slice is not a multiple of `dim`, or a value
/// is not finite.
pub fn knn<T: Coordinate>(
    queries: &[T],
    references: &[T],
    dim: usize,
    k: usize,
    exclude_self: bool,
) -> Result<Neighbours> {
    if exclude_self && queries.len() != references.len() {
        let found = format!("{} and {} values", queries.len(), references.len());
        return Err(Error::config("queries and references", found, "the same set twice, because of exclude_self"));
    }
    search(queries, references, dim, k, exclude_self.then_some(0))
}

/// [`knn`]; with `own`, the queries are the references from that row on.
pub(crate) fn search<T: Coordinate>(
    queries: &[T],
    references: &[T],
    dim: usize,
    k: usize,
    own: Option<usize>,
) -> Result<Neighbours> {
    let sweep = Sweep::new(queries, references, dim)?;
    let most = sweep.references() - usize::from(own.is_some()).min(sweep.references());
    if k == 0 || k > most {
        return Err(Error::config("k", k, format!("1 to {most}, the number of possible neighbours")));
    }
    let found = sweep.run(&Nearest { sweep: &sweep, k, own }, &sweep.halves);
    let all = || found.iter().flatten();
    Ok(Neighbours { k, rows: all().map(|n| n.1).collect(), squared: all().map(|n| n.0).collect() })
}

/// Keeps every reference that may be among the k nearest: those whose value, |r|^2 / 2 - q.r, exceeds the k-th smallest
/// so far by at most twice the error. A query with more than [`SPARE`] such candidates besides its k (almost equal
/// distances) is searched again, exactly, so that memory stays bounded.
struct Nearest<'a, T> {
    sweep: &'a Sweep<'a, T>,
    k: usize,
    own: Option<usize>,
}

struct Candidates {
    row: usize,
    // Row of the query itself, which is never a neighbour.
    own: Option<usize>,
    slack: f32,
    limit: f32,
    found: Vec<(f32, u32)>,
    too_many: bool,
}

impl Candidates {
    /// Lowers the limit to that of the current k-th smallest, and drops the candidates above it.
    fn prune(&mut self, k: usize) {
        let (_, kth, _) = self.found.select_nth_unstable_by(k - 1, |a, b| a.0.total_cmp(&b.0));
        let limit = kth.0 + self.slack;
        self.limit = limit;
        self.found.retain(|c| c.0 <= limit);
    }
}

impl<T: Coordinate> Search for Nearest<'_, T> {
    type State = Candidates;
    type Found = Vec<(f64, u32)>;

    fn begin(&self, row: usize, _: f32, error: f32) -> Candidates {
        let own = self.own.map(|first| first + row);
        Candidates { row, own, slack: 2.0 * error, limit: f32::INFINITY, found: Vec::new(), too_many: false }
    }

    fn visit(&self, state: &mut Candidates, first: usize, products: &[f32], halves: &[f32]) {
        if !any_within(products, halves, state.limit) {
            return;
        }
        for (i, (product, half)) in products.iter().zip(halves).enumerate() {
            let value = half - product;
            if value > state.limit || state.own == Some(first + i) {
                continue;
            }
            state.found.push((value, (first + i) as u32));
            if state.found.len() == 2 * (self.k + SPARE) {
                state.prune(self.k);
                if state.found.len() > self.k + SPARE {
                    state.too_many = true;
                    state.found.clear();
                    state.limit = f32::NEG_INFINITY;
                }
            }
        }
    }

    fn finish(&self, mut state: Candidates) -> Self::Found {
        let nearer = |a: &(f64, u32), b: &(f64, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let mut best = Vec::new();
        if state.too_many {
            for at in (0..self.sweep.references()).filter(|&at| state.own != Some(at)) {
                best.push((self.sweep.exact(state.row, at), at as u32));
                if best.len() == 2 * (self.k + SPARE) {
                    best.select_nth_unstable_by(self.k - 1, nearer);
                    best.truncate(self.k);
                }
            }
        } else {
            if state.found.len() > self.k {
                state.prune(self.k);
            }
            best.extend(state.found.iter().map(|&(_, at)| (self.sweep.exact(state.row, at as usize), at)));
        }
        best.sort_unstable_by(nearer);
        best.truncate(self.k);
        best
    }
}

/// How points and balls meet.
#[derive(Debug, PartialEq)]
pub(crate) struct Within {
    /// For each query, the number of balls that contain it.
    pub(crate) balls: Vec<u32>,
    /// For each ball, whether it contains a query.
    pub(crate) reached: Vec<bool>,
}

/// Counts the closed balls around `centres` (m, `dim`) that contain each of `queries` (n, `dim`). `squared_radii` has
/// one value per centre. As exact as [`knn`].
///
/// # Errors
/// As [`knn`].
///
/// # Panics
/// Unless there is one radius per centre.
pub(crate) fn within(queries: &[f32], centres: &[f32], dim: usize, squared_radii: &[f64]) -> Result<Within> {
    let sweep = Sweep::new(queries, centres, dim)?;
    assert_eq!(sweep.references(), squared_radii.len(), "one radius per centre");
    // |q - r|^2 <= radius^2 is |r|^2 / 2 - radius^2 / 2 - q.r <= -|q|^2 / 2.
    let halves = sweep.halves.iter().zip(squared_radii).map(|(h, r)| (f64::from(*h) - r / 2.0) as f32).collect();
    let largest = squared_radii.iter().fold(0.0, |most: f64, &r| most.max(r)) as f32;
    let reached = squared_radii.iter().map(|_| AtomicBool::new(false)).collect();
    let balls = Balls { sweep: &sweep, squared_radii, largest, reached };
    let counts = sweep.run(&balls, Vec::as_slice(&halves));
    Ok(Within { balls: counts, reached: balls.reached.into_iter().map(AtomicBool::into_inner).collect() })
}

struct Balls<'a> {
    sweep: &'a Sweep<'a, f32>,
    squared_radii: &'a [f64],
    // The largest squared radius.
    largest: f32,
    // Set and never cleared, so the order of the threads does not matter.
    reached: Vec<AtomicBool>,
}

struct Inside {
    row: usize,
    // A value below `sure` is inside, one above `possible` is outside; between them the exact distance decides.
    sure: f32,
    possible: f32,
    count: u32,
}

impl Search for Balls<'_> {
    type State = Inside;
    type Found = u32;

    fn begin(&self, row: usize, norm: f32, error: f32) -> Inside {
        // Adds the roundings of the radius, of the query's norm, and of the compared values.
        let r = self.sweep.largest;
        let error = error + f32::EPSILON * 4.0 * (self.largest + norm * norm + r * r);
        let half = norm * norm / 2.0;
        Inside { row, sure: -half - error, possible: -half + error, count: 0 }
    }

    fn visit(&self, state: &mut Inside, first: usize, products: &[f32], halves: &[f32]) {
        if !any_within(products, halves, state.possible) {
            return;
        }
        for (i, (product, half)) in products.iter().zip(halves).enumerate() {
            let value = half - product;
            let at = first + i;
            if value > state.possible {
                continue;
            }
            if value < state.sure || self.sweep.exact(state.row, at) <= self.squared_radii[at] {
                state.count += 1;
                self.reached[at].store(true, Ordering::Relaxed);
            }
        }
    }

    fn finish(&self, state: Inside) -> u32 {
        state.count
    }
}

//! Nearest neighbours and the measures built on them, against brute force in f64.

use gafi_audit::{Coordinate, FeatureSet, Neighbours, Prdc, knn};
use gafi_core::stream::unit_f32;
use gafi_core::{Error, Stream};
use proptest::prelude::*;

/// Approximately normal numbers of standard deviation 1.
fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Stream::new(seed).rng();
    (0..n).map(|_| (0..12).map(|_| unit_f32(&mut rng)).sum::<f32>() - 6.0).collect()
}

fn squared<T: Coordinate>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(a.to_f32()) - f64::from(b.to_f32())).powi(2)).sum()
}

/// Squared distances and rows of the k nearest references of each query.
fn naive<T: Coordinate>(queries: &[T], references: &[T], dim: usize, k: usize, exclude_self: bool) -> Vec<(f64, u32)> {
    let mut found = Vec::new();
    for (i, q) in queries.chunks(dim).enumerate() {
        let others = references.chunks(dim).enumerate().filter(|&(j, _)| !(exclude_self && i == j));
        let mut all: Vec<(f64, u32)> = others.map(|(j, r)| (squared(q, r), j as u32)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        found.extend(&all[..k]);
    }
    found
}

fn pairs(found: &Neighbours) -> Vec<(f64, u32)> {
    found.squared.iter().copied().zip(found.rows.iter().copied()).collect()
}

/// Asserts equality up to rounding.
fn close(found: &Neighbours, expected: &[(f64, u32)]) {
    assert_eq!(found.rows.len(), expected.len());
    for (i, (d, (e, _))) in found.squared.iter().zip(expected).enumerate() {
        assert!((d - e).abs() <= 1e-13 * e, "index {i}: {d} instead of {e}");
    }
    let rows: Vec<u32> = expected.iter().map(|e| e.1).collect();
    assert_eq!(found.rows, rows);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // Small integers: many ties, and sums that are exact in any order.
    #[test]
    fn neighbours_of_a_grid(
        (dim, k, queries, references) in (1usize..40, 1usize..5).prop_flat_map(|(dim, k)| {
            let points = move |n| prop::collection::vec(-2i8..=2, n * dim);
            (Just(dim), Just(k), (0usize..50).prop_flat_map(points), (5usize..90).prop_flat_map(points))
        })
    ) {
        let [queries, references] = [queries, references].map(|v| v.into_iter().map(f32::from).collect::<Vec<_>>());
        let found = knn(&queries, &references, dim, k, false).unwrap();
        prop_assert_eq!(pairs(&found), naive(&queries, &references, dim, k, false));
        let found = knn(&references, &references, dim, k, true).unwrap();
        prop_assert_eq!(pairs(&found), naive(&references, &references, dim, k, true));
    }

    #[test]
    fn neighbours_of_pixels(
        (dim, queries, references) in (1usize..70).prop_flat_map(|dim| {
            let points = move |n| prop::collection::vec(any::<u8>(), n * dim);
            (Just(dim), (1usize..30).prop_flat_map(points), (3usize..60).prop_flat_map(points))
        })
    ) {
        let found = knn(&queries, &references, dim, 3, false).unwrap();
        prop_assert_eq!(pairs(&found), naive(&queries, &references, dim, 3, false));
    }

    #[test]
    fn prdc_of_a_grid(
        (dim, k, synthetic, real) in (1usize..6, 1usize..4).prop_flat_map(|(dim, k)| {
            let points = move |n| prop::collection::vec(-3i8..=3, n * dim);
            (Just(dim), Just(k), (4usize..40).prop_flat_map(points), (4usize..40).prop_flat_map(points))
        })
    ) {
        let [synthetic, real] = [synthetic, real].map(|v| v.into_iter().map(f32::from).collect::<Vec<_>>());
        let found = prdc(&synthetic, &real, dim, k).unwrap();
        prop_assert_eq!(found, naive_prdc(&synthetic, &real, dim, k));
    }
}

#[test]
fn sets_of_several_blocks_and_odd_sizes() {
    let dim = 37;
    let queries = random(601 * 37, 1);
    let references = random(2_311 * 37, 2);
    close(&knn(&queries, &references, dim, 7, false).unwrap(), &naive(&queries, &references, dim, 7, false));
    close(&knn(&references, &references, dim, 2, true).unwrap(), &naive(&references, &references, dim, 2, true));
}

#[test]
fn points_far_from_zero_stay_exact() {
    // In f32 these points differ in 10 bits, their squared norms in none.
    let points: Vec<f32> = random(1_500 * 9, 3).iter().map(|v| 10_000.0 + v).collect();
    close(&knn(&points, &points, 9, 5, true).unwrap(), &naive(&points, &points, 9, 5, true));
    // One distant point shifts the centre: all products are large, all distances but its own small.
    let mut points = random(1_500 * 9, 4);
    points[..9].fill(3e6);
    close(&knn(&points, &points, 9, 5, true).unwrap(), &naive(&points, &points, 9, 5, true));
}

#[test]
fn one_point_repeated() {
    let points = [0.1f32, -7.0, 3.3].repeat(1_300);
    assert_eq!(pairs(&knn(&points, &points, 3, 4, true).unwrap()), naive(&points, &points, 3, 4, true));
    let found = prdc(&points, &points, 3, 4).unwrap();
    assert_eq!((found.precision, found.recall, found.coverage), (1.0, 1.0, 1.0));
}

#[test]
fn bad_inputs_are_refused() {
    let points = [0.0f32, 1.0, 2.0, 3.0];
    let fails = |error: gafi_core::Result<Neighbours>, key: &str| match error {
        Err(Error::Config { key: found, .. }) => assert_eq!(found, key),
        other => panic!("{other:?}"),
    };
    fails(knn(&points, &points, 1, 5, false), "k");
    fails(knn(&points, &points, 1, 4, true), "k");
    fails(knn(&points, &points, 1, 0, false), "k");
    fails(knn(&points, &[], 1, 1, true), "queries and references");
    fails(knn(&points, &[], 1, 1, false), "k");
    fails(knn(&points, &points, 3, 1, false), "queries");
    fails(knn(&points, &points, 0, 1, false), "dim");
    for bad in [f32::NAN, f32::INFINITY, 1e16] {
        fails(knn(&[bad, 0.0], &points, 1, 1, false), "points");
        fails(knn(&points, &[bad, 0.0], 1, 1, false), "points");
    }
    assert!(knn(&[], &points, 1, 4, false).unwrap().rows.is_empty());
}

fn prdc(synthetic: &[f32], real: &[f32], dim: usize, k: usize) -> gafi_core::Result<Prdc> {
    FeatureSet::new(synthetic, dim, k)?.prdc(&FeatureSet::new(real, dim, k)?)
}

/// The definitions of the papers, by brute force.
fn naive_prdc(synthetic: &[f32], real: &[f32], dim: usize, k: usize) -> Prdc {
    let radii =
        |set: &[f32]| -> Vec<f64> { naive(set, set, dim, k, true).chunks(k).map(|nearest| nearest[k - 1].0).collect() };
    let real_radii = radii(real);
    let synthetic_radii = radii(synthetic);
    let inside = |point: &[f32], set: &[f32], radii: &[f64]| -> usize {
        set.chunks(dim).zip(radii).filter(|(centre, r)| squared(point, centre) <= **r).count()
    };
    let n = synthetic.chunks(dim).len() as f64;
    let m = real.chunks(dim).len() as f64;
    let in_real: Vec<usize> = synthetic.chunks(dim).map(|p| inside(p, real, &real_radii)).collect();
    let recalled = real.chunks(dim).filter(|p| inside(p, synthetic, &synthetic_radii) > 0).count();
    let covered =
        real.chunks(dim).zip(&real_radii).filter(|(p, r)| synthetic.chunks(dim).any(|s| squared(p, s) <= **r)).count();
    Prdc {
        precision: in_real.iter().filter(|&&balls| balls > 0).count() as f64 / n,
        recall: recalled as f64 / m,
        density: in_real.iter().sum::<usize>() as f64 / (k as f64 * n),
        coverage: covered as f64 / m,
    }
}

#[test]
fn prdc_of_several_blocks() {
    let dim = 5;
    let k = 3;
    let synthetic: Vec<f32> = random(700 * dim, 5).iter().map(|v| 0.7 * v + 0.3).collect();
    let real = random(1_400 * dim, 6);
    let found = prdc(&synthetic, &real, dim, k).unwrap();
    assert_eq!(found, naive_prdc(&synthetic, &real, dim, k));
    // Narrower than the real set: high precision, low recall and coverage.
    assert!(found.precision > 0.95 && found.recall < 0.9 && found.coverage < 0.9, "{found:?}");
}

#[test]
fn equal_sets_cover_each_other_and_distant_sets_do_not() {
    let real = random(300 * 8, 7);
    let same = prdc(&real, &real, 8, 5).unwrap();
    assert_eq!((same.precision, same.recall, same.coverage), (1.0, 1.0, 1.0));
    // Each ball contains its centre and k neighbours.
    assert!((same.density - 1.2).abs() < 1e-12, "{same:?}");
    let far: Vec<f32> = real.iter().map(|v| v + 100.0).collect();
    let none = Prdc { precision: 0.0, recall: 0.0, density: 0.0, coverage: 0.0 };
    assert_eq!(prdc(&far, &real, 8, 5).unwrap(), none);
}

#[test]
fn a_collapsed_set_has_high_precision_and_low_coverage() {
    let real = random(300 * 2, 8);
    let collapsed: Vec<f32> = random(300 * 2, 9).iter().map(|v| v * 1e-3).collect();
    let found = prdc(&collapsed, &real, 2, 5).unwrap();
    assert!(found.precision > 0.9 && found.recall < 0.05 && found.coverage < 0.1, "{found:?}");
}

#[test]
fn sets_of_different_dim_or_k_are_refused() {
    let real = random(40, 10);
    let set = |dim, k| FeatureSet::new(&real, dim, k).unwrap();
    assert!(set(2, 3).prdc(&set(4, 3)).is_err() && set(2, 3).prdc(&set(2, 4)).is_err());
    assert!(FeatureSet::new(&real, 8, 5).is_err(), "a point of 5 has only 4 neighbours");
}

#[test]
fn results_do_not_depend_on_threads() {
    let synthetic = random(900 * 11, 11);
    let real = random(1_900 * 11, 12);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (a, b) = [&synthetic, &real].map(|set| FeatureSet::new(set, 11, 5).unwrap()).into();
            (knn(&synthetic, &real, 11, 6, false).unwrap(), a.fidelity(&b).unwrap())
        })
    };
    assert_eq!(run(1), run(3));
}

//! The Fréchet distance against closed forms.

use gafi_audit::{Moments, frechet};
use gafi_core::Stream;
use gafi_core::stream::unit_f32;

/// Points with mean 0 and unbiased covariance diag(variances), exactly: two on each axis.
fn crosses(variances: &[f64]) -> Vec<f32> {
    let dim = variances.len();
    let mut points = Vec::new();
    for (axis, variance) in variances.iter().enumerate() {
        for sign in [1.0, -1.0] {
            let mut point = vec![0.0; dim];
            point[axis] = (sign * (variance * (2 * dim - 1) as f64 / 2.0).sqrt()) as f32;
            points.extend(point);
        }
    }
    points
}

fn shifted(points: &[f32], by: &[f32]) -> Vec<f32> {
    points.chunks(by.len()).flat_map(|p| p.iter().zip(by).map(|(p, b)| p + b)).collect()
}

fn distance(a: &[f32], b: &[f32], dim: usize) -> f64 {
    frechet(&Moments::of(a, dim).unwrap(), &Moments::of(b, dim).unwrap()).unwrap()
}

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Stream::new(seed).rng();
    (0..n).map(|_| unit_f32(&mut rng)).collect()
}

#[test]
fn diagonal_covariances() {
    let a = [1.0, 4.0, 0.25, 0.0, 9.0];
    let b = [4.0, 1.0, 0.25, 2.0, 0.01];
    let expected: f64 = a.iter().zip(&b).map(|(a, b): (&f64, &f64)| (a.sqrt() - b.sqrt()).powi(2)).sum();
    let a = crosses(&a);
    let b = crosses(&b);
    assert!((distance(&a, &b, 5) - expected).abs() < 1e-5, "{}", distance(&a, &b, 5));
    let shifted = shifted(&b, &[3.0, 0.0, -4.0, 0.0, 0.0]);
    assert!((distance(&a, &shifted, 5) - expected - 25.0).abs() < 1e-5);
}

#[test]
fn one_dimension_and_several_blocks() {
    let a = random(1_300, 1);
    let b: Vec<f32> = random(2_000, 2).iter().map(|v| 5.0 * v - 1.0).collect();
    let moments = |set: &[f32]| {
        let mean = set.iter().map(|&v| f64::from(v)).sum::<f64>() / set.len() as f64;
        let squares: f64 = set.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
        (mean, (squares / (set.len() - 1) as f64).sqrt())
    };
    let ((m, s), (n, t)) = (moments(&a), moments(&b));
    let expected = (m - n).powi(2) + (s - t).powi(2);
    assert!((distance(&a, &b, 1) - expected).abs() < 1e-12 * expected);
}

#[test]
fn covariances_that_commute() {
    // Both sets are rotated by the same angle, which changes no distance.
    let rotated = |points: Vec<f32>| -> Vec<f32> {
        let (sin, cos) = 0.7f32.sin_cos();
        points.chunks(2).flat_map(|p| [cos * p[0] - sin * p[1], sin * p[0] + cos * p[1]]).collect()
    };
    let a = rotated(crosses(&[4.0, 1.0]));
    let b = rotated(crosses(&[1.0, 9.0]));
    assert!((distance(&a, &b, 2) - 5.0).abs() < 1e-5, "{}", distance(&a, &b, 2));
}

#[test]
fn covariances_that_do_not_commute() {
    // tr((AB)^1/2) of 2 x 2 matrices is sqrt(tr AB + 2 sqrt(det AB)).
    let a = random(80, 3);
    let b = random(80, 4);
    let b: Vec<f32> = b.chunks(2).flat_map(|p| [p[0] + 2.0 * p[1], p[1]]).collect();
    let covariance = |set: &[f32]| {
        let n = (set.len() / 2) as f64;
        let mean = [0, 1].map(|i| set.chunks(2).map(|p| f64::from(p[i])).sum::<f64>() / n);
        let of = |i: usize, j: usize| {
            set.chunks(2).map(|p| (f64::from(p[i]) - mean[i]) * (f64::from(p[j]) - mean[j])).sum::<f64>() / (n - 1.0)
        };
        (mean, [of(0, 0), of(0, 1), of(1, 1)])
    };
    let ((m, p), (n, q)) = (covariance(&a), covariance(&b));
    let det = |c: [f64; 3]| c[0] * c[2] - c[1] * c[1];
    let trace_of_product = p[0] * q[0] + 2.0 * p[1] * q[1] + p[2] * q[2];
    let root = (trace_of_product + 2.0 * (det(p) * det(q)).sqrt()).sqrt();
    let means = (m[0] - n[0]).powi(2) + (m[1] - n[1]).powi(2);
    let expected = means + p[0] + p[2] + q[0] + q[2] - 2.0 * root;
    assert!((distance(&a, &b, 2) - expected).abs() < 1e-12, "{} {expected}", distance(&a, &b, 2));
}

#[test]
fn equal_sets_have_distance_zero_and_the_distance_is_symmetric() {
    let a = random(700 * 33, 5);
    let b = random(40 * 33, 6);
    let scale = 33.0 / 12.0;
    assert!(distance(&a, &a, 33) < 1e-12 * scale);
    // 40 points in 33 dimensions, and 20 points, whose covariance has rank 19.
    for b in [&b[..], &b[..20 * 33]] {
        assert!(distance(b, b, 33) < 1e-6 * scale, "{}", distance(b, b, 33));
        assert!((distance(&a, b, 33) - distance(b, &a, 33)).abs() < 1e-6 * scale);
    }
}

#[test]
fn points_may_be_pushed_in_pieces() {
    let points: Vec<f32> = random(1_000 * 7, 7).iter().map(|v| v + 1_000.0).collect();
    let whole = Moments::of(&points, 7).unwrap();
    let mut pieces = Moments::new(7);
    for piece in points.chunks(7 * 13) {
        pieces.push(piece).unwrap();
    }
    assert!(frechet(&whole, &pieces).unwrap() < 1e-9);
}

#[test]
fn bad_inputs_are_refused() {
    let two = Moments::of(&[0.0, 1.0], 1).unwrap();
    assert!(Moments::of(&[0.0; 3], 2).is_err() && Moments::of(&[], 0).is_err());
    assert!(frechet(&two, &Moments::of(&[0.0], 1).unwrap()).is_err(), "one point has no covariance");
    assert!(frechet(&two, &Moments::of(&[0.0; 4], 2).unwrap()).is_err(), "dimensions differ");
    assert!(frechet(&two, &Moments::of(&[0.0, f32::NAN], 1).unwrap()).is_err());
}

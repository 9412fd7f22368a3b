//! All directions of convolution, at all levels that this CPU has, against sums in f64.

use super::*;
use proptest::prelude::*;

/// Numbers in -1..1 that depend on `seed` and the position alone.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Calls `each` with the positions (image, co, y position, ci, x position, kernel position) of every product.
fn products(g: &Geometry, images: usize, mut each: impl FnMut(usize, usize, usize)) {
    let (rows, cols) = (g.h as isize, g.w as isize);
    for n in 0..images {
        for co in 0..g.cout {
            for (oh, ow) in (0..g.ho).flat_map(|h| (0..g.wo).map(move |w| (h, w))) {
                for ci in 0..g.cin {
                    for (kh, kw) in (0..g.k).flat_map(|h| (0..g.k).map(move |w| (h, w))) {
                        let ih = (oh * g.stride + kh) as isize - g.pad as isize;
                        let iw = (ow * g.stride + kw) as isize - g.pad as isize;
                        if (0..rows).contains(&ih) && (0..cols).contains(&iw) {
                            each(
                                ((n * g.cout + co) * g.ho + oh) * g.wo + ow,
                                ((n * g.cin + ci) * g.h + ih as usize) * g.w + iw as usize,
                                ((co * g.cin + ci) * g.k + kh) * g.k + kw,
                            );
                        }
                    }
                }
            }
        }
    }
}

fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= tolerance * scale, "{what}[{i}]: {g} for {w}, scale {scale}");
    }
}

/// All directions at all levels that this CPU has, against sums in f64.
fn check(g: &Geometry, images: usize, seed: u64) {
    let x = noise(images * g.input_len(), seed);
    let w = noise(g.cout * g.cin * g.k * g.k, seed + 1);
    let dy = noise(images * g.output_len(), seed + 2);
    let (bias, bias_in) = (noise(g.cout, seed + 3), noise(g.cin, seed + 4));
    let mut y: Vec<f64> = (0..dy.len()).map(|i| f64::from(bias[i / (g.ho * g.wo) % g.cout])).collect();
    let mut dx: Vec<f64> = (0..x.len()).map(|i| f64::from(bias_in[i / (g.h * g.w) % g.cin])).collect();
    let mut dw = vec![0.0f64; w.len()];
    products(g, images, |o, i, k| {
        y[o] += f64::from(x[i]) * f64::from(w[k]);
        dx[i] += f64::from(dy[o]) * f64::from(w[k]);
        dw[k] += f64::from(dy[o]) * f64::from(x[i]);
    });
    for level in [Level::Avx512, Level::Avx2, Level::Portable].into_iter().filter(|l| l.supported()) {
        let name = |what: &str| format!("{what} at {level:?} of {g:?} x {images}");
        assert_close(&name("forward"), &forward(level, g, &x, &w, Some(&bias)), &y, 2e-6);
        assert_close(&name("input gradient"), &input_gradient(level, g, &dy, &w, Some(&bias_in)), &dx, 2e-6);
        assert_close(&name("weight gradient"), &weight_gradient(level, g, &x, &dy), &dw, 4e-6);
    }
}

fn geometry(cin: usize, cout: usize, size: (usize, usize), k: usize, stride: usize, pad: usize) -> Geometry {
    Geometry::new("test", &[1, cin, size.0, size.1], &[cout, cin, k, k], stride, pad).expect("sizes fit")
}

#[test]
fn blocks_of_every_size_and_several_blocks_of_taps() {
    for (cin, cout) in [(1, 1), (3, 2), (2, 3), (5, 7), (9, 8), (33, 15), (64, 21)] {
        check(&geometry(cin, cout, (9, 11), 3, 1, 1), 2, 7);
    }
    check(&geometry(150, 9, (8, 8), 1, 1, 0), 3, 8);
    check(&geometry(70, 70, (4, 4), 4, 2, 1), 2, 9);
}

#[test]
fn long_planes_and_stacked_small_ones() {
    check(&geometry(2, 5, (40, 70), 3, 1, 1), 1, 1);
    check(&geometry(3, 4, (2, 3), 3, 1, 1), 40, 2);
    check(&geometry(3, 4, (4, 4), 3, 2, 1), 33, 3);
}

#[test]
fn paddings_wider_than_the_kernel_and_strides_wider_than_it() {
    check(&geometry(2, 3, (5, 4), 1, 1, 2), 2, 1);
    check(&geometry(2, 3, (5, 4), 2, 1, 3), 2, 2);
    check(&geometry(2, 3, (7, 9), 1, 3, 0), 2, 3);
    check(&geometry(2, 3, (7, 9), 2, 3, 2), 2, 4);
    check(&geometry(2, 3, (1, 1), 4, 2, 2), 2, 5);
    check(&geometry(2, 3, (2, 3), 3, 5, 1), 2, 6);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_geometry(
        (cin, cout, h, w) in (1usize..20, 1usize..20, 1usize..14, 1usize..14),
        (k, stride, pad, images) in (1usize..5, 1usize..4, 0usize..4, 1usize..12),
        seed in 0u64..1000,
    ) {
        prop_assume!(h + 2 * pad >= k && w + 2 * pad >= k);
        check(&geometry(cin, cout, (h, w), k, stride, pad), images, seed);
    }
}

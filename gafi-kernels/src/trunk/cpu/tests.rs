//! Matrix products, Winograd's transforms and whole convolutions against sums in f64, at every level that this CPU supports.

use proptest::prelude::*;

use super::conv::{Direction, Plan, Upsampled, weight_gradient};
use super::gemm::{Outer, PANEL, Rows, padded};
use super::norm;
use super::view::{HostAffine, HostPre, Images};
use super::winograd::{self, GradientTransform, InputTransform, OutputTransform, TileSize, Tiles};
use crate::activation::Activation;
use crate::geometry::Geometry;
use crate::simd::{Level, dispatch};

fn levels() -> impl Iterator<Item = Level> {
    [Level::Avx512, Level::Avx2, Level::Portable].into_iter().filter(|l| l.supported())
}

/// Numbers in -1..1 that depend only on `seed` and their position.
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

fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= tolerance * scale, "{what}[{i}]: expected {w}, got {g} (scale {scale})");
    }
}

/// b (depth, n) in panels of 16 columns.
fn pack(b: &[f32], depth: usize, n: usize) -> Vec<f32> {
    let mut packed = vec![0.0; depth * padded(n)];
    for (i, v) in b.iter().enumerate() {
        let k = i / n;
        let j = i % n;
        packed[(j / PANEL * depth + k) * PANEL + j % PANEL] = *v;
    }
    packed
}

/// Scattered rows, some of them equal, and overlapping runs.
fn check_rows(count: usize, runs: usize, len: usize, n: usize, started: bool, seed: u64) {
    let rows: Vec<usize> = (0..count).map(|r| r * 7919 % 97).collect();
    let runs: Vec<usize> = (0..runs).map(|r| r * 31 % 53).collect();
    let depth = runs.len() * len;
    let a = noise(97 + 53 + len, seed);
    let b = noise(depth * n, seed + 1);
    let start = noise(n, seed + 2);
    let packed = pack(&b, depth, n);
    let start = started.then_some(&start[..]);
    let mut want = vec![0.0f64; count * n];
    for (row, want) in rows.iter().zip(want.chunks_mut(n)) {
        for (j, want) in want.iter_mut().enumerate() {
            let term = |k: usize| f64::from(a[row + runs[k / len] + k % len]) * f64::from(b[k * n + j]);
            *want = start.map_or(0.0, |s| f64::from(s[j])) + (0..depth).map(term).sum::<f64>();
        }
    }
    for level in levels() {
        let product = |rows: &[usize], out: &mut [f32]| {
            let panel = depth * PANEL;
            dispatch(level, Rows { a: &a, rows, runs: &runs, len, b: &packed, panel, n, start, out });
        };
        let mut got = vec![0.5; count * n];
        product(&rows, &mut got);
        assert_close(&format!("{count} rows, depth {depth}, {n} columns at {level:?}"), &got, &want, 1e-5);
        for (row, together) in rows.chunks(1).zip(got.chunks(n)) {
            let mut alone = vec![0.5; n];
            product(row, &mut alone);
            assert_eq!(alone, together, "a single row at {level:?}");
        }
    }
}

fn check_outer(count: usize, len: usize, n: usize, seed: u64) {
    let rows: Vec<usize> = (0..count).map(|p| p * 7919 % 97).collect();
    let a = noise(97 + len, seed);
    let d = noise(count * n, seed + 1);
    let before = noise(len * n, seed + 2);
    let mut want: Vec<f64> = before.iter().map(|&v| f64::from(v)).collect();
    for (row, d) in rows.iter().zip(d.chunks(n)) {
        for (i, want) in want.chunks_mut(n).enumerate() {
            want.iter_mut().zip(d).for_each(|(w, d)| *w += f64::from(a[row + i]) * f64::from(*d));
        }
    }
    for level in levels() {
        let mut sum = before.clone();
        dispatch(level, Outer { a: &a, rows: &rows, len, d: &d, n, sum: &mut sum });
        assert_close(&format!("{count} positions, {len} x {n} at {level:?}"), &sum, &want, 1e-5);
    }
}

/// A 3x3 convolution of stride 1 and its weight gradient, by the three transforms with plain products between them.
fn check_winograd(cin: usize, cout: usize, size: (usize, usize), images: usize, seed: u64) {
    for tile in [TileSize::Two, TileSize::Four] {
        check_tiles(Tiles::of_size(tile, size), cin, cout, size, images, seed);
    }
}

fn check_tiles(tiles: Tiles, cin: usize, cout: usize, (h, w): (usize, usize), images: usize, seed: u64) {
    let g = geometry(cin, cout, (h, w), 3, 1, 1);
    let x = noise(images * h * w * cin, seed);
    let weights = noise(cout * cin * 9, seed + 1);
    let dy = noise(images * h * w * cout, seed + 2);
    let bias = noise(cout, seed + 3);
    let mut y = vec![0.0f64; dy.len()];
    let mut dw = vec![0.0f64; weights.len()];
    y.iter_mut().enumerate().for_each(|(i, y)| *y = f64::from(bias[i % cout]));
    products(&g, images, |o, i, k| {
        y[o] += f64::from(x[i]) * f64::from(weights[k]);
        dw[k] += f64::from(x[i]) * f64::from(dy[o]);
    });
    let frame = (tiles.width() * tiles.rows + 2, tiles.width() * tiles.across + 2);
    let places = tiles.places();
    let mut frames = vec![0.0; images * frame.0 * frame.1 * cin];
    for (i, row) in x.chunks(w * cin).enumerate() {
        let to = ((i / h * frame.0 + i % h + 1) * frame.1 + 1) * cin;
        frames[to..to + row.len()].copy_from_slice(row);
    }
    let packed =
        winograd::pack_weights(tiles, cin, cout, |o, i| std::array::from_fn(|t| weights[(o * cin + i) * 9 + t]));
    for level in levels() {
        let mut got = vec![0.0f32; dy.len()];
        let mut sums = vec![0.0f32; places * cin * cout];
        // In two blocks, the second of which begins within an image.
        let all = images * tiles.rows;
        for rows in [0..all.div_ceil(3), all.div_ceil(3)..all] {
            let count = rows.len() * tiles.across;
            let mut v = vec![0.0; places * count * cin];
            let mut m = vec![0.0f32; places * count * cout];
            let mut d = vec![0.0; places * count * cout];
            let tile_rows = rows.clone();
            let input = InputTransform { frames: &frames, frame, channels: cin, tiles, tile_rows, out: &mut v };
            winograd::transform(level, tiles.size, input);
            let pixels = tiles.pixel_rows(h, &rows);
            let pixels = pixels.start * w * cout..pixels.end * w * cout;
            let images = &dy[pixels.clone()];
            let tile_rows = rows.clone();
            let gradient = GradientTransform { images, size: (h, w), channels: cout, tiles, tile_rows, out: &mut d };
            winograd::transform(level, tiles.size, gradient);
            for (at, v) in v.chunks(cin).enumerate() {
                let place = at / count;
                let out = &mut m[at * cout..][..cout];
                for (i, v) in v.iter().enumerate() {
                    for (o, out) in out.iter_mut().enumerate() {
                        *out += v * packed[((o / PANEL * places + place) * cin + i) * PANEL + o % PANEL];
                        sums[(place * cin + i) * cout + o] += v * d[at * cout + o];
                    }
                }
            }
            let output = OutputTransform {
                products: &m,
                size: (h, w),
                channels: cout,
                tiles,
                tile_rows: rows,
                bias: Some(&bias),
                images: &mut got[pixels],
            };
            winograd::transform(level, tiles.size, output);
        }
        let name = |what: &str| format!("{what} by {tiles:?} at {level:?} of {g:?} x {images}");
        assert_close(&name("result"), &got, &y, 6e-6);
        assert_close(&name("weight gradient"), &winograd::unpack_gradient(tiles, &sums, cin, cout), &dw, 1e-5);
    }
}

/// Calls `each` for every product with its indices in y (n, ho, wo, cout), x (n, h, w, cin) and the weights.
fn products(g: &Geometry, images: usize, mut each: impl FnMut(usize, usize, usize)) {
    let rows = g.h as isize;
    let cols = g.w as isize;
    for (n, oh, ow) in (0..images).flat_map(|n| (0..g.ho).flat_map(move |h| (0..g.wo).map(move |w| (n, h, w)))) {
        for (kh, kw) in (0..g.k).flat_map(|h| (0..g.k).map(move |w| (h, w))) {
            let ih = (oh * g.stride + kh) as isize - g.pad as isize;
            let iw = (ow * g.stride + kw) as isize - g.pad as isize;
            if !(0..rows).contains(&ih) || !(0..cols).contains(&iw) {
                continue;
            }
            for (co, ci) in (0..g.cout).flat_map(|co| (0..g.cin).map(move |ci| (co, ci))) {
                each(
                    ((n * g.ho + oh) * g.wo + ow) * g.cout + co,
                    ((n * g.h + ih as usize) * g.w + iw as usize) * g.cin + ci,
                    ((co * g.cin + ci) * g.k + kh) * g.k + kw,
                );
            }
        }
    }
}

fn geometry(cin: usize, cout: usize, (h, w): (usize, usize), k: usize, stride: usize, pad: usize) -> Geometry {
    Geometry::of([cin, cout, k, stride, pad, h, w])
}

/// A convolution, its input gradient and its weight gradient; its input is a norm if `normed`.
fn check(g: &Geometry, images: usize, normed: bool, seed: u64) {
    let x_len = images * g.h * g.w * g.cin;
    let y_len = images * g.ho * g.wo * g.cout;
    let x = noise(x_len, seed);
    let dy = noise(y_len, seed + 1);
    let w = noise(g.cout * g.cin * g.k * g.k, seed + 2);
    let bias = noise(g.cout, seed + 3);
    let scale = noise(images * g.cin, seed + 4);
    let offset = noise(images * g.cin, seed + 5);
    let read: Vec<f64> = x
        .iter()
        .enumerate()
        .map(|(i, &x)| {
            let at = i / (g.h * g.w * g.cin) * g.cin + i % g.cin;
            if normed { (x * scale[at] + offset[at]).max(0.0) } else { x }.into()
        })
        .collect();
    let activation = Some(Activation::RELU);
    let pre = if normed { HostPre::Affine(HostAffine { scale, offset, activation }) } else { HostPre::None };
    let seen = Images { values: &x[..], pre: &pre };
    let grads = Images { values: &dy[..], pre: &HostPre::None };
    let mut y: Vec<f64> = (0..y_len).map(|i| f64::from(bias[i % g.cout])).collect();
    let mut dx = vec![0.0f64; x_len];
    let mut dw = vec![0.0f64; w.len()];
    products(g, images, |o, i, k| {
        y[o] += read[i] * f64::from(w[k]);
        dx[i] += f64::from(dy[o]) * f64::from(w[k]);
        dw[k] += f64::from(dy[o]) * read[i];
    });
    for level in levels() {
        let name = |what: &str| format!("{what} at {level:?} of {g:?} x {images}, normed {normed}");
        let add = |_, images: &mut [f32], sums: &mut [f64]| norm::add_moments(level, g.cout, images, sums);
        let forward = Plan::new(level, Direction::Forward, g, &w, None).run(seen, Some(&bias), 2 * g.cout, &add);
        assert_close(&name("forward"), &forward.values, &y, 6e-6);
        let image = forward.values.chunks((g.ho * g.wo * g.cout).max(1));
        for (sums, image) in forward.sums.chunks(2 * g.cout).zip(image) {
            for c in 0..g.cout {
                let mut sum = 0.0;
                let mut squares = 0.0;
                for v in image.iter().skip(c).step_by(g.cout).map(|&v| f64::from(v)) {
                    sum += v;
                    squares += v * v;
                }
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * squares.max(1.0);
                assert!(close(sums[c], sum) && close(sums[g.cout + c], squares), "{}", name("sums"));
            }
        }
        let back = Plan::new(level, Direction::Backward, g, &w, None).run(grads, None, 0, &|_, _, _| {});
        assert_close(&name("input gradient"), &back.values, &dx, 6e-6);
        assert_close(&name("weight gradient"), &weight_gradient(level, g, seen, grads, None), &dw, 5e-6);
    }
}

#[test]
fn rows_match_f64_for_every_block_size() {
    for (count, columns) in [(1, 16), (3, 48), (4, 64), (7, 33), (8, 5), (9, 80), (15, 96), (29, 17), (64, 1)] {
        for (runs, len) in [(1, 1), (3, 9), (3, 200), (2, 700), (5, 64), (1, 192), (0, 4), (2, 0)] {
            check_rows(count, runs, len, columns, count % 2 == 0, 1);
        }
    }
}

#[test]
fn outer_products_match_f64_for_every_block_size() {
    for (positions, len) in [(1, 1), (2, 7), (5, 8), (127, 11), (128, 12), (129, 16), (300, 21)] {
        for columns in [16, 32, 48, 64, 80, 96] {
            check_outer(positions, len, columns, 2);
        }
    }
}

#[test]
fn winograd_matches_the_definition() {
    for (cin, cout, size, images) in [
        (16, 16, (4, 4), 1),
        (16, 32, (5, 7), 3),
        (32, 16, (1, 1), 3),
        (16, 48, (1, 6), 2),
        (16, 16, (6, 1), 1),
        (48, 16, (2, 3), 5),
        (24, 32, (9, 6), 2),
        (40, 16, (8, 8), 1),
    ] {
        check_winograd(cin, cout, size, images, 3);
    }
}

#[test]
fn convolutions_match_the_definition() {
    for (cin, cout) in [(1, 1), (3, 2), (2, 3), (5, 7), (9, 8), (33, 15), (64, 21), (17, 16), (16, 17), (3, 16)] {
        check(&geometry(cin, cout, (9, 11), 3, 1, 1), 2, false, 7);
    }
    check(&geometry(150, 9, (8, 8), 1, 1, 0), 3, true, 8);
    check(&geometry(70, 70, (4, 4), 4, 2, 1), 2, false, 9);
    check(&geometry(2, 5, (40, 70), 3, 1, 1), 1, false, 1);
    check(&geometry(3, 4, (2, 3), 3, 1, 1), 40, true, 2);
    check(&geometry(3, 4, (4, 4), 3, 2, 1), 33, false, 3);
    for (cin, cout, size, images) in
        [(16, 16, (8, 8), 1), (16, 32, (5, 7), 3), (32, 16, (1, 1), 3), (48, 64, (6, 5), 2), (16, 16, (2, 2), 40)]
    {
        check(&geometry(cin, cout, size, 3, 1, 1), images, true, 4);
    }
    // Enough channels that a block of tiles is part of an image, and that the weight gradient is summed in fewer pieces.
    check(&geometry(256, 208, (18, 5), 3, 1, 1), 1, false, 5);
}

#[test]
fn padding_and_stride_may_exceed_the_kernel() {
    check(&geometry(2, 3, (5, 4), 1, 1, 2), 2, true, 1);
    check(&geometry(2, 3, (5, 4), 2, 1, 3), 2, false, 2);
    check(&geometry(2, 3, (7, 9), 1, 3, 0), 2, false, 3);
    check(&geometry(2, 3, (7, 9), 2, 3, 2), 2, true, 4);
    check(&geometry(2, 3, (1, 1), 4, 2, 2), 2, false, 5);
    check(&geometry(2, 3, (2, 3), 3, 5, 1), 2, false, 6);
    check(&geometry(16, 16, (5, 4), 3, 1, 3), 2, false, 7);
}

#[test]
fn upsampled_weights_fold_and_unfold() {
    // The upsampled image has four copies of one pixel: each result is the sum of the weights that meet them.
    let g = Geometry { h: 2, w: 2, ..geometry(1, 1, (2, 2), 3, 1, 1) };
    let w = noise(9, 1);
    let up = Upsampled::new(&g);
    let plan = Plan::new(Level::Portable, Direction::Backward, &up.transposed, &up.fold(&w), None);
    let got = plan.run(Images { values: &[1.0f32], pre: &HostPre::None }, None, 0, &|_, _, _| {}).values;
    let block = |r: usize, c: usize| w[3 * r + c] + w[3 * r + c + 1] + w[3 * (r + 1) + c] + w[3 * (r + 1) + c + 1];
    let want = [block(1, 1), block(1, 0), block(0, 1), block(0, 0)].map(f64::from);
    assert_close("one pixel", &got, &want, 1e-6);
    // Unfolding is the transpose of folding.
    let folded = noise(16, 2);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    assert!((dot(&up.fold(&w), &folded) - dot(&w, &up.unfold(&folded))).abs() < 1e-5);
}

/// Numbers of channels, often whole panels of 16.
fn channels() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..20, prop::sample::select(vec![16usize, 32, 48])]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_rows(
        (count, runs, len, n) in (1usize..40, 1usize..6, 1usize..400, 1usize..100),
        (started, seed) in (any::<bool>(), 0u64..1000),
    ) {
        check_rows(count, runs, len, n, started, seed);
    }

    #[test]
    fn any_outer((count, len, panels) in (1usize..300, 1usize..70, 1usize..7), seed in 0u64..1000) {
        check_outer(count, len, 16 * panels, seed);
    }

    #[test]
    fn any_winograd(
        (cin, cout, images) in (1usize..4, 1usize..4, 1usize..4),
        (h, w, seed) in (1usize..8, 1usize..8, 0u64..1000),
    ) {
        check_winograd(8 + 8 * cin, 16 * cout, (h, w), images, seed);
    }

    #[test]
    fn any_geometry(
        (cin, cout, h, w) in (channels(), channels(), 1usize..14, 1usize..14),
        (k, stride, pad) in prop_oneof![Just((3usize, 1usize, 1usize)), (1usize..5, 1usize..4, 0usize..4)],
        (images, normed, seed) in (1usize..6, any::<bool>(), 0u64..1000),
    ) {
        prop_assume!(h + 2 * pad >= k && w + 2 * pad >= k);
        check(&geometry(cin, cout, (h, w), k, stride, pad), images, normed, seed);
    }
}

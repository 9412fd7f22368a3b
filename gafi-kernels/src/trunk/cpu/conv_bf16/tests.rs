//! Convolutions against their definition, on numbers for which all sums are exact. Only the final rounding to bf16 remains,
//! so results must be equal.

use super::super::bf16::tests::noise;
use super::super::bf16::{bits, value};
use super::super::conv::Upsampled;
use super::super::norm::add_moments;
use super::*;
use crate::math::gelu;
use crate::trunk::cpu::view::{HostAffine, HostPre, ImageAffine, leaky};

const LEVELS: [Level; 3] = [Level::Amx, Level::Avx512Bf16, Level::Portable];

/// (cin, cout, k, stride, pad, h, w)
const SHAPES: [[usize; 7]; 14] = [
    [3, 10, 3, 1, 1, 7, 9],
    [16, 32, 3, 1, 1, 8, 8],
    [32, 16, 3, 1, 1, 20, 18],
    [4, 17, 3, 2, 1, 9, 6],
    [5, 16, 1, 2, 0, 7, 7],
    [32, 48, 1, 1, 0, 4, 4],
    [6, 7, 5, 1, 2, 6, 5],
    [8, 16, 4, 2, 1, 8, 8],
    [2, 3, 3, 3, 0, 10, 11],
    [64, 80, 3, 1, 1, 5, 5],
    [1, 2, 2, 1, 0, 4, 5],
    [3, 5, 2, 3, 0, 8, 8],
    [7, 4, 3, 1, 2, 3, 3],
    // With a large weight gradient.
    [130, 117, 3, 1, 1, 4, 3],
];

/// Multiples of 1/4 from -1 to 1.
fn round_numbers(len: usize, seed: u64) -> Vec<f32> {
    noise(len, seed).into_iter().map(|v| (v * 4.0).round() / 4.0).collect()
}

fn halves(values: &[f32]) -> Vec<u16> {
    values.iter().map(|v| bits(*v)).collect()
}

/// Calls `tap(x, tap, y)` for each tap of each result: the pixel of x, the index of the tap and the pixel of the result. Pixels
/// are counted through the images.
fn each_tap(g: &Geometry, n: usize, mut tap: impl FnMut(usize, usize, usize)) {
    for image in 0..n {
        for (r, c) in (0..g.ho).flat_map(|r| (0..g.wo).map(move |c| (r, c))) {
            for (i, j) in (0..g.k).flat_map(|i| (0..g.k).map(move |j| (i, j))) {
                let y = (r * g.stride + i).wrapping_sub(g.pad);
                let x = (c * g.stride + j).wrapping_sub(g.pad);
                if y < g.h && x < g.w {
                    tap((image * g.h + y) * g.w + x, i * g.k + j, (image * g.ho + r) * g.wo + c);
                }
            }
        }
    }
}

/// Calls `product(x, w, y)` with the indices of every product, y\[.\] += w\[.\] * x\[.\].
fn each_product(g: &Geometry, n: usize, mut product: impl FnMut(usize, usize, usize)) {
    each_tap(g, n, |x, tap, y| {
        for (ci, co) in (0..g.cin).flat_map(|ci| (0..g.cout).map(move |co| (ci, co))) {
            product(x * g.cin + ci, (co * g.cin + ci) * g.k * g.k + tap, y * g.cout + co);
        }
    });
}

/// Prologues without rounding, for images of `channels`.
fn prologues(channels: usize, n: usize) -> [HostPre; 4] {
    let affine = |len: usize, activation| {
        let scale = (0..len).map(|i| [0.5, 1.0, 2.0][i % 3]).collect();
        let offset = (0..len).map(|i| [0.25, -0.5][i % 2]).collect();
        HostPre::Affine(HostAffine { scale, offset, activation })
    };
    [
        HostPre::None,
        HostPre::Activation(Activation::Leaky(0.5)),
        affine(channels, None),
        affine(n * channels, Some(Activation::RELU)),
    ]
}

fn active(v: f32, activation: Activation) -> f32 {
    match activation {
        Activation::Leaky(slope) => leaky(v, slope),
        Activation::Gelu => gelu(v),
    }
}

/// Applies `pre` to images of `channels`.
fn applied(x: &[f32], n: usize, channels: usize, pre: &HostPre) -> Vec<f32> {
    let image = x.len() / n;
    let one = |(i, v): (usize, &f32)| match pre.image(i / image, channels) {
        ImagePre::None => *v,
        ImagePre::Activation(activation) => active(*v, activation),
        ImagePre::Affine(ImageAffine { scale, offset, activation }) => {
            let v = v * scale[i % channels] + offset[i % channels];
            activation.map_or(v, |activation| active(v, activation))
        }
    };
    x.iter().enumerate().map(one).collect()
}

/// Panics unless `got` equals `want` rounded.
fn assert_rounded(got: &[u16], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(value(*got), value(bits(*want)), "{what}: element {i}, {want} before rounding");
    }
}

#[test]
fn forward_matches_the_definition() {
    for (shape, n) in SHAPES.into_iter().zip([5, 2, 1, 3].into_iter().cycle()) {
        let g = Geometry::of(shape);
        let x = round_numbers(n * g.h * g.w * g.cin, 1);
        let w = round_numbers(g.cout * g.cin * g.k * g.k, 2);
        let bias = round_numbers(g.cout, 3);
        for (i, pre) in prologues(g.cin, n).iter().enumerate() {
            let read = applied(&x, n, g.cin, pre);
            let mut want: Vec<f32> = bias.iter().copied().cycle().take(n * g.ho * g.wo * g.cout).collect();
            each_product(&g, n, |x, at, y| want[y] += w[at] * read[x]);
            for level in LEVELS {
                let images = Images { values: &halves(&x), pre };
                // For each image, its first value and its index.
                let seen = |first: usize, out: &mut [u16], sums: &mut [f64]| {
                    let image = out.len() / sums.len();
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = f64::from(value(out[i * image])) + 1000.0 * (first + i) as f64;
                    }
                };
                let results = Plan::new(level, Direction::Forward, &g, &w).run(images, Some(&bias), 1, &seen);
                let what = format!("{level:?} {shape:?}, pre {i}");
                assert_rounded(&results.values, &want, &what);
                for (i, sum) in results.sums.iter().enumerate() {
                    let first = value(results.values[i * g.ho * g.wo * g.cout]);
                    assert_eq!(*sum, f64::from(first) + 1000.0 * i as f64, "{what}: image {i}");
                }
            }
        }
    }
}

#[test]
fn input_gradient_matches_the_definition() {
    for (shape, n) in SHAPES.into_iter().zip([1, 4, 2].into_iter().cycle()) {
        let g = Geometry::of(shape);
        let dy = round_numbers(n * g.ho * g.wo * g.cout, 4);
        let w = round_numbers(g.cout * g.cin * g.k * g.k, 5);
        let mut want = vec![0.0f32; n * g.h * g.w * g.cin];
        each_product(&g, n, |x, at, y| want[x] += w[at] * dy[y]);
        for level in LEVELS {
            let images = Images { values: &halves(&dy), pre: &HostPre::None };
            let results = Plan::new(level, Direction::Backward, &g, &w).run(images, None, 0, &|_, _, _| {});
            assert!(results.sums.is_empty());
            assert_rounded(&results.values, &want, &format!("{level:?} {shape:?}"));
        }
    }
}

#[test]
fn weight_gradient_matches_the_definition() {
    for (shape, n) in SHAPES.into_iter().zip([1, 23, 2].into_iter().cycle()) {
        let g = Geometry::of(shape);
        let x = round_numbers(n * g.h * g.w * g.cin, 6);
        let dy = round_numbers(n * g.ho * g.wo * g.cout, 7);
        for (i, (x_pre, dy_pre)) in prologues(g.cin, n).iter().zip(prologues(g.cout, n).iter().rev()).enumerate() {
            let read = applied(&x, n, g.cin, x_pre);
            let dy_read = applied(&dy, n, g.cout, dy_pre);
            let mut want = vec![0.0f32; g.cout * g.cin * g.k * g.k];
            each_product(&g, n, |x, at, y| want[at] += read[x] * dy_read[y]);
            let x = halves(&x);
            let x = Images { values: &x, pre: x_pre };
            let dy = halves(&dy);
            let dy = Images { values: &dy, pre: dy_pre };
            for level in LEVELS {
                assert!(weight_gradient(level, &g, x, dy) == want, "{level:?} {shape:?}, pre {i}");
            }
        }
    }
}

#[test]
fn upsampled_convolutions_match_the_definition() {
    for [cin, cout, k, pad, h, w] in [[3, 5, 3, 1, 4, 5], [16, 16, 3, 1, 8, 8], [4, 7, 1, 0, 3, 3], [6, 4, 4, 2, 5, 4]]
    {
        let g = Geometry::of([cin, cout, k, 1, pad, 2 * h, 2 * w]);
        let n = 3;
        let x = round_numbers(n * h * w * cin, 8);
        let dy = round_numbers(n * g.ho * g.wo * cout, 9);
        let weights = round_numbers(cout * cin * k * k, 10);
        let pre = HostPre::Activation(Activation::RELU);
        let read = applied(&x, n, cin, &pre);
        // The index before upsampling.
        let small = |at: usize| {
            let pixel = at / cin;
            let ci = at % cin;
            let (image, y, x) = (pixel / (4 * h * w), pixel / (2 * w) % (2 * h), pixel % (2 * w));
            ((image * h + y / 2) * w + x / 2) * cin + ci
        };
        let mut want = vec![0.0f32; n * g.ho * g.wo * cout];
        let mut want_dx = vec![0.0f32; x.len()];
        let mut want_dw = vec![0.0f32; weights.len()];
        each_product(&g, n, |x, at, y| {
            want[y] += weights[at] * read[small(x)];
            want_dx[small(x)] += weights[at] * dy[y];
            want_dw[at] += read[small(x)] * dy[y];
        });
        let up = Upsampled::new(&g);
        let folded = up.fold(&weights);
        let x = halves(&x);
        let x = Images { values: &x, pre: &pre };
        let dy = halves(&dy);
        let dy = Images { values: &dy, pre: &HostPre::None };
        for level in LEVELS {
            let what = format!("{level:?} {g:?}");
            let forward = Plan::new(level, Direction::Backward, &up.transposed, &folded).run(x, None, 0, &|_, _, _| {});
            assert_rounded(&forward.values, &want, &what);
            let back = Plan::new(level, Direction::Forward, &up.transposed, &folded).run(dy, None, 0, &|_, _, _| {});
            assert_rounded(&back.values, &want_dx, &what);
            assert!(up.unfold(&weight_gradient(level, &up.transposed, dy, x)) == want_dw, "{what}");
        }
    }
}

/// With numbers whose sums are not exact.
#[test]
fn results_do_not_depend_on_threads_or_batch() {
    let g = Geometry::of([24, 40, 3, 1, 1, 9, 7]);
    let n = 21;
    let image = g.h * g.w * g.cin;
    let x = halves(&noise(n * image, 11));
    let dy = halves(&noise(n * g.ho * g.wo * g.cout, 12));
    let w = noise(g.cout * g.cin * 9, 13);
    let all = Images { values: &x, pre: &HostPre::None };
    let gradients = Images { values: &dy, pre: &HostPre::None };
    for level in LEVELS {
        let plan = Plan::new(level, Direction::Forward, &g, &w);
        let run = || {
            let sums = |_, images: &mut [u16], sums: &mut [f64]| add_moments(simd::Level::best(), g.cout, images, sums);
            let Results { values, sums } = plan.run(all, None, 2 * g.cout, &sums);
            (values.to_vec(), sums, weight_gradient(level, &g, all, gradients))
        };
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let one = pool(1).install(run);
        let four = pool(4).install(run);
        assert!(one == four, "{level:?}");
        let to = g.ho * g.wo * g.cout;
        for i in [0, 13, 20] {
            let alone =
                plan.run(Images { values: &x[i * image..][..image], pre: &HostPre::None }, None, 0, &|_, _, _| {});
            assert!(alone.values[..] == one.0[i * to..][..to], "{level:?}, image {i}");
        }
    }
}

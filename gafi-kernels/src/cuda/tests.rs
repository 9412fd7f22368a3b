//! The emulated kernels outside of trunks, against plain arithmetic or the CPU ops.

use std::process::Command;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::{AdamStep, Arg, Engine, Grid, Pre, SgdStep, multi, source};

/// Whether there is a C++ compiler for the emulation; prints a note if not.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn available() -> bool {
    let found = Command::new("c++").arg("--version").output().is_ok_and(|done| done.status.success());
    if !found {
        eprintln!("skipped: no `c++` to emulate CUDA kernels with");
    }
    found
}

/// Numbers in -1..1 that depend only on `seed` and their position.
pub(crate) fn noise(shape: &[usize], seed: u32) -> Tensor {
    let value = |i: u32| {
        let mut x = i.wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        for _ in 0..3 {
            x ^= x >> 16;
            x = x.wrapping_mul(0x7feb_352d);
            x ^= x >> 15;
        }
        (x >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let count = shape.iter().product::<usize>() as u32;
    Tensor::from_vec((0..count).map(value).collect(), shape, &Device::Cpu).unwrap()
}

pub(crate) fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Panics unless |got - want| <= tolerance * |want|, as vectors.
pub(crate) fn assert_close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims(), "{what}: shape");
    let got = values(got);
    let want = values(want);
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let off = norm(&mut got.iter().zip(&want).map(|(g, w)| g - w));
    let size = norm(&mut want.iter().copied());
    assert!(off <= tolerance * size.max(1e-3), "{what}: off by {off} of {size}");
}

#[test]
fn the_source_is_complete_and_struct_sizes_match() {
    assert!(!source().lines().any(|line| line.starts_with("#include")));
    assert_eq!((size_of::<Pre>(), size_of::<multi::Table>()), (32, 4 * 48 * 8 + 2 * 48 * 4 + 8));
}

#[test]
fn wrong_arguments_are_rejected() {
    if !available() {
        return;
    }
    let engine = Engine::of(&Device::Cpu).unwrap();
    let x = noise(&[4], 1);
    let right = [Arg::T(&x), Arg::T(&x), Arg::U(4)];
    engine.launch("tanh_of", Grid::each(4), &right).unwrap();
    for wrong in [&right[..2], &[Arg::T(&x), Arg::U(4), Arg::T(&x)], &[Arg::T(&x), Arg::T(&x), Arg::F(4.0)]] {
        assert!(engine.launch("tanh_of", Grid::each(4), wrong).is_err());
    }
    assert!(engine.launch("no_such_kernel", Grid::each(4), &right).is_err());
}

#[test]
fn invalid_launches_are_detected() {
    if !available() {
        return;
    }
    let engine = Engine::of(&Device::Cpu).unwrap();
    let x = noise(&[1000], 1);
    let sum = noise(&[1], 2);
    let mean = |blocks: u32, threads: u32| {
        let grid = Grid { blocks: [blocks, 1, 1], threads: [threads, 1] };
        engine.launch("mean", grid, &[Arg::T(&sum), Arg::T(&x), Arg::U(1000)])
    };
    mean(1, 256).unwrap();
    assert_close("mean", &sum, &x.mean_keepdim(0).unwrap(), 1e-5);
    // Too many threads exceed the shared memory; the next launch works again; too few leave some of it unwritten.
    assert!(mean(1, 512).unwrap_err().to_string().contains("outside of an array"));
    mean(1, 256).unwrap();
    mean(1, 128).unwrap();
    assert!(values(&sum)[0].is_nan());
    for (blocks, threads) in [(0, 256), (1, 0), (1, 1025)] {
        assert!(mean(blocks, threads).unwrap_err().to_string().contains("no GPU can launch"));
    }
    let maps = Arg::Maps([1, 1, 4, 4]);
    let add = |from: usize| {
        let more = x.narrow(0, from, 16)?;
        engine.launch("accumulate_f32_4", Grid::each(4), &[Arg::T(&noise(&[16], 3)), Arg::T(&more), maps])
    };
    add(4).unwrap();
    assert!(add(1).unwrap_err().to_string().contains("not aligned"));
}

/// More tensors than a table has slots, of lengths around a block's.
fn many(seed: u32) -> Vec<Tensor> {
    (0..60).map(|i| noise(&[[1, 7, 2047, 2048, 2049, 5000][i % 6]], seed + i as u32)).collect()
}

fn rows<const N: usize>(columns: [&[Tensor]; N]) -> Vec<[&Tensor; N]> {
    (0..columns[0].len()).map(|i| columns.map(|column| &column[i])).collect()
}

#[test]
fn optimisers_and_averages_match_their_formulas() {
    if !available() {
        return;
    }
    let (w, g, m) = (many(0), many(100), many(200));
    let before = |t: &[Tensor]| t.iter().map(values).collect::<Vec<_>>();
    let (w0, g0, m0) = (before(&w), before(&g), before(&m));
    let step = SgdStep { momentum: 0.9, keep: 0.99, lr: 0.1, look: 1.0, ahead: 0.9 };
    super::sgd(&rows([&w, &g, &m]), &step).unwrap();
    let check = |what: &str, got: &[Tensor], want: &dyn Fn(usize, usize) -> f64| {
        for (t, got) in got.iter().enumerate() {
            for (i, got) in values(got).into_iter().enumerate() {
                assert!((got - want(t, i)).abs() < 1e-5, "{what}[{t}][{i}]: {got} for {}", want(t, i));
            }
        }
    };
    let buffer = |t: usize, i: usize| 0.9 * m0[t][i] + 0.1 * g0[t][i];
    check("buffer", &m, &buffer);
    check("sgd", &w, &|t, i| 0.99 * w0[t][i] - (0.1 * g0[t][i] + 0.9 * buffer(t, i)));

    let (w, g, m) = (many(0), many(100), many(200));
    let v: Vec<Tensor> = many(300).iter().map(|t| t.sqr().unwrap()).collect();
    let v0 = before(&v);
    let step = AdamStep { beta1: 0.5, beta2: 0.99, rate: 0.02, eps: 1e-3 };
    super::adam(&rows([&w, &g, &m, &v]), &step).unwrap();
    let first = |t: usize, i: usize| 0.5 * m0[t][i] + 0.5 * g0[t][i];
    let second = |t: usize, i: usize| 0.99 * v0[t][i] + 0.01 * g0[t][i].powi(2);
    check("first moment", &m, &first);
    check("second moment", &v, &second);
    check("adam", &w, &|t, i| w0[t][i] - 0.02 * first(t, i) / (second(t, i).sqrt() + 1e-3));

    let (a, b) = (many(0), many(100));
    super::average(&rows([&a, &b]), 0.75).unwrap();
    check("average", &a, &|t, i| 0.75 * w0[t][i] + 0.25 * g0[t][i]);
    // A decay of 0 copies, even over NaN.
    let a = [Tensor::full(f32::NAN, 3000, &Device::Cpu).unwrap()];
    super::average(&rows([&a, &[noise(&[3000], 5)]]), 0.0).unwrap();
    assert_eq!(values(&a[0]), values(&noise(&[3000], 5)));
}

/// The result and the gradient of sum(f * noise).
fn with_gradient(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> (Tensor, Tensor) {
    let x = Var::from_tensor(x).unwrap();
    let y = f(&x).unwrap();
    let loss = (&y * noise(y.dims(), 9)).unwrap().sum_all().unwrap();
    (y.detach(), loss.backward().unwrap().get(&x).unwrap().clone())
}

#[test]
fn losses_and_activations_match_the_cpu() {
    if !available() {
        return;
    }
    for (n, classes) in [(1, 2), (5, 10), (3, 700)] {
        let x = (noise(&[n, classes], 3) * 8.0).unwrap();
        let labels: Vec<u32> = (0..n).map(|i| (i * 7 % classes) as u32).collect();
        let (loss, dx) = with_gradient(&x, |x| super::cross_entropy(x, &labels));
        let (want, want_dx) = with_gradient(&x, |x| crate::ops::cross_entropy(x, &labels));
        assert_close("loss", &loss, &want, 1e-6);
        assert_close("loss gradient", &dx, &want_dx, 1e-5);
    }
    let x = (noise(&[3, 5, 41], 4) * 4.0).unwrap();
    let (y, dx) = with_gradient(&x, super::tanh);
    let (want, want_dx) = with_gradient(&x, crate::ops::tanh);
    assert_close("tanh", &y, &want, 1e-6);
    assert_close("tanh gradient", &dx, &want_dx, 1e-5);
}

#[test]
fn spectral_norm_matches_plain_candle() {
    if !available() {
        return;
    }
    for shape in [[3, 2, 1, 1], [40, 9, 3, 3], [1, 700, 1, 1]] {
        let (rows, cols) = (shape[0], shape[1] * shape[2] * shape[3]);
        let (w, u) = (noise(&shape, 1), noise(&[rows], 2));
        let unit = |t: &Tensor| t.broadcast_div(&t.sqr()?.sum_all()?.sqrt()?);
        let composed = |w: &Tensor| -> Result<(Tensor, Tensor)> {
            let matrix = w.reshape((rows, cols))?;
            let v = unit(&matrix.t()?.matmul(&u.reshape((rows, 1))?)?)?;
            let product = matrix.matmul(&v)?;
            let new = unit(&product)?;
            let sigma = new.t()?.matmul(&product)?;
            Ok((matrix.broadcast_div(&sigma)?.reshape(w.shape())?, new.flatten_all()?))
        };
        let refined = super::spectral_norm(&w, &u, 1e-12).unwrap().1;
        assert_close("u", &refined, &composed(&w).unwrap().1, 1e-5);
        let (y, dw) = with_gradient(&w, |w| Ok(super::spectral_norm(w, &u, 1e-12)?.0));
        let (want, want_dw) = with_gradient(&w, |w| Ok(composed(w)?.0));
        assert_close("divided", &y, &want, 1e-5);
        assert_close("weight gradient", &dw, &want_dw, 1e-4);
    }
}

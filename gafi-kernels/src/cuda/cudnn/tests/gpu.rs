//! cuDNN on a GPU: its plans, and the times of single convolutions.

use std::time::Instant;

use candle_core::DType;

use super::super::Handle;
use super::super::api::Api;
use super::super::graph::{self, Plan, Target, acceptable};
use crate::capabilities::bf16_support;
use crate::cuda::tests::noise;
use crate::cuda::{Engine, Kind, Product, open};
use crate::geometry::Geometry;
use crate::precision::{Bf16Support, Precision};

/// Calls before the timed ones.
const WARM_UP: usize = 5;

/// Twelve convolutions of the presets: channels before and after, kernel, stride, size, images.
const SHAPES: [[usize; 6]; 12] = [
    [3, 64, 3, 1, 32, 128],
    [64, 64, 3, 1, 32, 128],
    [64, 128, 3, 2, 32, 128],
    [128, 128, 3, 1, 16, 128],
    [256, 256, 3, 1, 8, 128],
    [24, 64, 3, 1, 30, 1000],
    [64, 256, 3, 1, 15, 1000],
    [256, 256, 3, 1, 7, 1000],
    [512, 128, 1, 1, 32, 192],
    [128, 128, 3, 1, 32, 192],
    [128, 512, 1, 1, 16, 192],
    [128, 3, 3, 1, 32, 192],
];

/// The plans that the tests without a GPU check are those that a GPU gets.
#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn a_gpu_gets_the_plans_of_its_properties() {
    let Ok(device) = open(0) else {
        eprintln!("skipped: no usable GPU");
        return;
    };
    let engine = Engine::of(&device).unwrap();
    let Kind::Gpu(gpu) = &engine.kind else { panic!("expected a GPU") };
    let api = Api::get().unwrap();
    let json = gpu.properties().unwrap();
    let properties = graph::properties(api, &json).unwrap();
    for [cin, cout, k, stride, size, n] in SHAPES {
        let g = geometry([cin, cout, k, stride, size]);
        for product in [Product::Forward, Product::Input, Product::Weights] {
            let find = |target| Plan::find(api, target, product, &g, n, Precision::F32, acceptable).unwrap();
            let here = gpu.with_cudnn(|handle| Ok(find(Target::Handle(handle.pointer())).engine)).unwrap();
            assert_eq!(here, find(Target::Properties(&properties)).engine, "{product:?} of {n} images, {g:?}, {json}");
        }
    }
}

fn geometry([cin, cout, k, stride, size]: [usize; 5]) -> Geometry {
    let pad = k / 2;
    let out = (size + 2 * pad - k) / stride + 1;
    Geometry { cin, cout, k, stride, pad, h: size, w: size, ho: out, wo: out }
}

/// Prints a line of JSON for each convolution, product, precision and API of cuDNN: microseconds, and what computed it. The
/// environment variable `CALLS` is the number of timed calls, 50 without it.
#[test]
#[ignore = "needs a GPU, and measures"]
#[expect(clippy::print_stdout, reason = "the figures are what the caller asks for")]
fn convolution_times() {
    let device = open(0).unwrap();
    let engine = Engine::of(&device).unwrap();
    let stream = device.as_cuda_device().unwrap().cuda_stream();
    let mut handles = [Handle::legacy(&stream).unwrap(), Handle::new(&stream).unwrap()];
    let calls: usize = std::env::var("CALLS").map_or(50, |calls| calls.parse().unwrap());
    for [cin, cout, k, stride, size, n] in SHAPES {
        let g = geometry([cin, cout, k, stride, size]);
        let floats = [[n, size, size, cin], [cout, k, k, cin], [n, g.ho, g.wo, cout]].map(|shape| noise(&shape, 1));
        for (dtype, precision) in
            [(DType::BF16, Precision::Bf16), (DType::F32, Precision::Tf32), (DType::F32, Precision::F32)]
        {
            // GPUs before Ampere have neither bf16 nor TF32.
            if precision != Precision::F32 && bf16_support(&device) != Bf16Support::Fast {
                continue;
            }
            let tensors = floats.each_ref().map(|t| t.to_dtype(dtype).unwrap().to_device(&device).unwrap());
            let data = tensors.each_ref().map(|t| engine.pointer(t).unwrap());
            for product in [Product::Forward, Product::Input, Product::Weights] {
                for handle in &mut handles {
                    let mut run = |calls| (0..calls).for_each(|_| handle.run(product, &g, n, precision, data).unwrap());
                    run(WARM_UP);
                    device.synchronize().unwrap();
                    let begun = Instant::now();
                    run(calls);
                    device.synchronize().unwrap();
                    let micros = begun.elapsed().as_secs_f64() * 1e6 / calls as f64;
                    let [api, by] = handle.used(product, &g, n, precision);
                    println!(
                        r#"{{"shape": [{n}, {cin}, {size}, {size}], "filters": [{cout}, {k}, {k}], "stride": {stride}, "product": "{product:?}", "precision": "{precision:?}", "api": "{api}", "by": "{by}", "microseconds": {micros:.1}}}"#
                    );
                }
            }
        }
    }
}

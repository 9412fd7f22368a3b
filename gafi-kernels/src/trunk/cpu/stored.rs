//! The types that maps are stored in, and which kernels their convolutions take.

use super::super::backend::{Data, Geometry};
use super::super::memory::Pooled;
use super::conv::{Images, Results};
use super::maps::Element;
use super::{bf16, conv, conv_bf16};
use crate::ops::simd::Level;

/// A storage type and where [`Data`] has it.
pub(super) trait Stored: Element {
    fn values(data: &Data) -> Option<&[Self]>;
    fn values_mut(data: &mut Data) -> Option<&mut [Self]>;
    fn data(values: Pooled<Self>) -> Data;

    /// How convolutions of such maps are done.
    type Plan: Send + Sync;
    fn forward(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan;
    fn input_gradient(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan;
    fn run(
        plan: &Self::Plan,
        images: Images<'_, Self>,
        bias: Option<&[f32]>,
        sums: usize,
        finish: impl Fn(usize, &mut [Self], &mut [f64]) + Sync,
    ) -> Results<Self>;
    fn weight_gradient(level: Level, g: &Geometry, x: Images<'_, Self>, dy: Images<'_, Self>) -> Vec<f32>;
}

impl Stored for f32 {
    fn values(data: &Data) -> Option<&[Self]> {
        if let Data::F32(values) = data { Some(values) } else { None }
    }

    fn values_mut(data: &mut Data) -> Option<&mut [Self]> {
        if let Data::F32(values) = data { Some(values) } else { None }
    }

    fn data(values: Pooled<Self>) -> Data {
        Data::F32(values)
    }

    type Plan = conv::Plan;

    fn forward(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan {
        conv::Plan::forward(level, g, w)
    }

    fn input_gradient(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan {
        conv::Plan::input_gradient(level, g, w)
    }

    fn run(
        plan: &Self::Plan,
        images: Images<'_, Self>,
        bias: Option<&[f32]>,
        sums: usize,
        finish: impl Fn(usize, &mut [Self], &mut [f64]) + Sync,
    ) -> Results<Self> {
        plan.run(images, bias, sums, finish)
    }

    fn weight_gradient(level: Level, g: &Geometry, x: Images<'_, Self>, dy: Images<'_, Self>) -> Vec<f32> {
        conv::weight_gradient(level, g, x, dy)
    }
}

/// A plan for bf16. Where the CPU has no instructions for it, that of f32, whose transforms save more than widening costs; with
/// AVX-512-BF16 the transforms of f32 and products of bf16, where there are transforms, and what f32 does for very few results.
pub(super) enum HalfPlan {
    Own(conv_bf16::Plan),
    Widened(conv::Plan),
}

fn half_plan(
    g: &Geometry,
    back: bool,
    widened: impl Fn(&Geometry) -> conv::Plan,
    own: impl Fn(bf16::Level, &Geometry) -> conv_bf16::Plan,
) -> HalfPlan {
    match bf16::Level::best() {
        bf16::Level::Portable => HalfPlan::Widened(widened(g)),
        level if level != bf16::Level::Amx && conv::has_few(g, back) => HalfPlan::Widened(widened(g)),
        level if level != bf16::Level::Amx && conv::transforms_in_halves(g) => match widened(g).halved(level) {
            Some(plan) => HalfPlan::Widened(plan),
            None => HalfPlan::Own(own(level, g)),
        },
        level => HalfPlan::Own(own(level, g)),
    }
}

impl Stored for u16 {
    fn values(data: &Data) -> Option<&[Self]> {
        if let Data::Bf16(values) = data { Some(values) } else { None }
    }

    fn values_mut(data: &mut Data) -> Option<&mut [Self]> {
        if let Data::Bf16(values) = data { Some(values) } else { None }
    }

    fn data(values: Pooled<Self>) -> Data {
        Data::Bf16(values)
    }

    type Plan = HalfPlan;

    fn forward(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan {
        half_plan(g, false, |g| conv::Plan::forward(level, g, w), |own, g| conv_bf16::Plan::forward(own, g, w))
    }

    fn input_gradient(level: Level, g: &Geometry, w: &[f32]) -> Self::Plan {
        half_plan(
            g,
            true,
            |g| conv::Plan::input_gradient(level, g, w),
            |own, g| conv_bf16::Plan::input_gradient(own, g, w),
        )
    }

    fn run(
        plan: &Self::Plan,
        images: Images<'_, Self>,
        bias: Option<&[f32]>,
        sums: usize,
        finish: impl Fn(usize, &mut [Self], &mut [f64]) + Sync,
    ) -> Results<Self> {
        match plan {
            HalfPlan::Own(plan) => plan.run(images, bias, sums, finish),
            HalfPlan::Widened(plan) => plan.run(images, bias, sums, finish),
        }
    }

    fn weight_gradient(level: Level, g: &Geometry, x: Images<'_, Self>, dy: Images<'_, Self>) -> Vec<f32> {
        match bf16::Level::best() {
            bf16::Level::Portable => conv::weight_gradient(level, g, x, dy),
            bf16::Level::Amx => conv_bf16::weight_gradient(bf16::Level::Amx, g, x, dy),
            own => match conv::halved_weight_gradient(level, g, x, dy, own) {
                Some(gradient) => gradient,
                None => conv_bf16::weight_gradient(own, g, x, dy),
            },
        }
    }
}

//! The storage types of maps, and the convolution kernels of each.

use super::conv::{Direction, Finish, Results};
use super::element::Element;
use super::view::Images;
use super::{bf16, conv, conv_bf16};
use crate::geometry::Geometry;
use crate::memory::Pooled;
use crate::simd::Level;
use crate::trunk::backend::Data;

/// A storage type: its variant of [`Data`] and its convolutions.
pub(super) trait Stored: Element {
    fn values(data: &Data) -> Option<&[Self]>;
    fn values_mut(data: &mut Data) -> Option<&mut [Self]>;
    fn data(values: Pooled<Self>) -> Data;

    /// The plan of a convolution of such maps.
    type Plan: Send + Sync;
    fn plan(level: Level, direction: Direction, g: &Geometry, w: &[f32]) -> Self::Plan;
    fn run(
        plan: &Self::Plan,
        images: Images<'_, Self>,
        bias: Option<&[f32]>,
        sums: usize,
        finish: &Finish<'_, Self>,
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

    fn plan(level: Level, direction: Direction, g: &Geometry, w: &[f32]) -> Self::Plan {
        conv::Plan::new(level, direction, g, w, None)
    }

    fn run(
        plan: &Self::Plan,
        images: Images<'_, Self>,
        bias: Option<&[f32]>,
        sums: usize,
        finish: &Finish<'_, Self>,
    ) -> Results<Self> {
        plan.run(images, bias, sums, finish)
    }

    fn weight_gradient(level: Level, g: &Geometry, x: Images<'_, Self>, dy: Images<'_, Self>) -> Vec<f32> {
        conv::weight_gradient(level, g, x, dy, None)
    }
}

/// A plan for bf16 maps.
pub(super) enum HalfPlan {
    /// bf16 kernels.
    Bf16(conv_bf16::Plan),
    /// The kernels of f32, on maps widened as they are read.
    Widened(conv::Plan),
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

    /// Chooses the fastest plan.
    ///
    /// - AMX: always the bf16 kernels.
    /// - AVX-512-BF16: the f32 kernels for few result channels; Winograd's transforms in f32 with products in bf16 where they
    ///   apply; else the bf16 kernels.
    /// - Neither: the f32 kernels, whose Winograd transforms save more than widening costs.
    fn plan(level: Level, direction: Direction, g: &Geometry, w: &[f32]) -> Self::Plan {
        match bf16::Level::best() {
            bf16::Level::Portable => HalfPlan::Widened(conv::Plan::new(level, direction, g, w, None)),
            bf16::Level::Avx512Bf16 if conv::has_few_results(g, direction) => {
                HalfPlan::Widened(conv::Plan::new(level, direction, g, w, None))
            }
            products @ bf16::Level::Avx512Bf16 if conv::transforms_in_bf16(g) => {
                HalfPlan::Widened(conv::Plan::new(level, direction, g, w, Some(products)))
            }
            products => HalfPlan::Bf16(conv_bf16::Plan::new(products, direction, g, w)),
        }
    }

    fn run(
        plan: &Self::Plan,
        images: Images<'_, Self>,
        bias: Option<&[f32]>,
        sums: usize,
        finish: &Finish<'_, Self>,
    ) -> Results<Self> {
        match plan {
            HalfPlan::Bf16(plan) => plan.run(images, bias, sums, finish),
            HalfPlan::Widened(plan) => plan.run(images, bias, sums, finish),
        }
    }

    fn weight_gradient(level: Level, g: &Geometry, x: Images<'_, Self>, dy: Images<'_, Self>) -> Vec<f32> {
        match bf16::Level::best() {
            bf16::Level::Portable => conv::weight_gradient(level, g, x, dy, None),
            products @ bf16::Level::Avx512Bf16 if conv::transforms_in_bf16(g) => {
                conv::weight_gradient(level, g, x, dy, Some(products))
            }
            products => conv_bf16::weight_gradient(products, g, x, dy),
        }
    }
}

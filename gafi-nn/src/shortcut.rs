//! The parameter-free shortcut of the CIFAR ResNets (option A of He et al. 2015, arXiv 1512.03385, section 4.1): every
//! second pixel of every second row, and zero channels on both sides.
//!
//! One op, because Candle has no strided slice: index_select and its index_add backward walk the whole image twice.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// x (N, C, H, W) to (N, `channels`, ceil(H / 2), ceil(W / 2)); C's channels stand in the middle, (`channels` - C) / 2
/// zero ones before them (rounded down) and the others after.
///
/// # Errors
/// When there are fewer channels than x has.
pub(crate) fn subsample_pad(x: &Tensor, channels: usize) -> Result<Tensor> {
    let (_, c, h, w) = x.dims4()?;
    if channels < c {
        bail!("shortcut: {channels} channels for {:?}", x.dims())
    }
    if x.device().is_cpu() && x.dtype() == DType::F32 {
        return x.contiguous()?.apply_op1(SubsamplePad { channels, grow: None });
    }
    let every_second = |n: usize| Tensor::arange_step(0u32, n as u32, 2, x.device());
    let before = (channels - c) / 2;
    x.index_select(&every_second(h)?, 2)?.index_select(&every_second(w)?, 3)?.pad_with_zeros(
        1,
        before,
        channels - c - before,
    )
}

/// The op, or, with `grow` the shape (C, H, W) of what it was applied to, its transpose.
struct SubsamplePad {
    channels: usize,
    grow: Option<(usize, usize, usize)>,
}

impl CustomOp1 for SubsamplePad {
    fn name(&self) -> &'static str {
        "subsample-pad"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((from, to)) = layout.contiguous_offsets() else { bail!("shortcut: a strided tensor") };
        let values = &storage.as_slice::<f32>()?[from..to];
        let (n, c, h, w) = layout.shape().dims4()?;
        let ((small_c, small_h, small_w), (big_c, big_h, big_w)) = match self.grow {
            None => ((self.channels, h.div_ceil(2), w.div_ceil(2)), (c, h, w)),
            Some(big) => ((c, h, w), big),
        };
        let before = (small_c - big_c) / 2;
        let (small, big) = (small_h * small_w, big_h * big_w);
        let shape = if self.grow.is_none() { (n, small_c, small_h, small_w) } else { (n, big_c, big_h, big_w) };
        let mut out = vec![0f32; shape.0 * shape.1 * shape.2 * shape.3];
        if out.is_empty() {
            return Ok((CpuStorage::F32(out), shape.into()));
        }
        if self.grow.is_none() {
            out.par_chunks_mut(small_c * small).zip(values.par_chunks(big_c * big)).for_each(|(out, values)| {
                for (to, from) in out.chunks_exact_mut(small).skip(before).zip(values.chunks_exact(big)) {
                    for (to, from) in to.chunks_exact_mut(small_w).zip(from.chunks(big_w).step_by(2)) {
                        to.iter_mut().zip(from.iter().step_by(2)).for_each(|(to, from)| *to = *from);
                    }
                }
            });
        } else {
            out.par_chunks_mut(big_c * big).zip(values.par_chunks(small_c * small)).for_each(|(out, values)| {
                for (to, from) in out.chunks_exact_mut(big).zip(values.chunks_exact(small).skip(before)) {
                    for (to, from) in to.chunks_mut(big_w).step_by(2).zip(from.chunks_exact(small_w)) {
                        to.iter_mut().step_by(2).zip(from).for_each(|(to, from)| *to = *from);
                    }
                }
            });
        }
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, c, h, w) = x.dims4()?;
        let back = Self { channels: self.channels, grow: Some((c, h, w)) };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn agrees_with_candles_own_operations_odd_sizes_and_gradient_too() {
        for (c, h, w, channels) in [(2, 8, 8, 4), (3, 5, 7, 6), (1, 9, 4, 4), (4, 4, 4, 4)] {
            let count = 2 * c * h * w;
            let values: Vec<f64> = (0..count).map(|i| (i as f64 * 0.37).sin()).collect();
            let double = Var::from_vec(values, (2, c, h, w), &Device::Cpu).unwrap();
            let single = Var::from_tensor(&double.to_dtype(DType::F32).unwrap()).unwrap();
            // f64 takes the path of candle's operations.
            let (a, b) = (subsample_pad(&single, channels).unwrap(), subsample_pad(&double, channels).unwrap());
            assert_eq!(a.dims(), [2, channels, h.div_ceil(2), w.div_ceil(2)]);
            let flat = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&a), flat(&b));
            let grad = |y: Tensor, x: &Var| flat(y.sqr().unwrap().backward().unwrap().get(x).unwrap());
            let (ga, gb) = (grad(a, &single), grad(b, &double));
            assert!(ga.iter().zip(&gb).all(|(a, b)| (a - b).abs() < 1e-6), "{ga:?}\n{gb:?}");
        }
    }
}

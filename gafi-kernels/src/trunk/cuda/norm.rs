//! Sums over rows of maps, and batch norm, which is made of them.

use candle_core::{DType, Result, Tensor};

use super::{Cuda, pre, shape, tensor};
use crate::cuda::{Arg, Grid};
use crate::trunk::backend::{Affine, Data, Maps, Moments, NormGradients, Pre, Source};

/// Threads of a block of the first stage, rows that each adds up at least, blocks that fill a GPU, shares that the
/// second stage adds up at most.
const THREADS: usize = 256;
const ROWS: usize = 16;
const BLOCKS: usize = 1024;
const SPLITS: usize = 64;

/// What the first stage gives: shares (groups, splits, 2, channels) in f64.
struct Shares {
    partial: Tensor,
    splits: Arg<'static>,
    channels: Arg<'static>,
}

impl Cuda {
    /// The first stage of a sum over the rows (pixels) of `groups` groups: `kernel(partial, data..., rows, channels,
    /// rest...)`.
    fn shares(&self, kernel: &str, maps: Maps, groups: usize, data: &[&Tensor], rest: &[Arg<'_>]) -> Result<Shares> {
        let rows = maps.n * maps.h * maps.w / groups;
        let (name, pack) = self.variant(kernel, &[maps.c]);
        let packs = maps.c / pack;
        let width = packs.next_power_of_two().min(32);
        let height = THREADS / width;
        let columns = packs.div_ceil(width);
        let most = (BLOCKS / (columns * groups)).clamp(1, SPLITS);
        let splits = rows.div_ceil(height * ROWS).clamp(1, most);
        let partial = self.engine.empty(&[groups, splits, 2, maps.c], DType::F64)?;
        let data: Vec<Arg<'_>> = data.iter().map(|tensor| Arg::T(tensor)).collect();
        let channels = Arg::U(maps.c as u32);
        let sizes = [Arg::U(rows as u32), channels];
        let args = [&[Arg::T(&partial)], &data[..], &sizes[..], rest].concat();
        let blocks = [columns as u32, splits as u32, groups as u32];
        self.engine.launch(&name, Grid { blocks, threads: [width as u32, height as u32] }, &args)?;
        Ok(Shares { partial, splits: Arg::U(splits as u32), channels })
    }

    /// Sums of maps as they are read over each of `groups` groups of rows, (groups, C). With a norm of images in
    /// `pre`, a group must be an image.
    pub(super) fn summed(&self, x: Source<'_>, groups: usize) -> Result<Tensor> {
        let (maps, data) = (x.maps, tensor(x.data)?);
        let Shares { partial, splits, channels } = self.shares("sums", maps, groups, &[data], &[pre(x.pre)])?;
        let out = self.floats(&[groups, maps.c])?;
        let args = [Arg::T(&out), Arg::T(&partial), splits, channels];
        self.engine.launch("fold_sums", Grid::columns(maps.c, groups), &args)?;
        Ok(out)
    }

    pub(super) fn batch_moments(&self, maps: Maps, x: &Data) -> Result<Moments> {
        let x = tensor(x)?;
        let count = maps.count() / maps.c;
        let Shares { partial, splits, channels } = self.shares("moments", maps, 1, &[x], &[])?;
        let (mean, var) = (self.floats(&[maps.c])?, self.floats(&[maps.c])?);
        let (name, _) = self.variant("fold_moments", &[1]);
        let given = [Arg::T(&mean), Arg::T(&var), Arg::T(&partial), Arg::T(x)];
        let args = [&given[..], &[splits, channels, Arg::D(count as f64)]].concat();
        self.engine.launch(&name, Grid::columns(maps.c, 1), &args)?;
        Ok(Moments { mean, var, count })
    }

    pub(super) fn folded(
        &self,
        moments: &Moments,
        gain: &Tensor,
        shift: &Tensor,
        eps: f64,
        training: bool,
    ) -> Result<Affine> {
        let (gain, shift) = (gain.contiguous()?, shift.contiguous()?);
        let channels = moments.mean.elem_count();
        let groups = gain.elem_count() / channels;
        let (scale, offset) = (self.floats(gain.dims())?, self.floats(gain.dims())?);
        let (mean, inv) = (moments.mean.contiguous()?.detach(), self.floats(&[channels])?);
        let var = moments.var.contiguous()?;
        let made = [Arg::T(&scale), Arg::T(&offset), Arg::T(&inv)];
        let given = [Arg::T(&mean), Arg::T(&var), Arg::T(&gain), Arg::T(&shift), Arg::F(eps as f32)];
        let args = [&made[..], &given[..], &[Arg::U(groups as u32), Arg::U(channels as u32)]].concat();
        self.engine.launch("affine", Grid::each(groups * channels), &args)?;
        Ok(Affine { scale, offset, mean, inv, training })
    }

    pub(super) fn norm_backward(
        &self,
        maps: Maps,
        x: &Tensor,
        affine: &Affine,
        slope: Option<f32>,
        dy: &Tensor,
    ) -> Result<NormGradients> {
        let groups = affine.scale.elem_count() / maps.c;
        let seen = pre(Pre::Affine(affine, slope));
        let statistics = [Arg::T(&affine.mean), Arg::T(&affine.inv)];
        let rest = [seen, statistics[0], statistics[1], Arg::U((maps.h * maps.w) as u32)];
        let Shares { partial, splits, channels } = self.shares("norm_sums", maps, groups, &[x, dy], &rest)?;
        let (dgain, dshift) = (self.floats(affine.scale.dims())?, self.floats(affine.scale.dims())?);
        let args = [Arg::T(&dgain), Arg::T(&dshift), Arg::T(&partial), splits, channels];
        self.engine.launch("fold_norm", Grid::columns(maps.c, groups), &args)?;
        let totals = if affine.training {
            let totals = self.floats(&[2, maps.c])?;
            let given = [Arg::T(&totals), Arg::T(&dgain), Arg::T(&dshift), Arg::T(&affine.scale)];
            let count = (maps.n * maps.h * maps.w) as f32;
            let args = [&given[..], &[Arg::U(groups as u32), channels, Arg::F(count)]].concat();
            self.engine.launch("norm_totals", Grid::each(maps.c), &args)?;
            Some(totals)
        } else {
            None
        };
        let dx = self.empty(maps)?;
        let given = [Arg::T(&dx), Arg::T(x), Arg::T(dy), shape(maps), seen, statistics[0], statistics[1]];
        let totals = totals.as_ref().map_or(Arg::Null, Arg::T);
        self.launch("norm_dx", maps.count(), &[maps.c], &[&given[..], &[totals]].concat())?;
        Ok(NormGradients { dx: Data::Tensor(dx), dgain, dshift })
    }
}

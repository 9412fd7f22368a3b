//! Sums over rows of maps, and batch norm, which is based on them.

use candle_core::{DType, Result, Tensor};

use super::{Cuda, pre, shape, tensor};
use crate::activation::Activation;
use crate::cuda::{Arg, Grid};
use crate::geometry::Maps;
use crate::trunk::backend::{Affine, Data, Moments, NormGradients, Pre, Source};

/// Number of threads in a block of the first stage.
const THREADS: usize = 256;
/// Minimum number of rows that a thread of the first stage adds up.
const ROWS: usize = 16;
/// Number of blocks that fill a GPU.
const BLOCKS: usize = 1024;
/// Maximum number of partial sums that the second stage adds up. With few channels, these are all blocks there are.
const SPLITS: usize = 512;

/// The result of the first stage.
struct Partials {
    /// (groups, splits, 2, channels), f64.
    partial: Tensor,
    splits: Arg<'static>,
    channels: Arg<'static>,
}

impl Cuda {
    /// The first stage of sums over the rows (pixels) of each of `groups` groups. Launches `kernel(partial, data..., rows,
    /// channels, rest...)`.
    fn partial_sums(
        &self,
        kernel: &str,
        maps: Maps,
        groups: usize,
        data: &[&Tensor],
        rest: &[Arg<'_>],
    ) -> Result<Partials> {
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
        Ok(Partials { partial, splits: Arg::U(splits as u32), channels })
    }

    /// Sums over each of `groups` groups of rows, (groups, C). If the prologue of `x` is a conditional norm, each group must be
    /// an image.
    pub(super) fn group_sums(&self, x: Source<'_>, groups: usize) -> Result<Tensor> {
        let maps = x.maps;
        let data = tensor(x.data)?;
        let Partials { partial, splits, channels } = self.partial_sums("sums", maps, groups, &[data], &[pre(x.pre)])?;
        let out = self.floats(&[groups, maps.c])?;
        let args = [Arg::T(&out), Arg::T(&partial), splits, channels];
        self.engine.launch("fold_sums", Grid::columns(maps.c, groups), &args)?;
        Ok(out)
    }

    pub(super) fn batch_moments(&self, maps: Maps, x: &Data) -> Result<Moments> {
        let x = tensor(x)?;
        let count = maps.count() / maps.c;
        let Partials { partial, splits, channels } = self.partial_sums("moments", maps, 1, &[x], &[])?;
        let mean = self.floats(&[maps.c])?;
        let var = self.floats(&[maps.c])?;
        let (name, _) = self.variant("fold_moments", &[1]);
        let given = [Arg::T(&mean), Arg::T(&var), Arg::T(&partial), Arg::T(x)];
        let args = [&given[..], &[splits, channels, Arg::D(count as f64)]].concat();
        self.engine.launch(&name, Grid::columns(maps.c, 1), &args)?;
        Ok(Moments { mean, var, count })
    }

    pub(super) fn fold_norm(
        &self,
        moments: &Moments,
        gain: &Tensor,
        shift: &Tensor,
        eps: f64,
        training: bool,
    ) -> Result<Affine> {
        let gain = gain.contiguous()?;
        let shift = shift.contiguous()?;
        let channels = moments.mean.elem_count();
        let groups = gain.elem_count() / channels;
        let scale = self.floats(gain.dims())?;
        let offset = self.floats(gain.dims())?;
        let mean = moments.mean.contiguous()?.detach();
        let inv = self.floats(&[channels])?;
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
        activation: Option<Activation>,
        dy: &Tensor,
    ) -> Result<NormGradients> {
        let groups = affine.scale.elem_count() / maps.c;
        let prologue = pre(Pre::Affine(affine, activation));
        let statistics = [Arg::T(&affine.mean), Arg::T(&affine.inv)];
        let rest = [prologue, statistics[0], statistics[1], Arg::U((maps.h * maps.w) as u32)];
        let Partials { partial, splits, channels } = self.partial_sums("norm_sums", maps, groups, &[x, dy], &rest)?;
        let dgain = self.floats(affine.scale.dims())?;
        let dshift = self.floats(affine.scale.dims())?;
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
        let given = [Arg::T(&dx), Arg::T(x), Arg::T(dy), shape(maps), prologue, statistics[0], statistics[1]];
        let totals = totals.as_ref().map_or(Arg::Null, Arg::T);
        self.launch("norm_dx", maps.count(), &[maps.c], &[&given[..], &[totals]].concat())?;
        Ok(NormGradients { dx: Data::Tensor(dx), dgain, dshift })
    }
}

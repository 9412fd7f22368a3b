//! Sums over rows of maps: the first of two stages, and plain sums.

use candle_core::{DType, Result, Tensor};

use super::{Cuda, pre, tensor};
use crate::cuda::{Arg, Grid};
use crate::geometry::Maps;
use crate::trunk::backend::Source;

/// Number of threads in a block of the first stage.
const THREADS: usize = 256;
/// Minimum number of rows that a thread of the first stage adds up.
const ROWS: usize = 16;
/// Number of blocks that fill a GPU.
const BLOCKS: usize = 1024;
/// Maximum number of partial sums that the second stage adds up. With few channels, these are all blocks there are.
const SPLITS: usize = 512;

/// The result of the first stage.
pub(super) struct Partials {
    /// (groups, splits, 2, channels), f64.
    pub(super) partial: Tensor,
    pub(super) splits: Arg<'static>,
    pub(super) channels: Arg<'static>,
}

impl Cuda {
    /// The first stage of sums over the rows (pixels) of each of `groups` groups. Launches `kernel(partial, data..., rows,
    /// channels, rest...)`.
    pub(super) fn partial_sums(
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
}

//! How convolutions divide a batch: groups of images, padded frames, blocks of Winograd tiles.

use std::ops::Range;

use crate::geometry::Geometry;
use crate::memory::{Pooled, Scratch};
use crate::simd::Level;
use crate::trunk::cpu::bf16;
use crate::trunk::cpu::element::Element;
use crate::trunk::cpu::frame::Frame;
use crate::trunk::cpu::gemm::PANEL;
use crate::trunk::cpu::parallel::{Tasks, for_each_chunk, for_each_chunk_pair};
use crate::trunk::cpu::view::{Images, read};
use crate::trunk::cpu::winograd::{self, TileSize, Tiles};

/// Minimum number of positions in a group of small images.
const GROUP: usize = 64;
/// Number of values of the transformed input (and of the products) in a block of Winograd tiles: 256 KiB each, so that both
/// stay in L2.
const BLOCK: usize = 64 * 1024;
/// Minimum number of tiles in a block, whatever the number of channels: each block reads all weights.
const TILES: usize = 32;

/// The direction of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// A convolution: from inputs to results.
    Forward,
    /// Its input gradient: from results to inputs.
    Backward,
}

/// The images on one side of a convolution.
pub(crate) struct Side {
    /// (h, w, c)
    pub(crate) image: (usize, usize, usize),
    /// Distance between two of their channels in weights (cout, cin, k, k).
    pub(crate) stride: usize,
}

impl Direction {
    /// The source and the result.
    pub(crate) fn sides(self, g: &Geometry) -> (Side, Side) {
        let taps = g.k * g.k;
        let input = Side { image: (g.h, g.w, g.cin), stride: taps };
        let output = Side { image: (g.ho, g.wo, g.cout), stride: g.cin * taps };
        match self {
            Self::Forward => (input, output),
            Self::Backward => (output, input),
        }
    }
}

/// Result images, and the sums computed over each.
pub(crate) struct Results<E: Element> {
    pub(crate) values: Pooled<E>,
    pub(crate) sums: Vec<f64>,
}

/// The offsets `rows` of one image for each image of a group, whose frames are `frame` values apart.
pub(crate) fn grouped(rows: &[usize], group: usize, frame: usize) -> Vec<usize> {
    (0..group).flat_map(|image| rows.iter().map(move |row| image * frame + row)).collect()
}

/// Number of images in a group, for images with this many positions.
pub(crate) fn group_of(positions: usize) -> usize {
    GROUP.div_ceil(positions.max(1))
}

/// Called for each group with the index of its first image, its results and their sums.
pub(crate) type Finish<'a, E> = dyn Fn(usize, &mut [E], &mut [f64]) + Sync + 'a;

/// Computes result images in groups of `group` images. For each group, `work(first, results)` computes the results, then
/// `finish(first, results, sums)` may change them and writes `sums` numbers for each image while it is in the cache. `first`
/// is the index of the group's first image; `values` is the number of source values.
pub(crate) fn run_groups<E: Element>(
    values: usize,
    source: (usize, usize, usize),
    result: (usize, usize, usize),
    group: usize,
    sums: usize,
    work: &(dyn Fn(usize, &mut [E]) + Sync),
    finish: &Finish<'_, E>,
) -> Results<E> {
    let size = |(h, w, c): (usize, usize, usize)| h * w * c;
    let n = values / size(source).max(1);
    let to = size(result);
    let mut values = Pooled::<E>::new(n * to);
    let mut all_sums = vec![0.0f64; n * sums];
    let whole = |i: usize, out: &mut [E], sums: &mut [f64]| {
        work(i * group, out);
        finish(i * group, out, sums);
    };
    // One group for each task: a loop ends with its last task, and the system may suspend a thread in the middle of a long one.
    if sums > 0 {
        for_each_chunk_pair((&mut values, group * to), (&mut all_sums, group * sums), &whole);
    } else {
        for_each_chunk(&mut values, group * to, Tasks::SINGLE, &|i, out| whole(i, out, &mut []));
    }
    Results { values, sums: all_sums }
}

/// The Winograd tiles of a convolution, if the transforms apply to it. For `products` in bf16 they must apply, and the tiles
/// are small: large ones would lose too many of its eight bits.
pub(crate) fn tiles_of(g: &Geometry, products: Option<bf16::Level>) -> Option<Tiles> {
    let size = (g.ho, g.wo);
    if products.is_some() {
        return Some(Tiles::of_size(TileSize::Two, size));
    }
    let tiles = Tiles::best(size);
    transforms_apply(g, tiles.size).then_some(tiles)
}

/// Whether Winograd's transforms by tiles of this size make a convolution faster.
fn transforms_apply(g: &Geometry, size: TileSize) -> bool {
    g.k == 3 && g.stride == 1 && g.pad == 1 && winograd::fits(size, g.cin, g.cout)
}

/// Whether Winograd's transforms make a convolution faster when AVX-512-BF16 multiplies: with few channels they cost more
/// than they save.
pub(crate) fn transforms_in_bf16(g: &Geometry) -> bool {
    transforms_apply(g, TileSize::Two) && g.cin.min(g.cout) >= 64 && g.cin.is_multiple_of(PANEL)
}

/// The frame that covers everything that the tiles read.
pub(crate) fn tile_frame(tiles: Tiles) -> Frame {
    Frame { top: 1, left: 1, rows: tiles.width() * tiles.rows + 2, cols: tiles.width() * tiles.across + 2 }
}

/// The rows of tiles of each block, counted through `images` images.
pub(crate) fn tile_blocks(tiles: Tiles, images: usize, channels: usize) -> impl Iterator<Item = Range<usize>> {
    let across = tiles.across.max(1);
    let all = images * tiles.rows;
    let block = (BLOCK / (tiles.places() * channels * across)).max(TILES.div_ceil(across));
    (0..all).step_by(block).map(move |start| start..all.min(start + block))
}

/// The frame that covers everything that a convolution reads.
pub(crate) fn input_frame(g: &Geometry) -> Frame {
    let size = |n: usize, out: usize| ((out - 1) * g.stride + g.k).max(if g.pad == 0 { n } else { 0 });
    Frame { top: g.pad, left: g.pad, rows: size(g.h, g.ho), cols: size(g.w, g.wo) }
}

/// Where the result of a convolution reads in its frame, whose pixels have `channels` channels: the offset of each position,
/// the offsets of the runs relative to a position, and the length of a run.
pub(crate) fn read_offsets(g: &Geometry, channels: usize, frame: Frame) -> (Vec<usize>, Vec<usize>, usize) {
    let pitch = frame.cols * channels;
    let rows = (0..g.ho).flat_map(|r| (0..g.wo).map(move |c| r * g.stride * pitch + c * g.stride * channels));
    (rows.collect(), (0..g.k).map(|run| run * pitch).collect(), g.k * channels)
}

/// The frames of `count` images from index `first` on, one after the other: in place if they need neither padding nor
/// conversion, else in `scratch`.
pub(crate) fn framed<'a, E: Element>(
    level: Level,
    frame: Frame,
    (h, w, c): (usize, usize, usize),
    images: Images<'a, E>,
    first: usize,
    count: usize,
    scratch: &'a mut Scratch,
) -> &'a [f32] {
    if frame.is_tight(h, w) {
        return read_rows(level, (h, w, c), images, first, 0..count * h, scratch);
    }
    let image = h * w * c;
    let values = &images.values[first * image..][..count * image];
    let size = frame.rows * frame.cols * c;
    let to = scratch.take(count * size);
    for (i, (to, image)) in to.chunks_exact_mut(size).zip(values.chunks_exact(image)).enumerate() {
        frame.fill(level, image, (h, w, c), images.pre.image(first + i, c), to);
    }
    to
}

/// Rows of images (h, w, c) as they are read: in place if they need no conversion, else in `scratch`. Rows are counted
/// through the images, from image `first` on.
pub(crate) fn read_rows<'a, E: Element>(
    level: Level,
    (h, w, c): (usize, usize, usize),
    images: Images<'a, E>,
    first: usize,
    rows: Range<usize>,
    scratch: &'a mut Scratch,
) -> &'a [f32] {
    let pitch = w * c;
    let values = &images.values[(first * h + rows.start) * pitch..(first * h + rows.end) * pitch];
    if let (true, Some(floats)) = (images.pre.is_none(), E::floats(values)) {
        return floats;
    }
    let to = scratch.take(values.len());
    let mut at = rows.start;
    while at < rows.end {
        let image = at / h;
        let end = rows.end.min((image + 1) * h);
        let part = (at - rows.start) * pitch..(end - rows.start) * pitch;
        read(level, &values[part.clone()], images.pre.image(first + image, c), &mut to[part]);
        at = end;
    }
    to
}

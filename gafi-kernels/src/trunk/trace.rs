//! Listing the convolutions that a function computes.

use std::cell::RefCell;
use std::fmt;

use super::tape::Tape;

thread_local! {
    /// The convolutions that this thread has run, while they are being listed.
    static LIST: RefCell<Option<Vec<Convolution>>> = const { RefCell::new(None) };
}

/// The shape of a zero-padded convolution of square kernels. Displays as its numbers, in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Convolution {
    /// Images in the batch.
    pub images: usize,
    /// Input channels.
    pub input_channels: usize,
    /// Output channels.
    pub output_channels: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step between two positions of the kernel.
    pub stride: usize,
    /// Rows or columns of zeros on each side.
    pub padding: usize,
    /// Height before; for [`super::Tape::upsample2x_conv2d`], after the upsampling.
    pub height: usize,
    /// Width, likewise.
    pub width: usize,
}

impl fmt::Display for Convolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, input_channels, output_channels, kernel, stride, padding, height, width } = self;
        write!(f, "{images} {input_channels} {output_channels} {kernel} {stride} {padding} {height} {width}")
    }
}

/// Calls `work` and lists the convolutions of the trunks that it runs in this thread, in order.
///
/// Not listed: the pieces of a batch with [`super::Batch::Pieces`] on a CPU, and convolutions of backward passes.
pub fn convolutions<R>(work: impl FnOnce() -> R) -> (R, Vec<Convolution>) {
    let outer = LIST.with(|list| list.replace(Some(Vec::new())));
    let result = work();
    let listed = LIST.with(|list| list.replace(outer)).unwrap_or_default();
    (result, listed)
}

/// Adds the convolutions of a tape to the list of this thread, if there is one.
pub(super) fn note(tape: &Tape) {
    LIST.with_borrow_mut(|list| {
        if let Some(list) = list {
            list.extend(tape.convolutions().map(|(g, images)| Convolution {
                images,
                input_channels: g.cin,
                output_channels: g.cout,
                kernel: g.k,
                stride: g.stride,
                padding: g.pad,
                height: g.h,
                width: g.w,
            }));
        }
    });
}

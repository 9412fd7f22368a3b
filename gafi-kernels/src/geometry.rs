//! Shapes of feature maps and convolutions, shared by trunks and the CUDA engine.

use candle_core::{Result, Tensor, bail};

/// The shape of a batch of feature maps: (n, h, w, c) in memory, channels innermost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Maps {
    pub(crate) n: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) c: usize,
}

impl Maps {
    /// Number of values in one image.
    pub(crate) fn image(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Number of values in the batch.
    pub(crate) fn count(&self) -> usize {
        self.n * self.image()
    }

    /// The same number of images, of a different shape.
    pub(crate) fn with(&self, h: usize, w: usize, c: usize) -> Maps {
        Maps { n: self.n, h, w, c }
    }
}

/// A zero-padded convolution of stride `stride`: maps (n, h, w, cin) and weights (cout, cin, k, k) to maps
/// (n, ho, wo, cout).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Geometry {
    pub(crate) cin: usize,
    pub(crate) cout: usize,
    pub(crate) k: usize,
    pub(crate) stride: usize,
    pub(crate) pad: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) ho: usize,
    pub(crate) wo: usize,
}

impl Geometry {
    /// The geometry of a convolution of `x` with these tensors. `op` names the caller in errors.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub(crate) fn new(
        op: &str,
        x: Maps,
        weights: &Tensor,
        bias: Option<&Tensor>,
        stride: usize,
        pad: usize,
    ) -> Result<Self> {
        let Maps { n, h, w, c } = x;
        let &[cout, cin, k, width] = weights.dims() else {
            bail!("{op}: expected weights (Cout, Cin, K, K), found {:?}", weights.dims())
        };
        let x = [n, c, h, w];
        if cin != c || k != width || k == 0 || cin == 0 || cout == 0 {
            bail!("{op}: weights {:?} don't fit x {x:?}", weights.dims())
        }
        if let Some(bias) = bias.filter(|bias| bias.dims() != [cout]) {
            bail!("{op}: bias {:?} doesn't fit weights {:?}", bias.dims(), weights.dims())
        }
        if stride == 0 || h == 0 || w == 0 || h + 2 * pad < k || w + 2 * pad < k {
            bail!("{op}: kernel {k}, stride {stride} and padding {pad} don't fit x {x:?}")
        }
        Ok(Self::of([cin, cout, k, stride, pad, h, w]))
    }

    /// The geometry with these numbers, in the order of the fields. The kernel must fit into the padded maps.
    pub(crate) fn of([cin, cout, k, stride, pad, h, w]: [usize; 7]) -> Self {
        let out = |size: usize| (size + 2 * pad - k) / stride + 1;
        Geometry { cin, cout, k, stride, pad, h, w, ho: out(h), wo: out(w) }
    }
}

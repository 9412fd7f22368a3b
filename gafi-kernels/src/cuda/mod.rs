//! CUDA kernels of our own: compiled for the GPU that is there, launched on candle's tensors.
//!
//! The sources are CUDA C (`kernels/`), compiled at run time by NVRTC for the device's own architecture, once per
//! device and process. Tensors and their memory are candle's; everything runs on candle's stream in the order of the
//! calls, and nothing here waits for the GPU or reads a number back. Reductions have a fixed order, so a repeated run
//! gives the same bits.
//!
//! Machines without a GPU can test all of it but cuDNN and the launch itself: there an `Engine` of the CPU runs the
//! same kernels, compiled by the host's C++ compiler (`emulate.cpp`), on CPU tensors, behind the same Rust code.

#[cfg(feature = "cuda")]
mod cudnn;
#[cfg(test)]
mod emulate;
#[cfg(feature = "cuda")]
mod gpu;
mod multi;
mod ops;
mod spectral;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

#[cfg(feature = "cuda")]
pub use gpu::{multiplies_bf16, open};
pub use multi::{AdamStep, SgdStep, adam, average, sgd};
pub(crate) use ops::{cross_entropy, tanh};
pub use spectral::{power_iteration, spectral_divide};

use crate::trunk::{Geometry, Precision};

/// Threads of a one-dimensional block; the kernels count on it.
const THREADS: u32 = 256;

/// What kernels are launched on: a GPU or, in tests, its emulation.
pub(crate) struct Engine {
    kind: Kind,
}

enum Kind {
    #[cfg(feature = "cuda")]
    Gpu(Box<gpu::Gpu>),
    #[cfg(test)]
    Emulated(&'static emulate::Library),
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// A contiguous tensor's memory, read or written.
    T(&'a Tensor),
    /// No memory.
    Null,
    U(u32),
    F(f32),
    D(f64),
    /// `Maps`: n, h, w, c.
    Maps([u32; 4]),
    /// `Pre`: scale and offset, of the channels or of images and channels, then the slope of a leaky relu.
    Pre {
        affine: Option<(&'a Tensor, &'a Tensor)>,
        slope: Option<f32>,
    },
    /// `Table`
    Table(&'a multi::Table),
}

/// `Maps` as the kernels know it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Shape([u32; 4]);

/// `Pre` as the kernels know it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Pre {
    scale: u64,
    offset: u64,
    image: u32,
    mode: u32,
    slope: f32,
    unused: u32,
}

/// An argument as it is passed.
#[derive(Clone, Copy)]
enum Value<'a> {
    Pointer(u64),
    U(u32),
    F(f32),
    D(f64),
    Maps(Shape),
    Pre(Pre),
    Table(&'a multi::Table),
}

/// Which of the three of a convolution's products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    /// y from x and w.
    Forward,
    /// x's gradient from y's and w.
    Input,
    /// w's gradient from x and y's.
    Weights,
}

/// Blocks and threads of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: [u32; 2],
}

impl Grid {
    /// A thread for each of `count`, up to a number of blocks that fills any GPU; threads take several beyond.
    pub(crate) fn each(count: usize) -> Self {
        Self::rows(count.div_ceil(THREADS as usize).min(1 << 16))
    }

    /// A block for each of `count`.
    pub(crate) fn rows(count: usize) -> Self {
        Self { blocks: [count as u32, 1, 1], threads: [THREADS, 1] }
    }

    /// Blocks of 32 columns and 8 rows of threads, for `columns` and `groups`.
    pub(crate) fn columns(columns: usize, groups: usize) -> Self {
        Self { blocks: [columns.div_ceil(32) as u32, 1, groups as u32], threads: [32, 8] }
    }
}

impl Engine {
    /// The engine of a device, made at its first use: the kernels are compiled then, which takes seconds.
    ///
    /// # Errors
    /// A device that is no GPU or has a stream for each thread, a GPU that NVRTC cannot compile for.
    pub(crate) fn of(device: &Device) -> Result<Arc<Self>> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => gpu::engine(cuda),
            #[cfg(test)]
            Device::Cpu => emulate::engine(),
            other => bail!("no CUDA kernels for {other:?}"),
        }
    }

    /// A contiguous tensor with whatever its memory holds; all of it must be written before it is read.
    ///
    /// # Errors
    /// No values or 2^31 and more, which the kernels don't count to; no memory left.
    pub(crate) fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let count = shape.iter().product::<usize>();
        if count == 0 || count >= 1 << 31 {
            bail!("a CUDA kernel cannot make {count} values of shape {shape:?}")
        }
        match &self.kind {
            #[cfg(feature = "cuda")]
            Kind::Gpu(gpu) => gpu.empty(shape, dtype),
            // NaN, so that what a kernel forgot to write shows.
            #[cfg(test)]
            Kind::Emulated(_) => Tensor::full(f32::NAN, shape, &Device::Cpu)?.to_dtype(dtype),
        }
    }

    /// Enqueues the kernel `name`. The callers pass what its declaration in `kernels/` asks for, over memory of the
    /// sizes that it reads and writes; the emulation holds each call to the declaration.
    ///
    /// # Errors
    /// A tensor that is not contiguous or elsewhere; those of the driver.
    pub(crate) fn launch(&self, name: &str, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
        let values = args.iter().map(|arg| self.value(arg)).collect::<Result<Vec<_>>>()?;
        match &self.kind {
            #[cfg(feature = "cuda")]
            Kind::Gpu(gpu) => gpu.launch(name, grid, &values),
            #[cfg(test)]
            Kind::Emulated(library) => library.launch(name, grid, args, &values),
        }
    }

    /// One product of a convolution over channels-last maps x (n, h, w, cin), weights w (cout, k, k, cin) and maps y
    /// (n, ho, wo, cout), all of the type of `precision`. Writes the one that `product` is.
    ///
    /// # Errors
    /// Those of cuDNN.
    pub(crate) fn convolve(
        &self,
        product: Product,
        geometry: &Geometry,
        precision: Precision,
        [x, w, y]: [&Tensor; 3],
    ) -> Result<()> {
        match &self.kind {
            #[cfg(feature = "cuda")]
            Kind::Gpu(gpu) => cudnn::convolve(gpu, product, geometry, precision, [x, w, y]),
            #[cfg(test)]
            Kind::Emulated(_) => {
                let _ = precision;
                emulate::convolve(product, geometry, [x, w, y])
            }
        }
    }

    /// Where a contiguous tensor's values begin.
    fn pointer(&self, tensor: &Tensor) -> Result<u64> {
        if !tensor.is_contiguous() {
            bail!("a CUDA kernel needs contiguous tensors, found strides {:?}", tensor.stride())
        }
        match &self.kind {
            #[cfg(feature = "cuda")]
            Kind::Gpu(gpu) => gpu.pointer(tensor),
            #[cfg(test)]
            Kind::Emulated(_) => emulate::pointer(tensor),
        }
    }

    fn value<'a>(&self, arg: &Arg<'a>) -> Result<Value<'a>> {
        Ok(match *arg {
            Arg::T(tensor) => Value::Pointer(self.pointer(tensor)?),
            Arg::Null => Value::Pointer(0),
            Arg::U(number) => Value::U(number),
            Arg::F(number) => Value::F(number),
            Arg::D(number) => Value::D(number),
            Arg::Maps(maps) => Value::Maps(Shape(maps)),
            Arg::Pre { affine, slope } => Value::Pre(self.pre(affine, slope)?),
            Arg::Table(table) => Value::Table(table),
        })
    }

    fn pre(&self, affine: Option<(&Tensor, &Tensor)>, slope: Option<f32>) -> Result<Pre> {
        let mode = u32::from(slope.is_some()) + 2 * u32::from(affine.is_some());
        let (scale, offset, image) = match affine {
            None => (0, 0, 0),
            Some((scale, offset)) => {
                let image = if let &[_, channels] = scale.dims() { channels as u32 } else { 0 };
                (self.pointer(scale)?, self.pointer(offset)?, image)
            }
        };
        Ok(Pre { scale, offset, image, mode, slope: slope.unwrap_or(0.0), unused: 0 })
    }
}

/// The kernels' text, its includes resolved.
fn source() -> String {
    const FILES: [(&str, &str); 5] = [
        ("common.cuh", include_str!("kernels/common.cuh")),
        ("maps.cuh", include_str!("kernels/maps.cuh")),
        ("norm.cuh", include_str!("kernels/norm.cuh")),
        ("fold.cuh", include_str!("kernels/fold.cuh")),
        ("train.cuh", include_str!("kernels/train.cuh")),
    ];
    let resolved = include_str!("kernels/all.cu").lines().map(|line| {
        let file = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        FILES.iter().find(|(name, _)| Some(*name) == file).map_or(line, |(_, text)| text)
    });
    resolved.fold(String::new(), |text, line| text + line + "\n")
}

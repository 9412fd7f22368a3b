//! CUDA: opening a GPU, fused updates, and the engine that launches this crate's kernels on Candle's tensors.
//!
//! [`open`] opens a GPU in the way that the kernels need. [`sgd`], [`adam`] and [`average`] update many tensors in one launch;
//! [`spectral_norm`] is spectral normalisation. Trunks and ops use the rest.
//!
//! The kernels are CUDA C (`kernels/`). NVRTC compiles them at run time for the device's own architecture, once for each
//! device and process. Tensors and their memory are Candle's. Everything runs on Candle's stream in the order of the calls. Only
//! [`open`] waits for the GPU. Reductions have a fixed order, so a repeated run gives the same
//! bits.
//!
//! Machines without a GPU can test everything but launches and cuDNN's results. There an engine for the CPU runs the same kernels,
//! compiled by the host's C++ compiler (`emulate.cpp`), on CPU tensors, behind the same Rust code; and cuDNN plans for GPUs by
//! their properties.

#[cfg(any(feature = "cuda", test))]
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
pub(crate) use gpu::{bind, multiplies_bf16};
#[cfg(feature = "cuda")]
pub use gpu::{has_memory_pool, open};
pub use multi::{AdamStep, SgdStep, adam, average, sgd};
pub(crate) use ops::{cross_entropy, tanh};
pub use spectral::spectral_norm;

use crate::activation::Activation;
use crate::geometry::Geometry;
use crate::precision::Precision;

/// Number of threads in a one-dimensional block; the kernels rely on it.
const THREADS: u32 = 256;

/// Launches kernels on a GPU or, in tests, on its emulation.
pub(crate) struct Engine {
    kind: Kind,
}

enum Kind {
    #[cfg(feature = "cuda")]
    Gpu(Box<gpu::Gpu>),
    #[cfg(test)]
    Emulated(&'static emulate::Library),
}

/// A kernel argument.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// The memory of a contiguous tensor, to be read or written.
    T(&'a Tensor),
    /// A null pointer.
    Null,
    U(u32),
    F(f32),
    D(f64),
    /// A `Maps`: n, h, w, c.
    Maps([u32; 4]),
    /// A `Pre`: scale and offset, (C) or (N, C), and the activation.
    Pre {
        affine: Option<(&'a Tensor, &'a Tensor)>,
        activation: Option<Activation>,
    },
    /// A `Table`.
    Table(&'a multi::Table),
}

/// `Maps` in the layout of the kernels.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Shape([u32; 4]);

/// `Pre` in the layout of the kernels.
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

/// A kernel argument as it is passed to the driver.
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

/// One of the three products of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Product {
    /// y from x and w.
    Forward,
    /// x's gradient from y's and w.
    Input,
    /// w's gradient from x and y's.
    Weights,
}

/// The blocks and threads of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: [u32; 2],
}

impl Grid {
    /// One thread for each of `count` values, and at least one block. Beyond a number of blocks that fills any GPU, threads take
    /// several values.
    pub(crate) fn each(count: usize) -> Self {
        Self::rows(count.div_ceil(THREADS as usize).clamp(1, 1 << 16))
    }

    /// One block for each of `count` rows.
    pub(crate) fn rows(count: usize) -> Self {
        Self { blocks: [count as u32, 1, 1], threads: [THREADS, 1] }
    }

    /// Blocks of 32 columns and 8 rows of threads, for `columns` columns in each of `groups` groups.
    pub(crate) fn columns(columns: usize, groups: usize) -> Self {
        Self { blocks: [columns.div_ceil(32) as u32, 1, groups as u32], threads: [32, 8] }
    }
}

impl Engine {
    /// The engine of a device. Its first use compiles the kernels, which takes seconds.
    ///
    /// # Errors
    /// A device that is not a GPU or has one stream per thread; a GPU that NVRTC cannot compile for.
    pub(crate) fn of(device: &Device) -> Result<Arc<Self>> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => gpu::engine(cuda),
            #[cfg(test)]
            Device::Cpu => emulate::engine(),
            other => bail!("expected a CUDA device, found {other:?}"),
        }
    }

    /// A contiguous tensor with unspecified values; all of them must be written before they are read.
    ///
    /// # Errors
    /// An empty shape, or 2^31 values or more, which the kernels cannot count; a lack of memory.
    pub(crate) fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let count = shape.iter().product::<usize>();
        if count == 0 || count >= 1 << 31 {
            bail!("CUDA kernels take 1 to 2^31 - 1 values, found shape {shape:?}")
        }
        match &self.kind {
            #[cfg(feature = "cuda")]
            Kind::Gpu(gpu) => gpu.empty(shape, dtype),
            // NaN reveals values that a kernel failed to write.
            #[cfg(test)]
            Kind::Emulated(_) => Tensor::full(f32::NAN, shape, &Device::Cpu)?.to_dtype(dtype),
        }
    }

    /// Enqueues the kernel `name`. Callers must pass the arguments of its declaration in `kernels/`, with tensors of the sizes
    /// that it reads and writes. The emulation checks each call against the declaration.
    ///
    /// # Errors
    /// A tensor that is not contiguous or on another device; errors of the driver.
    pub(crate) fn launch(&self, name: &str, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
        let values = args.iter().map(|arg| self.value(arg)).collect::<Result<Vec<_>>>()?;
        match &self.kind {
            #[cfg(feature = "cuda")]
            Kind::Gpu(gpu) => gpu.launch(name, grid, &values),
            #[cfg(test)]
            Kind::Emulated(library) => library.launch(name, grid, args, &values),
        }
    }

    /// Computes one product of a convolution with channels-last maps x (n, h, w, cin), weights w (cout, k, k, cin) and maps y
    /// (n, ho, wo, cout), all of the type of `precision`. `product` selects which of the three is written.
    ///
    /// # Errors
    /// Errors of cuDNN.
    pub(crate) fn convolve(
        &self,
        product: Product,
        geometry: &Geometry,
        precision: Precision,
        [x, w, y]: [&Tensor; 3],
    ) -> Result<()> {
        match &self.kind {
            #[cfg(feature = "cuda")]
            Kind::Gpu(gpu) => gpu.convolve(product, geometry, precision, [x, w, y]),
            #[cfg(test)]
            Kind::Emulated(_) => {
                let _ = precision;
                emulate::convolve(product, geometry, [x, w, y])
            }
        }
    }

    /// The address of the values of a contiguous tensor.
    fn pointer(&self, tensor: &Tensor) -> Result<u64> {
        if !tensor.is_contiguous() {
            bail!("CUDA kernels expect contiguous tensors, found strides {:?}", tensor.stride())
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
            Arg::Pre { affine, activation } => Value::Pre(self.pre(affine, activation)?),
            Arg::Table(table) => Value::Table(table),
        })
    }

    fn pre(&self, affine: Option<(&Tensor, &Tensor)>, activation: Option<Activation>) -> Result<Pre> {
        let (mode, slope) = match activation {
            None => (0, 0.0),
            Some(Activation::Leaky(slope)) => (1, slope),
            Some(Activation::Gelu) => (4, 0.0),
        };
        let mode = mode + 2 * u32::from(affine.is_some());
        let (scale, offset, image) = match affine {
            None => (0, 0, 0),
            Some((scale, offset)) => {
                let image = if let &[_, channels] = scale.dims() { channels as u32 } else { 0 };
                (self.pointer(scale)?, self.pointer(offset)?, image)
            }
        };
        Ok(Pre { scale, offset, image, mode, slope, unused: 0 })
    }
}

/// What cuDNN knows of a GPU, as its own JSON. With it, cuDNN plans for this GPU on machines without one.
///
/// # Errors
/// A device that is not a GPU; a cuDNN before 9.8.
#[cfg(feature = "cuda")]
pub fn properties(device: &Device) -> Result<String> {
    match &Engine::of(device)?.kind {
        Kind::Gpu(gpu) => gpu.properties(),
        #[cfg(test)]
        Kind::Emulated(_) => bail!("expected a GPU, found its emulation"),
    }
}

/// The source of all kernels, with its includes resolved.
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

//! Convolutions by cuDNN, over channels-last descriptors, accumulating in f32.
//!
//! Descriptors, algorithm and workspace size are looked up once per shape, product and precision. The algorithm is
//! the first of cuDNN's own ranking (`Get..._v7`: a heuristic, so the choice repeats) that is deterministic, and where
//! it ranks none, the one that is deterministic by cuDNN's manual and has channels last for all of our types. Math
//! types: `FMA` for [`Precision::F32`], so no TF32; `DEFAULT` for [`Precision::Tf32`], which on Ampere and later is
//! TF32; `TENSOR_OP` for bf16. (`TENSOR_OP_ALLOW_CONVERSION` would let f32 be rounded to f16, whose range is too
//! small.)

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::{Arc, PoisonError};

use candle_core::cuda_backend::cudarc::cudnn::{result as cudnn, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use candle_core::{Error, Result, Tensor, bail};

use super::Product;
use super::gpu::Gpu;
use crate::trunk::{Geometry, Precision};

/// Bytes of workspace that an algorithm may ask for.
const WORKSPACE: usize = 1 << 30;

/// More algorithms than cuDNN has for any product.
const RANKED: usize = 16;

/// cuDNN on one stream. One for all threads, behind a lock: theirs would each have plans to find and a workspace to
/// keep, and would make the whole GPU wait when it goes.
pub(super) struct Handle {
    raw: sys::cudnnHandle_t,
    stream: Arc<CudaStream>,
    plans: HashMap<Key, Plan>,
    /// Grows to what the hungriest plan asks for. One for all: the stream runs them one after the other.
    workspace: Option<CudaSlice<u8>>,
}

// SAFETY: any thread may use a handle and descriptors, one at a time (cuDNN's manual, "Thread Safety"), and whoever has
// this has it alone.
unsafe impl Send for Handle {}

/// Geometry, batch, product and precision.
type Key = [usize; 12];

/// All that is known about one convolution before its data.
struct Plan {
    x: TensorDescriptor,
    w: FilterDescriptor,
    y: TensorDescriptor,
    convolution: ConvolutionDescriptor,
    algorithm: Algorithm,
    workspace: usize,
}

#[derive(Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Input(sys::cudnnConvolutionBwdDataAlgo_t),
    Weights(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// A descriptor of cuDNN, destroyed when dropped.
macro_rules! descriptor {
    ($name:ident, $raw:ident, $create:ident, $destroy:ident) => {
        struct $name(sys::$raw);

        impl $name {
            fn new() -> Result<Self> {
                Ok(Self(cudnn::$create().map_err(Error::wrap)?))
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: created in `new`, and destroyed here alone. What it could fail with, nobody can mend.
                let _ = unsafe { cudnn::$destroy(self.0) };
            }
        }
    };
}

descriptor!(TensorDescriptor, cudnnTensorDescriptor_t, create_tensor_descriptor, destroy_tensor_descriptor);
descriptor!(FilterDescriptor, cudnnFilterDescriptor_t, create_filter_descriptor, destroy_filter_descriptor);
descriptor!(
    ConvolutionDescriptor,
    cudnnConvolutionDescriptor_t,
    create_convolution_descriptor,
    destroy_convolution_descriptor
);

/// See [`super::Engine::convolve`].
pub(super) fn convolve(
    gpu: &Gpu,
    product: Product,
    geometry: &Geometry,
    precision: Precision,
    [x, w, y]: [&Tensor; 3],
) -> Result<()> {
    let n = x.dim(0)?;
    let [x, w, y] = [gpu.pointer(x)?, gpu.pointer(w)?, gpu.pointer(y)?];
    // Until the work is queued: another thread could put a larger workspace in the place of this one's.
    let mut kept = gpu.cudnn.lock().unwrap_or_else(PoisonError::into_inner);
    let handle = match &mut *kept {
        Some(handle) => handle,
        none => none.insert(Handle::new(gpu)?),
    };
    handle
        .run(product, geometry, n, precision, [x, w, y])
        .map_err(|error| error.context(format!("cuDNN, {product:?} of {n} images, {geometry:?}, {precision:?}")))
}

impl Handle {
    fn new(gpu: &Gpu) -> Result<Self> {
        gpu.stream.context().bind_to_thread().map_err(Error::wrap)?;
        let raw = cudnn::create_handle().map_err(Error::wrap)?;
        let handle = Self { raw, stream: Arc::clone(&gpu.stream), plans: HashMap::new(), workspace: None };
        // SAFETY: both live: the handle keeps the stream.
        unsafe { cudnn::set_stream(raw, gpu.stream.cu_stream().cast()) }.map_err(Error::wrap)?;
        Ok(handle)
    }

    fn run(&mut self, product: Product, g: &Geometry, n: usize, precision: Precision, data: [u64; 3]) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(Error::wrap)?;
        let codes = [product as usize, precision as usize];
        let key = [g.cin, g.cout, g.k, g.stride, g.pad, g.h, g.w, g.ho, g.wo, n, codes[0], codes[1]];
        let plan = match self.plans.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Plan::new(self.raw, product, g, n, precision)?),
        };
        let workspace = at_least(&mut self.workspace, plan.workspace, &self.stream)?;
        let [x, w, y] = data.map(|pointer| pointer as *mut std::ffi::c_void);
        let (one, zero) = (1.0f32, 0.0f32);
        let (one, zero) = ((&raw const one).cast(), (&raw const zero).cast());
        let Plan { x: x_is, w: w_is, y: y_is, convolution, algorithm, workspace: size } = plan;
        let (x_is, w_is, y_is, convolution, handle) = (x_is.0, w_is.0, y_is.0, convolution.0, self.raw);
        // SAFETY: handle and descriptors live; the caller's memory is of the shapes and types that the descriptors
        // were made from, contiguous and channels-last; the workspace has the size that cuDNN asked for.
        let done = unsafe {
            match *algorithm {
                Algorithm::Forward(algorithm) => cudnn::convolution_forward(
                    handle,
                    one,
                    x_is,
                    x,
                    w_is,
                    w,
                    convolution,
                    algorithm,
                    workspace,
                    *size,
                    zero,
                    y_is,
                    y,
                ),
                Algorithm::Input(algorithm) => cudnn::convolution_backward_data(
                    handle,
                    one,
                    w_is,
                    w,
                    y_is,
                    y,
                    convolution,
                    algorithm,
                    workspace,
                    *size,
                    zero,
                    x_is,
                    x,
                ),
                Algorithm::Weights(algorithm) => cudnn::convolution_backward_filter(
                    handle,
                    one,
                    x_is,
                    x,
                    y_is,
                    y,
                    convolution,
                    algorithm,
                    workspace,
                    *size,
                    zero,
                    w_is,
                    w,
                ),
            }
        };
        done.map_err(Error::wrap)
    }
}

/// Where at least `size` bytes are, or nowhere when none are asked for. What an earlier call still uses is freed behind
/// it.
fn at_least(kept: &mut Option<CudaSlice<u8>>, size: usize, stream: &Arc<CudaStream>) -> Result<*mut std::ffi::c_void> {
    if size == 0 {
        return Ok(std::ptr::null_mut());
    }
    if kept.as_ref().is_none_or(|kept| kept.len() < size) {
        *kept = None;
        // SAFETY: cuDNN writes before it reads.
        *kept = Some(unsafe { stream.alloc::<u8>(size) }.map_err(Error::wrap)?);
    }
    let Some(kept) = kept else { return Ok(std::ptr::null_mut()) };
    let (begin, _events) = kept.device_ptr(stream);
    Ok(begin as *mut std::ffi::c_void)
}

impl Plan {
    fn new(handle: sys::cudnnHandle_t, product: Product, g: &Geometry, n: usize, precision: Precision) -> Result<Self> {
        let size = |size: usize| c_int::try_from(size).map_err(Error::wrap);
        let float = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        let kind = if precision == Precision::Bf16 { sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16 } else { float };
        let last = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let [cin, cout, k] = [size(g.cin)?, size(g.cout)?, size(g.k)?];
        let [stride, pad, n] = [size(g.stride)?, size(g.pad)?, size(n)?];
        let (x, w, y) = (TensorDescriptor::new()?, FilterDescriptor::new()?, TensorDescriptor::new()?);
        let convolution = ConvolutionDescriptor::new()?;
        let correlation = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        // SAFETY: the four descriptors were created just now.
        unsafe {
            cudnn::set_tensor4d_descriptor(x.0, last, kind, [n, cin, size(g.h)?, size(g.w)?]).map_err(Error::wrap)?;
            cudnn::set_tensor4d_descriptor(y.0, last, kind, [n, cout, size(g.ho)?, size(g.wo)?])
                .map_err(Error::wrap)?;
            cudnn::set_filter4d_descriptor(w.0, kind, last, [cout, cin, k, k]).map_err(Error::wrap)?;
            let c = convolution.0;
            cudnn::set_convolution2d_descriptor(c, pad, pad, stride, stride, 1, 1, correlation, float)
                .map_err(Error::wrap)?;
            cudnn::set_convolution_math_type(c, asked_for(precision)).map_err(Error::wrap)?;
        }
        let (algorithm, workspace) = Self::choose(handle, product, precision, &x, &w, &y, &convolution)?;
        Ok(Self { x, w, y, convolution, algorithm, workspace })
    }

    /// The best-ranked algorithm that is deterministic and keeps to the precision, and its workspace.
    fn choose(
        handle: sys::cudnnHandle_t,
        product: Product,
        precision: Precision,
        x: &TensorDescriptor,
        w: &FilterDescriptor,
        y: &TensorDescriptor,
        convolution: &ConvolutionDescriptor,
    ) -> Result<(Algorithm, usize)> {
        let (x, w, y, c) = (x.0, w.0, y.0, convolution.0);
        /// The ranking by `$get` over descriptors, the choice among it and `$last`, and its workspace by `$size`.
        macro_rules! best {
            ($algorithm:path, $last:expr, $perf:ident, $get:ident, $size:ident, $a:expr, $b:expr, $d:expr) => {{
                let mut ranking = [const { MaybeUninit::<sys::$perf>::uninit() }; RANKED];
                let mut count: c_int = 0;
                // SAFETY: handle and descriptors live, and there is room for as many results as are asked for.
                unsafe {
                    let results = ranking.as_mut_ptr().cast();
                    cudnn::$get(handle, $a, $b, c, $d, RANKED as c_int, &raw mut count, results)
                        .map_err(Error::wrap)?;
                }
                let known = ranking.iter().take(usize::try_from(count).unwrap_or(0));
                // SAFETY: cuDNN has written the first `count`.
                let known = known.map(|result| unsafe { result.assume_init_ref() });
                let fits = |found: &&sys::$perf| usable(found.status, found.determinism, found.mathType, precision);
                let ranked = known.filter(fits).map(|found| (found.algo, math_type(found.mathType, precision)));
                let best = ranked.chain([($last, asked_for(precision))]).find_map(|(algorithm, math)| {
                    // SAFETY: as above.
                    let size = unsafe {
                        cudnn::set_convolution_math_type(c, math)
                            .and_then(|()| cudnn::$size(handle, $a, $b, c, $d, algorithm))
                    };
                    size.ok().filter(|&size| size <= WORKSPACE).map(|size| ($algorithm(algorithm), size))
                });
                let Some(best) = best else {
                    bail!("no deterministic algorithm within {WORKSPACE} bytes of workspace")
                };
                best
            }};
        }
        Ok(match product {
            Product::Forward => best!(
                Algorithm::Forward,
                sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
                cudnnConvolutionFwdAlgoPerf_t,
                get_convolution_forward_algorithm,
                get_convolution_forward_workspace_size,
                x,
                w,
                y
            ),
            Product::Input => best!(
                Algorithm::Input,
                sys::cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
                cudnnConvolutionBwdDataAlgoPerf_t,
                get_convolution_backward_data_algorithm,
                get_convolution_backward_data_workspace_size,
                w,
                y,
                x
            ),
            Product::Weights => best!(
                Algorithm::Weights,
                sys::cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
                cudnnConvolutionBwdFilterAlgoPerf_t,
                get_convolution_backward_filter_algorithm,
                get_convolution_backward_filter_workspace_size,
                x,
                y,
                w
            ),
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // cuDNN takes its memory from, and gives it back to, the context that is current. Errors: see below.
        let _ = self.stream.context().bind_to_thread();
        // SAFETY: created in `Handle::new`, and destroyed here alone. What it could fail with, nobody can mend.
        let _ = unsafe { cudnn::destroy_handle(self.raw) };
    }
}

/// The math type that says what a precision promises.
fn asked_for(precision: Precision) -> sys::cudnnMathType_t {
    match precision {
        Precision::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        Precision::Tf32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        Precision::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    }
}

/// Whether an algorithm of the ranking may be taken.
fn usable(
    status: sys::cudnnStatus_t,
    determinism: sys::cudnnDeterminism_t,
    math: sys::cudnnMathType_t,
    precision: Precision,
) -> bool {
    use sys::cudnnMathType_t::{CUDNN_TENSOR_OP_MATH, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION};
    let keeps = match precision {
        Precision::F32 => ![CUDNN_TENSOR_OP_MATH, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION].contains(&math),
        Precision::Tf32 | Precision::Bf16 => math != CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
    };
    status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
        && determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
        && keeps
}

/// The math type to run a ranked algorithm with: the ranking's own, but never more than f32 products where f32 was
/// asked for (the ranking is known to say `DEFAULT` for convolutions that were described with `FMA`).
fn math_type(ranked: sys::cudnnMathType_t, precision: Precision) -> sys::cudnnMathType_t {
    if precision == Precision::F32 { asked_for(precision) } else { ranked }
}

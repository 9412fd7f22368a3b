//! Convolutions by cuDNN, with channels-last descriptors, accumulating in f32.
//!
//! Descriptors, algorithm and workspace size are determined once for each shape, product and precision. The algorithm is
//! the first deterministic one in cuDNN's own ranking (`Get..._v7`, a heuristic, so the choice repeats). If the ranking has
//! none, it is the one that cuDNN's manual describes as deterministic and that supports channels last for all our types.
//!
//! Math types: `FMA` for [`Precision::F32`], which rules out TF32; `DEFAULT` for [`Precision::Tf32`], which means TF32 on
//! Ampere and later; `TENSOR_OP` for bf16. (`TENSOR_OP_ALLOW_CONVERSION` would allow rounding f32 to f16, whose range is too
//! small.)

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cudnn::{result as cudnn, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use candle_core::{Error, Result, bail};

use super::Product;
use crate::geometry::Geometry;
use crate::precision::Precision;

/// Maximum size of an algorithm's workspace, in bytes.
const WORKSPACE: usize = 1 << 30;

/// Upper bound of the number of algorithms that cuDNN has for a product.
const RANKED: usize = 16;

/// cuDNN on one stream. All threads share one handle behind a lock: a handle per thread would need its own plans and its own
/// workspace, and would synchronise the whole GPU when dropped.
pub(super) struct Handle {
    raw: sys::cudnnHandle_t,
    stream: Arc<CudaStream>,
    plans: HashMap<Key, Plan>,
    /// Grows to the largest workspace of any plan. All plans share it, as the stream runs them one after the other.
    workspace: Option<CudaSlice<u8>>,
}

// SAFETY: any thread may use a handle and descriptors, one thread at a time (cuDNN's manual, "Thread Safety"), and the owner
// of this value has exclusive access to them.
unsafe impl Send for Handle {}

/// Geometry, batch size, product and precision.
type Key = [usize; 12];

/// Everything about a convolution except its data.
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

/// A cuDNN descriptor that is destroyed when dropped.
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
                // SAFETY: created in `new` and destroyed only here. An error here could not be handled.
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

impl Handle {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        stream.context().bind_to_thread().map_err(Error::wrap)?;
        let raw = cudnn::create_handle().map_err(Error::wrap)?;
        let handle = Self { raw, stream: Arc::clone(stream), plans: HashMap::new(), workspace: None };
        // SAFETY: both are alive, and the handle keeps the stream alive.
        unsafe { cudnn::set_stream(raw, stream.cu_stream().cast()) }.map_err(Error::wrap)?;
        Ok(handle)
    }

    /// Computes a product of a convolution of `n` images. `data` are the addresses of x, w and y.
    pub(super) fn run(
        &mut self,
        product: Product,
        g: &Geometry,
        n: usize,
        precision: Precision,
        data: [u64; 3],
    ) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(Error::wrap)?;
        let codes = [product as usize, precision as usize];
        let key = [g.cin, g.cout, g.k, g.stride, g.pad, g.h, g.w, g.ho, g.wo, n, codes[0], codes[1]];
        let plan = match self.plans.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Plan::new(self.raw, product, g, n, precision)?),
        };
        let workspace = at_least(&mut self.workspace, plan.workspace, &self.stream)?;
        let [x, w, y] = data.map(|pointer| pointer as *mut std::ffi::c_void);
        let one = 1.0f32;
        let zero = 0.0f32;
        let one = (&raw const one).cast();
        let zero = (&raw const zero).cast();
        let Plan { x: x_shape, w: w_shape, y: y_shape, convolution, algorithm, workspace: size } = plan;
        let handle = self.raw;
        // SAFETY: handle and descriptors are alive; the caller's memory has the shapes and types of the descriptors, contiguous
        // and channels-last; the workspace has the size that cuDNN requested.
        let done = unsafe {
            match *algorithm {
                Algorithm::Forward(algorithm) => cudnn::convolution_forward(
                    handle,
                    one,
                    x_shape.0,
                    x,
                    w_shape.0,
                    w,
                    convolution.0,
                    algorithm,
                    workspace,
                    *size,
                    zero,
                    y_shape.0,
                    y,
                ),
                Algorithm::Input(algorithm) => cudnn::convolution_backward_data(
                    handle,
                    one,
                    w_shape.0,
                    w,
                    y_shape.0,
                    y,
                    convolution.0,
                    algorithm,
                    workspace,
                    *size,
                    zero,
                    x_shape.0,
                    x,
                ),
                Algorithm::Weights(algorithm) => cudnn::convolution_backward_filter(
                    handle,
                    one,
                    x_shape.0,
                    x,
                    y_shape.0,
                    y,
                    convolution.0,
                    algorithm,
                    workspace,
                    *size,
                    zero,
                    w_shape.0,
                    w,
                ),
            }
        };
        done.map_err(Error::wrap)
    }
}

/// The address of at least `size` bytes, or null if `size` is 0. The old workspace is freed in the order of the stream, after
/// the calls that use it.
fn at_least(kept: &mut Option<CudaSlice<u8>>, size: usize, stream: &Arc<CudaStream>) -> Result<*mut std::ffi::c_void> {
    if size == 0 {
        return Ok(std::ptr::null_mut());
    }
    if kept.as_ref().is_none_or(|kept| kept.len() < size) {
        *kept = None;
        // SAFETY: cuDNN writes a workspace before it reads it.
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
        let x = TensorDescriptor::new()?;
        let w = FilterDescriptor::new()?;
        let y = TensorDescriptor::new()?;
        let convolution = ConvolutionDescriptor::new()?;
        let correlation = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        // SAFETY: the four descriptors have just been created.
        unsafe {
            cudnn::set_tensor4d_descriptor(x.0, last, kind, [n, cin, size(g.h)?, size(g.w)?]).map_err(Error::wrap)?;
            cudnn::set_tensor4d_descriptor(y.0, last, kind, [n, cout, size(g.ho)?, size(g.wo)?])
                .map_err(Error::wrap)?;
            cudnn::set_filter4d_descriptor(w.0, kind, last, [cout, cin, k, k]).map_err(Error::wrap)?;
            let c = convolution.0;
            cudnn::set_convolution2d_descriptor(c, pad, pad, stride, stride, 1, 1, correlation, float)
                .map_err(Error::wrap)?;
            cudnn::set_convolution_math_type(c, math_type_for(precision)).map_err(Error::wrap)?;
        }
        let (algorithm, workspace) = Self::choose(handle, product, precision, &x, &w, &y, &convolution)?;
        Ok(Self { x, w, y, convolution, algorithm, workspace })
    }

    /// The best-ranked algorithm that is deterministic and respects the precision, and the size of its workspace.
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
        /// Chooses from the ranking by `$get`, with `$fallback` at the end; `$size` returns the workspace size.
        macro_rules! best {
            ($algorithm:path, $fallback:expr, $perf:ident, $get:ident, $size:ident, $a:expr, $b:expr, $d:expr) => {{
                let mut ranking = [const { MaybeUninit::<sys::$perf>::uninit() }; RANKED];
                let mut count: c_int = 0;
                // SAFETY: handle and descriptors are alive, and `ranking` has room for the requested number of results.
                unsafe {
                    let results = ranking.as_mut_ptr().cast();
                    cudnn::$get(handle, $a, $b, c, $d, RANKED as c_int, &raw mut count, results)
                        .map_err(Error::wrap)?;
                }
                let written = ranking.iter().take(usize::try_from(count).unwrap_or(0));
                // SAFETY: cuDNN has written the first `count` results.
                let written = written.map(|result| unsafe { result.assume_init_ref() });
                let fits = |found: &&sys::$perf| usable(found.status, found.determinism, found.mathType, precision);
                let ranked = written.filter(fits).map(|found| (found.algo, math_type(found.mathType, precision)));
                let best = ranked.chain([($fallback, math_type_for(precision))]).find_map(|(algorithm, math)| {
                    // SAFETY: handle and descriptors are alive.
                    let size = unsafe {
                        cudnn::set_convolution_math_type(c, math)
                            .and_then(|()| cudnn::$size(handle, $a, $b, c, $d, algorithm))
                    };
                    size.ok().filter(|&size| size <= WORKSPACE).map(|size| ($algorithm(algorithm), size))
                });
                let Some(best) = best else {
                    bail!("no deterministic algorithm with a workspace of at most {WORKSPACE} bytes")
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
        // cuDNN returns its memory to the current context. Errors here could not be handled.
        let _ = self.stream.context().bind_to_thread();
        // SAFETY: created in `Handle::new` and destroyed only here.
        let _ = unsafe { cudnn::destroy_handle(self.raw) };
    }
}

/// The math type of a precision.
fn math_type_for(precision: Precision) -> sys::cudnnMathType_t {
    match precision {
        Precision::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        Precision::Tf32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        Precision::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    }
}

/// Whether a ranked algorithm is acceptable.
fn usable(
    status: sys::cudnnStatus_t,
    determinism: sys::cudnnDeterminism_t,
    math: sys::cudnnMathType_t,
    precision: Precision,
) -> bool {
    use sys::cudnnMathType_t::{CUDNN_TENSOR_OP_MATH, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION};
    let precise = match precision {
        Precision::F32 => ![CUDNN_TENSOR_OP_MATH, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION].contains(&math),
        Precision::Tf32 | Precision::Bf16 => math != CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
    };
    status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
        && determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
        && precise
}

/// The math type to run a ranked algorithm with: that of the ranking, except that f32 stays f32 (the ranking reports `DEFAULT`
/// for convolutions described with `FMA`).
fn math_type(ranked: sys::cudnnMathType_t, precision: Precision) -> sys::cudnnMathType_t {
    if precision == Precision::F32 { math_type_for(precision) } else { ranked }
}

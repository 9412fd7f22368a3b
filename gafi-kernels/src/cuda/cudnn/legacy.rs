//! Convolutions by cuDNN's legacy calls: the fallback for a cuDNN whose backend API is missing or finds no plan.
//!
//! The algorithm is the first deterministic one in cuDNN's own ranking (`Get..._v7`, a heuristic, so the choice repeats). If the
//! ranking has none, it is the one that cuDNN's manual describes as deterministic and that supports channels last for all our types.
//!
//! Math types: `FMA` for [`Precision::F32`], which rules out TF32; `DEFAULT` for [`Precision::Tf32`], which means TF32 on
//! Ampere and later; `TENSOR_OP` for bf16. (`TENSOR_OP_ALLOW_CONVERSION` would allow rounding f32 to f16, whose range is too
//! small.)

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

use candle_core::cuda_backend::cudarc::cudnn::{result as cudnn, sys};
use candle_core::{Error, Result, bail};

use super::graph::WORKSPACE;
use crate::cuda::Product;
use crate::geometry::Geometry;
use crate::precision::Precision;

/// Upper bound of the number of algorithms that cuDNN has for a product.
const RANKED: usize = 16;

/// Everything about a convolution except its data.
pub(super) struct Plan {
    x: TensorDescriptor,
    w: FilterDescriptor,
    y: TensorDescriptor,
    convolution: ConvolutionDescriptor,
    algorithm: Algorithm,
    /// Size of its workspace, in bytes.
    pub(super) workspace: usize,
}

#[derive(Debug, Clone, Copy)]
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

impl Plan {
    pub(super) fn new(
        handle: sys::cudnnHandle_t,
        product: Product,
        g: &Geometry,
        n: usize,
        precision: Precision,
    ) -> Result<Self> {
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

    /// Enqueues the product in the stream of `handle`.
    ///
    /// # Safety
    /// The plan was made for `handle`. `data` are addresses of x, w and y, of the shapes and the type of the plan, contiguous
    /// with channels last; `workspace` is that of [`Plan::workspace`] bytes, and no other work in flight in another stream uses it.
    pub(super) unsafe fn run(&self, handle: sys::cudnnHandle_t, data: [u64; 3], workspace: u64) -> Result<()> {
        let [x, w, y] = data.map(|address| address as *mut c_void);
        let workspace = workspace as *mut c_void;
        let factors = [1.0f32, 0.0];
        let [one, zero] = [(&raw const factors[0]).cast(), (&raw const factors[1]).cast()];
        let xs = self.x.0;
        let ws = self.w.0;
        let ys = self.y.0;
        let c = self.convolution.0;
        let size = self.workspace;
        // SAFETY: by this function's contract; the descriptors are alive.
        let done = unsafe {
            match self.algorithm {
                Algorithm::Forward(algorithm) => {
                    cudnn::convolution_forward(handle, one, xs, x, ws, w, c, algorithm, workspace, size, zero, ys, y)
                }
                Algorithm::Input(algorithm) => cudnn::convolution_backward_data(
                    handle, one, ws, w, ys, y, c, algorithm, workspace, size, zero, xs, x,
                ),
                Algorithm::Weights(algorithm) => cudnn::convolution_backward_filter(
                    handle, one, xs, x, ys, y, c, algorithm, workspace, size, zero, ws, w,
                ),
            }
        };
        done.map_err(Error::wrap)
    }

    /// The algorithm's name.
    pub(super) fn algorithm(&self) -> String {
        format!("{:?}", self.algorithm)
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

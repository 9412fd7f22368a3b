//! Convolutions by cuDNN's backend API: a graph of one operation, the engines that cuDNN's heuristics rank for it, and a plan.
//!
//! The tests find a deterministic plan for every convolution of the presets without a GPU. Whether the legacy calls find such an
//! algorithm is only known on a GPU.
//!
//! A plan needs either a GPU or only its properties ([`Target`]): the tests plan for every kind of GPU on a machine without one.

use std::ffi::{c_int, c_void};

use candle_core::{Result, bail};

use super::api::{Address, Api, ConvolutionMode, DataType, Descriptor, HandlePointer, Heuristic, Note};
use crate::cuda::Product;
use crate::geometry::Geometry;
use crate::precision::Precision;

/// Maximum size of a plan's workspace, in bytes.
pub(super) const WORKSPACE: usize = 1 << 30;

/// Alignment of all tensors, in bytes. Candle's allocations have more.
const ALIGNMENT: u64 = 16;

/// Maximum number of engines that are considered in each ranking.
const RANKED: usize = 128;

/// Numbers of descriptor types.
mod kind {
    use std::ffi::c_int;

    pub(super) const CONVOLUTION: c_int = 1;
    pub(super) const ENGINE: c_int = 2;
    pub(super) const ENGINE_CONFIGURATION: c_int = 3;
    pub(super) const ENGINE_HEURISTIC: c_int = 4;
    pub(super) const PLAN: c_int = 5;
    pub(super) const FORWARD: c_int = 10;
    pub(super) const BACKWARD_FILTER: c_int = 11;
    pub(super) const BACKWARD_DATA: c_int = 12;
    pub(super) const GRAPH: c_int = 15;
    pub(super) const PACK: c_int = 16;
    pub(super) const TENSOR: c_int = 17;
    pub(super) const DEVICE_PROPERTIES: c_int = 38;
    /// The number of the type of attribute values that are descriptors.
    pub(super) const REFERENCE: c_int = 15;
}

/// Numbers of attributes.
pub(super) mod name {
    use std::ffi::c_int;

    pub(super) const CONVOLUTION_TYPE: c_int = 100;
    pub(super) const CONVOLUTION_MODE: c_int = 101;
    pub(super) const CONVOLUTION_DILATIONS: c_int = 102;
    pub(super) const CONVOLUTION_STRIDES: c_int = 103;
    pub(super) const CONVOLUTION_POST_PADDINGS: c_int = 104;
    pub(super) const CONVOLUTION_PRE_PADDINGS: c_int = 105;
    pub(super) const CONVOLUTION_DIMENSIONS: c_int = 106;
    pub(super) const HEURISTIC_MODE: c_int = 200;
    pub(super) const HEURISTIC_GRAPH: c_int = 201;
    pub(super) const HEURISTIC_RESULTS: c_int = 202;
    pub(super) const HEURISTIC_DEVICE: c_int = 204;
    pub(super) const CONFIGURATION_ENGINE: c_int = 300;
    pub(super) const PLAN_HANDLE: c_int = 400;
    pub(super) const PLAN_CONFIGURATION: c_int = 401;
    pub(super) const PLAN_WORKSPACE: c_int = 402;
    pub(super) const PLAN_DEVICE: c_int = 407;
    /// Alpha of a forward convolution. Beta, the convolution, w, x and y follow, as for the other products.
    pub(super) const FORWARD: c_int = 700;
    pub(super) const BACKWARD_DATA: c_int = 706;
    pub(super) const BACKWARD_FILTER: c_int = 712;
    pub(super) const GRAPH_HANDLE: c_int = 800;
    pub(super) const GRAPH_OPERATIONS: c_int = 801;
    pub(super) const TENSOR_ALIGNMENT: c_int = 900;
    pub(super) const TENSOR_TYPE: c_int = 901;
    pub(in crate::cuda::cudnn) const TENSOR_SIZES: c_int = 902;
    pub(in crate::cuda::cudnn) const TENSOR_STRIDES: c_int = 903;
    pub(super) const TENSOR_ID: c_int = 906;
    pub(super) const PACK_IDS: c_int = 1000;
    pub(super) const PACK_ADDRESSES: c_int = 1001;
    pub(super) const PACK_WORKSPACE: c_int = 1003;
    pub(super) const ENGINE_NUMBER: c_int = 1301;
    pub(super) const ENGINE_NOTES: c_int = 1303;
    pub(super) const DEVICE_HANDLE: c_int = 2701;
    pub(super) const DEVICE_JSON: c_int = 2702;
}

/// `CUDNN_DATA_FLOAT`
const FLOAT: DataType = DataType(0);
/// `CUDNN_DATA_BFLOAT16`
const BFLOAT16: DataType = DataType(9);
/// `CUDNN_CROSS_CORRELATION`
const CROSS_CORRELATION: ConvolutionMode = ConvolutionMode(1);
/// Heuristic mode A ranks by expected speed; `FALLBACK` lists engines that work without promising speed.
const RANKINGS: [Heuristic; 2] = [Heuristic(3), Heuristic(2)];

/// What cuDNN says of an engine's numbers.
impl Note {
    pub(super) const TENSOR_CORE: Self = Self(0);
    pub(super) const DOWN_CONVERTS: Self = Self(1);
    pub(super) const REDUCED_SUMS: Self = Self(2);
    pub(super) const NONDETERMINISTIC: Self = Self(4);
}

/// Whether an engine with these notes repeats its bits and computes in `precision`. Tensor cores round f32 to TF32.
pub(super) fn acceptable(notes: &[Note], precision: Precision) -> bool {
    let refused: &[Note] = match precision {
        Precision::F32 => &[Note::NONDETERMINISTIC, Note::REDUCED_SUMS, Note::DOWN_CONVERTS, Note::TENSOR_CORE],
        Precision::Tf32 => &[Note::NONDETERMINISTIC, Note::REDUCED_SUMS, Note::DOWN_CONVERTS],
        // Nothing to convert down to.
        Precision::Bf16 => &[Note::NONDETERMINISTIC, Note::REDUCED_SUMS],
    };
    !notes.iter().any(|note| refused.contains(note))
}

/// What a plan is for.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// The GPU of a cuDNN handle.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "needs a GPU"))]
    Handle(HandlePointer),
    /// A GPU that need not be here, by its properties.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests plan without a GPU"))]
    Properties(&'a Descriptor),
}

/// The properties of a GPU, which [`Target::Properties`] takes, from the text that [`describe`] returns (since cuDNN 9.8).
#[cfg_attr(not(test), expect(dead_code, reason = "only tests plan without a GPU"))]
pub(super) fn properties(api: &'static Api, json: &str) -> Result<Descriptor> {
    let descriptor = Descriptor::new(api, kind::DEVICE_PROPERTIES)?;
    descriptor.set(name::DEVICE_JSON, json.as_bytes())?;
    descriptor.finalize()
}

/// The properties of a handle's GPU as cuDNN's JSON.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "needs a GPU"))]
pub(super) fn describe(api: &'static Api, handle: HandlePointer) -> Result<String> {
    let descriptor = Descriptor::new(api, kind::DEVICE_PROPERTIES)?;
    descriptor.set(name::DEVICE_HANDLE, &[handle])?;
    let json: Vec<u8> = descriptor.finalize()?.get(name::DEVICE_JSON)?;
    Ok(String::from_utf8_lossy(&json).trim_end_matches('\0').to_string())
}

/// Maps or weights as cuDNN sees them: sizes (n, c, h, w), channels last in memory.
pub(super) fn tensor(api: &'static Api, id: i64, sizes: [usize; 4], dtype: DataType) -> Result<Descriptor> {
    let [_, c, h, w] = sizes;
    let strides = [h * w * c, 1, w * c, c];
    let tensor = Descriptor::new(api, kind::TENSOR)?;
    tensor.set(name::TENSOR_ID, &[id])?;
    tensor.set(name::TENSOR_TYPE, &[dtype])?;
    tensor.set(name::TENSOR_SIZES, &sizes.map(|size| size as i64))?;
    tensor.set(name::TENSOR_STRIDES, &strides.map(|stride| stride as i64))?;
    tensor.set(name::TENSOR_ALIGNMENT, &[ALIGNMENT as i64])?;
    tensor.finalize()
}

/// The tensors x, w and y of a convolution of `n` images.
pub(super) fn tensors(api: &'static Api, g: &Geometry, n: usize, precision: Precision) -> Result<[Descriptor; 3]> {
    let dtype = if precision == Precision::Bf16 { BFLOAT16 } else { FLOAT };
    Ok([
        tensor(api, ID[0], [n, g.cin, g.h, g.w], dtype)?,
        tensor(api, ID[1], [g.cout, g.cin, g.k, g.k], dtype)?,
        tensor(api, ID[2], [n, g.cout, g.ho, g.wo], dtype)?,
    ])
}

/// The ids of x, w and y.
const ID: [i64; 3] = [1, 2, 3];

/// A product of a convolution as a graph.
fn graph(
    api: &'static Api,
    target: Target<'_>,
    product: Product,
    g: &Geometry,
    n: usize,
    precision: Precision,
) -> Result<Descriptor> {
    let convolution = Descriptor::new(api, kind::CONVOLUTION)?;
    convolution.set(name::CONVOLUTION_TYPE, &[FLOAT])?;
    convolution.set(name::CONVOLUTION_MODE, &[CROSS_CORRELATION])?;
    convolution.set(name::CONVOLUTION_DILATIONS, &[1i64, 1])?;
    convolution.set(name::CONVOLUTION_STRIDES, &[g.stride as i64; 2])?;
    convolution.set(name::CONVOLUTION_POST_PADDINGS, &[g.pad as i64; 2])?;
    convolution.set(name::CONVOLUTION_PRE_PADDINGS, &[g.pad as i64; 2])?;
    convolution.set(name::CONVOLUTION_DIMENSIONS, &[2i64])?;
    let convolution = convolution.finalize()?;
    let [x, w, y] = tensors(api, g, n, precision)?;
    let (operation, first) = match product {
        Product::Forward => (kind::FORWARD, name::FORWARD),
        Product::Input => (kind::BACKWARD_DATA, name::BACKWARD_DATA),
        Product::Weights => (kind::BACKWARD_FILTER, name::BACKWARD_FILTER),
    };
    let operation = Descriptor::new(api, operation)?;
    operation.set(first, &[1.0f32])?;
    operation.set(first + 1, &[0.0f32])?;
    for (i, part) in [&convolution, &w, &x, &y].into_iter().enumerate() {
        operation.link(first + 2 + i as c_int, &[part])?;
    }
    let operation = operation.finalize()?;
    let graph = Descriptor::new(api, kind::GRAPH)?;
    if let Target::Handle(handle) = target {
        graph.set(name::GRAPH_HANDLE, &[handle])?;
    }
    graph.link(name::GRAPH_OPERATIONS, &[&operation])?;
    graph.finalize()
}

/// A way to compute one product of a convolution on one kind of GPU.
pub(super) struct Plan {
    api: &'static Api,
    plan: Descriptor,
    /// Size of its workspace, in bytes.
    pub(super) workspace: usize,
    /// cuDNN's number of the engine.
    pub(super) engine: i64,
    #[cfg_attr(not(test), expect(dead_code, reason = "for the check of plans"))]
    pub(super) notes: Vec<Note>,
}

impl Plan {
    /// The plan that cuDNN ranks highest among those whose notes `accept` takes, for `n` images. The ranking is a function of shapes,
    /// the kind of GPU and cuDNN's version, so that the choice repeats.
    ///
    /// # Errors
    /// cuDNN has none with a workspace of at most [`WORKSPACE`].
    pub(super) fn find(
        api: &'static Api,
        target: Target<'_>,
        product: Product,
        g: &Geometry,
        n: usize,
        precision: Precision,
        accept: fn(&[Note], Precision) -> bool,
    ) -> Result<Self> {
        let graph = graph(api, target, product, g, n, precision)?;
        let [mut candidates, mut refused] = [0, 0];
        let mut failure = None;
        for ranking in RANKINGS {
            let configurations = ranked(api, target, &graph, ranking).unwrap_or_else(|error| {
                failure = Some(error.to_string());
                Vec::new()
            });
            for configuration in configurations {
                candidates += 1;
                let engines = configuration.descriptors(name::CONFIGURATION_ENGINE, kind::ENGINE, 1)?;
                let Some(engine) = engines.first() else { continue };
                let notes = engine.get(name::ENGINE_NOTES)?;
                if !accept(&notes, precision) {
                    refused += 1;
                    continue;
                }
                let number = engine.first(name::ENGINE_NUMBER)?;
                match Self::of(api, target, &configuration, number, notes) {
                    Ok(plan) if plan.workspace <= WORKSPACE => return Ok(plan),
                    Ok(plan) => {
                        failure = Some(format!("a workspace of {} bytes, more than {WORKSPACE}", plan.workspace))
                    }
                    // A lack of memory must not decide about the bits of a result.
                    Err(error) if error.to_string().contains("ALLOC") => return Err(error),
                    Err(error) => failure = Some(error.to_string()),
                }
            }
        }
        bail!(
            "cuDNN has no usable plan: of {candidates} engines, {refused} are not deterministic or not precise{}",
            failure.map_or(String::new(), |why| format!("; last error: {why}"))
        )
    }

    fn of(
        api: &'static Api,
        target: Target<'_>,
        configuration: &Descriptor,
        engine: i64,
        notes: Vec<Note>,
    ) -> Result<Self> {
        let plan = Descriptor::new(api, kind::PLAN)?;
        match target {
            Target::Handle(handle) => plan.set(name::PLAN_HANDLE, &[handle])?,
            Target::Properties(device) => plan.link(name::PLAN_DEVICE, &[device])?,
        }
        plan.link(name::PLAN_CONFIGURATION, &[configuration])?;
        let plan = plan.finalize()?;
        let workspace = plan.first::<i64>(name::PLAN_WORKSPACE)? as usize;
        Ok(Self { api, plan, workspace, engine, notes })
    }

    /// Enqueues the product in the stream of `handle`.
    ///
    /// # Errors
    /// An address that is not aligned; errors of cuDNN.
    ///
    /// # Safety
    /// The plan was made for `handle`. `data` are addresses of x, w and y, of the shapes and the type of the plan, contiguous
    /// with channels last; `workspace` is that of [`Plan::workspace`] bytes, and no other work in flight in another stream uses it.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "needs a GPU"))]
    pub(super) unsafe fn run(&self, handle: *mut c_void, data: [u64; 3], workspace: u64) -> Result<()> {
        if let Some(odd) = data.iter().find(|address| *address % ALIGNMENT != 0) {
            bail!("cuDNN: expected memory aligned to {ALIGNMENT} bytes, found address {odd:#x}")
        }
        let pack = Descriptor::new(self.api, kind::PACK)?;
        pack.set(name::PACK_IDS, &ID)?;
        pack.set(name::PACK_ADDRESSES, &data.map(Address))?;
        pack.set(name::PACK_WORKSPACE, &[Address(workspace)])?;
        let pack = pack.finalize()?;
        // SAFETY: by this function's contract.
        unsafe { self.api.execute(handle, &self.plan, &pack) }
    }
}

/// cuDNN's ranking of ways to compute `graph`.
fn ranked(api: &'static Api, target: Target<'_>, graph: &Descriptor, ranking: Heuristic) -> Result<Vec<Descriptor>> {
    let heuristic = Descriptor::new(api, kind::ENGINE_HEURISTIC)?;
    heuristic.link(name::HEURISTIC_GRAPH, &[graph])?;
    heuristic.set(name::HEURISTIC_MODE, &[ranking])?;
    if let Target::Properties(device) = target {
        heuristic.link(name::HEURISTIC_DEVICE, &[device])?;
    }
    let heuristic = heuristic.finalize()?;
    let count = heuristic.count(name::HEURISTIC_RESULTS, kind::REFERENCE)?;
    heuristic.descriptors(name::HEURISTIC_RESULTS, kind::ENGINE_CONFIGURATION, count.min(RANKED))
}

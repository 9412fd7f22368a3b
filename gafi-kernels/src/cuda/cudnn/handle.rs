//! cuDNN on one stream: plans made once for each shape, and their workspace.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cudnn::{result as cudnn, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use candle_core::{Error, Result};

use super::api::{Api, HandlePointer};
use super::graph::{self, Target};
use super::legacy;
use crate::cuda::Product;
use crate::cuda::gpu::undisturbed;
use crate::geometry::Geometry;
use crate::precision::Precision;

/// cuDNN on one stream. All threads share one handle behind a lock: a handle per thread would need its own plans and its own
/// workspace, and would synchronise the whole GPU when dropped.
pub(in crate::cuda) struct Handle {
    raw: sys::cudnnHandle_t,
    stream: Arc<CudaStream>,
    /// `None`: the legacy calls.
    api: Option<&'static Api>,
    plans: HashMap<Key, Plan>,
    /// Grows to the largest workspace of any plan. All plans share it, as the stream runs them one after the other.
    workspace: Option<CudaSlice<u8>>,
}

// SAFETY: any thread may use a handle and descriptors, one thread at a time (cuDNN's manual, "Thread Safety"), and the owner
// of this value has exclusive access to them.
unsafe impl Send for Handle {}

/// Geometry, number of images, product and precision.
type Key = (Geometry, usize, Product, Precision);

/// How a product is computed.
enum Plan {
    Graph(graph::Plan),
    Legacy(legacy::Plan),
}

impl Handle {
    pub(in crate::cuda) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        stream.context().bind_to_thread().map_err(Error::wrap)?;
        // An error is a function that the library lacks: without the library, the program would not have started.
        let api = Api::get().ok();
        let raw = cudnn::create_handle().map_err(Error::wrap)?;
        let handle = Self { raw, stream: Arc::clone(stream), api, plans: HashMap::new(), workspace: None };
        // SAFETY: both are alive, and the handle keeps the stream alive.
        unsafe { cudnn::set_stream(raw, stream.cu_stream().cast()) }.map_err(Error::wrap)?;
        Ok(handle)
    }

    /// A handle that uses the legacy calls, to compare them with the backend API.
    #[cfg(test)]
    pub(super) fn legacy(stream: &Arc<CudaStream>) -> Result<Self> {
        let mut handle = Self::new(stream)?;
        handle.api = None;
        Ok(handle)
    }

    #[cfg(test)]
    pub(super) fn pointer(&self) -> HandlePointer {
        HandlePointer(self.raw.cast())
    }

    /// The properties of the GPU as cuDNN's JSON.
    pub(in crate::cuda) fn properties(&self) -> Result<String> {
        self.stream.context().bind_to_thread().map_err(Error::wrap)?;
        graph::describe(Api::get()?, HandlePointer(self.raw.cast()))
    }

    /// Computes a product of a convolution of `n` images. `data` are the addresses of x, w and y.
    pub(in crate::cuda) fn run(
        &mut self,
        product: Product,
        g: &Geometry,
        n: usize,
        precision: Precision,
        data: [u64; 3],
    ) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(Error::wrap)?;
        let plan = match self.plans.entry((*g, n, product, precision)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(plan(self.raw, self.api, product, g, n, precision)?),
        };
        let size = match plan {
            Plan::Graph(plan) => plan.workspace,
            Plan::Legacy(plan) => plan.workspace,
        };
        let workspace = at_least(&mut self.workspace, size, &self.stream)?;
        // SAFETY: the plan was made for this handle, the caller's memory has its shapes and types, and the workspace its size; all
        // work is in one stream.
        unsafe {
            match plan {
                Plan::Graph(plan) => plan.run(self.raw.cast(), data, workspace),
                Plan::Legacy(plan) => plan.run(self.raw, data, workspace),
            }
        }
        .map_err(|error| error.context(plan.api_and_engine().join(", ")))
    }

    /// What computes a product that has been run: the API, and the engine or algorithm.
    #[cfg(test)]
    pub(super) fn used(&self, product: Product, g: &Geometry, n: usize, precision: Precision) -> [String; 2] {
        self.plans[&(*g, n, product, precision)].api_and_engine()
    }
}

impl Plan {
    /// The API, and the engine or algorithm.
    fn api_and_engine(&self) -> [String; 2] {
        match self {
            Self::Graph(plan) => ["graph".into(), format!("engine {}", plan.engine)],
            Self::Legacy(plan) => ["legacy".into(), plan.algorithm()],
        }
    }
}

/// A plan of the backend API, or else of the legacy calls.
fn plan(
    handle: sys::cudnnHandle_t,
    api: Option<&'static Api>,
    product: Product,
    g: &Geometry,
    n: usize,
    precision: Precision,
) -> Result<Plan> {
    let legacy = || legacy::Plan::new(handle, product, g, n, precision).map(Plan::Legacy);
    let Some(api) = api else { return legacy() };
    let target = Target::Handle(HandlePointer(handle.cast()));
    match graph::Plan::find(api, target, product, g, n, precision, graph::acceptable) {
        Ok(plan) => Ok(Plan::Graph(plan)),
        Err(error) if error.to_string().contains("ALLOC") => Err(error),
        Err(error) => legacy().map_err(|fallback| error.context(format!("the legacy calls fail too: {fallback}"))),
    }
}

/// The address of at least `size` bytes, or 0 if `size` is 0. The old workspace is freed in the order of the stream, after the
/// calls that use it.
fn at_least(kept: &mut Option<CudaSlice<u8>>, size: usize, stream: &Arc<CudaStream>) -> Result<u64> {
    if size == 0 {
        return Ok(0);
    }
    if kept.as_ref().is_none_or(|kept| kept.len() < size) {
        *kept = None;
        // SAFETY: cuDNN writes a workspace before it reads it.
        *kept = Some(unsafe { stream.alloc::<u8>(size) }.map_err(Error::wrap)?);
    }
    let Some(kept) = kept else { return Ok(0) };
    let (begin, _events) = kept.device_ptr(stream);
    Ok(begin)
}

impl Drop for Handle {
    fn drop(&mut self) {
        // cuDNN returns its memory to the current context. Errors here could not be handled.
        let _ = undisturbed(self.stream.context(), |context| context.bind_to_thread());
        self.plans.clear();
        // SAFETY: created in `Handle::new` and destroyed only here.
        let _ = unsafe { cudnn::destroy_handle(self.raw) };
    }
}

//! A GPU: compiling the kernels for it, memory, launches.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
    result as driver, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::{self, Ptx};
use candle_core::cuda_backend::{CudaDType, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Error, Result, Storage, Tensor, bail};

use super::{Engine, Grid, Kind, Pre, Product, Shape, Value, cudnn, multi, source};
use crate::geometry::Geometry;
use crate::host::to_host;
use crate::precision::Precision;

/// The driver's handle of the calling thread's own stream: `CU_STREAM_PER_THREAD`.
const PER_THREAD: usize = 2;

/// A Candle device with this crate's kernels.
pub(super) struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    functions: RwLock<HashMap<String, CudaFunction>>,
    /// Created by the first convolution.
    cudnn: Mutex<Option<cudnn::Handle>>,
}

/// Opens the GPU with index `ordinal`. The same index always returns the same Candle device.
///
/// The device has one stream for all threads instead of Candle's usual stream per thread, so that work is ordered
/// whichever thread enqueues it. The kernels of this crate require that.
///
/// # Errors
/// No such GPU, or one that Candle's kernels were not compiled for.
pub fn open(ordinal: usize) -> Result<Device> {
    static OPENED: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = opened.get(&ordinal) {
        return Ok(device.clone());
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: all uses of a tensor are queued in order in the device's only stream, and tensors are freed in that order
        // too, so no events are needed.
        unsafe { cuda.disable_event_tracking() };
    }
    probe(&device).map_err(|error| {
        error
            .context("Candle's kernels don't run on it: rebuild with this GPU's CUDA_COMPUTE_CAP, or update the driver")
    })?;
    opened.insert(ordinal, device.clone());
    Ok(device)
}

/// Runs one of Candle's kernels. They were compiled together with the program, for one architecture; if they don't run
/// here, that should show when a device is chosen and not in the middle of training.
fn probe(device: &Device) -> Result<()> {
    let found = to_host(&Tensor::new(1f32, device)?.affine(2.0, 1.0)?)?.to_scalar::<f32>()?;
    if found == 3.0 { Ok(()) } else { bail!("expected 2 * 1 + 1 = 3, found {found}") }
}

/// Whether a GPU multiplies bf16: from Ampere (compute capability 8) on. cuDNN has no kernels for older ones.
pub(crate) fn multiplies_bf16(device: &CudaDevice) -> bool {
    let stream = device.cuda_stream();
    undisturbed(stream.context(), |context| context.compute_capability()).is_ok_and(|(major, _)| major >= 8)
}

/// The result of `call`, whatever failed before. A context keeps the error of an earlier call that could not return it, and the next
/// call returns that error in place of its own work; here it is kept for a call that can report it.
pub(super) fn undisturbed<T>(
    context: &Arc<CudaContext>,
    call: impl Fn(&Arc<CudaContext>) -> std::result::Result<T, driver::DriverError>,
) -> std::result::Result<T, driver::DriverError> {
    call(context).or_else(|earlier| {
        let second = call(context);
        context.record_err::<()>(Err(earlier));
        second
    })
}

/// Makes a GPU's context current in this thread. Candle's calls do so themselves, except for freeing memory.
pub(crate) fn bind(device: &CudaDevice) -> Result<()> {
    undisturbed(device.cuda_stream().context(), |context| context.bind_to_thread()).map_err(Error::wrap)
}

/// Whether freed memory returns to a pool of the driver. Without one, the host waits for the GPU at each tensor that is dropped.
pub fn has_memory_pool(device: &Device) -> bool {
    match device {
        Device::Cuda(cuda) => cuda.cuda_stream().context().has_async_alloc(),
        _ => true,
    }
}

/// The engine of a Candle device.
pub(super) fn engine(device: &CudaDevice) -> Result<Arc<Engine>> {
    static ENGINES: Mutex<Option<HashMap<DeviceId, Arc<Engine>>>> = Mutex::new(None);
    let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
    let engines = engines.get_or_insert_with(HashMap::new);
    if let Some(engine) = engines.get(&device.id()) {
        return Ok(Arc::clone(engine));
    }
    let engine = Arc::new(Engine { kind: Kind::Gpu(Box::new(Gpu::new(device)?)) });
    engines.insert(device.id(), Arc::clone(&engine));
    Ok(engine)
}

impl Gpu {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        if stream.cu_stream() as usize == PER_THREAD {
            bail!("expected a device with one stream for all threads; open it with `gafi_kernels::cuda::open`")
        }
        let context = stream.context();
        let (major, minor) = context.compute_capability().map_err(Error::wrap)?;
        let code = code(10 * major + minor, &known()?)?;
        let image = compile(code)?;
        let image = match code {
            Code::Machine(_) => Ptx::from_binary(image),
            Code::Portable(_) => Ptx::from_src(String::from_utf8(image).map_err(Error::wrap)?),
        };
        let module = context.load_module(image).map_err(Error::wrap)?;
        if context.has_async_alloc() {
            keep_memory(context.cu_device()).map_err(Error::wrap)?;
        }
        Ok(Self { device: device.clone(), stream, module, functions: RwLock::default(), cudnn: Mutex::default() })
    }

    pub(super) fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let count = shape.iter().product();
        match dtype {
            DType::F32 => self.alloc::<f32>(count, shape),
            DType::F64 => self.alloc::<f64>(count, shape),
            DType::BF16 => self.alloc::<half::bf16>(count, shape),
            other => bail!("no CUDA kernel writes {other:?}"),
        }
    }

    fn alloc<T: CudaDType + DeviceRepr>(&self, count: usize, shape: &[usize]) -> Result<Tensor> {
        // SAFETY: by the contract of `Engine::empty`, all values are written before they are read.
        let slice = unsafe { self.device.alloc::<T>(count) }?;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, self.device.clone()));
        Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
    }

    pub(super) fn pointer(&self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!("CUDA kernels expect tensors on the GPU, found {tensor:?}")
        };
        // Nothing would order accesses to the memory of another GPU, or of another stream of this one.
        if storage.device.id() != self.device.id() {
            bail!("CUDA kernels expect tensors of their own device, found {tensor:?}")
        }
        let begin = match tensor.dtype() {
            DType::F32 => self.begin(storage.as_cuda_slice::<f32>()?),
            DType::F64 => self.begin(storage.as_cuda_slice::<f64>()?),
            DType::U32 => self.begin(storage.as_cuda_slice::<u32>()?),
            DType::BF16 => self.begin(storage.as_cuda_slice::<half::bf16>()?),
            other => bail!("no CUDA kernel reads {other:?}"),
        };
        Ok(begin + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
    }

    /// The address of a slice. The events of this access are recorded now and not after the launch: they order streams, and
    /// this device has only one.
    fn begin<T>(&self, slice: &CudaSlice<T>) -> u64 {
        let (begin, _events) = slice.device_ptr(&self.stream);
        begin
    }

    pub(super) fn launch(&self, name: &str, grid: Grid, values: &[Value<'_>]) -> Result<()> {
        let function = self.function(name)?;
        let mut launch = self.stream.launch_builder(&function);
        for value in values {
            match value {
                Value::Pointer(pointer) => launch.arg(pointer),
                Value::U(number) => launch.arg(number),
                Value::F(number) => launch.arg(number),
                Value::D(number) => launch.arg(number),
                Value::Maps(maps) => launch.arg(maps),
                Value::Pre(pre) => launch.arg(pre),
                Value::Table(table) => launch.arg(*table),
            };
        }
        let [x, y, z] = grid.blocks;
        let [width, height] = grid.threads;
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (width, height, 1), shared_mem_bytes: 0 };
        // SAFETY: by the contract of `Engine::launch`, the values match the kernel's declaration, and its tensors, which the
        // caller holds until this returns, have the sizes that it reads and writes. Memory that is freed later is freed in
        // the order of the stream.
        unsafe { launch.launch(config) }.map_err(|error| Error::wrap(error).context(format!("kernel {name}")))?;
        Ok(())
    }

    /// Calls `work` with cuDNN's handle, which the first call creates.
    pub(super) fn with_cudnn<R>(&self, work: impl FnOnce(&mut cudnn::Handle) -> Result<R>) -> Result<R> {
        let mut handle = self.cudnn.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *handle {
            Some(handle) => work(handle),
            none => work(none.insert(cudnn::Handle::new(&self.stream)?)),
        }
    }

    pub(super) fn properties(&self) -> Result<String> {
        self.with_cudnn(|handle| handle.properties())
    }

    /// See [`Engine::convolve`].
    pub(super) fn convolve(
        &self,
        product: Product,
        geometry: &Geometry,
        precision: Precision,
        [x, w, y]: [&Tensor; 3],
    ) -> Result<()> {
        let n = x.dim(0)?;
        let data = [self.pointer(x)?, self.pointer(w)?, self.pointer(y)?];
        let what = || format!("cuDNN, {product:?} of {n} images, {geometry:?}, {precision:?}");
        // Locked until the work is queued: another thread could replace this call's workspace by a larger one.
        self.with_cudnn(|handle| handle.run(product, geometry, n, precision, data))
            .map_err(|error| error.context(what()))
    }

    fn function(&self, name: &str) -> Result<CudaFunction> {
        if let Some(function) = self.functions.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(function.clone());
        }
        // The lookup is the only driver call of a launch that does not bind the context itself.
        self.stream.context().bind_to_thread().map_err(Error::wrap)?;
        let function =
            self.module.load_function(name).map_err(|error| Error::wrap(error).context(format!("kernel {name}")))?;
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        functions.insert(name.to_string(), function.clone());
        Ok(function)
    }
}

// SAFETY: `repr(transparent)` over four u32, like `Maps` in `common.cuh`.
unsafe impl DeviceRepr for Shape {}
// SAFETY: `repr(C)` with plain numbers, field by field like `Pre` in `common.cuh`.
unsafe impl DeviceRepr for Pre {}
// SAFETY: `repr(C)` with plain numbers, field by field like `Table` in `train.cuh`.
unsafe impl DeviceRepr for multi::Table {}

/// Lets the device's memory pool keep freed memory. By default it returns to the system at every synchronisation, and is
/// mapped again page by page.
fn keep_memory(device: sys::CUdevice) -> std::result::Result<(), driver::DriverError> {
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device belongs to a context, and the attribute is an unsigned 64-bit number by the driver's manual.
    unsafe {
        let pool = driver::device::get_default_mem_pool(device)?;
        driver::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())
    }
}

/// What NVRTC compiles for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    /// Machine code for one compute capability. A driver older than NVRTC takes it, but not NVRTC's PTX.
    Machine(i32),
    /// PTX, which the driver compiles for its newer GPU.
    Portable(i32),
}

/// The code for a GPU of compute capability `card` (ten times major plus minor) by a NVRTC that knows those in `known`.
fn code(card: i32, known: &[i32]) -> Result<Code> {
    if known.contains(&card) {
        return Ok(Code::Machine(card));
    }
    match known.iter().filter(|known| **known < card).max() {
        Some(older) => Ok(Code::Portable(*older)),
        None => {
            let oldest = known.iter().min().copied().unwrap_or_default();
            bail!("expected a GPU of compute capability {oldest} or newer, found {card} (75 stands for 7.5)")
        }
    }
}

/// The compute capabilities that NVRTC knows, each times ten.
fn known() -> Result<Vec<i32>> {
    let mut count = 0;
    // SAFETY: a place for the result.
    unsafe { nvrtc::sys::nvrtcGetNumSupportedArchs(&raw mut count) }.result().map_err(Error::wrap)?;
    let mut known = vec![0; count as usize];
    // SAFETY: room for the number of results that NVRTC has just reported.
    unsafe { nvrtc::sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }.result().map_err(Error::wrap)?;
    Ok(known)
}

/// The kernels, as machine code or as the text of PTX.
fn compile(code: Code) -> Result<Vec<u8>> {
    let architecture = match code {
        Code::Machine(capability) => format!("sm_{capability}"),
        Code::Portable(capability) => format!("compute_{capability}"),
    };
    let source = CString::new(source()).map_err(Error::wrap)?;
    let program = nvrtc::result::create_program(&source, Some(c"kernels.cu")).map_err(Error::wrap)?;
    let options = [format!("--gpu-architecture={architecture}"), "--std=c++17".to_string()];
    // SAFETY: `program` was just created and is destroyed once, at the end. The buffers have the sizes that NVRTC reports.
    unsafe {
        let compiled = nvrtc::result::compile_program(program, &options).map_err(|error| {
            let log = nvrtc::result::get_program_log(program).unwrap_or_default();
            let log: Vec<u8> = log.into_iter().map(|c| c as u8).collect();
            let log = String::from_utf8_lossy(&log);
            Error::Msg(format!("NVRTC cannot compile the kernels for {architecture}: {error:?}\n{log}"))
        });
        let image = compiled.and_then(|()| match code {
            Code::Machine(_) => {
                let mut size = 0;
                nvrtc::sys::nvrtcGetCUBINSize(program, &raw mut size).result().map_err(Error::wrap)?;
                let mut image = vec![0u8; size];
                nvrtc::sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result().map_err(Error::wrap)?;
                Ok(image)
            }
            Code::Portable(_) => {
                let text = nvrtc::result::get_ptx(program).map_err(Error::wrap)?;
                // Without the zero at the end.
                Ok(text.into_iter().map(|c| c as u8).take_while(|&c| c != 0).collect())
            }
        });
        nvrtc::result::destroy_program(program).map_err(Error::wrap)?;
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_for_the_card_or_else_portable() {
        let known = [75, 80, 86, 90];
        assert_eq!(code(86, &known).unwrap(), Code::Machine(86));
        assert_eq!(code(120, &known).unwrap(), Code::Portable(90));
        assert_eq!(code(89, &known).unwrap(), Code::Portable(86));
        assert!(code(70, &known).unwrap_err().to_string().contains("found 70"));
    }

    #[test]
    #[ignore = "needs NVRTC, and compiles for seconds"]
    fn every_architecture_compiles() {
        let known = known().unwrap();
        for card in [75, 80, 86, 89, 90, 100, 120] {
            let machine = code(card, &known).unwrap();
            assert_eq!(machine, Code::Machine(card));
            assert!(compile(machine).unwrap().starts_with(b"\x7fELF"), "{card}");
        }
        let portable = compile(code(999, &known).unwrap()).unwrap();
        assert!(String::from_utf8(portable).unwrap().contains(".visible .entry sgd"));
    }
}

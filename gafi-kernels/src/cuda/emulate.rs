//! An emulated GPU for tests: the kernels, compiled by the host's C++ compiler, on CPU tensors (see `emulate.cpp`), and a
//! plain convolution in place of cuDNN.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};

use super::{Arg, Engine, Grid, Kind, Product, Value};
use crate::geometry::Geometry;

type Emulate = unsafe extern "C" fn(*const c_char, *const u32, *const u32, *mut *mut c_void) -> c_int;

/// The compiled kernels.
pub(super) struct Library {
    /// Locked during a launch: the emulation runs one block at a time.
    emulate: Mutex<Emulate>,
    _library: libloading::Library,
    /// The parameter types of each kernel.
    declared: HashMap<String, Vec<String>>,
}

/// The emulated GPU, compiled at the first call.
///
/// # Errors
/// A compiler that is missing or fails.
pub(super) fn engine() -> Result<Arc<Engine>> {
    static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
    match LIBRARY.get_or_init(build) {
        Ok(library) => Ok(Arc::new(Engine { kind: Kind::Emulated(library) })),
        Err(why) => bail!("{why}"),
    }
}

fn build() -> std::result::Result<Library, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let file = folder.path().join("emulate.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/emulate.cpp");
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-O1", "-shared", "-fPIC"]);
    // A trap instead of a report, which would need the compiler's runtime library.
    compiler.args(["-fsanitize=bounds,alignment", "-fsanitize-undefined-trap-on-error"]);
    compiler.arg("-o").arg(&file).arg(&source);
    let done = compiler.output().map_err(|error| format!("c++: {error}"))?;
    if !done.status.success() {
        return Err(format!("c++: {}", String::from_utf8_lossy(&done.stderr)));
    }
    // SAFETY: loading the library only runs constructors of plain tables, and `emulate` has this signature.
    let (library, emulate) = unsafe {
        let library = libloading::Library::new(&file).map_err(|error| error.to_string())?;
        let emulate = *library.get::<Emulate>("emulate").map_err(|error| error.to_string())?;
        (library, emulate)
    };
    Ok(Library { emulate: Mutex::new(emulate), _library: library, declared: declared() })
}

/// The parameter types of each kernel, read from the source; `T*` stands for a pointer to the storage type.
fn declared() -> HashMap<String, Vec<String>> {
    let kernels = super::source();
    let each = kernels.split("__global__ void ").skip(1).filter_map(|text| {
        let (head, _) = text.split_once(") {")?;
        let (name, parameters) = match head.strip_prefix("K(") {
            Some(rest) => rest.split_once(")(")?,
            None => head.split_once('(')?,
        };
        let kind = |parameter: &str| {
            let words = parameter.split_whitespace().filter(|word| !["const", "__grid_constant__"].contains(word));
            words.collect::<Vec<_>>().first().copied().unwrap_or_default().to_string()
        };
        Some((name.to_string(), parameters.split(',').map(kind).collect()))
    });
    each.collect()
}

impl Library {
    pub(super) fn launch(&self, name: &str, grid: Grid, args: &[Arg<'_>], values: &[Value<'_>]) -> Result<()> {
        self.check(name, args)?;
        check_grid(grid).map_err(|error| error.context(format!("kernel {name}")))?;
        let mut pointers: Vec<*mut c_void> = values.iter().map(address).collect();
        let c_name = CString::new(name).map_err(candle_core::Error::wrap)?;
        let emulate = self.emulate.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the arguments have the declared types; the tensors live until the caller returns, and no one else accesses
        // those that are written.
        let code =
            unsafe { emulate(c_name.as_ptr(), grid.blocks.as_ptr(), grid.threads.as_ptr(), pointers.as_mut_ptr()) };
        match code {
            0 => Ok(()),
            1 => bail!("there is no kernel {name}"),
            2 => bail!("{name}: not all threads of a block reach a barrier"),
            _ => bail!("{name}: an index is outside of an array, or a pack is not aligned"),
        }
    }

    /// Checks a launch against the kernel's declaration.
    fn check(&self, name: &str, args: &[Arg<'_>]) -> Result<()> {
        let variants = [("_f32_1", "float*"), ("_f32_4", "float*"), ("_bf16_1", "bf16*"), ("_bf16_4", "bf16*")];
        let typed = variants.iter().find_map(|(end, kind)| Some((name.strip_suffix(end)?, *kind)));
        let (base, storage) = typed.unwrap_or((name, "?"));
        let Some(declared) = self.declared.get(base) else { bail!("{name} is not declared") };
        let fits = |(kind, arg): (&String, &Arg<'_>)| {
            let kind = if kind == "T*" { storage } else { kind };
            match arg {
                Arg::T(tensor) => match tensor.dtype() {
                    DType::F32 => kind == "float*",
                    DType::BF16 => kind == "bf16*",
                    DType::F64 => kind == "double*",
                    DType::U32 => kind == "u32*",
                    _ => false,
                },
                Arg::Null => kind.ends_with('*'),
                Arg::U(_) => kind == "u32",
                Arg::F(_) => kind == "float",
                Arg::D(_) => kind == "double",
                Arg::Maps(_) => kind == "Maps",
                Arg::Pre { .. } => kind == "Pre",
                Arg::Table(_) => kind == "Table",
            }
        };
        if declared.len() != args.len() || !declared.iter().zip(args).all(fits) {
            bail!("{name} is declared with {declared:?} but called with {args:?}")
        }
        Ok(())
    }
}

/// Rejects grids that no GPU can launch.
fn check_grid(grid: Grid) -> Result<()> {
    let [x, y, z] = grid.blocks;
    let [width, height] = grid.threads;
    let blocks = (1..1 << 31).contains(&x) && (1..1 << 16).contains(&y) && (1..1 << 16).contains(&z);
    if !blocks || !(1..=1024).contains(&(u64::from(width) * u64::from(height))) {
        bail!("no GPU can launch {grid:?}")
    }
    Ok(())
}

fn address(value: &Value<'_>) -> *mut c_void {
    fn of<T>(value: &T) -> *mut c_void {
        std::ptr::from_ref(value).cast_mut().cast()
    }
    match value {
        Value::Pointer(pointer) => of(pointer),
        Value::U(number) => of(number),
        Value::F(number) => of(number),
        Value::D(number) => of(number),
        Value::Maps(maps) => of(maps),
        Value::Pre(pre) => of(pre),
        Value::Table(table) => of(*table),
    }
}

/// The address of the values of a CPU tensor.
pub(super) fn pointer(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("the emulation expects tensors on the CPU") };
    let begin = match storage {
        CpuStorage::F32(values) => values.as_ptr() as u64,
        CpuStorage::F64(values) => values.as_ptr() as u64,
        CpuStorage::BF16(values) => values.as_ptr() as u64,
        CpuStorage::U32(values) => values.as_ptr() as u64,
        _ => bail!("no kernel takes {:?}", tensor.dtype()),
    };
    Ok(begin + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}

/// A product of a convolution by its definition, in place of cuDNN.
pub(super) fn convolve(product: Product, g: &Geometry, tensors: [&Tensor; 3]) -> Result<()> {
    let floats = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let [mut x, mut w, mut y] = [floats(tensors[0])?, floats(tensors[1])?, floats(tensors[2])?];
    match product {
        Product::Forward => y.fill(0.0),
        Product::Input => x.fill(0.0),
        Product::Weights => w.fill(0.0),
    }
    let n = tensors[0].dim(0)?;
    for (image, row, column) in positions(n, g.ho, g.wo) {
        for (tap_row, tap_column) in positions(1, g.k, g.k).map(|(_, r, c)| (r, c)) {
            let inside = |at: usize, tap: usize, size: usize| {
                (at * g.stride + tap).checked_sub(g.pad).filter(|&from| from < size)
            };
            let (Some(h), Some(v)) = (inside(row, tap_row, g.h), inside(column, tap_column, g.w)) else { continue };
            for (o, i) in (0..g.cout).flat_map(|o| (0..g.cin).map(move |i| (o, i))) {
                let xi = ((image * g.h + h) * g.w + v) * g.cin + i;
                let wi = ((o * g.k + tap_row) * g.k + tap_column) * g.cin + i;
                let yi = ((image * g.ho + row) * g.wo + column) * g.cout + o;
                match product {
                    Product::Forward => y[yi] += x[xi] * w[wi],
                    Product::Input => x[xi] += y[yi] * w[wi],
                    Product::Weights => w[wi] += x[xi] * y[yi],
                }
            }
        }
    }
    let (result, to) = match product {
        Product::Forward => (y, tensors[2]),
        Product::Input => (x, tensors[0]),
        Product::Weights => (w, tensors[1]),
    };
    let result = Tensor::from_vec(result, to.shape(), &Device::Cpu)?.to_dtype(to.dtype())?;
    let bytes = to.elem_count() * to.dtype().size_in_bytes();
    // SAFETY: both tensors hold the same number of values of the same type, and the caller has just allocated `to`.
    unsafe { std::ptr::copy_nonoverlapping(pointer(&result)? as *const u8, pointer(to)? as *mut u8, bytes) };
    Ok(())
}

fn positions(n: usize, h: usize, w: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..n * h * w).map(move |i| (i / (h * w), i / w % h, i % w))
}

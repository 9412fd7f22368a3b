//! cuDNN's backend API: descriptors with attributes.
//!
//! The functions are looked up in the library at run time, so that the tests can plan for GPUs that this machine lacks without
//! linking cuDNN. Numbers of descriptors, attributes and types: `cudnn_graph_v9.h` of cuDNN 9.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use candle_core::{Result, bail};
use libloading::Library;

/// The name of the library; a program with the feature `cuda` has already loaded it.
const LIBRARY: &str = if cfg!(windows) { "cudnn64_9.dll" } else { "libcudnn.so.9" };

/// A descriptor as cuDNN passes it.
type RawDescriptor = *mut c_void;

type GetAttribute = unsafe extern "C" fn(RawDescriptor, c_int, c_int, i64, *mut i64, *mut c_void) -> c_int;

/// The functions of the backend API.
pub(super) struct Api {
    create: unsafe extern "C" fn(c_int, *mut RawDescriptor) -> c_int,
    destroy: unsafe extern "C" fn(RawDescriptor) -> c_int,
    set: unsafe extern "C" fn(RawDescriptor, c_int, c_int, i64, *const c_void) -> c_int,
    get: GetAttribute,
    finalize: unsafe extern "C" fn(RawDescriptor) -> c_int,
    execute: unsafe extern "C" fn(*mut c_void, RawDescriptor, RawDescriptor) -> c_int,
    status_name: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(*mut c_char, usize),
    #[cfg(test)]
    version: unsafe extern "C" fn() -> usize,
    /// Keeps the functions loaded.
    _library: Library,
}

impl Api {
    /// The functions of the cuDNN that the loader finds, loaded once.
    ///
    /// # Errors
    /// No such library; a function that it lacks.
    pub(super) fn get() -> Result<&'static Self> {
        static API: OnceLock<std::result::Result<Api, String>> = OnceLock::new();
        match API.get_or_init(|| Self::load().map_err(|error| format!("{LIBRARY}: {error}"))) {
            Ok(api) => Ok(api),
            Err(why) => bail!("{why}"),
        }
    }

    fn load() -> std::result::Result<Self, libloading::Error> {
        // SAFETY: cuDNN's initialisers only set up its own state, and the functions have these signatures since cuDNN 9.0.
        unsafe {
            let library = Library::new(LIBRARY)?;
            Ok(Self {
                create: *library.get("cudnnBackendCreateDescriptor")?,
                destroy: *library.get("cudnnBackendDestroyDescriptor")?,
                set: *library.get("cudnnBackendSetAttribute")?,
                get: *library.get::<GetAttribute>("cudnnBackendGetAttribute")?,
                finalize: *library.get("cudnnBackendFinalize")?,
                execute: *library.get("cudnnBackendExecute")?,
                status_name: *library.get("cudnnGetErrorString")?,
                last_error: *library.get("cudnnGetLastErrorString")?,
                #[cfg(test)]
                version: *library.get("cudnnGetVersion")?,
                _library: library,
            })
        }
    }

    /// The version as cuDNN counts it: 92600 is 9.26.0.
    #[cfg(test)]
    pub(super) fn version(&self) -> usize {
        // SAFETY: takes nothing and only returns a number.
        unsafe { (self.version)() }
    }

    /// An error if `status` is not success. `what` names the call.
    fn check(&self, status: c_int, what: impl Fn() -> String) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let mut detail = [0 as c_char; 512];
        // SAFETY: the name is a static string; cuDNN writes at most the number of bytes that is passed, and the last one stays zero.
        let (name, detail) = unsafe {
            (self.last_error)(detail.as_mut_ptr(), detail.len() - 1);
            (CStr::from_ptr((self.status_name)(status)), CStr::from_ptr(detail.as_ptr()))
        };
        bail!("cuDNN, {}: {} {}", what(), name.to_string_lossy(), detail.to_string_lossy().trim())
    }

    /// Runs a plan on a GPU.
    ///
    /// # Safety
    /// `handle` must be a valid handle of the plan's device, and the pack's memory must fit the plan.
    pub(super) unsafe fn execute(&self, handle: *mut c_void, plan: &Descriptor, pack: &Descriptor) -> Result<()> {
        // SAFETY: by this function's contract; both descriptors are alive.
        let status = unsafe { (self.execute)(handle, plan.raw, pack.raw) };
        self.check(status, || "running a plan".into())
    }
}

/// A type of attribute values, with its number.
pub(super) trait Attribute: Copy + Default {
    const KIND: c_int;
}

/// Declares types of one field that cuDNN reads as the number or pointer in it.
macro_rules! attributes {
    ($($(#[$doc:meta])* $name:ident($inner:ty) = $kind:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(transparent)]
        pub(super) struct $name(pub(super) $inner);

        impl Default for $name {
            fn default() -> Self {
                // SAFETY: numbers and pointers may be zero.
                unsafe { std::mem::zeroed() }
            }
        }

        impl Attribute for $name {
            const KIND: c_int = $kind;
        }
    )*};
}

attributes! {
    /// A cuDNN handle.
    HandlePointer(*mut c_void) = 0;
    /// `cudnnDataType_t`.
    DataType(c_int) = 1;
    /// An address on the device.
    Address(u64) = 6;
    /// `cudnnConvolutionMode_t`.
    ConvolutionMode(c_int) = 7;
    /// `cudnnBackendHeurMode_t`.
    Heuristic(c_int) = 8;
    /// `cudnnBackendNumericalNote_t`.
    Note(c_int) = 11;
    /// A descriptor.
    Reference(*mut c_void) = 15;
}

impl Attribute for i64 {
    const KIND: c_int = 3;
}

impl Attribute for f32 {
    const KIND: c_int = 4;
}

impl Attribute for u8 {
    const KIND: c_int = 24;
}

/// A descriptor, destroyed when dropped.
pub(super) struct Descriptor {
    api: &'static Api,
    raw: RawDescriptor,
}

impl Descriptor {
    /// A new descriptor of the type with number `kind`.
    pub(super) fn new(api: &'static Api, kind: c_int) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is a place for the result.
        let status = unsafe { (api.create)(kind, &raw mut raw) };
        api.check(status, || format!("creating a descriptor of type {kind}"))?;
        Ok(Self { api, raw })
    }

    /// Sets an attribute.
    pub(super) fn set<T: Attribute>(&self, name: c_int, values: &[T]) -> Result<()> {
        // SAFETY: the pointer and the count describe `values`, whose type has the number `KIND`. cuDNN copies them.
        let status = unsafe { (self.api.set)(self.raw, name, T::KIND, values.len() as i64, values.as_ptr().cast()) };
        self.api.check(status, || format!("setting attribute {name}"))
    }

    /// Sets an attribute to other descriptors. cuDNN keeps what it needs of them.
    pub(super) fn link(&self, name: c_int, others: &[&Descriptor]) -> Result<()> {
        let references: Vec<Reference> = others.iter().map(|other| Reference(other.raw)).collect();
        self.set(name, &references)
    }

    /// Completes the descriptor; its attributes are fixed from then on.
    pub(super) fn finalize(self) -> Result<Self> {
        // SAFETY: the descriptor is alive.
        let status = unsafe { (self.api.finalize)(self.raw) };
        self.api.check(status, || "finalising a descriptor".into())?;
        Ok(self)
    }

    /// The values of an attribute; none for one that is empty.
    pub(super) fn get<T: Attribute>(&self, name: c_int) -> Result<Vec<T>> {
        let mut values = vec![T::default(); self.count(name, T::KIND)?];
        let written = self.read(name, &mut values)?;
        values.truncate(written);
        Ok(values)
    }

    /// The first value of an attribute.
    pub(super) fn first<T: Attribute>(&self, name: c_int) -> Result<T> {
        let mut value = [T::default()];
        match self.read(name, &mut value)? {
            0 => bail!("cuDNN, reading attribute {name}: it is empty"),
            _ => Ok(value[0]),
        }
    }

    /// The descriptors, of the type with number `kind`, in an attribute; at most `most`.
    pub(super) fn descriptors(&self, name: c_int, kind: c_int, most: usize) -> Result<Vec<Descriptor>> {
        // cuDNN fills descriptors that exist.
        let mut found = (0..most).map(|_| Descriptor::new(self.api, kind)).collect::<Result<Vec<_>>>()?;
        let mut references: Vec<Reference> = found.iter().map(|descriptor| Reference(descriptor.raw)).collect();
        let written = self.read(name, &mut references)?;
        found.truncate(written);
        Ok(found)
    }

    /// The number of values in an attribute.
    pub(super) fn count(&self, name: c_int, kind: c_int) -> Result<usize> {
        let mut count = 0;
        // SAFETY: with a requested count of 0, cuDNN writes only the count.
        let status = unsafe { (self.api.get)(self.raw, name, kind, 0, &raw mut count, std::ptr::null_mut()) };
        self.api.check(status, || format!("counting attribute {name}"))?;
        Ok(count as usize)
    }

    /// Reads at most `values.len()` values, and returns how many there were.
    fn read<T: Attribute>(&self, name: c_int, values: &mut [T]) -> Result<usize> {
        let mut count = 0;
        let begin = values.as_mut_ptr().cast();
        // SAFETY: `values` has room for the requested number of values of the type with number `KIND`.
        let status = unsafe { (self.api.get)(self.raw, name, T::KIND, values.len() as i64, &raw mut count, begin) };
        self.api.check(status, || format!("reading attribute {name}"))?;
        Ok((count as usize).min(values.len()))
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created in `new` and destroyed only here. An error here could not be handled.
        let _ = unsafe { (self.api.destroy)(self.raw) };
    }
}

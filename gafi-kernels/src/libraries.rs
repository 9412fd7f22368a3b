//! The NVIDIA libraries of a build with CUDA.

use libloading::Library;

/// What a build with CUDA 13 loads: at its start, or (cuDNN's parts) when it first computes a convolution.
const NAMES: [&str; 13] = [
    "libcuda.so.1",
    "libcudart.so.13",
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcurand.so.10",
    "libnvrtc.so.13",
    "libcudnn.so.9",
    "libcudnn_graph.so.9",
    "libcudnn_heuristic.so.9",
    "libcudnn_engines_precompiled.so.9",
    "libcudnn_engines_runtime_compiled.so.9",
    "libcudnn_cnn.so.9",
    "libcudnn_ops.so.9",
];

/// A library that a build with CUDA needs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NvidiaLibrary {
    /// The name that the loader looks for.
    pub name: &'static str,
    /// The loader's error, which says what is missing; `None` if it was loaded.
    pub error: Option<String>,
}

/// Loads each NVIDIA library of a build with CUDA as the program does. They stay loaded.
pub fn nvidia_libraries() -> Vec<NvidiaLibrary> {
    let each = NAMES.map(|name| {
        // SAFETY: the initialisers of NVIDIA's libraries only set up their own state.
        let loaded = unsafe { Library::new(name) };
        let error = loaded.as_ref().err().map(cause);
        // A library that kernels were registered from is not made to be unloaded.
        loaded.into_iter().for_each(std::mem::forget);
        NvidiaLibrary { name, error }
    });
    each.into()
}

/// The loader's own words: `libloading` keeps them as the source of its error.
fn cause(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        // SAFETY: there is no such library.
        let error = unsafe { Library::new("libno-such-library.so.1") }.unwrap_err();
        assert!(cause(&error).contains("libno-such-library.so.1"), "{error}");
    }
}

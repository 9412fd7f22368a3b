//! Which device a network lives on, from the words a user types.

use candle_core::Device;
use gafi_core::Error;

/// The device called `name`: `auto` (the first GPU if this build has CUDA and there is one, else the CPU), `cpu`, `cuda`
/// (the first GPU), `cuda:1` (the second).
///
/// # Errors
/// [`Error::Config`] when the name is none of these, this build has no CUDA, or there is no such GPU.
pub fn select(name: &str) -> gafi_core::Result<Device> {
    let ordinal = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" if !cfg!(feature = "cuda") => return Ok(Device::Cpu),
        "auto" => {
            return Ok(gpu(0).unwrap_or_else(|error| {
                tracing::info!(%error, "no usable GPU, running on the CPU");
                Device::Cpu
            }));
        }
        "cuda" => 0,
        other => match other.strip_prefix("cuda:").map(str::parse::<usize>) {
            Some(Ok(ordinal)) => ordinal,
            _ => return Err(Error::config("device", name, "auto, cpu, cuda or cuda:N with N a number from 0")),
        },
    };
    if !cfg!(feature = "cuda") {
        let expected = "cpu or auto: this program was built without CUDA (cargo build --features cuda)";
        return Err(Error::config("device", name, expected));
    }
    gpu(ordinal)
        .map_err(|error| Error::config("device", name, format!("a GPU with number {ordinal}; CUDA says: {error}")))
}

#[cfg(feature = "cuda")]
use gafi_kernels::cuda::open as gpu;

/// What a build without CUDA says of any GPU.
#[cfg(not(feature = "cuda"))]
fn gpu(ordinal: usize) -> candle_core::Result<Device> {
    Device::new_cuda(ordinal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_or_explained() {
        assert!(select("cpu").unwrap().is_cpu());
        select("auto").unwrap();
        for wrong in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            let error = select(wrong).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains("cuda:N"), "{wrong}: {error}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_so() {
        let error = select("cuda:1").unwrap_err().to_string();
        assert!(error.contains("device = cuda:1") && error.contains("built without CUDA"), "{error}");
    }
}

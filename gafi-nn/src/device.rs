//! Selection of the device by name.

use candle_core::Device;
use gafi_core::Error;

/// Opens the device called `name`:
///
/// - `auto`: the first GPU if this build has CUDA and there is a GPU, otherwise the CPU
/// - `cpu`
/// - `cuda`: the first GPU; `cuda:1`: the second, and so on
///
/// # Errors
/// [`Error::Config`] for any other name, when this build has no CUDA, or when there is no such GPU.
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
            _ => return Err(Error::config("device", name, "auto, cpu, cuda or cuda:N with N counted from 0")),
        },
    };
    if !cfg!(feature = "cuda") {
        let expected = "cpu or auto, because this program was built without CUDA (feature cuda)";
        return Err(Error::config("device", name, expected));
    }
    gpu(ordinal).map_err(|error| {
        Error::config("device", name, format!("GPU {ordinal} to be usable, or cpu; CUDA reports: {error}"))
    })
}

#[cfg(feature = "cuda")]
use gafi_kernels::cuda::open as gpu;

/// Always an error: a build without CUDA opens no GPU.
#[cfg(not(feature = "cuda"))]
fn gpu(ordinal: usize) -> candle_core::Result<Device> {
    Device::new_cuda(ordinal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_names_are_selected_and_others_are_errors() {
        assert!(select("cpu").unwrap().is_cpu());
        select("auto").unwrap();
        for wrong in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            let error = select(wrong).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains("cuda:N"), "{wrong}: {error}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_refuses_gpus() {
        let error = select("cuda:1").unwrap_err().to_string();
        assert!(error.contains("device = cuda:1") && error.contains("built without CUDA"), "{error}");
    }
}

//! Conversion of named tensors to safetensors bytes and back, and helpers to combine several states in one file.
//!
//! Equal tensors give equal bytes, because safetensors orders its entries by type and name. A file may hold several
//! sections, distinguished by a dotted prefix.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use gafi_kernels::to_host;
use safetensors::SafeTensors;

use crate::error::{Error, Result};

/// Serialises `tensors` as a safetensors file.
pub fn tensors_to_bytes(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let cpu = tensors.iter().map(|(name, tensor)| Ok((name.as_str(), to_host(&tensor.detach())?.contiguous()?)));
    let cpu = cpu.collect::<Result<Vec<_>>>()?;
    safetensors::serialize(cpu, None).map_err(|error| Error::Checkpoint { found: error.to_string() })
}

/// Reads the tensors of a safetensors file onto `device`. Safe to call on untrusted bytes.
///
/// # Errors
/// [`Error::Checkpoint`] when `bytes` are not a safetensors file.
pub fn bytes_to_tensors(bytes: &[u8], device: &Device) -> Result<BTreeMap<String, Tensor>> {
    some_of_bytes(bytes, &|_| true, device)
}

/// As [`bytes_to_tensors`], but only the tensors whose names `wanted` accepts.
///
/// # Errors
/// As [`bytes_to_tensors`].
pub fn some_of_bytes(bytes: &[u8], wanted: &dyn Fn(&str) -> bool, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    use candle_core::safetensors::Load;
    let file = SafeTensors::deserialize(bytes).map_err(|error| Error::Checkpoint { found: error.to_string() })?;
    let wanted = file.iter().filter(|(name, _)| wanted(name));
    wanted.map(|(name, view)| Ok((name.to_string(), view.load(device)?))).collect()
}

/// Adds the tensors of `section` to `tensors`, each under `prefix.NAME`.
pub fn add_section(tensors: &mut BTreeMap<String, Tensor>, prefix: &str, section: BTreeMap<String, Tensor>) {
    tensors.extend(section.into_iter().map(|(name, tensor)| (format!("{prefix}.{name}"), tensor)));
}

/// The tensors under `prefix.NAME`, by NAME; empty if there are none.
pub fn section(tensors: &BTreeMap<String, Tensor>, prefix: &str) -> BTreeMap<String, Tensor> {
    tensors
        .iter()
        .filter_map(|(name, tensor)| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
            Some((rest.to_string(), tensor.clone()))
        })
        .collect()
}

/// Adds a counter (an I64 scalar) under `name`.
pub fn add_count(tensors: &mut BTreeMap<String, Tensor>, name: &str, value: u64) -> Result<()> {
    tensors.insert(name.into(), Tensor::new(value as i64, &Device::Cpu)?);
    Ok(())
}

/// Reads the counter under `name`.
///
/// # Errors
/// [`Error::State`] when it is missing or not a non-negative I64 scalar.
pub fn count(tensors: &BTreeMap<String, Tensor>, name: &str) -> Result<u64> {
    let wrong = |found: String| Error::State {
        what: "state".into(),
        name: name.into(),
        expected: "a non-negative i64 scalar".into(),
        found,
    };
    let tensor = tensors.get(name).ok_or_else(|| wrong("nothing".into()))?;
    if tensor.dtype() != DType::I64 || tensor.rank() != 0 {
        return Err(wrong(format!("{} of shape {:?}", tensor.dtype().as_str(), tensor.dims())));
    }
    let value = to_host(tensor)?.to_scalar::<i64>()?;
    u64::try_from(value).map_err(|_| wrong(value.to_string()))
}

/// Checks that all values are finite. `what` is named in the error.
///
/// # Errors
/// [`Error::NonFinite`] with the name of the first tensor that holds a NaN or an infinity.
pub fn check_finite(what: &str, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    for (name, tensor) in tensors {
        // Each value is checked: a sum may overflow, and a maximum hides NaN.
        let values = to_host(tensor)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::NonFinite { what: format!("{what}: {name}") });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BTreeMap<String, Tensor> {
        let cpu = &Device::Cpu;
        let mut tensors = BTreeMap::new();
        tensors.insert("b.w".into(), Tensor::new(&[[1f32, -2.5], [3.25, f32::MIN_POSITIVE]], cpu).unwrap());
        tensors.insert("a.mean".into(), Tensor::new(&[0.5f32], cpu).unwrap());
        // A view that is not contiguous must be written in logical order.
        tensors.insert("b.t".into(), Tensor::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], cpu).unwrap().t().unwrap());
        add_count(&mut tensors, "step", 12).unwrap();
        tensors
    }

    #[test]
    fn round_trip_keeps_every_bit_and_is_deterministic() {
        let bytes = tensors_to_bytes(&sample()).unwrap();
        assert_eq!(bytes, tensors_to_bytes(&sample()).unwrap());
        let back = bytes_to_tensors(&bytes, &Device::Cpu).unwrap();
        assert_eq!(back.keys().collect::<Vec<_>>(), ["a.mean", "b.t", "b.w", "step"]);
        assert_eq!(back["b.t"].to_vec2::<f32>().unwrap(), [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]);
        assert_eq!(count(&back, "step").unwrap(), 12);
        assert_eq!(tensors_to_bytes(&back).unwrap(), bytes);
    }

    #[test]
    fn sections_are_separated_by_their_whole_prefix() {
        let mut all = BTreeMap::new();
        add_section(&mut all, "net", sample());
        add_section(&mut all, "network", sample());
        assert_eq!(section(&all, "net").len(), 4);
        assert!(section(&all, "ne").is_empty());
    }

    #[test]
    fn damaged_bytes_are_errors() {
        let good = tensors_to_bytes(&sample()).unwrap();
        for cut in [0, 4, 8, 40, good.len() - 1] {
            assert!(bytes_to_tensors(&good[..cut], &Device::Cpu).is_err(), "cut at {cut}");
        }
        let mut huge = good.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(bytes_to_tensors(&huge, &Device::Cpu).is_err());
        assert!(count(&sample(), "b.w").is_err());
        assert!(count(&sample(), "none").is_err());
    }

    #[test]
    fn non_finite_values_are_named() {
        let mut tensors = sample();
        check_finite("weights", &tensors).unwrap();
        tensors.insert("z".into(), Tensor::new(&[1f32, f32::NAN], &Device::Cpu).unwrap());
        let error = check_finite("weights", &tensors).unwrap_err().to_string();
        assert_eq!(error, "weights: z holds a value that is not finite");
    }
}

//! Reads state dicts from safetensors files and from PyTorch's `.pth`, without running code from them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use gafi_core::{Error, Result, open_regular, read_regular};
use gafi_nn::checkpoint;

use super::pth;

/// Key of the state dict in checkpoints that also hold an optimiser.
const KEY: &str = "state_dict";

/// Prefix that `DataParallel` adds to each name.
const WRAPPER: &str = "module.";

/// Reads the state dict in `path`: all tensors of a safetensors file; of a `.pth`, the dictionary itself or the one
/// under its key `state_dict`. Floating-point tensors are converted to F32, and the prefix `module.` is stripped from
/// names.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::Format`] when it is in neither format or holds no tensors.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut head = Vec::with_capacity(9);
    let file = open_regular(path).map_err(Error::io("open", path))?;
    file.take(9).read_to_end(&mut head).map_err(Error::io("read", path))?;
    let tensors: BTreeMap<String, Tensor> = match &head[..] {
        // `torch.save` writes a zip archive since PyTorch 1.6, and wrote a bare pickle before. A safetensors file may
        // start with the same bytes, its header's length, but has a brace after them.
        [b'P', b'K', 3, 4, _, _, _, _, after] if *after != b'{' => pth::read(path, KEY)?,
        [0x80, _, _, _, _, _, _, _, after] if *after != b'{' => {
            let expected = "safetensors, or a .pth of PyTorch 1.6 or later";
            return Err(Error::format(path, "header", expected, "an older .pth (load it and save it again)"));
        }
        _ => {
            let bytes = read_regular(path, u64::MAX).map_err(Error::io("read", path))?;
            checkpoint::bytes_to_tensors(&bytes, &Device::Cpu)
                .map_err(|e| Error::format(path, "header", "safetensors or a .pth", e.to_string()))?
        }
    };
    if tensors.is_empty() {
        let expected = format!("a state dict, or one under {KEY:?}");
        return Err(Error::format(path, "tensors", expected, "no tensors"));
    }
    let mut state = BTreeMap::new();
    for (name, tensor) in tensors {
        let name = name.strip_prefix(WRAPPER).unwrap_or(&name).to_string();
        let tensor = if tensor.dtype().is_float() {
            tensor.to_dtype(DType::F32).and_then(|t| t.contiguous()).map_err(gafi_nn::Error::from)?
        } else {
            tensor
        };
        if state.insert(name.clone(), tensor).is_some() {
            let found = format!("another one with the prefix {WRAPPER:?}");
            return Err(Error::format(path, name, "one tensor of this name", found));
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.pth");
        std::fs::write(&path, bytes).unwrap();
        read(&path).unwrap_err().to_string()
    }

    #[test]
    fn files_without_a_state_dict_are_errors() {
        assert!(error(b"").contains("safetensors or a .pth"));
        assert!(error(b"<html>").contains("safetensors or a .pth"));
        assert!(error(b"PK\x03\x04 and no archive").contains("archive: expected a zip archive"));
        assert!(error(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").contains("save it again"));
        let none = checkpoint::tensors_to_bytes(&BTreeMap::new()).unwrap();
        assert!(error(&none).contains("expected a state dict, or one under \"state_dict\", found no tensors"));
    }

    #[test]
    fn prefixes_are_stripped_and_f16_becomes_f32() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.safetensors");
        let half = Tensor::new(&[0.5f32, -2.0], &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap();
        let mut tensors: BTreeMap<_, _> = [("module.a.weight".to_string(), half.clone())].into();
        std::fs::write(&path, checkpoint::tensors_to_bytes(&tensors).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap()["a.weight"].to_vec1::<f32>().unwrap(), [0.5, -2.0]);
        tensors.insert("a.weight".into(), half);
        std::fs::write(&path, checkpoint::tensors_to_bytes(&tensors).unwrap()).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("a.weight: expected one tensor of this name"));
    }
}

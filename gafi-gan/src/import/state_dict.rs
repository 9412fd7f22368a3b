//! Tensors by name out of the files that PyTorch programs leave: safetensors, and `.pth` through Candle's reader of
//! pickles, which understands what a state dict is made of and executes nothing.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::Path;

use candle_core::{DType, Device, Tensor, pickle};
use gafi_core::{Error, Result};
use gafi_nn::checkpoint;

/// Where a checkpoint keeps the state dict beside its optimiser.
const KEY: &str = "state_dict";

/// What `DataParallel` puts before each name.
const WRAPPER: &str = "module.";

/// The state dict in `path`: of a safetensors file all tensors; of a `.pth` the dictionary itself, or the one under
/// `state_dict` in it. Floating point becomes F32; `module.` before names is taken off.
///
/// # Errors
/// [`Error::Io`], and [`Error::Format`] when the file is neither, or holds no tensors.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let tensors: BTreeMap<String, Tensor> = match &bytes[..] {
        // A zip archive, as `torch.save` writes since 1.6; and a bare pickle. safetensors may begin with any length, and
        // these bytes with it, but then comes a brace.
        [b'P', b'K', 3, 4, _, _, _, _, after, ..] if *after != b'{' => {
            drop(bytes);
            pickled(path)?
        }
        [0x80, _, _, _, _, _, _, _, after, ..] if *after != b'{' => {
            let expected = "safetensors, or a .pth as PyTorch 1.6 and later write it";
            return Err(Error::format(path, "header", expected, "an older .pth (load it and save it again)"));
        }
        bytes => checkpoint::bytes_to_tensors(bytes, &Device::Cpu)
            .map_err(|e| Error::format(path, "header", "safetensors or a .pth", e.to_string()))?,
    };
    if tensors.is_empty() {
        let expected = format!("a state dict, or one under {KEY:?}");
        return Err(Error::format(path, "tensors", expected, "none"));
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
            let found = format!("one with {WRAPPER:?} before it too");
            return Err(Error::format(path, name, "one tensor of this name", found));
        }
    }
    Ok(state)
}

/// The state dict of a `.pth`.
fn pickled(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let wrong = |found: String| Error::format(path, "pickle", "a state dict", found);
    let read = || {
        // Without the key, it is the state dict itself.
        pickle::read_all_with_key(path, Some(KEY)).or_else(|_| pickle::read_all(path))
    };
    // Some damaged pickles make Candle's reader panic.
    let read = catch_unwind(read).map_err(|_| wrong("one that can't be read".into()))?;
    Ok(read.map_err(|e| wrong(e.to_string()))?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.pth");
        std::fs::write(&path, bytes).unwrap();
        read(&path).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_state_dict_is_named() {
        assert!(says(b"").contains("safetensors or a .pth"));
        assert!(says(b"<html>").contains("safetensors or a .pth"));
        assert!(says(b"PK\x03\x04 and no archive").contains("pickle: expected a state dict"));
        assert!(says(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").contains("save it again"));
        let none = checkpoint::tensors_to_bytes(&BTreeMap::new()).unwrap();
        assert!(says(&none).contains("expected a state dict, or one under \"state_dict\", found none"));
    }

    #[test]
    fn wrappers_come_off_and_halves_become_floats() {
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

//! Reads state dicts from safetensors files and from PyTorch's `.pth`, without running code from them.
//!
//! A checkpoint may hold several networks, each in a dictionary (`g_ema`, `state_dict`), behind a prefix of its tensors' names
//! (`module.`, `_orig_mod.`, `generator.`), or both. So a network is searched by the names of some of its tensors, wherever they are.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use gafi_core::{Error, Result, open_regular, read_regular};
use gafi_nn::checkpoint;
use safetensors::{Dtype, SafeTensors};

use super::name::{Name, joined, listed};
use super::pth::Pth;

/// Words in the name of a moving average.
const AVERAGES: [&str; 5] = ["ema", "average", "averaged", "avg", "shadow"];

/// Segments of a name that say nothing: `DataParallel` and `torch.compile` add them.
const WRAPPERS: [&str; 2] = ["module", "_orig_mod"];

/// Maximum number of dictionaries, and of tensors of each, that an error lists.
const LISTED: usize = 6;

/// A state dict: F32 tensors by name.
pub type State = BTreeMap<String, Tensor>;

/// Where a network is: the dictionary, and the prefix of the names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    dict: String,
    prefix: String,
}

impl Place {
    /// The name used in messages and for `key`, such as `g_ema` or `state_dict.generator`; empty for the top level.
    /// Segments in `WRAPPERS` are left out.
    fn label(&self) -> String {
        let all = joined(&self.dict, &self.prefix);
        let kept: Vec<_> = all.split('.').filter(|part| !part.is_empty() && !WRAPPERS.contains(part)).collect();
        kept.join(".")
    }

    /// Whether its name says that it is a moving average.
    fn is_average(&self) -> bool {
        let all = joined(&self.dict, &self.prefix).to_lowercase();
        all.split(|c: char| !c.is_alphanumeric()).any(|word| AVERAGES.contains(&word))
    }

    /// Whether `key` is its label, or the label's leading or trailing segments.
    fn is_called(&self, key: &str) -> bool {
        let label = self.label();
        let rest = |rest: Option<&str>, dot: fn(&str) -> bool| rest.is_some_and(|rest| rest.is_empty() || dot(rest));
        rest(label.strip_prefix(key), |rest| rest.starts_with('.'))
            || rest(label.strip_suffix(key), |rest| rest.ends_with('.'))
    }
}

/// A file, and the names of its floating-point tensors.
enum WeightsFile<'a> {
    Pth(Pth<'a>),
    Safetensors { path: &'a Path, bytes: Vec<u8>, names: Vec<Name> },
}

impl<'a> WeightsFile<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let mut head = Vec::with_capacity(9);
        let file = open_regular(path).map_err(Error::io("open", path))?;
        file.take(9).read_to_end(&mut head).map_err(Error::io("read", path))?;
        match &head[..] {
            // `torch.save` writes a zip archive since PyTorch 1.6, and wrote a bare pickle before. A safetensors file may
            // start with the same bytes, its header's length, but has a brace after them.
            [b'P', b'K', 3, 4, _, _, _, _, after] if *after != b'{' => Ok(Self::Pth(Pth::open(path)?)),
            [0x80, _, _, _, _, _, _, _, after] if *after != b'{' => {
                let expected = "safetensors, or a .pth of PyTorch 1.6 or later";
                Err(Error::format(path, "header", expected, "an older .pth (load it and save it again)"))
            }
            _ => {
                let bytes = read_regular(path, u64::MAX).map_err(Error::io("read", path))?;
                let file = SafeTensors::deserialize(&bytes)
                    .map_err(|e| Error::format(path, "header", "safetensors or a .pth", e.to_string()))?;
                let is_float = |dtype| matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64);
                let floats = file.iter().filter(|(_, view)| is_float(view.dtype()));
                let mut names: Vec<_> =
                    floats.map(|(name, _)| Name { dict: String::new(), name: name.into() }).collect();
                // The library hands them over in the order of a hash map, and errors list them.
                names.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(Self::Safetensors { path, bytes, names })
            }
        }
    }

    fn names(&self) -> Vec<&Name> {
        match self {
            Self::Pth(file) => file.found().iter().map(|found| &found.name).collect(),
            Self::Safetensors { names, .. } => names.iter().collect(),
        }
    }

    fn read(self, wanted: impl Fn(&Name) -> bool) -> Result<Vec<(Name, Tensor)>> {
        match self {
            Self::Pth(file) => file.read(wanted),
            Self::Safetensors { path, bytes, names } => {
                let names: BTreeSet<_> = names.into_iter().filter(wanted).map(|name| name.name).collect();
                let tensors = checkpoint::some_of_bytes(&bytes, &|name| names.contains(name), &Device::Cpu)
                    .map_err(|e| Error::format(path, "tensors", "safetensors", e.to_string()))?;
                Ok(tensors.into_iter().map(|(name, tensor)| (Name { dict: String::new(), name }, tensor)).collect())
            }
        }
    }
}

/// Reads the state dict of a network that has tensors named `some`, from files that together hold it. Floating-point tensors
/// become F32, others are skipped. Dictionaries around the network, and prefixes of its names, are removed.
///
/// Of several networks with such tensors, `key` chooses; without it, or if it names several, one whose name says that it is a
/// moving average ("ema") comes first, then the one in the fewest dictionaries. A warning names the others.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read; [`Error::Format`] when it is in neither format, or has no such tensors: the error lists
/// what it has; [`Error::Config`] when no network is called `key`.
pub fn read(paths: &[PathBuf], key: Option<&str>, some: &[&str]) -> Result<State> {
    let files = paths.iter().map(|path| WeightsFile::open(path)).collect::<Result<Vec<_>>>()?;
    let names: Vec<&Name> = files.iter().flat_map(WeightsFile::names).collect();
    let places = places(&names, some);
    let [first, ..] = paths else { return Err(Error::config("files", "none", "at least one file")) };
    if places.is_empty() {
        let expected = format!("a state dict with some of the tensors {}", some.join(", "));
        return Err(Error::format(first, "tensors", expected, contents(&names)));
    }
    let place = choose(first, &places, key)?;
    let inner = |name: &Name| {
        let of = |place: &Place| name.dict == place.dict && name.name.starts_with(&place.prefix);
        // A network at the top level does not own the tensors of another one behind a prefix.
        let others = places.iter().filter(|other| other.prefix.len() > place.prefix.len());
        of(&place) && !others.into_iter().any(of)
    };
    let mut state = State::new();
    for (file, path) in files.into_iter().zip(paths) {
        for (name, tensor) in file.read(inner)? {
            let name = name.name[place.prefix.len()..].to_owned();
            let tensor = tensor.to_dtype(DType::F32).and_then(|t| t.contiguous()).map_err(gafi_nn::Error::from)?;
            if state.insert(name.clone(), tensor).is_some() {
                return Err(Error::format(path, name, "one tensor of this name", "two, in one file or several"));
            }
        }
    }
    Ok(state)
}

/// Where the networks are that have tensors named `some`.
fn places(names: &[&Name], some: &[&str]) -> BTreeSet<Place> {
    let place = |name: &Name, prefix: &str| Place { dict: name.dict.clone(), prefix: prefix.into() };
    let prefix = |name: &Name, one: &str| {
        let prefix = name.name.strip_suffix(one)?;
        (prefix.is_empty() || prefix.ends_with('.')).then(|| place(name, prefix))
    };
    names.iter().flat_map(|name| some.iter().filter_map(|one| prefix(name, one))).collect()
}

/// The place to read.
fn choose(path: &Path, places: &BTreeSet<Place>, key: Option<&str>) -> Result<Place> {
    let shown = |place: &Place| match place.label() {
        label if label.is_empty() => "the top level".to_owned(),
        label => format!("{label:?}"),
    };
    let all = || places.iter().map(shown).collect::<Vec<_>>().join(", ");
    let called = places.iter().filter(|place| key.is_none_or(|key| place.is_called(key)));
    let best = called.min_by_key(|place| (!place.is_average(), place.label().split('.').count(), place.label()));
    let Some(place) = best else {
        let expected = format!("a network of {}: {}", path.display(), all());
        return Err(Error::config("key", key.unwrap_or_default(), expected));
    };
    if places.len() > 1 && key.is_none() {
        tracing::warn!("{}: holds {}; reading {} (`key` chooses another)", path.display(), all(), shown(place));
    }
    Ok(place.clone())
}

/// What a file holds, for errors: its dictionaries, and some tensors of each.
fn contents(names: &[&Name]) -> String {
    let mut dicts = BTreeMap::<&str, Vec<&str>>::new();
    for name in names {
        dicts.entry(&name.dict).or_default().push(&name.name);
    }
    if dicts.is_empty() {
        return "no tensors of floats".into();
    }
    let dict = |(dict, names): (&str, Vec<&str>)| {
        let some = listed(&names, ", ", LISTED);
        if dict.is_empty() { some } else { format!("in {dict:?}: {some}") }
    };
    let all: Vec<_> = dicts.into_iter().map(dict).collect();
    listed(&all, "; ", LISTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.pth");
        std::fs::write(&path, bytes).unwrap();
        read(&[path], None, &["w"]).unwrap_err().to_string()
    }

    #[test]
    fn files_without_a_state_dict_are_errors() {
        assert!(error(b"").contains("safetensors or a .pth"));
        assert!(error(b"<html>").contains("safetensors or a .pth"));
        assert!(error(b"PK\x03\x04 and no archive").contains("archive: expected a zip archive"));
        assert!(error(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").contains("save it again"));
        let none = checkpoint::tensors_to_bytes(&BTreeMap::new()).unwrap();
        assert!(
            error(&none)
                .contains("tensors: expected a state dict with some of the tensors w, found no tensors of floats")
        );
    }

    #[test]
    fn floats_become_f32_and_integers_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.safetensors");
        let half = Tensor::new(&[0.5f32, -2.0], &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap();
        let count = Tensor::new(&[7i64], &Device::Cpu).unwrap();
        let tensors = [("module.a.weight".to_string(), half), ("module.a.num_batches_tracked".to_string(), count)];
        std::fs::write(&path, checkpoint::tensors_to_bytes(&tensors.into()).unwrap()).unwrap();
        let state = read(std::slice::from_ref(&path), None, &["a.weight"]).unwrap();
        assert_eq!(state.len(), 1);
        assert_eq!(state["a.weight"].to_vec1::<f32>().unwrap(), [0.5, -2.0]);
        let error = read(&[path.clone(), path], None, &["a.weight"]).unwrap_err().to_string();
        assert!(error.contains("a.weight: expected one tensor of this name"), "{error}");
    }

    #[test]
    fn places_are_called_by_their_whole_parts() {
        let place = |dict: &str, prefix: &str| Place { dict: dict.into(), prefix: prefix.into() };
        let ema = place("checkpoint.g_ema", "module.");
        assert_eq!(ema.label(), "checkpoint.g_ema");
        assert!(["checkpoint.g_ema", "checkpoint", "g_ema"].iter().all(|key| ema.is_called(key)));
        assert!(["ema", "g", "check", "module", ""].iter().all(|key| !ema.is_called(key)));
        assert!(place("", "").is_called("") && !place("", "").is_called("g_ema"));
        assert!(ema.is_average() && place("", "netG_EMA.").is_average());
        assert!(!place("", "schema.").is_average() && !place("", "generator.").is_average());
    }
}

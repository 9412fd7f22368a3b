//! Reads the tensors of PyTorch's `.pth` (1.6 and later): a zip archive with a pickle, `data.pkl`, and an entry for each
//! storage, `data/KEY`.
//!
//! Whatever the file claims is compared with what it holds before memory is allocated: texts with the pickle, storages with
//! their entries, entries with the file, and shapes, strides and offsets with the storage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use gafi_core::{Error, Result, open_regular};
use zip::{CompressionMethod, ZipArchive};

use gafi_pickle::{Fault, Id, Pickle, Value};

use super::name::Name;

/// Maximum length of a pickle in bytes. The pickle of a state dict takes about 200 bytes per tensor.
const PICKLE_MAX: u64 = 16 << 20;

/// Tensors may share a storage, but together they have at most this many times the bytes of the file.
const SHARING_MAX: u64 = 4;

/// Maximum number of dimensions of a tensor.
const RANK_MAX: usize = 16;

/// How deep dictionaries and modules may nest.
const DEPTH_MAX: usize = 24;

/// Maximum number of values that are looked at: a value may occur in many dictionaries, and is looked at in each.
const VISITS_MAX: usize = 1 << 16;

/// Maximum length of a name, with those of the dictionaries around it.
const NAME_MAX: usize = 1 << 10;

/// A `.pth` whose pickle is parsed. Tensors are read on request.
pub(super) struct Pth<'a> {
    archive: Archive<'a>,
    /// Name of the pickle's entry.
    pickle: String,
    found: Vec<Found>,
}

/// A floating-point tensor of a pickle.
pub(super) struct Found {
    pub(super) name: Name,
    /// Where it is stored; or what was expected and what was found.
    info: Result<TensorInfo, (String, String)>,
}

impl<'a> Pth<'a> {
    /// Parses the pickle of `path`, and lists the floating-point tensors of its dictionaries, of dictionaries in those, and of
    /// pickled modules. Other values are skipped.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming the entry of the archive and, in the pickle, the byte.
    pub(super) fn open(path: &'a Path) -> Result<Self> {
        let mut archive = Archive::open(path)?;
        let short = |found| if found <= PICKLE_MAX { Ok(()) } else { Err(format!("at most {PICKLE_MAX} bytes")) };
        let bytes = archive.entry("data.pkl", short)?;
        let pickle = archive.name("data.pkl");
        let parsed = Pickle::parse(&bytes).map_err(|Fault { at, expected, found }| {
            Error::format(path, format!("{pickle}, byte {at}"), expected, found)
        })?;
        if archive.has("byteorder") {
            let order = archive
                .entry("byteorder", |found| if found <= 16 { Ok(()) } else { Err("at most 16 bytes".into()) })?;
            if order != b"little" {
                let found = String::from_utf8_lossy(&order).into_owned();
                return Err(Error::format(path, archive.name("byteorder"), "little", found));
            }
        }
        let mut reader = Reader { pickle: &parsed, found: Vec::new(), visits: VISITS_MAX };
        if !reader.walk(parsed.root_id(), "", 0) {
            let found = parsed.describe(parsed.root());
            return Err(Error::format(path, pickle, "a dictionary of tensors, such as net.state_dict()", found));
        }
        let found = reader.found;
        Ok(Self { archive, pickle, found })
    }

    /// The tensors.
    pub(super) fn found(&self) -> &[Found] {
        &self.found
    }

    /// Reads the tensors that `wanted` accepts.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming the entry of the archive or the tensor.
    pub(super) fn read(self, wanted: impl Fn(&Name) -> bool) -> Result<Vec<(Name, Tensor)>> {
        let Self { mut archive, pickle, found } = self;
        let path = archive.path;
        let mut infos = Vec::new();
        for Found { name, info } in found.into_iter().filter(|found| wanted(&found.name)) {
            let info = info.map_err(|(expected, found)| {
                Error::format(path, format!("{pickle}, tensor {:?}", name.full()), expected, found)
            })?;
            infos.push((name, info));
        }
        let limit = archive.length.saturating_mul(SHARING_MAX);
        let total = infos.iter().try_fold(0u64, |sum, (_, info)| sum.checked_add(info.bytes()? as u64));
        if total.is_none_or(|total| total > limit) {
            let expected =
                format!("tensors of at most {limit} bytes together, {SHARING_MAX} times the length of the file");
            let found = total.map_or("more than 2^64".into(), |total| total.to_string());
            return Err(Error::format(path, pickle, expected, found));
        }
        let mut of_storage = BTreeMap::<String, Vec<(Name, TensorInfo)>>::new();
        for (name, info) in infos {
            of_storage.entry(info.storage.clone()).or_default().push((name, info));
        }
        let mut tensors = Vec::new();
        for (storage, infos) in of_storage {
            let bytes = archive.entry(&format!("data/{storage}"), |found| {
                match infos.iter().find(|(_, info)| info.storage_bytes() != Some(found)) {
                    None => Ok(()),
                    Some((name, TensorInfo { numel, dtype, .. })) => Err(format!(
                        "{numel} values of {}, as the pickle says of tensor {:?}",
                        dtype.as_str(),
                        name.full()
                    )),
                }
            })?;
            for (name, info) in infos {
                tensors.push((name, info.tensor(&bytes).map_err(gafi_nn::Error::from)?));
            }
        }
        Ok(tensors)
    }
}

/// An archive as `torch.save` writes it: all entries are in one folder, and none is compressed.
pub(super) struct Archive<'a> {
    path: &'a Path,
    zip: ZipArchive<BufReader<File>>,
    /// The folder, with a slash at the end; or nothing.
    root: String,
    length: u64,
    /// Bytes of entries that were read.
    read: u64,
}

impl<'a> Archive<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let file = open_regular(path).map_err(Error::io("open", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let wrong = |found: String| Error::format(path, "archive", "a zip archive as written by torch.save", found);
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|e| wrong(e.to_string()))?;
        let roots: Vec<String> = (zip.file_names_raw())
            .filter_map(|name| Some(std::str::from_utf8(name).ok()?.strip_suffix("data.pkl")?.to_owned()))
            .filter(|root| root.is_empty() || root.ends_with('/'))
            .take(2)
            .collect();
        match <[String; 1]>::try_from(roots) {
            Ok([root]) => Ok(Self { path, zip, root, length, read: 0 }),
            Err(none) if none.is_empty() => Err(wrong("no entry data.pkl".into())),
            Err(_) => Err(wrong("several entries data.pkl".into())),
        }
    }

    fn name(&self, entry: &str) -> String {
        format!("{}{entry}", self.root)
    }

    fn has(&self, entry: &str) -> bool {
        self.zip.index_for_name_raw(self.name(entry).as_bytes()).is_some()
    }

    /// Reads an entry, after `check` (which returns what it expects) has accepted its length.
    fn entry(&mut self, entry: &str, check: impl Fn(u64) -> Result<(), String>) -> Result<Vec<u8>> {
        let path = self.path;
        let name = self.name(entry);
        let wrong = |expected: &str, found: String| Error::format(path, name.clone(), expected, found);
        let mut entry = self.zip.by_name(&name).map_err(|e| wrong("a readable entry", e.to_string()))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(wrong(
                "an entry without compression, as torch.save writes it",
                entry.compression().to_string(),
            ));
        }
        let size = entry.size();
        check(size).map_err(|expected| wrong(&expected, format!("{size} bytes")))?;
        // Entries of a damaged or malicious archive may overlap, and together claim more bytes than the file has.
        self.read = self.read.saturating_add(size);
        if self.read > self.length {
            let expected = format!("entries that fit into the file's {} bytes", self.length);
            return Err(wrong(&expected, format!("at least {} bytes", self.read)));
        }
        let mut bytes = Vec::new();
        let reserved = usize::try_from(size).is_ok_and(|size| bytes.try_reserve_exact(size).is_ok());
        if !reserved {
            return Err(wrong("an entry that fits into memory", format!("{size} bytes")));
        }
        // To the end, where the checksum is compared.
        let end = (&mut entry).take(size + 1).read_to_end(&mut bytes);
        end.map_err(|e| wrong("readable data", e.to_string()))?;
        if bytes.len() as u64 != size {
            return Err(wrong(&format!("{size} bytes"), format!("the end of the entry after {}", bytes.len())));
        }
        Ok(bytes)
    }
}

/// Where a tensor is stored.
struct TensorInfo {
    dtype: DType,
    shape: Vec<usize>,
    /// Elements between neighbours of each dimension.
    strides: Vec<usize>,
    /// The first element in the storage.
    offset: usize,
    storage: String,
    /// Elements of the storage.
    numel: usize,
}

impl TensorInfo {
    /// Number of elements; `None` if the product of the lengths other than 0 overflows.
    fn elements(&self) -> Option<usize> {
        let product = self.shape.iter().try_fold(1usize, |n, side| n.checked_mul((*side).max(1)))?;
        Some(if self.shape.contains(&0) { 0 } else { product })
    }

    fn bytes(&self) -> Option<usize> {
        self.elements()?.checked_mul(self.dtype.size_in_bytes())
    }

    fn storage_bytes(&self) -> Option<u64> {
        (self.numel as u64).checked_mul(self.dtype.size_in_bytes() as u64)
    }

    /// Whether every element lies within the storage, and the tensor has no more elements than the storage. With a stride of 0
    /// it could have more.
    fn fits(&self) -> bool {
        let last = self.shape.iter().zip(&self.strides).try_fold(self.offset, |at, (side, stride)| {
            at.checked_add(side.checked_sub(1).unwrap_or(0).checked_mul(*stride)?)
        });
        match self.elements() {
            Some(0) => true,
            Some(elements) => elements <= self.numel && last.is_some_and(|last| last < self.numel),
            None => false,
        }
    }

    /// The tensor of an info that [`TensorInfo::fits`], contiguous.
    fn tensor(&self, storage: &[u8]) -> candle_core::Result<Tensor> {
        let size = self.dtype.size_in_bytes();
        let elements = self.elements().unwrap_or(0);
        let mut contiguous = 1;
        let is_contiguous = self.shape.iter().zip(&self.strides).rev().all(|(&side, &stride)| {
            let same = side == 1 || stride == contiguous;
            contiguous *= side;
            same
        });
        // The offset of a tensor without elements may be anywhere.
        if is_contiguous && elements > 0 {
            let start = self.offset * size;
            let bytes = &storage[start..start + elements * size];
            return Tensor::from_raw_buffer(bytes, self.dtype, &self.shape, &Device::Cpu);
        }
        let mut bytes = Vec::with_capacity(elements * size);
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        for _ in 0..elements {
            bytes.extend_from_slice(&storage[at * size..(at + 1) * size]);
            // The next index, the last dimension first.
            for ((i, &side), &stride) in index.iter_mut().zip(&self.shape).zip(&self.strides).rev() {
                *i += 1;
                at += stride;
                if *i < side {
                    break;
                }
                at -= *i * stride;
                *i = 0;
            }
        }
        Tensor::from_raw_buffer(&bytes, self.dtype, &self.shape, &Device::Cpu)
    }
}

/// Finds the tensors of a pickle.
struct Reader<'a> {
    pickle: &'a Pickle<'a>,
    found: Vec<Found>,
    /// How many more values may be looked at.
    visits: usize,
}

impl<'a> Reader<'a> {
    /// Lists the tensors of the dictionary or module at `id`. Returns whether it is one.
    fn walk(&mut self, id: Id, dict: &str, depth: usize) -> bool {
        let pickle = self.pickle;
        match pickle.get(id) {
            Value::Dict(items) if depth < DEPTH_MAX => {
                for (key, value) in items {
                    let Some(key) = self.visit(*key, dict) else { continue };
                    if !self.tensor(*value, dict, key) {
                        let inner = if dict.is_empty() { key.to_owned() } else { format!("{dict}.{key}") };
                        self.walk(*value, &inner, depth + 1);
                    }
                }
                true
            }
            _ => self.module(id, dict, "", depth),
        }
    }

    /// Lists the tensors of the pickled `torch.nn.Module` at `id`, whose names start with `prefix`. Returns whether it is one.
    fn module(&mut self, id: Id, dict: &str, prefix: &str, depth: usize) -> bool {
        let pickle = self.pickle;
        let Some(state) = pickle.state(id).filter(|_| depth < DEPTH_MAX) else { return false };
        let part = |name: &str| pickle.entry(state, name).map(|id| pickle.get(id));
        let Some(Value::Dict(modules)) = part("_modules") else { return false };
        for own in [part("_parameters"), part("_buffers")] {
            let Some(Value::Dict(own)) = own else { continue };
            for (key, value) in own {
                let Some(key) = self.visit(*key, prefix) else { continue };
                self.tensor(*value, dict, &format!("{prefix}{key}"));
            }
        }
        for (key, value) in modules {
            let Some(key) = self.visit(*key, prefix) else { continue };
            self.module(*value, dict, &format!("{prefix}{key}."), depth + 1);
        }
        true
    }

    /// The text at `key`, unless it makes a name too long or too many values were looked at.
    fn visit(&mut self, key: Id, before: &str) -> Option<&'a str> {
        self.visits = self.visits.checked_sub(1)?;
        match *self.pickle.get(key) {
            Value::Text(key) if before.len() + key.len() < NAME_MAX => Some(key),
            _ => None,
        }
    }

    /// Lists the value at `id` if it is a floating-point tensor. Returns whether it is a tensor.
    fn tensor(&mut self, id: Id, dict: &str, name: &str) -> bool {
        let Some(args) = self.rebuilt(id) else { return false };
        let info = self.info(args).transpose();
        self.found.extend(info.map(|info| Found { name: Name { dict: dict.into(), name: name.into() }, info }));
        true
    }

    fn tuple(&self, id: Id) -> Option<&'a [Id]> {
        match self.pickle.get(id) {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The arguments of `_rebuild_tensor_v2` if the value is a tensor, a parameter, or a subclass of a tensor.
    fn rebuilt(&self, value: Id) -> Option<&'a [Id]> {
        let (mut callable, mut args) = match self.pickle.get(value) {
            Value::Call(callable, args) => (*callable, self.tuple(*args)?),
            _ => return None,
        };
        // A parameter of a subclass nests twice.
        for _ in 0..3 {
            match self.pickle.get(callable) {
                Value::Global("torch._utils", "_rebuild_tensor_v2") => return Some(args),
                Value::Global("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                    let Value::Call(inner, inner_args) = self.pickle.get(*args.first()?) else { return None };
                    (callable, args) = (*inner, self.tuple(*inner_args)?);
                }
                Value::Global("torch._tensor", "_rebuild_from_type_v2") => {
                    (callable, args) = (*args.first()?, self.tuple(*args.get(2)?)?);
                }
                _ => return None,
            }
        }
        None
    }

    /// The tensor that `_rebuild_tensor_v2` builds from `args`: storage, offset, shape, strides, and values that are not
    /// needed. `None` for a tensor that holds no floats, such as a count of batches. The error is what was expected and
    /// what was found.
    fn info(&self, args: &[Id]) -> Result<Option<TensorInfo>, (String, String)> {
        let wrong = |expected: &str, value: Option<&Value<'a>>| {
            (expected.to_owned(), value.map_or("nothing".into(), |value| self.pickle.describe(value)))
        };
        let value = |items: &[Id], at: usize| items.get(at).map(|id| self.pickle.get(*id));
        let count = |value: Option<&Value<'a>>, expected: &str| match value {
            Some(Value::Int(int)) => usize::try_from(*int).map_err(|_| wrong(expected, value)),
            other => Err(wrong(expected, other)),
        };
        let counts = |value: Option<&'a Value<'a>>, expected: &str| match value {
            Some(Value::Tuple(items)) if items.len() <= RANK_MAX => {
                items.iter().map(|id| count(Some(self.pickle.get(*id)), expected)).collect::<Result<Vec<_>, _>>()
            }
            other => Err(wrong(expected, other)),
        };
        let expected = "a storage: a tuple (\"storage\", type, key, device, number of elements)";
        let storage = match value(args, 0) {
            Some(Value::Persistent(id)) => {
                self.tuple(*id).ok_or_else(|| wrong(expected, Some(self.pickle.get(*id))))?
            }
            other => return Err(wrong(expected, other)),
        };
        let dtype = match value(storage, 1) {
            Some(Value::Global("torch", "FloatStorage")) => DType::F32,
            Some(Value::Global("torch", "DoubleStorage")) => DType::F64,
            Some(Value::Global("torch", "HalfStorage")) => DType::F16,
            Some(Value::Global("torch", "BFloat16Storage")) => DType::BF16,
            Some(Value::Global("torch", _)) => return Ok(None),
            other => return Err(wrong("a type of storage, such as torch.FloatStorage", other)),
        };
        let key = match value(storage, 2) {
            Some(Value::Text(key)) => (*key).to_owned(),
            other => return Err(wrong("the key of a storage, a string", other)),
        };
        let info = TensorInfo {
            dtype,
            shape: counts(value(args, 2), "a shape: a tuple of up to 16 lengths")?,
            strides: counts(value(args, 3), "strides: a tuple of up to 16 distances, 0 or more")?,
            offset: count(value(args, 1), "an offset in the storage, 0 or more")?,
            storage: key,
            numel: count(value(storage, 4), "the number of elements of the storage")?,
        };
        let TensorInfo { shape, strides, offset, numel, .. } = &info;
        if shape.len() != strides.len() || !info.fits() {
            let expected = format!("a tensor within its storage of {numel} elements");
            return Err((expected, format!("shape {shape:?} with strides {strides:?} from element {offset} on")));
        }
        Ok(Some(info))
    }
}

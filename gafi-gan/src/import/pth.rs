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

/// Maximum length of a pickle in bytes. The pickle of a state dict takes about 200 bytes per tensor.
const PICKLE_MAX: u64 = 16 << 20;

/// Tensors may share a storage, but together they have at most this many times the bytes of the file.
const SHARING_MAX: u64 = 4;

/// Maximum number of dimensions of a tensor.
const RANK_MAX: usize = 16;

/// Reads the tensors of the dictionary in `path`, or of the one under its key `key`. Values that are not tensors are skipped.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] naming the entry of the archive and, in the pickle, the byte or the tensor.
pub(super) fn read(path: &Path, key: &str) -> Result<BTreeMap<String, Tensor>> {
    let mut archive = Archive::open(path)?;
    let short = |found| if found <= PICKLE_MAX { Ok(()) } else { Err(format!("at most {PICKLE_MAX} bytes")) };
    let pickle = archive.entry("data.pkl", short)?;
    let pickle_name = archive.name("data.pkl");
    let parsed = Pickle::parse(&pickle).map_err(|Fault { at, expected, found }| {
        Error::format(path, format!("{pickle_name}, byte {at}"), expected, found)
    })?;
    if archive.has("byteorder") {
        let order =
            archive.entry("byteorder", |found| if found <= 16 { Ok(()) } else { Err("at most 16 bytes".into()) })?;
        if order != b"little" {
            let found = String::from_utf8_lossy(&order).into_owned();
            return Err(Error::format(path, archive.name("byteorder"), "little", found));
        }
    }

    let infos = Reader { path, pickle: &parsed, name: &pickle_name }.tensors(key)?;
    let limit = archive.length.saturating_mul(SHARING_MAX);
    let total = infos.iter().try_fold(0u64, |sum, info| sum.checked_add(info.bytes()? as u64));
    if total.is_none_or(|total| total > limit) {
        let expected = format!("tensors of at most {limit} bytes together, {SHARING_MAX} times the length of the file");
        let found = total.map_or("more than 2^64".into(), |total| total.to_string());
        return Err(Error::format(path, pickle_name, expected, found));
    }
    let mut of_storage = BTreeMap::<String, Vec<TensorInfo>>::new();
    for info in infos {
        of_storage.entry(info.storage.clone()).or_default().push(info);
    }
    let mut tensors = BTreeMap::new();
    for (storage, infos) in of_storage {
        let bytes = archive.entry(&format!("data/{storage}"), |found| {
            match infos.iter().find(|info| info.storage_bytes() != Some(found)) {
                None => Ok(()),
                Some(TensorInfo { name, numel, dtype, .. }) => {
                    Err(format!("{numel} values of {}, as the pickle says of tensor {name:?}", dtype.as_str()))
                }
            }
        })?;
        for info in infos {
            let tensor = info.tensor(&bytes).map_err(gafi_nn::Error::from)?;
            if tensors.insert(info.name.clone(), tensor).is_some() {
                return Err(Error::format(
                    path,
                    pickle_name,
                    "one tensor of each name",
                    format!("two of {:?}", info.name),
                ));
            }
        }
    }
    Ok(tensors)
}

/// An archive as `torch.save` writes it: all entries are in one folder, and none is compressed.
struct Archive<'a> {
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
    name: String,
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
        if elements == 0 {
            return Tensor::from_raw_buffer(&[], self.dtype, &self.shape, &Device::Cpu);
        }
        let mut contiguous = 1;
        let is_contiguous = self.shape.iter().zip(&self.strides).rev().all(|(&side, &stride)| {
            let same = side == 1 || stride == contiguous;
            contiguous *= side;
            same
        });
        if is_contiguous {
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
    path: &'a Path,
    pickle: &'a Pickle<'a>,
    /// Name of the pickle's entry.
    name: &'a str,
}

impl<'a> Reader<'a> {
    fn tensors(&self, key: &str) -> Result<Vec<TensorInfo>> {
        let pickle = self.pickle;
        let dict = |value: &'a Value<'a>, place: String| match value {
            Value::Dict(items) => Ok(items),
            other => Err(Error::format(self.path, place, "a dictionary of tensors", pickle.describe(other))),
        };
        let mut items = dict(pickle.root(), self.name.into())?;
        if let Some((_, inner)) = items.iter().rev().find(|(name, _)| *pickle.get(*name) == Value::Text(key)) {
            items = dict(pickle.get(*inner), format!("{}, {key}", self.name))?;
        }
        let mut infos = Vec::new();
        for (name, value) in items {
            let Value::Text(name) = pickle.get(*name) else { continue };
            if let Some(args) = self.rebuilt(*value) {
                infos.push(self.info(name, args).map_err(|(expected, found)| {
                    Error::format(self.path, format!("{}, tensor {name:?}", self.name), expected, found)
                })?);
            }
        }
        Ok(infos)
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

    /// The tensor that `_rebuild_tensor_v2` makes of `args`: storage, offset, shape, strides, and more that is not needed. Or
    /// what was expected and found.
    fn info(&self, name: &str, args: &[Id]) -> Result<TensorInfo, (String, String)> {
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
            Some(Value::Global("torch", "ByteStorage" | "BoolStorage")) => DType::U8,
            Some(Value::Global("torch", "ShortStorage")) => DType::I16,
            Some(Value::Global("torch", "IntStorage")) => DType::I32,
            Some(Value::Global("torch", "LongStorage")) => DType::I64,
            other => {
                return Err(wrong(
                    "a type of storage: Float, Double, Half, BFloat16, Byte, Bool, Short, Int or Long",
                    other,
                ));
            }
        };
        let key = match value(storage, 2) {
            Some(Value::Text(key)) => (*key).to_owned(),
            other => return Err(wrong("the key of a storage, a text", other)),
        };
        let info = TensorInfo {
            name: name.into(),
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
        Ok(info)
    }
}

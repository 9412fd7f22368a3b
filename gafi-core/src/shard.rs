//! Shards: the safetensors files with the rows of a dataset. `docs/format.md` describes them.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::source::Batch;
use crate::spec::{ClassId, ImageSpec};

/// Which of the optional columns a shard has; the same in all shards of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Columns {
    index: bool,
    confidence: bool,
    probabilities: bool,
}

impl Columns {
    pub(crate) fn of(batch: &Batch) -> Self {
        Self {
            index: !batch.ids.is_empty(),
            confidence: batch.confidence.is_some(),
            probabilities: batch.probabilities.is_some(),
        }
    }
}

impl std::fmt::Display for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("images, labels")?;
        for (has, name) in
            [(self.index, ", index"), (self.confidence, ", confidence"), (self.probabilities, ", probabilities")]
        {
            f.write_str(if has { name } else { "" })?;
        }
        Ok(())
    }
}

/// The first value that is not a probability, and its index.
pub(crate) fn not_a_probability(values: &[f32]) -> Option<(usize, f32)> {
    values.iter().copied().enumerate().find(|(_, v)| !(0.0..=1.0).contains(v))
}

/// The bytes of a shard that holds `batch`, up to the images. They end the file, because safetensors puts wider types first, so they
/// can be written without a copy in memory.
///
/// # Errors
/// [`Error::Other`] when a column lacks rows.
pub(crate) fn encode_head(batch: &Batch, image: &ImageSpec, classes: usize) -> Result<Vec<u8>> {
    let n = batch.len();
    let floats = |v: &Option<Vec<f32>>| v.iter().flatten().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let index: Vec<u8> = batch.ids.iter().flat_map(|i| i.to_le_bytes()).collect();
    let labels: Vec<u8> = batch.labels.iter().flat_map(|c| i64::from(c.0).to_le_bytes()).collect();
    let has = Columns::of(batch);
    let columns = [
        (has.index, "index", Dtype::U64, vec![n], index),
        (true, "labels", Dtype::I64, vec![n], labels),
        (has.confidence, "confidence", Dtype::F32, vec![n], floats(&batch.confidence)),
        (has.probabilities, "probabilities", Dtype::F32, vec![n, classes], floats(&batch.probabilities)),
    ];
    let mut tensors = Vec::new();
    let mut data = Vec::new();
    for (_, name, dtype, shape, bytes) in columns.into_iter().filter(|(has, ..)| *has) {
        let data_offsets = (data.len(), data.len() + bytes.len());
        tensors.push((name.to_owned(), TensorInfo { dtype, shape, data_offsets }));
        data.extend(bytes);
    }
    let shape = vec![n, image.channels, image.height, image.width];
    let data_offsets = (data.len(), data.len() + batch.images.len());
    tensors.push(("images".to_owned(), TensorInfo { dtype: Dtype::U8, shape, data_offsets }));
    // Compares the lengths with the shapes.
    let header = Metadata::new(None, tensors).map_err(Error::other("encoding a shard"))?;
    let mut header = serde_json::to_vec(&header).map_err(Error::other("encoding a shard"))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes()[..], &header, &data].concat())
}

/// A shard with its header read and checked. Rows are read on demand.
#[derive(Debug)]
pub(crate) struct ShardFile {
    path: PathBuf,
    // None: the file is opened for each read.
    file: Option<File>,
    pub(crate) rows: usize,
    image: ImageSpec,
    classes: usize,
    data: u64,
    header: Metadata,
}

impl ShardFile {
    pub(crate) fn open(path: &Path, image: ImageSpec, classes: usize, rows: usize, keep: bool) -> Result<Self> {
        let mut file = open_regular(path).map_err(Error::io("open", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let bad = |found: String| Error::format(path, "header", "a safetensors header", found);
        let mut size = [0u8; 8];
        file.read_exact(&mut size).map_err(|_| bad(format!("a file of {length} bytes")))?;
        let size = u64::from_le_bytes(size);
        if size > 1 << 20 || size + 8 > length {
            return Err(bad(format!("a header of {size} bytes in a file of {length}")));
        }
        let mut bytes = vec![0; size as usize];
        file.read_exact(&mut bytes).map_err(Error::io("read", path))?;
        // Deserialisation checks that the tensors are adjacent and as long as their shapes.
        let header: Metadata = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let end = (8 + size).saturating_add(header.data_len() as u64);
        let mut shard = Self { path: path.into(), file: None, rows, image, classes, data: 8 + size, header };
        if end != length {
            return Err(Error::format(
                path,
                "length",
                format!("{end} bytes, according to its header"),
                format!("{length} bytes"),
            ));
        }
        shard.column("images", Dtype::U8, &[rows, image.channels, image.height, image.width])?;
        shard.column("labels", Dtype::I64, &[rows])?;
        for (name, dtype, shape) in [
            ("index", Dtype::U64, vec![rows]),
            ("confidence", Dtype::F32, vec![rows]),
            ("probabilities", Dtype::F32, vec![rows, classes]),
        ] {
            if shard.has(name) {
                shard.column(name, dtype, &shape)?;
            }
        }
        shard.file = keep.then_some(file);
        Ok(shard)
    }

    pub(crate) fn columns(&self) -> Columns {
        let [index, confidence, probabilities] = ["index", "confidence", "probabilities"].map(|name| self.has(name));
        Columns { index, confidence, probabilities }
    }

    fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// Offset in the file and length in bytes of a column of the given type and shape.
    fn column(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<(u64, usize)> {
        let expected = || format!("a tensor {name:?} of {dtype:?} {shape:?}");
        let Some(info) = self.header.info(name) else {
            return Err(Error::format(&self.path, "header", expected(), "no tensor of that name"));
        };
        if info.dtype != dtype || info.shape != shape {
            let found = format!("{:?} {:?}", info.dtype, info.shape);
            return Err(Error::format(&self.path, format!("tensor {name:?}"), expected(), found));
        }
        let (begin, end) = info.data_offsets;
        Ok((self.data + begin as u64, end - begin))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let read = match &self.file {
            Some(file) => read_exact_at(file, buffer, offset),
            None => open_regular(&self.path).and_then(|file| read_exact_at(&file, buffer, offset)),
        };
        read.map_err(Error::io("read", &self.path))
    }

    /// Rows `rows` of a column, whose shape begins with the number of rows.
    fn read_rows(&self, name: &str, dtype: Dtype, shape: &[usize], rows: &Range<usize>) -> Result<Vec<u8>> {
        let (offset, length) = self.column(name, dtype, shape)?;
        let row = length / self.rows;
        let mut bytes = vec![0; rows.len() * row];
        self.read_at(offset + (rows.start * row) as u64, &mut bytes)?;
        Ok(bytes)
    }

    /// The labels, checked to be classes.
    pub(crate) fn labels(&self) -> Result<Vec<ClassId>> {
        self.labels_of(&(0..self.rows))
    }

    fn labels_of(&self, rows: &Range<usize>) -> Result<Vec<ClassId>> {
        let bytes = self.read_rows("labels", Dtype::I64, &[self.rows], rows)?;
        let mut labels = Vec::with_capacity(rows.len());
        for (row, b) in rows.clone().zip(bytes.as_chunks::<8>().0) {
            let label = i64::from_le_bytes(*b);
            match u32::try_from(label) {
                Ok(l) if (l as usize) < self.classes => labels.push(ClassId(l)),
                _ => {
                    let expected = format!("a label from 0 to {}", self.classes.saturating_sub(1));
                    return Err(Error::format(&self.path, format!("labels, row {row}"), expected, label.to_string()));
                }
            }
        }
        Ok(labels)
    }

    /// Reads an image into `out`.
    pub(crate) fn image(&self, row: usize, out: &mut [u8]) -> Result<()> {
        let shape = [self.rows, self.image.channels, self.image.height, self.image.width];
        let (offset, _) = self.column("images", Dtype::U8, &shape)?;
        self.read_at(offset + (row * self.image.bytes()) as u64, out)
    }

    /// A row of the column `index`; `None` without that column.
    pub(crate) fn id(&self, row: usize) -> Result<Option<u64>> {
        Ok(self.ids(&(row..row + 1))?.pop())
    }

    /// Rows of the column `index`; none without that column.
    fn ids(&self, rows: &Range<usize>) -> Result<Vec<u64>> {
        if !self.has("index") {
            return Ok(Vec::new());
        }
        let bytes = self.read_rows("index", Dtype::U64, &[self.rows], rows)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect())
    }

    pub(crate) fn has_probabilities(&self) -> bool {
        self.has("probabilities")
    }

    /// A row of the column `probabilities`; `None` without that column.
    pub(crate) fn probabilities(&self, row: usize) -> Result<Option<Vec<f32>>> {
        self.floats("probabilities", &[self.rows, self.classes], &(row..row + 1))
    }

    /// Bytes of a row in memory.
    pub(crate) fn row_bytes(&self) -> usize {
        let probabilities = if self.has_probabilities() { self.classes * size_of::<f32>() } else { 0 };
        self.image.bytes() + probabilities
    }

    /// All columns of the rows `rows`; without their pixels unless `images`.
    pub(crate) fn read(&self, rows: &Range<usize>, images: bool) -> Result<Batch> {
        let shape = [self.rows, self.image.channels, self.image.height, self.image.width];
        Ok(Batch {
            labels: self.labels_of(rows)?,
            images: if images { self.read_rows("images", Dtype::U8, &shape, rows)? } else { Vec::new() },
            ids: self.ids(rows)?,
            confidence: self.floats("confidence", &[self.rows], rows)?,
            probabilities: self.floats("probabilities", &[self.rows, self.classes], rows)?,
        })
    }

    /// Rows of a column of probabilities; `None` without that column.
    fn floats(&self, name: &str, shape: &[usize], rows: &Range<usize>) -> Result<Option<Vec<f32>>> {
        if !self.has(name) {
            return Ok(None);
        }
        let bytes = self.read_rows(name, Dtype::F32, shape, rows)?;
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if let Some((at, value)) = not_a_probability(&values) {
            let per_row = values.len() / rows.len();
            let place = format!("{name}, row {}", rows.start + at / per_row);
            return Err(Error::format(&self.path, place, "a probability from 0 to 1", value.to_string()));
        }
        Ok(Some(values))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn a_shard_is_what_safetensors_would_write() {
        let image = ImageSpec::new(1, 1, 3);
        let bytes: Vec<u8> = (0..16).collect();
        let floats = [0.25f32, 0.5, 0.0, 1.0].map(f32::to_le_bytes).concat();
        let all = Batch {
            labels: vec![ClassId(1), ClassId(0)],
            images: bytes[..6].into(),
            ids: vec![7, 1 << 40],
            confidence: Some(vec![0.25, 0.5]),
            probabilities: Some(vec![0.25, 0.5, 0.0, 1.0]),
        };
        let labels = [1i64, 0].map(i64::to_le_bytes).concat();
        let ids = [7u64, 1 << 40].map(u64::to_le_bytes).concat();
        let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.into(), data).unwrap();
        let views = [
            ("images", view(Dtype::U8, &[2, 1, 1, 3], &bytes[..6])),
            ("labels", view(Dtype::I64, &[2], &labels)),
            ("index", view(Dtype::U64, &[2], &ids)),
            ("confidence", view(Dtype::F32, &[2], &floats[..8])),
            ("probabilities", view(Dtype::F32, &[2, 2], &floats)),
        ];
        let few = Batch { ids: vec![], confidence: None, probabilities: None, ..all.clone() };
        for (batch, views) in [(&all, &views[..]), (&few, &views[..2])] {
            let written = [encode_head(batch, &image, 2).unwrap(), batch.images.clone()].concat();
            assert_eq!(written, safetensors::serialize(views.iter().cloned(), None).unwrap());
        }
        let short = Batch { images: vec![0; 5], ..few };
        assert!(encode_head(&short, &image, 2).is_err());
    }
}

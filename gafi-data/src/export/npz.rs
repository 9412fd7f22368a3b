//! One NumPy archive, uncompressed as by `numpy.savez`. Each array takes one pass over the dataset.
//!
//! The formats: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::fs::File;
use std::io::{BufWriter, Write};

use gafi_core::{Batch, Error, Result};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::exporter::{Exporter, Folders, interleaved};

const NAME: &str = "dataset.npz";

pub(super) fn write(exporter: &Exporter<'_>) -> Result<Folders> {
    let rows = exporter.set.labels().len();
    let spec = exporter.info.image;
    let classes = exporter.info.classes.len();
    let mut archive = Archive { exporter, zip: ZipWriter::new(exporter.out.create(NAME)?) };

    let mut shape = vec![rows, spec.height, spec.width];
    shape.extend((spec.channels != 1).then_some(spec.channels));
    archive.column("images", "|u1", &shape, |shard| {
        shard.images.chunks_exact(spec.bytes()).flat_map(|image| interleaved(image, spec)).collect()
    })?;
    archive.array("labels", "<i8", &[rows])?;
    for labels in exporter.set.labels().chunks(1 << 16) {
        archive.put(&labels.iter().flat_map(|l| i64::from(l.0).to_le_bytes()).collect::<Vec<u8>>())?;
    }
    // NumPy strings are UTF-32, padded to the length of the longest.
    let longest = exporter.info.classes.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(1);
    archive.array("classes", &format!("<U{longest}"), &[classes])?;
    for name in &exporter.info.classes {
        let mut text: Vec<u8> = name.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        text.resize(4 * longest, 0);
        archive.put(&text)?;
    }
    if exporter.extra.confidence {
        archive.column("confidence", "<f4", &[rows], |shard| floats(shard.confidence.as_deref()))?;
    }
    if exporter.extra.probabilities {
        archive.column("probabilities", "<f4", &[rows, classes], |shard| floats(shard.probabilities.as_deref()))?;
    }
    let mut file = archive.zip.finish().map_err(Error::other(format!("writing {NAME}")))?;
    file.flush().map_err(exporter.failed(NAME))?;
    Ok(Folders::new())
}

fn floats(values: Option<&[f32]>) -> Vec<u8> {
    values.into_iter().flatten().flat_map(|x| x.to_le_bytes()).collect()
}

struct Archive<'a, 'b> {
    exporter: &'a Exporter<'b>,
    zip: ZipWriter<BufWriter<File>>,
}

impl Archive<'_, '_> {
    /// Begins an array; its values follow.
    fn array(&mut self, name: &str, descr: &str, shape: &[usize]) -> Result<()> {
        // `large_file`, because the length of an entry is unknown when it begins and may exceed 32 bits.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::DEFAULT)
            .unix_permissions(0o644)
            .large_file(true);
        let begun = self.zip.start_file(format!("{name}.npy"), options);
        begun.map_err(Error::other(format!("writing {name} to {NAME}")))?;
        self.put(&header(descr, shape))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.zip.write_all(bytes).map_err(self.exporter.failed(NAME))
    }

    /// Writes an array in one pass over the dataset.
    fn column(&mut self, name: &str, descr: &str, shape: &[usize], of: impl Fn(&Batch) -> Vec<u8>) -> Result<()> {
        self.array(name, descr, shape)?;
        self.exporter.each_shard(|_, shard| self.put(&of(&shard)))
    }
}

/// A header of NumPy's format version 1, padded to a multiple of 64 bytes.
fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let sides: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let sides = if shape.len() == 1 { sides.trim_end() } else { sides.trim_end_matches(", ") };
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sides}), }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let padded = format!("{text:<width$}\n", width = length - 1);
    [b"\x93NUMPY\x01\x00", &(length as u16).to_le_bytes()[..], padded.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_match_numpys() {
        for (shape, text) in [(&[5][..], "(5,)"), (&[5, 28, 28], "(5, 28, 28)")] {
            let bytes = header("|u1", shape);
            let expected = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {text}, }}");
            assert_eq!(bytes.len() % 64, 0);
            assert_eq!(usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), bytes.len() - 10);
            assert_eq!(String::from_utf8_lossy(&bytes[10..]).trim_end(), expected);
            assert_eq!(bytes.last(), Some(&b'\n'));
        }
    }
}

//! The binary version of CIFAR-10: records of a label byte and 3,072 values (red plane, green, blue), the order of our shards.
//!
//! The format: <https://www.cs.toronto.edu/~kriz/cifar.html>. Training rows are divided into five files, because readers require
//! all five that were published.

use std::io::Write;

use gafi_core::{DatasetInfo, ImageSpec, Result, Split};

use super::exporter::{Exporter, Folders, unfit};
use super::options::ExportFormat;

const SPEC: ImageSpec = ImageSpec::new(3, 32, 32);
const BATCHES: usize = 5;

pub(super) fn check(info: &DatasetInfo) -> Result<()> {
    let wrong = |expected: &str, found| Err(unfit(ExportFormat::CifarBin, expected, found));
    if info.image != SPEC {
        let expected = "images of 3x32x32 (channels x rows x columns); import the dataset with size = 32 and \
                        channels = 3 to convert it";
        return wrong(expected, info.image.to_string());
    }
    if info.classes.len() > 256 {
        return wrong("at most 256 classes, because a label is one byte", info.classes.len().to_string());
    }
    // Class names are lines of a file, and readers trim lines.
    match info.classes.iter().find(|name| name.is_empty() || name.trim() != *name || name.contains(char::is_control)) {
        Some(name) => wrong("class names of one line, without spaces at either end", format!("{name:?}")),
        None => Ok(()),
    }
}

pub(super) fn write(exporter: &Exporter<'_>) -> Result<Folders> {
    let rows = exporter.set.labels().len();
    // Each file, and the row at which it ends. With fewer than five rows some files are empty.
    let names: Vec<(String, usize)> = match exporter.info.split {
        Split::Train | Split::TrainVal | Split::Synthetic => {
            (1..=BATCHES).map(|b| (format!("data_batch_{b}.bin"), rows * b / BATCHES)).collect()
        }
        Split::Val | Split::Screen => vec![("val_batch.bin".into(), rows)],
        Split::Test | Split::TestAsVal => vec![("test_batch.bin".into(), rows)],
    };
    let mut files = Vec::new();
    for (name, end) in &names {
        files.push((exporter.out.create(name)?, name, *end));
    }
    exporter.each_shard(|first, shard| {
        for (i, image) in shard.images.chunks_exact(SPEC.bytes()).enumerate() {
            // The last file ends at the last row.
            let Some((file, name, _)) = files.iter_mut().find(|(_, _, end)| first + i < *end) else { break };
            // `check` ensures that a label fits into a byte.
            let label = [shard.labels[i].0 as u8];
            file.write_all(&label).and_then(|()| file.write_all(image)).map_err(exporter.failed(name))?;
        }
        Ok(())
    })?;
    for (mut file, name, _) in files {
        file.flush().map_err(exporter.failed(name))?;
    }
    let names: String = exporter.info.classes.iter().map(|name| format!("{name}\n")).collect();
    exporter.file("batches.meta.txt", names.as_bytes())?;
    Ok(Folders::new())
}

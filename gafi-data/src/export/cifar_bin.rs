//! The binary version of CIFAR-10: records of a label byte and 3,072 pixels (red plane, green, blue), which is how our
//! shards hold them.
//!
//! The format: <https://www.cs.toronto.edu/~kriz/cifar.html>. Training rows are dealt out to five files, as published:
//! its readers ask for all of them.

use std::io::Write;

use gafi_core::{DatasetInfo, ImageSpec, Result, Split};

use super::{ExportFormat, Folders, Job, unfit};

const SPEC: ImageSpec = ImageSpec::new(3, 32, 32);
const BATCHES: usize = 5;

pub(super) fn check(info: &DatasetInfo) -> Result<()> {
    let wrong = |expected: &str, found| Err(unfit(ExportFormat::CifarBin, expected, found));
    if info.image != SPEC {
        let expected = "images of 3x32x32 (channels, rows, columns); `gafi-cli import DATASET` with size = 32 and \
                        channels = 3 reshapes";
        return wrong(expected, info.image.to_string());
    }
    if info.classes.len() > 256 {
        return wrong("at most 256 classes, since a label is one byte", info.classes.len().to_string());
    }
    // They become the lines of a file whose readers trim them.
    match info.classes.iter().find(|name| name.is_empty() || name.trim() != *name || name.contains(char::is_control)) {
        Some(name) => wrong("class names of one line, without blanks at the ends", format!("{name:?}")),
        None => Ok(()),
    }
}

pub(super) fn write(job: &Job<'_>) -> Result<Folders> {
    let rows = job.set.labels().len();
    let files: Vec<(String, usize)> = match job.info.split {
        Split::Train | Split::Synthetic => {
            let ends = (1..=BATCHES).map(|b| (format!("data_batch_{b}.bin"), rows * b / BATCHES));
            ends.collect()
        }
        Split::Val => vec![("val_batch.bin".into(), rows)],
        Split::Test | Split::TestAsVal => vec![("test_batch.bin".into(), rows)],
    };
    let mut rest = files.iter();
    let mut open = None;
    job.each_shard(|first, shard| {
        for (i, image) in shard.images.chunks_exact(SPEC.bytes()).enumerate() {
            // Of fewer than five rows some files are empty.
            while open.as_ref().is_none_or(|(_, end, _)| first + i >= *end) {
                if let Some((name, _, mut file)) = open.take() {
                    Write::flush(&mut file).map_err(job.failed(name))?;
                }
                let Some((name, end)) = rest.next() else { return Ok(()) };
                open = Some((name, *end, job.out.create(name)?));
            }
            if let Some((name, _, file)) = &mut open {
                // Below 256: `check` saw to it.
                let label = [shard.labels[i].0 as u8];
                file.write_all(&label).and_then(|()| file.write_all(image)).map_err(job.failed(name))?;
            }
        }
        Ok(())
    })?;
    if let Some((name, _, mut file)) = open {
        file.flush().map_err(job.failed(name))?;
    }
    let names: String = job.info.classes.iter().map(|name| format!("{name}\n")).collect();
    job.file("batches.meta.txt", names.as_bytes())?;
    Ok(Folders::new())
}

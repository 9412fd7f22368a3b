//! Seconds to import 60,000 PNG files of 32x32 from parquet (50,000 training and 10,000 test images, as CIFAR-10 on the hub), with every
//! default: hashing, the first pass with the check for leaks, all splits written.
//!
//! `cargo bench -p gafi-data --profile dev -- [--rows N] [--python PYTHON]`. With `--python`, `datasets` and Pillow decode the same files
//! in turn with each import.
#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use gafi_core::Context;
use gafi_data::{ImportConfig, import_all};
use image::{DynamicImage, ImageFormat, RgbImage, imageops};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// A smooth image with a little noise, which compresses about as well as a photograph.
fn png(number: u64) -> Vec<u8> {
    let mut state = number;
    // Knuth's linear congruential generator.
    let mut random = |most: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % most) as u8
    };
    let coarse = RgbImage::from_fn(5, 5, |_, _| image::Rgb([random(256), random(256), random(256)]));
    let mut image = imageops::resize(&coarse, 32, 32, imageops::FilterType::CatmullRom);
    image.iter_mut().for_each(|value| *value = value.saturating_add(random(17)));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(image).write_to(&mut bytes, ImageFormat::Png).expect("a small image can be encoded");
    bytes.into_inner()
}

fn write(path: &Path, rows: usize, first: u64) -> Result<(), Box<dyn std::error::Error>> {
    let schema = "message schema { optional group img { optional binary bytes; } optional int64 label; }";
    let schema = Arc::new(parse_message_type(schema)?);
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(std::fs::File::create(path)?, schema, properties)?;
    for start in (0..rows).step_by(1000) {
        let mut group = writer.next_row_group()?;
        let images: Vec<ByteArray> = (start..start + 1000).map(|row| png(first + row as u64).into()).collect();
        let labels: Vec<i64> = (start..start + 1000).map(|row| row as i64 % 10).collect();
        if let Some(mut column) = group.next_column()? {
            column.typed::<ByteArrayType>().write_batch(&images, Some(&[2; 1000]), None)?;
            column.close()?;
        }
        if let Some(mut column) = group.next_column()? {
            column.typed::<Int64Type>().write_batch(&labels, Some(&[1; 1000]), None)?;
            column.close()?;
        }
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

/// The value after `name` on the command line.
fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows: usize = option("--rows").map_or(Ok(60_000), |rows| rows.parse())?;
    let python = option("--python");
    // The writer makes groups of 1,000 rows.
    let test = (rows / 6).next_multiple_of(1000);
    let train = rows.saturating_sub(test).next_multiple_of(1000);
    let dir = tempfile::tempdir()?;
    write(&dir.path().join("train.parquet"), train, 0)?;
    write(&dir.path().join("test.parquet"), test, train as u64)?;
    for run in 0..3 {
        let out = dir.path().join(format!("out-{run}"));
        let start = Instant::now();
        import_all(&ImportConfig::at(dir.path()), &out, &Context::default())?;
        let seconds = start.elapsed().as_secs_f64();
        println!("{{\"case\": \"import\", \"rows\": {}, \"seconds\": {seconds:.2}}}", train + test);
        std::fs::remove_dir_all(out)?;
        if let Some(python) = &python {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/peers/datasets_import.py");
            let status = Command::new(python).arg(script).arg(dir.path()).status()?;
            if !status.success() {
                return Err("datasets_import.py failed".into());
            }
        }
    }
    Ok(())
}

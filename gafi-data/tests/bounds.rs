//! Small files that claim more than memory holds, or decompress to it. They are read in a process with little memory, which aborts if
//! memory grows with the claim.
#![cfg(target_os = "linux")]

mod common;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use common::*;
use gafi_core::{Context, Dataset, ImageSpec, Inputs, Rows, Split, execute};
use gafi_data::{Import, ImportConfig, PredictionOptions, read_predictions};

const MIB: usize = 1 << 20;

/// Runs [`child_process`] on `path` in a process with `limit` bytes of address space, and returns what it prints.
fn with_little_memory(what: &str, path: &Path, limit: usize) -> String {
    let run = "ulimit -v $LIMIT && exec \"$0\" child_process --exact --ignored --nocapture --test-threads 1";
    let output = Command::new("sh")
        .args(["-c", run])
        .arg(std::env::current_exe().unwrap())
        // Threads reserve address space for their stacks and allocations.
        .envs([("RAYON_NUM_THREADS", "2"), ("MALLOC_ARENA_MAX", "2"), ("WHAT", what)])
        .env("LIMIT", (limit / 1024).to_string())
        .env("AT", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "run by other tests"]
#[allow(clippy::print_stdout, reason = "the other tests read it")]
fn child_process() {
    let at = std::env::var_os("AT").unwrap();
    let at = Path::new(&at);
    let done = match std::env::var("WHAT").unwrap().as_str() {
        "predictions" => {
            let classes = ["cat".to_owned(), "dog".to_owned()];
            read_predictions(at, &classes, 3, &PredictionOptions::default()).map(|labels| format!("{labels:?}"))
        }
        "large" => import_shards(at),
        _ => import(&ImportConfig { test_fraction: Some(0.2), ..ImportConfig::at(at) }, Split::Train)
            .map(|(info, _)| info.image.to_string()),
    };
    println!("{}", done.unwrap_or_else(|error| error.to_string()));
}

/// Imports the training split and reads it back. Returns its rows, shape and number of shards.
fn import_shards(at: &Path) -> gafi_core::Result<String> {
    let config = ImportConfig { test_fraction: Some(0.2), ..ImportConfig::at(at) };
    let stage = Import::new(&config, Split::Train, &Context::default())?;
    let made = execute(&stage, &Inputs::new(), &at.with_file_name("set"), &Context::default())?;
    let set = Dataset::open(&made.artifact)?;
    let mut rows = 0;
    for batch in set.batches() {
        rows += batch?.len();
    }
    Ok(format!("{rows} images of {} in {} shards", set.info().image, set.info().shards.len()))
}

#[track_caller]
fn says(printed: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| printed.contains(part)), "{parts:?} in {printed}");
}

#[test]
fn labels_are_not_inflated_beyond_the_number_of_images() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let grey = ImageSpec::new(1, 5, 7);
    // 1 MiB that inflates to 1 GiB: gzip allows one file after another.
    let zeros = gzip(&vec![0; 16 * MIB]).repeat(64);
    let head = |words: &[u32]| gzip(&words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>());
    let labels = [head(&[0x0801, 1 << 30]), zeros.clone()].concat();
    write(at("idx/train-images-idx3-ubyte.gz"), &gzip(&idx_images(6, grey)));
    write(at("idx/train-labels-idx1-ubyte.gz"), &labels);
    let printed = with_little_memory("import", &at("idx"), 512 * MIB);
    says(&printed, &["train-labels", "expected 6 labels, one for each image", "found 1073741824"]);

    // The same number of images, claimed.
    write(at("idx/train-images-idx3-ubyte.gz"), &head(&[0x0803, 1 << 30, 1, 1]));
    says(&with_little_memory("import", &at("idx"), 512 * MIB), &["train-images", "a header that claims 1073741840"]);
    write(at("idx/train-images-idx3-ubyte.gz"), &[head(&[0x0803, 1 << 30, 1, 1]), zeros].concat());
    says(&with_little_memory("import", &at("idx"), 512 * MIB), &["train-images", "rows, found 1073741824"]);

    let images: Vec<u8> = (0..6).flat_map(|row| picture(row, grey)).collect();
    let labels = npy("|u1", &format!("({},)", 512 * MIB), &vec![0; 512 * MIB]);
    write(at("labels.npz"), &npz(&[("images", npy("|u1", "(6, 5, 7)", &images)), ("labels", labels)], true));
    let printed = with_little_memory("import", &at("labels.npz"), 512 * MIB);
    says(&printed, &["labels, header: expected shape (6) or (6, 1)", "found (536870912,)"]);

    let claim = npy("|u1", "(99999999, 16384, 16384)", &[0; 64]);
    write(at("images.npz"), &npz(&[("images", claim), ("labels", npy("|u1", "(6,)", &[0; 6]))], true));
    let printed = with_little_memory("import", &at("images.npz"), 512 * MIB);
    says(&printed, &["images, header: expected at most", "a header that claims 26843545331564544"]);
}

#[test]
fn predictions_are_not_read_beyond_the_number_of_rows() {
    let dir = tempfile::tempdir().unwrap();
    let sparse = |name: &str, head: &[u8]| {
        let path = dir.path().join(name);
        let mut file = File::create(&path).unwrap();
        file.write_all(head).unwrap();
        file.set_len(4 << 30).unwrap();
        path
    };
    let array = sparse("labels.npy", &npy("|u1", "(4294967168,)", &[]));
    let printed = with_little_memory("predictions", &array, 512 * MIB);
    says(&printed, &["length: expected 3 predictions", "found 4294967168"]);
    let scores = sparse("scores.npy", &npy("<f4", "(536870896, 2)", &[]));
    says(
        &with_little_memory("predictions", &scores, 512 * MIB),
        &["length: expected 3 predictions", "found 536870896"],
    );
    let line = sparse("line.csv", b"label\ncat\ndog\n");
    says(&with_little_memory("predictions", &line, 512 * MIB), &["line.csv: content", "a line that is too long"]);
    let more = dir.path().join("more.csv");
    write(&more, &[&b"label\n"[..], &b"cat\n".repeat(1 << 20)].concat());
    says(&with_little_memory("predictions", &more, 512 * MIB), &["length: expected 3 predictions", "found more"]);
}

/// 64 images of 9 MB: neither a batch nor a shard holds all of them.
#[test]
fn large_images_are_imported_in_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let image = image::RgbImage::from_fn(2000, 1500, |x, y| image::Rgb([x as u8, y as u8, 7]));
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    for row in 0..90 {
        write(dir.path().join(format!("images/{}/{row}.png", row % 2)), png.get_ref());
    }
    let printed = with_little_memory("large", &dir.path().join("images"), 1024 * MIB);
    says(&printed, &["64 images of 3x1500x2000 in 2 shards"]);
}

/// The header is enough to refuse an image.
#[test]
fn an_image_that_is_too_large_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    // A PNG whose header claims 16384 x 16384 pixels of 6 bytes.
    let header = [&16384u32.to_be_bytes()[..], &16384u32.to_be_bytes(), &[16, 2, 0, 0, 0]].concat();
    let chunk = |name: &[u8], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(name);
        crc.update(data);
        [&(data.len() as u32).to_be_bytes()[..], name, data, &crc.sum().to_be_bytes()].concat()
    };
    let png =
        [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header), &chunk(b"IDAT", &[0; 8]), &chunk(b"IEND", &[])].concat();
    for row in 0..8 {
        write(dir.path().join(format!("images/{}/{row}.png", row % 2)), &png);
    }
    let printed = with_little_memory("import", &dir.path().join("images"), 512 * MIB);
    says(&printed, &["an image of 16384x16384 pixels (rows x columns), 1610612736 bytes when decoded, more than"]);
}

//! Images and labels: the formats of an import, and files of predictions.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use gafi_core::{Split, Stream};
use gafi_data::{
    Channels, ExportFormat, ExportOptions, Fit, Format, Import, ImportConfig, LabelForm, PredictionOptions,
    export_dataset, read_predictions,
};
use image::{DynamicImage, ImageFormat};

use crate::scratch::{CLASSES, Squares, cx, empty, folder, put, show};

/// Imports the images at `path`, without writing them: labels, shapes, every pixel.
fn import(path: &Path, format: Format) {
    let same_size = ImportConfig { format, val_per_class: Some(1), ..ImportConfig::at(path) };
    let resized = ImportConfig { size: Some(3), fit: Some(Fit::Resize), channels: Channels::Rgb, ..same_size.clone() };
    for config in [same_size, resized] {
        let Some(import) = show(Import::new(&config, Split::TrainVal, cx())) else { return };
        show(import.survey());
        show(import.preview());
        show(import.sample(100, &Stream::new(0), cx()));
    }
}

/// The files of an export of small squares.
fn exported(format: ExportFormat, squares: &Squares) -> Vec<(String, Vec<u8>)> {
    let artifact = squares.write(&format!("squares-{}-{}", squares.channels, squares.size));
    let out = folder().join(format!("export-{}-{}", squares.channels, format.name()));
    let _ = fs::remove_dir_all(&out);
    export_dataset(&artifact, format, &ExportOptions::default(), &out, cx()).expect("small datasets can be exported");
    let mut folders = vec![out];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("an export is a folder") {
            let path = entry.expect("an export can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.display().to_string(), fs::read(&path).expect("an export can be read")));
            }
        }
    }
    files.sort();
    files
}

fn exports(format: ExportFormat, end: &str) -> Vec<Vec<u8>> {
    let squares = |channels, size| Squares { channels, size, rows: 3, split: Split::Train };
    let sets = match format {
        ExportFormat::CifarBin => vec![squares(3, 32)],
        _ => vec![squares(1, 4), squares(3, 5)],
    };
    let files = sets.iter().flat_map(|set| exported(format, set));
    files.filter(|(name, _)| name.ends_with(end)).map(|(_, bytes)| bytes).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(bytes).and_then(|()| packed.finish()).expect("writing to memory does not fail")
}

/// An IDX file: its magic number, its sizes, a byte for each value.
fn idx(magic: u32, sizes: &[u32]) -> Vec<u8> {
    let values = (0..sizes.iter().product::<u32>()).map(|value| value as u8 % 2);
    [magic].iter().chain(sizes).flat_map(|word| word.to_be_bytes()).chain(values).collect()
}

pub(crate) fn idx_image_files() -> Vec<Vec<u8>> {
    let file = idx(0x803, &[6, 4, 3]);
    vec![gzip(&file), file]
}

pub(crate) fn idx_label_files() -> Vec<Vec<u8>> {
    let file = idx(0x801, &[6]);
    vec![gzip(&file), file]
}

pub(crate) fn idx_images(input: &[u8]) {
    put("idx/train-labels-idx1-ubyte", &idx(0x801, &[6]));
    put("idx/train-images-idx3-ubyte", input);
    import(&folder().join("idx"), Format::Idx);
}

pub(crate) fn idx_labels(input: &[u8]) {
    put("idx-labels/train-images-idx3-ubyte", &idx(0x803, &[6, 4, 3]));
    put("idx-labels/train-labels-idx1-ubyte", input);
    import(&folder().join("idx-labels"), Format::Idx);
}

pub(crate) fn npz_files() -> Vec<Vec<u8>> {
    exports(ExportFormat::Npz, ".npz")
}

pub(crate) fn npz(input: &[u8]) {
    import(&put("set.npz", input), Format::Npz);
}

pub(crate) fn parquet_files() -> Vec<Vec<u8>> {
    exports(ExportFormat::Parquet, ".parquet")
}

pub(crate) fn parquet(input: &[u8]) {
    import(&put("train.parquet", input), Format::Parquet);
}

pub(crate) fn cifar_files() -> Vec<Vec<u8>> {
    let ten = [exports(ExportFormat::CifarBin, ".bin").concat()];
    // CIFAR-100 has a second byte before each image.
    let hundred = ten.iter().map(|file| file.chunks(3073).flat_map(|record| [&[0], record].concat()).collect());
    ten.iter().cloned().chain(hundred).collect()
}

pub(crate) fn cifar(input: &[u8]) {
    put("cifar/batches.meta.txt", b"cat\ndog\n");
    import(&put("cifar/data_batch_1.bin", input), Format::Cifar10);
    import(&put("cifar/train.bin", input), Format::Cifar100);
}

pub(crate) fn cifar_name_files() -> Vec<Vec<u8>> {
    vec![b"cat\ndog\n".into(), b"\xef\xbb\xbfcat\r\nsmall dog\r\n\r\n".into()]
}

pub(crate) fn cifar_names(input: &[u8]) {
    let record = |label: u8| [vec![label], vec![9; 3072]].concat();
    put("cifar-names/data_batch_1.bin", &[0, 1, 0, 1].map(record).concat());
    put("cifar-names/batches.meta.txt", input);
    import(&folder().join("cifar-names"), Format::Cifar10);
}

pub(crate) fn image_files() -> Vec<Vec<u8>> {
    let encode = |image: &DynamicImage, format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("small images can be encoded");
        bytes.into_inner()
    };
    let grey = DynamicImage::new_luma8(9, 7);
    let kinds = [DynamicImage::new_rgb8(8, 8), DynamicImage::new_rgba8(5, 6), DynamicImage::new_rgb16(4, 4)];
    let mut files: Vec<_> = kinds.iter().chain([&grey]).map(|image| encode(image, ImageFormat::Png)).collect();
    files.extend([&kinds[0], &grey].map(|image| encode(image, ImageFormat::Jpeg)));
    files
}

pub(crate) fn image(input: &[u8]) {
    let images = empty("images");
    for class in CLASSES {
        put(&format!("images/{class}/1.png"), input);
        put(&format!("images/{class}/2.jpg"), input);
    }
    import(&images, Format::Folder);
}

pub(crate) fn all_files() -> Vec<Vec<u8>> {
    [idx_image_files(), npz_files(), parquet_files(), cifar_files(), image_files()].concat()
}

/// A file whose format has to be found first.
pub(crate) fn any_format(input: &[u8]) {
    for name in ["any/images.bin", "any/t10k-images"] {
        import(&put(name, input), Format::Auto);
    }
}

pub(crate) fn prediction_files() -> Vec<Vec<u8>> {
    let array = |kind: &str, shape: &str, values: &[u8]| {
        let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        [&b"\x93NUMPY\x01\0"[..], &(text.len() as u16).to_le_bytes(), text.as_bytes(), values].concat()
    };
    let floats: Vec<u8> = [0.25f32, 0.75, 0.5, 0.5, 1.0, 0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    vec![
        array("|u1", "(3,)", &[0, 1, 0]),
        array(">i8", "(3, 1)", &[[0, 0, 0, 0, 0, 0, 0, 1]; 3].concat()),
        array("<f4", "(3, 2)", &floats),
        b"prediction\ncat\ndog\ncat\n".into(),
        b"row,label,\"y_pred\"\n0,cat,1\n1,dog,0\n2,cat,1\n".into(),
        b"cat,dog\n0.25,0.75\n1e-3,0.9\n-1,2\n".into(),
        b"0;1\r\n\"0.5\";0.5\r\n".into(),
    ]
}

pub(crate) fn predictions(input: &[u8]) {
    let path = put("predictions", input);
    let classes = CLASSES.map(String::from);
    let numbers = ["1", "0"].map(String::from);
    let column = PredictionOptions { column: Some("y_pred".into()), labels: Some(LabelForm::Numbers) };
    for (classes, options) in
        [(&classes, PredictionOptions::default()), (&classes, column), (&numbers, Default::default())]
    {
        if let Some(labels) = show(read_predictions(&path, classes, 3, &options)) {
            assert!(
                labels.len() == 3 && labels.iter().all(|label| label.index() < 2),
                "a prediction that is not a class"
            );
        }
    }
}

//! Images and labels: the formats of an import, and files of predictions.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use gafi_core::{Split, Stream};
use gafi_data::{
    Channels, ExportFormat, ExportOptions, Fit, Format, Import, ImportConfig, LabelForm, PredictionOptions,
    export_dataset, read_predictions,
};
use gafi_pickle::Pickle;
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

/// Pickles like those of CIFAR: of Python 2, and of Python 3 in protocol 4.
pub(crate) fn cifar_pickles() -> Vec<Vec<u8>> {
    let data = [[9; 3072], [70; 3072], [9; 3072], [200; 3072]].concat();
    let length = (data.len() as u32).to_le_bytes();
    let python2 = [
        &b"\x80\x02}q\x01(U\x06labelsq\x04]q\x05(K\x00K\x01K\x00K\x01eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07"[..],
        b"cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01K\x04M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b",
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T",
        &length,
        &data,
        b"tbu.",
    ];
    let python3 = [
        &b"\x80\x05\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94(C\x0bfine_labels\x94](K\x00K\x01K\x00K\x01e\x8c\x04data\x94"[..],
        b"\x8c\x13numpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(\x96",
        &(data.len() as u64).to_le_bytes(),
        &data,
        b"\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\xff\xff\xff",
        b"J\xff\xff\xff\xffK\x00t\x94bK\x04M\x00\x0c\x86\x94\x8c\x01C\x94t\x94R\x94u.",
    ];
    vec![python2.concat(), python3.concat()]
}

pub(crate) fn cifar_pickle(input: &[u8]) {
    put("cifar-pickle/batches.meta", b"\x80\x02}U\x0blabel_names](U\x03catU\x03doges.");
    import(&put("cifar-pickle/data_batch_1", input), Format::Cifar10);
    put("cifar-meta/data_batch_1", &cifar_pickles()[0]);
    put("cifar-meta/batches.meta", input);
    import(&folder().join("cifar-meta"), Format::Cifar10);
}

/// Every value of a pickle as each kind that a reader asks for.
pub(crate) fn pickle(input: &[u8]) {
    let Ok(pickle) = Pickle::parse(input) else { return };
    let root = pickle.root_id();
    let _ = (pickle.describe(pickle.root()), pickle.array(root), pickle.integers(root), pickle.text(root));
    for key in ["labels", "fine_labels", "data"] {
        if let Some(value) = pickle.entry(root, key) {
            let _ = pickle.integers(value);
            if let Ok(array) = pickle.array(value) {
                assert_eq!(array.shape.iter().product::<usize>() * array.width, array.data.len());
            }
        }
    }
}

/// A `.mat` file with an image of each class, plain and compressed.
pub(crate) fn mat_files() -> Vec<Vec<u8>> {
    let variable = |name: u8, sides: &[u32], values: &[u8]| {
        let word = |value: u32| value.to_le_bytes().to_vec();
        let padded = |mut bytes: Vec<u8>| {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes
        };
        let sides: Vec<u8> = sides.iter().flat_map(|side| side.to_le_bytes()).collect();
        let body = [
            [word(6), word(8), vec![9, 0, 0, 0, 0, 0, 0, 0]].concat(),
            padded([word(5), word(sides.len() as u32), sides].concat()),
            padded([word(1 | 1 << 16), vec![name]].concat()),
            padded([word(2), word(values.len() as u32), values.to_vec()].concat()),
        ];
        let body = body.concat();
        [word(14), word(body.len() as u32), body].concat()
    };
    let variables = [variable(b'X', &[4, 3, 3, 6], &[77; 216]), variable(b'y', &[6, 1], &[1, 2, 1, 2, 1, 2])];
    let mut plain = format!("{:<124}", "MATLAB 5.0 MAT-file").into_bytes();
    plain.extend(b"\x00\x01IM");
    let mut packed = plain.clone();
    for variable in &variables {
        plain.extend(variable);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        let zlib = zlib.write_all(variable).and_then(|()| zlib.finish()).expect("writing to memory does not fail");
        packed.extend([&15u32.to_le_bytes()[..], &(zlib.len() as u32).to_le_bytes(), &zlib].concat());
    }
    vec![plain, packed]
}

pub(crate) fn mat(input: &[u8]) {
    import(&put("train_32x32.mat", input), Format::Mat);
}

/// Archives of class folders: tar, tar.gz, zip.
pub(crate) fn archives() -> Vec<Vec<u8>> {
    let images = image_files();
    let mut tar = tar::Builder::new(Vec::new());
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (row, image) in images.iter().take(4).enumerate() {
        let name = format!("{}/{row}.png", CLASSES[row % 2]);
        let mut header = tar::Header::new_gnu();
        header.set_size(image.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, &name, &image[..]).expect("writing to memory does not fail");
        zip.start_file(name, zip::write::SimpleFileOptions::default()).expect("names are short");
        zip.write_all(image).expect("writing to memory does not fail");
    }
    let tar = tar.into_inner().expect("writing to memory does not fail");
    vec![gzip(&tar), tar, zip.finish().expect("writing to memory does not fail").into_inner()]
}

pub(crate) fn archive(input: &[u8]) {
    import(&put("archive", input), Format::Auto);
}

/// Files of labels and lists of images, for the images `one.png` to `four.png`.
pub(crate) fn label_tables() -> Vec<Vec<u8>> {
    vec![
        b"id,label\none,cat\ntwo,dog\nthree,cat\nfour,dog\n".into(),
        b"\xef\xbb\xbffile;age;species;split\r\none.png;3;cat;train\r\n\"two.png\";4;dog;test\r\nthree.png;1;dog;train\r\n".into(),
        b"image,cat,dog,is_valid\none,1.0,0.0,True\ntwo,0,1,False\nthree,1,0,0\n".into(),
        b"# a list\nimages/one.png 1\nimages/two.png 0\n".into(),
        b"one.png\tsmall dog\t1\ntwo.png\tcat\t2\n".into(),
        b"{\"file_name\": \"one.png\", \"label\": 1}\n{\"file_name\": \"two.png\", \"label\": null}\n".into(),
        b"{\"labels\": [[\"00000/one.png\", 1], [\"two.png\", 0]]}".into(),
        b"{\"labels\": {\"one.png\": 1, \"two.png\": 0}}".into(),
    ]
}

/// A table beside flat images, beside class folders, and for a part without class folders.
pub(crate) fn label_table(input: &[u8]) {
    let image = &image_files()[0];
    let names = ["one", "two", "three", "four"];
    for name in names {
        put(&format!("flat/images/{name}.png"), image);
        put(&format!("part/train/{}/{name}.png", name.len() % 2), image);
        put(&format!("part/test/{name}.png"), image);
        put(&format!("listed/{}/{name}.png", name.len() % 2), image);
    }
    for root in ["flat", "part", "listed"] {
        for name in ["labels.csv", "train.txt", "metadata.jsonl", "dataset.json"] {
            let table = put(&format!("{root}/{name}"), input);
            import(&folder().join(root), Format::Folder);
            fs::remove_file(table).expect("the file was just written");
        }
    }
}

/// Shards of images of both classes.
pub(crate) fn webdataset_files() -> Vec<Vec<u8>> {
    exports(ExportFormat::WebDataset, ".tar")
}

pub(crate) fn webdataset(input: &[u8]) {
    import(&put("shards/train-000000.tar", input), Format::WebDataset);
    put("shards/classes.json", br#"["cat", "dog"]"#);
    import(&folder().join("shards"), Format::Auto);
}

/// Names of classes beside shards.
pub(crate) fn webdataset_name_files() -> Vec<Vec<u8>> {
    vec![br#"["cat", "dog"]"#.into(), br#"{"classes": ["cat", "dog"], "folders": ["a", "b"]}"#.into()]
}

pub(crate) fn webdataset_names(input: &[u8]) {
    static SHARD: OnceLock<Vec<u8>> = OnceLock::new();
    put("names/train-000000.tar", SHARD.get_or_init(|| webdataset_files().swap_remove(0)));
    put("names/classes.json", input);
    import(&folder().join("names"), Format::Auto);
}

pub(crate) fn emnist_name_files() -> Vec<Vec<u8>> {
    vec![b"0 48\n1 65 97\n".into(), b"1 65 97\r\n2 66 98\r\n".into()]
}

pub(crate) fn emnist_names(input: &[u8]) {
    let images = put("emnist/emnist-letters-train-images-idx3-ubyte", &idx(0x803, &[6, 4, 3]));
    put("emnist/emnist-letters-train-labels-idx1-ubyte", &idx(0x801, &[6]));
    put("emnist/emnist-letters-mapping.txt", input);
    import(&images, Format::Idx);
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
    files.extend(
        [ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::Gif, ImageFormat::WebP].map(|f| encode(&kinds[0], f)),
    );
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
    let files =
        [idx_image_files(), npz_files(), parquet_files(), cifar_files(), cifar_pickles(), mat_files(), archives()];
    [files.concat(), image_files()].concat()
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

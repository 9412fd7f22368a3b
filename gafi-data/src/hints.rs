//! What error messages say about a path without a readable set: what is there, what could be there, and how to convert it.

use std::fs;
use std::path::Path;

/// How to convert files that the import doesn't read, by the end of their names.
const CONVERSIONS: [(&str, &str); 13] = [
    (
        ".npy",
        "pack the arrays into one file: np.savez('set.npz', x_train=..., y_train=..., x_test=..., y_test=...), where y has the number of \
         the class of each image of x",
    ),
    ("fer2013.csv", FER),
    (".csv", PIXELS),
    (
        "_X.bin",
        "pack STL-10 into arrays, for train and test: np.savez('set.npz', x_train=np.fromfile('train_X.bin', \
         np.uint8).reshape(-1, 3, 96, 96).swapaxes(2, 3), y_train=np.fromfile('train_y.bin', np.uint8))",
    ),
    (".h5", HDF5),
    (".h5.gz", HDF5),
    (".hdf5", HDF5),
    (".tfrecord", "convert the records with tensorflow_datasets: write the images as PNG, in one folder per class"),
    (".mdb", "convert LMDB: write the images as PNG, in one folder per class"),
    (".arrow", "convert Arrow files of datasets with Dataset.to_parquet"),
    (".zip", "unpack the archives inside"),
    (".tar", "unpack the archives inside"),
    (".mat", "write the labels of .mat files, which scipy.io.loadmat reads, as a CSV with the columns file and label"),
];

const HDF5: &str = "convert HDF5 with h5py: np.savez('set.npz', x=f['images'][:], y=f['labels'][:])";

const FER: &str = "pack FER2013 into arrays: t = pandas.read_csv('fer2013.csv'); x = np.stack([np.array(p.split(), np.uint8) \
                   for p in t.pixels]).reshape(-1, 48, 48); y = t.emotion.to_numpy(); r = (t.Usage == 'Training').to_numpy(); \
                   np.savez('set.npz', x_train=x[r], y_train=y[r], x_test=x[~r], y_test=y[~r])";

/// How to convert a table with a column for each pixel.
pub(crate) const PIXELS: &str = "pack the columns of pixels into arrays, here with the label in the first column: t = np.loadtxt('train.csv', delimiter=',', \
     skiprows=1, dtype=np.uint8); np.savez('set.npz', x_train=t[:, 1:], y_train=t[:, 0]), the same as x_test and y_test from a \
     test file with labels; skiprows=0 for a file without a header; .reshape(-1, 28, 28).swapaxes(1, 2) for EMNIST, which is transposed";

/// How to convert a file of that name; `None` if there is no advice.
pub(crate) fn conversion(name: &str) -> Option<&'static str> {
    // Shards have a number after the extension: `mnist-train.tfrecord-00000-of-00001`.
    let ends = |end: &str| name.ends_with(end) || name.contains(&format!("{end}-"));
    CONVERSIONS.iter().find_map(|(end, how)| ends(end).then_some(*how))
}

/// How deep, and in how many files, [`advice`] looks.
const DEPTH: usize = 3;
const FILES: usize = 4096;

/// How to convert what a folder holds, itself or in its subfolders; `None` if there is no advice.
pub(crate) fn advice(path: &Path) -> Option<&'static str> {
    let mut folders = vec![(path.to_path_buf(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = folders.pop() {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).take(FILES - seen).collect();
        paths.sort_unstable();
        seen += paths.len();
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                folders.extend((depth < DEPTH && !name.starts_with('.')).then_some((path, depth + 1)));
            } else if let Some(how) = conversion(name) {
                return Some(how);
            }
        }
    }
    None
}

/// What an import could read from a folder, and how to convert what it holds instead.
pub(crate) fn expected_files(path: &Path) -> String {
    let how = advice(path).map(|how| format!("; {how}")).unwrap_or_default();
    let known = "IDX, CIFAR or .mat files, parquet, one .npz, a GaFi dataset (manifest.json), or one folder of images per class";
    format!("{known}{how}")
}

/// What a folder holds: its first six names.
pub(crate) fn contents(path: &Path) -> String {
    let Ok(entries) = fs::read_dir(path) else { return "a file".into() };
    let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    match names.len() {
        0 => "an empty folder".into(),
        n if n > 6 => format!("{}, … ({n} entries)", names[..6].join(", ")),
        _ => names.join(", "),
    }
}

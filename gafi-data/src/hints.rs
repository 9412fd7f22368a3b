//! What error messages say about a path without a readable set: what is there, what could be there, and how to convert it.

use std::fs;
use std::path::Path;

/// How to convert files that the import doesn't read, by the end of their names.
const CONVERSIONS: [(&str, &str); 9] = [
    (".npy", "pack the arrays into one file: np.savez('set.npz', x_train=..., y_train=..., x_test=..., y_test=...)"),
    (
        ".csv",
        "pack the columns of pixels into arrays: t = np.loadtxt('train.csv', delimiter=',', skiprows=1, dtype=np.uint8); \
         np.savez('set.npz', x=t[:, 1:], y=t[:, 0])",
    ),
    (
        "_X.bin",
        "pack STL-10 into arrays, for train and test: np.savez('set.npz', x_train=np.fromfile('train_X.bin', \
         np.uint8).reshape(-1, 3, 96, 96).swapaxes(2, 3), y_train=np.fromfile('train_y.bin', np.uint8))",
    ),
    (".h5", "convert HDF5 with h5py: np.savez('set.npz', x=f['images'][:], y=f['labels'][:])"),
    (".hdf5", "convert HDF5 with h5py: np.savez('set.npz', x=f['images'][:], y=f['labels'][:])"),
    (".tfrecord", "convert the records with tensorflow_datasets: write the images as PNG, in one folder per class"),
    (".mdb", "convert LMDB: write the images as PNG, in one folder per class"),
    (".zip", "unpack the archives inside"),
    (".tar", "unpack the archives inside"),
];

/// How to convert a file of that name; `None` if there is no advice.
pub(crate) fn conversion(name: &str) -> Option<&'static str> {
    // Shards have a number after the extension: `mnist-train.tfrecord-00000-of-00001`.
    let ends = |end: &str| name.ends_with(end) || name.contains(&format!("{end}-"));
    CONVERSIONS.iter().find_map(|(end, how)| ends(end).then_some(*how))
}

/// What an import could read from a folder, and how to convert what it holds instead.
pub(crate) fn expected_files(path: &Path) -> String {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    let how = names.iter().find_map(|name| conversion(name)).map(|how| format!("; {how}")).unwrap_or_default();
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

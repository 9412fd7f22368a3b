//! Zip and tar archives of a set, and hostile ones.

use super::common::*;
use super::{LABELS, grey};

/// A tar archive of files, and a link out of it.
fn tar(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    for (name, bytes) in files {
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    archive.append_link(&mut header, "link", "/etc/passwd").unwrap();
    archive.into_inner().unwrap()
}

fn zip_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    use std::io::Write;
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[test]
fn archives_of_a_set_are_read_like_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let images: Vec<(&str, Vec<u8>)> = ["cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"]
        .into_iter()
        .enumerate()
        .map(|(row, name)| (name, png(row, GREY)))
        .collect();
    for (name, bytes) in &images {
        write(dir.path().join("folder").join(name), bytes);
    }
    let expected = import_rows(&at(dir.path().join("folder"))).unwrap();
    assert_eq!(expected.0.classes, ["cat", "dog"]);
    write(dir.path().join("set.zip"), &zip_of(&images));
    write(dir.path().join("set.tar"), &tar(&images));
    write(dir.path().join("set.tgz"), &gzip(&tar(&images)));
    for name in ["set.zip", "set.tar", "set.tgz"] {
        let found = import_rows(&at(dir.path().join(name))).unwrap();
        assert_eq!((&found.0.classes, &found.1), (&expected.0.classes, &expected.1), "{name}");
    }
    let idx = [
        ("MNIST/raw/train-images-idx3-ubyte", idx_images(6, GREY)),
        ("MNIST/raw/train-labels-idx1-ubyte", idx_labels(&LABELS)),
    ];
    write(dir.path().join("idx.tar.gz"), &gzip(&tar(&idx)));
    expect_pictures(&import_rows(&at(dir.path().join("idx.tar.gz"))).unwrap(), &LABELS, GREY);
    // A zip file of arrays is a NumPy archive, whatever its name.
    let arrays = npz(&[("images", grey(6)), ("labels", npy("|u1", "(6,)", &LABELS))], true);
    write(dir.path().join("arrays.zip"), &arrays);
    expect_pictures(&import_rows(&at(dir.path().join("arrays.zip"))).unwrap(), &LABELS, GREY);
}

#[test]
fn hostile_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |name: &str, bytes: &[u8], parts: &[&str]| {
        write(dir.path().join(name), bytes);
        expect_error(&at(dir.path().join(name)), parts);
    };
    fails("out.zip", &zip_of(&[("../out.png", vec![1])]), &["archive: expected file names", "found ../out.png"]);
    assert!(!dir.path().join("out.png").exists());
    fails("bomb.zip", &zip_of(&[("a/0.png", vec![0; 64 << 20])]), &["at most 200 times the length of the archive"]);
    fails("bomb.tgz", &gzip(&tar(&[("a/0.png", vec![0; 64 << 20])])), &["at most 200 times the length of the archive"]);
    fails("set.tar.xz", b"\xfd7zXZ\0\0", &["a zip, tar or tar.gz archive (unpack others first), found xz"]);
    let whole = gzip(&tar(&[("a/0.png", png(0, GREY)), ("a/1.png", png(1, GREY))]));
    fails("cut.tgz", &whole[..whole.len() - 60], &["cut.tgz: "]);
}

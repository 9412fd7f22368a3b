//! Unpacks zip and tar archives of a set into a temporary folder, which is then read like any other.

use std::fs::{self, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use gafi_core::{Error, Result, open_regular};
use zip::ZipArchive;

use crate::note::{Note, NoteKind};

/// Maximum number of entries of an archive.
const ENTRIES_MAX: usize = 1 << 22;
/// Deepest folder in an archive.
const DEPTH_MAX: usize = 16;
/// An archive may unpack to [`RATIO_MAX`] times its length plus [`SLACK`] bytes. Sets of images compress far less; more is a bomb.
const RATIO_MAX: u64 = 200;
const SLACK: u64 = 16 << 20;

/// The type of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Zip,
    Tar,
    TarGz,
}

/// An unpacked archive, removed when dropped.
#[derive(Debug)]
pub(crate) struct Unpacked {
    _temp: tempfile::TempDir,
    /// The folder of the files. It is named like the archive.
    pub(crate) folder: PathBuf,
    /// Counts links and special files, which are skipped.
    pub(crate) notes: Vec<Note>,
}

/// The type of the archive at `path`; `None` for other files, NumPy archives among them.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] for an unsupported archive, such as xz.
pub(crate) fn kind(path: &Path) -> Result<Option<Kind>> {
    let mut file = BufReader::new(open_regular(path).map_err(Error::io("open", path))?);
    let mut head = Vec::new();
    (&mut file).take(512).read_to_end(&mut head).map_err(Error::io("read", path))?;
    let is_tar = |head: &[u8]| head.get(257..262) == Some(b"ustar");
    if let Some(name) = [
        (&b"BZh"[..], "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        (b"Rar!", "RAR"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
    ]
    .iter()
    .find_map(|(magic, name)| head.starts_with(magic).then_some(*name))
    {
        return Err(Error::format(path, "first bytes", "a zip, tar or tar.gz archive (unpack others first)", name));
    }
    if head.starts_with(b"PK\x03\x04") {
        file.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
        // A damaged zip file is left to the reader of NumPy archives, whose error describes the damage.
        let Ok(archive) = ZipArchive::new(file) else { return Ok(None) };
        let mut names = archive.file_names_raw().filter(|name| !name.ends_with(b"/")).peekable();
        let only_arrays = names.peek().is_some() && names.all(|name| name.ends_with(b".npy"));
        return Ok((!only_arrays && path.extension().is_none_or(|e| e != "npz")).then_some(Kind::Zip));
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        file.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
        let mut inflated = Vec::new();
        // The reader of the format reports damage.
        let _ = MultiGzDecoder::new(file).take(512).read_to_end(&mut inflated);
        return Ok(is_tar(&inflated).then_some(Kind::TarGz));
    }
    Ok(is_tar(&head).then_some(Kind::Tar))
}

/// Unpacks an archive into a temporary folder. Names that lead out of the folder are an error; links and special files are skipped.
///
/// # Errors
/// [`Error::Format`] for a damaged archive, or one with more entries or bytes than the limits; [`Error::Io`].
pub(crate) fn unpack(path: &Path, kind: Kind) -> Result<Unpacked> {
    let temp = tempfile::Builder::new().prefix("gafi-unpacked-").tempdir();
    let temp = temp.map_err(Error::io("create a temporary folder for", path))?;
    let file = open_regular(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let folder = temp.path().join(path.file_name().unwrap_or_default());
    fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
    let mut unpacker = Unpacker {
        path,
        folder,
        left: length.saturating_mul(RATIO_MAX).saturating_add(SLACK),
        entries: 0,
        skipped: Note::new(NoteKind::Skipped, 0, "links and special files in the archive"),
    };
    let file = BufReader::with_capacity(1 << 17, file);
    match kind {
        Kind::Zip => unpacker.zip(file)?,
        Kind::Tar => unpacker.tar(file)?,
        Kind::TarGz => unpacker.tar(MultiGzDecoder::new(file))?,
    }
    let notes = if unpacker.skipped.count > 0 { vec![unpacker.skipped] } else { Vec::new() };
    Ok(Unpacked { _temp: temp, folder: unpacker.folder, notes })
}

struct Unpacker<'a> {
    path: &'a Path,
    folder: PathBuf,
    /// Bytes left of the limit.
    left: u64,
    entries: usize,
    skipped: Note,
}

impl Unpacker<'_> {
    fn damaged(&self, e: impl std::fmt::Display) -> Error {
        Error::format(self.path, "archive", "a readable archive", e.to_string())
    }

    fn zip(&mut self, file: impl Read + Seek) -> Result<()> {
        let mut archive = ZipArchive::new(file).map_err(|e| self.damaged(e))?;
        for at in 0..archive.len() {
            let mut entry = archive.by_index(at).map_err(|e| self.damaged(e))?;
            let name = PathBuf::from(entry.name().map_err(|e| self.damaged(e))?.into_owned());
            if entry.is_dir() {
                self.count()?;
            } else if entry.is_symlink() {
                self.skip(&name)?;
            } else {
                self.write(&name, &mut entry)?;
            }
        }
        Ok(())
    }

    fn tar(&mut self, file: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(file);
        for entry in archive.entries().map_err(|e| self.damaged(e))? {
            let mut entry = entry.map_err(|e| self.damaged(e))?;
            let name = entry.path().map_err(|e| self.damaged(e))?.into_owned();
            match entry.header().entry_type() {
                tar::EntryType::Directory | tar::EntryType::XGlobalHeader => self.count()?,
                kind if kind.is_file() => self.write(&name, &mut entry)?,
                _ => self.skip(&name)?,
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        self.entries += 1;
        if self.entries <= ENTRIES_MAX {
            return Ok(());
        }
        Err(Error::format(self.path, "archive", format!("at most {ENTRIES_MAX} entries"), "more"))
    }

    fn skip(&mut self, name: &Path) -> Result<()> {
        self.count()?;
        self.skipped.add(|| name.display().to_string());
        Ok(())
    }

    fn write(&mut self, name: &Path, from: &mut dyn Read) -> Result<()> {
        self.count()?;
        let parts: Option<Vec<&std::ffi::OsStr>> = name
            .components()
            .filter(|part| *part != Component::CurDir)
            .map(|part| if let Component::Normal(part) = part { Some(part) } else { None })
            .collect();
        let Some(parts) = parts.filter(|parts| (1..=DEPTH_MAX).contains(&parts.len())) else {
            let expected = format!("file names inside the archive, at most {DEPTH_MAX} folders deep");
            return Err(Error::format(self.path, "archive", expected, name.display().to_string()));
        };
        let to: PathBuf = std::iter::once(self.folder.as_os_str()).chain(parts).collect();
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&to).map_err(Error::io("create", &to))?;
        let mut file = BufWriter::new(file);
        let mut limited = from.take(self.left.saturating_add(1));
        let written = io::copy(&mut limited, &mut file).map_err(|e| match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::io("write", &to)(e),
            _ => Error::format(self.path, name.display().to_string(), "readable data", e.to_string()),
        })?;
        io::Write::flush(&mut file).map_err(Error::io("write", &to))?;
        let Some(left) = self.left.checked_sub(written) else {
            let expected = format!(
                "at most {RATIO_MAX} times the length of the archive when unpacked (unpack a larger one yourself)"
            );
            return Err(Error::format(self.path, "archive", expected, "more"));
        };
        self.left = left;
        Ok(())
    }
}

//! Fashion-MNIST from Debian's package `dataset-fashion-mnist`, without root: apt downloads the package, dpkg unpacks it,
//! and the IDX files move to the user's data folder. Nothing is installed.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gafi_core::{Context, Error, FolderWriter, Result, Split, open_regular};

use super::lookup::user_folder;
use super::set::NamedSet;
use crate::discover::Discovered;
use crate::format::Format;
use crate::formats::folder::FolderKeys;
use crate::formats::idx;

const PACKAGE: &str = "dataset-fashion-mnist";
/// Where the package's files are, relative to where it is unpacked.
const UNPACKED: &str = "usr/share/datasets/fashion-mnist";
/// Time limit for updating the package lists (about 10 MB).
const UPDATE_LIMIT: Duration = Duration::from_secs(120);
/// Time limit for downloading the package (31 MB).
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(240);
/// Time limit for unpacking the package.
const UNPACK_LIMIT: Duration = Duration::from_secs(60);
/// The error of [`run`] for a program that is not installed.
const MISSING: &str = "no such program";

/// Downloads a named set from its Debian package into the user's data folder (`$XDG_DATA_HOME/gafi`, or
/// `~/.local/share/gafi`), where imports look first. Returns the set's folder, without a download if it already holds the images.
///
/// Only Fashion-MNIST has such a package. The download runs `apt-get download` and `dpkg-deb --extract` in a temporary folder inside
/// the data folder. It needs no root, installs nothing and writes nowhere else. If the system's package lists don't have the
/// package, it uses fresh lists of its own.
///
/// # Errors
/// [`Error::Config`] for another set; [`Error::Other`] when a program is missing or fails, with the command that installs the
/// images; [`Error::Locked`] while another process downloads the set and `cx.wait` is off; [`Error::Occupied`] when the set's folder holds
/// something else; [`Error::Interrupted`]; [`Error::Io`].
pub fn fetch_debian(set: NamedSet, cx: &Context) -> Result<PathBuf> {
    if set != NamedSet::FashionMnist {
        return Err(Error::config("set", set, "fashion-mnist, the only named set with a Debian package"));
    }
    let data =
        user_folder().ok_or_else(|| failed("neither XDG_DATA_HOME nor HOME is set to an absolute path".into()))?;
    Debian { data, path: std::env::var_os("PATH") }.fetch(cx)
}

fn failed(why: String) -> Error {
    let help = format!("`apt-get install {PACKAGE}` (as root) installs the images; an import also tries the hub");
    Error::other(format!("fetching fashion-mnist from the Debian package {PACKAGE}"))(format!("{why}; {help}"))
}

/// Where the set is written, and where the programs are found.
struct Debian {
    data: PathBuf,
    /// `PATH` of the programs.
    path: Option<OsString>,
}

impl Debian {
    fn fetch(&self, cx: &Context) -> Result<PathBuf> {
        let dest = self.data.join(NamedSet::FashionMnist.name());
        if is_whole(&dest) {
            return Ok(dest);
        }
        // The writer's lock also protects the temporary folder.
        let writer = FolderWriter::begin(&dest, false, cx)?;
        let temp = Temporary::create(self.data.join(".fashion-mnist.fetch"))?;
        self.download(&temp.0, cx)?;
        let package = package_in(&temp.0)?;
        let unpacked = temp.0.join("unpacked");
        let mut unpack = self.command("dpkg-deb", &temp.0);
        run(unpack.arg("--extract").arg(package).arg(&unpacked), UNPACK_LIMIT, cx)?.map_err(failed)?;
        let folder = unpacked.join(UNPACKED);
        if !is_whole(&folder) {
            return Err(failed(format!("the package has no training and test images in /{UNPACKED}")));
        }
        let found = idx::find(&folder, None)?;
        for (images, labels) in found.into_iter().flat_map(|pairs| [Some(pairs.train), pairs.test]).flatten() {
            copy(&images, &writer)?;
            copy(&labels, &writer)?;
        }
        writer.finish()?;
        Ok(dest)
    }

    /// Downloads the package into `temp`, with the system's package lists, or else with fresh ones.
    fn download(&self, temp: &Path, cx: &Context) -> Result<()> {
        let mut task = cx.progress.begin(&format!("download {PACKAGE}"), None);
        cx.progress.log(&format!("downloading Fashion-MNIST (31 MB) from the Debian package {PACKAGE}"));
        let mut download = self.apt(temp, &[]);
        match run(download.args(["download", PACKAGE]), DOWNLOAD_LIMIT, cx)? {
            Ok(()) => return Ok(()),
            Err(why) if why.ends_with(MISSING) => return Err(failed(why)),
            Err(_) => {}
        }
        task.note("package lists");
        cx.progress.log("the system's package lists don't have it; downloading fresh lists (10 MB)");
        let lists = temp.join("lists");
        fs::create_dir_all(lists.join("partial")).map_err(Error::io("create", &lists))?;
        let mut option = OsString::from("Dir::State::lists=");
        option.push(&lists);
        // A failed update may still leave usable lists, so the download decides.
        let updated = run(self.apt(temp, &[&option]).arg("update"), UPDATE_LIMIT, cx)?;
        task.note("package");
        let mut download = self.apt(temp, &[&option]);
        let downloaded = run(download.args(["download", PACKAGE]), DOWNLOAD_LIMIT, cx)?;
        downloaded.map_err(|why| failed(updated.err().map_or(why.clone(), |first| format!("{first}; {why}"))))
    }

    /// `apt-get` with its working folder and cache in `temp`.
    fn apt(&self, temp: &Path, options: &[&OsString]) -> Command {
        let mut cache = OsString::from("Dir::Cache=");
        cache.push(temp.join("cache"));
        let mut apt = self.command("apt-get", temp);
        apt.arg("-q").arg("-c").arg(temp.join("apt.conf")).arg("-o").arg(cache);
        for option in options {
            apt.arg("-o").arg(option);
        }
        apt
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(program);
        // The child's PATH also decides where the program itself is found.
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command.current_dir(folder).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// Settings for every call of apt. Hooks of the system's configuration are off, because they would write to the system's folders.
/// As root, apt would download as another user, who may not write here.
const APT_CONF: &str = r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"#;

/// A temporary folder, removed when dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn create(path: PathBuf) -> Result<Self> {
        // Left by a process that was killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("cache/archives/partial")).map_err(Error::io("create", &path))?;
        let temp = Self(path);
        gafi_core::write_atomic(&temp.0.join("apt.conf"), APT_CONF.as_bytes())?;
        Ok(temp)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), "cannot remove the temporary folder: {e}");
        }
    }
}

/// Whether a folder has the IDX files of both splits.
fn is_whole(folder: &Path) -> bool {
    Discovered::at(folder, Format::Idx, &FolderKeys::default())
        .is_ok_and(|found| found.has(Split::Train) && found.has(Split::Test))
}

fn package_in(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut packages = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "deb"));
    packages.next().ok_or_else(|| failed("apt-get downloaded no package".into()))
}

/// Copies a file into the folder of `writer`.
fn copy(from: &Path, writer: &FolderWriter) -> Result<()> {
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let mut file = open_regular(from).map_err(Error::io("open", from))?;
    let mut to = writer.create(&name)?;
    io::copy(&mut file, &mut to).and_then(|_| to.flush()).map_err(Error::io("copy", from))
}

/// Runs `command` for at most `limit`. The inner error says why it failed, with one line of its stderr.
fn run(command: &mut Command, limit: Duration, cx: &Context) -> Result<std::result::Result<(), String>> {
    cx.checkpoint()?;
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()).filter(|a| !a.contains(['/', '='])));
    let name = words.into_iter().filter(|word| !word.starts_with('-')).collect::<Vec<_>>().join(" ");
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err(format!("{name}: {MISSING}"))),
        Err(e) => return Ok(Err(format!("{name} did not start: {e}"))),
    };
    let (send, printed) = mpsc::channel();
    if let Some(mut stderr) = child.stderr.take() {
        // On a thread, because a full pipe would block the program.
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            let _ = send.send(String::from_utf8_lossy(&text).into_owned());
        });
    }
    let begin = Instant::now();
    let status = loop {
        let stopped = cx.checkpoint();
        let ended = child.try_wait();
        let late = begin.elapsed() > limit;
        if stopped.is_err() || late || ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
            stopped?;
        }
        match ended {
            Ok(Some(status)) => break status,
            Ok(None) if late => return Ok(Err(format!("{name} was stopped after {} s", limit.as_secs()))),
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(e) => return Ok(Err(format!("waiting for {name} failed: {e}"))),
        }
    };
    if status.success() {
        return Ok(Ok(()));
    }
    let printed = printed.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    // apt's first error is the cause; its last one summarises.
    let lines = || printed.lines().map(str::trim).filter(|line| !line.is_empty());
    let why = lines().find(|line| line.starts_with("E:")).or_else(|| lines().next_back()).unwrap_or("no message");
    Ok(Err(format!("{name} ended with {status}: {why}")))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::Ordering;

    use super::*;

    /// A folder for data and one for programs, with fakes of `apt-get` and `dpkg-deb`.
    struct Machine {
        root: tempfile::TempDir,
    }

    /// Unpacks the four files, as the package does.
    const DPKG_DEB: &str = r#"[ "$1" = --extract ] && [ -f "$2" ] || exit 2
mkdir -p "$3/usr/share/datasets/fashion-mnist" "$3/usr/share/doc"
for name in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do
  echo "$name" > "$3/usr/share/datasets/fashion-mnist/$name-ubyte.gz"
done"#;

    impl Machine {
        fn new(apt_get: Option<&str>, dpkg_deb: Option<&str>) -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("bin")).unwrap();
            for (name, script) in [("apt-get", apt_get), ("dpkg-deb", dpkg_deb)] {
                let Some(script) = script else { continue };
                let path = root.path().join("bin").join(name);
                let calls = root.path().join("calls").display().to_string();
                fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\necho \"$@\" >> '{calls}'\n{script}\n"))
                    .unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            Self { root }
        }

        fn data(&self) -> PathBuf {
            self.root.path().join("data/gafi")
        }

        fn fetch(&self, cx: &Context) -> Result<PathBuf> {
            Debian { data: self.data(), path: Some(self.root.path().join("bin").into()) }.fetch(cx)
        }

        fn error(&self) -> String {
            let error = self.fetch(&Context::default()).unwrap_err();
            std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string)
        }

        /// The arguments of each program, in order.
        fn calls(&self) -> Vec<String> {
            let text = fs::read_to_string(self.root.path().join("calls")).unwrap_or_default();
            text.lines().map(Into::into).collect()
        }

        /// The contents of the data folder, apart from locks.
        fn left(&self) -> Vec<String> {
            let entries = fs::read_dir(self.data()).into_iter().flatten().flatten();
            let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
            names.filter(|name| !name.ends_with(".lock")).collect()
        }
    }

    #[test]
    fn the_package_is_downloaded_and_unpacked_once() {
        let machine = Machine::new(Some("touch dataset-fashion-mnist_1_all.deb"), Some(DPKG_DEB));
        let folder = machine.fetch(&Context::default()).unwrap();
        assert_eq!(folder, machine.data().join("fashion-mnist"));
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names.len(), 5);
        assert_eq!(names[0], gafi_core::FILES_LIST);
        assert_eq!(names[1], "t10k-images-idx3-ubyte.gz");
        assert_eq!(fs::read(folder.join("train-labels-idx1-ubyte.gz")).unwrap(), b"train-labels-idx1\n");
        assert_eq!(machine.left(), ["fashion-mnist"], "no temporary folder is left");
        assert_eq!(machine.calls().len(), 2);
        assert_eq!(machine.fetch(&Context::default()).unwrap(), folder);
        assert_eq!(machine.calls().len(), 2, "an existing set is not fetched again");
    }

    #[test]
    fn private_lists_are_fetched_when_the_systems_do_not_suffice() {
        let apt = r#"case "$*" in
  *update) for o; do case "$o" in Dir::State::lists=*) touch "${o#*=}/list" ;; esac; done ;;
  *download*) [ -f lists/list ] || { echo "E: Unable to locate package" >&2; exit 100; }; touch x.deb ;;
esac"#;
        let machine = Machine::new(Some(apt), Some(DPKG_DEB));
        machine.fetch(&Context::default()).unwrap();
        let calls = machine.calls();
        let verbs: Vec<&str> =
            calls[..3].iter().map(|c| if c.contains("update") { "update" } else { "download" }).collect();
        assert_eq!(verbs, ["download", "update", "download"]);
        let data = machine.data().display().to_string();
        assert!(calls[..3].iter().all(|call| call.contains(&format!("Dir::Cache={data}/"))), "{calls:?}");
        assert!(calls[1..3].iter().all(|call| call.contains(&format!("Dir::State::lists={data}/"))), "{calls:?}");
        assert!(calls.iter().all(|call| !call.contains("install")), "{calls:?}");
    }

    #[test]
    fn failures_name_the_step_and_the_command_that_helps() {
        let help = "`apt-get install dataset-fashion-mnist` (as root) installs the images";
        let failing = "echo 'W: old' >&2; echo \"E: no network for $1\" >&2; exit 100";
        for (machine, parts) in [
            (Machine::new(None, None), ["apt-get download dataset-fashion-mnist: no such program", help]),
            (Machine::new(Some(failing), None), ["apt-get update ended with exit status: 100: E: no network", help]),
            (Machine::new(Some("true"), None), ["apt-get downloaded no package", help]),
            (Machine::new(Some("touch x.deb"), None), ["dpkg-deb: no such program", help]),
            (
                Machine::new(Some("touch x.deb"), Some("echo 'not a package' >&2; exit 2")),
                ["dpkg-deb ended with", "not a package"],
            ),
            (
                Machine::new(Some("touch x.deb"), Some("mkdir -p \"$3\"")),
                ["no training and test images in /usr/share", help],
            ),
        ] {
            let error = machine.error();
            assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} are not in {error}");
            assert_eq!(machine.left(), [""; 0], "{error}");
        }
    }

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let machine = Machine::new(Some("touch x.deb"), Some(DPKG_DEB));
        let dest = machine.data().join("fashion-mnist");
        fs::create_dir_all(&dest).unwrap();
        fs::write(dest.join("notes.txt"), "mine").unwrap();
        assert!(matches!(machine.fetch(&Context::default()), Err(Error::Occupied { .. })));
        assert_eq!(fs::read_to_string(dest.join("notes.txt")).unwrap(), "mine");
        assert!(machine.calls().is_empty());
    }

    #[test]
    fn an_interrupt_stops_the_download_and_leaves_nothing() {
        let machine = Machine::new(Some("exec sleep 60"), Some(DPKG_DEB));
        let cx = Context::default();
        let stop = cx.stop.clone();
        let begin = Instant::now();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            stop.store(true, Ordering::SeqCst);
        });
        assert!(matches!(machine.fetch(&cx), Err(Error::Interrupted)));
        assert!(begin.elapsed() < Duration::from_secs(30));
        assert_eq!(machine.left(), [""; 0]);
    }

    #[test]
    fn other_sets_have_no_package() {
        let error = fetch_debian(NamedSet::Cifar10, &Context::default()).unwrap_err();
        assert!(error.is_usage());
        assert_eq!(
            error.to_string(),
            "set = cifar10: expected fashion-mnist, the only named set with a Debian package"
        );
    }
}

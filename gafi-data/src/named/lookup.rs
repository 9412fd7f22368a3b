//! Finds a named set on this machine or on the Hugging Face hub.

use std::path::{Path, PathBuf};

use gafi_core::{Context, Error, Result};

use super::hub::Hub;
use super::hub_set::HubSet;
use super::set::NamedSet;
use crate::discover::Discovered;
use crate::format::Format;
use crate::formats::folder::FolderKeys;

/// A named set was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotFound {
    /// The set.
    pub set: NamedSet,
    /// Each place tried, and why the set could not be used from there.
    pub tried: Vec<(String, String)>,
    /// How to get the set.
    pub help: String,
}

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} was not found; tried", self.set)?;
        for (place, why) in &self.tried {
            write!(f, "\n  {place}: {why}")?;
        }
        write!(f, "\n{}", self.help)
    }
}

impl std::error::Error for NotFound {}

impl NamedSet {
    /// The local folder that an import would read the set from; `None` for the built-in set. Never uses the network.
    ///
    /// # Errors
    /// [`NotFound`] if no local folder has the set. An import would then try the hub.
    pub fn find(self) -> std::result::Result<Option<PathBuf>, NotFound> {
        if self == Self::Shapes {
            return Ok(None);
        }
        let places = SearchPath::standard(true);
        match places.local(self) {
            Ok((folder, _)) => Ok(Some(folder)),
            Err(tried) => Err(NotFound { set: self, tried, help: places.help(self) }),
        }
    }

    /// The set's repository on the hub, and the folder of its parquet files.
    fn hub(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Shapes => None,
            Self::FashionMnist => Some(("zalando-datasets/fashion_mnist", "fashion_mnist")),
            Self::Mnist => Some(("ylecun/mnist", "mnist")),
            Self::Cifar10 => Some(("uoft-cs/cifar10", "plain_text")),
            Self::Cifar100 => Some(("uoft-cs/cifar100", "cifar100")),
        }
    }
}

/// GaFi's folder for user data: `$XDG_DATA_HOME/gafi`, or `~/.local/share/gafi`. `None` without a home folder.
pub(super) fn user_folder() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p: &PathBuf| p.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    data.map(|data| data.join("gafi"))
}

/// Where named sets are searched: in the user's folder, then the system's, then on the hub.
#[derive(Debug, Clone)]
pub(crate) struct SearchPath {
    user: Option<PathBuf>,
    system: Vec<PathBuf>,
    /// `None` when offline.
    hub: Option<Hub>,
    /// Whether the system has apt.
    apt: bool,
}

impl SearchPath {
    /// The user's data folder, `/usr/local/share/datasets`, `/usr/share/datasets`, and the hub unless `offline` or `HF_HUB_OFFLINE`.
    pub(crate) fn standard(offline: bool) -> Self {
        let set = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
        let offline_hub = matches!(set.as_str(), "1" | "true" | "yes" | "on");
        Self {
            user: user_folder(),
            system: vec!["/usr/local/share/datasets".into(), "/usr/share/datasets".into()],
            hub: (!offline && !offline_hub).then(Hub::standard),
            apt: Path::new("/usr/bin/apt-get").exists(),
        }
    }

    /// Finds a dataset on the hub, and downloads what is not in the cache. `label` is the configured column of labels.
    ///
    /// # Errors
    /// [`Error::Other`] with the address of the hub when a download fails; [`Error::Interrupted`]; [`Error::Format`].
    pub(crate) fn find_on_hub(&self, set: &HubSet, label: Option<&str>, cx: &Context) -> Result<Discovered> {
        let failed = |why: String| Error::other(format!("importing {set}"))(why);
        let Some(hub) = &self.hub else {
            return Err(failed("the hub is not used, because offline = true or HF_HUB_OFFLINE is set".into()));
        };
        Discovered::parquet_files(hub.fetch_set(set, cx)?.map_err(failed)?, label)
    }

    /// Finds `set` in the first place that has it.
    ///
    /// # Errors
    /// [`Error::Other`] around [`NotFound`]; [`Error::Interrupted`]; [`Error::Format`] if the files of the hub have no training split.
    pub(crate) fn find(&self, set: NamedSet, cx: &Context) -> Result<Discovered> {
        let mut tried = match self.local(set) {
            Ok((_, found)) => return Ok(found),
            Err(tried) => tried,
        };
        if let Some((repo, folder)) = set.hub() {
            let why = match &self.hub {
                None => "not tried, because offline = true or HF_HUB_OFFLINE is set".into(),
                Some(hub) => match hub.fetch(repo, folder, cx)? {
                    Ok(files) => return Discovered::parquet_files(files, None),
                    Err(why) => why,
                },
            };
            tried.push((format!("the hub, dataset {repo}"), why));
        }
        let not_found = NotFound { set, tried, help: self.help(set) };
        Err(Error::other(format!("importing {set}"))(not_found))
    }

    /// The first local folder that has `set`, or each folder tried and what is wrong with it.
    fn local(&self, set: NamedSet) -> std::result::Result<(PathBuf, Discovered), Vec<(String, String)>> {
        let mut tried = Vec::new();
        for folder in self.user.iter().chain(&self.system).map(|p| p.join(set.name())) {
            if !folder.is_dir() {
                tried.push((folder.display().to_string(), "no such folder".into()));
                continue;
            }
            match Discovered::at(&folder, Format::Auto, &FolderKeys::default()) {
                Ok(found) => return Ok((folder, found)),
                Err(e) => {
                    tracing::warn!(folder = %folder.display(), "skipped: not a readable set: {e}");
                    tried.push((folder.display().to_string(), e.to_string()));
                }
            }
        }
        Err(tried)
    }

    fn help(&self, set: NamedSet) -> String {
        if set == NamedSet::FashionMnist && self.apt {
            return "`apt-get install dataset-fashion-mnist` installs it".into();
        }
        let files = match set {
            NamedSet::FashionMnist | NamedSet::Mnist => "its four IDX files (train-images-idx3-ubyte.gz, …)",
            NamedSet::Cifar10 => "the files of the archive cifar-10-binary.tar.gz (data_batch_1.bin, …)",
            NamedSet::Cifar100 => "the files of the archive cifar-100-binary.tar.gz (train.bin, test.bin)",
            NamedSet::Shapes => return "shapes is built in".into(),
        };
        match &self.user {
            Some(user) => {
                format!("put {files} into {}, or set path to the folder that has them", user.join(set.name()).display())
            }
            None => format!("get {files} and set path to their folder"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offline(root: &Path, apt: bool) -> SearchPath {
        SearchPath { user: Some(root.join("user")), system: vec![root.join("system")], hub: None, apt }
    }

    fn not_found(set: NamedSet, root: &Path) -> String {
        let error = offline(root, true).find(set, &Context::default()).unwrap_err();
        std::error::Error::source(&error).unwrap().to_string()
    }

    #[test]
    fn not_found_lists_every_place_and_one_command() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("system/fashion-mnist")).unwrap();
        let error = not_found(NamedSet::FashionMnist, dir.path());
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines[0], "fashion-mnist was not found; tried");
        assert!(lines[1].contains("user/fashion-mnist: no such folder"), "{error}");
        assert!(lines[2].contains("system/fashion-mnist") && lines[2].contains("found an empty folder"), "{error}");
        assert!(lines[3].contains("zalando-datasets/fashion_mnist: not tried, because offline = true"), "{error}");
        assert_eq!(lines[4], "`apt-get install dataset-fashion-mnist` installs it");
        assert_eq!(lines.len(), 5);
        let error = not_found(NamedSet::Cifar10, dir.path());
        assert!(error.contains("cifar-10-binary.tar.gz") && error.contains("user/cifar10, or set path"), "{error}");
    }

    #[test]
    fn the_users_folder_comes_before_the_systems() {
        let dir = tempfile::tempdir().unwrap();
        for place in ["user", "system"] {
            let folder = dir.path().join(place).join("mnist");
            std::fs::create_dir_all(&folder).unwrap();
            for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"] {
                std::fs::write(folder.join(name), b"").unwrap();
            }
        }
        let (folder, _) = offline(dir.path(), false).local(NamedSet::Mnist).unwrap();
        assert_eq!(folder, dir.path().join("user/mnist"));
    }
}

//! Sets that are asked for by name: what they are called, which classes they have, and where they are looked for.

use std::path::{Path, PathBuf};

use gafi_core::{Context, Error, Result};
use serde::{Deserialize, Serialize};

use crate::format::Format;
use crate::hub::Hub;
use crate::locate::Located;
use crate::shapes::SHAPE_NAMES;

/// A set known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NamedSet {
    /// The built-in procedural set; needs no files.
    Shapes,
    /// 28x28 grey pictures of clothes (Xiao, Rasul & Vollgraf 2017), 60,000 and 10,000.
    FashionMnist,
    /// 28x28 handwritten digits (LeCun, Cortes & Burges 1998), 60,000 and 10,000.
    Mnist,
    /// 32x32 colour photographs in 10 classes (Krizhevsky 2009), 50,000 and 10,000.
    Cifar10,
    /// 32x32 colour photographs in 100 classes (Krizhevsky 2009), 50,000 and 10,000.
    Cifar100,
}

impl NamedSet {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Shapes, Self::FashionMnist, Self::Mnist, Self::Cifar10, Self::Cifar100];

    /// Its name: `fashion-mnist`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shapes => "shapes",
            Self::FashionMnist => "fashion-mnist",
            Self::Mnist => "mnist",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
        }
    }

    /// Names of its classes, in the order of its labels.
    pub fn classes(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Shapes => &SHAPE_NAMES,
            Self::FashionMnist => &FASHION_MNIST,
            Self::Mnist => &MNIST,
            Self::Cifar10 => &CIFAR10,
            Self::Cifar100 => &CIFAR100,
        };
        names.iter().map(ToString::to_string).collect()
    }

    /// The folder of this machine that an import would take it from; none for the built-in set. The hub is not asked.
    ///
    /// # Errors
    /// [`NotFound`] when no folder has it: then an import asks the hub.
    pub fn find(self) -> std::result::Result<Option<PathBuf>, NotFound> {
        let places = Places::standard(true);
        match places.here(self) {
            _ if self == Self::Shapes => Ok(None),
            Ok((folder, _)) => Ok(Some(folder)),
            Err(tried) => Err(NotFound { set: self, tried, help: places.help(self) }),
        }
    }

    /// Its repository on the hub, and the folder of its parquet files there.
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

impl std::fmt::Display for NamedSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for NamedSet {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|set| set.name() == s)
            .ok_or_else(|| format!("expected one of {}, found {s:?}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// A named set that is nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFound {
    /// The set.
    pub set: NamedSet,
    /// Each place tried, and what was wrong there.
    pub tried: Vec<(String, String)>,
    /// What helps.
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

/// Where named sets are looked for, in this order.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) user: Option<PathBuf>,
    pub(crate) system: Vec<PathBuf>,
    /// `None`: not asked.
    pub(crate) hub: Option<Hub>,
    /// Whether the system installs packages with apt.
    pub(crate) apt: bool,
}

impl Places {
    /// Those of this machine: `$XDG_DATA_HOME/gafi` or `~/.local/share/gafi`, `/usr/local/share/datasets`,
    /// `/usr/share/datasets`, and the hub unless `offline`.
    pub(crate) fn standard(offline: bool) -> Self {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p: &PathBuf| p.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
        Self {
            user: data.map(|d| d.join("gafi")),
            system: vec!["/usr/local/share/datasets".into(), "/usr/share/datasets".into()],
            hub: (!offline).then(Hub::standard),
            apt: Path::new("/usr/bin/apt-get").exists(),
        }
    }

    /// Finds `set` at the first place that has it.
    ///
    /// # Errors
    /// [`Error::Other`] around [`NotFound`]; [`Error::Interrupted`].
    pub(crate) fn find(&self, set: NamedSet, cx: &Context) -> Result<Located> {
        let mut tried = match self.here(set) {
            Ok((_, found)) => return Ok(found),
            Err(tried) => tried,
        };
        if let Some((repo, folder)) = set.hub() {
            let why = match &self.hub {
                None => "not asked, because offline is set".into(),
                Some(hub) => match hub.fetch(repo, folder, cx)? {
                    Ok((train, test)) => return Ok(Located::parquet_pair(train, test)),
                    Err(why) => why,
                },
            };
            tried.push((format!("the hub, dataset {repo}"), why));
        }
        let not_found = NotFound { set, tried, help: self.help(set) };
        Err(Error::other(format!("importing {set}"))(not_found))
    }

    /// The first folder of this machine that has `set`; each place tried, when none has it.
    fn here(&self, set: NamedSet) -> std::result::Result<(PathBuf, Located), Vec<(String, String)>> {
        let mut tried = Vec::new();
        for folder in self.user.iter().chain(&self.system).map(|p| p.join(set.name())) {
            if !folder.is_dir() {
                tried.push((folder.display().to_string(), "no such folder".into()));
                continue;
            }
            match Located::at(&folder, Format::Auto) {
                Ok(found) => return Ok((folder, found)),
                Err(e) => {
                    tracing::warn!(folder = %folder.display(), "there, but not a set: {e}");
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
        let what = match set {
            NamedSet::FashionMnist | NamedSet::Mnist => "its four IDX files (train-images-idx3-ubyte.gz, …)",
            NamedSet::Cifar10 => "the files of the archive cifar-10-binary.tar.gz (data_batch_1.bin, …)",
            NamedSet::Cifar100 => "the files of the archive cifar-100-binary.tar.gz (train.bin, test.bin)",
            NamedSet::Shapes => return "shapes is built in".into(),
        };
        match &self.user {
            Some(user) => format!("put {what} into {}, or pass --path FOLDER", user.join(set.name()).display()),
            None => format!("get {what} and pass --path FOLDER"),
        }
    }
}

const FASHION_MNIST: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

const MNIST: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

const CIFAR10: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

#[rustfmt::skip]
const CIFAR100: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere(root: &Path, apt: bool) -> Places {
        Places { user: Some(root.join("user")), system: vec![root.join("system")], hub: None, apt }
    }

    #[test]
    fn names_go_both_ways() {
        for set in NamedSet::ALL {
            assert_eq!(set.name().parse(), Ok(set));
            assert_eq!(serde_json::to_string(&set).unwrap(), format!("\"{set}\""));
            let classes = set.classes();
            let mut unique = classes.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), if set == NamedSet::Cifar100 { 100 } else { 10 });
        }
        assert!("cifar".parse::<NamedSet>().unwrap_err().contains("fashion-mnist"));
    }

    #[test]
    fn the_error_lists_every_place_and_one_command() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("system/fashion-mnist")).unwrap();
        let error = nowhere(dir.path(), true).find(NamedSet::FashionMnist, &Context::default()).unwrap_err();
        let error = std::error::Error::source(&error).unwrap().to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines[0], "fashion-mnist was not found; tried");
        assert!(lines[1].contains("user/fashion-mnist: no such folder"), "{error}");
        assert!(lines[2].contains("system/fashion-mnist") && lines[2].contains("found an empty folder"), "{error}");
        assert!(lines[3].contains("zalando-datasets/fashion_mnist: not asked, because offline is set"), "{error}");
        assert_eq!(lines[4], "`apt-get install dataset-fashion-mnist` installs it");
        assert_eq!(lines.len(), 5);
        let error = nowhere(dir.path(), true).find(NamedSet::Cifar10, &Context::default()).unwrap_err();
        let error = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.contains("cifar-10-binary.tar.gz") && error.contains("user/cifar10, or pass --path"), "{error}");
    }
}

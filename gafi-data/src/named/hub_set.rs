//! [`HubSet`]: a dataset of the Hugging Face hub by its path, and its files among those of a repository.

use std::path::Path;

use gafi_core::{Error, Result};

#[cfg(feature = "hub")]
use crate::formats::split_names::split_of;

/// What a path to a dataset of the hub starts with.
const SCHEME: &str = "hf://";

/// A dataset of the hub: `hf://OWNER/NAME`, or `hf://OWNER/NAME/CONFIGURATION` for one of several in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubSet {
    pub(crate) repo: String,
    configuration: Option<String>,
}

impl HubSet {
    /// The dataset that `path` names; `None` for a path to files.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn of(path: &Path) -> Result<Option<Self>> {
        let Some(text) = path.to_str().and_then(|text| text.strip_prefix(SCHEME)) else { return Ok(None) };
        let text = text.strip_prefix("datasets/").unwrap_or(text).trim_end_matches('/');
        let plain = |word: &&str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
            !word.is_empty() && word.chars().all(allowed) && !word.starts_with('.')
        };
        let words: Vec<&str> = text.split('/').collect();
        match words[..] {
            [owner, name, ref rest @ ..] if rest.len() < 2 && words.iter().all(plain) => {
                Ok(Some(Self { repo: format!("{owner}/{name}"), configuration: rest.first().map(ToString::to_string) }))
            }
            _ => Err(Error::config("path", path.display(), "hf://OWNER/NAME, or hf://OWNER/NAME/CONFIGURATION")),
        }
    }
}

impl std::fmt::Display for HubSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}", self.repo)?;
        self.configuration.as_ref().map_or(Ok(()), |name| write!(f, "/{name}"))
    }
}

#[cfg(feature = "hub")]
impl HubSet {
    /// The configuration that a parquet file of the repository belongs to. The converted branch has a folder for each; elsewhere
    /// it is the folder of the file, without that of the split.
    fn configuration_of(file: &str, converted: bool) -> &str {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        if converted {
            return folder.split('/').next().unwrap_or_default();
        }
        match folder.rsplit_once('/') {
            Some((above, last)) if split_of(last).is_some() => above,
            None if split_of(folder).is_some() => "",
            _ => folder,
        }
    }

    /// The parquet files of the set among `files`, or what is wrong with them.
    pub(super) fn choose(&self, files: &[String], converted: bool) -> std::result::Result<Vec<String>, String> {
        // A name is joined to the folder of the cache.
        let inside = |file: &&String| {
            Path::new(file.as_str()).components().all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        let files: Vec<&String> = files.iter().filter(|file| file.ends_with(".parquet")).filter(inside).collect();
        let mut names: Vec<&str> = files.iter().map(|file| Self::configuration_of(file, converted)).collect();
        names.sort_unstable();
        names.dedup();
        let name = match (&self.configuration, &names[..]) {
            (Some(wanted), names) => *names
                .iter()
                .find(|name| *name == wanted || name.rsplit('/').next() == Some(wanted))
                .ok_or_else(|| format!("no configuration {wanted:?} among {}", names.join(", ")))?,
            (None, [only]) => only,
            (None, []) => return Err("no parquet files".into()),
            (None, several) => {
                let first = several.iter().find(|name| !name.is_empty()).unwrap_or(&"CONFIGURATION");
                let first = first.rsplit('/').next().unwrap_or(first);
                let all = several.join(", ");
                return Err(format!("several configurations, such as hf://{}/{first}: {all}", self.repo));
            }
        };
        let of_it = files.into_iter().filter(|file| Self::configuration_of(file, converted) == name);
        Ok(of_it.cloned().collect())
    }
}

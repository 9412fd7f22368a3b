//! Compares the folders of two runs of `gafi-cli pipeline`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::shell;

/// Files that differ between equal runs: wall times, locks, and what is made on demand.
const VOLATILE: [&str; 4] = ["log.jsonl", "timings.json", ".lock", "report.html"];

/// Checks that two runs have the same files with the same bytes.
pub(crate) fn same(expected: &Path, found: &Path) -> Result<()> {
    let expected = files(expected)?;
    let found = files(found)?;
    for name in expected.keys().chain(found.keys()) {
        match (expected.get(name), found.get(name)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(_), Some(_)) => bail!("{name} differs"),
            (Some(_), None) => bail!("{name} is missing"),
            (None, _) => bail!("{name} is not in the expected run"),
        }
    }
    ensure!(!expected.is_empty(), "the uninterrupted run has no files");
    Ok(())
}

/// The bytes of all files below `folder`, by path, without [`VOLATILE`] ones.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for path in shell::files(folder, |_| true)? {
        let name = path.strip_prefix(folder)?.to_string_lossy().into_owned();
        if !VOLATILE.iter().any(|end| name.ends_with(end)) {
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    #[test]
    fn a_missing_or_changed_file_is_found() {
        let root = env::temp_dir().join(format!("gafi-runs-same-{}", std::process::id()));
        let [a, b] = ["a", "b"].map(|name| root.join(name));
        for folder in [&a, &b] {
            fs::create_dir_all(folder.join("x")).unwrap();
            fs::write(folder.join("x/weights"), "1").unwrap();
        }
        fs::write(a.join("timings.json"), "differs").unwrap();
        same(&a, &b).unwrap();
        fs::write(b.join("x/weights"), "2").unwrap();
        assert!(same(&a, &b).unwrap_err().to_string().contains("differs"));
        fs::remove_file(b.join("x/weights")).unwrap();
        assert!(same(&a, &b).unwrap_err().to_string().contains("missing"));
        assert!(same(&b, &a).unwrap_err().to_string().contains("not in the expected run"));
        fs::remove_dir_all(&root).unwrap();
    }
}

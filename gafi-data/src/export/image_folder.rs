//! A folder of PNG files per class, for torchvision's `ImageFolder` and the Hugging Face hub's `imagefolder`.
//!
//! Both number the classes by sorted folder name, which may differ from our labels. `classes.json` and the card list the folder
//! of each label.

use std::collections::BTreeMap;

use gafi_core::{DatasetInfo, Result};
use serde_json::json;

use super::exporter::{Exporter, Folders, digits, unfit};
use super::options::ExportFormat;

/// Longest folder name in bytes; common file systems allow 255.
const MAX_NAME: usize = 200;

pub(super) fn check(info: &DatasetInfo) -> Result<()> {
    match folders(&info.classes).iter().position(|folder| folder.is_empty() || folder.len() > MAX_NAME) {
        Some(label) => {
            let expected = format!("class names whose folder names have 1 to {MAX_NAME} bytes");
            Err(unfit(ExportFormat::ImageFolder, expected, format!("class {label}, {:?}", info.classes[label])))
        }
        None => Ok(()),
    }
}

pub(super) fn write(exporter: &Exporter<'_>) -> Result<Folders> {
    let folders = folders(&exporter.info.classes);
    let width = digits(exporter.info.rows());
    exporter.each_shard(|first, shard| {
        for (i, png) in exporter.pngs(&shard)?.iter().enumerate() {
            let row = first + i;
            exporter.file(&format!("{}/{row:0width$}.png", folders[shard.labels[i].index()]), png)?;
        }
        Ok(())
    })?;
    exporter.json("classes.json", &json!({"classes": exporter.info.classes, "folders": folders}))?;
    Ok(folders)
}

/// The folder of each class. Characters that a file system forbids or that make readers skip a folder are percent-encoded, so
/// decoding gives the class name. In names that differ only in case, which macOS and Windows treat as equal, capitals are encoded.
fn folders(classes: &[String]) -> Folders {
    let plain: Vec<String> = classes.iter().map(|name| safe(name, |_| false)).collect();
    let mut alike: BTreeMap<String, usize> = BTreeMap::new();
    plain.iter().for_each(|name| *alike.entry(name.to_lowercase()).or_default() += 1);
    let folder = |(name, plain): (&String, &String)| {
        if alike[&plain.to_lowercase()] > 1 { safe(name, |c| c.to_lowercase().ne([c])) } else { plain.clone() }
    };
    classes.iter().zip(&plain).map(folder).collect()
}

fn safe(name: &str, also: impl Fn(char) -> bool) -> String {
    let last = name.chars().count().saturating_sub(1);
    let device = is_device(name);
    let mut folder = String::new();
    for (i, c) in name.chars().enumerate() {
        let odd = c.is_control()
            || "%/\\:*?\"<>|".contains(c)
            // Readers skip folders with a leading dot or underscore; Windows drops trailing dots and spaces.
            || (i == 0 && matches!(c, '.' | '_' | ' '))
            || (i == last && matches!(c, '.' | ' '))
            || (i == 0 && device);
        if odd || also(c) {
            folder.extend(c.to_string().bytes().map(|b| format!("%{b:02X}")));
        } else {
            folder.push(c);
        }
    }
    folder
}

/// Whether Windows reserves a name for a device, whatever its extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let numbered = |port: &str| stem.strip_prefix(port).is_some_and(|n| matches!(n.as_bytes(), [b'0'..=b'9']));
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_are_safe_and_unique() {
        let names = ["cat", "a/b", "100%", "..", "_x", " y ", "CON.txt", "A", "a", "École", "école", "t-shirt/top"];
        let folders = folders(&names.map(String::from));
        #[rustfmt::skip]
        assert_eq!(folders, [
            "cat", "a%2Fb", "100%25", "%2E%2E", "%5Fx", "%20y%20", "%43ON.txt", "%41", "a", "%C3%89cole", "école",
            "t-shirt%2Ftop",
        ]);
    }

    #[test]
    fn classes_without_a_valid_folder_name_are_rejected() {
        use gafi_core::{ImageSpec, Split};
        for name in [String::new(), "x".repeat(201)] {
            let info = DatasetInfo::new(ImageSpec::new(1, 1, 1), vec![name], Split::Train);
            assert!(check(&info).unwrap_err().to_string().contains("class 0"));
        }
    }
}

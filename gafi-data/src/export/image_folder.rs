//! A folder of PNG files for each class, as torchvision's `ImageFolder` and the hub's `imagefolder` read them.
//!
//! Both number the classes by the sorted names of their folders, which need not be our order; `classes.json` and the
//! card say which folder is which label.

use gafi_core::{DatasetInfo, Result};
use serde_json::json;

use super::{ExportFormat, Folders, Job, digits, unfit};

/// File names have at most 255 bytes on the usual file systems.
const MAX_NAME: usize = 200;

pub(super) fn check(info: &DatasetInfo) -> Result<()> {
    match folders(&info.classes).iter().position(|folder| folder.is_empty() || folder.len() > MAX_NAME) {
        Some(label) => {
            let (expected, found) = (format!("class names of 1 to {MAX_NAME} bytes as folders"), &info.classes[label]);
            Err(unfit(ExportFormat::ImageFolder, expected, format!("class {label}, {found:?}")))
        }
        None => Ok(()),
    }
}

pub(super) fn write(job: &Job<'_>) -> Result<Folders> {
    let folders = folders(&job.info.classes);
    let width = digits(job.info.rows());
    job.each_shard(|first, shard| {
        for (i, png) in job.pngs(&shard)?.iter().enumerate() {
            let row = first + i;
            job.file(&format!("{}/{row:0width$}.png", folders[shard.labels[i].index()]), png)?;
        }
        Ok(())
    })?;
    job.json("classes.json", &json!({"classes": job.info.classes, "folders": folders}))?;
    Ok(folders)
}

/// Each class's folder. What some file system forbids or a reader passes over is percent-encoded, so a name is read
/// back by percent-decoding; so are the capitals of names that differ in nothing else (macOS and Windows take them for
/// one).
fn folders(classes: &[String]) -> Folders {
    let plain: Vec<String> = classes.iter().map(|name| safe(name, |_| false)).collect();
    let mut lower: Vec<String> = plain.iter().map(|name| name.to_lowercase()).collect();
    lower.sort_unstable();
    let alike = |name: &str| {
        let name = name.to_lowercase();
        lower.partition_point(|other| *other <= name) - lower.partition_point(|other| *other < name) > 1
    };
    let folder = |(name, plain): (&String, &String)| {
        if alike(plain) { safe(name, |c| c.to_lowercase().ne([c])) } else { plain.clone() }
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
            // Hidden folders and those with leading underscores are passed over; Windows drops points and blanks at the
            // end.
            || (i == 0 && matches!(c, '.' | '_' | ' '))
            || (i == last && matches!(c, '.' | ' '))
            || (i == 0 && device);
        if odd || also(c) {
            let mut bytes = [0; 4];
            folder.extend(c.encode_utf8(&mut bytes).bytes().map(|b| format!("%{b:02X}")));
        } else {
            folder.push(c);
        }
    }
    folder
}

/// Names that Windows keeps for devices, with any extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let numbered =
        |port: &str| stem.strip_prefix(port).is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit());
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_become_safe_ones_and_stay_apart() {
        let names = ["cat", "a/b", "100%", "..", "_x", " y ", "CON.txt", "A", "a", "École", "école", "t-shirt/top"];
        let folders = folders(&names.map(String::from));
        #[rustfmt::skip]
        assert_eq!(folders, [
            "cat", "a%2Fb", "100%25", "%2E%2E", "%5Fx", "%20y%20", "%43ON.txt", "%41", "a", "%C3%89cole", "école",
            "t-shirt%2Ftop",
        ]);
    }

    #[test]
    fn names_that_are_no_folders_are_errors() {
        use gafi_core::{ImageSpec, Split};
        for name in [String::new(), "x".repeat(201)] {
            let info = DatasetInfo::new(ImageSpec::new(1, 1, 1), vec![name], Split::Train);
            assert!(check(&info).unwrap_err().to_string().contains("class 0"));
        }
    }
}

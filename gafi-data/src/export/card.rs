//! The dataset card: a header in YAML that the hub reads, and a page for people. All of it follows from the artifact
//! and the options; nothing is claimed that they do not say.

use std::io::Read;
use std::path::Path;

use gafi_core::{Artifact, Split};

use super::{ExportFormat, Folders, Job};

/// A line of the header, by which an export is known again.
const MARK: &str = "# Written by gafi-cli export, which replaces a folder only if its card has this line.";

/// Whether the file `path` is the card of an export.
pub(super) fn is_card(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut head));
    read.is_ok() && String::from_utf8_lossy(&head).starts_with(&format!("---\n{MARK}\n"))
}

/// The whole page. `folders` holds the folder of each class, where the format has them.
pub(super) fn text(job: &Job<'_>, artifact: &Artifact, folders: &Folders) -> String {
    let info = job.info;
    let (rows, classes) = (info.rows(), info.classes.len());
    let synthetic = info.split == Split::Synthetic;
    let kind = if synthetic { "generated" } else { "real" };
    let usual = format!(
        "{} {}, {classes} classes, {kind}",
        if info.image.channels == 1 { "grey" } else { "colour" },
        side(job)
    );
    let name = job.options.name.clone().unwrap_or_else(|| format!("GaFi: {usual}"));
    let what = if synthetic {
        "The images are synthetic: they come out of a generative model, and no row is a photograph or scan of anything."
    } else {
        "The images are real: they were imported, not generated."
    };
    let mut page = header(job, artifact, &name);
    page += &format!(
        "\n# {}\n\n{rows} images ({usual}), the split `{}` of a dataset that GaFi wrote. {what} Format: `{}`.\n",
        markdown(&name),
        info.split,
        job.format.name()
    );
    page += &format!("\n## Loading it\n\n```python\n{}```\n\n{}\n", python(job), note(job));
    page += &format!("\n## Classes\n\n{}", table(job, folders));
    page += &format!("\n## How it was made\n\n{}", provenance(artifact));
    page += &format!("\n## Limits\n\n{}", limits(job));
    page += &match &job.options.license {
        Some(license) => format!("\n## Licence\n\n`{}`\n", license.replace('`', "'")),
        None => "\n## Licence\n\nNone was stated. What the images may be used for depends on those that the \
                 model learned from.\n"
            .into(),
    };
    page
}

fn side(job: &Job<'_>) -> String {
    format!("{}x{}", job.info.image.height, job.info.image.width)
}

fn header(job: &Job<'_>, artifact: &Artifact, name: &str) -> String {
    let mut yaml = format!("---\n{MARK}\n");
    yaml += &match &job.options.license {
        Some(license) => format!("license: {}\n", quoted(license)),
        None => "license: other\nlicense_name: unspecified\n".into(),
    };
    yaml += "task_categories:\n- image-classification\ntags:\n";
    yaml += if job.info.split == Split::Synthetic { "- synthetic\n- gafi\n" } else { "- gafi\n" };
    yaml += &format!("pretty_name: {}\nsize_categories:\n- {}\n", quoted(name), size_category(job.info.rows()));
    let split = job.split();
    let pattern = match job.format {
        ExportFormat::Parquet => format!("data/{split}-*.parquet"),
        ExportFormat::WebDataset => format!("{split}-*.tar"),
        ExportFormat::ImageFolder => "*/*.png".into(),
        // The hub has no loader for these.
        ExportFormat::Npz | ExportFormat::CifarBin => return yaml + "---\n",
    };
    yaml += &format!(
        "configs:\n- config_name: default\n  data_files:\n  - split: {split}\n    path: {}\n",
        quoted(&pattern)
    );
    // `datasets` caches what it loads from a folder under the folder's last name and a hash of this entry, not of the
    // files: with the id in it, another dataset exported to the same place is another one.
    yaml += &format!("  description: {}\n", quoted(&format!("GaFi dataset {}", artifact.id())));
    if job.format == ExportFormat::Parquet {
        yaml += "dataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n      \
                 class_label:\n        names:\n";
        for (label, class) in job.info.classes.iter().enumerate() {
            yaml += &format!("          '{label}': {}\n", quoted(class));
        }
        if job.extra.confidence {
            yaml += "  - name: confidence\n    dtype: float32\n";
        }
        if job.extra.probabilities {
            yaml += "  - name: probabilities\n    sequence: float32\n";
        }
    }
    yaml + "---\n"
}

/// The hub's classes of sizes.
fn size_category(rows: u64) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        10_000_000..100_000_000 => "10M<n<100M",
        100_000_000..1_000_000_000 => "100M<n<1B",
        _ => "n>1B",
    }
}

/// How the folder, called `PATH`, is loaded.
fn python(job: &Job<'_>) -> String {
    let split = job.split();
    match job.format {
        ExportFormat::ImageFolder => format!(
            "from torchvision.datasets import ImageFolder\nimages = ImageFolder(\"PATH\")\n\n\
             # or\nfrom datasets import load_dataset\nimages = load_dataset(\"PATH\", split=\"{split}\")\n"
        ),
        ExportFormat::Parquet => format!(
            "from datasets import load_dataset\n\
             images = load_dataset(\"parquet\", data_files=\"PATH/data/*.parquet\", split=\"train\")\n\
             # or, with the header of this card:\nimages = load_dataset(\"PATH\", split=\"{split}\")\n"
        ),
        ExportFormat::WebDataset => format!(
            "import glob, webdataset\n\
             shards = sorted(glob.glob(\"PATH/{split}-*.tar\"))\n\
             images = webdataset.WebDataset(shards, shardshuffle=False).shuffle({})\n\
             images = images.decode(\"pil\").to_tuple(\"png\", \"cls\")\n",
            job.info.rows().min(100_000)
        ),
        ExportFormat::Npz => "import numpy\nset = numpy.load(\"PATH/dataset.npz\")\n\
             images, labels, classes = set[\"images\"], set[\"labels\"], set[\"classes\"]\n"
            .into(),
        ExportFormat::CifarBin => "import glob, numpy\n\
             records = numpy.concatenate([numpy.fromfile(f, numpy.uint8) for f in sorted(glob.glob(\"PATH/*.bin\"))])\n\
             records = records.reshape(-1, 1 + 3 * 32 * 32)\n\
             labels, images = records[:, 0], records[:, 1:].reshape(-1, 3, 32, 32)\n"
            .into(),
    }
}

/// What a reader of the format has to know.
fn note(job: &Job<'_>) -> String {
    let mut note = String::from(match job.format {
        ExportFormat::ImageFolder => {
            "Both number the classes by the sorted names of their folders, which may differ from the labels below; \
             `classes.json` lists classes and folders in the order of the labels. Names that some file system forbids \
             are percent-encoded. Files are called by the number of their row."
        }
        ExportFormat::Parquet => "Labels have their names as features.",
        ExportFormat::WebDataset => {
            "`classes.json` has the names of the labels. A stream has no order but that of the files: without a large \
             `shuffle` a batch may hold few classes."
        }
        ExportFormat::Npz if job.info.image.channels == 1 => {
            "`images` is uint8 of (n, rows, columns), `labels` int64, `classes` their names."
        }
        ExportFormat::Npz => {
            "`images` is uint8 of (n, rows, columns, 3: red, green, blue), `labels` int64, `classes` their names."
        }
        ExportFormat::CifarBin => {
            "Records of one label byte and 3,072 bytes of pixels: the red plane, green, blue, each row by row. \
             `batches.meta.txt` has the names of the labels, one a line."
        }
    });
    let columns = match (job.extra.confidence, job.extra.probabilities) {
        (false, false) => return note + " Shuffle before use: rows may be sorted by class.",
        (true, false) => "`confidence` (a teacher's probability of the label)",
        (_, true) => "`confidence` (a teacher's probability of the label) and `probabilities` (of each class)",
    };
    note += &match job.format {
        ExportFormat::ImageFolder | ExportFormat::CifarBin => {
            format!(" The dataset has {columns} too, which this format has no place for.")
        }
        ExportFormat::WebDataset => format!(" `json` holds {columns}."),
        _ => format!(" There is also {columns}."),
    };
    note + " Shuffle before use: rows may be sorted by class."
}

fn table(job: &Job<'_>, folders: &Folders) -> String {
    let folder = |text: &str| if folders.is_empty() { String::new() } else { format!(" {text} |") };
    let mut table = format!("| label | class |{} images |\n|---|---|{}---|\n", folder("folder"), folder("---").trim());
    for (label, (class, count)) in job.info.classes.iter().zip(&job.info.counts).enumerate() {
        let folder = folder(&markdown(folders.get(label).map_or("", String::as_str)));
        table += &format!("| {label} | {} |{folder} {count} |\n", markdown(class));
    }
    table
}

fn provenance(artifact: &Artifact) -> String {
    let made = &artifact.manifest().made_by;
    let mut text = format!(
        "By the stage `{}` (revision {}) of GaFi {}, as dataset `{}`, from\n\n",
        markdown(&made.stage),
        made.revision,
        markdown(&made.version),
        artifact.id()
    );
    for (port, id) in &made.inputs {
        text += &format!("- {}: artifact `{}`\n", markdown(port), id.replace('`', "'"));
    }
    if made.inputs.is_empty() {
        text += "- no other artifact\n";
    }
    text += "\nAn id is the BLAKE3 of an artifact's manifest, and so vouches for all that went into it. \
             The configuration:\n\n";
    // Indented, since no fence is safe from what a string may hold.
    let config = serde_json::to_string_pretty(&made.config).unwrap_or_default();
    text.extend(config.lines().map(|line| format!("    {line}\n")));
    text
}

fn limits(job: &Job<'_>) -> String {
    if job.info.split != Split::Synthetic {
        return "The images are as they were imported. Their rights and their faults are those of their source.\n"
            .into();
    }
    let labels = if job.extra.any() {
        "Labels are requests: the class that the generator was asked for. A teacher judged whether an image shows it, \
         and was right as often as it is right; images that it rejected may have been let in where a class ran short."
    } else {
        "Labels are requests: the class that the generator was asked for. No teacher's opinion of them is in this \
         dataset, so an image may show another class, or none."
    };
    format!(
        "- The images come from a generative model (GaFi's are GANs). They show what it learned, its gaps and \
         its prejudices included, and are less diverse than real ones.\n\
         - It may reproduce images that it was trained on, whole or in part. Nothing here measures or \
         promises privacy.\n\
         - {labels}\n\
         - Test what you train on this with real images.\n"
    )
}

/// A YAML string in double quotes. Only letters, digits and the plain signs of ASCII stand as they are.
fn quoted(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        ' '..='~' => c.into(),
        c if c.is_alphanumeric() => c.into(),
        c if u32::from(c) < 0x1_0000 => format!("\\u{:04X}", u32::from(c)),
        c => format!("\\U{:08X}", u32::from(c)),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

/// Text that Markdown shows as it is, in one line.
fn markdown(text: &str) -> String {
    let escape = |c: char| match c {
        c if c.is_control() => " ".into(),
        '&' => "&amp;".into(),
        '<' => "&lt;".into(),
        '\\' | '|' | '*' | '_' | '`' | '>' | '[' | ']' | '#' | '~' | '$' => format!("\\{c}"),
        c => c.into(),
    };
    text.chars().map(escape).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_breaks_out_of_its_place() {
        assert_eq!(
            quoted("T-shirt/top: \"a\" \\ é\n\u{85}\u{1F600}"),
            r#""T-shirt/top: \"a\" \\ é\u000A\u0085\U0001F600""#
        );
        assert_eq!(markdown("a|b <i>\n`x`"), r"a\|b &lt;i\> \`x\`");
    }

    #[test]
    fn sizes_are_the_hubs() {
        assert_eq!(
            [0, 999, 1_000, 60_000, 2_000_000_000].map(size_category),
            ["n<1K", "n<1K", "1K<n<10K", "10K<n<100K", "n>1B"]
        );
    }
}

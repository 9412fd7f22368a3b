//! The dataset card: a YAML header for the Hugging Face hub, and a page for readers. Everything on it comes from the artifact and
//! the options.

use std::io::Read;
use std::path::Path;

use gafi_core::{Artifact, Split};

use super::exporter::{Exporter, Folders};
use super::options::ExportFormat;
use crate::import::ImportReport;
use crate::note::{Note, NoteKind};

/// The first line of the header, which identifies an export.
const MARK: &str = "# Written by gafi-cli export, which replaces a folder only if its card has this line.";

/// Whether the file `path` is the card of an export.
pub(super) fn is_card(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = gafi_core::open_regular(path).and_then(|file| file.take(4096).read_to_end(&mut head));
    read.is_ok() && String::from_utf8_lossy(&head).starts_with(&format!("---\n{MARK}\n"))
}

/// The whole card.
pub(super) fn text(exporter: &Exporter<'_>, artifact: &Artifact, folders: &Folders) -> String {
    let info = exporter.info;
    let rows = info.rows();
    let classes = info.classes.len();
    let synthetic = info.split == Split::Synthetic;
    let kind = if synthetic { "generated" } else { "real" };
    let colour = if info.image.channels == 1 { "grey" } else { "colour" };
    let description = format!("{colour} {}x{}, {classes} classes, {kind}", info.image.height, info.image.width);
    let name = exporter.options.name.clone().unwrap_or_else(|| format!("GaFi: {description}"));
    let what = if synthetic {
        "The images are synthetic: a generative model produced them, and none is a photograph or scan."
    } else {
        "The images are real: they were imported, not generated."
    };
    let mut page = header(exporter, artifact, &name);
    page += &format!(
        "\n# {}\n\n{rows} images ({description}): the split `{}` of a GaFi dataset. {what} Format: `{}`.\n",
        markdown(&name),
        info.split,
        exporter.format.name()
    );
    page += &format!("\n## Loading it\n\n```python\n{}```\n\n{}\n", python(exporter), note(exporter));
    page += &format!("\n## Classes\n\n{}", table(exporter, folders));
    page += &format!("\n## How it was made\n\n{}{}", provenance(artifact), imported(exporter));
    page += &format!("\n## Limits\n\n{}", limits(exporter));
    page += &match &exporter.options.license {
        Some(license) => format!("\n## Licence\n\n`{}`\n", license.replace('`', "'")),
        None => "\n## Licence\n\nNone was specified. For generated images, the licence of the training images may restrict their use.\n"
            .into(),
    };
    page
}

fn header(exporter: &Exporter<'_>, artifact: &Artifact, name: &str) -> String {
    let mut yaml = format!("---\n{MARK}\n");
    yaml += &match &exporter.options.license {
        Some(license) => format!("license: {}\n", quoted(license)),
        None => "license: other\nlicense_name: unspecified\n".into(),
    };
    yaml += "task_categories:\n- image-classification\ntags:\n";
    yaml += if exporter.info.split == Split::Synthetic { "- synthetic\n- gafi\n" } else { "- gafi\n" };
    yaml += &format!("pretty_name: {}\nsize_categories:\n- {}\n", quoted(name), size_category(exporter.info.rows()));
    let split = exporter.split();
    let pattern = match exporter.format {
        ExportFormat::Parquet => format!("data/{split}-*.parquet"),
        ExportFormat::WebDataset => format!("{split}-*.tar"),
        ExportFormat::ImageFolder => "*/*.png".into(),
        // The hub cannot load these formats.
        ExportFormat::Npz | ExportFormat::CifarBin => return yaml + "---\n",
    };
    yaml += &format!(
        "configs:\n- config_name: default\n  data_files:\n  - split: {split}\n    path: {}\n",
        quoted(&pattern)
    );
    // `datasets` caches by the name of the folder and a hash of this entry, not by content. The id distinguishes datasets that are
    // exported to the same folder.
    yaml += &format!("  description: {}\n", quoted(&format!("GaFi dataset {}", artifact.id())));
    if exporter.format == ExportFormat::Parquet {
        yaml += "dataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n      \
                 class_label:\n        names:\n";
        for (label, class) in exporter.info.classes.iter().enumerate() {
            yaml += &format!("          '{label}': {}\n", quoted(class));
        }
        if exporter.extra.confidence {
            yaml += "  - name: confidence\n    dtype: float32\n";
        }
        if exporter.extra.probabilities {
            yaml += "  - name: probabilities\n    sequence: float32\n";
        }
    }
    yaml + "---\n"
}

/// What the import skipped, converted and assumed.
fn imported(exporter: &Exporter<'_>) -> String {
    let report = exporter.info.import.clone().and_then(|report| serde_json::from_value::<ImportReport>(report).ok());
    let Some(report) = report.filter(|report| !report.notes.is_empty()) else { return String::new() };
    let line = |note: &Note| {
        let kind = match note.kind {
            NoteKind::Skipped => "skipped",
            NoteKind::Converted => "converted",
            NoteKind::Assumed => "assumed",
            NoteKind::Warning => "warning",
        };
        format!("- {kind}: {}\n", markdown(&note.sentence()))
    };
    format!("\nWhat the import did to the source's images:\n\n{}", report.notes.iter().map(line).collect::<String>())
}

/// The hub's size categories.
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

/// Python code that loads the export from the folder `PATH`.
fn python(exporter: &Exporter<'_>) -> String {
    let split = exporter.split();
    match exporter.format {
        ExportFormat::ImageFolder => format!(
            "from torchvision.datasets import ImageFolder\nimages = ImageFolder(\"PATH\")\n\n\
             # or\nfrom datasets import load_dataset\nimages = load_dataset(\"PATH\", split=\"{split}\")\n"
        ),
        ExportFormat::Parquet => format!(
            "from datasets import load_dataset\n\
             images = load_dataset(\"parquet\", data_files=\"PATH/data/*.parquet\", split=\"train\")\n\
             # or, using the header of this card:\nimages = load_dataset(\"PATH\", split=\"{split}\")\n"
        ),
        ExportFormat::WebDataset => format!(
            "import glob, webdataset\n\
             shards = sorted(glob.glob(\"PATH/{split}-*.tar\"))\n\
             images = webdataset.WebDataset(shards, shardshuffle=False).shuffle({})\n\
             images = images.decode(\"pil\").to_tuple(\"png\", \"cls\")\n",
            exporter.info.rows().min(100_000)
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

/// What to know before loading the format.
fn note(exporter: &Exporter<'_>) -> String {
    let mut note = String::from(match exporter.format {
        ExportFormat::ImageFolder => {
            "Both loaders number the classes by sorted folder name, which may differ from the labels below; \
             `classes.json` lists classes and folders in label order. Characters that a file system forbids are \
             percent-encoded in folder names. File names are row numbers."
        }
        ExportFormat::Parquet => "The features include the class names.",
        ExportFormat::WebDataset => {
            "`classes.json` lists the class names in label order. Samples are streamed in file order: without a large \
             `shuffle` a batch may contain few classes."
        }
        ExportFormat::Npz if exporter.info.image.channels == 1 => {
            "`images` is uint8 of shape (n, rows, columns), `labels` is int64, and `classes` are the class names."
        }
        ExportFormat::Npz => {
            "`images` is uint8 of shape (n, rows, columns, 3) in RGB, `labels` is int64, and `classes` are the class names."
        }
        ExportFormat::CifarBin => {
            "A record is one label byte and 3,072 bytes of pixels: the red, green and blue planes in row-major order. \
             `batches.meta.txt` lists the class names in label order, one per line."
        }
    });
    let columns = match (exporter.extra.confidence, exporter.extra.probabilities) {
        (false, false) => return note + SHUFFLE,
        (true, false) => "`confidence` (a teacher's probability of the label)",
        (_, true) => "`confidence` (a teacher's probability of the label) and `probabilities` (of every class)",
    };
    note += &match exporter.format {
        ExportFormat::ImageFolder | ExportFormat::CifarBin => {
            format!(" The dataset also has {columns}, which this format cannot store.")
        }
        ExportFormat::WebDataset => format!(" The `json` of a sample has {columns}."),
        _ => format!(" It also has {columns}."),
    };
    note + SHUFFLE
}

const SHUFFLE: &str = " Shuffle before use: rows may be sorted by class.";

fn table(exporter: &Exporter<'_>, folders: &Folders) -> String {
    let folder = |text: &str| if folders.is_empty() { String::new() } else { format!(" {text} |") };
    let mut table = format!("| label | class |{} images |\n|---|---|{}---|\n", folder("folder"), folder("---").trim());
    for (label, (class, count)) in exporter.info.classes.iter().zip(&exporter.info.counts).enumerate() {
        let folder = folder(&markdown(folders.get(label).map_or("", String::as_str)));
        table += &format!("| {label} | {} |{folder} {count} |\n", markdown(class));
    }
    table
}

fn provenance(artifact: &Artifact) -> String {
    let made = &artifact.manifest().made_by;
    let mut text = format!(
        "The stage `{}` (revision {}) of GaFi {} wrote it as dataset `{}`, from\n\n",
        markdown(&made.stage),
        made.revision,
        markdown(&made.version),
        artifact.id()
    );
    for (port, id) in made.inputs.iter().flat_map(|(port, ids)| ids.iter().map(move |id| (port, id))) {
        text += &format!("- {}: artifact `{}`\n", markdown(port), id.replace('`', "'"));
    }
    if made.inputs.is_empty() {
        text += "- no other artifact\n";
    }
    text += "\nAn id is the BLAKE3 hash of an artifact's manifest, and so covers all of its inputs. Configuration:\n\n";
    // Indented rather than fenced, because a string could contain any fence.
    let config = serde_json::to_string_pretty(&made.config).unwrap_or_default();
    text.extend(config.lines().map(|line| format!("    {line}\n")));
    text
}

fn limits(exporter: &Exporter<'_>) -> String {
    if exporter.info.split != Split::Synthetic {
        return "The images are real, with the rights and the faults of their source.\n".into();
    }
    let labels = if exporter.extra.any() {
        "A label is the class that was requested from the generator. A teacher checked each image against it, and teachers \
         make mistakes; where a class ran short, rejected images may have been backfilled."
    } else {
        "A label is the class that was requested from the generator. No teacher checked it, so an image may show \
         another class, or none at all."
    };
    format!(
        "- The images come from a generative model (GaFi's are GANs). They have the gaps and biases of what it \
         learned, and are less diverse than real images.\n\
         - The model may reproduce training images, in whole or in part. This export neither measures nor \
         guarantees privacy.\n\
         - {labels}\n\
         - Test models trained on these images with real images.\n"
    )
}

/// A YAML string in double quotes. Everything but letters, digits and printable ASCII is escaped.
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

/// Escapes text so that Markdown shows it literally, in one line.
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
    fn names_are_escaped() {
        assert_eq!(
            quoted("T-shirt/top: \"a\" \\ é\n\u{85}\u{1F600}"),
            r#""T-shirt/top: \"a\" \\ é\u000A\u0085\U0001F600""#
        );
        assert_eq!(markdown("a|b <i>\n`x`"), r"a\|b &lt;i\> \`x\`");
    }

    #[test]
    fn size_categories_match_the_hubs() {
        assert_eq!(
            [0, 999, 1_000, 60_000, 2_000_000_000].map(size_category),
            ["n<1K", "n<1K", "1K<n<10K", "10K<n<100K", "n>1B"]
        );
    }
}

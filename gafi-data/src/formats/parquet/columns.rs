//! Which columns of a parquet file hold the images and the labels.

use std::fs::File;
use std::path::Path;

use gafi_core::{Error, Result};
use parquet::basic::Type;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;

/// Usual names of the columns, in order of preference.
const IMAGE_COLUMNS: [&str; 3] = ["image", "img", "images"];
const LABEL_COLUMNS: [&str; 4] = ["label", "labels", "fine_label", "target"];

/// The configured names of the columns; `None` for one of the usual names.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Columns<'a> {
    pub(crate) image: Option<&'a str>,
    pub(crate) label: Option<&'a str>,
}

/// A column as the hub's metadata describe it.
pub(super) struct Feature {
    pub(super) name: String,
    is_label: bool,
    pub(super) names: Option<Vec<String>>,
}

/// The columns in the `huggingface` entry of the schema's metadata:
/// `{"info": {"features": {"label": {"names": ["airplane", …], "_type": "ClassLabel"}}}}`.
pub(super) fn features(reader: &SerializedFileReader<File>) -> Vec<Feature> {
    let metadata = reader.metadata().file_metadata().key_value_metadata();
    let text = metadata.and_then(|m| m.iter().find(|e| e.key == "huggingface")).and_then(|e| e.value.as_deref());
    let hub: Option<serde_json::Value> = text.and_then(|text| serde_json::from_str(text).ok());
    let features = hub.as_ref().and_then(|hub| hub.get("info")?.get("features")?.as_object());
    let feature = |(name, value): (&String, &serde_json::Value)| Feature {
        name: name.clone(),
        is_label: value.get("_type").is_some_and(|kind| kind == "ClassLabel"),
        names: value.get("names").and_then(|names| serde_json::from_value(names.clone()).ok()),
    };
    features.into_iter().flatten().map(feature).collect()
}

/// The leaf column of encoded images: `NAME.bytes`, or a column NAME of bytes. `requested` is the key `image_column`.
pub(super) fn image_column(path: &Path, schema: &SchemaDescriptor, requested: Option<&str>) -> Result<usize> {
    let is_bytes =
        |i: usize| schema.column(i).physical_type() == Type::BYTE_ARRAY && schema.column(i).max_rep_level() <= 1;
    let find = |name: &str| {
        (0..schema.num_columns()).filter(|&i| is_bytes(i)).find(|&i| match schema.column(i).path().parts() {
            [root] => root == name,
            // `NAME.list.element.bytes` is a list of images.
            [root, .., leaf] => root == name && leaf == "bytes",
            _ => false,
        })
    };
    if let Some(found) = requested.map_or_else(|| IMAGE_COLUMNS.iter().find_map(|n| find(n)), find) {
        return Ok(found);
    }
    let is_struct =
        |i: &usize| is_bytes(*i) && matches!(schema.column(*i).path().parts(), [_, .., leaf] if leaf == "bytes");
    let structs: Vec<usize> = (0..schema.num_columns()).filter(is_struct).collect();
    if let (None, &[only]) = (requested, &structs[..]) {
        return Ok(only);
    }
    let images = "images (a struct with the field bytes)";
    let expected = match requested {
        Some(name) => format!("a column {name:?} of {images}"),
        None => format!("a column of {images} named image, img or images; set image_column for another name"),
    };
    Err(Error::format(path, "columns", expected, column_list(schema)))
}

/// The leaf column of labels, and whether only its type in the metadata marks it as such.
pub(super) fn label_column(
    path: &Path,
    schema: &SchemaDescriptor,
    requested: Option<&str>,
    features: &[Feature],
) -> Result<(usize, bool)> {
    let find = |name: &str| {
        (0..schema.num_columns()).find(|&i| matches!(schema.column(i).path().parts(), [root, ..] if root == name))
    };
    let labels: Vec<&Feature> = features.iter().filter(|f| f.is_label).collect();
    let by_type = || match labels[..] {
        [only] => find(&only.name),
        _ => None,
    };
    let found = match requested {
        Some(name) => find(name).map(|i| (i, false)),
        None => {
            let usual = LABEL_COLUMNS.iter().find_map(|n| find(n));
            usual.map(|i| (i, false)).or_else(|| Some((by_type()?, true)))
        }
    };
    let Some((column, guessed)) = found else {
        let expected = match requested {
            Some(name) => format!("a column {name:?} of labels"),
            None => {
                "a column of labels named label, labels, fine_label or target; set label_column for another name".into()
            }
        };
        return Err(Error::format(path, "columns", expected, column_list(schema)));
    };
    let name = schema.column(column).path().string();
    if schema.column(column).max_rep_level() > 0 {
        let expected = "one label per row; a multi-label set cannot be imported, because each image has one class";
        return Err(Error::format(path, format!("column {name}"), expected, "a list of labels per row"));
    }
    let kind = schema.column(column).physical_type();
    if matches!(kind, Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY) {
        let expected = "numbers, names or booleans";
        return Err(Error::format(path, format!("column {name}"), expected, kind.to_string()));
    }
    Ok((column, guessed))
}

fn column_list(schema: &SchemaDescriptor) -> String {
    let names: Vec<_> =
        schema.columns().iter().map(|c| format!("{} ({})", c.path().string(), c.physical_type())).collect();
    if names.is_empty() { "no columns".into() } else { names.join(", ") }
}

//! Parquet as in the Hugging Face hub's image datasets: PNG bytes in a struct column, integer labels, and features with the
//! class names in the schema's metadata. Written column by column with the parquet crate's low-level writer, without Arrow.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::sync::Arc;

use gafi_core::{Batch, Error, Result};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};
use serde_json::{Map, json};

use super::exporter::{Exporter, Folders, digits};

/// Maximum numbers of rows and of image bytes in a row group. A reader loads a whole group to get a single row.
const GROUP_ROWS: usize = 1000;
const GROUP_BYTES: usize = 16 << 20;

type Writer = SerializedFileWriter<BufWriter<File>>;

pub(super) fn write(exporter: &Exporter<'_>) -> Result<Folders> {
    let layout = Layout::of(exporter).map_err(Error::other("describing the columns"))?;
    let mut files = 0;
    let mut open = None::<(String, Writer)>;
    exporter.each_shard(|first, shard| {
        let pngs: Vec<ByteArray> = exporter.pngs(&shard)?.into_iter().map(ByteArray::from).collect();
        let mut begin = 0;
        while begin < pngs.len() {
            let rows = begin..group_end(&pngs, begin);
            let (name, mut writer) = match open.take() {
                Some(open) => open,
                None => {
                    let name = format!("data/{}-{files:05}.parquet", exporter.split());
                    let file = exporter.out.create(&name)?;
                    let writer = SerializedFileWriter::new(file, layout.schema.clone(), layout.properties.clone());
                    (name.clone(), writer.map_err(failed(&name))?)
                }
            };
            begin = rows.end;
            let mut group = writer.next_row_group().map_err(failed(&name))?;
            layout.group(&mut group, &shard, first, &pngs, rows).map_err(failed(&name))?;
            group.close().map_err(failed(&name))?;
            if writer.bytes_written() as u64 >= exporter.options.file_bytes {
                finish(exporter, &name, writer)?;
                files += 1;
            } else {
                open = Some((name, writer));
            }
        }
        Ok(())
    })?;
    if let Some((name, writer)) = open {
        finish(exporter, &name, writer)?;
    }
    Ok(Folders::new())
}

fn failed(name: &str) -> impl FnOnce(ParquetError) -> Error + use<> {
    Error::other(format!("writing {name}"))
}

fn finish(exporter: &Exporter<'_>, name: &str, writer: Writer) -> Result<()> {
    writer.into_inner().map_err(failed(name))?.flush().map_err(exporter.failed(name))
}

fn group_end(pngs: &[ByteArray], begin: usize) -> usize {
    let mut end = begin;
    let mut bytes = 0;
    while end < pngs.len() && end - begin < GROUP_ROWS && bytes < GROUP_BYTES {
        bytes += pngs[end].len();
        end += 1;
    }
    end
}

/// The schema, and what else the columns of a row group depend on.
struct Layout {
    schema: TypePtr,
    properties: WriterPropertiesPtr,
    /// How many digits a row number has.
    width: usize,
    classes: usize,
}

impl Layout {
    fn of(exporter: &Exporter<'_>) -> std::result::Result<Self, ParquetError> {
        let mut schema = String::from(
            "message schema { optional group image { optional binary bytes; optional binary path (UTF8); } \
             optional int64 label; ",
        );
        let mut features = Map::new();
        features.insert("image".into(), json!({"_type": "Image"}));
        features.insert("label".into(), json!({"names": exporter.info.classes, "_type": "ClassLabel"}));
        let float = json!({"dtype": "float32", "_type": "Value"});
        if exporter.extra.confidence {
            schema += "optional float confidence; ";
            features.insert("confidence".into(), float.clone());
        }
        if exporter.extra.probabilities {
            schema += "optional group probabilities (LIST) { repeated group list { optional float element; } } ";
            features.insert("probabilities".into(), json!({"feature": float, "_type": "Sequence"}));
        }
        let hub = json!({"info": {"features": features}});
        let bytes = || ColumnPath::from(vec!["image".into(), "bytes".into()]);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            // PNG is compressed already, and neither dictionaries nor statistics help.
            .set_column_compression(bytes(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(bytes(), false)
            .set_column_statistics_enabled(bytes(), EnabledStatistics::None)
            .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".into(), hub.to_string())]));
        Ok(Self {
            schema: Arc::new(parse_message_type(&(schema + "}"))?),
            properties: Arc::new(properties.build()),
            width: digits(exporter.info.rows()),
            classes: exporter.info.classes.len(),
        })
    }

    /// Writes `rows` of a shard, which begins at row `first` of the dataset, as one row group.
    fn group(
        &self,
        group: &mut SerializedRowGroupWriter<'_, BufWriter<File>>,
        shard: &Batch,
        first: usize,
        pngs: &[ByteArray],
        rows: Range<usize>,
    ) -> std::result::Result<(), ParquetError> {
        let n = rows.len();
        // No value is null, so every definition level is the highest.
        column::<ByteArrayType>(group, &pngs[rows.clone()], &vec![2; n], None)?;
        let path =
            |row: usize| ByteArray::from(format!("{:0width$}.png", first + row, width = self.width).into_bytes());
        column::<ByteArrayType>(group, &rows.clone().map(path).collect::<Vec<_>>(), &vec![2; n], None)?;
        let labels: Vec<i64> = shard.labels[rows.clone()].iter().map(|l| i64::from(l.0)).collect();
        column::<Int64Type>(group, &labels, &vec![1; n], None)?;
        if let Some(confidence) = &shard.confidence {
            column::<FloatType>(group, &confidence[rows.clone()], &vec![1; n], None)?;
        }
        if let Some(all) = &shard.probabilities {
            let values = &all[rows.start * self.classes..rows.end * self.classes];
            // Repetition level 0 starts the list of a row.
            let repetition: Vec<i16> = (0..values.len()).map(|i| i16::from(i % self.classes != 0)).collect();
            column::<FloatType>(group, values, &vec![3; values.len()], Some(&repetition))?;
        }
        Ok(())
    }
}

/// Writes the next column of a row group.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, BufWriter<File>>,
    values: &[T::T],
    definition: &[i16],
    repetition: Option<&[i16]>,
) -> std::result::Result<(), ParquetError> {
    let next = group.next_column()?;
    let mut next = next.ok_or_else(|| ParquetError::General("the schema has fewer columns".into()))?;
    next.typed::<T>().write_batch(values, Some(definition), repetition)?;
    next.close()
}

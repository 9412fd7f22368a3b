//! Tar shards for the `webdataset` library: the files of a sample share a key and are adjacent.

use std::fs::File;
use std::io::{BufWriter, Write};

use gafi_core::{Error, Result};
use serde_json::{Map, json};
use tar::{Builder, EntryType, Header};

use super::exporter::{Exporter, Folders, digits};

pub(super) fn write(exporter: &Exporter<'_>) -> Result<Folders> {
    let width = digits(exporter.info.rows());
    let classes = exporter.info.classes.len();
    let mut tars = 0;
    let mut open = None::<Tar>;
    exporter.each_shard(|first, shard| {
        for (i, png) in exporter.pngs(&shard)?.iter().enumerate() {
            let mut tar = match open.take() {
                Some(tar) => tar,
                None => Tar::create(exporter, format!("{}-{tars:06}.tar", exporter.split()))?,
            };
            let key = format!("{:0width$}", first + i);
            tar.add(exporter, &format!("{key}.png"), png)?;
            tar.add(exporter, &format!("{key}.cls"), shard.labels[i].0.to_string().as_bytes())?;
            if exporter.extra.any() {
                let mut fields = Map::new();
                if let Some(confidence) = &shard.confidence {
                    fields.insert("confidence".into(), json!(confidence[i]));
                }
                if let Some(all) = &shard.probabilities {
                    fields.insert("probabilities".into(), json!(&all[i * classes..(i + 1) * classes]));
                }
                let text = serde_json::to_vec(&fields).map_err(Error::other(format!("writing row {key}")))?;
                tar.add(exporter, &format!("{key}.json"), &text)?;
            }
            if tar.bytes >= exporter.options.file_bytes {
                tar.finish(exporter)?;
                tars += 1;
            } else {
                open = Some(tar);
            }
        }
        Ok(())
    })?;
    if let Some(tar) = open {
        tar.finish(exporter)?;
    }
    exporter.json("classes.json", &exporter.info.classes)?;
    Ok(Folders::new())
}

struct Tar {
    name: String,
    builder: Builder<BufWriter<File>>,
    bytes: u64,
}

impl Tar {
    fn create(exporter: &Exporter<'_>, name: String) -> Result<Self> {
        Ok(Self { builder: Builder::new(exporter.out.create(&name)?), name, bytes: 0 })
    }

    /// Adds a file without owner and date.
    fn add(&mut self, exporter: &Exporter<'_>, name: &str, content: &[u8]) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        self.builder.append_data(&mut header, name, content).map_err(exporter.failed(&self.name))?;
        self.bytes += 512 + (content.len() as u64).next_multiple_of(512);
        Ok(())
    }

    fn finish(self, exporter: &Exporter<'_>) -> Result<()> {
        self.builder.into_inner().and_then(|mut file| file.flush()).map_err(exporter.failed(&self.name))
    }
}

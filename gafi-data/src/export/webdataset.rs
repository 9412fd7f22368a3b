//! Tar shards as the `webdataset` library reads them: the files of a sample share a key and lie one after another.

use std::fs::File;
use std::io::{BufWriter, Write};

use gafi_core::{Error, Result};
use serde_json::{Map, json};
use tar::{Builder, EntryType, Header};

use super::{Folders, Job, digits};

pub(super) fn write(job: &Job<'_>) -> Result<Folders> {
    let width = digits(job.info.rows());
    let classes = job.info.classes.len();
    let (mut tars, mut open) = (0, None::<Tar>);
    job.each_shard(|first, shard| {
        for (i, png) in job.pngs(&shard)?.iter().enumerate() {
            let mut tar = match open.take() {
                Some(tar) => tar,
                None => Tar::create(job, format!("{}-{tars:06}.tar", job.split()))?,
            };
            let key = format!("{:0width$}", first + i);
            tar.add(job, &format!("{key}.png"), png)?;
            tar.add(job, &format!("{key}.cls"), shard.labels[i].0.to_string().as_bytes())?;
            if job.extra.any() {
                let mut fields = Map::new();
                if let Some(confidence) = &shard.confidence {
                    fields.insert("confidence".into(), json!(confidence[i]));
                }
                if let Some(all) = &shard.probabilities {
                    fields.insert("probabilities".into(), json!(&all[i * classes..(i + 1) * classes]));
                }
                let text = serde_json::to_vec(&fields).map_err(Error::other(format!("writing row {key}")))?;
                tar.add(job, &format!("{key}.json"), &text)?;
            }
            if tar.bytes >= job.options.file_bytes {
                tar.finish(job)?;
                tars += 1;
            } else {
                open = Some(tar);
            }
        }
        Ok(())
    })?;
    if let Some(tar) = open {
        tar.finish(job)?;
    }
    job.json("classes.json", &job.info.classes)?;
    Ok(Folders::new())
}

struct Tar {
    name: String,
    builder: Builder<BufWriter<File>>,
    bytes: u64,
}

impl Tar {
    fn create(job: &Job<'_>, name: String) -> Result<Self> {
        Ok(Self { builder: Builder::new(job.out.create(&name)?), name, bytes: 0 })
    }

    /// Adds a file of nobody's, of the year 1970.
    fn add(&mut self, job: &Job<'_>, name: &str, content: &[u8]) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        self.builder.append_data(&mut header, name, content).map_err(job.failed(&self.name))?;
        self.bytes += 512 + (content.len() as u64).next_multiple_of(512);
        Ok(())
    }

    fn finish(self, job: &Job<'_>) -> Result<()> {
        self.builder.into_inner().and_then(|mut file| file.flush()).map_err(job.failed(&self.name))
    }
}

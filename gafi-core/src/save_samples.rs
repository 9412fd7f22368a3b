//! `save_samples`: a dataset on disk from any source, for programs without stages of their own.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::artifact::Artifact;
use crate::error::{Result, check_positive};
use crate::inputs::Inputs;
use crate::loaders::Context;
use crate::manifest::Kind;
use crate::model::SAMPLE_BATCH;
use crate::source::SampleSource;
use crate::stage::{Stage, StageInfo, execute};
use crate::write_samples::write_samples;
use crate::writer::ArtifactWriter;

/// Writes `per_class` samples of each class of `source` as a dataset of split `synthetic` in the folder `dest`. An interrupted call
/// resumes when it is repeated.
///
/// `made_by` says how the samples are made: any JSON, such as the names of networks and the seed. It is recorded. A finished or partial
/// dataset in `dest` is reused if its `made_by` and `per_class` are equal, so `made_by` has to change when the samples do.
///
/// ```
/// use std::num::NonZeroUsize;
/// use gafi_core::serde_json::json;
/// use gafi_core::{Artifact, Dataset, Rows, save_samples};
/// # use gafi_core::*;
/// # #[derive(Debug)] struct Shades([u64; 2], Vec<String>);
/// # impl SampleSource for Shades {
/// #     fn image(&self) -> &ImageSpec { &ImageSpec { channels: 1, height: 1, width: 1 } }
/// #     fn classes(&self) -> &[String] { &self.1 }
/// #     fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> Result<Option<Batch>> {
/// #         let n = max.get();
/// #         let next = &mut self.0[class.index()];
/// #         let ids: Vec<u64> = (*next..*next + n as u64).collect();
/// #         *next += n as u64;
/// #         let images = ids.iter().map(|id| 100 * class.0 as u8 + *id as u8).collect();
/// #         Ok(Some(Batch { labels: vec![class; n], images, ids, ..Batch::default() }))
/// #     }
/// #     fn tally(&self) -> Tally { Tally::new(2) }
/// #     fn cursor(&self, class: ClassId) -> Cursor { Cursor::new([self.0[class.index()]], Vec::new()) }
/// #     fn seek(&mut self, class: ClassId, cursor: &Cursor) -> Result<()> {
/// #         let ([next], _) = cursor.parts("shades", 0)?;
/// #         self.0[class.index()] = next;
/// #         Ok(())
/// #     }
/// # }
/// # let mut source = Shades([0; 2], vec!["dark".into(), "light".into()]);
/// # let dir = tempfile::tempdir().unwrap();
/// # let dest = dir.path().join("samples");
/// // `source` is any `SampleSource`, such as those of gafi-expand and gafi-filter.
/// save_samples(&mut source, 10, json!({"generator": "shades", "seed": 0}), &dest)?;
///
/// let set = Dataset::open(&Artifact::open(&dest)?)?;
/// let mut pixels = vec![0; set.info().image.bytes()];
/// set.read(&[19], &mut pixels)?;
/// assert_eq!((set.len(), set.label(19).0, pixels[0]), (20, 1, 109));
/// # Ok::<(), gafi_core::Error>(())
/// ```
///
/// # Errors
/// [`crate::Error::Config`] when `per_class` is 0; [`crate::Error::Exhausted`] when classes have too few samples;
/// [`crate::Error::Occupied`] when `dest` holds something else; errors of source and files.
pub fn save_samples(source: &mut dyn SampleSource, per_class: u64, made_by: Value, dest: &Path) -> Result<Artifact> {
    let stage = SaveSamples { source: Mutex::new(source), per_class, made_by };
    Ok(execute(&stage, &Inputs::new(), dest, &Context::default())?.artifact)
}

struct SaveSamples<'a> {
    // A stage runs through a shared reference, but drawing needs a mutable one.
    source: Mutex<&'a mut dyn SampleSource>,
    per_class: u64,
    made_by: Value,
}

impl std::fmt::Debug for SaveSamples<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { per_class, made_by, .. } = self;
        f.debug_struct("SaveSamples").field("per_class", per_class).field("made_by", made_by).finish_non_exhaustive()
    }
}

impl Stage for SaveSamples<'_> {
    fn info(&self) -> StageInfo {
        StageInfo { name: "save-samples", revision: 1, ports: &[], output: Kind::Dataset }
    }

    fn config(&self) -> Value {
        serde_json::json!({"made_by": self.made_by, "per_class": self.per_class})
    }

    fn check(&self, _: &Inputs) -> Result<()> {
        check_positive("per_class", self.per_class)
    }

    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        write_samples(&mut **source, self.per_class, SAMPLE_BATCH, "save-samples", out, cx)
    }
}

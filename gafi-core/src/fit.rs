//! `fit`: the epoch loop that trains every classifier, on a fixed set or on one that is renewed (Dynamic Dataset Recycle).

use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dataset_info::DatasetInfo;
use crate::error::{Error, Result};
use crate::info::{ClassifierInfo, WEIGHTS_FILE};
use crate::inputs::Inputs;
use crate::loaders::Context;
use crate::model::Learner;
use crate::rows::Rows;
use crate::scores::{ValScore, ValSet, select_best};
use crate::spec::ImageSpec;
use crate::specs::ArchitectureSpec;
use crate::tally::Tally;
use crate::trial::{EpochRecord, TRIAL_FILE, TrialRecord};
use crate::writer::ArtifactWriter;

/// The training set of each epoch. The defaults are those of real images: they keep no state and no counts.
pub trait EpochData {
    /// The set for `epoch` (from 0), and the number of its images that are new. Called once per epoch, in order.
    fn rows(&mut self, epoch: u32, out: &ArtifactWriter, cx: &Context) -> Result<(&dyn Rows, u64)>;

    /// The resume state. It should be small; large state goes to [`ArtifactWriter::save_state`].
    fn snapshot(&self) -> Result<Value> {
        Ok(Value::Null)
    }

    /// Resumes from an [`EpochData::snapshot`], perhaps of another process.
    fn restore(&mut self, _snapshot: Value, _out: &ArtifactWriter) -> Result<()> {
        Ok(())
    }

    /// Counts of the samples generated so far; `None` for real images.
    fn tally(&self) -> Option<Tally> {
        None
    }
}

/// Name of the port for the classifier whose weights training starts from.
pub const START_PORT: &str = "start";

/// Starts `learner` from the weights of the classifier at [`START_PORT`], if there is one.
///
/// # Errors
/// [`Error::Input`] when its images, classes or architecture differ from those of `val` and `learner`; errors of
/// [`Learner::begin_with`].
pub fn warm_start(learner: &mut dyn Learner, inputs: &Inputs, val: &DatasetInfo) -> Result<()> {
    let Some(start) = inputs.get(START_PORT) else { return Ok(()) };
    let info = ClassifierInfo::of(start)?;
    let architecture = learner.architecture();
    if (info.image, &info.classes) != (val.image, &val.classes) || info.architecture != architecture {
        let describe = |architecture: &ArchitectureSpec, image: &ImageSpec, classes: &[String]| {
            format!("{architecture} for {}", image.of_classes(classes))
        };
        let expected = describe(&architecture, &val.image, &val.classes);
        return Err(inputs.error(START_PORT, expected, describe(&info.architecture, &info.image, &info.classes)));
    }
    learner.begin_with(&start.read(WEIGHTS_FILE)?)
}

/// The same images every epoch.
pub struct FixedData<'a>(pub &'a dyn Rows);

impl EpochData for FixedData<'_> {
    fn rows(&mut self, epoch: u32, _: &ArtifactWriter, _: &Context) -> Result<(&dyn Rows, u64)> {
        Ok((self.0, if epoch == 0 { self.0.len() as u64 } else { 0 }))
    }
}

const STATE: &str = "fit.json";

#[derive(Default, Serialize, Deserialize)]
struct Header {
    epochs: Vec<EpochRecord>,
    chosen: Option<(u32, ValScore)>,
    data: Value,
    // The learner's snapshot and the best weights are separate files named by their epoch, so that this header, written
    // last and atomically, always points to a matching set.
    snapshot: String,
    best: String,
}

/// Trains `learner` to its last epoch and scores it on `val` after each. It writes the weights of the best epoch (the earliest on
/// a tie), the trial record and the content of a classifier artifact to `out`. It resumes after the last complete epoch.
///
/// # Errors
/// Errors of learner and data; [`Error::NonFinite`] when a loss is not a number; [`Error::Config`] when no epoch is planned.
pub fn fit(
    learner: &mut dyn Learner,
    data: &mut dyn EpochData,
    val: &ValSet,
    setting: Value,
    out: &mut ArtifactWriter,
    cx: &Context,
) -> Result<TrialRecord> {
    let mut header = Header::default();
    let mut best = Vec::new();
    if let Some(state) = out.load_state(STATE)? {
        header = serde_json::from_slice(&state).map_err(Error::other("reading the resume state of the training"))?;
        learner.restore(&state_file(out, &header.snapshot)?)?;
        data.restore(header.data.clone(), out)?;
        best = state_file(out, &header.best)?;
        if learner.epoch() as usize != header.epochs.len() {
            let expected = format!("epoch {}", header.epochs.len());
            let found = format!("epoch {}", learner.epoch());
            return Err(Error::format(out.dir(), "resume state: the learner's snapshot", expected, found));
        }
    }
    let mut task = cx.progress.begin("train", Some(u64::from(learner.epochs())));
    task.advance(u64::from(learner.epoch()));
    while learner.epoch() < learner.epochs() {
        cx.checkpoint()?;
        let begun = Instant::now();
        let epoch = learner.epoch();
        let (rows, renewed) = data.rows(epoch, out, cx)?;
        let supplied = begun.elapsed();
        let report = learner.train_epoch(rows, cx)?;
        let trained = begun.elapsed();
        let number = epoch + 1;
        for (value, what) in [(report.loss, "loss"), (report.accuracy, "accuracy")] {
            if !value.is_finite() {
                let term = format!("the mean training {what} of epoch {number}");
                return Err(Error::NonFinite { step: u64::from(epoch), term, value });
            }
        }
        if learner.epoch() != number {
            let found = format!("the learner is at epoch {}", learner.epoch());
            return Err(Error::format(out.dir(), format!("epoch {number}"), "one epoch trained", found));
        }
        let score = val.score(&mut *learner.scorer()?, cx)?;
        header.epochs.push(EpochRecord {
            epoch: number,
            loss: report.loss,
            train_accuracy: report.accuracy,
            val: score,
            renewed,
        });
        header.chosen = select_best(header.chosen.into_iter().chain([(number, score)]));
        let old = [header.snapshot.clone(), header.best.clone()];
        if header.chosen.is_some_and(|(epoch, _)| epoch == number) {
            best = learner.weights()?;
            header.best = format!("best-{number:05}.safetensors");
            out.save_state(&header.best, &best)?;
        }
        header.snapshot = format!("learner-{number:05}.safetensors");
        out.save_state(&header.snapshot, &learner.snapshot()?)?;
        header.data = data.snapshot()?;
        let state = serde_json::to_vec(&header).map_err(Error::other("writing the resume state of the training"))?;
        out.save_state(STATE, &state)?;
        for old in old {
            if !old.is_empty() && old != header.best && old != header.snapshot {
                out.drop_state(&old)?;
            }
        }
        out.log(&serde_json::json!({
            "event": "epoch", "epoch": number, "loss": report.loss, "train_accuracy": report.accuracy,
            "val_accuracy": score.accuracy(), "renewed": renewed, "images": report.images,
            "supply_s": supplied.as_secs_f64(), "train_s": (trained - supplied).as_secs_f64(),
            "wall_s": begun.elapsed().as_secs_f64(),
        }))?;
        task.note(&format!("loss {:.3}, val {:.2} %", report.loss, 100.0 * score.accuracy()));
        task.advance(1);
    }
    let Some((chosen_epoch, score)) = header.chosen else {
        return Err(Error::config("epochs", learner.epochs(), "at least 1"));
    };
    let record = TrialRecord {
        setting,
        protocol: val.protocol(),
        epochs: header.epochs,
        chosen_epoch,
        val: score,
        tally: data.tally(),
    };
    out.write(WEIGHTS_FILE, &best)?;
    out.write_json(TRIAL_FILE, &record)?;
    let info = val.info();
    out.set_content(&ClassifierInfo {
        architecture: learner.architecture(),
        image: info.image,
        classes: info.classes.clone(),
    })?;
    Ok(record)
}

fn state_file(out: &ArtifactWriter, name: &str) -> Result<Vec<u8>> {
    let missing = || Error::format(out.dir(), "resume state", format!("a file {name:?}"), "none");
    out.load_state(name)?.ok_or_else(missing)
}

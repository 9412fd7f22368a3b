//! The stage `train-gan`: trains a generator on a dataset of real images.

use candle_core::Device;
use gafi_core::{
    ArtifactWriter, ClassifierInfo, Context, Dataset, DatasetInfo, Inputs, Kind, Port, Result, Split, Stage, StageInfo,
};
use gafi_nn::ClassifierNet;
use serde_json::Value;

use crate::config::GanConfig;
use crate::train::train;

/// Trains a GAN on the dataset in port `train` and writes a generator artifact with a series of checkpoints.
#[derive(Debug, Clone)]
pub struct TrainGan {
    /// Networks and training.
    pub config: GanConfig,
    /// The device to train on; not part of the artifact's identity.
    pub device: Device,
}

/// A classifier that guides the generator, see [`GuidanceConfig`](crate::GuidanceConfig).
const TEACHER: &str = "teacher";

impl Stage for TrainGan {
    fn info(&self) -> StageInfo {
        StageInfo {
            name: "train-gan",
            revision: 5,
            ports: const { &[Port::required("train", Kind::Dataset), Port::optional(TEACHER, Kind::Classifier)] },
            output: Kind::Generator,
        }
    }

    fn config(&self) -> Value {
        serde_json::to_value(&self.config).unwrap_or_default()
    }

    fn check(&self, inputs: &Inputs) -> Result<()> {
        let info = DatasetInfo::of(inputs.require("train")?)?;
        if !matches!(info.split, Split::Train | Split::TrainVal) {
            // Images of the other splits choose and measure; training on them would bias both.
            let found = format!("split {}", info.split);
            return Err(inputs.error("train", "a dataset of split train or train-val", found));
        }
        if let Some(empty) = info.counts.iter().position(|&count| count == 0) {
            let found = format!("no image of class {empty} ({})", info.classes[empty]);
            return Err(inputs.error("train", "images of every class", found));
        }
        let teacher = inputs.get(TEACHER).map(ClassifierInfo::of).transpose()?;
        match (&teacher, self.config.guidance.is_some()) {
            (None, true) => return Err(inputs.error(TEACHER, "a classifier, as the GAN's guidance needs one", "none")),
            (Some(_), false) => {
                let expected = "no classifier, or guidance in the GAN's configuration";
                return Err(inputs.error(TEACHER, expected, "a classifier without guidance"));
            }
            _ => {}
        }
        if let Some(teacher) = teacher
            && (teacher.image, &teacher.classes) != (info.image, &info.classes)
        {
            let found = teacher.image.of_classes(&teacher.classes);
            return Err(inputs.error(TEACHER, info.image.of_classes(&info.classes), found));
        }
        self.config.check(&info.image, info.classes.len(), info.rows())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let data = Dataset::open(inputs.require("train")?)?;
        let teacher = inputs.get(TEACHER).map(|teacher| ClassifierNet::open(teacher, &self.device)).transpose()?;
        train(&self.config, &data, teacher, &self.device, out, cx)?;
        Ok(())
    }
}

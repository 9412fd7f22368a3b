//! The stage `train-gan`: trains a generator on a dataset of real images.

use candle_core::Device;
use gafi_core::{
    ArtifactWriter, Context, Dataset, DatasetInfo, Error, Inputs, Kind, Port, Result, Split, Stage, StageInfo,
};
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

impl TrainGan {
    /// The stage's name.
    pub const NAME: &str = "train-gan";
}

impl Stage for TrainGan {
    fn info(&self) -> StageInfo {
        StageInfo {
            name: Self::NAME,
            revision: 4,
            ports: const { &[Port::required("train", Kind::Dataset)] },
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
            return Err(Error::Input {
                stage: Self::NAME.into(),
                port: "train".into(),
                expected: "a dataset of split train or train-val".into(),
                found: format!("split {}", info.split),
            });
        }
        if let Some(empty) = info.counts.iter().position(|&count| count == 0) {
            return Err(Error::Input {
                stage: Self::NAME.into(),
                port: "train".into(),
                expected: "images of every class".into(),
                found: format!("no image of class {empty} ({})", info.classes[empty]),
            });
        }
        self.config.check(&info.image, info.classes.len(), info.rows())
    }

    fn run(&self, inputs: &Inputs, out: &mut ArtifactWriter, cx: &Context) -> Result<()> {
        let data = Dataset::open(inputs.require("train")?)?;
        train(&self.config, &data, &self.device, out, cx)?;
        Ok(())
    }
}

//! Registration of this crate's classifiers with a host program.

use candle_core::Device;
use gafi_core::ModelLoaders;

use crate::config::ClassifierConfig;
use crate::learner::ResNetLearner;
use crate::resnet::ResNetConfig;
use crate::scorer::ResNetScorer;

/// Registers learners and scorers of the architecture `resnet`. They run on `device`.
pub fn register(loaders: ModelLoaders, device: &Device) -> ModelLoaders {
    let learner_device = device.clone();
    let scorer_device = device.clone();
    loaders
        .with_learner(
            ResNetConfig::NAME,
            Box::new(move |config, image, classes, seed| {
                let config = ClassifierConfig::from_spec(config)?;
                Ok(Box::new(ResNetLearner::new(config, image, classes.len(), seed, &learner_device)?))
            }),
        )
        .with_scorer(
            ResNetConfig::NAME,
            Box::new(move |artifact| Ok(Box::new(ResNetScorer::open(artifact, &scorer_device)?))),
        )
}

//! Registration of this crate's classifiers with a host program.

use candle_core::Device;
use gafi_core::ModelLoaders;

use crate::classifier::ClassifierArchitecture;
use crate::learner::ClassifierLearner;
use crate::scorer::ClassifierScorer;

/// Registers learners and scorers of the architectures [`ClassifierArchitecture::NAMES`]. They run on `device`.
pub fn register(loaders: ModelLoaders, device: &Device) -> ModelLoaders {
    ClassifierArchitecture::NAMES.into_iter().fold(loaders, |loaders, name| {
        let learner_device = device.clone();
        let scorer_device = device.clone();
        loaders
            .with_learner(
                name,
                Box::new(move |config, image, classes, seed| {
                    let config = config.parse()?;
                    Ok(Box::new(ClassifierLearner::new(config, image, classes.len(), seed, &learner_device)?))
                }),
            )
            .with_scorer(
                name,
                Box::new(move |artifact| Ok(Box::new(ClassifierScorer::open(artifact, &scorer_device)?))),
            )
    })
}

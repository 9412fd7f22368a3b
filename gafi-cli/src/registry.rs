//! The stages and networks of a program. Your own program adds to them and calls [`crate::run`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use candle_core::Device;
use gafi_audit::{Audit, Probe};
use gafi_core::{ModelLoaders, Port, Stage, StageInfo};
use gafi_expand::Expand;
use gafi_filter::Filter;
use gafi_gan::{GanConfig, TrainGan};
use gafi_nn::{Evaluate, TrainClassifier};
use gafi_recycle::Recycle;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::commands::Commands;
use gafi_pipeline::Collect;
use gafi_pipeline::Usage;
use gafi_pipeline::overrides::resolve;
use gafi_pipeline::register_sources;

type Make = Box<dyn Fn(Value, &Device) -> Result<Box<dyn Stage>> + Send + Sync>;
type MoreLoaders = Box<dyn Fn(ModelLoaders, &Device) -> ModelLoaders + Send + Sync>;

/// A stage with its configuration: a verb of the program, and a step of a pipeline file.
pub struct StageKind {
    /// Its name, which is its verb.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// Its inputs.
    pub ports: &'static [Port],
    /// Its default configuration.
    pub defaults: Value,
    /// The JSON schema of its configuration; see [`StageKind::with_schema`].
    pub schema: Option<Value>,
    make: Make,
}

impl StageKind {
    /// The stage `S`, whose fields are its configuration. Unknown keys are errors.
    pub fn of<S>(about: &'static str) -> Self
    where
        S: Stage + Default + Serialize + DeserializeOwned + 'static,
    {
        Self::configured(about, |stage: S, _| stage)
    }

    /// A stage that `make` builds from the configuration `C` and the device of its networks.
    pub fn configured<C, S>(about: &'static str, make: impl Fn(C, &Device) -> S + Send + Sync + 'static) -> Self
    where
        C: Default + Serialize + DeserializeOwned,
        S: Stage + 'static,
    {
        let defaults = serde_json::to_value(C::default()).unwrap_or(Value::Null);
        let stage = make(C::default(), &Device::Cpu);
        let StageInfo { name, ports, .. } = stage.info();
        let make: Make =
            Box::new(move |tree, device| Ok(Box::new(make(resolve::<C>(tree, name)?, device)) as Box<dyn Stage>));
        Self { name, about, ports, defaults, schema: None, make }
    }

    /// Adds the schema of the configuration `C`, for the verb `schema`.
    pub fn with_schema<C: JsonSchema>(self) -> Self {
        Self { schema: Some(crate::schema::of::<C>()), ..self }
    }

    /// Builds the stage from a complete configuration.
    ///
    /// # Errors
    /// [`Usage`] for an invalid configuration.
    pub fn make(&self, config: Value, device: &Device) -> Result<Box<dyn Stage>> {
        (self.make)(config, device)
    }
}

/// Stages and loaders.
#[derive(Default)]
pub struct Registry {
    stages: BTreeMap<&'static str, StageKind>,
    loaders: Vec<MoreLoaders>,
    // Set by an interrupt, which also ends the programs that stages wait for.
    stop: Arc<AtomicBool>,
    commands: Commands,
}

impl Registry {
    /// GaFi's own stages and networks.
    pub fn standard() -> Self {
        fn own<S>(about: &'static str) -> StageKind
        where
            S: Stage + Default + Serialize + DeserializeOwned + JsonSchema + 'static,
        {
            StageKind::of::<S>(about).with_schema::<S>()
        }
        let registry = Self::default();
        let stop = registry.stop.clone();
        let commands = registry.commands.clone();
        registry
            .with_stage(own::<TrainClassifier>("Train a classifier on a dataset: a teacher, or a reference"))
            .with_stage(own::<Evaluate>("Evaluate a classifier: accuracy, accuracy per class, confusion matrix"))
            .with_stage(
                StageKind::configured(
                    "Train a class-conditional GAN on a dataset, keeping several checkpoints",
                    |config: GanConfig, device| TrainGan { config, device: device.clone() },
                )
                .with_schema::<GanConfig>(),
            )
            .with_stage(own::<Expand>("Sample a generator with wider latents than in training (Expansion Trick)"))
            .with_stage(own::<Filter>("Keep the samples that a teacher recognises (Dynamic Sample Filtering)"))
            .with_stage(own::<Recycle>(
                "Train a student on generated images that are renewed during training (Dynamic Dataset Recycle)",
            ))
            .with_stage(own::<Audit>(
                "Measure a synthetic set: acceptance, fidelity, diversity, near-duplicates of real images",
            ))
            .with_stage(own::<Probe>("Rate a source of samples without training, by a classifier in closed form"))
            .with_stage(own::<Collect>("Write samples of any source, filtered or mixed, as a dataset"))
            .with_stage(own::<gafi_command::CommandStage>("Run any program as a stage"))
            .with_loaders(move |loaders, device| {
                let loaders = gafi_nn::register(loaders, device);
                let loaders = gafi_gan::register(loaders, device);
                let commands = commands.clone();
                let loaders = gafi_command::register(loaders, &stop, move |artifact| commands.allow(artifact));
                let loaders = crate::onnx::register(loaders);
                register_sources(loaders)
            })
    }

    /// Adds a stage, or replaces the one of the same name.
    pub fn with_stage(mut self, stage: StageKind) -> Self {
        self.stages.insert(stage.name, stage);
        self
    }

    /// Adds loaders of networks or sources.
    pub fn with_loaders(
        mut self,
        more: impl Fn(ModelLoaders, &Device) -> ModelLoaders + Send + Sync + 'static,
    ) -> Self {
        self.loaders.push(Box::new(more));
        self
    }

    /// All stages by name.
    pub fn stages(&self) -> impl Iterator<Item = &StageKind> {
        self.stages.values()
    }

    /// The stage called `name`.
    ///
    /// # Errors
    /// [`Usage`] listing the known stages.
    pub fn stage(&self, name: &str) -> Result<&StageKind> {
        self.stages.get(name).ok_or_else(|| {
            let known: Vec<_> = self.stages.keys().copied().collect();
            Usage(format!("unknown stage {name:?}; the stages are {}", known.join(", "))).into()
        })
    }

    /// A flag that stops stages and programs once it is set, for [`gafi_core::RunControl::stop`].
    pub fn stop(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Allows every artifact to start its program, even if this user did not import it.
    pub(crate) fn allow_commands(&self) {
        self.commands.allow_all();
    }

    /// The loaders for networks on `device`.
    pub fn loaders(&self, device: &Device) -> ModelLoaders {
        self.loaders.iter().fold(ModelLoaders::default(), |loaders, more| more(loaders, device))
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("stages", &self.stages.keys()).finish_non_exhaustive()
    }
}

//! The networks that can be trained as classifiers, by name.

use candle_core::{Device, Tensor};
use gafi_core::{Artifact, ClassifierInfo, Error, ImageSpec, Kind, Rows, WEIGHTS_FILE};
use gafi_kernels::Precision;
use serde::{Deserialize, Serialize};

use crate::airbench::{Airbench, AirbenchConfig, LOGIT_SCALE};
use crate::checkpoint;
use crate::error::Result;
use crate::layers::{Linear, Mode};
use crate::params::{Params, Scope};
use crate::resnet::{ResNet, ResNetConfig};

/// The network of a classifier, in configurations and manifests `{"name": "resnet", ...}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "name")]
#[non_exhaustive]
pub enum ClassifierArchitecture {
    /// ResNet for small images, the paper's.
    #[serde(rename = "resnet")]
    ResNet(ResNetConfig),
    /// The fast network of Keller Jordan's airbench94.
    #[serde(rename = "airbench")]
    Airbench(AirbenchConfig),
}

impl Default for ClassifierArchitecture {
    fn default() -> Self {
        Self::ResNet(ResNetConfig::default())
    }
}

impl From<ResNetConfig> for ClassifierArchitecture {
    fn from(config: ResNetConfig) -> Self {
        Self::ResNet(config)
    }
}

impl From<AirbenchConfig> for ClassifierArchitecture {
    fn from(config: AirbenchConfig) -> Self {
        Self::Airbench(config)
    }
}

impl ClassifierArchitecture {
    /// Names of the architectures, under which loaders are registered.
    pub const NAMES: [&str; 2] = ["resnet", "airbench"];

    /// Channels of the first stage or block.
    pub fn width(&self) -> usize {
        match self {
            Self::ResNet(config) => config.width,
            Self::Airbench(config) => config.width,
        }
    }

    /// Smallest height and width of an image, in pixels.
    pub fn min_size(&self) -> usize {
        match self {
            Self::ResNet(_) => ResNet::MIN_SIZE,
            Self::Airbench(_) => Airbench::MIN_SIZE,
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`gafi_core::Error::Config`] with the key, prefixed by `prefix` and a dot.
    pub fn check(&self, prefix: &str) -> gafi_core::Result<()> {
        match self {
            Self::ResNet(config) => config.check(prefix),
            Self::Airbench(config) => config.check(prefix),
        }
    }
}

/// What [`ClassifierNet::stages`] computes of N images.
#[derive(Debug, Clone)]
pub struct Stages {
    /// (N, F): the means over positions of the feature maps after each stage or block. Of a network of width w, F is 7 w
    /// (ResNet) or 9 w (airbench).
    pub means: Tensor,
    /// (N, classes)
    pub logits: Tensor,
}

/// A network of one of the architectures. Clones are cheap and share the parameters.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClassifierNet {
    /// [`ClassifierArchitecture::ResNet`].
    ResNet(ResNet),
    /// [`ClassifierArchitecture::Airbench`].
    Airbench(Airbench),
}

impl ClassifierNet {
    /// Creates the parameters in `scope`.
    ///
    /// # Errors
    /// When the images are too small or the architecture is out of range.
    pub fn new(
        scope: &mut Scope<'_>,
        architecture: &ClassifierArchitecture,
        image: &ImageSpec,
        classes: usize,
    ) -> Result<Self> {
        Ok(match architecture {
            ClassifierArchitecture::ResNet(config) => Self::ResNet(ResNet::new(scope, config, image, classes)?),
            ClassifierArchitecture::Airbench(config) => Self::Airbench(Airbench::new(scope, config, image, classes)?),
        })
    }

    /// Sets the number format of the convolutions.
    pub fn set_precision(&mut self, to: Precision) {
        match self {
            Self::ResNet(net) => net.precision = to,
            Self::Airbench(net) => net.precision = to,
        }
    }

    /// Before the first training step, sets the weights that are computed from images (airbench's whitening). `rows` of `data`
    /// are those images.
    ///
    /// # Errors
    /// When the images cannot be read.
    pub fn prepare(&self, data: &dyn Rows, rows: &[usize]) -> Result<()> {
        match self {
            Self::ResNet(_) => Ok(()),
            Self::Airbench(net) => net.whiten(data, rows),
        }
    }

    /// The last layer, whose outputs times [`ClassifierNet::logit_scale`] are the logits.
    pub fn head(&self) -> &Linear {
        match self {
            Self::ResNet(net) => &net.head,
            Self::Airbench(net) => &net.head,
        }
    }

    /// Factor of the last layer's outputs.
    pub fn logit_scale(&self) -> f64 {
        match self {
            Self::ResNet(_) => 1.0,
            Self::Airbench(_) => LOGIT_SCALE,
        }
    }

    /// Maps images x (N, C, H, W) in [-1, 1] to features (N, F), the input of the last layer.
    pub fn features(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match self {
            Self::ResNet(net) => net.features(x, mode),
            Self::Airbench(net) => net.features(x, mode),
        }
    }

    /// What a frozen network computes of images x (N, C, H, W) in [-1, 1], stage by stage. Gradients flow to x, not to the
    /// weights.
    pub fn stages(&self, x: &Tensor) -> Result<Stages> {
        let (means, features) = match self {
            Self::ResNet(net) => net.stages(x)?,
            Self::Airbench(net) => net.stages(x)?,
        };
        let logits = (self.head().forward(&features, Mode::Eval)? * self.logit_scale())?;
        Ok(Stages { means: Tensor::cat(&means, 1)?, logits })
    }

    /// Opens a classifier artifact of one of the architectures [`ClassifierArchitecture::NAMES`].
    ///
    /// # Errors
    /// [`Error::Format`] when the artifact is of another kind, or its weights are damaged, not finite or of another
    /// network.
    pub fn open(artifact: &Artifact, device: &Device) -> gafi_core::Result<Self> {
        let file = artifact.path().join(WEIGHTS_FILE);
        if artifact.kind() != Kind::Classifier {
            return Err(Error::format(artifact.path(), "kind", "classifier", artifact.kind().to_string()));
        }
        let info = ClassifierInfo::of(artifact)?;
        let architecture: ClassifierArchitecture = info
            .architecture
            .parse()
            .map_err(|e| Error::format(artifact.path(), "architecture", "a resnet or an airbench", e.to_string()))?;
        let bytes = artifact.read(WEIGHTS_FILE)?;
        let build = || -> Result<Self> {
            let mut params = Params::of_at_most(bytes.len() / size_of::<f32>(), device);
            let net = Self::new(&mut params.root(), &architecture, &info.image, info.classes.len())?;
            let weights = checkpoint::bytes_to_tensors(&bytes, &Device::Cpu)?;
            params.load(&weights)?;
            checkpoint::check_finite("weights", &weights)?;
            Ok(net)
        };
        build()
            .map_err(|error| Error::format(file, "weights", "those of the manifest's architecture", error.to_string()))
    }

    /// Maps images x (N, C, H, W) in [-1, 1] to logits (N, classes).
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let outputs = self.head().forward(&self.features(x, mode)?, mode)?;
        match self {
            Self::ResNet(_) => Ok(outputs),
            Self::Airbench(_) => Ok((outputs * LOGIT_SCALE)?),
        }
    }
}

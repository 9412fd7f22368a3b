//! The state of a GAN's training, and one update of each network.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use gafi_core::{ImageSpec, Stream};
use gafi_nn::{Adam, Ema, Optimizer, Params, checkpoint};

use crate::config::{BatchNorm, GanConfig};
use crate::diffaugment::{Draws, diff_augment};
use crate::guidance::Guidance;
use crate::networks::{DiscriminatorNet, Form, GeneratorNet, Pass};

/// Generator and discriminator with their optimisers, and the moving average of the generator.
#[derive(Debug)]
pub struct Players {
    /// The generator.
    pub generator: GeneratorNet,
    /// Its parameters and buffers.
    pub g_params: Params,
    /// The discriminator.
    pub discriminator: DiscriminatorNet,
    /// Its parameters and buffers.
    pub d_params: Params,
    /// The moving average of the generator's parameters.
    pub ema: Ema,
    /// The classifier that guides the generator.
    pub guidance: Option<Guidance>,
    g_adam: Adam,
    d_adam: Adam,
    config: GanConfig,
}

/// Loss and logits of an update of the discriminator, from before the update.
#[derive(Debug)]
#[non_exhaustive]
pub struct DUpdate {
    /// The loss, a scalar.
    pub loss: Tensor,
    /// Logits of the real images (N).
    pub real: Tensor,
    /// Logits of the generated images (N).
    pub fake: Tensor,
}

impl Players {
    /// Both networks at their initial weights, drawn from `init`, without guidance. `config` must be valid for `image`.
    pub fn new(
        config: &GanConfig,
        image: &ImageSpec,
        classes: usize,
        device: &Device,
        init: &Stream,
    ) -> gafi_nn::Result<Self> {
        let mut g_params = Params::new(device, init.child("generator"));
        let mut d_params = Params::new(device, init.child("discriminator"));
        let mut generator = GeneratorNet::new(g_params.root(), &config.architecture, image, classes, Form::Training)?;
        let mut discriminator = DiscriminatorNet::new(d_params.root(), &config.architecture, image, classes)?;
        let precision = config.dtype.precision(device);
        generator.set_precision(precision);
        discriminator.set_precision(precision);
        let [beta1, beta2] = config.betas;
        let g_adam = Adam::new(&g_params, beta1, beta2, config.eps)?;
        let d_adam = Adam::new(&d_params, beta1, beta2, config.eps)?;
        let ema = Ema::new(&g_params, config.ema)?;
        let ema = if config.bn == BatchNorm::Averaged { ema.average_buffers() } else { ema };
        Ok(Self {
            generator,
            g_params,
            discriminator,
            d_params,
            ema,
            guidance: None,
            g_adam,
            d_adam,
            config: config.clone(),
        })
    }

    /// Updates the discriminator once, on real images (N, C, H, W) and as many generated from z (N, latent), both with
    /// `labels` (N). `draws` are DiffAugment's for 2 N images: the generated, then the real.
    pub fn update_discriminator(
        &mut self,
        real: &Tensor,
        labels: &Tensor,
        z: &Tensor,
        draws: Option<&Draws>,
    ) -> gafi_nn::Result<DUpdate> {
        let n = real.dim(0)?;
        let fake = self.generator.forward(z, labels, Pass::FROZEN)?;
        let both = self.augmented(&Tensor::cat(&[&fake, real], 0)?, draws)?;
        // Without batch norms in the discriminator, one batch of both gives the same logits as two batches, with less
        // overhead.
        let logits = self.discriminator.forward(&both, &Tensor::cat(&[labels, labels], 0)?, Pass::TRAIN)?;
        let fake = logits.narrow(0, 0, n)?;
        let real = logits.narrow(0, n, n)?;
        let loss = self.config.loss.discriminator(&real, &fake)?;
        self.d_adam.step(&loss.backward()?, self.config.d_lr)?;
        Ok(DUpdate { loss: loss.detach(), real: real.detach(), fake: fake.detach() })
    }

    /// Updates the generator once, on z (N, latent) with `labels` (N), and returns its loss before the update, a
    /// scalar. `draws` are DiffAugment's for N images. The caller, which knows the step's number, updates the moving
    /// average.
    pub fn update_generator(&mut self, labels: &Tensor, z: &Tensor, draws: Option<&Draws>) -> gafi_nn::Result<Tensor> {
        let fake = self.generator.forward(z, labels, Pass::TRAIN)?;
        let logits = self.discriminator.forward(&self.augmented(&fake, draws)?, labels, Pass::FROZEN)?;
        let mut loss = self.config.loss.generator(&logits)?;
        if let Some(guidance) = &mut self.guidance {
            loss = (loss + guidance.loss(&fake, labels)?)?;
        }
        self.g_adam.step(&loss.backward()?, self.config.g_lr)?;
        Ok(loss.detach())
    }

    fn augmented(&self, images: &Tensor, draws: Option<&Draws>) -> Result<Tensor> {
        match draws {
            Some(draws) => diff_augment(&self.config.augment, images, draws),
            None => Ok(images.clone()),
        }
    }

    /// All of the training state except the step's number.
    pub fn state(&self) -> gafi_nn::Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        checkpoint::add_section(&mut all, "generator", self.g_params.state()?);
        checkpoint::add_section(&mut all, "discriminator", self.d_params.state()?);
        checkpoint::add_section(&mut all, "generator-adam", self.g_adam.state()?);
        checkpoint::add_section(&mut all, "discriminator-adam", self.d_adam.state()?);
        checkpoint::add_section(&mut all, "ema", self.ema.weights()?);
        if let Some(guidance) = &self.guidance {
            checkpoint::add_section(&mut all, "guidance", guidance.state());
        }
        Ok(all)
    }

    /// Restores a [`Players::state`].
    pub fn load(&mut self, state: &BTreeMap<String, Tensor>) -> gafi_nn::Result<()> {
        self.g_params.load(&checkpoint::section(state, "generator"))?;
        self.d_params.load(&checkpoint::section(state, "discriminator"))?;
        self.g_adam.load(&checkpoint::section(state, "generator-adam"))?;
        self.d_adam.load(&checkpoint::section(state, "discriminator-adam"))?;
        self.ema.load(&checkpoint::section(state, "ema"))?;
        match &mut self.guidance {
            Some(guidance) => guidance.load(&checkpoint::section(state, "guidance")),
            None => Ok(()),
        }
    }
}

//! Sampling from a trained generator: implements the core's `Generator` for one checkpoint.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use gafi_core::stream::below;
use gafi_core::{Artifact, ClassId, Error, Generator, GeneratorInfo, ImageSpec, Kind, ModelLoaders, Result, Stream};
use gafi_kernels::DropGuard;
use gafi_nn::{Params, checkpoint, pixels};

use crate::architecture::Architecture;
use crate::batches::latent_tensor;
use crate::info::weights_file;
use crate::networks::{Form, GeneratorNet, Pass};

/// Images per forward pass. Batches are padded to whole blocks, because a matrix product with a different number of
/// rows may use a different kernel, which may change the last bit.
const BLOCK: usize = 64;

/// A generator ready for sampling. An image depends on its own latent and label alone, bit for bit.
#[derive(Debug)]
pub struct Sampler {
    _guard: DropGuard,
    net: GeneratorNet,
    params: Params,
    image: ImageSpec,
    classes: Vec<String>,
    latent: usize,
    device: Device,
}

impl Sampler {
    /// A generator whose weights are zero until [`Sampler::load`] sets them.
    pub fn new(
        architecture: &Architecture,
        image: &ImageSpec,
        classes: &[String],
        device: &Device,
    ) -> gafi_nn::Result<Self> {
        Self::build(architecture, image, classes, device, Params::new(device, Stream::new(0)))
    }

    fn build(
        architecture: &Architecture,
        image: &ImageSpec,
        classes: &[String],
        device: &Device,
        mut params: Params,
    ) -> gafi_nn::Result<Self> {
        architecture.check(image)?;
        let net = GeneratorNet::new(params.root(), architecture, image, classes.len(), Form::Inference)?;
        let classes = classes.to_vec();
        let latent = architecture.latent();
        Ok(Self { _guard: DropGuard::new(device), net, params, image: *image, classes, latent, device: device.clone() })
    }

    /// Opens the checkpoint of a generator artifact after `step` generator updates, or the last one.
    ///
    /// # Errors
    /// [`Error::Format`] when the artifact is not a generator of this crate or a file is damaged; [`Error::Config`]
    /// when it has no such checkpoint.
    pub fn open(artifact: &Artifact, step: Option<u64>, device: &Device) -> Result<Self> {
        if artifact.kind() != Kind::Generator {
            return Err(Error::format(artifact.path(), "kind", "generator", artifact.kind().to_string()));
        }
        let info = GeneratorInfo::of(artifact)?;
        let checkpoint = info.checkpoint(step)?;
        let file = checkpoint.file.clone().unwrap_or_else(|| weights_file(checkpoint.step));
        let wrong = |e: gafi_nn::Error| {
            Error::format(artifact.path().join(&file), "weights", "those of the manifest's architecture", e.to_string())
        };
        let bytes = artifact.read(&file)?;
        let params = Params::of_at_most(bytes.len() / size_of::<f32>(), device);
        let architecture = info.architecture.parse()?;
        let mut sampler = Self::build(&architecture, &info.image, &info.classes, device, params).map_err(wrong)?;
        let weights = checkpoint::bytes_to_tensors(&bytes, &Device::Cpu).map_err(wrong)?;
        checkpoint::check_finite("weights", &weights).map_err(wrong)?;
        sampler.load(&weights).map_err(wrong)?;
        Ok(sampler)
    }

    /// Sets the weights, which must be in inference form: see [`bake`](crate::spectral::bake).
    pub fn load(&mut self, weights: &BTreeMap<String, Tensor>) -> gafi_nn::Result<()> {
        self.params.load(weights)
    }

    /// Weights and buffers by name.
    pub fn state(&self) -> gafi_nn::Result<BTreeMap<String, Tensor>> {
        self.params.state()
    }

    /// Replaces the running statistics of the batch norms by standing statistics: the mean over `batches` batches of
    /// random size (Brock et al. 2019, section 3.1 and appendix D).
    ///
    /// Labels are drawn in proportion to `counts`, one for each class. A batch has `size` / 2 to `size` images: smaller
    /// batches underestimate the variance.
    pub fn standing_statistics(
        &mut self,
        batches: usize,
        size: usize,
        counts: &[u64],
        stream: &Stream,
    ) -> gafi_nn::Result<()> {
        let total: u64 = counts.iter().sum();
        for k in 0..batches {
            let stream = stream.at(k as u64);
            let mut rng = stream.child("labels").rng();
            let n = (size - below(&mut rng, size as u64 / 2 + 1) as usize).max(2);
            let labels: Vec<u32> = (0..n)
                .map(|_| {
                    let mut left = below(&mut rng, total.max(1));
                    let class = counts.iter().position(|&count| {
                        let here = left < count;
                        left = left.saturating_sub(count);
                        here
                    });
                    class.unwrap_or(0) as u32
                })
                .collect();
            let z = latent_tensor(n, self.latent, &stream.child("latents"), &self.device)?;
            self.net.forward(&z, &Tensor::from_vec(labels, n, &self.device)?, Pass::standing(k))?;
        }
        Ok(())
    }

    /// Pixels of at most [`BLOCK`] images.
    fn block(&self, latents: &[f32], labels: &[ClassId]) -> gafi_nn::Result<Vec<u8>> {
        let mut z = latents.to_vec();
        let mut y: Vec<u32> = labels.iter().map(|label| label.0).collect();
        z.resize(BLOCK * self.latent, 0.0);
        y.resize(BLOCK, 0);
        let z = Tensor::from_vec(z, (BLOCK, self.latent), &self.device)?;
        let images = self.net.forward(&z, &Tensor::from_vec(y, BLOCK, &self.device)?, Pass::EVAL)?;
        pixels::to_u8(&images.narrow(0, 0, labels.len())?)
    }
}

impl Generator for Sampler {
    fn image(&self) -> &ImageSpec {
        &self.image
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn latent_dim(&self) -> usize {
        self.latent
    }

    fn generate(&mut self, latents: &[f32], labels: &[ClassId]) -> Result<Vec<u8>> {
        if latents.len() != labels.len() * self.latent {
            let expected = format!("{} latents of {} values each", labels.len(), self.latent);
            return Err(Error::config("latents", format!("{} values", latents.len()), expected));
        }
        if let Some(label) = labels.iter().find(|l| l.index() >= self.classes.len()) {
            return Err(Error::config("label", label, format!("a class below {}", self.classes.len())));
        }
        if let Some(value) = latents.iter().find(|z| !z.is_finite()) {
            return Err(Error::config("latents", value, "finite values"));
        }
        let mut pixels = Vec::with_capacity(labels.len() * self.image.bytes());
        for (z, y) in latents.chunks(BLOCK * self.latent).zip(labels.chunks(BLOCK)) {
            pixels.extend(self.block(z, y)?);
        }
        Ok(pixels)
    }
}

/// Registers this crate's generators with a host program. They run on `device`.
pub fn register(loaders: ModelLoaders, device: &Device) -> ModelLoaders {
    Architecture::NAMES.iter().fold(loaders, |loaders, name| {
        let device = device.clone();
        loaders
            .with_generator(name, Box::new(move |artifact, step| Ok(Box::new(Sampler::open(artifact, step, &device)?))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{BigGanConfig, SmallConfig};
    use crate::batches::latents;
    use crate::config::GanConfig;
    use crate::players::Players;
    use crate::spectral::bake;

    fn small(z: usize, g: &[usize], d: &[usize]) -> Architecture {
        Architecture::Small(SmallConfig { z, shared: 3, g: g.into(), d: d.into(), ..SmallConfig::default() })
    }

    fn sampler(architecture: Architecture, size: usize) -> Sampler {
        let image = ImageSpec::new(1, size, size);
        let classes = ["a".to_string(), "b".to_string()];
        let config = GanConfig { architecture, ..GanConfig::small() };
        let players = Players::new(&config, &image, 2, &Device::Cpu, &Stream::new(3)).unwrap();
        let mut sampler = Sampler::new(&config.architecture, &image, &classes, &Device::Cpu).unwrap();
        sampler.load(&bake(&players.ema.weights().unwrap()).unwrap()).unwrap();
        sampler
    }

    #[test]
    fn images_do_not_depend_on_their_batch() {
        let big = Architecture::BigGanDeep(BigGanConfig { ch: 8, depth: 1, z: 5, shared: 3 });
        for (architecture, size) in [(big, 32), (small(7, &[24, 16], &[4, 8]), 16)] {
            let mut sampler = sampler(architecture, size);
            let n = 150;
            let d = sampler.latent_dim();
            let bytes = size * size;
            let z = latents(n, d, &Stream::new(8));
            let y: Vec<ClassId> = (0..n).map(|i| ClassId(i as u32 % 2)).collect();
            let all = sampler.generate(&z, &y).unwrap();
            assert_eq!(all.len(), n * bytes);
            for (from, to) in [(0, 1), (63, 65), (149, 150), (10, 83)] {
                let part = sampler.generate(&z[from * d..to * d], &y[from..to]).unwrap();
                assert!(part == all[from * bytes..to * bytes], "rows {from}..{to}");
            }
            assert_ne!(all[..bytes], all[2 * bytes..3 * bytes]);
        }
    }

    #[test]
    fn a_module_of_one_class_gives_the_samplers_images() {
        use candle_core::Module as _;
        let mut sampler = sampler(small(7, &[24, 16], &[4, 8]), 16);
        let z = latents(BLOCK, 7, &Stream::new(8));
        let images =
            sampler.net.of_class(ClassId(1)).forward(&Tensor::from_slice(&z, (BLOCK, 7), &Device::Cpu).unwrap());
        let expected = sampler.generate(&z, &[ClassId(1); BLOCK]).unwrap();
        assert!(pixels::to_u8(&images.unwrap()).unwrap() == expected);
    }

    #[cfg(feature = "candle-nn")]
    #[test]
    fn a_var_builder_loads_a_generator() {
        let image = ImageSpec::new(1, 32, 32);
        let architecture = Architecture::BigGanDeep(BigGanConfig { ch: 8, depth: 1, z: 5, shared: 3 });
        let mut sampler = sampler(architecture.clone(), 32);
        let tensors = sampler.state().unwrap().into_iter().collect();
        let builder = candle_nn::VarBuilder::from_tensors(tensors, candle_core::DType::F32, &Device::Cpu);
        let expected = sampler.generate(&latents(3, 5, &Stream::new(8)), &[ClassId(1); 3]).unwrap();
        sampler.net = GeneratorNet::load(&architecture, &image, 2, &builder).unwrap();
        assert!(sampler.generate(&latents(3, 5, &Stream::new(8)), &[ClassId(1); 3]).unwrap() == expected);
        assert!(GeneratorNet::load(&architecture, &image, 2, &builder.pp("g")).is_err());
    }

    #[test]
    fn standing_statistics_are_recomputed_from_generated_images() {
        let mut sampler = sampler(small(7, &[6, 5], &[4, 8]), 16);
        let before = sampler.state().unwrap();
        sampler.standing_statistics(12, 32, &[30, 10], &Stream::new(5)).unwrap();
        let once = sampler.state().unwrap();
        let values = |state: &BTreeMap<String, Tensor>, name: &str| state[name].to_vec1::<f32>().unwrap();
        assert_eq!(values(&before, "stage0.norm.running_var"), [1.0; 6]);
        assert_ne!(values(&once, "stage0.norm.running_var"), [1.0; 6]);
        // The second run shows no trace of the first.
        sampler.standing_statistics(12, 32, &[30, 10], &Stream::new(5)).unwrap();
        let twice = sampler.state().unwrap();
        assert_eq!(values(&once, "stage1.norm.running_mean"), values(&twice, "stage1.norm.running_mean"));
        // Other latents agree up to sampling error.
        sampler.standing_statistics(12, 32, &[30, 10], &Stream::new(6)).unwrap();
        let other = sampler.state().unwrap();
        for (a, b) in values(&once, "stage0.norm.running_var").iter().zip(values(&other, "stage0.norm.running_var")) {
            assert!((a / b - 1.0).abs() < 0.2, "{a} against {b}");
        }
    }

    #[test]
    fn wrong_lengths_labels_and_latents_are_errors() {
        let mut sampler = sampler(small(2, &[6], &[4]), 8);
        assert!(sampler.generate(&[0.0; 3], &[ClassId(0)]).unwrap_err().to_string().contains("1 latents of 2"));
        assert!(sampler.generate(&[0.0; 2], &[ClassId(2)]).unwrap_err().to_string().contains("below 2"));
        assert!(sampler.generate(&[0.0, f32::NAN], &[ClassId(0)]).is_err());
        assert_eq!(sampler.generate(&[], &[]).unwrap(), Vec::<u8>::new());
    }
}

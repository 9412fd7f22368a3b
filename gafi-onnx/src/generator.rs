//! An ONNX file as a generator.

use gafi_core::stream::unit_f32;
use gafi_core::{ClassId, Error, Generator, ImageSpec, Result, Stream};
use rayon::prelude::*;

use crate::architecture::GeneratorArchitecture;
use crate::config::{GeneratorConfig, check_range, class_names};
use crate::model::{Model, Port};
use crate::network::{Network, Row};

/// A generator that is an ONNX file.
#[derive(Debug)]
pub struct OnnxGenerator {
    network: Network,
    architecture: GeneratorArchitecture,
    range: [f32; 2],
    image: ImageSpec,
    classes: Vec<String>,
    latent_dim: usize,
    /// Whether the input of labels follows that of latents.
    labels_last: bool,
    /// Length of a one-hot label; `None` for integer labels.
    one_hot: Option<usize>,
}

impl OnnxGenerator {
    /// Prepares `model`.
    ///
    /// # Errors
    /// [`Error::Config`] when `config` does not match the file, [`Error::Format`] when the file is not a generator.
    pub(crate) fn new(model: &Model, config: &GeneratorConfig) -> Result<Self> {
        let range = check_range(config.range)?;
        let (latents, labels) = ports(model, config)?;
        if latents.values.is_integer() {
            return Err(Error::config("latents", latents, "an input of type F32"));
        }
        let one_hot = match (labels.values.is_integer(), &labels.row[..]) {
            (true, [] | [1]) => None,
            (false, [classes]) => Some(*classes),
            _ => {
                return Err(Error::config(
                    "labels",
                    labels,
                    "an input of integers (N), or of one-hot F32 (N, classes)",
                ));
            }
        };
        let classes = match one_hot {
            Some(classes) => class_names(&config.classes, classes)?,
            None if config.classes.is_empty() => {
                let expected = "the names of the classes, because integer labels do not show how many there are";
                return Err(Error::config("classes", "none", expected));
            }
            None => config.classes.clone(),
        };
        let images = model.output("images", config.images.as_deref(), 0)?;
        let images = images.ok_or_else(|| Error::format(&model.path, "outputs", "images", "none"))?;
        let network = Network::new(model, &[images])?;
        let image = match network.outputs()[0].row[..] {
            [channels @ (1 | 3), height, width] => ImageSpec::new(channels, height, width),
            ref row => {
                let expected = "images (N, C, H, W) with 1 or 3 channels";
                return Err(Error::format(&model.path, format!("output {images}"), expected, format!("(N, {row:?})")));
            }
        };
        Ok(Self {
            architecture: GeneratorArchitecture::new(&latents.name, &labels.name, images, config.range),
            range,
            image,
            classes,
            latent_dim: latents.row.iter().product(),
            labels_last: model.inputs[0].name == latents.name,
            one_hot,
            network,
        })
    }

    /// Names of the tensors, and the range.
    pub(crate) fn architecture(&self) -> &GeneratorArchitecture {
        &self.architecture
    }

    /// Values of one image in the file's range, (c, h, w).
    pub(crate) fn values(&self, latent: &[f32], class: ClassId) -> Result<Vec<f32>> {
        let one_hot: Vec<f32>;
        let label = match self.one_hot {
            None => Row::Index(i64::from(class.0)),
            Some(classes) => {
                one_hot = (0..classes).map(|k| f32::from(u8::from(k == class.index()))).collect();
                Row::Floats(&one_hot)
            }
        };
        let latent = Row::Floats(latent);
        let rows = if self.labels_last { [latent, label] } else { [label, latent] };
        let mut outputs = self.network.run(&rows, &format!("a sample of {class}"))?;
        Ok(outputs.swap_remove(0))
    }

    pub(crate) fn pixels(&self, values: &[f32]) -> Vec<u8> {
        let [black, white] = self.range;
        let factor = 255.0 / (white - black);
        // `as` saturates.
        values.iter().map(|value| ((value - black) * factor).round() as u8).collect()
    }

    /// Draws three samples and checks that the file is a generator.
    ///
    /// # Errors
    /// [`Error::Config`] when most values lie outside the range, [`Error::Format`] when an image differs between two
    /// runs, or does not depend on latents or labels.
    pub(crate) fn check_samples(&self, model: &Model) -> Result<()> {
        let latent = |k: u64| -> Vec<f32> {
            let mut rng = Stream::new(0).child("probe").at(k).rng();
            // Uniform with standard deviation 1.
            (0..self.latent_dim).map(|_| (2.0 * unit_f32(&mut rng) - 1.0) * 3f32.sqrt()).collect()
        };
        let first = ClassId(0);
        let last = ClassId(self.classes.len() as u32 - 1);
        let z = latent(0);
        let other_z = latent(1);
        let image = self.values(&z, first)?;
        let differs = |what: &str, found: &str| {
            Err(Error::format(&model.path, "test samples", format!("images that {what}"), found))
        };
        if self.values(&z, first)? != image {
            return differs("depend only on latent and label", "two different images for the same latent and label");
        }
        let by_latent = self.values(&other_z, first)?;
        let by_label = self.values(&z, last)?;
        if by_latent == image {
            return differs("depend on the latents", "the same image for two different latents");
        }
        if first != last && by_label == image {
            return differs("depend on the labels", "the same image for the first class and the last");
        }
        let all = [image, by_latent, by_label].concat();
        let [black, white] = self.range;
        let margin = 0.05 * (white - black);
        let outside = all.iter().filter(|value| **value < black - margin || **value > white + margin).count();
        let (least, most) = all.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
        if 2 * outside > all.len() {
            let expected = format!("the values of black and white: three samples have values from {least} to {most}");
            return Err(Error::config("range", format!("{:?}", self.range), expected));
        }
        if (most - least) < 0.5 * (white - black) {
            tracing::warn!(
                "three samples have values from {least} to {most} only; are {black} and {white} the values of black and white?"
            );
        }
        Ok(())
    }
}

/// The inputs of latents and of labels.
fn ports<'a>(model: &'a Model, config: &GeneratorConfig) -> Result<(&'a Port, &'a Port)> {
    let [one, two] = &model.inputs[..] else {
        let expected = "two inputs, latents and labels (export any other input as a constant)";
        return Err(Error::format(&model.path, "inputs", expected, model.inputs_text()));
    };
    let other = |port: &Port| if port.name == one.name { two } else { one };
    let latents = config.latents.as_deref().map(|name| model.input("latents", name)).transpose()?;
    let labels = config.labels.as_deref().map(|name| model.input("labels", name)).transpose()?;
    match (latents, labels) {
        (Some(latents), Some(labels)) if latents.name == labels.name => {
            Err(Error::config("labels", labels, "another input than the one of the latents"))
        }
        (Some(latents), Some(labels)) => Ok((latents, labels)),
        (Some(latents), None) => Ok((latents, other(latents))),
        (None, Some(labels)) => Ok((other(labels), labels)),
        (None, None) if one.values.is_integer() => Ok((two, one)),
        (None, None) => Ok((one, two)),
    }
}

impl Generator for OnnxGenerator {
    fn image(&self) -> &ImageSpec {
        &self.image
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn latent_dim(&self) -> usize {
        self.latent_dim
    }

    fn generate(&mut self, latents: &[f32], labels: &[ClassId]) -> Result<Vec<u8>> {
        let d = self.latent_dim;
        if latents.len() != labels.len() * d {
            let expected = format!("{} latents of {d} values", labels.len());
            return Err(Error::config("latents", format!("{} values", latents.len()), expected));
        }
        if let Some(label) = labels.iter().find(|label| label.index() >= self.classes.len()) {
            return Err(Error::config("label", label, format!("a class below {}", self.classes.len())));
        }
        if let Some(value) = latents.iter().find(|z| !z.is_finite()) {
            return Err(Error::config("latents", value, "finite values"));
        }
        let this = &*self;
        let one = |(z, label): (&[f32], &ClassId)| Ok(this.pixels(&this.values(z, *label)?));
        let images: Vec<Vec<u8>> = latents.par_chunks(d).zip(labels).map(one).collect::<Result<_>>()?;
        Ok(images.concat())
    }
}

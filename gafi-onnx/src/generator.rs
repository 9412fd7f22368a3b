//! An ONNX file as a generator.

use gafi_core::stream::unit_f32;
use gafi_core::{ClassId, Error, Generator, ImageSpec, Result, Stream};

use crate::architecture::{ARCHITECTURE, GeneratorArchitecture, More};
use crate::arrangement::Arrangement;
use crate::config::{GeneratorConfig, check_range, class_names};
use crate::model::{Model, Port, Values};
use crate::network::{Network, Row, Rows};

/// A generator that is an ONNX file.
#[derive(Debug)]
pub struct OnnxGenerator {
    pub(crate) network: Network,
    /// Names of the tensors, and the range.
    pub(crate) architecture: GeneratorArchitecture,
    range: [f32; 2],
    /// Whether the file's last activation shows the range.
    shows_range: bool,
    pub(crate) arrangement: Arrangement,
    pub(crate) classes: Vec<String>,
    pub(crate) latent_dim: usize,
    /// Whether the input of labels follows that of latents.
    labels_last: bool,
}

impl OnnxGenerator {
    /// Prepares `model`.
    ///
    /// # Errors
    /// [`Error::Config`] when `config` does not match the file, [`Error::Format`] when the file is not a generator.
    pub(crate) fn new(model: &Model, config: &GeneratorConfig) -> Result<Self> {
        let inputs = model.free_inputs(&config.constants)?;
        let (latents, labels) = ports(model, &inputs, config)?;
        if latents.values != Values::F32 || latents.scalar {
            return Err(Error::config("latents", latents, "an input of type F32 with a row for each image"));
        }
        // One-hot rows may have further axes of length 1, as in (N, classes, 1, 1).
        let one_hot = labels.row.iter().product::<usize>();
        if labels.scalar || labels.values == Values::Bool || labels.row.iter().any(|side| ![1, one_hot].contains(side))
        {
            let expected = "an input of class numbers (N), or of one-hot (N, classes)";
            return Err(Error::config("labels", labels, expected));
        }
        let classes = if one_hot > 1 {
            class_names(&config.classes, one_hot)?
        } else if config.classes.is_empty() {
            let expected = "the names of the classes, because class numbers do not show how many there are";
            return Err(Error::config("classes", "none", expected));
        } else {
            config.classes.clone()
        };
        let images = model.output("images", config.images.as_deref(), 0)?;
        let images = images.ok_or_else(|| Error::format(&model.path, "outputs", "images", "none"))?;
        let shown = model.range_of(images);
        let values = config.range.or(shown).unwrap_or([-1.0, 1.0]);
        let range = check_range(values)?;
        let network = Network::new(model, &config.constants, &[images])?;
        let row = &network.outputs[0].row;
        let arrangement = Arrangement::of(row, config.layout, config.shape, "images")?;
        let architecture = GeneratorArchitecture {
            name: ARCHITECTURE.into(),
            latents: latents.name.clone(),
            labels: labels.name.clone(),
            images: images.into(),
            range: values,
            more: More::new(&arrangement, &config.constants),
        };
        Ok(Self {
            architecture,
            range,
            shows_range: shown.is_some(),
            arrangement,
            classes,
            latent_dim: latents.row.iter().product(),
            labels_last: inputs[0].name == latents.name,
            network,
        })
    }

    /// What was guessed, for the user to check.
    pub(crate) fn guesses(&self, config: &GeneratorConfig) -> Vec<String> {
        let [black, white] = self.range;
        let range = format!("range: black is {black} and white {white}, because the last activation is a sigmoid");
        let sigmoid = config.range.is_none() && black == 0.0;
        let unknown = config.range.is_none() && !self.shows_range;
        let assumed = format!(
            "range: black is assumed to be {black} and white {white}, because the file does not end in a tanh or sigmoid; if \
             the training images were from 0 to 1, set range = [0, 1]"
        );
        let guesses = [sigmoid.then_some(range), unknown.then_some(assumed)];
        self.arrangement.guess.iter().cloned().chain(guesses.into_iter().flatten()).collect()
    }

    /// Values of one image in the file's range, (c, h, w).
    pub(crate) fn values(&self, latent: &[f32], class: ClassId) -> Result<Vec<f32>> {
        Ok(self.all_values(latent, &[class])?.swap_remove(0))
    }

    /// As [`OnnxGenerator::values`], for several latents and classes.
    pub(crate) fn all_values(&self, latents: &[f32], classes: &[ClassId]) -> Result<Vec<Vec<f32>>> {
        let mut samples = Vec::with_capacity(classes.len());
        for (latent, class) in latents.chunks(self.latent_dim).zip(classes) {
            let (latent, label) = (Row::Floats(latent), Row::Class(class.0));
            samples.push(if self.labels_last { vec![latent, label] } else { vec![label, latent] });
        }
        let outputs = self.network.run(&samples, &|k| format!("a sample of {}", classes[k]))?;
        let image = |mut outputs: Rows| self.arrangement.channels_first(outputs.swap_remove(0));
        Ok(outputs.into_iter().map(image).collect())
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
        if (most - least) < 0.5 * (white - black) || least > black + 0.4 * (white - black) {
            tracing::warn!(
                "three samples have values from {least} to {most} only; are {black} and {white} the values of black and white?"
            );
        }
        Ok(())
    }
}

/// The inputs of latents and of labels.
fn ports<'a>(model: &'a Model, inputs: &'a [Port], config: &GeneratorConfig) -> Result<(&'a Port, &'a Port)> {
    let [one, two] = inputs else {
        let expected =
            "two inputs, latents and labels (give others a value with `constants`, as in constants.NAME = 1.0)";
        return Err(Error::format(&model.path, "inputs", expected, model.inputs_text()));
    };
    // Both may be floats; then their widths can tell which has a value for each class.
    let width = |port: &Port| port.row.iter().product::<usize>();
    let classes = Some(config.classes.len()).filter(|count| *count > 1);
    let is_label = |port: &Port| port.values.is_integer() || Some(width(port)) == classes || width(port) == 1;
    let other = |port: &Port| if port.name == one.name { two } else { one };
    let input = |key: &str, name: &Option<String>| -> Result<Option<&'a Port>> {
        let Some(name) = name else { return Ok(None) };
        model.input(key, name)?;
        let free = inputs.iter().find(|port| port.name == *name);
        free.map(Some).ok_or_else(|| Error::config(key, name, "an input that has no value in `constants`"))
    };
    let latents = input("latents", &config.latents)?;
    let labels = input("labels", &config.labels)?;
    match (latents, labels) {
        (Some(latents), Some(labels)) if latents.name == labels.name => {
            Err(Error::config("labels", labels, "another input than the one of the latents"))
        }
        (Some(latents), Some(labels)) => Ok((latents, labels)),
        (Some(latents), None) => Ok((latents, other(latents))),
        (None, Some(labels)) => Ok((other(labels), labels)),
        (None, None) if is_label(one) && !is_label(two) => Ok((two, one)),
        (None, None) => Ok((one, two)),
    }
}

impl Generator for OnnxGenerator {
    fn image(&self) -> &ImageSpec {
        &self.arrangement.image
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
        Ok(self.all_values(latents, labels)?.iter().flat_map(|values| self.pixels(values)).collect())
    }
}

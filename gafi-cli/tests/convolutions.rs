//! The list of the convolutions of every preset, for which `gafi-kernels` checks cuDNN's plans.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use gafi_core::{INFERENCE_BATCH, ImageSpec, SAMPLE_BATCH, Stream};
use gafi_gan::GanConfig;
use gafi_gan::players::Players;
use gafi_kernels::trunk::{Convolution, convolutions};
use gafi_nn::layers::Mode;
use gafi_nn::{ClassifierArchitecture, ClassifierNet, Dtype, Params};
use gafi_pipeline::{PRESETS, PipelineConfig, preset};

/// Images of the networks' runs. The list has the batches of the preset in their place.
const FEW: usize = 2;

/// `found`, with batches of each size in `batches` in place of [`FEW`].
fn with_batches(found: &[Convolution], batches: &[usize]) -> BTreeSet<Convolution> {
    let sized = |&batch: &usize| {
        found.iter().map(move |convolution| {
            let mut sized = *convolution;
            sized.images = batch * convolution.images / FEW;
            sized
        })
    };
    batches.iter().flat_map(sized).collect()
}

fn images(image: &ImageSpec) -> Tensor {
    Tensor::zeros((FEW, image.channels, image.height, image.width), DType::F32, &Device::Cpu).unwrap()
}

fn of_classifier(architecture: &ClassifierArchitecture, image: &ImageSpec, batch: usize) -> BTreeSet<Convolution> {
    let mut params = Params::new(&Device::Cpu, Stream::new(1));
    let net = ClassifierNet::new(&mut params.root(), architecture, image, 2).unwrap();
    let (result, found) = convolutions(|| net.forward(&images(image), Mode::Train));
    result.unwrap();
    with_batches(&found, &[batch, INFERENCE_BATCH])
}

/// The convolutions of one update of both networks.
fn of_gan(config: &GanConfig, image: &ImageSpec) -> BTreeSet<Convolution> {
    let config = GanConfig { dtype: Dtype::F32, ..config.clone() };
    let mut players = Players::new(&config, image, 2, &Device::Cpu, &Stream::new(1)).unwrap();
    let z = Tensor::zeros((FEW, config.architecture.latent()), DType::F32, &Device::Cpu).unwrap();
    let labels = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
    let real = images(image);
    let (result, mut found) = convolutions(|| players.update_discriminator(&real, &labels, &z, None).map(|_| ()));
    result.unwrap();
    let (result, more) = convolutions(|| players.update_generator(&labels, &z, None));
    result.unwrap();
    found.extend(more);
    // Sampling needs only the generator's convolutions; including the discriminator's merely adds shapes.
    with_batches(&found, &[config.batch, SAMPLE_BATCH.get()])
}

#[test]
fn the_list_of_convolutions_is_complete() {
    // The presets share most networks.
    let mut classifiers = BTreeMap::new();
    let mut gans = BTreeMap::new();
    for (name, _) in PRESETS {
        let config: PipelineConfig = serde_json::from_value(preset(Some(name)).unwrap()).unwrap();
        let size = config.data.size.unwrap_or(32);
        for classifier in [config.teacher, config.student] {
            classifiers
                .insert(format!("{:?} {} {size}", classifier.architecture, classifier.batch), (size, classifier));
        }
        gans.insert(format!("{:?} {} {size}", config.gan.architecture, config.gan.batch), (size, config.gan));
    }
    // Every preset takes grey and colour images.
    let image = |size| [ImageSpec::new(1, size, size), ImageSpec::new(3, size, size)];
    let mut all = BTreeSet::new();
    for (size, classifier) in classifiers.into_values() {
        for image in image(size) {
            all.extend(of_classifier(&classifier.architecture, &image, classifier.batch));
        }
    }
    for (size, gan) in gans.into_values() {
        for image in image(size) {
            all.extend(of_gan(&gan, &image));
        }
    }
    let list: String = all.iter().map(|convolution| format!("{convolution}\n")).collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gafi-kernels/src/cuda/cudnn/convolutions.txt");
    if std::env::var_os("GAFI_UPDATE").is_some() {
        std::fs::write(&file, &list).unwrap();
    }
    let recorded = std::fs::read(&file).unwrap();
    assert!(
        String::from_utf8(recorded).unwrap() == list,
        "{} is out of date: run this test with GAFI_UPDATE=1, then `cargo xtask test --cuda`",
        file.display()
    );
}

//! Our networks and datasets in a program on `candle-nn`: its optimiser trains them, its `VarBuilder` loads them.

use std::collections::HashMap;

use candle_core::{DType, Device, ModuleT, Tensor};
use candle_nn::{AdamW, Optimizer as _, ParamsAdamW, VarBuilder, loss};
use gafi_core::{ClassId, ImageSpec, MemoryDataset, Rows, Split, Stream};
use gafi_nn::{AirbenchConfig, ClassifierArchitecture, ClassifierNet, Params, ResNetConfig, TensorRows};

const IMAGE: ImageSpec = ImageSpec::new(1, 16, 16);

/// Dark and light noise.
fn dataset() -> MemoryDataset {
    let mut data = MemoryDataset::new(IMAGE, vec!["dark".into(), "light".into()], Split::Train);
    for i in 0..32u32 {
        let noise = |pixel: u32| ((pixel * 31 + i * 17) % 100 + 120 * (i % 2)) as u8;
        data.push(&(0..256).map(noise).collect::<Vec<_>>(), ClassId(i % 2));
    }
    data
}

/// All rows, as `Batcher` stacks them.
fn batch(data: &MemoryDataset, order: Vec<usize>) -> (Tensor, Tensor) {
    let (images, labels): (Vec<_>, Vec<_>) = TensorRows::new(data, order, &Device::Cpu).map(Result::unwrap).unzip();
    (Tensor::stack(&images, 0).unwrap(), Tensor::stack(&labels, 0).unwrap())
}

fn logits(net: &ClassifierNet, images: &Tensor) -> Vec<Vec<f32>> {
    net.forward_t(images, false).unwrap().to_vec2().unwrap()
}

#[test]
fn rows_come_in_the_given_order() {
    let data = dataset();
    let (images, labels) = batch(&data, vec![3, 0]);
    assert_eq!(images.dims(), [2, 1, 16, 16]);
    assert_eq!(labels.to_vec1::<u32>().unwrap(), [1, 0]);
    let mut pixels = vec![0; 256];
    data.read(&[3], &mut pixels).unwrap();
    let expected: Vec<f32> = pixels.iter().map(|&p| gafi_nn::pixels::scale(p)).collect();
    assert_eq!(images.get(0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
}

#[test]
fn candle_trains_saves_and_loads_our_networks() {
    let (images, labels) = batch(&dataset(), (0..32).collect());
    let resnet = ClassifierArchitecture::from(ResNetConfig { depth: 8, width: 4 });
    for architecture in [resnet, AirbenchConfig { width: 8 }.into()] {
        let mut params = Params::new(&Device::Cpu, Stream::new(3));
        let net = ClassifierNet::new(&mut params.root(), &architecture, &IMAGE, 2).unwrap();
        net.prepare(&dataset(), &(0..32).collect::<Vec<_>>()).unwrap();
        let vars = params.var_map();
        let config = ParamsAdamW { lr: 0.02, ..ParamsAdamW::default() };
        let mut optimizer = AdamW::new(vars.all_vars(), config).unwrap();
        let mut losses = Vec::new();
        for _ in 0..30 {
            let loss = loss::cross_entropy(&net.forward_t(&images, true).unwrap(), &labels).unwrap();
            optimizer.backward_step(&loss).unwrap();
            losses.push(loss.to_scalar::<f32>().unwrap());
        }
        assert!(losses[29] < 0.5 * losses[0], "{architecture:?}: {losses:?}");

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights.safetensors");
        vars.save(&file).unwrap();
        let builder = VarBuilder::from_buffered_safetensors(std::fs::read(file).unwrap(), DType::F32, &Device::Cpu);
        let builder = builder.unwrap();
        let loaded = ClassifierNet::load(&architecture, &IMAGE, 2, &builder).unwrap();
        assert_eq!(logits(&loaded, &images), logits(&net, &images));

        let error = ClassifierNet::load(&architecture, &IMAGE, 3, &builder).unwrap_err().to_string();
        assert!(error.contains("head.weight") || error.contains("head.bias"), "{error}");
        let nothing = VarBuilder::from_tensors(HashMap::new(), DType::F32, &Device::Cpu);
        assert!(ClassifierNet::load(&architecture, &IMAGE, 2, &nothing).is_err());
    }
}

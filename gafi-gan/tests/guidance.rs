//! The guidance of a generator by a classifier, against PyTorch (`goldens/guidance.py`) and as a stage.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use gafi_core::{ClassId, Context, ImageSpec, MemoryDataset, Split, Stream};
use gafi_gan::{Guidance, GuidanceConfig, RealMoments};
use gafi_nn::checkpoint::{bytes_to_tensors, section};
use gafi_nn::{AirbenchConfig, ClassifierArchitecture, ClassifierNet, Params, ResNetConfig};

type Tensors = BTreeMap<String, Tensor>;

const IMAGE: ImageSpec = ImageSpec::new(1, 16, 16);
const CLASSES: usize = 3;
const PER_CLASS: usize = 8;

fn golden() -> Tensors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/guidance.safetensors");
    bytes_to_tensors(&std::fs::read(path).unwrap(), &Device::Cpu).unwrap()
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let expected = flat(expected);
    let top = expected.iter().fold(1e-6f32, |top, x| top.max(x.abs()));
    for (found, expected) in flat(found).iter().zip(expected) {
        assert!((found - expected).abs() <= 2e-4 * top, "{what}: found {found}, PyTorch has {expected}, of {top}");
    }
}

fn real(goldens: &Tensors) -> MemoryDataset {
    let mut data = MemoryDataset::new(IMAGE, ["a", "b", "c"].map(String::from).into(), Split::Train);
    let pixels = goldens["pixels"].flatten_all().unwrap().to_vec1::<u8>().unwrap();
    for (i, image) in pixels.chunks(IMAGE.bytes()).enumerate() {
        data.push(image, ClassId((i / PER_CLASS) as u32));
    }
    data
}

fn equals_pytorch(name: &str, architecture: ClassifierArchitecture) {
    let goldens = golden();
    let mut params = Params::new(&Device::Cpu, Stream::new(1));
    let net = ClassifierNet::new(&mut params.root(), &architecture, &IMAGE, CLASSES).unwrap();
    let of = section(&goldens, name);
    params.load(&section(&of, "net")).unwrap();
    let moments = RealMoments::of(&net, &real(&goldens), &Stream::new(2), &Device::Cpu, &Context::default()).unwrap();
    assert_close("moments", &moments.moments, &of["real"]);
    assert_close("scale", &moments.scale, &of["scale"]);
    let config = GuidanceConfig { moments: 10.0, cross_entropy: 0.3 };
    let mut guidance = Guidance::new(config, net, moments);
    for step in 0..2 {
        let x = Var::from_tensor(&goldens[&format!("x{step}")]).unwrap();
        let labels = goldens[&format!("labels{step}")].to_dtype(DType::U32).unwrap();
        let loss = guidance.loss(&x, &labels).unwrap();
        let gradients = loss.backward().unwrap();
        assert_close("loss", &loss, &of[&format!("loss{step}")]);
        assert_close("gradient", gradients.get(&x).unwrap(), &of[&format!("grad{step}")]);
        // The classifier is frozen.
        assert!(params.vars().all(|(_, var)| gradients.get(var).is_none()));
    }
}

#[test]
fn guidance_by_a_resnet_equals_pytorch() {
    equals_pytorch("resnet", ResNetConfig { depth: 8, width: 4 }.into());
}

#[test]
fn guidance_by_airbench_equals_pytorch() {
    equals_pytorch("airbench", AirbenchConfig { width: 8 }.into());
}

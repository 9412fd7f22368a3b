//! Trains a plain network of `candle-nn` on a GaFi dataset and saves its weights:
//! `cargo run -- DATASET WEIGHTS.safetensors`, where DATASET is a folder such as `data/train`.

use candle_core::{D, DType, Device, Module};
use candle_datasets::Batcher;
use candle_nn::{Activation, AdamW, Optimizer, ParamsAdamW, Sequential, VarBuilder, VarMap, linear, loss, seq};
use gafi_core::{Artifact, Dataset, Rows, Stream, stream::permutation};
use gafi_nn::TensorRows;

fn network(data: &Dataset, vars: VarBuilder<'_>) -> candle_core::Result<Sequential> {
    let (inputs, classes) = (data.info().image.bytes(), data.info().classes.len());
    let hidden = seq().add_fn(|x| x.flatten_from(1)).add(linear(inputs, 128, vars.pp("hidden"))?);
    Ok(hidden.add(Activation::Relu).add(linear(128, classes, vars.pp("head"))?))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(weights)) = (arguments.next(), arguments.next()) else {
        return Err("usage: gafi-candle-example DATASET WEIGHTS.safetensors".into());
    };
    let data = Dataset::open(&Artifact::open(folder)?)?;
    // Images (N, C, H, W) in [-1, 1] and labels (N), in the order of `rows`.
    let batches = |rows| Batcher::new_r2(TensorRows::new(&data, rows, &Device::Cpu)).batch_size(64);

    let vars = VarMap::new();
    let net = network(&data, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
    let mut optimizer = AdamW::new(vars.all_vars(), ParamsAdamW::default())?;
    for epoch in 0..5 {
        for batch in batches(permutation(data.len(), &Stream::new(7).at(epoch))) {
            let (images, labels) = batch?;
            optimizer.backward_step(&loss::cross_entropy(&net.forward(&images)?, &labels)?)?;
        }
    }
    vars.save(&weights)?;

    // Any program with this network loads the weights by name.
    let saved = VarBuilder::from_buffered_safetensors(std::fs::read(&weights)?, DType::F32, &Device::Cpu)?;
    let net = network(&data, saved)?;
    let mut correct = 0;
    for batch in batches((0..data.len()).collect()).return_last_incomplete_batch(true) {
        let (images, labels) = batch?;
        let hits = net.forward(&images)?.argmax(D::Minus1)?.eq(&labels)?;
        correct += hits.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()? as usize;
    }
    println!("{correct} of {} training images are classified correctly", data.len());
    Ok(())
}

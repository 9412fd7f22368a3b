//! All ops against PyTorch; `goldens/ops.py` computed `goldens/ops.safetensors`.

mod ops_support;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Result, Tensor, Var};
use gafi_kernels::{ops, trunk::Moments};
use ops_support::{Function, assert_close};

fn train_norm(t: &[Tensor], eps: f64, relu: bool) -> Result<Tensor> {
    ops::batch_norm(&t[0], &t[1], &t[2], &ops::channel_moments(&t[0])?, true, eps, relu)
}

/// Compares the result and the gradients of `op` with the case `name`.
fn check(goldens: &BTreeMap<String, Tensor>, name: &str, op: Function) -> Result<()> {
    let inputs = (0..)
        .map_while(|i| goldens.get(&format!("{name}.in.{i}")))
        .map(Var::from_tensor)
        .collect::<Result<Vec<_>>>()?;
    assert!(!inputs.is_empty(), "no case {name}");
    let tracked: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let y = op(&tracked)?;
    assert_close(&format!("{name}.out"), &y, &goldens[&format!("{name}.out")], 1e-5)?;
    let grads = (y * &goldens[&format!("{name}.up")])?.sum_all()?.backward()?;
    for (i, input) in inputs.iter().enumerate() {
        let what = format!("{name}.grad.{i}");
        assert_close(&what, grads.get(input).expect("a gradient"), &goldens[&what], 1e-4)?;
    }
    Ok(())
}

#[test]
fn ops_match_pytorch() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/ops.safetensors");
    let goldens: BTreeMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu)?.into_iter().collect();
    let three = |v: [f32; 3]| Tensor::from_slice(&v, 3, &Device::Cpu);
    let fixed = Moments { mean: three([0.1, -0.2, 0.3])?, var: three([0.5, 1.5, 2.5])?, count: 1 };
    let eval_norm = |t: &[Tensor]| ops::batch_norm(&t[0], &t[1], &t[2], &fixed, false, 1e-5, false);
    let cases: Vec<(&str, Function)> = vec![
        ("conv3", &|t| ops::conv2d(&t[0], &t[1], Some(&t[2]), 1, 1)),
        ("conv3s2", &|t| ops::conv2d(&t[0], &t[1], Some(&t[2]), 2, 1)),
        ("conv4s2", &|t| ops::conv2d(&t[0], &t[1], Some(&t[2]), 2, 1)),
        ("conv1", &|t| ops::conv2d(&t[0], &t[1], None, 1, 0)),
        ("upconv3", &|t| ops::upsample2x_conv2d(&t[0], &t[1], Some(&t[2]), 1)),
        ("conv3_16", &|t| ops::conv2d(&t[0], &t[1], Some(&t[2]), 1, 1)),
        ("batch_norm", &|t| train_norm(t, 1e-5, false)),
        ("batch_norm_relu", &|t| train_norm(t, 1e-5, true)),
        ("conditional_batch_norm", &|t| train_norm(t, 1e-4, false)),
        ("batch_norm_eval", &eval_norm),
        ("upsample2x", &|t| ops::upsample2x(&t[0])),
        ("avg_pool2x2", &|t| ops::avg_pool2x2(&t[0])),
        ("max_pool2x2", &|t| ops::max_pool2x2(&t[0])),
        ("global_sum", &|t| ops::global_sum(&t[0])),
        ("add_relu", &|t| ops::add_relu(&t[0], &t[1])),
        ("relu", &|t| ops::relu(&t[0])),
        ("leaky_relu", &|t| ops::leaky_relu(&t[0], 0.2)),
        ("tanh", &|t| ops::tanh(&t[0])),
        ("attend", &|t| ops::attend(&t[0], &t[1], &t[2])),
        ("cross_entropy", &|t| ops::cross_entropy(&t[0], &[3, 0, 9, 9, 5])),
        ("linear", &|t| ops::linear(&t[0], &t[1], Some(&t[2]))),
    ];
    for (name, op) in &cases {
        check(&goldens, name, op)?;
    }
    // Every case of the file is tested.
    let written = goldens.keys().filter(|k| k.ends_with(".out")).count();
    assert_eq!(written, cases.len());
    Ok(())
}

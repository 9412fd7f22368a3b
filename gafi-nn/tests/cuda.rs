//! Compares optimisers and moving averages on a GPU with those on the CPU.
//!
//! Without a GPU the test prints that it is skipped, and passes. The kernels are also tested in an emulation on the CPU
//! (`gafi-kernels/src/cuda/tests.rs`).
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Result, Tensor};
use gafi_core::Stream;
use gafi_nn::{Adam, Ema, Init, Optimizer, Params, Sgdw};

/// The first GPU, or `None` with a note on stderr.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn gpu() -> Option<Device> {
    // `auto` selects the CPU when there is no GPU.
    let device = gafi_nn::device::select("auto").ok().filter(Device::is_cuda);
    if device.is_none() {
        eprintln!("skipped: no usable GPU");
    }
    device
}

fn values(t: &Tensor) -> Result<Vec<f64>> {
    t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// Panics unless |got - want| <= tolerance * |want|, as vectors.
fn assert_near(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) -> Result<()> {
    assert_eq!(got.dims(), want.dims(), "{what}: shape");
    let got = values(got)?;
    let want = values(want)?;
    let off = got.iter().zip(&want).map(|(g, w)| (g - w).powi(2)).sum::<f64>().sqrt();
    let size = want.iter().map(|w| w.powi(2)).sum::<f64>().sqrt();
    assert!(off <= tolerance * size.max(1e-3), "{what}: off by {off} of {size}");
    Ok(())
}

/// Parameters with the same values on every device.
fn params(device: &Device) -> gafi_nn::Result<Params> {
    let mut params = Params::new(device, Stream::new(5));
    for (i, size) in [1, 100, 2048, 5000].into_iter().cycle().take(60).enumerate() {
        params.root().sub(i).param("weight", size, Init::Normal { std: 1.0 })?;
    }
    params.root().buffer("mean", 7, Init::Ones)?;
    Ok(params)
}

#[test]
fn optimisers_and_averages() -> gafi_nn::Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let after = |device: &Device, adam: bool| -> gafi_nn::Result<Vec<Tensor>> {
        let params = params(device)?;
        let mut optimizer: Box<dyn Optimizer> = if adam {
            Box::new(Adam::new(&params, 0.5, 0.99, 1e-6)?)
        } else {
            Box::new(Sgdw::new(&params, 0.9, true, 1e-2)?)
        };
        let mut ema = Ema::new(&params, 0.9)?;
        for step in 0..3 {
            let mut loss = Tensor::zeros((), DType::F32, device)?;
            for (_, var) in params.vars() {
                loss = (loss + var.as_tensor().sqr()?.sum_all()?)?;
            }
            optimizer.step(&loss.backward()?, 0.05)?;
            ema.update(&params, step)?;
        }
        let states = [params.state()?, optimizer.state()?, ema.weights()?];
        Ok(states.into_iter().flat_map(|state| state.into_values()).collect())
    };
    for adam in [false, true] {
        for (got, want) in after(&gpu, adam)?.iter().zip(&after(&Device::Cpu, adam)?) {
            if want.dtype() == DType::F32 {
                assert_near("state", got, want, 1e-5)?;
            }
        }
    }
    Ok(())
}

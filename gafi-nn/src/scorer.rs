//! Scoring of images by a trained classifier.
//!
//! An image's score must not depend on its batch, bit for bit: otherwise a filter would accept other samples when its
//! batch size changes. On the CPU the convolutions guarantee that, and the last layer is computed here row by row in
//! f64, because a matrix product may use another kernel for another number of rows. On a GPU kernels are chosen by
//! shape, so every batch is padded to the same shape.

use candle_core::{DType, Device, Tensor};
use gafi_core::{Artifact, ClassifierInfo, Error, INFERENCE_BATCH, ImageSpec, Scored, Scorer};
use gafi_kernels::{DropGuard, to_host};

use crate::classifier::ClassifierNet;
use crate::error::Result;
use crate::layers::{Linear, Mode};
use crate::pixels;

/// A classifier in evaluation mode.
#[derive(Debug)]
pub struct ClassifierScorer {
    _guard: DropGuard,
    net: ClassifierNet,
    head: Head,
    image: ImageSpec,
    device: Device,
}

impl ClassifierScorer {
    /// A scorer of `net`. It copies the last layer, so later changes to that layer have no effect.
    pub fn new(net: ClassifierNet, image: ImageSpec, device: &Device) -> Result<Self> {
        let head = Head::new(net.head(), net.logit_scale())?;
        Ok(Self { _guard: DropGuard::new(device), net, head, image, device: device.clone() })
    }

    /// Opens a classifier artifact of one of the architectures [`ClassifierArchitecture::NAMES`](crate::ClassifierArchitecture::NAMES).
    ///
    /// # Errors
    /// [`Error::Format`] when the artifact is of another kind, or its weights are damaged, not finite or of another
    /// network.
    pub fn open(artifact: &Artifact, device: &Device) -> gafi_core::Result<Self> {
        let net = ClassifierNet::open(artifact, device)?;
        Ok(Self::new(net, ClassifierInfo::of(artifact)?.image, device)?)
    }

    /// Calls `each` with the features of each image.
    fn pass(&self, pixels: &[u8], mut each: impl FnMut(&Head, &[f32])) -> gafi_core::Result<()> {
        let bytes = self.image.bytes();
        if !pixels.len().is_multiple_of(bytes) {
            let expected = format!("whole images of {bytes} bytes ({})", self.image);
            return Err(Error::input("score", "pixels", expected, format!("{} bytes", pixels.len())));
        }
        for images in pixels.chunks(INFERENCE_BATCH * bytes) {
            self.chunk(images, &mut each)?;
        }
        Ok(())
    }

    fn chunk(&self, images: &[u8], each: &mut impl FnMut(&Head, &[f32])) -> Result<()> {
        let n = images.len() / self.image.bytes();
        let mut x = pixels::to_tensor(images, &self.image, &self.device)?;
        if !self.device.is_cpu() {
            x = x.pad_with_zeros(0, 0, INFERENCE_BATCH - n)?;
        }
        let features = self.net.features(&x, Mode::Eval)?;
        let features = to_host(&features)?.flatten_all()?.to_vec1::<f32>()?;
        for row in features.chunks_exact(self.head.inputs).take(n) {
            each(&self.head, row);
        }
        Ok(())
    }
}

impl Scorer for ClassifierScorer {
    fn image(&self) -> &ImageSpec {
        &self.image
    }

    fn classes(&self) -> usize {
        self.head.bias.len()
    }

    fn score(&mut self, pixels: &[u8]) -> gafi_core::Result<Vec<f32>> {
        let mut out = Vec::with_capacity(pixels.len() / self.image.bytes() * self.classes());
        self.pass(pixels, |head, features| head.probabilities(features, &mut out))?;
        Ok(out)
    }

    fn feature_dim(&self) -> Option<usize> {
        Some(self.head.inputs)
    }

    /// The features (N, 4 * width) are the inputs of the last layer.
    fn score_with_features(&mut self, pixels: &[u8]) -> gafi_core::Result<Scored> {
        let mut out = Scored::default();
        self.pass(pixels, |head, features| {
            head.probabilities(features, &mut out.probabilities);
            out.features.extend_from_slice(features);
        })?;
        Ok(out)
    }
}

/// The last layer, on the host and in f64, one row at a time.
#[derive(Debug)]
struct Head {
    inputs: usize,
    weight: Vec<f64>,
    bias: Vec<f64>,
}

impl Head {
    /// `scale` is a factor of the outputs.
    fn new(linear: &Linear, scale: f64) -> Result<Self> {
        let host = |t: &Tensor| -> Result<Vec<f64>> {
            Ok((to_host(t)?.to_dtype(DType::F64)?.flatten_all()? * scale)?.to_vec1()?)
        };
        let (outputs, inputs) = linear.weight.dims2()?;
        let bias = match &linear.bias {
            Some(bias) => host(&bias.as_detached_tensor())?,
            None => vec![0.0; outputs],
        };
        Ok(Self { inputs, weight: host(&linear.weight.as_detached_tensor())?, bias })
    }

    fn probabilities(&self, features: &[f32], out: &mut Vec<f32>) {
        let mut logits: Vec<f64> = self
            .weight
            .chunks_exact(self.inputs)
            .zip(&self.bias)
            .map(|(weights, bias)| weights.iter().zip(features).map(|(w, x)| w * f64::from(*x)).sum::<f64>() + bias)
            .collect();
        softmax(&mut logits);
        out.extend(logits.into_iter().map(|p| p as f32));
    }
}

/// Converts logits of one image, or logarithms of probabilities up to a common constant, to probabilities.
pub(crate) fn softmax(logits: &mut [f64]) {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logits.iter_mut().for_each(|logit| *logit = (*logit - top).exp());
    let sum: f64 = logits.iter().sum();
    logits.iter_mut().for_each(|p| *p /= sum);
}

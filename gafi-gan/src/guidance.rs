//! Guidance of the generator by a frozen classifier: for each class, the classifier's features of generated images are pulled
//! towards the mean and second moment of its features of real images.
//!
//! Matching such statistics class by class is known from generative moment matching (Li, Swersky and Zemel 2015, arXiv
//! 1502.02761) and from synthetic training sets (Yuan et al. 2023, arXiv 2310.10402); here it is one term beside the
//! discriminator's.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use gafi_core::{Context, Error, INFERENCE_BATCH, Rows, Stream, stream};
use gafi_kernels::to_host;
use gafi_nn::{ClassifierNet, pixels};
use serde::{Deserialize, Serialize};

/// The term in the generator's loss. A configuration that has one needs a classifier in port `teacher`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct GuidanceConfig {
    /// Weight of the moments, at least 0. The term is the squared difference between generated and real moments of an image's
    /// class, averaged over images and features, in units of the real images' standard deviation within classes.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub moments: f64,
    /// Weight of the classifier's cross-entropy for the class that an image was generated for, at least 0. It raises the
    /// share of samples that a filter keeps, and lowers their variety.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub cross_entropy: f64,
}

impl Default for GuidanceConfig {
    /// The moments alone, at the weight that was tried (docs/log/results.md).
    fn default() -> Self {
        Self { moments: 10.0, cross_entropy: 0.0 }
    }
}

impl GuidanceConfig {
    /// # Errors
    /// [`Error::Config`] naming the key, its value and the allowed values.
    pub(crate) fn check(&self) -> gafi_core::Result<()> {
        for (key, value) in [("guidance.moments", self.moments), ("guidance.cross_entropy", self.cross_entropy)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(key, value, "a finite number of at least 0"));
            }
        }
        if self.moments == 0.0 && self.cross_entropy == 0.0 {
            return Err(Error::config("guidance", "only zeros", "a weight above 0, or no guidance"));
        }
        Ok(())
    }
}

/// Maximum number of real images of a class whose moments are taken.
const REAL_PER_CLASS: usize = 1000;

/// Generated images of a class over which its moments are averaged: the weight of an image shrinks by a factor of 1 - 1/64 with
/// each later image of its class.
const WINDOW: f64 = 64.0;

/// A frozen classifier, with the moments of its features of real images and, so far, of generated ones.
#[derive(Debug)]
pub struct Guidance {
    config: GuidanceConfig,
    teacher: ClassifierNet,
    real: RealMoments,
    /// (classes, 2 F): means and second moments of the generated images.
    generated: Tensor,
}

/// Moments of the features of real images.
#[derive(Debug, Clone)]
pub struct RealMoments {
    /// (classes, 2 F): for each class the means of the features, then those of their squares.
    pub moments: Tensor,
    /// (2 F): 1 / standard deviation within classes.
    pub scale: Tensor,
}

/// Features whose standard deviation is smaller are treated as if it were this.
const MIN_STD: f64 = 1e-3;

impl RealMoments {
    /// The moments of `teacher`'s features of `data`, from at most 1,000 images of each class, drawn by `stream`.
    ///
    /// # Errors
    /// When images cannot be read, or a stop was requested.
    pub fn of(
        teacher: &ClassifierNet,
        data: &dyn Rows,
        stream: &Stream,
        device: &Device,
        cx: &Context,
    ) -> gafi_core::Result<Self> {
        let info = data.info();
        let classes = info.classes.len();
        let mut taken = vec![0; classes];
        let rows: Vec<usize> = stream::permutation(data.len(), stream)
            .into_iter()
            .filter(|&row| {
                let taken = &mut taken[data.label(row).0 as usize];
                *taken += 1;
                *taken <= REAL_PER_CLASS
            })
            .collect();
        // Sums over the images of each class: of the values, and of their squares.
        let mut sums: Vec<Vec<f64>> = Vec::new();
        let mut squares: Vec<Vec<f64>> = Vec::new();
        let mut buffer = Vec::new();
        for rows in rows.chunks(INFERENCE_BATCH) {
            cx.checkpoint()?;
            buffer.resize(rows.len() * info.image.bytes(), 0);
            data.read(rows, &mut buffer)?;
            let x = pixels::to_tensor(&buffer, &info.image, device)?;
            let features = with_squares(&teacher.stages(&x)?.means).map_err(gafi_nn::Error::from)?;
            let features = to_host(&features).and_then(|f| f.to_dtype(DType::F64)?.to_vec2::<f64>());
            for (&row, values) in rows.iter().zip(features.map_err(gafi_nn::Error::from)?) {
                let class = data.label(row).0 as usize;
                sums.resize(classes, vec![0.0; values.len()]);
                squares.resize(classes, vec![0.0; values.len()]);
                for ((sum, square), value) in sums[class].iter_mut().zip(&mut squares[class]).zip(values) {
                    *sum += value;
                    *square += value * value;
                }
            }
        }
        let counts: Vec<f64> = taken.iter().map(|&n| n.clamp(1, REAL_PER_CLASS) as f64).collect();
        let columns = sums.first().map_or(0, Vec::len);
        let variance = |column: usize| {
            let within = |class: usize| {
                let mean = sums[class][column] / counts[class];
                (squares[class][column] / counts[class] - mean * mean).max(0.0)
            };
            (0..classes).map(within).sum::<f64>() / classes.max(1) as f64
        };
        let scale: Vec<f32> = (0..columns).map(|column| (1.0 / variance(column).sqrt().max(MIN_STD)) as f32).collect();
        let means = sums.iter().zip(&counts).flat_map(|(sums, n)| sums.iter().map(move |sum| (sum / n) as f32));
        let tensor =
            |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, device).map_err(gafi_nn::Error::from);
        Ok(Self { moments: tensor(means.collect(), &[classes, columns])?, scale: tensor(scale, &[columns])? })
    }
}

/// The features and their squares, (N, 2 F).
fn with_squares(features: &Tensor) -> candle_core::Result<Tensor> {
    Tensor::cat(&[features, &features.sqr()?], 1)
}

impl Guidance {
    /// The moments of the generated images start at those of the real ones.
    pub fn new(config: GuidanceConfig, teacher: ClassifierNet, real: RealMoments) -> Self {
        Self { config, teacher, generated: real.moments.clone(), real }
    }

    /// The weighted loss, a scalar, of generated images x (N, C, H, W) in [-1, 1] with `labels` (N), u32. Gradients flow
    /// to x. Also updates the running moments.
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn loss(&mut self, x: &Tensor, labels: &Tensor) -> gafi_nn::Result<Tensor> {
        let seen = self.teacher.stages(x)?;
        let n = labels.dim(0)?;
        let mut loss = Tensor::zeros((), DType::F32, x.device())?;
        if self.config.moments > 0.0 {
            let values = with_squares(&seen.means)?;
            // (classes, N): 1 where the image is of the class.
            let classes = self.generated.dim(0)?;
            let all = Tensor::arange(0, classes as u32, x.device())?.reshape((classes, 1))?;
            let of_class = all.broadcast_eq(&labels.reshape((1, n))?)?.to_dtype(DType::F32)?;
            // If the batch has more images of a class than the window, they replace its moments entirely.
            let share = (of_class.sum_keepdim(1)? / WINDOW)?;
            let excess = share.maximum(1.0)?;
            let new = (of_class.matmul(&values)? / WINDOW)?.broadcast_div(&excess)?;
            let kept = self.generated.broadcast_mul(&(1.0 - share.broadcast_div(&excess)?)?)?;
            let moved = (kept + new)?;
            let off = (&moved - &self.real.moments)?.broadcast_mul(&self.real.scale)?.sqr()?.mean(1)?;
            let moments = off.index_select(labels, 0)?.mean_all()?;
            loss = (loss + (moments * self.config.moments)?)?;
            self.generated = moved.detach();
        }
        if self.config.cross_entropy > 0.0 {
            let right = seen.logits.gather(&labels.unsqueeze(1)?, 1)?.squeeze(1)?;
            let entropy = (seen.logits.log_sum_exp(1)? - right)?.mean_all()?;
            loss = (loss + (entropy * self.config.cross_entropy)?)?;
        }
        Ok(loss)
    }

    /// The running moments, to resume from.
    pub(crate) fn state(&self) -> BTreeMap<String, Tensor> {
        BTreeMap::from([(GENERATED.to_owned(), self.generated.clone())])
    }

    /// Restores a [`Guidance::state`].
    ///
    /// # Errors
    /// When it is of other classes or another classifier.
    pub(crate) fn load(&mut self, state: &BTreeMap<String, Tensor>) -> gafi_nn::Result<()> {
        let wrong = |found: String| gafi_nn::Error::State {
            what: "guidance".into(),
            name: GENERATED.into(),
            expected: format!("{:?}", self.real.moments.dims()),
            found,
        };
        let found = state.get(GENERATED).ok_or_else(|| wrong("nothing".into()))?;
        if found.dims() != self.real.moments.dims() {
            return Err(wrong(format!("{:?}", found.dims())));
        }
        self.generated = found.to_device(self.real.moments.device())?;
        Ok(())
    }
}

const GENERATED: &str = "moments";

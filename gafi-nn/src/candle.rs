//! Candle's interfaces: networks as modules, datasets as iterators of tensors and, with the feature `candle-nn`, parameters from a
//! `VarBuilder` and in a `VarMap`.

use candle_core::{Device, ModuleT, Tensor};
use gafi_core::Rows;

use crate::airbench::Airbench;
use crate::classifier::ClassifierNet;
use crate::error::Error;
use crate::layers::Mode;
use crate::pixels;
use crate::resnet::ResNet;

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Tensor(error) => error,
            error => Self::wrap(error),
        }
    }
}

/// Maps images (N, C, H, W) in [-1, 1] to logits (N, classes). With `train`, batch norms use the batch and update their running
/// statistics, and the parameters get gradients.
impl ModuleT for ClassifierNet {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        Ok(self.forward(xs, if train { Mode::Train } else { Mode::Eval })?)
    }
}

/// As [`ClassifierNet`].
impl ModuleT for ResNet {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        ClassifierNet::ResNet(self.clone()).forward_t(xs, train)
    }
}

/// As [`ClassifierNet`].
impl ModuleT for Airbench {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        ClassifierNet::Airbench(self.clone()).forward_t(xs, train)
    }
}

/// Rows of a dataset as pairs of tensors: the image (C, H, W), f32 in [-1, 1], and the label, a u32 scalar.
///
/// `candle_datasets::Batcher::new_r2` stacks them to batches (N, C, H, W) and (N). A row that cannot be read is an error, and
/// the next rows follow.
///
/// ```
/// use candle_core::Device;
/// use gafi_core::{ClassId, ImageSpec, MemoryDataset, Split};
/// use gafi_nn::TensorRows;
///
/// let mut data = MemoryDataset::new(ImageSpec::new(1, 2, 2), vec!["dark".into(), "light".into()], Split::Train);
/// data.push(&[0, 0, 0, 255], ClassId(1));
/// let (image, label) = TensorRows::new(&data, vec![0], &Device::Cpu).next().unwrap()?;
/// assert_eq!(image.to_vec3::<f32>()?, [[[-1.0, -1.0], [-1.0, 1.0]]]);
/// assert_eq!(label.to_scalar::<u32>()?, 1);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct TensorRows<R> {
    rows: R,
    order: std::vec::IntoIter<usize>,
    device: Device,
}

impl<R: Rows> TensorRows<R> {
    /// The rows `order` of `rows`, such as a [`permutation`](gafi_core::stream::permutation) of all of them.
    ///
    /// # Panics
    /// While iterating, if a row is out of range.
    pub fn new(rows: R, order: Vec<usize>, device: &Device) -> Self {
        Self { rows, order: order.into_iter(), device: device.clone() }
    }
}

impl<R: Rows> Iterator for TensorRows<R> {
    type Item = candle_core::Result<(Tensor, Tensor)>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.order.next()?;
        let image = self.rows.info().image;
        let mut bytes = vec![0; image.bytes()];
        Some((|| {
            self.rows.read(&[row], &mut bytes).map_err(candle_core::Error::wrap)?;
            let pixels = pixels::to_tensor(&bytes, &image, &self.device)?.squeeze(0)?;
            Ok((pixels, Tensor::new(self.rows.label(row).0, &self.device)?))
        })())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.order.size_hint()
    }
}

#[cfg(feature = "candle-nn")]
mod with_candle_nn {
    use candle_nn::{VarBuilder, VarMap};
    use gafi_core::{ImageSpec, Stream};

    use crate::classifier::{ClassifierArchitecture, ClassifierNet};
    use crate::error::Result;
    use crate::params::Params;

    impl Params {
        /// Sets all parameters and buffers from `builder`, by name.
        ///
        /// # Errors
        /// When one is missing or has another shape. Earlier ones have been set then.
        pub fn load_from(&self, builder: &VarBuilder<'_>) -> Result<()> {
            for (name, var) in self.vars().chain(self.buffers()) {
                var.set(&builder.get_with_hints_dtype(var.shape(), name, Default::default(), var.dtype())?)?;
            }
            Ok(())
        }

        /// All parameters and buffers, by name. They share their storage, so an optimiser of `candle-nn` trains the network and
        /// [`VarMap::save`] saves it. Buffers get no gradient, so optimisers leave them as they are.
        pub fn var_map(&self) -> VarMap {
            let map = VarMap::new();
            let all = self.vars().chain(self.buffers()).map(|(name, var)| (name.to_owned(), var.clone()));
            // Only a thread that panicked while it held the new lock could have poisoned it.
            map.data().lock().unwrap().extend(all);
            map
        }
    }

    impl ClassifierNet {
        /// A network with the weights that `builder` has, such as those of `weights.safetensors` in a classifier artifact.
        ///
        /// # Errors
        /// When the architecture is out of range for the images, or a tensor is missing or has another shape.
        pub fn load(
            architecture: &ClassifierArchitecture,
            image: &ImageSpec,
            classes: usize,
            builder: &VarBuilder<'_>,
        ) -> Result<Self> {
            // Every value is replaced, so the seed does not matter.
            let mut params = Params::new(builder.device(), Stream::new(0));
            let net = Self::new(&mut params.root(), architecture, image, classes)?;
            params.load_from(builder)?;
            Ok(net)
        }
    }
}

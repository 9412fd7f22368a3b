//! Neural networks of GaFi on Candle: fused ops, layers, ResNet, optimisers, the classifier's training.

pub mod checkpoint;
mod ema;
mod error;
pub mod layers;
pub mod ops;
mod optim;
mod params;
pub mod pixels;

pub use ema::{Ema, EmaConfig};
pub use error::{Error, Result};
pub use layers::Mode;
pub use optim::{Adam, Optimizer, Sgdw};
pub use params::{Init, Params, Scope};

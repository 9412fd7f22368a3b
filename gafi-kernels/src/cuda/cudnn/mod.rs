//! Convolutions by cuDNN, with channels-last descriptors, deterministic and accumulating in f32.

mod api;
mod graph;
#[cfg(feature = "cuda")]
mod handle;
#[cfg(feature = "cuda")]
mod legacy;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(super) use handle::Handle;

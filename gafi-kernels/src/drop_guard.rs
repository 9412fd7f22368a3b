//! Freeing the memory of a GPU in any thread.

use candle_core::Device;

/// Makes the GPU of a device current in the thread that drops this.
///
/// Freeing a tensor's memory needs the GPU's context, which a thread that has not used the GPU lacks. A type that holds tensors and
/// may be dropped in another thread declares this as its first field: fields are dropped in order.
#[derive(Debug, Clone)]
pub struct DropGuard(Device);

impl DropGuard {
    /// A guard for tensors on `device`.
    pub fn new(device: &Device) -> Self {
        Self(device.clone())
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        match &self.0 {
            // An error here could not be returned; the next use of the GPU meets it again.
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => drop(crate::cuda::bind(cuda)),
            _ => {}
        }
    }
}

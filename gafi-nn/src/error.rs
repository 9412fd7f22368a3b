//! Errors of this crate. Errors of the core pass through unchanged; the others name the tensor, what was expected and
//! what was found.

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the neural networks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// From the core: files, configuration, interruption.
    #[error(transparent)]
    Core(#[from] gafi_core::Error),
    /// From Candle or a kernel: shapes, memory, the device.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A state does not match the network, optimiser or average that loads it.
    #[error("{what}: {name}: expected {expected}, found {found}")]
    State {
        /// What was being loaded, such as "parameters" or "optimiser".
        what: String,
        /// The tensor.
        name: String,
        /// Its expected type and shape, or "nothing".
        expected: String,
        /// The type and shape found, or "nothing".
        found: String,
    },
    /// The bytes are not a safetensors file.
    #[error("checkpoint: expected safetensors, found {found}")]
    Checkpoint {
        /// The fault.
        found: String,
    },
    /// Two parameters or buffers have the same name.
    #[error("parameter {name} already exists; two layers share a scope")]
    Duplicate {
        /// The full name.
        name: String,
    },
    /// An input of the wrong size or type.
    #[error("{what}: expected {expected}, found {found}")]
    Input {
        /// The input.
        what: &'static str,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A tensor holds a NaN or an infinity.
    #[error("{what} holds a value that is not finite")]
    NonFinite {
        /// The tensor.
        what: String,
    },
}

impl From<Error> for gafi_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Core(error) => error,
            error => Self::Other { context: "the network failed".into(), source: Box::new(error) },
        }
    }
}

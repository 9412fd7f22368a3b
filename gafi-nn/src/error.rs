//! What can go wrong in a network: the core's errors pass through unchanged, everything else says which tensor, what was
//! expected and what was found.

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the neural networks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// From the core: files, configuration, interruption.
    #[error(transparent)]
    Core(#[from] gafi_core::Error),
    /// From Candle, or from an op of this crate: shapes, memory, the device.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A state does not fit the network, optimiser or average that it is loaded into.
    #[error("{what}: {name}: expected {expected}, found {found}")]
    State {
        /// What was being loaded: "parameters", "optimiser".
        what: String,
        /// The tensor.
        name: String,
        /// Its shape and type, or "nothing".
        expected: String,
        /// What is there.
        found: String,
    },
    /// Bytes that should be safetensors are not.
    #[error("checkpoint: expected safetensors, found {found}")]
    Checkpoint {
        /// Why they are not.
        found: String,
    },
    /// Two layers ask for the same name.
    #[error("parameter {name} is there already; two layers share a scope")]
    Duplicate {
        /// The full name.
        name: String,
    },
    /// Input that has the wrong size.
    #[error("{what}: expected {expected}, found {found}")]
    Input {
        /// What was passed.
        what: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A value that left the finite numbers.
    #[error("{what} holds a value that is not finite")]
    NonFinite {
        /// Which tensor.
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

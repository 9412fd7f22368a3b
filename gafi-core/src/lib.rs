//! The ground that GaFi stands on. (map below)
mod error;
mod spec;
pub mod stream;

pub use error::{Error, Result};
pub use spec::{ClassId, ImageSpec, Split};
pub use stream::{Stream, StreamRng};
